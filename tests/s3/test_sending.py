"""Each upload has a checksum that S3 checks, in whichever form the server knows."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from support.clients import plain
from support.proxy import Fail

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.content import Content

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)
MIB = 1 << 20


def with_header(name):
    return lambda request: request.kind == "PUT" and name in request.headers


@pytest.fixture
def locked(client, bucket):
    """A bucket with Object Lock and a default retention."""
    name = f"{bucket}-locked"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    client.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=lock)
    return name


def test_an_object_lock_bucket_takes_what_is_written(s3, client, locked):
    s3.put(locked, "a", b"123456789", 9)
    said = client.head_object(Bucket=locked, Key="a", ChecksumMode="ENABLED")
    assert said["ChecksumCRC32"] == "y/Q5Jg=="
    assert said["ObjectLockRetainUntilDate"] > datetime.now(UTC) + timedelta(hours=20)
    upload = s3.start_upload(locked, "b", Content())
    parts = [s3.upload_part(locked, "b", upload, 1, b"x" * 5 * MIB, 5 * MIB)]
    parts.append(s3.upload_part(locked, "b", upload, 2, b"end", 3))
    assert s3.finish_upload(locked, "b", upload, parts, 5 * MIB + 3).size == 5 * MIB + 3


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_server_that_knows_no_crc32_gets_an_md5_from_then_on(
    s3, client, bucket, proxy, status, code
):
    refused = Fail(with_header("x-amz-checksum-crc32"), status, code)
    with proxy.rule(refused):
        s3.put(bucket, "a", b"abc", 3)
        refused_first = refused.seen
        s3.put(bucket, "b", b"abc", 3)
    assert refused.seen == refused_first
    assert s3.capabilities.known()["checksum"] == ("md5", "learned")
    assert client.get_object(Bucket=bucket, Key="b")["Body"].read() == b"abc"


def test_what_is_refused_for_another_reason_teaches_nothing(s3, bucket, proxy):
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 400, "InvalidArgument")):
        with pytest.raises(Exception, match="InvalidArgument"):
            s3.put(bucket, "a", b"abc", 3)
    assert s3.capabilities.known()["checksum"] == ("crc32", "usual")


def test_what_was_learned_is_remembered_in_the_store(s3, mimicdb, proxy):
    s3.capabilities.learned("delete-many", "no")
    again = S3(S3Options(endpoint_url=proxy.url), mimicdb)
    said = {"delete-many": "yes"}
    corrected = S3(S3Options(endpoint_url=proxy.url, capabilities=said), mimicdb)
    elsewhere = S3(S3Options(endpoint_url="http://127.0.0.1:1"), mimicdb)
    found = [each.capabilities.known()["delete-many"] for each in (again, corrected, elsewhere)]
    assert found == [("no", "learned"), ("yes", "said"), ("yes", "usual")]
    for each in (again, corrected, elsewhere):
        each.close()


def test_a_provider_is_what_would_be_learned(server):
    with_profile = S3(S3Options(endpoint_url=server, provider="oss"), Mirror(Memory()))
    assert with_profile.capabilities.known()["addressing"] == ("virtual", "expected")
    with_profile.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(501, "NotImplemented"), (400, "InvalidRequest"), (405, "MethodNotAllowed")],
)
def test_without_deleteobjects_keys_are_deleted_one_by_one(s3, client, bucket, proxy, status, code):
    keys = [f"k{n}" for n in range(20)]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    with proxy.rule(Fail(lambda request: request.kind == "POST", status, code)) as rule:
        assert s3.delete_many(bucket, keys[:10]) == []
        assert s3.delete_many(bucket, keys[10:]) == []
    assert rule.seen == 1
    assert plain(server_of(client)).list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def server_of(client):
    return client.meta.endpoint_url


def test_a_deletion_that_is_refused_in_any_form_is_an_error(s3, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"")
    kinds = itertools.repeat(("POST", "DELETE"))
    with proxy.rule(Fail(lambda request: request.kind in next(kinds), 501, "NotImplemented")):
        with pytest.raises(Exception, match="NotImplemented"):
            s3.delete_many(bucket, ["a"])
    assert s3.capabilities["delete-many"] == "yes"


def test_a_head_goes_over_our_own_wire_and_says_all(s3, client, bucket, monkeypatch):
    said = {"ContentType": "text/x", "CacheControl": "no-store", "Metadata": {"mode": "33188"}}
    client.put_object(Bucket=bucket, Key="a", Body=b"abc", **said)
    expected = client.head_object(Bucket=bucket, Key="a")
    monkeypatch.setattr("botocore.endpoint.Endpoint.make_request", None)
    found = s3.call("head_object", bucket, "a")
    for answer in (found, expected):
        del answer["ResponseMetadata"]
    assert found == expected
