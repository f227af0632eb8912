"""Listing S3 and merging it: what changed is found, what was written meanwhile stays, and a
failed listing deletes nothing. Over both servers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.proxy import Fail, Hold, Replace

from mimicfs.entry import LISTED
from mimicfs.errors import AccessDenied, Interrupted, MalformedListing, NoSuchBucket, Unlisted
from mimicfs.posix import Cancellation


def put(client, bucket, *keys, body=b"x"):
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=body)


def known(mimicdb, bucket):
    return [entry.key for entry in mimicdb.listing(bucket)]


def is_list(request):
    return request.kind == "LIST"


def test_a_first_sync_adds_all_and_the_next_finds_nothing(syncer, mimicdb, client, bucket, proxy):
    put(client, bucket, "a", "d/b", "d/e/c")
    proxy.counted()
    report = syncer.sync(bucket)
    assert (report.keys, report.added, report.changed, report.deleted) == (3, 3, 0, 0)
    assert known(mimicdb, bucket) == ["a", "d/b", "d/e/c"]
    assert syncer.sync(bucket)[6:10] == (0, 0, 0, 3)
    assert proxy.counted() == {"LIST": 2}


def test_just_what_others_changed_is_found(syncer, mimicdb, client, bucket):
    put(client, bucket, "a", "b", "c")
    syncer.sync(bucket)
    news = []
    mimicdb.subscribe(lambda name, difference: news.append((name, difference)))
    put(client, bucket, "b", body=b"longer")
    put(client, bucket, "new")
    client.delete_object(Bucket=bucket, Key="a")
    report = syncer.sync(bucket)
    assert (report.added, report.changed, report.deleted, report.unchanged) == (1, 1, 1, 1)
    assert news == [(bucket, (["new"], ["b"], ["a"], 1))]
    assert mimicdb.entry(bucket, "b").size == 6


def test_learned_metadata_survives(syncer, mimicdb, client, bucket, s3):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", Metadata={"uid": "7"})
    syncer.sync(bucket)
    s3.head(bucket, "a")
    syncer.sync(bucket)
    assert mimicdb.entry(bucket, "a").meta["uid"] == "7"


def test_only_the_prefix_is_made_true(syncer, mimicdb, client, bucket):
    put(client, bucket, "a", "d/b")
    syncer.sync(bucket, "d/")
    assert known(mimicdb, bucket) == ["d/b"]
    assert mimicdb.lookup(bucket, "d/", "missing") == (None, None)
    with pytest.raises(Unlisted):
        mimicdb.lookup(bucket, "", "missing")


def test_one_directory_can_be_listed(syncer, mimicdb, client, bucket, proxy):
    put(client, bucket, "a", "d/b", "d/e/c")
    proxy.counted()
    syncer.list_directory(bucket, "")
    assert proxy.counted() == {"LIST": 1}
    assert [(entry.key, entry.kind) for entry in mimicdb.children(bucket, "")] == [
        ("a", 0),
        ("d/", LISTED),
    ]
    with pytest.raises(Unlisted):
        mimicdb.children(bucket, "d/")


def test_a_directory_that_is_gone_takes_all_below_along(syncer, mimicdb, client, bucket):
    put(client, bucket, "a", "d/b", "d/e/c")
    syncer.sync(bucket)
    for key in ("d/e/c", "d/b"):
        client.delete_object(Bucket=bucket, Key=key)
    syncer.sync(bucket)
    assert known(mimicdb, bucket) == ["a"]


def test_threads_that_want_the_same_directory_share_one_listing(syncer, bucket, proxy):
    with ThreadPoolExecutor(8) as pool, proxy.rule(Hold(is_list)) as hold:
        proxy.counted()
        first = pool.submit(syncer.list_directory, bucket, "")
        assert hold.reached.wait(10)
        others = [pool.submit(syncer.list_directory, bucket, "") for _ in range(5)]
        hold.release()
        for future in [first, *others]:
            future.result(20)
    assert proxy.counted()["LIST"] <= 2


def test_what_is_written_and_deleted_during_a_listing_stays_so(
    syncer, mimicdb, client, bucket, s3, proxy
):
    put(client, bucket, "a", "b")
    syncer.sync(bucket)
    page = s3.list_page(bucket)
    since = mimicdb.seq(bucket)
    new = s3.put(bucket, "new", b"now", 3)
    s3.put(bucket, "b", b"changed", 7)
    s3.delete(bucket, "a")
    difference = mimicdb.replace(
        bucket, "", page.entries, after="", upto=page.upto, since=since, deep=True
    )
    assert difference == ([], [], [], 0)
    assert known(mimicdb, bucket) == ["b", "new"]
    assert mimicdb.entry(bucket, "new") == new
    assert mimicdb.entry(bucket, "b").size == 7


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Fail(is_list, 403, "AccessDenied"), AccessDenied),
        (Replace(is_list, b"<html></html>"), MalformedListing),
        (
            Replace(is_list, b"<ListBucketResult><Name>x</Name></ListBucketResult>"),
            MalformedListing,
        ),
    ],
)
def test_a_failed_listing_deletes_nothing(syncer, mimicdb, client, bucket, proxy, rule, error):
    put(client, bucket, "a", "d/b")
    syncer.sync(bucket)
    listed = mimicdb.scope(bucket, "")
    with proxy.rule(rule), pytest.raises(error):
        syncer.sync(bucket)
    assert known(mimicdb, bucket) == ["a", "d/b"]
    assert mimicdb.scope(bucket, "") == listed
    assert syncer.status(bucket, "").error != ""


def test_a_sync_that_is_asked_for_later_shows_what_was_changed_before(
    syncer, mimicdb, client, bucket, proxy
):
    with ThreadPoolExecutor(4) as pool:
        with proxy.rule(Hold(is_list)) as hold:
            first = pool.submit(syncer.sync, bucket)
            assert hold.reached.wait(10)
            put(client, bucket, "later")
            second = pool.submit(syncer.sync, bucket)
            third = pool.submit(syncer.sync, bucket)
            hold.release()
        assert first.result(20) is not None
        second.result(20)
        third.result(20)
    assert known(mimicdb, bucket) == ["later"]


def test_a_sync_can_be_interrupted(syncer, mimicdb, client, bucket, proxy):
    put(client, bucket, "a")
    cancellation = Cancellation()
    with proxy.rule(Hold(is_list)) as hold:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(syncer.sync, bucket, cancellation=cancellation)
            assert hold.reached.wait(10)
            cancellation.cancel()
            with pytest.raises(Interrupted):
                running.result(5)
    assert mimicdb.scope(bucket, "") is None


def test_progress_is_told(syncer, client, bucket):
    put(client, bucket, "a", "b")
    seen = []
    syncer.sync(bucket, progress=seen.append)
    assert [(progress.keys, progress.pages, progress.added) for progress in seen] == [(2, 1, 2)]


def test_a_bucket_that_is_gone_is_forgotten(syncer, mimicdb, client, bucket):
    name = f"{bucket}-gone"
    client.create_bucket(Bucket=name)
    syncer.sync_buckets()
    assert mimicdb.bucket(name).name == name
    client.delete_bucket(Bucket=name)
    with pytest.raises(NoSuchBucket):
        syncer.sync(name)
    with pytest.raises(NoSuchBucket):
        mimicdb.bucket(name)


def test_the_list_of_buckets_is_merged(syncer, mimicdb, client, bucket):
    with pytest.raises(Unlisted):
        mimicdb.buckets()
    syncer.sync_buckets()
    assert bucket in [found.name for found in mimicdb.buckets()]
    client.delete_bucket(Bucket=bucket)
    assert syncer.sync_buckets().deleted == [bucket]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_pages_are_merged_one_by_one(syncer, mimicdb, client, bucket, proxy):
    keys = [f"{n:04}" for n in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(client, bucket, key), keys))
    proxy.counted()
    assert syncer.sync(bucket)[4:7] == (1100, 2, 1100)
    assert known(mimicdb, bucket)[:3] == ["0000", "0001", "0002"]
    assert proxy.counted() == {"LIST": 2}
    assert threading.active_count() < 60
