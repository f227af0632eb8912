"""The versions of a bucket that has none are listed by the mirror, as S3 lists them."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from support.clients import CONFIG
from support.mounts import costs

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


def listed(client, bucket, **params):
    answer = client.list_object_versions(Bucket=bucket, **params)
    del answer["ResponseMetadata"]
    return answer


def versions(client, bucket):
    answer = listed(client, bucket)
    found = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
    return sorted((item["Key"], item["VersionId"], item["IsLatest"]) for item in found)


@pytest.fixture
def known(library, mimicked, client, bucket):
    """A bucket with three keys, whose owner and versions S3 has listed."""
    for key in ("a", "d/b", "d/c e"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode(), StorageClass="STANDARD_IA")
    library.sync(bucket, client=mimicked)
    mimicked.list_objects(Bucket=bucket)
    listed(mimicked, bucket)
    return bucket


@pytest.mark.parametrize("params", [{}, {"Prefix": "d/"}, {"Prefix": "x"}, {"MaxKeys": 3}])
def test_they_are_those_of_s3_at_no_cost(mimicked, client, proxy, known, params):
    proxy.counted()
    with costs(proxy):
        found = listed(mimicked, known, **params)
    assert found == listed(client, known, **params)


@pytest.mark.parametrize(
    "params",
    [{"MaxKeys": 2}, {"Delimiter": "/"}, {"KeyMarker": "a"}, {"EncodingType": "url"}],
)
def test_of_pages_and_groups_s3_is_asked(mimicked, client, proxy, known, params):
    proxy.counted()
    with costs(proxy, LIST=1):
        found = listed(mimicked, known, **params)
    assert found == listed(client, known, **params)


def test_of_an_empty_bucket_there_are_none(mimicked, client, proxy, bucket):
    mimicked.list_objects_v2(Bucket=bucket)
    listed(mimicked, bucket)
    proxy.counted()
    with costs(proxy):
        found = listed(mimicked, bucket)
    assert found == listed(client, bucket)


def test_what_we_write_and_delete_is_in_them(mimicked, client, proxy, known):
    mimicked.put_object(Bucket=known, Key="e", Body=b"x")
    mimicked.list_objects(Bucket=known, Force=True)  # it names the owner of what we wrote
    listed(mimicked, known)
    for n in range(60):  # two lines of the log each
        mimicked.put_object(Bucket=known, Key="e", Body=bytes(n))
        mimicked.delete_object(Bucket=known, Key="e")
    mimicked.put_object(Bucket=known, Key="f", Body=b"x")
    mimicked.copy_object(Bucket=known, Key="g", CopySource={"Bucket": known, "Key": "a"})
    mimicked.delete_object(Bucket=known, Key="a")
    for _ in range(2):
        proxy.counted()
        with costs(proxy):
            found = versions(mimicked, known)
        assert found == versions(client, known)


def test_of_what_others_have_changed_s3_is_asked(library, mimicked, client, proxy, known):
    client.put_bucket_versioning(Bucket=known, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=known, Key="a", Body=b"newer")
    library.sync(known, client=mimicked)
    proxy.counted()
    with costs(proxy, LIST=1):
        found = versions(mimicked, known)
    assert found == versions(client, known)


@pytest.mark.parametrize("shown", ["a sync", "a sync of its directory", "a listing"])
def test_versions_that_others_have_made_are_in_them_once_s3_has_listed_the_objects(
    library, mimicked, client, known, shown
):
    """Also those that no listing of objects shows."""
    client.put_bucket_versioning(Bucket=known, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=known, Key="d/gone", Body=b"x")
    client.delete_object(Bucket=known, Key="d/gone")
    if shown == "a listing":
        mimicked.list_objects_v2(Bucket=known, Force=True)
    else:
        library.sync(f"s3://{known}/d/" if "directory" in shown else known, client=mimicked)
    assert versions(mimicked, known) == versions(client, known)


@pytest.mark.parametrize("quiet", [True, False])
def test_once_our_own_change_may_have_made_versions_s3_is_asked(mimicked, client, known, quiet):
    client.put_bucket_versioning(Bucket=known, VersioningConfiguration={"Status": "Enabled"})
    gone = {"Objects": [{"Key": "a"}], "Quiet": quiet}
    mimicked.delete_objects(Bucket=known, Delete=gone)
    assert versions(mimicked, known) == versions(client, known)


@pytest.mark.parametrize("params", [{}, {"Prefix": "n"}, {"Delimiter": "/"}, {"MaxKeys": 2}])
def test_what_s3_has_shown_does_not_vanish_again(mimicked, client, known, params):
    """The mirror does not know of it yet."""
    client.put_object(Bucket=known, Key="b", Body=b"x")
    assert versions(mimicked, known) != versions(client, known)
    mimicked.list_object_versions(Bucket=known, **params, Force=True)
    assert versions(mimicked, known) == versions(client, known)


def test_a_bucket_that_s3_calls_not_empty_is_emptied_the_next_time(
    library, mimicked, client, bucket
):
    """Somebody else has put an object there, of which the mirror does not know."""

    def empty():
        for item in mimicked.list_object_versions(Bucket=bucket).get("Versions", []):
            mimicked.delete_object(Bucket=bucket, Key=item["Key"])
        mimicked.delete_bucket(Bucket=bucket)

    library.sync(bucket, client=mimicked)
    mimicked.list_object_versions(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="new", Body=b"x")
    with pytest.raises(ClientError, match="BucketNotEmpty"):
        empty()
    empty()


def test_s3_is_asked_for_each_access_key(library, proxy, known):
    other = library.client(
        endpoint_url=proxy.url,
        config=CONFIG,
        aws_access_key_id="other",
        aws_secret_access_key="secret",
    )
    proxy.counted()
    with costs(proxy, LIST=1):
        versions(other, known)
    with costs(proxy):
        versions(other, known)
    other.close()
