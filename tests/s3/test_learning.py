"""The mirror has what a mimicked boto3 client does, as a listing then shows it: over both
servers."""

import io

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from support.clients import plain
from support.proxy import Fail, Replace

from mimicfs.backends.memory import Memory
from mimicfs.entry import KEPT, Entry
from mimicfs.errors import StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.learning import learn

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def mimicked(proxy, mimicdb):
    """A boto3 client of a user, mimicked."""
    # rclone answers a ranged GET with the checksum of the whole object.
    config = Config(
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},
    )
    client = learn(boto3.client("s3", endpoint_url=proxy.url, config=config), mimicdb)
    yield client
    client.close()


@pytest.fixture
def news(mimicdb):
    found = []
    mimicdb.subscribe(lambda bucket, difference: found.append(difference))
    return found


def listed(client, bucket):
    """What a listing shows: by key the size, and the etag without its quotes."""
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"]: (item["Size"], item["ETag"].strip('"')) for item in found}


def mirrored(mimicdb, bucket):
    return {entry.key: (entry.size, entry.etag) for entry in mimicdb.listing(bucket)}


def seeked(data, start):
    body = io.BytesIO(data)
    body.seek(start)
    return body


def test_puts_have_the_size_that_was_sent(mimicked, mimicdb, client, bucket):
    bodies = {"bytes": b"12345", "array": bytearray(b"123"), "none": b"", "file": io.BytesIO(b"1")}
    for key, body in bodies.items():
        mimicked.put_object(Bucket=bucket, Key=key, Body=body)
    mimicked.put_object(Bucket=bucket, Key="seeked", Body=seeked(b"0123456789", 7))
    sizes = {entry.key: entry.size for entry in mimicdb.listing(bucket)}
    assert sizes == {"array": 3, "bytes": 5, "file": 1, "none": 0, "seeked": 3}
    assert mirrored(mimicdb, bucket) == listed(client, bucket)


def test_metadata_is_learned_in_lower_case(mimicked, mimicdb, bucket):
    mimicked.put_object(Bucket=bucket, Key="a", Body=b"x", Metadata={"Uid": "7"})
    assert mimicdb.entry(bucket, "a").meta == {"uid": "7"}


@pytest.mark.parametrize("operation", ["head", "get", "get a range"])
def test_reads_are_learned(mimicked, mimicdb, client, bucket, operation):
    client.put_object(Bucket=bucket, Key="a", Body=b"0123456789", Metadata={"uid": "7"})
    if operation == "head":
        mimicked.head_object(Bucket=bucket, Key="a")
    elif operation == "get":
        assert mimicked.get_object(Bucket=bucket, Key="a")["Body"].read() == b"0123456789"
    else:
        answer = mimicked.get_object(Bucket=bucket, Key="a", Range="bytes=2-3")
        assert answer["Body"].read() == b"23"
    assert mimicdb.entry(bucket, "a").meta["uid"] == "7"
    assert mirrored(mimicdb, bucket) == listed(client, bucket)


def test_a_managed_transfer_is_learned(mimicked, mimicdb, client, bucket, news):
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    body = io.BytesIO(bytes(12 * MIB))
    extra = {"Metadata": {"uid": "7"}}
    mimicked.upload_fileobj(body, bucket, "big", Config=config, ExtraArgs=extra)
    entry = mimicdb.entry(bucket, "big")
    assert (entry.size, entry.meta["uid"]) == (12 * MIB, "7")
    assert mirrored(mimicdb, bucket) == listed(client, bucket)
    assert news == []


def test_copies_and_deletions_are_learned(mimicked, mimicdb, client, bucket, proxy, news):
    for key in ("a", "b", "c", "d"):
        mimicked.put_object(Bucket=bucket, Key=key, Body=key.encode())
    mimicked.copy_object(Bucket=bucket, Key="a2", CopySource={"Bucket": bucket, "Key": "a"})
    mimicked.copy_object(Bucket=bucket, Key="a3", CopySource=f"{bucket}/a")
    mimicked.delete_object(Bucket=bucket, Key="a")
    for quiet, key in ((True, "b"), (False, "c")):
        objects = [{"Key": key}, {"Key": "never there"}]
        mimicked.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": quiet})
    assert sorted(mirrored(mimicdb, bucket)) == ["a2", "a3", "d"]
    assert mirrored(mimicdb, bucket) == listed(client, bucket)
    assert news == []


def test_buckets_are_learned(mimicked, mimicdb, bucket):
    mimicked.create_bucket(Bucket=f"{bucket}-2")
    assert mimicdb.backend.bucket(f"{bucket}-2") is not None
    mimicked.delete_bucket(Bucket=f"{bucket}-2")
    assert mimicdb.backend.bucket(f"{bucket}-2") is None


