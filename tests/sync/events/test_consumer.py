"""However many messages wait, and however large they are, so much is held and no more; and
messages that are doubled, shuffled, late and lost end at the truth."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import pytest
from support.events import message

from mimicfs.entry import Entry
from mimicfs.posix import Cancellation
from mimicfs.s3.mimicking.reads import VERSIONS
from mimicfs.sync.events import consumer as consuming
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.hearing import Heard, Hearing
from mimicfs.sync.events.messages import parse
from mimicfs.sync.events.source import Delivery, EventSource
from mimicfs.sync.sweep import Sweep


class Source(EventSource):
    """Delivers what it is given, ten at a time."""

    name = "test"

    def __init__(self, bodies):
        self.bodies: Iterator[str] = iter(bodies)
        self.acknowledged = 0

    def receive(self, wait_s):
        return [Delivery(body, None) for body in islice(self.bodies, 10)]

    def acknowledge(self, deliveries):
        self.acknowledged += len(deliveries)


class Nobody:
    def hear(self, told, _cancellation):
        return Heard(unknown=len(told))


def test_of_a_million_messages_a_thousand_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(consuming, "_GATHER_S", 60.0)
    consumer = Consumer(Source(message("b", f"{n}") for n in range(10**6)), Nobody(), tmp_path)
    found, until_ns = consumer.received(0)
    assert (len(found), until_ns) == (1000, 0)


def test_of_large_messages_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(consuming, "_GATHER_S", 60.0)
    consumer = Consumer(Source("x" * (1 << 20) for _ in range(10**6)), Nobody(), tmp_path)
    assert len(consumer.received(0)[0]) == 10


def test_messages_wait_for_others_for_a_moment_only(tmp_path, monkeypatch):
    monkeypatch.setattr(consuming, "_GATHER_S", 0.0)
    consumer = Consumer(Source(message("b", f"{n}") for n in range(10**6)), Nobody(), tmp_path)
    assert len(consumer.received(0)[0]) == 10


def test_many_that_nobody_can_read_are_one_line_in_the_log(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(consuming, "_GATHER_S", 60.0)
    source = Source(["<hostile/>"] * 50)
    consumer = Consumer(source, Nobody(), tmp_path / "aside")
    consumer.consume(consumer.received(0)[0])
    assert source.acknowledged == 50
    assert len((tmp_path / "aside").read_text().splitlines()) == 50
    assert [line.getMessage().partition(" written")[0] for line in caplog.records] == [
        "test: 50 messages"
    ]


class Odd(Source):
    """Fails as nobody foresaw, once; ends its consumer when it is asked again."""

    consumer: Consumer
    asked = 0

    def receive(self, wait_s):
        self.asked += 1
        if self.asked == 1:
            raise OverflowError("int too large")
        self.consumer.close()
        return []


def test_an_error_that_nobody_foresaw_does_not_end_the_consumer(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(consuming, "backoff_s", lambda _: 0.0)
    source = Odd(())
    source.consumer = Consumer(source, Nobody(), tmp_path / "aside")
    source.consumer.run()
    assert source.asked == 2
    assert "OverflowError('int too large')" in caplog.text


HOSTILE = ["../../etc/passwd", "..", ".", "d/../e", "a\0b", "a\nb", "/", "//", "d//x", "\x1b[2J"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_no_message_about_a_strange_key_leads_elsewhere(
    mimicdb, s3, syncer, client, bucket, tmp_path, caplog
):
    """Each key is asked for as it is, and nothing of another one is learned. The web server of moto
    has no place for a key with a line feed, and says 404 itself: that holds up no other message."""
    client.create_bucket(Bucket=f"{bucket}-other")
    client.put_object(Bucket=f"{bucket}-other", Key="secret", Body=b"1")
    client.put_object(Bucket=bucket, Key="e", Body=b"1")
    syncer.sync(bucket)
    source = Source(message(bucket, key) for key in [*HOSTILE, f"../{bucket}-other/secret"])
    consumer = Consumer(source, Hearing(mimicdb, s3, syncer), tmp_path / "aside")
    while deliveries := consumer.received(0)[0]:
        consumer.consume(deliveries)
    assert [entry.key for entry in mimicdb.backend.scan(bucket, "", "", 100)] == ["e"]
    assert [it.name for it in mimicdb.backend.buckets()] == [bucket]
    where = f"s3://{bucket}/a\nb"
    reason = f"{where}: 404, but the answer is not from S3; check --endpoint-url"
    assert caplog.messages == [f"{where} changed, but S3 does not answer about it: {reason}"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_lie_about_a_deep_key_costs_one_request(mimicdb, s3, syncer, client, bucket):
    """And that the last key of a deep tree is gone, one LIST more: of what is shown of it."""
    client.put_object(Bucket=bucket, Key="shown/a/b/c", Body=b"1")
    syncer.list_directory(bucket, "", Cancellation())
    hearing = Hearing(mimicdb, s3, syncer)

    def requests_of(key, event):
        before = sum(s3.figures()["requests"].values())
        hearing.hear(parse(message(bucket, key, event)).told)
        return sum(s3.figures()["requests"].values()) - before

    assert requests_of("x/" * 500 + "x", "ObjectCreated:Put") == 1
    assert requests_of("shown/" + "x/" * 500 + "x", "ObjectRemoved:Delete") == 2
    client.delete_object(Bucket=bucket, Key="shown/a/b/c")
    assert requests_of("shown/a/b/c", "ObjectRemoved:Delete") == 2
    assert mimicdb.lookup(bucket, "", "shown") == (None, None)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_is_heard_was_found_in_s3_however_often_it_is_asked_about(
    mimicdb, s3, syncer, client, bucket
):
    """`mimicfs watch` says by whom a change is, by the lines of the log."""
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    syncer.sync(bucket)  # which shows no metadata
    hearing, since = Hearing(mimicdb, s3, syncer), mimicdb.seq(bucket)
    assert hearing.hear(parse(message(bucket, "a")).told).heads == 1
    assert [line.origin & 1 for line in mimicdb.backend.changes(bucket, since)] == [1]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("ours", [True, False])
def test_a_read_from_before_a_deletion_does_not_bring_back_what_the_mirror_never_had(
    mimicdb, s3, syncer, bucket, ours
):
    """Our own deletions are in the log already."""
    syncer.sync(bucket)
    since = mimicdb.seq(bucket)
    if ours:
        mimicdb.forget(bucket, "a")
    before = mimicdb.seq(bucket)
    hearing = Hearing(mimicdb, s3, syncer)
    assert hearing.hear(parse(message(bucket, "a", "ObjectRemoved:Delete")).told).echoes == 1
    assert [line.origin & 1 for line in mimicdb.backend.changes(bucket, before)] == [1][ours:]
    mimicdb.repair(bucket, "a", Entry("a", 1), since)
    assert mimicdb.entry(bucket, "a") is None


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize(("version", "noted"), [("v1", "seen"), ("null", None), ("", None)])
def test_a_message_of_a_version_says_that_its_bucket_has_some(
    mimicdb, s3, syncer, bucket, version, noted
):
    syncer.sync(bucket)
    marker = message(bucket, "a", "ObjectRemoved:DeleteMarkerCreated", versionId=version)
    Hearing(mimicdb, s3, syncer).hear(parse(marker).told)
    assert mimicdb.note(bucket, VERSIONS) == noted


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("overtakes", [True, False])
def test_an_answer_from_before_other_tags_is_not_remembered(
    mimicdb, s3, syncer, client, bucket, monkeypatch, overtakes
):
    """It comes while their message is heard, or later."""
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    syncer.sync(bucket)
    entry = mimicdb.entry(bucket, "a")._replace(meta={})
    answer = entry._replace(head=f'[{{}},{{}},{{"LastModified":{entry.mtime_ns // 10**9}.0}}]')
    mimicdb.record(bucket, answer if overtakes else entry)
    record, since = mimicdb.record, mimicdb.seq(bucket)

    def overtaken(*args):
        monkeypatch.setattr(mimicdb, "record", record)
        record(bucket, answer)
        record(*args)

    if overtakes:
        monkeypatch.setattr(mimicdb, "record", overtaken)
    tagged = parse(message(bucket, "a", "ObjectTagging:Put")).told
    assert Hearing(mimicdb, s3, syncer).hear(tagged).heads == 1
    mimicdb.record(bucket, answer, since)
    assert mimicdb.entry(bucket, "a").head is None


def everything(mimicdb, bucket):
    found = mimicdb.backend.scan(bucket, "", "", 10_000)
    return {entry.key: (entry.size, entry.etag) for entry in found}


def truth(client, bucket):
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {each["Key"]: (each["Size"], each["ETag"].strip('"')) for each in listed}


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("lost", [0.0, 0.1])
def test_messages_doubled_shuffled_late_and_lost_end_at_the_truth(
    mimicdb, s3, syncer, client, bucket, tmp_path, pytestconfig, caplog, lost
):
    """A tenth is lost: then one sweep makes it true; none is: then nothing else is needed."""
    chance = random.Random(7)
    client.put_object(Bucket=bucket, Key="source", Body=b"same")
    syncer.sync(bucket)
    consumer = Consumer(Source(()), Hearing(mimicdb, s3, syncer), tmp_path / "aside")
    keys, waiting = [f"{d}{n}" for d in ("", "d/", "d/e/") for n in range(4)], []
    for number in range(pytestconfig.getoption("messages")):
        key = chance.choice(keys)
        said = changed(chance, client, bucket, key, keys)
        if chance.random() < 0.2:  # through the mirror, and S3 tells of it, too
            s3.put(bucket, key, b"own %d" % number, 1)
        waiting += [Delivery(said, None)] * chance.choice((1, 1, 2))
        waiting = [each for each in waiting if chance.random() >= lost]
        chance.shuffle(waiting)
        some, waiting = waiting[:3], waiting[3:]
        consumer.consume(some)
    consumer.consume(waiting)
    if lost:
        assert everything(mimicdb, bucket) != truth(client, bucket)
        sweep = Sweep(mimicdb, syncer, lambda: [bucket], 1e9)
        sweep.suspect(bucket, "messages are lost")
        while due := sweep.due():
            sweep._list(due)
    assert everything(mimicdb, bucket) == truth(client, bucket)


def changed(chance, client, bucket, key, keys):
    """Change *key* in S3; return what S3 tells of it."""
    kind = chance.choice(("Put", "Put", "Delete", "Copy"))
    if kind == "Delete":
        client.delete_object(Bucket=bucket, Key=key)
        return message(bucket, key, "ObjectRemoved:Delete", sequencer=f"{chance.random()}")
    if kind == "Copy":
        source = {"Bucket": bucket, "Key": "source"}
        made = client.copy_object(Bucket=bucket, Key=key, CopySource=source)["CopyObjectResult"]
    else:
        made = client.put_object(Bucket=bucket, Key=key, Body=b"x" * chance.randrange(9))
    etag = made["ETag"].strip('"')
    return message(bucket, key, f"ObjectCreated:{kind}", eTag=etag, sequencer=f"{chance.random()}")
