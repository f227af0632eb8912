"""Every call that changes what a listing or a HEAD says is learned, or what it names forgotten."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from support.mounts import costs

from mimicfs.entry import Entry, Scope

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def versioned(mimicked, bucket):
    mimicked.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


def put(client, bucket, *keys):
    return [client.put_object(Bucket=bucket, Key=key, Body=b"x")["VersionId"] for key in keys]


def mirrored(library, bucket):
    return [entry.key for entry in library.listing(bucket)]


def test_deleting_all_versions_leaves_nothing(library, mimicked, versioned):
    library.sync(versioned, client=mimicked)
    put(mimicked, versioned, "a", "b", "b", "c")
    listed = mimicked.list_object_versions(Bucket=versioned)["Versions"]
    objects = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in listed]
    mimicked.delete_objects(Bucket=versioned, Delete={"Objects": objects})
    assert mirrored(library, versioned) == []
    assert "Contents" not in mimicked.list_objects_v2(Bucket=versioned)


def test_the_news_of_many_versions_costs_one_listing(library, mimicked, versioned, proxy):
    versions = put(mimicked, versioned, *(f"k{number}" for number in range(9)))
    library.sync(versioned, client=mimicked)
    put(mimicked, versioned, "k3")
    objects = [{"Key": f"k{n}", "VersionId": version} for n, version in enumerate(versions)]
    proxy.counted()
    mimicked.delete_objects(Bucket=versioned, Delete={"Objects": objects, "Quiet": True})
    counted = proxy.counted()
    assert (counted["LIST"], counted["HEAD"]) == (1, 1)
    assert mirrored(library, versioned) == ["k3"]


def test_deleting_a_delete_marker_brings_the_key_back(library, mimicked, versioned):
    library.sync(versioned, client=mimicked)
    put(mimicked, versioned, "a")
    marker = mimicked.delete_object(Bucket=versioned, Key="a")["VersionId"]
    assert mirrored(library, versioned) == []
    mimicked.delete_object(Bucket=versioned, Key="a", VersionId=marker)
    assert mirrored(library, versioned) == ["a"]


def test_a_404_of_a_deleted_key_names_its_delete_marker(library, mimicked, client, versioned):
    library.sync(versioned, client=mimicked)
    put(mimicked, versioned, "a")
    mimicked.delete_object(Bucket=versioned, Key="a")
    headers = []
    for each in (client, mimicked):
        with pytest.raises(ClientError, match="404") as caught:
            each.head_object(Bucket=versioned, Key="a")
        said = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
        headers.append({name: said.get(name) for name in said if name.startswith("x-amz-del")})
    assert headers[0] == headers[1]


def test_what_changes_a_head_is_seen_by_the_next_head(library, mimicked, bucket, proxy):
    library.sync(bucket, client=mimicked)
    mimicked.put_object(Bucket=bucket, Key="a", Body=b"x", StorageClass="GLACIER")
    mimicked.head_object(Bucket=bucket, Key="a")
    with costs(proxy):
        assert "Restore" not in mimicked.head_object(Bucket=bucket, Key="a")
    mimicked.restore_object(Bucket=bucket, Key="a", RestoreRequest={"Days": 1})
    proxy.counted()
    with costs(proxy, HEAD=2):  # a loop that waits for the end of a restore sees it
        for _ in range(2):
            assert "ongoing-request" in mimicked.head_object(Bucket=bucket, Key="a")["Restore"]
    tags = {"TagSet": [{"Key": "x", "Value": "y"}]}
    mimicked.put_object_tagging(Bucket=bucket, Key="a", Tagging=tags)
    assert library.entry(bucket, "a").head is None


def test_versioning_a_bucket_forgets_all_heads(library, mimicked, bucket):
    for key in ("a", "b"):
        mimicked.put_object(Bucket=bucket, Key=key, Body=b"x")
        mimicked.head_object(Bucket=bucket, Key=key)
    mimicked.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert [entry.head for entry in library.listing(bucket)] == [None, None]


def test_an_unknown_operation_forgets_what_it_names(library, mimicked, bucket, client):
    from mimicfs.s3.mimicking.conversation import hold
    from mimicfs.s3.mimicking.learning import Learner

    client.put_object(Bucket=bucket, Key="real", Body=b"x")
    library.sync(bucket, client=mimicked)
    library.record(bucket, Entry("ghost", 1))
    learner = Learner(library, heads=True)

    def ask(operation, params):
        if operation == "HeadObject":
            return client.head_object(**params)
        return {}

    hold(learner.talk("TransmogrifyObject", {"Bucket": bucket, "Key": "ghost"}), ask)
    assert mirrored(library, bucket) == ["real"]
    hold(learner.talk("TransmogrifyBucket", {"Bucket": bucket}), ask)
    assert (mirrored(library, bucket), library.cover(bucket, "")) == ([], None)


def test_what_an_unknown_operation_names_is_not_certain_if_s3_does_not_tell(library, bucket):
    from mimicfs.s3.mimicking.conversation import hold
    from mimicfs.s3.mimicking.learning import Learner

    library.record(bucket, Entry("old", 1))
    library.complete(bucket, Scope("", True, 1, 0))

    def ask(operation, params):
        if operation == "HeadObject":
            raise EndpointConnectionError(endpoint_url="http://s3")
        return {}

    learner = Learner(library, heads=True)
    hold(learner.talk("TransmogrifyObject", {"Bucket": bucket, "Key": "old"}), ask)
    assert (library.entry(bucket, "old"), library.cover(bucket, "")) == (None, None)


def test_a_bucket_that_was_made_is_known_to_be_empty(library, mimicked, proxy, bucket):
    name = f"{bucket}-new"
    mimicked.create_bucket(Bucket=name)
    with costs(proxy):
        assert "Contents" not in mimicked.list_objects_v2(Bucket=name)
        with pytest.raises(ClientError, match="404"):
            mimicked.head_object(Bucket=name, Key="a")


def test_making_a_bucket_that_is_there_shows_what_it_has(library, mimicked, client, proxy, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    mimicked.create_bucket(Bucket=bucket)
    with costs(proxy):
        assert [it["Key"] for it in mimicked.list_objects_v2(Bucket=bucket)["Contents"]] == ["a"]


def test_after_a_change_of_policy_s3_is_asked_once(library, mimicked, proxy, bucket):
    library.sync(bucket, client=mimicked)
    mimicked.put_bucket_acl(Bucket=bucket, ACL="private")
    proxy.counted()
    with costs(proxy, LIST=1):
        mimicked.list_objects_v2(Bucket=bucket)
        mimicked.list_objects_v2(Bucket=bucket)
