"""Every request to S3, over real servers, with what the mirror learns from it."""

import errno
import io
from typing import Any

import pytest
from support.clients import plain
from support.proxy import Cut, Fail, Replace, Rule

from mimicfs.backends.memory import Memory
from mimicfs.config.rules import KeyRule
from mimicfs.config.values import BucketOptions, Buckets, S3Options
from mimicfs.entry import Entry
from mimicfs.errors import (
    BucketNotEmpty,
    InvalidRequest,
    KeyNotFound,
    MalformedListing,
    NoSuchBucket,
    ObjectChanged,
    PosixError,
    S3Unavailable,
    Throttled,
)
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Condition, Content

pytestmark = pytest.mark.slow

HOSTILE = ["a//b", "/lead", "./dot", "x/../y", "..", "ctl\x01x", "cr\rx", "%2F", "a+b c"]


def read(s3, bucket, entry, start=0, size=None):
    buffer = bytearray(entry.size - start if size is None else size)
    s3.read_into(bucket, entry.key, entry.etag, start, memoryview(buffer))
    return bytes(buffer)


def listed(s3, bucket):
    """What a listing shows, without the times."""
    page = s3.list_page(bucket)
    return [(entry.key, entry.size, entry.etag) for entry in page.entries]


def mirrored(mimicdb, bucket):
    return [(entry.key, entry.size, entry.etag) for entry in mimicdb.listing(bucket)]


def test_what_is_put_can_be_read_and_is_in_the_mirror(s3, mimicdb, bucket, proxy):
    entry = s3.put(bucket, "a.txt", b"hello", 5, Content("text/plain", {"Mode": "33188"}))
    assert entry.size == 5
    assert entry.meta == {"mode": "33188"}
    assert mimicdb.entry(bucket, "a.txt") == entry
    assert read(s3, bucket, entry) == b"hello"
    assert read(s3, bucket, entry, 1, 3) == b"ell"
    assert proxy.counted() == {"PUT": 1, "GET": 2}
    assert mirrored(mimicdb, bucket) == listed(s3, bucket)


def test_a_body_is_read_from_its_place(s3, bucket):
    body = io.BytesIO(b"--hello--")
    body.seek(2)
    entry = s3.put(bucket, "a", body, 5)
    assert entry.size == 5
    assert read(s3, bucket, entry) == b"hello"


def test_an_empty_object_is_read_without_a_request(s3, bucket, proxy):
    entry = s3.put(bucket, "a", b"", 0)
    proxy.counted()
    assert read(s3, bucket, entry) == b""
    assert proxy.counted() == {}


def test_another_version_that_is_shorter_is_an_error_too(s3, mimicdb, client, bucket):
    old = s3.put(bucket, "a", b"0123456789", 10)
    client.put_object(Bucket=bucket, Key="a", Body=b"new")
    with pytest.raises(ObjectChanged, match="open it again"):
        read(s3, bucket, old, 5)
    assert mimicdb.entry(bucket, "a").size == 3


def test_nothing_can_be_read_behind_the_end(s3, mimicdb, bucket):
    entry = s3.put(bucket, "a", b"0123", 4)
    with pytest.raises(InvalidRequest):
        read(s3, bucket, entry, 4, 2)
    with pytest.raises(S3Unavailable, match="the answer has 1"):
        read(s3, bucket, entry, 3, 2)
    assert mimicdb.entry(bucket, "a") == entry


def test_a_read_of_what_is_gone_forgets_it(s3, mimicdb, client, bucket):
    entry = s3.put(bucket, "a", b"x", 1)
    client.delete_object(Bucket=bucket, Key="a")
    with pytest.raises(KeyNotFound):
        read(s3, bucket, entry)
    assert mimicdb.entry(bucket, "a") is None


def test_head_learns_what_a_listing_does_not_say(s3, mimicdb, client, bucket, syncer):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", Metadata={"uid": "7"}, ContentType="t/x")
    syncer.sync(bucket)
    assert mimicdb.entry(bucket, "a").meta is None
    entry, content = s3.head(bucket, "a")
    assert content == Content("t/x", {"uid": "7"})
    assert mimicdb.entry(bucket, "a") == entry
    assert entry.meta == {"uid": "7"}


def test_a_key_that_is_gone_is_forgotten(s3, mimicdb, client, bucket):
    s3.put(bucket, "a", b"x", 1)
    client.delete_object(Bucket=bucket, Key="a")
    with pytest.raises(KeyNotFound, match=f"s3://{bucket}/a"):
        s3.head(bucket, "a")
    assert mimicdb.entry(bucket, "a") is None


