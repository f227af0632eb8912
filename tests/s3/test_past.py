"""Every moment of a bucket's life is shown as it was: a real server whose clock the test holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import moto.s3.models
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer
from support.clients import CONFIG, plain

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.entry import Entry
from mimicfs.errors import ConfigError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.past import Past

pytestmark = pytest.mark.slow

BORN = datetime(2026, 11, 1)
STEP = timedelta(seconds=10)
KEYS = ["a", "a/b", "a/b/c", "d/", "d/e", "f 50%+g", "é"]


class Clock:
    def __init__(self) -> None:
        self.now = BORN

    def ns(self) -> int:
        since = self.now - datetime(1970, 1, 1)
        return int(since.total_seconds()) * 1_000_000_000


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def endpoint(clock: Clock) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto.s3.models, "utcnow", lambda: clock.now)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


def lived(client: Any, bucket: str, clock: Clock, chance: random.Random, null: bool) -> Any:
    """Change *bucket* at random; return what it had, by moment. *null*: at first it keeps no
    versions. (While they are suspended, moto forgets those that it had.)"""
    now: dict[str, bytes] = {}
    moments = {}
    for number in range(45):
        clock.now += STEP
        key = chance.choice(KEYS)
        if number == (5 if null else 0):
            status(client, bucket, "Enabled")
        if chance.random() < 0.3:
            client.delete_object(Bucket=bucket, Key=key)
            now.pop(key, None)
        else:
            body = f"{number}".encode() * chance.randrange(3)
            client.put_object(Bucket=bucket, Key=key, Body=body)
            now[key] = body
        moments[clock.ns()] = dict(now)
    return moments


def status(client: Any, bucket: str, word: str) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": word})


def listed(past: Past, bucket: str, limit: int) -> list[Entry]:
    """Return what pages of *limit* versions say, each of which goes on behind the one before."""
    found: list[Entry] = []
    after, token = "", None
    while True:
        page = past.list_page(bucket, "", after=after, token=token, limit=limit)
        assert all(after < entry.key <= (page.upto or entry.key) for entry in page.entries)
        found += page.entries
        if page.upto is None:
            return found
        after, token = page.upto, page.token


# A page of moto that is to begin behind a version named "null" is empty: no small pages of those.
@pytest.mark.parametrize(("null", "limits"), [(True, [1000]), (False, [1, 3, 1000])])
def test_each_moment_since_versions_are_kept_is_what_the_bucket_was(endpoint, clock, null, limits):
    client = plain(endpoint)
    bucket = f"life-{null}".lower()
    client.create_bucket(Bucket=bucket)
    moments = lived(client, bucket, clock, random.Random(7), null)
    kept = list(moments)[10:29:6]  # before, S3 forgets
    for moment_ns in [*kept, list(moments)[-1]]:
        past = Past(S3Options(endpoint_url=endpoint), Mirror(Memory()), moment_ns)
        was = moments[moment_ns]
        for limit in limits:
            entries = listed(past, bucket, limit)
            assert {entry.key: entry.size for entry in entries} == {
                key: len(body) for key, body in was.items()
            }
        for key, body in was.items():
            buffer = bytearray(len(body))
            if body:
                past.read_into(bucket, key, "", 0, memoryview(buffer))
            assert bytes(buffer) == body
        names = {entry.key for entry in past.list_page(bucket, "", delimiter="/").entries}
        assert names == {key if "/" not in key else key[: key.index("/") + 1] for key in was}
        past.close()
    client.close()


@pytest.fixture
def kept(endpoint: str, clock: Clock, request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    """A client, and a bucket in which a was written and then changed, b deleted, c made since."""
    client, bucket = plain(endpoint), f"kept-{request.node.name[:40].replace('_', '-').lower()}"
    client.create_bucket(Bucket=bucket)
    status(client, bucket, "Enabled")
    clock.now += STEP
    client.put_object(Bucket=bucket, Key="d/a", Body=b"then")
    client.put_object(Bucket=bucket, Key="d/b", Body=b"gone")
    clock.now += STEP
    client.put_object(Bucket=bucket, Key="d/a", Body=b"now")
    client.delete_object(Bucket=bucket, Key="d/b")
    client.put_object(Bucket=bucket, Key="d/c", Body=b"new")
    clock.now += STEP
    yield client, bucket
    client.close()


def keys(answer: Any) -> list[str]:
    return [item["Key"] for item in answer.get("Contents", [])]


@pytest.fixture
def then(endpoint: str, clock: Clock, tmp_path: Path) -> Iterator[Any]:
    """A client of the moment before `kept` was changed."""
    mimicdb = MimicDB(Memory())
    moment = (clock.now - 2 * STEP).replace(microsecond=1)
    client = mimicdb.client(at=moment, endpoint_url=endpoint, config=CONFIG)
    yield client
    client.close()
    mimicdb.close()


def test_a_client_of_a_moment_lists_and_reads_what_there_was(kept, then, tmp_path):
    _, bucket = kept
    sent = []
    then.meta.events.register("before-send.s3", lambda request, **_: sent.append(request.url))
    assert keys(then.list_objects_v2(Bucket=bucket, FetchOwner=True)) == ["d/a", "d/b"]
    listed = len(sent)
    assert keys(then.list_objects(Bucket=bucket, Prefix="d/")) == ["d/a", "d/b"]
    pages = then.get_paginator("list_objects_v2").paginate(Bucket=bucket, MaxKeys=1)
    assert [key for page in pages for key in keys(page)] == ["d/a", "d/b"]
    top = then.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [item["Prefix"] for item in top["CommonPrefixes"]] == ["d/"]
    assert len(sent) == listed  # nothing but the first listing asks
    assert then.get_object(Bucket=bucket, Key="d/a")["Body"].read() == b"then"
    assert then.head_object(Bucket=bucket, Key="d/b")["ContentLength"] == 4
    then.download_file(bucket, "d/b", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"gone"
    url = then.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "d/a"})
    assert "versionId=" in url
    for ask in (then.get_object_retention, then.get_object_legal_hold):
        with suppress(ClientError):  # this bucket locks nothing
            ask(Bucket=bucket, Key="d/a")
        assert "versionId=" in sent[-1]


def test_a_listing_of_a_moment_is_encoded_or_empty_where_that_is_asked_for(
    kept, then, endpoint, clock
):
    client, bucket = kept
    clock.now -= 2 * STEP
    client.put_object(Bucket=bucket, Key="e f/g~(1)+é*", Body=b"")
    clock.now += 2 * STEP
    same = {"Bucket": bucket, "Prefix": "e f/", "EncodingType": "url"}
    listed = then.list_objects_v2(**same)
    assert (keys(listed), listed["Prefix"]) == (["e%20f/g~%281%29%2B%C3%A9%2A"], "e%20f/")
    assert keys(client.list_objects_v2(**same)) == keys(listed)
    found = then.list_objects(Bucket=bucket, Delimiter=" ", MaxKeys=3, EncodingType="url")
    assert (found["Delimiter"], found["CommonPrefixes"]) == ("%20", [{"Prefix": "e%20"}])
    empty = then.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert (empty["KeyCount"], empty["MaxKeys"], empty["IsTruncated"]) == (0, 0, False)
    assert {"Contents", "CommonPrefixes", "NextContinuationToken"}.isdisjoint(empty)
    for wrong in ({"MaxKeys": -1}, {"EncodingType": "base64"}):
        with pytest.raises(ClientError, match="InvalidArgument"):
            then.list_objects(Bucket=bucket, **wrong)
    with pytest.raises(then.exceptions.NoSuchBucket):
        then.list_objects_v2(Bucket=f"{bucket}-none", MaxKeys=0)


def test_what_was_deleted_in_the_second_of_its_put_is_absent_to_all_calls(kept, then, clock):
    """moto lists delete markers behind all versions, so that their times alone tell less of one
    key than of many."""
    client, bucket = kept
    clock.now -= 2 * STEP
    client.put_object(Bucket=bucket, Key="passing", Body=b"1")
    client.delete_object(Bucket=bucket, Key="passing")
    clock.now += 2 * STEP
    client.put_object(Bucket=bucket, Key="passing", Body=b"2")
    assert keys(then.list_objects_v2(Bucket=bucket)) == ["d/a", "d/b"]
    with pytest.raises(ClientError, match=r"404.*HeadObject"):
        then.head_object(Bucket=bucket, Key="passing")
    with pytest.raises(then.exceptions.NoSuchKey):
        then.get_object(Bucket=bucket, Key="passing")


def test_a_listing_that_cannot_be_one_of_the_past_is_refused(kept, then):
    client, bucket = kept
    page = client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    for token in (page["NextContinuationToken"], "x"):
        with pytest.raises(ClientError, match="InvalidArgument"):
            then.list_objects_v2(Bucket=bucket, ContinuationToken=token)
    for name in ("list_objects_v2", "list_objects"):
        with pytest.raises(NotImplementedError, match="no address of S3 lists a moment"):
            then.generate_presigned_url(name, {"Bucket": bucket})


def test_what_there_was_not_is_a_404_and_nothing_can_be_changed(kept, then):
    client, bucket = kept
    with pytest.raises(ClientError, match=r"404.*HeadObject"):
        then.head_object(Bucket=bucket, Key="d/c")
    with pytest.raises(then.exceptions.NoSuchKey):
        then.get_object(Bucket=bucket, Key="d/c")
    with pytest.raises(then.exceptions.NoSuchBucket):
        then.list_objects_v2(Bucket=f"{bucket}-none")
    with pytest.raises(ClientError, match=r"NotImplemented.*StartAfter"):
        then.list_objects_v2(Bucket=bucket, StartAfter="a", Delimiter="/")
    for change in (
        lambda: then.put_object(Bucket=bucket, Key="d/a", Body=b""),
        lambda: then.delete_object(Bucket=bucket, Key="d/a"),
        lambda: then.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
    ):
        with pytest.raises(ClientError, match=r"MethodNotAllowed.*cannot be changed"):
            change()
    assert keys(client.list_objects_v2(Bucket=bucket)) == ["d/a", "d/c"]


def test_a_moment_takes_plain_clients_with_hooks_of_their_own(kept, endpoint, clock):
    client, bucket = kept
    mimicdb = MimicDB(Memory())
    asked = []
    client.meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))
    then = mimicdb.at((clock.now - 2 * STEP).isoformat())
    assert then.mimic(client) is client
    assert keys(client.list_objects_v2(Bucket=bucket)) == ["d/a", "d/b"]
    assert asked == ["ListObjectVersions"]
    with pytest.raises(ConfigError, match="is in the future"):
        mimicdb.at("2999-01-01")
    for odd in (clock.now.date(), 1_700_000_000, None):
        with pytest.raises(ConfigError, match="not a moment; pass text or a datetime"):
            mimicdb.at(odd)
    with pytest.raises(ConfigError, match="mimics the present"):
        then.mimic(mimicdb.client(endpoint_url=endpoint))
    mimicdb.close()
