"""A directory without a marker stays when its last name goes, and only then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.kernels import Kernel
from support.proxy import Fail, Lose, Proxy

from mimicfs.config.values import BucketOptions, Buckets, FileOptions, Target, VFSOptions
from mimicfs.entry import KEPT, Entry
from mimicfs.errors import MimicError
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS
from mimicfs.vfs.intents import Intents, KeyTree
from mimicfs.vfs.renames import Rename, Renames

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
_META = {"mode": "16872"}  # as mkdir has it


def over(s3: S3, mimicdb: Mirror, bucket: str, tmp_path: Path) -> VFS:
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    return VFS(
        *parts,
        VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never"))),
        FileOptions(tmp_path),
    )


@pytest.fixture
def fs(s3: S3, mimicdb: Mirror, bucket: str, client: Any, tmp_path: Path) -> Iterator[VFS]:
    client.put_object(Bucket=bucket, Key="d/a", Body=b"a")
    Syncer(mimicdb, s3).sync(bucket)
    fs = over(s3, mimicdb, bucket, tmp_path)
    fs.lookup(CALLER, fs.lookup(CALLER, ROOT_INO, b"d").ino, b"a")
    yield fs
    fs.close()


def _is_delete(request: Any) -> bool:
    return bool(request.kind == "DELETE" and request.key == "d/a")


def test_an_emptied_directory_stays_though_the_answer_to_the_removal_was_lost(
    fs: VFS, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    with proxy.rule(Lose(_is_delete, times=99)), pytest.raises(MimicError):
        fs.unlink(CALLER, d, b"a")
    mimicdb.intents.look_after()
    assert mimicdb.entry(bucket, "d/a") is None
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)
    assert fs.lookup(CALLER, ROOT_INO, b"d").ino == d


def test_a_directory_whose_last_name_another_removes_stays_though_we_are_refused(
    fs: VFS, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    mimicdb.intents.begin(bucket, ["d/a"])  # what it has found kept, it does not keep itself
    with proxy.rule(Fail(_is_delete, 403, "AccessDenied")), pytest.raises(MimicError):
        fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)


def test_a_directory_that_has_its_last_name_still_is_not_kept(
    fs: VFS, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    with proxy.rule(Fail(_is_delete, 403, "AccessDenied")), pytest.raises(MimicError):
        fs.unlink(CALLER, d, b"a")
    mimicdb.forget(bucket, "d/a")
    assert mimicdb.entry(bucket, "d/") is None


def _removed_by_another(mimicdb: Mirror, bucket: str) -> None:
    """Another mount has removed d/a, the last name of d, and said that d stays."""
    mimicdb.keep(bucket, "d/")
    mimicdb.forget(bucket, "d/a")


def _before(
    monkeypatch: pytest.MonkeyPatch, mimicdb: Mirror, method: str, happens: Callable[[], None]
) -> None:
    """Have something happen once, just before *mimicdb* does *method*."""
    real = getattr(mimicdb, method)

    def meanwhile(*where: Any) -> Any:
        monkeypatch.setattr(mimicdb, method, real)
        happens()
        return real(*where)

    monkeypatch.setattr(mimicdb, method, meanwhile)


def test_what_another_mount_said_that_removed_the_last_name_is_not_taken_back(
    fs: VFS, mimicdb: Mirror, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    _before(monkeypatch, mimicdb, "keep", lambda: _removed_by_another(mimicdb, bucket))
    fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)


def test_who_removes_the_last_name_behind_what_another_said_relies_on_that(
    fs: VFS, mimicdb: Mirror, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    # by a mount that has found d kept
    _before(monkeypatch, mimicdb, "has_still", lambda: mimicdb.forget(bucket, "d/a"))
    fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)


def test_a_directory_that_was_removed_with_its_last_name_is_not_kept(
    fs: VFS, mimicdb: Mirror, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    # with d: a rename, which has looked behind it
    _before(monkeypatch, mimicdb, "keep", lambda: mimicdb.forget(bucket, "d/a"))
    fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") is None


@pytest.mark.parametrize(("others", "entry"), [((), Entry("d/", kind=KEPT)), (("d/b",), None)])
def test_a_name_leaves_a_directory_of_which_no_listing_is_known(
    fs: VFS,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    others: tuple[str, ...],
    entry: Entry | None,
) -> None:
    for key in others:
        client.put_object(Bucket=bucket, Key=key, Body=b"b")
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    mimicdb.backend.unmark(bucket, "d/")  # as where only a message of S3 has told of its name
    fs.unlink(CALLER, d, b"a")
    assert [each.key for each in mimicdb.children(bucket, "d/", "", 9)] == list(others)
    assert mimicdb.entry(bucket, "d/") == entry


def _with_two(fs: VFS, mimicdb: Mirror, s3: S3, bucket: str, client: Any) -> int:
    client.put_object(Bucket=bucket, Key="d/b", Body=b"b")
    Syncer(mimicdb, s3).sync(bucket)
    return fs.lookup(CALLER, ROOT_INO, b"d").ino


def test_a_directory_whose_last_two_names_two_mounts_remove_at_once_stays(
    fs: VFS, mimicdb: Mirror, s3: S3, bucket: str, client: Any
) -> None:
    d = _with_two(fs, mimicdb, s3, bucket, client)
    theirs = mimicdb.intents.begin(bucket, ["d/b"], deletes=True)
    fs.unlink(CALLER, d, b"a")
    client.delete_object(Bucket=bucket, Key="d/b")
    with theirs.learning():
        mimicdb.forget(bucket, "d/b")
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)
    assert mimicdb.intents.all_unsettled(bucket) == []


def test_a_name_that_another_mount_overwrites_is_not_about_to_go(
    fs: VFS, mimicdb: Mirror, s3: S3, bucket: str, client: Any
) -> None:
    d = _with_two(fs, mimicdb, s3, bucket, client)
    mimicdb.intents.begin(bucket, ["d/b"])
    fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") is None


def test_a_name_of_which_nobody_knows_whether_it_was_removed_may_be_gone(
    fs: VFS, mimicdb: Mirror, s3: S3, bucket: str, client: Any
) -> None:
    d = _with_two(fs, mimicdb, s3, bucket, client)
    theirs = mimicdb.intents.begin(bucket, ["d/b"], deletes=True)
    mimicdb.intents.end(theirs, unsure=True)
    fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)


def test_a_directory_of_which_nobody_removes_the_other_name_is_not_kept(
    fs: VFS, mimicdb: Mirror, s3: S3, bucket: str, client: Any, proxy: Proxy
) -> None:
    d = _with_two(fs, mimicdb, s3, bucket, client)
    with proxy.rule(Fail(_is_delete, 403, "AccessDenied")), pytest.raises(MimicError):
        fs.unlink(CALLER, d, b"a")
    assert mimicdb.intents.all_unsettled(bucket) == []
    fs.unlink(CALLER, d, b"a")
    assert mimicdb.entry(bucket, "d/") is None
    assert mimicdb.intents.all_unsettled(bucket) == []


def test_a_directory_without_an_object_is_removed_beside_another_name(
    fs: VFS, mimicdb: Mirror, bucket: str
) -> None:
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    mimicdb.keep(bucket, "d/k/", _META)
    mimicdb.intents.begin(bucket, ["d/a"], deletes=True)
    fs.rmdir(CALLER, d, b"k")
    assert mimicdb.entry(bucket, "d/k/") is None
    assert mimicdb.entry(bucket, "d/") == Entry("d/", kind=KEPT)
    assert [row.key for row in mimicdb.intents.all_unsettled(bucket)] == ["d/a"]


# Renames


@pytest.fixture
def renames(s3: S3, mimicdb: Mirror, bucket: str, client: Any, tmp_path: Path) -> Renames:
    client.put_object(Bucket=bucket, Key="d/s/g", Body=b"g")
    mimicdb.keep(bucket, "d/k/", _META)
    syncer = Syncer(mimicdb, s3)
    syncer.sync(bucket)
    return Renames(mimicdb, s3, syncer, Intents(tmp_path / "renames", "account"))


def _copied(renames: Renames, bucket: str) -> Rename:
    rename = renames.begin(Cancellation(), KeyTree(bucket, "d/"), KeyTree(bucket, "e/"))
    rename.copy(Cancellation())
    rename.settle(Cancellation())
    rename.commit()
    return rename


def _kept(mimicdb: Mirror, bucket: str) -> list[str]:
    return [each.key for each in mimicdb.scan(bucket, "", "", 99) if each.kind == KEPT]


@pytest.mark.parametrize("meta", [_META, {}])
def test_a_rename_leaves_the_directories_that_another_has_made_since_it_copied(
    renames: Renames, mimicdb: Mirror, bucket: str, meta: dict[str, str]
) -> None:
    rename = _copied(renames, bucket)
    mimicdb.keep(bucket, "d/x/", meta)
    rename.delete()
    assert _kept(mimicdb, bucket) == ["d/x/", "e/k/"]


def test_a_rename_leaves_the_directory_that_another_has_made_in_the_place_of_the_old_one(
    renames: Renames, mimicdb: Mirror, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, forget_kept = _copied(renames, bucket), mimicdb.forget_kept

    def meanwhile(*where: Any) -> None:
        mimicdb.keep(bucket, "d/", _META)
        forget_kept(*where)

    monkeypatch.setattr(mimicdb, "forget_kept", meanwhile)
    rename.delete()
    assert _kept(mimicdb, bucket) == ["d/", "e/k/"]


def test_a_rename_forgets_what_was_kept_because_its_last_name_went(
    renames: Renames, mimicdb: Mirror, bucket: str
) -> None:
    rename = _copied(renames, bucket)
    mimicdb.keep(bucket, "d/s/")
    rename.delete()
    assert _kept(mimicdb, bucket) == ["e/k/"]


def test_a_rename_leaves_a_directory_whose_last_name_went_and_was_none_that_it_moved(
    renames: Renames, mimicdb: Mirror, bucket: str
) -> None:
    rename = _copied(renames, bucket)
    mimicdb.keep(bucket, "d/y/")  # of which this mount's copy of the store has not heard
    rename.delete()
    assert _kept(mimicdb, bucket) == ["d/y/", "e/k/"]


@pytest.mark.usefixtures("caplog")
def test_a_rename_that_is_finished_later_forgets_only_directories_that_are_at_the_new_place(
    renames: Renames, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    rename = _copied(renames, bucket)
    with proxy.rule(Fail(lambda request: request.kind in ("POST", "DELETE"), 403, "AccessDenied")):
        with suppress(MimicError):
            rename.delete()
    mimicdb.keep(bucket, "d/k/", _META)  # as if it had died before
    mimicdb.keep(bucket, "d/x/", _META)
    renames.recover()
    assert _kept(mimicdb, bucket) == ["d/x/", "e/k/"]
