"""The answers to a mimicked boto3 client: by whom, and at what cost."""

from __future__ import annotations

import io
import threading

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from support.clients import CONFIG
from support.mounts import costs
from support.proxy import Fail, Hold

import mimicfs
from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.errors import ConfigError, NoSuchBucket

pytestmark = pytest.mark.slow

on_moto = pytest.mark.parametrize("server", ["moto"], indirect=True)


def put(client, bucket, *keys):
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")


def names(answer):
    return [item["Key"] for item in answer.get("Contents", [])]


def below(answer):
    return [item["Prefix"] for item in answer.get("CommonPrefixes", [])]


@pytest.fixture
def synced(library, mimicked, client, bucket):
    """A bucket with five keys, all of it in the mirror."""
    put(client, bucket, "a", "d/e/1", "d/x", "d/é b+c", "z%41")
    library.sync(bucket, client=mimicked)
    return bucket


def test_after_a_sync_listings_cost_nothing(mimicked, proxy, synced):
    with costs(proxy):
        assert names(mimicked.list_objects_v2(Bucket=synced)) == [
            "a",
            "d/e/1",
            "d/x",
            "d/é b+c",
            "z%41",
        ]
        top = mimicked.list_objects_v2(Bucket=synced, Delimiter="/")
        assert (names(top), below(top)) == (["a", "z%41"], ["d/"])
        inner = mimicked.list_objects_v2(Bucket=synced, Delimiter="/", Prefix="d/")
        assert (names(inner), below(inner)) == (["d/x", "d/é b+c"], ["d/e/"])
        assert names(mimicked.list_objects_v2(Bucket=synced, Prefix="nothing")) == []


def test_before_a_sync_a_listing_is_s3s_and_makes_its_prefix_known(mimicked, proxy, client, bucket):
    put(client, bucket, "d/1", "d/2", "e")
    with costs(proxy, LIST=1):
        assert names(mimicked.list_objects_v2(Bucket=bucket, Prefix="d/")) == ["d/1", "d/2"]
    with costs(proxy):
        assert names(mimicked.list_objects_v2(Bucket=bucket, Prefix="d/")) == ["d/1", "d/2"]
    with costs(proxy, LIST=1):
        assert names(mimicked.list_objects_v2(Bucket=bucket)) == ["d/1", "d/2", "e"]


def test_all_pages_together_make_a_bucket_known(mimicked, proxy, client, bucket):
    put(client, bucket, "a", "b", "c", "d", "e")
    paginator = mimicked.get_paginator("list_objects_v2")
    for cost in ({"LIST": 3}, {}):
        with costs(proxy, **cost):
            pages = paginator.paginate(Bucket=bucket, MaxKeys=2)
            assert [name for page in pages for name in names(page)] == ["a", "b", "c", "d", "e"]


def test_a_page_of_no_keys_deletes_nothing(library, mimicked, synced):
    for call in (mimicked.list_objects_v2, mimicked.list_objects):
        call(Bucket=synced, MaxKeys=0)
        listed = [entry.key for entry in library.listing(synced)]
        assert listed == ["a", "d/e/1", "d/x", "d/é b+c", "z%41"]


def test_force_asks_s3_and_repairs_the_mirror(mimicked, proxy, client, synced):
    put(client, synced, "new")
    client.delete_object(Bucket=synced, Key="a")
    with costs(proxy):
        assert "new" not in names(mimicked.list_objects_v2(Bucket=synced))
    with costs(proxy, LIST=1):
        assert "new" in names(mimicked.list_objects_v2(Bucket=synced, Force=True))
    with costs(proxy):
        assert "new" in names(mimicked.list_objects_v2(Bucket=synced))
        assert "a" not in names(mimicked.list_objects_v2(Bucket=synced))


def test_within_forced_every_call_asks_s3_also_those_of_other_threads(
    library, mimicked, proxy, synced
):
    with costs(proxy, LIST=2), library.forced():
        mimicked.list_objects_v2(Bucket=synced)
        thread = threading.Thread(target=mimicked.list_objects_v2, kwargs={"Bucket": synced})
        thread.start()
        thread.join()
    with costs(proxy):
        mimicked.list_objects_v2(Bucket=synced)


