"""A sync reaches what the client's own calls reach: by its proxies, certificates, hooks."""

from __future__ import annotations

import pytest
from botocore.config import Config
from moto import mock_aws

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.errors import S3Unavailable
from mimicfs.exception import S3ResponseError
from mimicfs.s3.connection import S3Connection
from mimicfs.s3.requests.borrowed import BorrowedS3

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


@pytest.fixture
def mirror():
    mirror = MimicDB(Memory())
    yield mirror
    mirror.close()


def keys(mirror, bucket):
    return [entry.key for entry in mirror.listing(bucket)]


def test_addresses_are_signed_by_version_4(server, bucket, mirror):
    client = mirror.client(endpoint_url=server, region_name="us-east-1")
    signer = BorrowedS3(client)._signer(None)
    url = signer.generate_presigned_url("list_objects_v2", {"Bucket": bucket})
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert "AWSAccessKeyId" not in url


def test_moto_in_this_process_is_synced(mirror, server):
    with mock_aws():
        s3 = mirror.client(region_name="us-east-1")
        s3.create_bucket(Bucket="photos")
        s3.put_object(Bucket="photos", Key="a", Body=b"12345")
        assert mirror.entry("photos", "a").size == 5
        mirror.sync("photos", client=s3)
        assert keys(mirror, "photos") == ["a"]


def test_a_sync_goes_through_the_proxy_of_the_client(client, bucket, mirror, server, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    config = Config(proxies={"http": proxy.url}, s3={"addressing_style": "path"})
    s3 = mirror.client(endpoint_url=server, config=config)
    mirror.sync(bucket, client=s3)
    assert keys(mirror, bucket) == ["a"]
    assert proxy.counted() == {"LIST": 1}


def test_a_proxy_that_is_away_is_away_for_syncs_too(bucket, mirror, server):
    config = Config(
        proxies={"http": "http://127.0.0.1:1"},
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
    )
    s3 = mirror.client(endpoint_url=server, config=config)
    borrowed = BorrowedS3(s3)
    borrowed._lister._options = borrowed._lister._options.__class__(attempts=1)
    with pytest.raises(S3Unavailable):
        borrowed.list_page(bucket)
    borrowed.close()


def test_hooks_of_a_program_see_the_listings_of_a_sync(client, bucket, mirror, server):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    client.put_object(Bucket=bucket, Key="b", Body=b"2")
    s3 = mirror.client(endpoint_url=server)
    asked = []
    s3.meta.events.register("before-call.s3.ListObjectsV2", lambda params, **_: asked.append(1))
    mirror.sync(bucket, client=s3)
    assert (keys(mirror, bucket), asked) == (["a", "b"], [1])


def test_a_sync_goes_where_a_hook_of_the_program_sends_the_client(client, bucket, mirror, server):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    s3 = mirror.client(endpoint_url="http://127.0.0.1:1", config=config)

    def elsewhere(builtins, **_):
        builtins["SDK::Endpoint"] = server

    s3.meta.events.register("before-endpoint-resolution.s3", elsewhere)
    mirror.sync(bucket, client=s3)
    assert keys(mirror, bucket) == ["a"]


def test_a_listing_of_several_pages_past_hooks_is_whole(client, bucket, mirror, server):
    for name in ("a", "b c", "d/e", "d/f%"):
        client.put_object(Bucket=bucket, Key=name, Body=b"1")
    s3 = mirror.client(endpoint_url=server)
    s3.meta.events.register("before-call.s3.ListObjectsV2", lambda **_: None)
    borrowed = BorrowedS3(s3)
    found, token, after = [], None, ""
    while True:
        page = borrowed.list_page(bucket, after=after, token=token, limit=2)
        found += [entry.key for entry in page.entries]
        token, after = page.token, page.upto
        if token is None:
            break
    assert found == ["a", "b c", "d/e", "d/f%"]
    borrowed.close()


def test_a_sync_of_everything_tries_all_and_names_what_failed(client, bucket, mirror, server):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    conn = S3Connection("key", "secret", endpoint_url=server, mimicdb=mirror)
    with pytest.raises(S3ResponseError, match="s3://no-such-bucket") as caught:
        conn.sync("no-such-bucket", bucket)
    assert (caught.value.status, caught.value.error_code) == (404, "NoSuchBucket")
    assert keys(mirror, bucket) == ["a"]
    conn.close()
