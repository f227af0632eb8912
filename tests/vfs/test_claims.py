"""Two mounts that rename one directory, or one in another, or to one place, take turns."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Hold, Proxy

from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import BucketOptions, Buckets, FileOptions, S3Options, Target, VFSOptions
from mimicfs.errors import Interrupted, PosixError, StoreUnavailable
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs import claims
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

_NOTE = "renames"


class Kernel:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Sharing:
    """A mount's file system, without a kernel."""

    def __init__(self, store: Path, staging: Path, bucket: str, url: str, stack: ExitStack) -> None:
        self.mimicdb = stack.enter_context(closing(Mirror(SQLite(str(store)))))
        self.mimicdb.join(staging.name)
        s3 = stack.enter_context(closing(S3(S3Options(endpoint_url=url), self.mimicdb)))
        parts = (self.mimicdb, s3, Syncer(self.mimicdb, s3), Journal.open(staging), Kernel())
        options = VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never")))
        self.fs = stack.enter_context(closing(VFS(*parts, options, FileOptions(staging))))
        self.caller = Caller(os.getuid(), os.getgid(), 0, Cancellation())

    def rename(self, old: str, new: str) -> str:
        """Rename a directory; return what came of it."""
        try:
            self.fs.rename(self.caller, *self._place(old), *self._place(new), 0)
        except PosixError as exc:
            return errno.errorcode[exc.errno]
        except Interrupted:
            return "interrupted"
        return "done"

    def _place(self, path: str) -> tuple[int, bytes]:
        *above, name = path.split("/")
        ino = ROOT_INO
        for each in above:
            ino = self.fs.lookup(self.caller, ino, each.encode()).ino
        return ino, name.encode()

    def claims(self, bucket: str) -> str | None:
        return self.mimicdb.note(bucket, _NOTE)


@pytest.fixture
def two(proxy: Proxy, bucket: str, client: Any, tmp_path: Path) -> Iterator[list[Sharing]]:
    for key in ("d/a", "d/s/b", "x/c"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    with ExitStack() as stack:
        store = tmp_path / "store.db"
        two = [Sharing(store, tmp_path / name, bucket, proxy.url, stack) for name in ("one", "two")]
        Syncer(two[0].mimicdb, two[0].fs._s3).sync(bucket)
        yield two


@pytest.fixture
def held(proxy: Proxy) -> Iterator[Hold]:
    """Copies wait until they are let go."""
    hold = Hold(lambda request: request.kind == "COPY")
    with proxy.rule(hold):
        yield hold
        hold.release()


def _keys(client: Any, bucket: str) -> list[str]:
    return [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]


def _met(
    two: list[Sharing], held: Hold, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> list[Future[str]]:
    """Begin the rename *first*, and then, while that copies, *then*."""
    one, other = two
    pool = ThreadPoolExecutor(2)
    running = [pool.submit(one.rename, *first.split())]
    assert held.reached.wait(10)
    looks, asked = other.mimicdb.note, list[str]()

    def note(bucket: str, name: str) -> str | None:  # asked while somebody is waited for
        asked.append(name)
        return looks(bucket, name)

    monkeypatch.setattr(other.mimicdb, "note", note)
    running.append(pool.submit(other.rename, *then.split()))
    wait_until(lambda: asked.count(_NOTE) > 1 or held.seen > 2)
    pool.shutdown(wait=False)
    return running


@pytest.mark.parametrize(
    ("then", "said", "left"),
    [
        ("d f", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("d/s t", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("x e", "ENOTEMPTY", ["e/a", "e/s/b", "x/c"]),
        ("x y", "done", ["e/a", "e/s/b", "y/c"]),
    ],
)
def test_of_two_renames_that_meet_the_second_finds_what_the_first_has_left(
    two: list[Sharing],
    held: Hold,
    bucket: str,
    client: Any,
    then: str,
    said: str,
    left: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = _met(two, held, monkeypatch, "d e", then)
    held.release()
    assert [each.result(20) for each in running] == ["done", said]
    assert _keys(client, bucket) == left
    assert two[0].claims(bucket) is None


def test_a_rename_that_waits_for_another_can_be_interrupted(
    two: list[Sharing],
    held: Hold,
    bucket: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = _met(two, held, monkeypatch, "d e", "d f")
    two[1].caller.cancellation.cancel()
    assert running[1].result(10) == "interrupted"
    held.release()
    assert running[0].result(20) == "done"
    assert _keys(client, bucket) == ["e/a", "e/s/b", "x/c"]


def test_a_claim_of_a_dead_mount_is_waited_for_no_longer(
    two: list[Sharing], bucket: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    two[0].mimicdb.set_note(bucket, _NOTE, '[["dead", "1", "d/", "e/"]]')
    assert two[1].rename("d", "f") == "done"
    assert "it is of a dead mount" in caplog.text
    assert _keys(client, bucket) == ["f/a", "f/s/b", "x/c"]
    assert two[0].claims(bucket) is None


def test_whoever_was_taken_for_dead_looks_again_before_anything_is_deleted(
    two: list[Sharing], bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    note = one.mimicdb.note

    def meanwhile(*of: str) -> str | None:  # all is copied
        monkeypatch.undo()
        assert note(*of) is not None
        one.mimicdb.set_note(bucket, _NOTE, None)  # as others do with what a dead mount claimed
        assert other.rename("d", "f") == "done"
        return note(*of)

    monkeypatch.setattr(one.mimicdb, "note", meanwhile)
    assert one.rename("d", "e") == "ENOENT"
    assert _keys(client, bucket) == ["f/a", "f/s/b", "x/c"]
    assert other.claims(bucket) is None


def _end_untold(one: Sharing, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rename x to y; the store does not take that it has ended."""
    swap, taken = one.mimicdb.swap_note, list[str]()

    def away(*asked: Any) -> Any:
        if taken and asked[-1] is None:
            raise StoreUnavailable("away")
        taken.append("claim")
        return swap(*asked)

    monkeypatch.setattr(one.mimicdb, "swap_note", away)
    assert one.rename("x", "y") == "done"
    assert one.claims(bucket) is not None
    monkeypatch.undo()


def test_an_end_that_the_store_did_not_take_is_said_with_the_next_beat(
    two: list[Sharing], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    _end_untold(one, bucket, monkeypatch)
    for call in one.mimicdb.member.beaten:
        call()
    assert one.claims(bucket) is None


def test_an_end_that_the_store_did_not_take_is_said_when_its_own_mount_waits_for_it(
    two: list[Sharing], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    one.mimicdb.member.beaten.clear()  # as in a store that nobody shares
    _end_untold(one, bucket, monkeypatch)
    monkeypatch.setattr(claims, "_ALIVE_S", 0.0)
    assert one.rename("d", "y/d") == "done"
    assert one.claims(bucket) is None
