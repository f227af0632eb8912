"""Renames beside others who change the same names: what they did before the originals were deleted
is at the new place, its bytes and what is stored with it, which no ETag shows. And the requests
of one beside nobody."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from support.clients import without_acls
from support.kernels import Kernel
from support.mounts import costs, wait_until
from support.proxy import Hold, Proxy, Rule

from mimicfs.config.values import BucketOptions, Buckets, FileOptions, Target, VFSOptions
from mimicfs.errors import ObjectChanged, PosixError
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import S3, Content
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS
from mimicfs.vfs.intents import Intents, KeyTree
from mimicfs.vfs.renames import Rename, Renames

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
_BEFORE, _AFTER = {"mode": "33188"}, {"mode": "33152"}


@pytest.fixture
def write(s3: S3, bucket: str) -> Callable[[str, bytes], None]:
    """Write a file, as another mount does."""

    def write(key: str, body: bytes) -> None:
        s3.put(bucket, key, body, len(body), Content("text/plain", _BEFORE))

    return write


@pytest.fixture
def chmod(s3: S3, mimicdb: Mirror, bucket: str) -> Callable[[str], None]:
    """Change the mode of a file, as another mount does."""

    def chmod(key: str) -> None:
        entry = mimicdb.entry(bucket, key)
        assert entry is not None
        s3.copy((bucket, entry), bucket, key, Content("text/plain", _AFTER))

    return chmod


@pytest.fixture
def renames(
    s3: S3, mimicdb: Mirror, write: Callable[[str, bytes], None], bucket: str, tmp_path: Path
) -> Renames:
    for key in ("d/a", "d/b", "d/s/c"):
        write(key, key.encode())
    syncer = Syncer(mimicdb, s3)
    syncer.sync(bucket)
    return Renames(mimicdb, s3, syncer, Intents(tmp_path / "renames", "account"))


def _begun(renames: Renames, bucket: str) -> Rename:
    rename = renames.begin(Cancellation(), KeyTree(bucket, "d/"), KeyTree(bucket, "e/"))
    rename.copy(Cancellation())
    return rename


def _settled(rename: Rename) -> Rename:
    rename.settle(Cancellation())
    rename.commit()
    return rename


def _stored(client: Any, bucket: str) -> dict[str, tuple[bytes, str]]:
    """Return the body and the mode of each object of S3."""
    found = {}
    for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
        answer = client.get_object(Bucket=bucket, Key=item["Key"])
        found[item["Key"]] = answer["Body"].read(), answer["Metadata"]["mode"]
    return found


def _mode(mimicdb: Mirror, bucket: str, key: str) -> str:
    entry = mimicdb.entry(bucket, key)
    assert entry is not None
    assert entry.meta is not None
    return entry.meta["mode"]


def test_a_mode_that_another_sets_behind_the_copy_is_that_of_the_new_place(
    renames: Renames,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    chmod: Callable[[str], None],
) -> None:
    rename = _begun(renames, bucket)
    chmod("d/a")
    _settled(rename).delete()
    assert _stored(client, bucket) == {
        "e/a": (b"d/a", "33152"),
        "e/b": (b"d/b", "33188"),
        "e/s/c": (b"d/s/c", "33188"),
    }
    assert _mode(mimicdb, bucket, "e/a") == "33152"


def test_what_others_do_behind_the_last_listing_is_at_the_new_place(
    renames: Renames,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    chmod: Callable[[str], None],
    write: Callable[[str, bytes], None],
) -> None:
    rename = _settled(_begun(renames, bucket))
    chmod("d/a")
    write("d/b", b"written again")
    write("d/s/new", b"made")
    rename.delete()
    assert _stored(client, bucket) == {
        "e/a": (b"d/a", "33152"),
        "e/b": (b"written again", "33188"),
        "e/s/c": (b"d/s/c", "33188"),
        "e/s/new": (b"made", "33188"),
    }
    assert [each.key for each in mimicdb.listing(bucket)] == ["e/a", "e/b", "e/s/c", "e/s/new"]
    assert _mode(mimicdb, bucket, "e/a") == "33152"


def test_what_another_writes_unseen_before_the_deletion_is_at_the_new_place(
    renames: Renames, bucket: str, client: Any
) -> None:
    rename = _settled(_begun(renames, bucket))
    client.put_object(Bucket=bucket, Key="d/b", Body=b"another's", Metadata=_BEFORE)
    rename.delete()
    assert _stored(client, bucket) == {
        "e/a": (b"d/a", "33188"),
        "e/b": (b"another's", "33188"),
        "e/s/c": (b"d/s/c", "33188"),
    }


def test_what_another_writes_unseen_before_the_copy_is_at_the_new_place(
    renames: Renames, bucket: str, client: Any
) -> None:
    rename = renames.begin(Cancellation(), KeyTree(bucket, "d/"), KeyTree(bucket, "e/"))
    client.put_object(Bucket=bucket, Key="d/b", Body=b"another's", Metadata=_BEFORE)
    rename.copy(Cancellation())  # of what nobody knew: moto does not look at the condition
    _settled(rename).delete()
    assert _stored(client, bucket) == {
        "e/a": (b"d/a", "33188"),
        "e/b": (b"another's", "33188"),
        "e/s/c": (b"d/s/c", "33188"),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_what_another_writes_unseen_and_deletes_behind_the_copy_is_at_no_place(
    renames: Renames, bucket: str, client: Any, proxy: Proxy, fails: bool
) -> None:
    rename = renames.begin(Cancellation(), KeyTree(bucket, "d/"), KeyTree(bucket, "e/"))
    client.put_object(Bucket=bucket, Key="d/b", Body=b"another's", Metadata=_BEFORE)
    copied = Hold(lambda request: request.kind == "COPY" and request.key == "e/b", answers=True)
    with proxy.rule(copied), ThreadPoolExecutor(1) as pool:
        copying = pool.submit(rename.copy, Cancellation())
        assert copied.reached.wait(60)
        client.delete_object(Bucket=bucket, Key="d/b")
        copied.release()
        copying.result()
    if fails:
        rename.undo()
    else:
        _settled(rename).delete()
    there = "d" if fails else "e"
    assert [*_stored(client, bucket)] == [f"{there}/a", f"{there}/s/c"]


def test_what_another_is_about_to_change_is_waited_for(
    renames: Renames, bucket: str, client: Any, chmod: Callable[[str], None], proxy: Proxy
) -> None:
    rename = _begun(renames, bucket)
    late = Hold(lambda request: request.kind == "COPY" and request.key == "d/a", answers=True)
    with proxy.rule(late), ThreadPoolExecutor(2) as pool:
        changing = pool.submit(chmod, "d/a")
        assert late.reached.wait(60)
        settling = pool.submit(_settled, rename)
        wait([settling], 0.5)
        late.release()
        changing.result()
        settling.result()
    rename.delete()
    assert _stored(client, bucket)["e/a"] == (b"d/a", "33152")


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("name", ["a", "new"])
def test_what_was_written_at_both_places_before_the_first_deletion_is_at_both(
    renames: Renames, bucket: str, client: Any, write: Callable[[str, bytes], None], name: str
) -> None:
    rename = _begun(renames, bucket)
    write(f"e/{name}", b"by whoever had it open")
    write(f"d/{name}", b"by whoever opened it then")
    with pytest.raises(PosixError, match="both are being written to") as raised:
        rename.settle(Cancellation())
    assert raised.value.errno == errno.EBUSY
    rename.undo()
    found = _stored(client, bucket)
    assert found.pop(f"d/{name}") == (b"by whoever opened it then", "33188")
    assert found.pop(f"e/{name}") == (b"by whoever had it open", "33188")
    assert sorted({*found, "d/a"}) == ["d/a", "d/b", "d/s/c"]


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("name", ["a", "new"])
def test_what_another_writes_unseen_over_a_copy_is_not_copied_over(
    renames: Renames, bucket: str, client: Any, name: str
) -> None:
    rename = _begun(renames, bucket)
    for key in (f"e/{name}", f"d/{name}"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode() * 2, Metadata=_BEFORE)
    with pytest.raises(PosixError, match="both are being written to"):
        rename.settle(Cancellation())
    rename.undo()
    found = _stored(client, bucket)
    assert found[f"d/{name}"] == (f"d/{name}".encode() * 2, "33188")
    assert found[f"e/{name}"] == (f"e/{name}".encode() * 2, "33188")


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("others", ["write", "delete", "nothing"])
def test_what_was_written_to_the_new_place_is_no_copy_though_the_original_has_another_mode(
    renames: Renames,
    s3: S3,
    bucket: str,
    client: Any,
    write: Callable[[str, bytes], None],
    chmod: Callable[[str], None],
    others: str,
) -> None:
    rename = _begun(renames, bucket)
    write("e/a", b"by whoever had it open")
    chmod("d/a")
    rename.copy(Cancellation())
    if others == "write":
        write("d/a", b"by whoever opened it then")
        with pytest.raises(PosixError, match="both are being written to"):
            rename.settle(Cancellation())
    elif others == "delete":
        s3.delete(bucket, "d/a")
        rename.settle(Cancellation())
    rename.undo()
    assert _stored(client, bucket)["e/a"] == (b"by whoever had it open", "33188")


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("name", ["a", "new"])
def test_what_was_written_at_both_places_behind_the_last_listing_is_at_both(
    renames: Renames, bucket: str, client: Any, write: Callable[[str, bytes], None], name: str
) -> None:
    rename = _settled(_begun(renames, bucket))
    write(f"e/{name}", b"by whoever had it open")
    write(f"d/{name}", b"by whoever opened it then")
    with pytest.raises(PosixError, match="both are being written to") as raised:
        rename.delete()
    assert raised.value.errno == errno.EIO
    renames.recover()
    found = _stored(client, bucket)
    assert found.pop(f"d/{name}") == (b"by whoever opened it then", "33188")
    assert found.pop(f"e/{name}") == (b"by whoever had it open", "33188")
    assert sorted({*found, "e/a"}) == ["e/a", "e/b", "e/s/c"]


def test_what_is_deleted_and_made_again_as_it_was_in_one_second_is_at_the_new_place(
    renames: Renames, mimicdb: Mirror, s3: S3, bucket: str, client: Any
) -> None:
    rename = _begun(renames, bucket)
    known = mimicdb.entry(bucket, "d/a")
    assert known is not None
    s3.delete(bucket, "d/a")
    rename._syncer.sync(*rename.old)
    rename.copy(Cancellation())
    assert rename._delete_orphans() == []
    client.put_object(Bucket=bucket, Key="d/a", Body=b"d/a", Metadata=_BEFORE)
    mimicdb.record(bucket, known)  # as it was: S3 shows seconds only
    _settled(rename).delete()
    assert _stored(client, bucket) == {
        "e/a": (b"d/a", "33188"),
        "e/b": (b"d/b", "33188"),
        "e/s/c": (b"d/s/c", "33188"),
    }


@pytest.mark.usefixtures("caplog")
def test_a_rename_that_is_finished_later_leaves_what_has_another_mode_since(
    renames: Renames, bucket: str, client: Any, chmod: Callable[[str], None]
) -> None:
    rename = _settled(_begun(renames, bucket))
    rename._intent.leave()  # as the end of its process does
    chmod("d/a")
    renames.recover()
    assert _stored(client, bucket) == {
        "d/a": (b"d/a", "33152"),
        "e/a": (b"d/a", "33188"),
        "e/b": (b"d/b", "33188"),
        "e/s/c": (b"d/s/c", "33188"),
    }


def test_a_file_that_gets_another_mode_while_it_is_renamed_has_that(
    s3: S3,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    proxy: Proxy,
    tmp_path: Path,
    write: Callable[[str, bytes], None],
    chmod: Callable[[str], None],
) -> None:
    write("f", b"f")
    Syncer(mimicdb, s3).sync(bucket)
    fs = _mounted(s3, mimicdb, bucket, tmp_path)
    copied = Hold(lambda request: request.kind == "COPY" and request.key == "g", answers=True)
    with proxy.rule(copied), ThreadPoolExecutor(1) as pool:
        fs.lookup(CALLER, ROOT_INO, b"f")
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"f", ROOT_INO, b"g", 0)
        assert copied.reached.wait(60)
        chmod("f")
        copied.release()
        renaming.result()
    assert _stored(client, bucket) == {"g": (b"f", "33152")}
    assert _mode(mimicdb, bucket, "g") == "33152"
    fs.close()


def test_a_file_whose_mode_others_change_all_the_while_it_is_renamed_has_the_last_one(
    s3: S3,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    proxy: Proxy,
    tmp_path: Path,
    write: Callable[[str, bytes], None],
) -> None:
    modes = iter(range(33153, 33160))

    class Chmod(Rule):
        def after(self, handler: Any, response: Any) -> bool:
            entry, mode = mimicdb.entry(bucket, "f"), next(modes, None)
            if entry is not None and mode is not None:
                s3.copy((bucket, entry), bucket, "f", Content("text/plain", {"mode": str(mode)}))
            return False

    write("f", b"f")
    Syncer(mimicdb, s3).sync(bucket)
    fs = _mounted(s3, mimicdb, bucket, tmp_path)
    with proxy.rule(Chmod(lambda request: request.kind == "COPY" and request.key == "g")):
        fs.lookup(CALLER, ROOT_INO, b"f")
        fs.rename(CALLER, ROOT_INO, b"f", ROOT_INO, b"g", 0)
    assert _stored(client, bucket) == {"g": (b"f", "33159")}
    fs.close()


def test_a_directory_costs_a_copy_for_each_object_and_a_look_at_both_ends(
    s3: S3,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    proxy: Proxy,
    write: Callable[[str, bytes], None],
    tmp_path: Path,
) -> None:
    without_acls(client, bucket)
    keys = [f"d/{name}" for name in "abcdefg"]
    for key in ("f", *keys):
        write(key, key.encode())
    Syncer(mimicdb, s3).sync(bucket)
    # Nothing looks after changes that take long here, and S3 is asked about none of them.
    fs = _mounted(s3, mimicdb, bucket, tmp_path)
    # It is known now that the server looks at conditions, and that there are no ACLs.
    fs.mkdir(CALLER, ROOT_INO, b"made", 0o755)
    fs.rename(CALLER, ROOT_INO, b"f", ROOT_INO, b"g", 0)
    # moto ignores the ETags of DeleteObjects, which is tried once, after a HEAD.
    with costs(proxy, LIST=2, COPY=7, HEAD=1, POST=1, DELETE=6):
        fs.rename(CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
    there = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert there == [*(key.replace("d/", "e/") for key in keys), "g", "made/"]
    fs.close()


def _mounted(s3: S3, mimicdb: Mirror, bucket: str, tmp_path: Path) -> VFS:
    options = VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never")))
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    return VFS(*parts, options, FileOptions(tmp_path))


def _last_listing(mimicdb: Mirror, bucket: str) -> Hold:
    """Hold the listing of d/ once everything in it was copied."""
    return Hold(
        lambda request: (
            request.kind == "LIST"
            and request.query.get("prefix") == ["d/"]
            and mimicdb.entry(bucket, "e/s/c") is not None
        )
    )


@pytest.mark.usefixtures("caplog")
def test_an_open_file_of_a_rename_that_fails_does_not_stand_on_what_another_wrote_meanwhile(
    renames: Renames,
    s3: S3,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    proxy: Proxy,
    tmp_path: Path,
    write: Callable[[str, bytes], None],
) -> None:
    del renames  # which has made the files
    fs = _mounted(s3, mimicdb, bucket, tmp_path)
    listing = _last_listing(mimicdb, bucket)
    directory = fs.lookup(CALLER, ROOT_INO, b"d").ino
    opened = fs.open(CALLER, fs.lookup(CALLER, directory, b"b").ino, os.O_RDWR).handle
    with proxy.rule(listing), ThreadPoolExecutor(1) as pool:
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert listing.reached.wait(60)
        write("e/a", b"at the new place")
        write("d/a", b"at the old place")  # so it fails
        write("d/b", b"another's")
        listing.release()
        with pytest.raises(PosixError, match="both are being written to"):
            renaming.result()
    with pytest.raises(ObjectChanged):
        fs.write(CALLER, opened, 0, memoryview(b"D"), append=False)
    assert _stored(client, bucket)["d/b"] == (b"another's", "33188")
    fs.release(opened)
    fs.close()


def test_a_new_file_that_is_sent_while_its_directory_is_renamed_is_written_on(
    renames: Renames,
    s3: S3,
    mimicdb: Mirror,
    bucket: str,
    client: Any,
    proxy: Proxy,
    tmp_path: Path,
) -> None:
    del renames  # which has made the files
    fs = _mounted(s3, mimicdb, bucket, tmp_path)
    copying = Hold(lambda request: request.kind == "COPY" and request.key == "e/a")
    sending = Hold(lambda request: request.kind == "PUT" and request.key == "d/new")
    listing = _last_listing(mimicdb, bucket)
    directory = fs.lookup(CALLER, ROOT_INO, b"d").ino
    with (
        ThreadPoolExecutor(2) as pool,
        proxy.rule(copying),
        proxy.rule(sending),
        proxy.rule(listing),
    ):
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert copying.reached.wait(60)
        _, opened = fs.create(CALLER, directory, b"new", 0o644, os.O_WRONLY)
        fs.write(CALLER, opened.handle, 0, memoryview(b"one"), append=False)
        synced = pool.submit(fs.fsync, CALLER, opened.handle)
        assert sending.reached.wait(60)
        copying.release()
        file = fs._handles.file(opened.handle)
        assert file is not None
        wait_until(lambda: bool(file._change._waiting), 10)
        sending.release()
        synced.result()
        assert listing.reached.wait(60)
        fs.write(CALLER, opened.handle, 3, memoryview(b", two"), append=False)
        synced = pool.submit(fs.fsync, CALLER, opened.handle)  # waits for the rename
        listing.release()
        renaming.result()
        synced.result()
    fs.write(CALLER, opened.handle, 8, memoryview(b", three"), append=False)
    fs.fsync(CALLER, opened.handle)
    found = client.get_object(Bucket=bucket, Key="e/new")["Body"].read()
    assert found == b"one, two, three"
    fs.release(opened.handle)
    fs.close()