def test_head_is_s3s_once_for_each_version(mimicked, proxy, client, synced):
    with costs(proxy, HEAD=1):
        first = mimicked.head_object(Bucket=synced, Key="a")
    with costs(proxy):
        again = mimicked.head_object(Bucket=synced, Key="a")
    told = again.pop("ResponseMetadata"), first.pop("ResponseMetadata")
    assert again == first
    assert [said["HTTPStatusCode"] for said in told] == [200, 200]
    assert [said["HTTPHeaders"]["content-length"] for said in told] == ["1", "1"]
    mimicked.put_object(Bucket=synced, Key="a", Body=b"other", Metadata={"By": "us"})
    with costs(proxy, HEAD=1):
        assert mimicked.head_object(Bucket=synced, Key="a")["ContentLength"] == 5
    with costs(proxy):
        metadata = mimicked.head_object(Bucket=synced, Key="a")["Metadata"]
        assert {name.lower(): value for name, value in metadata.items()} == {"by": "us"}


def test_times_are_in_the_zones_that_botocore_gives(mimicked, proxy, client, synced):
    def times(asking):
        head = asking.head_object(Bucket=synced, Key="a")
        listed = asking.list_objects_v2(Bucket=synced)["Contents"][0]
        made = asking.list_buckets()["Buckets"][0]
        found = head["LastModified"], listed["LastModified"], made["CreationDate"]
        return [repr(at.tzinfo) for at in found]

    times(mimicked)
    with costs(proxy):
        assert times(mimicked) == times(client)


def test_what_is_absent_in_a_known_bucket_is_a_404_at_no_cost(mimicked, proxy, client, synced):
    with costs(proxy), pytest.raises(ClientError) as ours:
        mimicked.head_object(Bucket=synced, Key="nothing")
    with pytest.raises(ClientError) as plain:
        client.head_object(Bucket=synced, Key="nothing")
    assert str(ours.value) == str(plain.value)
    assert type(ours.value).__name__ == type(plain.value).__name__
    assert ours.value.response["Error"] == plain.value.response["Error"]


def test_what_is_not_allowed_locally_goes_to_s3(mimicked, proxy, client, synced):
    with costs(proxy, HEAD=1):
        mimicked.head_object(
            Bucket=synced, Key="a", IfMatch=client.head_object(Bucket=synced, Key="a")["ETag"]
        )
    with costs(proxy, LIST=2):
        mimicked.list_objects_v2(Bucket=synced, FetchOwner=True)
        mimicked.list_objects_v2(Bucket=synced, StartAfter="a", Delimiter="/")
    with pytest.raises(Exception, match="Unknown parameter"):
        mimicked.head_object(Bucket=synced, Key="a", Forced=True)
    with pytest.raises(Exception, match="Missing required parameter"):
        mimicked.head_object(Key="a")


def test_writes_are_seen_in_the_next_listing_at_no_cost(mimicked, proxy, synced):
    put(mimicked, synced, "b")
    mimicked.delete_object(Bucket=synced, Key="a")
    mimicked.copy_object(Bucket=synced, Key="copy", CopySource={"Bucket": synced, "Key": "b"})
    proxy.counted()
    with costs(proxy):
        found = names(mimicked.list_objects_v2(Bucket=synced))
        assert found == ["b", "copy", "d/e/1", "d/x", "d/é b+c", "z%41"]


def test_a_local_page_can_be_followed_by_one_of_s3(library, mimicked, proxy, client, synced):
    first = mimicked.list_objects_v2(Bucket=synced, MaxKeys=2)
    token = first["NextContinuationToken"]
    with costs(proxy, LIST=1):
        second = mimicked.list_objects_v2(
            Bucket=synced, MaxKeys=2, ContinuationToken=token, Force=True
        )
    assert names(first) + names(second) == ["a", "d/e/1", "d/x", "d/é b+c"]
    assert second["ContinuationToken"] == token
    grouped = mimicked.list_objects_v2(Bucket=synced, MaxKeys=2, Delimiter="/")
    assert (names(grouped), below(grouped)) == (["a"], ["d/"])
    last = mimicked.list_objects_v2(
        Bucket=synced,
        Delimiter="/",
        ContinuationToken=grouped["NextContinuationToken"],
        Force=True,
    )
    assert (names(last), below(last)) == (["z%41"], [])


