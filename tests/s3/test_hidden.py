"""What a server hides while it replaces it, is there (hidden.py)."""

from __future__ import annotations

from itertools import count

import pytest
from support.proxy import Fail, Rule

from mimicfs.errors import KeyNotFound
from mimicfs.s3.requests.client import Condition

only_rclone = pytest.mark.parametrize("server", ["rclone"], indirect=True)
only_moto = pytest.mark.parametrize("server", ["moto"], indirect=True)


class Hides(Fail):
    """The first *times* answers of *kind* say that there is no `x`."""

    def __init__(self, kind, times):
        numbers = count()
        matches = lambda it: it.kind == kind and it.key == "x" and next(numbers) < times  # noqa: E731
        super().__init__(matches, 404, "NoSuchKey")
        self.headers += [("x-amz-request-id", "1")]


class Unnamed(Rule):
    """The first two HEADs of `x` are answered with the headers *etag* for their ETag."""

    def __init__(self, etag):
        super().__init__(lambda it: it.kind == "HEAD" and it.key == "x")
        self._etag = etag

    def after(self, handler, response):
        if self.seen > 2:
            return False
        response.read()
        kept = [(name, value) for name, value in response.getheaders() if name.lower() != "etag"]
        handler.send(response.status, [*kept, *self._etag], None)
        return True


@pytest.fixture
def stored(s3, bucket):
    """The object `x`, which the mirror knows; that of a server whose conditions were tried."""
    entry = s3.put(bucket, "x", b"new", 3, condition=Condition(absent=True))
    s3.conditions.honoured(bucket, "x")
    return entry


@only_rclone
def test_a_404_of_what_the_mirror_knows_is_asked_again(s3, mimicdb, proxy, bucket, stored):
    with proxy.rule(Hides("HEAD", 2)) as hides:
        entry, _ = s3.head(bucket, "x")
    assert hides.seen == 2
    assert entry.etag == stored.etag
    assert mimicdb.entry(bucket, "x").etag == stored.etag


@only_rclone
def test_a_read_of_what_the_mirror_knows_is_asked_again(s3, proxy, bucket, stored):
    buffer = bytearray(3)
    with proxy.rule(Hides("GET", 2)):
        s3.read_into(bucket, "x", stored.etag, 0, memoryview(buffer))
    assert buffer == b"new"


@only_rclone
@pytest.mark.parametrize("etag", [[], [("ETag", '""')]], ids=["none", "empty"])
def test_an_answer_without_the_etag_that_the_mirror_knows_is_asked_again(
    s3, proxy, bucket, stored, etag
):
    with proxy.rule(Unnamed(etag)):
        entry, _ = s3.head(bucket, "x")
    assert entry.etag == stored.etag


@only_rclone
def test_what_stays_away_is_gone(s3, mimicdb, proxy, client, bucket, stored):
    client.delete_object(Bucket=bucket, Key="x")
    proxy.counted()
    with pytest.raises(KeyNotFound):
        s3.head(bucket, "x")
    assert proxy.counted() == {"HEAD": 8}
    assert mimicdb.entry(bucket, "x") is None
    with pytest.raises(KeyNotFound):
        s3.head(bucket, "x")
    assert proxy.counted() == {"HEAD": 1}


@only_moto
def test_a_server_that_looks_at_conditions_is_asked_once(s3, proxy, client, bucket, stored):
    client.delete_object(Bucket=bucket, Key="x")
    proxy.counted()
    with pytest.raises(KeyNotFound):
        s3.head(bucket, "x")
    assert proxy.counted() == {"HEAD": 1}