def test_another_version_is_an_error_and_repairs_the_mirror(s3, mimicdb, client, bucket):
    news = []
    mimicdb.subscribe(lambda *what: news.append(what))
    old = s3.put(bucket, "a", b"first", 5)
    client.put_object(Bucket=bucket, Key="a", Body=b"the second")
    with pytest.raises(ObjectChanged):
        read(s3, bucket, old)
    assert mimicdb.entry(bucket, "a").size == 10
    assert [(name, difference.changed) for name, difference in news] == [(bucket, ["a"])]
    assert read(s3, bucket, mimicdb.entry(bucket, "a")) == b"the second"


def test_an_answer_that_breaks_off_is_asked_for_again(s3, bucket, proxy):
    entry = s3.put(bucket, "a", bytes(100_000), 100_000)
    proxy.counted()
    with proxy.rule(Cut(lambda request: request.kind == "GET", keep=1000, times=1)):
        assert read(s3, bucket, entry) == bytes(100_000)
    assert proxy.counted() == {"GET": 2}


def test_an_answer_that_always_breaks_off_is_an_error(s3, bucket, proxy):
    entry = s3.put(bucket, "a", bytes(100_000), 100_000)
    with proxy.rule(Cut(lambda request: request.kind == "GET", keep=0, times=99)):
        with pytest.raises(S3Unavailable, match="ended early"):
            read(s3, bucket, entry)


def test_a_copy_keeps_or_replaces_what_is_stored(s3, mimicdb, bucket, proxy):
    source = s3.put(bucket, "a b+c", b"hello", 5, Content("text/plain", {"uid": "7"}))
    proxy.counted()
    kept = s3.copy((bucket, source), bucket, "kept")
    assert (kept.size, kept.meta) == (5, {"uid": "7"})
    replaced = s3.copy((bucket, source), bucket, "new", Content("text/html", {"gid": "8"}))
    assert replaced.meta == {"gid": "8"}
    assert proxy.counted() == {"COPY": 2}
    content = s3.head(bucket, "new")[1]
    assert (content.content_type, content.meta["gid"]) == ("text/html", "8")
    assert read(s3, bucket, replaced) == b"hello"


def test_another_version_is_not_copied_unnoticed(s3, mimicdb, client, bucket):
    source = s3.put(bucket, "a", b"first", 5)
    client.put_object(Bucket=bucket, Key="a", Body=b"the second")
    with pytest.raises(ObjectChanged):
        s3.copy((bucket, source), bucket, "b")
    assert mimicdb.entry(bucket, "a").size == 10
    assert mirrored(mimicdb, bucket) == listed(s3, bucket)


def test_what_is_gone_is_not_copied(s3, mimicdb, client, bucket):
    source = s3.put(bucket, "a", b"x", 1)
    client.delete_object(Bucket=bucket, Key="a")
    with pytest.raises(KeyNotFound):
        s3.copy((bucket, source), bucket, "b")
    assert mirrored(mimicdb, bucket) == []


