"""A server's conditions are believed once the wrong one was refused and the right one taken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from types import SimpleNamespace

import pytest
from support.proxy import Fail, Hold, Lose
from support.standins import BareConditions, IgnoresConditions, RefusesRightOnes, StandIn

from mimicfs.config.values import S3Options
from mimicfs.errors import ObjectChanged
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.conditions import NOBODYS, Honoured

pytestmark = pytest.mark.slow

QUOTED = Fail(
    lambda request: request.headers.get("If-Match", "").startswith('"'), 412, "PreconditionFailed"
)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_moto_looks_at_all_of_them(s3, bucket):
    assert s3.conditions.honoured(bucket, "d/a") == Honoured("quoted", absent=True, delete="quoted")


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize(
    "condition", [("PUT", "If-None-Match"), ("PUT", "If-Match"), ("DELETE", "If-Match")]
)
def test_a_lost_answer_is_no_refusal(s3, bucket, proxy, condition):
    """The server has done it, and refuses what is repeated. That is remembered for a month."""
    kind, header = condition
    lost = Lose(lambda asked: asked.kind == kind and header in asked.headers, times=1)
    right = Lose(lambda asked: lost.matches(asked) and NOBODYS not in asked.headers[header])
    with proxy.rule(right):
        found = s3.conditions.honoured(bucket, "d/a")
    assert right.seen
    assert found == Honoured("quoted", absent=True, delete="quoted")


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
def test_rclone_looks_at_none(s3, bucket):
    assert s3.conditions.honoured(bucket, "d/a") == Honoured()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_refuses_quotes_is_written_to_without(s3, bucket, proxy):
    """As Ceph RGW 16.2: the right ETag in quotes is refused, without them it is taken."""
    old = s3.put(bucket, "a", b"one", 3)
    with proxy.rule(QUOTED):
        assert s3.conditions.honoured(bucket, "a").match == "bare"
        new = s3.put(bucket, "a", b"two!", 4, condition=Condition(old.etag))
        assert new.size == 4
        with pytest.raises(ObjectChanged):
            s3.put(bucket, "a", b"three", 5, condition=Condition(old.etag))


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_refuses_every_etag_is_looked_after_by_us(s3, bucket, proxy):
    old = s3.put(bucket, "a", b"one", 3)
    every = Fail(lambda request: "If-Match" in request.headers, 412, "PreconditionFailed")
    with proxy.rule(every):
        assert s3.conditions.honoured(bucket, "a").match == ""
        s3.put(bucket, "a", b"two!", 4, condition=Condition(old.etag))
        with pytest.raises(ObjectChanged):
            s3.put(bucket, "a", b"three", 5, condition=Condition(old.etag))


def test_what_was_found_is_remembered_in_the_store_and_nothing_is_left(s3, client, bucket, proxy):
    found = s3.conditions.honoured(bucket, "d/a")
    listed = client.list_objects_v2(Bucket=bucket)
    assert listed.get("Contents", []) == []
    again = S3(s3._options, Mirror(s3.mimicdb.backend))
    proxy.counted()
    assert again.conditions.honoured(bucket, "d/b") == found
    assert proxy.counted() == {}
    again.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("quirk", [IgnoresConditions, BareConditions, RefusesRightOnes])
def test_nothing_is_deleted_that_a_server_may_not_look_at(s3, client, bucket, proxy, quirk):
    """Nobody has written there with a condition yet: whether the server looks is not known."""
    old = s3.put(bucket, "a", b"old", 3)
    client.put_object(Bucket=bucket, Key="a", Body=b"somebody's")
    with proxy.rule(StandIn(quirk())):
        with pytest.raises(ObjectChanged):
            s3.conditions.delete(bucket, "a", old.etag)
        assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"somebody's"
        s3.conditions.delete(bucket, "a", s3.mimicdb.entry(bucket, "a").etag)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3.mimicdb.entry(bucket, "a") is None


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_refuses_every_condition_is_believed_in_none(s3, client, bucket, proxy):
    with proxy.rule(StandIn(RefusesRightOnes())):
        assert s3.conditions.honoured(bucket, "d/a") == Honoured()
        s3.put(bucket, "a", b"new", 3, condition=Condition(absent=True))
    assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_deletion_is_believed_to_look_once_the_right_etag_was_taken(s3, bucket, proxy):
    quoted = Fail(lambda request: request.kind == "DELETE" and QUOTED.matches(request), 412, "")
    with proxy.rule(quoted):
        assert s3.conditions.honoured(bucket, "a").delete == "bare"
        old = s3.put(bucket, "a", b"one", 3)
        s3.put(bucket, "a", b"two!", 4)
        with pytest.raises(ObjectChanged):
            s3.conditions.delete(bucket, "a", old.etag)
        proxy.counted()
        s3.conditions.delete(bucket, "a", s3.mimicdb.entry(bucket, "a").etag)
        assert proxy.counted() == {"DELETE": 1}


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_copy_of_another_version_is_found_where_the_server_copies_what_is_there(
    s3, client, bucket, proxy
):
    """The ETag of an object in parts does not show in its copy, nor does the size here."""
    old = in_parts(client, bucket, b"old")
    with proxy.rule(StandIn(IgnoresConditions())):
        entry, _ = s3.head(bucket, "a")
        assert entry.etag == old
        assert s3.copy((bucket, entry), bucket, "b").size == 3
        in_parts(client, bucket, b"new")
        with pytest.raises(ObjectChanged):
            s3.copy((bucket, entry), bucket, "b")


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_refuses_copies_of_the_right_version_is_asked_without(
    s3, client, bucket, proxy
):
    in_parts(client, bucket, b"old")
    with proxy.rule(StandIn(RefusesRightOnes())):
        entry, _ = s3.head(bucket, "a")
        assert s3.copy((bucket, entry), bucket, "b").size == 3
        in_parts(client, bucket, b"new")
        with pytest.raises(ObjectChanged):
            s3.copy((bucket, entry), bucket, "b")
    assert s3.capabilities.known()["copy-etags"] == ("no", "learned")


def in_parts(client, bucket, body):
    """Write *body* as "a", in one part; return its ETag."""
    where = {"Bucket": bucket, "Key": "a"}
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part(**where, PartNumber=1, Body=body)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    etag = client.complete_multipart_upload(**where, MultipartUpload=parts)["ETag"]
    return etag.strip('"')


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("how", ["at once", "in parts"])
def test_of_two_who_share_a_store_one_is_refused_where_the_server_does_not_look(
    s3, client, bucket, proxy, how
):
    """Both have looked when neither has written: they write one after the other."""
    first = s3.put(bucket, "a", b"first", 5)
    other = S3(S3Options(endpoint_url=proxy.url), s3.mimicdb)
    with proxy.rule(StandIn(IgnoresConditions())):
        s3.conditions.honoured(bucket, "a")
    uploads = {each: each.start_upload(bucket, "a", Content()) for each in (s3, other)}
    parts = {s3: b"one", other: b"other"}
    tags = {
        each: each.upload_part(bucket, "a", uploads[each], 1, data, len(data))
        for each, data in parts.items()
    }

    def write(each):
        data, condition = parts[each], Condition(first.etag)
        if how == "at once":
            return each.put(bucket, "a", data, len(data), condition=condition)
        finish = (uploads[each], [tags[each]], len(data), condition)
        return each.finish_upload(bucket, "a", *finish)

    held = Hold(lambda request: request.kind in ("PUT", "POST"))
    with ThreadPoolExecutor(2) as pool, proxy.rule(held), closing(other):
        one = pool.submit(write, s3)
        assert held.reached.wait(60)
        two = pool.submit(write, other)
        assert wait([two], 0.1).not_done
        held.release()
        assert one.result(10).size == 3
        with pytest.raises(ObjectChanged):
            two.result(10)
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"one"
    assert [name for name in s3.mimicdb.notes(bucket) if name.startswith("alone")] == []


@pytest.fixture
def pauses(mimicdb, monkeypatch):
    """The pauses of those who wait for a turn. The clocks go on by these, and by nothing else."""
    pauses = []
    clock = SimpleNamespace(monotonic=lambda: 100.0 + sum(pauses), sleep=pauses.append)
    monkeypatch.setattr("mimicfs.intent.time", clock)
    monkeypatch.setattr(mimicdb.backend, "now_ms", lambda: 5_000_000 + round(1000 * sum(pauses)))
    return pauses


def test_a_turn_that_nobody_ends_ends_by_itself(mimicdb, pauses):
    turns = mimicdb.intents
    turn = turns.alone("bucket", "k", 50)
    turn.__enter__()  # and dies
    with turns.alone("bucket", "other", 50):
        assert pauses == []
    with turns.alone("bucket", "k", 50):
        assert 0.045 < sum(pauses) < 0.065


def test_a_turn_whose_answer_was_lost_and_that_was_asked_for_again_is_ours(
    mimicdb, pauses, monkeypatch
):
    """As by a client of Redis, whose connection has broken since it was used last."""
    swap = mimicdb.backend.swap_note

    def twice(*step, tell):
        swap(*step, tell=tell)
        return swap(*step, tell=tell)

    monkeypatch.setattr(mimicdb.backend, "swap_note", twice)
    for _ in range(2):
        with mimicdb.intents.alone("bucket", "k", 20_000):
            assert len(mimicdb.notes("bucket")) == 1
        assert mimicdb.notes("bucket") == {}
    assert pauses == []


def test_a_turn_of_a_clock_that_was_set_back_lasts_no_longer(mimicdb, pauses, monkeypatch):
    turns, now_ms = mimicdb.intents, mimicdb.backend.now_ms()
    turn = turns.alone("bucket", "k", 50)
    turn.__enter__()  # and dies
    monkeypatch.setattr(mimicdb.backend, "now_ms", lambda: now_ms - 3_600_000)
    with turns.alone("bucket", "k", 50):
        assert 0.045 < sum(pauses) < 0.065


def test_a_turn_that_does_not_come_in_time_is_not_waited_for_and_ends_no_other(
    mimicdb, monkeypatch, caplog
):
    monkeypatch.setattr("mimicfs.intent._TURN_S", 0.05)
    turns = mimicdb.intents
    with turns.alone("bucket", "k", 20_000):
        [before] = mimicdb.notes("bucket").values()
        with turns.alone("bucket", "k", 20_000):
            assert "takes longer than expected" in caplog.text
        assert list(mimicdb.notes("bucket").values()) == [before]
    assert mimicdb.notes("bucket") == {}
