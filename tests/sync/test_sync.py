"""Listing S3 and merging it: what changed is found, what was written meanwhile stays, and a
failed listing deletes nothing. Over both servers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest
from support.clients import plain
from support.proxy import Fail, Hold, Replace

from mimicfs.backends.memory import Memory
from mimicfs.entry import LISTED, Difference, DirectorySeen, Entry, Scope
from mimicfs.errors import (
    AccessDenied,
    Interrupted,
    MalformedListing,
    NoSuchBucket,
    StoreUnavailable,
    Unlisted,
)
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation

pytestmark = pytest.mark.slow


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
    assert news == [(bucket, Difference(["new"], ["b"], ["a"], 1))]
    assert mimicdb.entry(bucket, "b").size == 6


class _Dropping(Memory):
    """Another process drops the bucket, and makes it anew, before the first listing counts."""

    dropped = False

    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        if bucket and not self.dropped:
            self.dropped = True
            self.drop_bucket(bucket)
            self.add_bucket(bucket, 1)
        super().mark(bucket, scope, since)


class TestBucketDroppedWhileItIsListed:
    @pytest.fixture
    def mimicdb(self, client, bucket):
        put(client, bucket, "a", "d/b")
        mimicdb = Mirror(_Dropping())
        mimicdb.add_bucket(bucket, 1)
        yield mimicdb
        mimicdb.close()

    def test_a_directory_is_listed_again(self, syncer, mimicdb, bucket, proxy):
        proxy.counted()
        syncer.list_directory(bucket, "d/")
        assert proxy.counted() == {"LIST": 2}
        assert mimicdb.covered(bucket, "d/")
        assert mimicdb.entry(bucket, "d/b") is not None

    def test_a_directory_that_a_mount_has_just_looked_at_is_listed_again(
        self, syncer, mimicdb, bucket, proxy, monkeypatch
    ):
        seen = DirectorySeen(mimicdb.seq(bucket), None, [])
        monkeypatch.setattr(mimicdb.backend, "seen_lately", lambda *_: seen)
        proxy.counted()
        syncer.list_directory(bucket, "empty/")
        assert proxy.counted() == {"LIST": 2}
        assert mimicdb.covered(bucket, "empty/")

    def test_a_sync_fails_and_nothing_counts_as_listed(self, syncer, mimicdb, bucket):
        with pytest.raises(StoreUnavailable, match="dropped while it was listed; sync it again"):
            syncer.sync(bucket)
        assert mimicdb.scopes(bucket) == []
        syncer.sync(bucket)
        assert known(mimicdb, bucket) == ["a", "d/b"]


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


class Waiting(Cancellation):
    """Says when somebody waits with it."""

    def __init__(self):
        super().__init__()
        self.waits = threading.Event()

    def wait(self, future, timeout_s=None):
        self.waits.set()
        return super().wait(future, timeout_s)


def submitted(pool, call, *args):
    """Have *call* run in *pool*; return it and its cancellation once it waits."""
    cancellation = Waiting()
    future = pool.submit(call, *args, cancellation=cancellation)
    assert cancellation.waits.wait(10)
    return future, cancellation


class Meanwhile(Replace):
    """The first answer is what S3 has when this is made; *work* is done before it goes out."""

    def __init__(self, client, bucket, work):
        super().__init__(lambda request: is_list(request) and not self.seen, b"")
        params = {"Bucket": bucket, "EncodingType": "url"}
        with urlopen(client.generate_presigned_url("list_objects_v2", params)) as answer:
            self._body = answer.read()
        self._work = work

    @property
    def body(self):
        self._work()
        return self._body

    @body.setter
    def body(self, _):
        pass


def test_threads_that_want_the_same_directory_share_one_listing(syncer, bucket, proxy):
    with ThreadPoolExecutor(8) as pool:
        with proxy.rule(Hold(is_list)) as hold:
            proxy.counted()
            first = pool.submit(syncer.list_directory, bucket, "")
            assert hold.reached.wait(60)
            others = [submitted(pool, syncer.list_directory, bucket, "")[0] for _ in range(5)]
        for future in [first, *others]:
            future.result(20)
    assert proxy.counted() == {"LIST": 1}


def test_whoever_shares_a_listing_that_is_interrupted_lists_alone(syncer, mimicdb, bucket, proxy):
    with ThreadPoolExecutor(8) as pool:
        with proxy.rule(Hold(is_list)) as hold:
            first, cancellation = submitted(pool, syncer.list_directory, bucket, "")
            assert hold.reached.wait(60)
            second, _ = submitted(pool, syncer.list_directory, bucket, "")
            cancellation.cancel()
            with pytest.raises(Interrupted):
                first.result(5)
        second.result(20)
    assert mimicdb.scope(bucket, "").deep is False


def test_what_is_written_and_deleted_during_a_listing_stays_so(
    syncer, mimicdb, client, bucket, s3, proxy
):
    put(client, bucket, "a", "b")
    syncer.sync(bucket)

    def work():
        s3.put(bucket, "new", b"now", 3)
        s3.put(bucket, "b", b"changed", 7)
        s3.delete(bucket, "a")

    with proxy.rule(Meanwhile(client, bucket, work)):
        report = syncer.sync(bucket)
    assert (report.keys, report.added, report.changed, report.deleted) == (2, 0, 0, 0)
    assert [(entry.key, entry.size) for entry in mimicdb.listing(bucket)] == [("b", 7), ("new", 3)]
    assert syncer.sync(bucket)[6:10] == (0, 0, 0, 2)


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
            assert hold.reached.wait(60)
            put(client, bucket, "later")
            proxy.counted()
            others = [submitted(pool, syncer.sync, bucket)[0] for _ in range(3)]
        assert first.result(20) is not None
        reports = [future.result(20) for future in others]
    assert known(mimicdb, bucket) == ["later"]
    assert proxy.counted() == {"LIST": 1}  # all that waited share it
    assert reports[0] is reports[1] is reports[2]


def test_whoever_shares_a_sync_that_is_interrupted_syncs_alone(
    syncer, mimicdb, client, bucket, proxy
):
    with ThreadPoolExecutor(4) as pool:
        with proxy.rule(Hold(is_list)) as hold:
            first = pool.submit(syncer.sync, bucket)
            assert hold.reached.wait(60)
            put(client, bucket, "later")
            second, cancellation = submitted(pool, syncer.sync, bucket)
            third, _ = submitted(pool, syncer.sync, bucket)
            cancellation.cancel()
            with pytest.raises(Interrupted):
                second.result(5)
        first.result(20)
        assert third.result(20).error == ""
    assert known(mimicdb, bucket) == ["later"]
    assert syncer.sync(bucket).unchanged == 1


def test_a_sync_waits_for_no_other_scope(syncer, client, bucket, proxy):
    put(client, bucket, "d/a", "e/b")
    with ThreadPoolExecutor(4) as pool:
        with proxy.rule(Hold(lambda request: request.query.get("prefix") == ["d/"])) as hold:
            held = pool.submit(syncer.sync, bucket, "d/")
            assert hold.reached.wait(60)
            assert syncer.status(bucket, "d/").pages == 0
            assert syncer.sync(bucket, "e/").added == 1
        assert held.result(20).added == 1


def test_a_sync_within_a_wider_one_that_runs_does_not_wait_for_it(
    syncer, mimicdb, client, bucket, proxy
):
    put(client, bucket, "a", "d/b")
    with ThreadPoolExecutor(4) as pool:
        with proxy.rule(Hold(lambda request: is_list(request) and "prefix" not in request.query)):
            wider = pool.submit(syncer.sync, bucket)
            assert syncer.sync(bucket, "d/").added == 1
            assert mimicdb.lookup(bucket, "d/", "missing") == (None, None)
            assert not wider.done()
        assert wider.result(20).added == 1
    assert known(mimicdb, bucket) == ["a", "d/b"]


def test_a_sync_can_be_interrupted(syncer, mimicdb, client, bucket, proxy):
    put(client, bucket, "a")
    cancellation = Cancellation()
    with proxy.rule(Hold(is_list)) as hold:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(syncer.sync, bucket, cancellation=cancellation)
            assert hold.reached.wait(60)
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


KEYS = [f"{n:04}" for n in range(1100)]


@pytest.fixture(scope="module")
def two_pages(moto):
    """A bucket of moto with more keys than one page has."""
    client = plain(moto)
    client.create_bucket(Bucket="two-pages")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(client, "two-pages", key), KEYS))
    client.close()
    return "two-pages"


only_moto = pytest.mark.parametrize("server", ["moto"], indirect=True)


def is_second_page(request):
    return "continuation-token" in request.query


@only_moto
def test_pages_are_merged_one_by_one(syncer, mimicdb, two_pages, proxy):
    seen = []
    before = threading.active_count()  # the threads of other tests' servers
    assert syncer.sync(two_pages, progress=seen.append)[4:7] == (1100, 2, 1100)
    assert [progress.keys for progress in seen] == [1000, 1100]
    assert known(mimicdb, two_pages) == KEYS[:1000]  # a page of the mirror
    assert len(mimicdb.listing(two_pages, limit=2000)) == 1100
    assert proxy.counted() == {"LIST": 2}
    assert threading.active_count() < before + 60


@only_moto
def test_what_was_merged_before_a_failure_stays_and_nothing_is_deleted(
    syncer, mimicdb, two_pages, proxy
):
    for key in ("0001-gone", "1050-unknown"):
        mimicdb.record(two_pages, Entry(key, 1))
    with proxy.rule(Fail(is_second_page, 403, "AccessDenied")):
        with pytest.raises(AccessDenied):
            syncer.sync(two_pages)
    keys = [entry.key for entry in mimicdb.listing(two_pages, limit=2000)]
    assert keys == [*KEYS[:1000], "1050-unknown"]
    assert mimicdb.scope(two_pages, "") is None
    report = syncer.status(two_pages, "")
    assert (report.pages, report.deleted) == (1, 1)
    assert "AccessDenied" in report.error
    assert syncer.sync(two_pages)[6:10] == (100, 0, 1, 1000)
    assert syncer.status(two_pages, "").error == ""


@only_moto
def test_an_interrupted_sync_keeps_what_it_has_merged(syncer, mimicdb, two_pages, proxy):
    cancellation = Cancellation()
    with proxy.rule(Hold(is_second_page)), pytest.raises(Interrupted):
        syncer.sync(two_pages, "", lambda _: cancellation.cancel(), cancellation)
    assert len(mimicdb.listing(two_pages, limit=2000)) == 1000
    assert mimicdb.scope(two_pages, "") is None


@only_moto
def test_a_page_is_asked_for_again_when_too_much_was_written_meanwhile(
    syncer, mimicdb, two_pages, client, proxy
):
    """Then it may end sooner, and the next one must begin there."""

    def work():
        put(client, two_pages, "0000-new")
        for n in range(1010):  # more lines than the store's log keeps
            mimicdb.backend.apply(two_pages, (), [f"x{n:04}{m:02}" for m in range(100)])

    with proxy.rule(Meanwhile(client, two_pages, work)):
        report = syncer.sync(two_pages)
    client.delete_object(Bucket=two_pages, Key="0000-new")
    keys = [entry.key for entry in mimicdb.listing(two_pages, limit=2000)]
    assert keys == ["0000", "0000-new", *KEYS[1:]]
    assert (report.keys, report.pages) == (1101, 2)


@only_moto
def test_a_sync_of_all_reports_each_bucket(syncer, client, bucket, proxy):
    put(client, bucket, "a")
    refused = Fail(
        lambda request: is_list(request) and request.bucket != bucket, 403, "AccessDenied"
    )
    with proxy.rule(refused):
        reports = {report.bucket: report for report in syncer.sync_all()}
    assert (reports[bucket].added, reports[bucket].error) == (1, "")
    assert all("AccessDenied" in reports[name].error for name in reports.keys() - {bucket})
