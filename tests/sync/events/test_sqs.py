"""The messages that moto's S3 puts into moto's SQS make the mirror true, at the stated number of
requests."""

from __future__ import annotations

import json
import stat
import threading
import time

import pytest
from support.clients import plain

from mimicfs.errors import Interrupted, S3Unavailable
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.queue import QueueMessage
from mimicfs.sync import heads
from mimicfs.sync.events import hearing
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.hearing import Heard, Hearing
from mimicfs.sync.events.source import Delivery
from mimicfs.sync.events.sqs import SQS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def consumer(s3, mimicdb, syncer, url, tmp_path):
    consumer = Consumer(SQS(s3.queue(url)), Hearing(mimicdb, s3, syncer), tmp_path / "aside")
    yield consumer
    consumer.close()


@pytest.fixture
def hear(consumer):
    """Consume all that has come; return what became of it."""

    def hear():
        before = Heard(*(consumer.figures()[name] for name in Heard._fields))
        while deliveries := consumer.received(0)[0]:
            consumer.consume(deliveries)
        after = Heard(*(consumer.figures()[name] for name in Heard._fields))
        return Heard(*(new - old for new, old in zip(after, before, strict=True)))

    return hear


def names(mimicdb, bucket, directory=""):
    return [entry.key for entry in mimicdb.children(bucket, directory)]


def test_a_message_that_came_after_the_question_is_not_among_what_was_given(s3, url, monkeypatch):
    """The answer is on its way, or this process is suspended, while another message comes."""
    source = SQS(s3.queue(url))
    received = source._received

    def late(wait_s):
        found = received(wait_s)
        late.came_ns = time.time_ns()
        return found

    monkeypatch.setattr(source, "_received", late)
    source.receive(0)
    assert source.given_until_ns() < late.came_ns


def test_what_a_queue_holds_back_from_everybody_is_not_given(s3, server, url):
    plain(server, "sqs").set_queue_attributes(QueueUrl=url, Attributes={"DelaySeconds": "300"})
    source = SQS(s3.queue(url))
    asked_ns = time.time_ns()
    source.receive(0)
    assert 299e9 < asked_ns - source.given_until_ns() < 300e9


def test_a_new_object_costs_one_head_and_is_there(client, bucket, mimicdb, syncer, proxy, hear):
    syncer.sync(bucket)
    client.put_object(Bucket=bucket, Key="d/50% a+b", Body=b"one", Metadata={"mode": "33261"})
    proxy.counted()
    assert hear() == Heard(heads=1)
    assert proxy.counted() == {"HEAD": 1}
    entry = mimicdb.entry(bucket, "d/50% a+b")
    assert (entry.size, entry.meta) == (3, {"mode": "33261"})