def test_buckets_are_listed_locally_once_s3_has_named_their_owner(mimicked, proxy, client, bucket):
    with costs(proxy, LIST_BUCKETS=1):
        first = mimicked.list_buckets()
    with costs(proxy):
        again = mimicked.list_buckets()
    first["Buckets"].sort(key=lambda item: item["Name"])  # S3 does, moto does not
    assert again["Buckets"] == first["Buckets"]
    assert bucket in [item["Name"] for item in again["Buckets"]]


def keyed(library, proxy, key, owner=""):
    """Return a client with the access key *key*, to which S3 names *owner*."""
    client = library.client(
        endpoint_url=proxy.url, config=CONFIG, aws_access_key_id=key, aws_secret_access_key="x"
    )
    if owner:
        client.meta.events.register(
            "after-call.s3.ListBuckets", lambda parsed, **_: parsed["Owner"].update(ID=owner)
        )
    return client


@on_moto
def test_a_bucket_that_a_refused_change_named_is_not_listed(proxy, bucket):
    library = MimicDB(Memory())  # which lists what is about to be changed
    mimicked = library.client(endpoint_url=proxy.url, config=CONFIG)
    mimicked.list_buckets()
    refuse = Fail(lambda request: request.kind == "PUT", 403, "AccessDenied")
    with proxy.rule(refuse), pytest.raises(ClientError, match="AccessDenied"):
        mimicked.put_object(Bucket=f"{bucket}-foreign", Key="k")
    with costs(proxy, LIST_BUCKETS=1):
        names = [found["Name"] for found in mimicked.list_buckets()["Buckets"]]
        assert bucket in names and f"{bucket}-foreign" not in names
    with costs(proxy):
        again = [found["Name"] for found in mimicked.list_buckets()["Buckets"]]
    assert sorted(again) == sorted(names)
    mimicked.close()


@on_moto
def test_the_list_of_buckets_answers_each_key_of_its_owner(library, proxy, bucket):
    for key in ("AKIAONE", "AKIATWO"):
        with costs(proxy, LIST_BUCKETS=1):
            keyed(library, proxy, key).list_buckets()
    with costs(proxy):  # as later programs, over the same store
        for key in ("AKIAONE", "AKIATWO"):
            found = keyed(library, proxy, key).list_buckets()["Buckets"]
            assert bucket in [item["Name"] for item in found]


@on_moto
def test_another_account_asks_s3_for_its_own_buckets(library, proxy, bucket):
    mine, theirs = keyed(library, proxy, "AKIAONE"), keyed(library, proxy, "AKIATWO", "them")
    with costs(proxy, LIST_BUCKETS=3):
        mine.list_buckets()
        assert theirs.list_buckets()["Owner"]["ID"] == "them"
        mine.list_buckets()  # the mirror's list was theirs
    with costs(proxy):
        mine.list_buckets()
    theirs.create_bucket(Bucket=f"{bucket}-theirs")  # the mirror knows it, but not as mine
    proxy.counted()
    with costs(proxy, LIST_BUCKETS=1):
        mine.list_buckets()


@on_moto
def test_a_store_answers_every_account_that_opens_it(library, proxy, synced):
    theirs = keyed(library, proxy, "AKIATWO", "them")
    with costs(proxy):
        found = theirs.list_objects_v2(Bucket=synced)
    assert names(found) == ["a", "d/e/1", "d/x", "d/é b+c", "z%41"]


def test_a_bucket_made_and_removed_through_us_is_known(library, mimicked, proxy, bucket):
    library.sync(client=mimicked)
    mimicked.create_bucket(Bucket=f"{bucket}-2")
    assert library.bucket(f"{bucket}-2").name == f"{bucket}-2"
    mimicked.delete_bucket(Bucket=f"{bucket}-2")
    with pytest.raises(NoSuchBucket):
        library.bucket(f"{bucket}-2")


def test_a_bucket_that_is_gone_is_s3s_error_and_forgotten(mimicked, client, synced):
    for item in client.list_objects_v2(Bucket=synced)["Contents"]:
        client.delete_object(Bucket=synced, Key=item["Key"])
    client.delete_bucket(Bucket=synced)
    for force in (True, False):
        with pytest.raises(ClientError, match="NoSuchBucket"):
            mimicked.list_objects_v2(Bucket=synced, Force=force)


