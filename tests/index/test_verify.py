"""Drift between S3 and the mirror is found, told, and repaired on request."""

import json
from concurrent.futures import Future

import pytest
from support.clients import plain
from support.mounts import run, succeed
from support.proxy import Fail

from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import KEPT, LISTED, Entry, Scope
from mimicfs.errors import AccessDenied, KeyNotFound, NoSuchBucket, NotSynced
from mimicfs.index.verify import verify
from mimicfs.s3.requests.listing import Page

# How S3 is listed does not matter here: test_sync.py runs over each server.
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def put(client, bucket, *keys, body=b"x", **how):
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=body, **how)


@pytest.fixture
def drifted(syncer, client, bucket):
    """A bucket that somebody changed after it was synced."""
    put(client, bucket, "a", "d/b", "d/c", "e/f", "same")
    syncer.sync(bucket)
    put(client, bucket, "d/b", body=b"longer")
    put(client, bucket, "d/new")
    client.delete_object(Bucket=bucket, Key="e/f")
    return bucket


def drifts(mimicdb, s3, bucket, prefix="", **how):
    found = []
    report = verify(mimicdb, s3, bucket, prefix, found=found.append, **how)
    return report, [(drift.kind, drift.key, drift.fields) for drift in found]


def test_drift_is_told_and_left_as_it_is(drifted, mimicdb, s3, proxy):
    before = mimicdb.backend.scan(drifted)
    proxy.counted()
    report, found = drifts(mimicdb, s3, drifted)
    assert proxy.counted() == {"LIST": 1}
    assert found == [
        ("changed", "d/b", ["size", "etag"]),
        ("missing", "d/new", []),
        ("extra", "e/f", []),
    ]
    assert (report.keys, report.known, report.drift) == (5, 5, 3)
    assert (report.missing, report.extra, report.changed) == (1, 1, 1)
    assert report.synced_ns is not None
    assert mimicdb.backend.scan(drifted) == before
    report, found = drifts(mimicdb, s3, drifted, "e/")
    assert found == [("extra", "e/f", [])]


def test_drift_is_repaired(drifted, mimicdb, s3):
    listed_ns = mimicdb.scope(drifted, "").listed_ns
    assert drifts(mimicdb, s3, drifted, repair=True)[0].drift == 3
    scope = mimicdb.scope(drifted, "")
    assert scope.listed_ns > listed_ns
    assert (scope.added, scope.changed, scope.deleted) == (1, 1, 1)
    assert drifts(mimicdb, s3, drifted)[0].drift == 0


def test_what_was_never_listed_is_no_drift(syncer, mimicdb, s3, client, bucket):
    put(client, bucket, "a", "d/b", "e/f/g")
    with pytest.raises(NotSynced, match="mimicfs sync"):
        verify(mimicdb, s3, bucket)
    syncer.list_directory(bucket, "")
    mimicdb.backend.apply(bucket, [Entry("gone/", kind=LISTED), Entry("kept/", kind=KEPT)])
    report, found = drifts(mimicdb, s3, bucket)
    assert found == [("extra", "gone/", [])]
    assert (report.unlisted, report.known, report.synced_ns) == (2, 1, None)


def test_what_is_nowhere_is_an_error(drifted, mimicdb, s3):
    with pytest.raises(KeyNotFound, match="none/: no such directory"):
        verify(mimicdb, s3, drifted, "none/")
    mimicdb.complete("no-such-bucket", Scope("", True, 1))
    with pytest.raises(NoSuchBucket):
        verify(mimicdb, s3, "no-such-bucket")


def test_a_listing_that_fails_repairs_nothing(drifted, mimicdb, s3, proxy):
    before = mimicdb.backend.scan(drifted), mimicdb.scope(drifted, "")
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "AccessDenied")):
        with pytest.raises(AccessDenied):
            verify(mimicdb, s3, drifted, repair=True)
    assert (mimicdb.backend.scan(drifted), mimicdb.scope(drifted, "")) == before


class Pages:
    """A source whose pages are given; *meanwhile* is called when the first was listed."""

    def __init__(self, pages, meanwhile):
        self.pool = self
        self._pages = pages
        self._meanwhile = meanwhile

    def submit(self, call, *args):
        future = Future()
        future.set_result(call(*args))
        return future

    def list_page(self, bucket, prefix="", *, after="", token=None, **_):
        number = int(token or 0)
        entries = self._pages[number]
        if not number:
            self._meanwhile()
        last = number == len(self._pages) - 1
        return Page(entries, None if last else entries[-1].key, None if last else str(number + 1))


def test_what_changes_meanwhile_is_no_drift_and_pages_are_compared_apart(server, mimicdb):
    entries = [Entry(f"{n}", n) for n in range(8)]
    mimicdb.backend.apply("b", [*entries, Entry("35", 1)])
    mimicdb.complete("b", Scope("", True, 1))

    def meanwhile():
        mimicdb.record("b", Entry("1", 100))
        mimicdb.forget("b", "2")

    source = Pages([entries[:4], entries[4:7]], meanwhile)
    report, found = drifts(mimicdb, source, "b")
    assert found == [("extra", "35", []), ("extra", "7", [])]
    assert report.meanwhile == 2


def test_the_command_has_exit_codes_and_samples(state, proxy, client, bucket, tmp_path):
    common = ["--endpoint-url", proxy.url, "--store", f"sqlite://{tmp_path}/store.db"]
    put(client, bucket, "a", "b", "c")
    assert run("verify", *common, f"s3://{bucket}").returncode == 8
    succeed("sync", *common, f"s3://{bucket}")
    told = succeed("verify", *common, f"s3://{bucket}")
    assert told.startswith(f"s3://{bucket}/: 3 keys in S3, 3 in the mirror (synced 20")
    assert told.endswith(": 0 not in the mirror, 0 not in S3, 0 differ\n")
    other = plain(proxy.url)
    for key in ("a", "b", "c"):
        other.delete_object(Bucket=bucket, Key=key)
    other.close()
    store = SQLite(str(tmp_path / "store.db"))
    store.apply(bucket, [], ["b"])
    store.close()
    result = run("verify", *common, "--samples", "1", f"s3://{bucket}")
    assert result.returncode == 1
    assert result.stdout.splitlines()[0] == f"not in S3: s3://{bucket}/a"
    assert len(result.stdout.splitlines()) == 2
    result = run("verify", *common, "--repair", "--json", f"s3://{bucket}")
    first, *_, last = map(json.loads, result.stdout.splitlines())
    assert (first["drift"], first["key"], first["mirror"]["size"]) == ("extra", "a", 1)
    assert (last["extra"], last["repaired"]) == (2, True)
    assert run("verify", *common, f"s3://{bucket}").returncode == 0
