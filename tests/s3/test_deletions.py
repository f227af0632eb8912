"""Deleting one version of an object, and no other."""

import itertools

import pytest
from support.proxy import Fail

from mimicfs.errors import ObjectChanged


def test_only_the_version_that_is_meant_is_deleted(s3, client, bucket, server, moto):
    old = s3.put(bucket, "a", b"old", 3)
    client.put_object(Bucket=bucket, Key="a", Body=b"new")
    if server == moto:  # rclone looks at no condition
        with pytest.raises(ObjectChanged):
            s3.conditions.delete(bucket, "a", old.etag)
        assert s3.mimicdb.entry(bucket, "a").etag != old.etag
    now, _ = s3.head(bucket, "a")
    s3.conditions.delete(bucket, "a", now.etag)
    s3.conditions.delete(bucket, "a", now.etag)  # that it is gone is no error
    assert s3.mimicdb.entry(bucket, "a") is None
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []


def test_where_deletions_know_no_condition_it_is_looked_before(s3, client, bucket, proxy):
    refused = itertools.count()
    rule = Fail(
        lambda request: request.kind == "DELETE" and not next(refused), 501, "NotImplemented"
    )
    old = s3.put(bucket, "a", b"old", 3)
    s3.put(bucket, "b", b"b", 1)
    client.put_object(Bucket=bucket, Key="a", Body=b"newer")
    with proxy.rule(rule), pytest.raises(ObjectChanged):
        s3.conditions.delete(bucket, "a", old.etag)
    s3.conditions.delete(bucket, "b", s3.mimicdb.entry(bucket, "b").etag)
    found = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in found] == ["a"]