@on_moto
def test_a_bucket_that_s3_calls_missing_is_listed_no_more(mimicked, client, bucket):
    key = {"Bucket": bucket, "Key": "k"}
    parts = {"UploadId": "u", "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "e"}]}}
    calls = [
        lambda: mimicked.put_object(**key, Body=b""),
        lambda: mimicked.get_object(**key),
        lambda: mimicked.delete_object(**key),
        lambda: mimicked.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]}),
        lambda: mimicked.copy_object(**key, CopySource=f"{bucket}-2/k"),
        lambda: mimicked.complete_multipart_upload(**key, **parts),
        lambda: mimicked.get_object_tagging(**key),
        lambda: mimicked.list_object_versions(Bucket=bucket),
        lambda: mimicked.delete_bucket(Bucket=bucket),
        lambda: mimicked.head_bucket(Bucket=bucket),
    ]
    client.create_bucket(Bucket=f"{bucket}-2")
    for call in calls:
        for remover in (client, mimicked):
            mimicked.create_bucket(Bucket=bucket)
            assert bucket in bucket_names(mimicked)
            remover.delete_bucket(Bucket=bucket)
            with pytest.raises(ClientError, match=r"NoSuchBucket|404"):
                call()
            assert bucket not in bucket_names(mimicked)
    # The source of a copy is missing: the target is not.
    mimicked.create_bucket(Bucket=bucket)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        mimicked.copy_object(**key, CopySource=f"{bucket}-none/k")
    assert bucket in bucket_names(mimicked)


def bucket_names(client):
    return [item["Name"] for item in client.list_buckets()["Buckets"]]


@on_moto
@pytest.mark.parametrize("known", [True, False])
def test_a_list_of_buckets_undoes_nothing_that_was_done_meanwhile(
    library, mimicked, proxy, bucket, known
):
    other = library.client(endpoint_url=proxy.url, config=CONFIG)
    other.create_bucket(Bucket=f"{bucket}-gone")
    if not known:
        library.drop_bucket(f"{bucket}-gone")

    def meanwhile(**_):
        other.delete_bucket(Bucket=f"{bucket}-gone")
        other.create_bucket(Bucket=f"{bucket}-new")

    mimicked.meta.events.register_last("after-call.s3.ListBuckets", meanwhile)
    mimicked.list_buckets(Force=True)
    found = bucket_names(other)
    assert f"{bucket}-new" in found
    assert f"{bucket}-gone" not in found


@on_moto
def test_a_late_word_that_there_is_no_bucket_undoes_no_bucket_made_meanwhile(
    library, mimicked, proxy, bucket
):
    other = library.client(endpoint_url=proxy.url, config=CONFIG)
    mimicked.list_buckets(Force=True)

    def meanwhile(**_):
        other.create_bucket(Bucket=f"{bucket}-new")
        other.put_object(Bucket=f"{bucket}-new", Key="k", Body=b"x")

    mimicked.meta.events.register_last("after-call.s3.GetObject", meanwhile)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        mimicked.get_object(Bucket=f"{bucket}-new", Key="k")
    assert f"{bucket}-new" in bucket_names(mimicked)
    assert [entry.key for entry in library.listing(f"{bucket}-new")] == ["k"]


@on_moto
def test_a_list_of_buckets_does_not_bring_back_one_that_another_call_did_not_find(
    library, mimicked, client, proxy, bucket
):
    other = library.client(endpoint_url=proxy.url, config=CONFIG)
    client.create_bucket(Bucket=f"{bucket}-gone")  # of which the mirror knows nothing

    def meanwhile(**_):
        client.delete_bucket(Bucket=f"{bucket}-gone")
        with pytest.raises(ClientError, match="NoSuchBucket"):
            other.get_object(Bucket=f"{bucket}-gone", Key="k")

    mimicked.meta.events.register_last("after-call.s3.ListBuckets", meanwhile)
    mimicked.list_buckets(Force=True)
    assert f"{bucket}-gone" not in bucket_names(mimicked)


