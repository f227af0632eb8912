"""Servers that cannot run here, by stand-ins for their quirks (support/standins.py)."""

from __future__ import annotations

import gzip
from itertools import count

import pytest
from support.standins import PROVIDERS, QUIRKS, StandIn

from mimicfs.errors import ObjectChanged, PosixError
from mimicfs.s3.requests.client import Condition, Content

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

MIB = 1 << 20
_numbers = count(1)


def read(s3, bucket, entry):
    buffer = bytearray(entry.size)
    s3.read_into(bucket, entry.key, entry.etag, 0, memoryview(buffer))
    return bytes(buffer)


def listed(s3, bucket, prefix):
    """All that there is, page by page."""
    found, token, after = [], None, ""
    while True:
        page = s3.list_page(bucket, prefix, after=after, token=token)
        found += [entry.key for entry in page.entries]
        if page.token is None:
            return found
        token, after = page.token, page.upto


def used(s3, client, bucket):
    """Use *s3* as a mount does. What it says is true: of S3, and of the mirror."""
    d = f"d{next(_numbers)}/50%25 cash & co+/"
    packed = gzip.compress(b"hello" * 100)
    client.put_object(Bucket=bucket, Key=d + "gz", Body=packed, ContentEncoding="gzip")
    assert read(s3, bucket, s3.head(bucket, d + "gz")[0]) == packed
    a = s3.put(bucket, d + "a", b"abc", 3, Content("text/plain", {"mode": "33188"}))
    s3.put(bucket, d + "empty", b"", 0)
    now, content = s3.head(bucket, d + "a")
    assert (now.size, now.etag, now.meta) == (3, a.etag, {"mode": "33188"})
    assert content.content_type == "text/plain"
    assert s3.head(bucket, d + "empty")[0].size == 0
    assert read(s3, bucket, a) == b"abc"
    part = bytearray(2)
    s3.read_into(bucket, d + "a", a.etag, 1, memoryview(part))
    assert part == b"bc"
    copy = s3.copy((bucket, a), bucket, d + "b")
    assert (copy.size, copy.meta) == (3, {"mode": "33188"})
    assert listed(s3, bucket, d) == [d + name for name in ("a", "b", "empty", "gz")]

    new = s3.put(bucket, d + "a", b"abcd", 4, condition=Condition(a.etag))
    assert read(s3, bucket, new) == b"abcd"
    with pytest.raises(ObjectChanged):
        s3.put(bucket, d + "a", b"lost", 4, condition=Condition(a.etag))
    with pytest.raises(PosixError, match="File exists"):
        s3.put(bucket, d + "a", b"lost", 4, condition=Condition(absent=True))
    assert read(s3, bucket, s3.head(bucket, d + "a")[0]) == b"abcd"

    etags = {d + "a": a.etag, d + "b": copy.etag}  # of "a" there is another by now
    assert [key for key, _ in s3.delete_many(bucket, list(etags), etags)] == [d + "a"]
    s3.delete(bucket, d + "empty")
    assert listed(s3, bucket, d) == [d + "a", d + "gz"]
    found = client.list_objects_v2(Bucket=bucket, Prefix=d)
    assert [item["Key"] for item in found["Contents"]] == [d + "a", d + "gz"]
    assert s3.mimicdb.entry(bucket, d + "a").etag == new.etag
    assert s3.mimicdb.entry(bucket, d + "b") is None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_is_used_as_s3_is(s3, client, bucket, proxy, provider):
    with proxy.rule(StandIn(*[quirk() for quirk in PROVIDERS[provider]])):
        used(s3, client, bucket)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.__name__)
def test_a_quirk_is_lived_with(s3, client, bucket, proxy, quirk):
    assert quirk.source
    with proxy.rule(StandIn(quirk())):
        used(s3, client, bucket)
