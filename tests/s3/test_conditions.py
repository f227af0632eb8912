"""A server's conditions are believed once the wrong one was refused and the right one taken."""

from __future__ import annotations

import pytest
from support.proxy import Fail

from mimicfs.errors import ObjectChanged
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Condition
from mimicfs.s3.requests.conditions import Honoured

QUOTED = Fail(
    lambda request: request.headers.get("If-Match", "").startswith('"'), 412, "PreconditionFailed"
)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_moto_looks_at_all_of_them(s3, bucket):
    assert s3.conditions.honoured(bucket, "d/a") == Honoured("quoted", absent=True, deletes=True)


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