def test_what_else_is_stored_survives_new_metadata(s3, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", ContentEncoding="gzip", CacheControl="no")
    entry, content = s3.head(bucket, "a")
    assert content.headers == {"ContentEncoding": "gzip", "CacheControl": "no"}
    s3.copy((bucket, entry), bucket, "b", content._replace(meta={"uid": "7"}))
    copied = s3.head(bucket, "b")[1]
    assert (copied.headers, copied.meta["uid"]) == (content.headers, "7")


def test_deleting_is_mimicked_and_what_is_not_there_may_be_deleted(s3, mimicdb, bucket):
    for key in ("a", "b", "c"):
        s3.put(bucket, key, b"x", 1)
    s3.delete(bucket, "a")
    assert s3.delete_many(bucket, ["b", "nothing"]) == []
    assert [entry.key for entry in mimicdb.listing(bucket)] == ["c"]
    assert mirrored(mimicdb, bucket) == listed(s3, bucket)


def test_a_multipart_upload_has_the_size_of_its_parts(s3, mimicdb, bucket, proxy):
    part = bytes(5 << 20)
    upload = s3.start_upload(bucket, "big", Content("a/b", {"uid": "7"}))
    etags = [
        s3.upload_part(bucket, "big", upload, 1, io.BytesIO(part), len(part)),
        s3.upload_part(bucket, "big", upload, 2, b"end", 3),
    ]
    entry = s3.finish_upload(bucket, "big", upload, etags, len(part) + 3)
    assert (entry.size, entry.meta["uid"]) == (len(part) + 3, "7")
    assert proxy.counted() == {"POST": 2, "PUT": 2, "HEAD": 1}
    assert mirrored(mimicdb, bucket) == listed(s3, bucket)


def test_an_aborted_upload_leaves_nothing(s3, mimicdb, bucket):
    upload = s3.start_upload(bucket, "big", Content())
    s3.upload_part(bucket, "big", upload, 1, b"x", 1)
    s3.abort_upload(bucket, "big", upload)
    assert mirrored(mimicdb, bucket) == listed(s3, bucket) == []


def test_buckets_are_made_listed_and_removed(s3, mimicdb, bucket):
    name = f"{bucket}-new"
    s3.create_bucket(name)
    assert mimicdb.backend.bucket(name) is not None
    assert name in [found.name for found in s3.list_buckets()]
    s3.put(name, "a", b"x", 1)
    with pytest.raises(BucketNotEmpty):
        s3.delete_bucket(name)
    s3.delete(name, "a")
    s3.delete_bucket(name)
    assert mimicdb.backend.bucket(name) is None
    with pytest.raises(NoSuchBucket, match="no such bucket"):
        s3.head_bucket(name)


def test_pages_go_on_where_the_last_one_ended(s3, client, bucket):
    keys = sorted(["a", "b/1", "b/2", "c", "d/1", "e f+g", "z\u00e9"])
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    found, after, token = [], "", None
    while True:
        page = s3.list_page(bucket, after=after, token=token, limit=2)
        found += [entry.key for entry in page.entries]
        if page.token is None or page.upto is None:
            break
        after, token = page.upto, page.token
    assert found == keys
    shallow = s3.list_page(bucket, delimiter="/")
    assert [entry.key for entry in shallow.entries] == [
        "a", "b/", "c", "d/", "e f+g", "z\u00e9"
    ]  # fmt: skip


def test_throttling_is_retried_and_then_an_error(s3, bucket, proxy):
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 503, "SlowDown")) as rule:
        with pytest.raises(Throttled, match=f"s3://{bucket}/"):
            s3.list_page(bucket)
        assert rule.seen == 3
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 503, "SlowDown")) as rule:
        with pytest.raises(Throttled):
            s3.put(bucket, "a", b"x", 1)
        assert rule.seen == 3


def test_what_is_not_s3_is_told_apart(s3, bucket, proxy):
    with proxy.rule(Replace(lambda request: request.kind == "LIST", b"<html></html>")):
        with pytest.raises(MalformedListing, match=r"<html>.*check --endpoint-url"):
            s3.list_page(bucket)


def test_nobody_at_the_endpoint_says_which_and_what_to_do(mimicdb):
    s3 = S3(S3Options(endpoint_url="http://127.0.0.1:9", attempts=1), mimicdb)
    with pytest.raises(S3Unavailable, match=r"127\.0\.0\.1:9.*--endpoint-url") as raised:
        s3.list_buckets()
    assert "very-secret-key" not in str(raised.value)
    with pytest.raises(S3Unavailable, match="--endpoint-url"):
        s3.list_page("bucket")
    s3.close()


def test_requests_are_counted(s3, bucket, proxy):
    entry = s3.put(bucket, "a", b"x", 1)
    read(s3, bucket, entry)
    s3.head(bucket, "a")
    s3.list_page(bucket)
    s3.delete(bucket, "a")
    assert s3.requests == {"PUT": 1, "GET": 1, "HEAD": 1, "LIST": 1, "DELETE": 1}
    assert proxy.counted() == {"PUT": 1, "GET": 1, "HEAD": 1, "LIST": 1, "DELETE": 1}


def test_every_hostile_key_is_a_key(moto, mimicdb, client_of_moto):
    s3 = S3(S3Options(endpoint_url=moto), mimicdb)
    bucket = client_of_moto
    keys = sorted([*HOSTILE, "e\u0301", "\u00e9", "k" * 1024])
    for key in keys:
        s3.put(bucket, key, key.encode(), len(key.encode()))
    assert [entry.key for entry in s3.list_page(bucket).entries] == keys
    for key in keys:
        entry = mimicdb.entry(bucket, key)
        assert read(s3, bucket, entry) == key.encode()
        if len(key) < 1000:
            s3.copy((bucket, entry), bucket, f"{key}.copy")
    assert s3.delete_many(bucket, keys) == []
    left = [key for key in keys if len(key) < 1000]
    assert [entry.key for entry in s3.list_page(bucket).entries] == sorted(
        f"{key}.copy" for key in left
    )
    s3.close()