def test_a_deletion_and_a_copy_and_a_multipart_upload(client, bucket, mimicdb, syncer, hear):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    syncer.sync(bucket)
    hear()
    client.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"})
    client.delete_object(Bucket=bucket, Key="a")
    upload = client.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=1, Body=b"x" * 9)
    client.complete_multipart_upload(
        Bucket=bucket,
        Key="m",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    assert hear() == Heard(heads=3)
    assert names(mimicdb, bucket) == ["b", "m"]
    assert mimicdb.entry(bucket, "m").size == 9


def test_our_own_changes_cost_nothing(s3, bucket, mimicdb, syncer, proxy, hear):
    s3.put(bucket, "b", b"2", 1)
    syncer.sync(bucket)
    hear()
    s3.put(bucket, "a", b"1", 1)
    s3.copy((bucket, mimicdb.entry(bucket, "a")), bucket, "c")
    s3.delete(bucket, "b")
    proxy.counted()
    assert hear() == Heard(echoes=3)
    assert proxy.counted() == {}


def test_another_mode_at_the_same_etag_is_heard(client, bucket, mimicdb, syncer, hear):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    syncer.sync(bucket)
    hear()
    entry = mimicdb.entry(bucket, "a")
    mimicdb.record(bucket, entry._replace(mtime_ns=entry.mtime_ns - 60_000_000_000))
    client.copy_object(
        Bucket=bucket,
        Key="a",
        CopySource={"Bucket": bucket, "Key": "a"},
        Metadata={"mode": "33152"},
        MetadataDirective="REPLACE",
    )
    assert hear() == Heard(heads=1)
    assert mimicdb.entry(bucket, "a").meta == {"mode": "33152"}


def test_another_mode_of_what_was_written_here_a_moment_ago_is_heard(
    client, bucket, s3, mimicdb, syncer, hear
):
    syncer.sync(bucket)
    s3.put(bucket, "a", b"1", 1)
    assert hear() == Heard(echoes=1)
    copy = {"Bucket": bucket, "Key": "a"}
    mode = {"Metadata": {"mode": "33152"}, "MetadataDirective": "REPLACE"}
    client.copy_object(Bucket=bucket, Key="a", CopySource=copy, **mode)
    assert hear() == Heard(heads=1)
    assert mimicdb.entry(bucket, "a").meta == {"mode": "33152"}


def set_mode(client, bucket, key):
    """As a program does that sets the mode after the upload."""
    copy = {"Bucket": bucket, "Key": key}
    mode = {"Metadata": {"mode": "33152"}, "MetadataDirective": "REPLACE"}
    client.copy_object(Bucket=bucket, Key=key, CopySource=copy, **mode)


def looked_at(mimicdb, s3, syncer, bucket, key):
    """As a visit and a stat do."""
    syncer.list_directory(bucket, "", Cancellation())
    s3.call("head_object", bucket, key)


def test_another_mode_of_what_was_not_looked_at_when_it_came_is_heard(
    client, bucket, s3, mimicdb, syncer, hear
):
    """The message about the upload was heard before the visit, which found what it told of."""
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    assert hear().unknown == 1
    looked_at(mimicdb, s3, syncer, bucket, "a")
    set_mode(client, bucket, "a")
    assert hear() == Heard(heads=1)
    assert mimicdb.entry(bucket, "a").meta == {"mode": "33152"}


def test_another_mode_is_heard_by_the_consumer_that_follows_another(
    client, bucket, s3, mimicdb, syncer, hear, consumer
):
    """The message about the upload was the former one's."""
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    looked_at(mimicdb, s3, syncer, bucket, "a")
    assert hear().echoes == 1
    consumer._hearing.succeed()
    set_mode(client, bucket, "a")
    assert hear() == Heard(heads=1)
    assert mimicdb.entry(bucket, "a").meta == {"mode": "33152"}


def test_another_mode_is_heard_where_the_message_of_the_upload_is_not_remembered(
    client, bucket, s3, mimicdb, syncer, hear, monkeypatch
):
    monkeypatch.setattr(hearing, "_REMEMBERED_MAX", 1)
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    looked_at(mimicdb, s3, syncer, bucket, "a")
    client.put_object(Bucket=bucket, Key="b", Body=b"1")
    assert hear() == Heard(echoes=1, heads=1)
    set_mode(client, bucket, "a")
    assert hear() == Heard(heads=1)
    assert mimicdb.entry(bucket, "a").meta == {"mode": "33152"}


def test_no_sequencer_keeps_a_later_record_from_being_heard(
    client, bucket, mimicdb, syncer, server, url, hear
):
    """Ceph's have no order; and whoever may write to the queue may write the highest one."""
    syncer.sync(bucket)
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    hear()
    said(server, url, bucket, "a", "ObjectCreated:Put", sequencer="F" * 64, eTag="0" * 32)
    hear()
    client.put_object(Bucket=bucket, Key="a", Body=b"22")
    said(server, url, bucket, "a", "ObjectCreated:Put", sequencer="01", eTag="0" * 32)
    hear()
    assert mimicdb.entry(bucket, "a").size == 2


def test_many_modes_of_one_directory_are_asked_for_at_the_next_look(
    client, bucket, mimicdb, syncer, server, url, hear
):
    for number in range(20):
        client.put_object(Bucket=bucket, Key=f"{number:02}", Body=b"1")
    syncer.sync(bucket)
    mimicdb.record_all(bucket, [it._replace(meta={}) for it in mimicdb.children(bucket, "")])
    hear()
    for number in range(20):
        said(server, url, bucket, f"{number:02}", "ObjectTagging:Put")
    assert hear() == Heard(lists=1)
    assert {it.meta for it in mimicdb.children(bucket, "")} == {None}


def test_what_nobody_has_looked_at_costs_nothing(client, bucket, mimicdb, syncer, proxy, hear):
    client.put_object(Bucket=bucket, Key="d/e/a", Body=b"1")
    syncer.list_directory(bucket, "")
    hear()
    proxy.counted()
    client.put_object(Bucket=bucket, Key="d/e/b", Body=b"1")
    assert hear() == Heard(unknown=1)
    assert proxy.counted() == {}


def test_a_directory_that_appears_or_empties_below_a_listed_one_is_seen(
    client, bucket, mimicdb, syncer, hear
):
    client.put_object(Bucket=bucket, Key="d/e/a", Body=b"1")
    syncer.list_directory(bucket, "")
    hear()
    client.put_object(Bucket=bucket, Key="new/x/a", Body=b"1")
    client.delete_object(Bucket=bucket, Key="d/e/a")
    hear()
    assert names(mimicdb, bucket) == ["new/"]


@pytest.mark.parametrize("known", ["listed", "whole", "listed again"])
def test_directories_go_with_the_last_key_that_others_delete(
    client, bucket, s3, mimicdb, syncer, proxy, hear, known
):
    """Whichever way they are known: S3 showed them above, and what is in them was listed, too."""
    client.put_object(Bucket=bucket, Key="d/e/a", Body=b"1")
    for directory in ("", "d/", "d/e/"):
        syncer.list_directory(bucket, directory)
    if known == "whole":
        syncer.sync(bucket)
        heads.learn(mimicdb, s3, bucket, ["d/", "d/e/"], Cancellation())  # at a first look
    hear()
    client.delete_object(Bucket=bucket, Key="d/e/a")
    if known == "listed again":
        syncer.list_directory(bucket, "d/e/")
    assert names(mimicdb, bucket) == ["d/"]
    proxy.counted()
    assert hear() == Heard(heads=1)
    assert proxy.counted() == {"HEAD": 1}
    assert names(mimicdb, bucket) == []


@pytest.mark.parametrize("asked", [False, True])
def test_a_directory_without_its_marker_is_shown_as_long_as_it_has_keys(
    client, bucket, s3, mimicdb, syncer, hear, asked
):
    """Hadoop deletes the marker when the first key is there. *asked*: a first look has found it."""
    client.put_object(Bucket=bucket, Key="d/", Body=b"")
    hear()
    syncer.list_directory(bucket, "")
    if asked:
        heads.learn(mimicdb, s3, bucket, ["d/"], Cancellation())
    client.put_object(Bucket=bucket, Key="d/a", Body=b"1")
    client.delete_object(Bucket=bucket, Key="d/")
    hear()
    assert names(mimicdb, bucket) == ["d/"]
    client.delete_object(Bucket=bucket, Key="d/a")
    hear()
    assert names(mimicdb, bucket) == []


def test_a_directory_that_was_a_marker_only_goes_with_it(client, bucket, mimicdb, syncer, hear):
    client.put_object(Bucket=bucket, Key="d/", Body=b"")
    hear()
    syncer.list_directory(bucket, "")
    client.delete_object(Bucket=bucket, Key="d/")
    hear()
    assert names(mimicdb, bucket) == []


def test_a_directory_goes_when_a_listing_finds_its_many_keys_deleted(
    client, bucket, mimicdb, syncer, proxy, hear
):
    for number in range(20):
        client.put_object(Bucket=bucket, Key=f"d/{number:02}", Body=b"1")
    for directory in ("", "d/"):
        syncer.list_directory(bucket, directory)
    hear()
    for number in range(20):
        client.delete_object(Bucket=bucket, Key=f"d/{number:02}")
    proxy.counted()
    assert hear() == Heard(lists=1)
    assert proxy.counted() == {"LIST": 1}
    assert names(mimicdb, bucket) == []


def test_many_keys_of_one_directory_are_one_listing(client, bucket, mimicdb, syncer, proxy, hear):
    syncer.sync(bucket)
    for number in range(40):
        client.put_object(Bucket=bucket, Key=f"d/{number:02}", Body=b"1")
    proxy.counted()
    assert hear() == Heard(lists=1)
    assert proxy.counted() == {"LIST": 1}
    assert len(names(mimicdb, bucket, "d/")) == 40


def test_the_deletion_of_a_version_is_asked_for(client, bucket, server, url, mimicdb, syncer, hear):
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    second = client.put_object(Bucket=bucket, Key="a", Body=b"22")["VersionId"]
    client.put_object(Bucket=bucket, Key="b", Body=b"333")
    marker = client.delete_object(Bucket=bucket, Key="b")["VersionId"]
    syncer.sync(bucket)
    hear()
    assert names(mimicdb, bucket) == ["a"]
    for key, version in (("a", second), ("b", marker)):
        client.delete_object(Bucket=bucket, Key=key, VersionId=version)
        said(server, url, bucket, key, versionId=version)  # moto itself says nothing of these
    assert hear() == Heard(heads=2)
    assert [entry.size for entry in mimicdb.children(bucket, "")] == [1, 3]


def said(server, url, bucket, key, name="ObjectRemoved:Delete", **object_):
    """Put the message into the queue that S3 would."""
    about = {"bucket": {"name": bucket}, "object": {"key": key, **object_}}
    record = {"eventSource": "aws:s3", "eventName": name, "s3": about}
    body = json.dumps({"Records": [record]})
    plain(server, "sqs").send_message(QueueUrl=url, MessageBody=body)


def test_a_message_is_acknowledged_after_it_was_applied(
    client, bucket, s3, mimicdb, syncer, consumer, monkeypatch
):
    syncer.sync(bucket)
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    done, source = [], consumer._source
    monkeypatch.setattr(source, "acknowledge", done.extend)
    monkeypatch.setattr(source, "retry", lambda _: None)
    deliveries = [each for each in source.receive(0) if "Records" in each.body]

    def unreachable(*_):
        raise S3Unavailable("no answer")

    with monkeypatch.context() as away:
        away.setattr(s3, "call", unreachable)
        with pytest.raises(S3Unavailable):
            consumer.consume(deliveries)
    assert done == []
    consumer.consume(deliveries)
    assert (done, names(mimicdb, bucket)) == (deliveries, ["a"])


def test_a_message_that_nobody_can_read_is_put_aside_with_the_reason(
    s3, server, url, consumer, hear, tmp_path, caplog
):
    plain(server, "sqs").send_message(QueueUrl=url, MessageBody="<hostile/>")
    hear()
    aside = tmp_path / "aside"
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    line = json.loads(aside.read_text())
    assert "1 message written to" in caplog.text
    assert (line["why"], line["message"]) == (["not JSON"], "<hostile/>")
    assert consumer._source.receive(0) == []


def test_a_poll_that_nobody_answers_is_given_up_soon(s3, url):
    """The network of a laptop is another one now, and the connection is dead without a word."""
    config = s3.queue(url)._client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (5.0, 15.0)


def test_a_closed_queue_runs_no_threads(s3, url):
    source = SQS(s3.queue(url))
    source.acknowledge([])
    source._at_once(str, range(8))
    threads = source._pool._threads
    source.close()
    source.close()
    for each in threads:
        each.join(20)
    assert [each.is_alive() for each in threads] == [False] * len(threads)
    with pytest.raises(Interrupted, match="is closed"):
        source.acknowledge([Delivery("", QueueMessage("", "receipt", 1))])


def test_a_queue_that_is_gone_is_told_and_tried_again(server, url, consumer, caplog):
    plain(server, "sqs").delete_queue(QueueUrl=url)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    while consumer.figures()["state"] != "failing":
        assert thread.is_alive()
    consumer.close()
    thread.join(20)
    assert consumer.figures()["state"] == "ended"
    assert "S3's messages cannot be received" in caplog.text