def test_waiters_ask_s3(mimicked, proxy, client, synced):
    put(client, synced, "late")
    with costs(proxy, HEAD=1):
        mimicked.get_waiter("object_exists").wait(Bucket=synced, Key="late")


def test_s3transfer_and_resources_mimic(library, mimicked, proxy, synced, tmp_path):
    data = bytes(range(256)) * 4096 * 6
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    mimicked.upload_fileobj(io.BytesIO(data), synced, "up/large", Config=config)
    with costs(proxy):
        (item,) = mimicked.list_objects_v2(Bucket=synced, Prefix="up/")["Contents"]
        assert item["Size"] == len(data)
    mimicked.download_file(synced, "up/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    resource = library.resource(endpoint_url=proxy.url, config=CONFIG)
    with costs(proxy, LIST=1):  # boto3's resources use ListObjects, which names the owner
        assert len(list(resource.Bucket(synced).objects.all())) == 6
    with costs(proxy):
        assert [it.key for it in resource.Bucket(synced).objects.filter(Prefix="up/")] == [
            "up/large"
        ]
    with costs(proxy, LIST=1):
        assert len(list(resource.Bucket(synced).objects.filter(Prefix="up/", Force=True))) == 1
    resource.Object(synced, "up/small").put(Body=b"1")
    proxy.counted()
    with costs(proxy):
        assert len(list(resource.Bucket(synced).objects.filter(Prefix="up/"))) == 2


def test_a_client_of_ones_own_becomes_a_mimicking_one(library, proxy, synced):
    mine = boto3.client("s3", endpoint_url=proxy.url, config=CONFIG)
    assert mimicfs.mimic(mine) is mine  # into the MimicDB of the process
    assert mimicfs.mimic(mine, library) is mine  # once is enough
    with costs(proxy):
        assert len(names(mine.list_objects_v2(Bucket=synced))) == 5
    resource = mimicfs.mimic(boto3.resource("s3", endpoint_url=proxy.url, config=CONFIG))
    with costs(proxy, LIST=1):
        assert len(list(resource.Bucket(synced).objects.all())) == 5
    with costs(proxy):
        assert len(list(resource.Bucket(synced).objects.all())) == 5


def test_without_a_mimicdb_the_way_to_one_is_named(monkeypatch):
    monkeypatch.setattr("mimicfs.process._current", [])
    with pytest.raises(ConfigError, match=r"call MimicDB\(\) first"):
        mimicfs.mimic(boto3.client("s3"))


def test_a_namespace_keeps_mirrors_apart(backend, tmp_path, mimicked, synced):
    from mimicfs.backends.sqlite import SQLite

    path = str(tmp_path / "two.db")
    first, second = MimicDB(SQLite(path), "one"), MimicDB(SQLite(path), namespace="two")
    first.sync(
        synced, client=boto3.client("s3", endpoint_url=mimicked.meta.endpoint_url, config=CONFIG)
    )
    assert len(first.listing(synced)) == 5
    assert second.listing(synced) == []
    first.close()
    second.close()


def test_many_threads_share_one_mimicdb(library, mimicked, proxy, synced):
    def work(number):
        for step in range(10):
            put(mimicked, synced, f"t/{number}/{step}")
            found = names(mimicked.list_objects_v2(Bucket=synced, Prefix=f"t/{number}/"))
            assert len(found) == step + 1
        mimicked.delete_object(Bucket=synced, Key=f"t/{number}/0")

    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(names(mimicked.list_objects_v2(Bucket=synced, Prefix="t/"))) == 54
    assert names(mimicked.list_objects_v2(Bucket=synced)) == names(
        mimicked.list_objects_v2(Bucket=synced, Force=True)
    )


def test_a_put_during_a_listing_is_not_undone_by_it(library, mimicked, proxy, synced):
    with proxy.rule(Hold(lambda request: request.kind == "LIST")) as hold:
        thread = threading.Thread(
            target=mimicked.list_objects_v2, kwargs={"Bucket": synced, "Force": True}
        )
        thread.start()
        assert hold.reached.wait(30)
        put(mimicked, synced, "meanwhile")
        hold.release()
        thread.join()
    assert "meanwhile" in names(mimicked.list_objects_v2(Bucket=synced))