@pytest.fixture
def client_of_moto(moto):
    client = plain(moto)
    client.create_bucket(Bucket="hostile-keys")
    yield "hostile-keys"
    for item in client.list_objects_v2(Bucket="hostile-keys").get("Contents", []):
        client.delete_object(Bucket="hostile-keys", Key=item["Key"])
    client.delete_bucket(Bucket="hostile-keys")
    client.close()


def test_a_put_over_another_version_is_refused_where_the_server_can(moto, mimicdb):
    client = plain(moto)
    client.create_bucket(Bucket="conditions")
    s3 = S3(S3Options(endpoint_url=moto), mimicdb)
    first = s3.put("conditions", "a", b"1", 1)
    client.put_object(Bucket="conditions", Key="a", Body=b"22")
    with pytest.raises(ObjectChanged):
        s3.put("conditions", "a", b"333", 3, condition=Condition(first.etag))
    assert mimicdb.entry("conditions", "a").size == 2
    with pytest.raises(PosixError) as raised:
        s3.put("conditions", "a", b"333", 3, condition=Condition(absent=True))
    assert raised.value.errno == errno.EEXIST
    s3.close()
    client.close()


def test_a_copy_keeps_its_storage_class(moto, mimicdb):
    client = plain(moto)
    client.create_bucket(Bucket="classes")
    s3 = S3(S3Options(endpoint_url=moto), mimicdb)
    for name in ("STANDARD_IA", "GLACIER_IR"):
        client.put_object(Bucket="classes", Key="a", Body=b"x", StorageClass=name)
        entry, content = s3.head("classes", "a")
        assert s3.copy(("classes", entry), "classes", "a", content).storage_class == name
        assert client.head_object(Bucket="classes", Key="a")["StorageClass"] == name
    s3.close()
    client.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_copy_has_the_key_of_its_source_and_none_by_a_rule(client, bucket, proxy):
    """A rule is for bytes that are uploaded. (moto keeps the key of a copy that names none.)"""
    by_rule = KeyRule(("*",), {"sse": "aws:kms", "kms_key_id": "by-rule"}, "")
    options = S3Options(endpoint_url=proxy.url, buckets=Buckets(BucketOptions(rules=(by_rule,))))
    first, second = (S3(options, Mirror(Memory())) for _ in range(2))
    client.put_object(Bucket=bucket, Key="plain", Body=b"1")
    written = first.put(bucket, "written", b"1", 1)
    named: dict[str, str] = {}

    def notes(request: Any) -> bool:
        about = "x-amz-server-side-encryption-aws-kms-key-id"
        if request.kind in ("COPY", "PUT"):
            named[request.key] = request.headers.get(about, "")
        return False

    with proxy.rule(Rule(notes)):
        for key, s3 in (("a", first), ("b", second)):
            s3.copy((bucket, written), bucket, f"{key}-written")
            entry, content = s3.head(bucket, "plain")
            s3.copy((bucket, entry), bucket, f"{key}-plain")
            s3.copy((bucket, entry), bucket, f"{key}-changed", content)
    first.close()
    second.close()
    assert {key for key, name in named.items() if name == "by-rule"} == {"a-written", "b-written"}
    assert len(named) == 6


def test_a_large_object_is_copied_in_parts(moto, mimicdb):
    bucket = "copied-in-parts"
    plain(moto).create_bucket(Bucket=bucket)
    s3 = S3(S3Options(endpoint_url=moto), mimicdb)
    size = (5 << 20) + 3
    source = s3.put(bucket, "a", bytes(size), size, Content("t/x", {"uid": "7"}))
    s3.copy_max = 5 << 20
    entry = s3.copy((bucket, source), bucket, "b")
    assert isinstance(entry, Entry)
    assert (entry.size, entry.meta) == (size, {"uid": "7"})
    assert s3.requests["COPY"] == 2
    assert read(s3, bucket, entry) == bytes(size)
    plain(moto).put_object(Bucket=bucket, Key="a", Body=bytes(size + 1))
    with pytest.raises(ObjectChanged):
        s3.copy((bucket, source), bucket, "c")
    assert plain(moto).list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    s3.close()