def test_what_s3_refused_is_not_learned(mimicked, mimicdb, bucket, proxy):
    with proxy.rule(Fail(lambda request: request.kind in ("PUT", "DELETE"), 403, "AccessDenied")):
        with pytest.raises(ClientError):
            mimicked.put_object(Bucket=bucket, Key="a", Body=b"x")
        mimicdb.record(bucket, Entry("b", 1))
        with pytest.raises(ClientError):
            mimicked.delete_object(Bucket=bucket, Key="b")
    assert [entry.key for entry in mimicdb.listing(bucket)] == ["b"]


def test_a_404_is_announced_but_takes_no_kept_directory(mimicked, mimicdb, bucket, news):
    mimicdb.record(bucket, Entry("gone", 1))
    mimicdb.keep(bucket, "kept/")
    for key in ("gone", "kept/"):
        with pytest.raises(ClientError):
            mimicked.head_object(Bucket=bucket, Key=key)
    assert [difference.deleted for difference in news] == [["gone"]]
    assert mimicdb.entry(bucket, "kept/").kind == KEPT


def test_an_answer_is_not_believed_over_a_later_write(mimicked, mimicdb, client, bucket, proxy):
    mimicked.put_object(Bucket=bucket, Key="a", Body=b"old")

    class Meanwhile(Replace):
        """The answer goes out after a write that it does not know of."""

        @property
        def body(self):
            mimicked.put_object(Bucket=bucket, Key="a", Body=b"newer")
            return b"old"

        @body.setter
        def body(self, _):
            pass

    mimicdb.forget(bucket, "a")
    with proxy.rule(Meanwhile(lambda request: request.kind == "GET", b"")):
        mimicked.get_object(Bucket=bucket, Key="a")
    assert mimicdb.entry(bucket, "a").size == 5
    assert mirrored(mimicdb, bucket) == listed(client, bucket)


def test_a_lost_store_does_not_hide_that_s3_has_done_it(server, client, bucket):
    class Lost(Memory):
        def apply(self, *_args, **_kwargs):
            raise StoreUnavailable("the store is down")

    mimicked = learn(plain(server), Mirror(Lost()))
    with pytest.raises(StoreUnavailable, match=r"S3 has answered PutObject.*store is back"):
        mimicked.put_object(Bucket=bucket, Key="a", Body=b"x")
    assert sorted(listed(client, bucket)) == ["a"]
    mimicked.close()


def test_pages_of_a_bucket_that_was_dropped_meanwhile_are_not_all_of_it(server, client, bucket):
    class Dropping(Memory):
        def mark(self, bucket, scope, since=None):
            self.drop_bucket(bucket)
            self.add_bucket(bucket, 1)
            super().mark(bucket, scope, since)

    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    mimicdb = Mirror(Dropping())
    mimicked = learn(plain(server), mimicdb)
    assert mimicked.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert not mimicdb.covered(bucket, "")
    mimicked.close()
    mimicdb.close()


def test_other_versions_are_not_learned(moto, mimicdb):
    client = learn(plain(moto), mimicdb)
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    old = client.put_object(Bucket="versions", Key="a", Body=b"old")["VersionId"]
    new = client.put_object(Bucket="versions", Key="a", Body=b"newer")["VersionId"]
    client.head_object(Bucket="versions", Key="a", VersionId=old)
    assert mimicdb.entry("versions", "a").size == 5
    client.delete_object(Bucket="versions", Key="a", VersionId=new)
    assert mimicdb.entry("versions", "a").size == 3
    client.delete_object(Bucket="versions", Key="a")
    assert mimicdb.entry("versions", "a") is None
    client.close()


def test_a_refused_condition_shows_what_is_there(moto, mimicdb):
    other, client = plain(moto), learn(plain(moto), mimicdb)
    client.create_bucket(Bucket="refused")
    first = client.put_object(Bucket="refused", Key="a", Body=b"1")["ETag"]
    other.put_object(Bucket="refused", Key="a", Body=b"22")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="refused", Key="a", Body=b"333", IfMatch=first)
    assert mimicdb.entry("refused", "a").size == 2
    mimicdb.forget("refused", "a")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="refused", Key="a", Body=b"333", IfNoneMatch="*")
    assert mimicdb.entry("refused", "a").size == 2
    other.close()
    client.close()


def test_resources_pass_through_a_mimicked_client(mimicked, mimicdb, client, bucket, monkeypatch):
    resource = boto3.resource("s3", endpoint_url=mimicked.meta.endpoint_url)
    resource.meta.client.close()
    resource.meta.client = mimicked
    resource.Object(bucket, "a").put(Body=b"x")
    assert mirrored(mimicdb, bucket) == listed(client, bucket)
