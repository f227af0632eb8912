"""The file system against a model, with writers that it does not see, and syncs.

`truth` is what S3 has; `view` is what the mount must show: its own changes at once, those of
others after a sync, or when an access meets them. Over a real server; the kernel is played by
the test, which looks every name up.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.clients import plain

from mimicfs.backends.memory import Memory
from mimicfs.config import FileOptions, S3Options, Target, VFSOptions
from mimicfs.errors import MimicError
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import MimicDB
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.s3.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs import VFS

FILES = ["a", "b", "d/a", "d/b", "d/e/a"]
DIRECTORIES = ["d", "d/e", "x"]
ESTALE, ENOENT, ENOTEMPTY, EEXIST = 116, 2, 39, 17
files = st.sampled_from(FILES)
contents = st.binary(max_size=8)
_numbers = itertools.count()


class Kernel:
    """Keeps nothing, so needs to be told nothing."""

    def entry_changed(self, parent, name): ...
    def listing_changed(self, ino): ...
    def attr_changed(self, ino): ...
    def data_changed(self, ino): ...
    def everything_changed(self): ...
    def names_changed(self): ...
    def flush(self, timeout_s):
        return True


def above(key):
    """The directories above *key*, ending in "/"."""
    return [key[: n + 1] for n, letter in enumerate(key[:-1]) if letter == "/"]


class FileSystem(RuleBasedStateMachine):
    url: str
    directory: Path

    def __init__(self):
        super().__init__()
        self.client = plain(self.url)
        self.bucket = f"vfs-{os.getpid()}-{next(_numbers)}"
        self.client.create_bucket(Bucket=self.bucket)
        self.mimicdb = MimicDB(Memory())
        self.s3 = S3(S3Options(endpoint_url=self.url), self.mimicdb)
        self.mimicdb.add_bucket(self.bucket, 1)
        staging = self.directory / self.bucket
        self.fs = VFS(
            *(self.mimicdb, self.s3, Syncer(self.mimicdb, self.s3), Journal.open(staging)),
            Kernel(),
            VFSOptions(Target(self.bucket)),
            FileOptions(staging),
        )
        self.caller = Caller(os.getuid(), os.getgid(), 0, Cancellation())
        self.truth: dict[str, bytes] = {}
        self.view: dict[str, bytes] = {}
        self.kept: set[str] = set()
        self.sync()

    def teardown(self):
        self.fs.close()
        self.s3.close()
        self.client.close()

    # The mount, by paths

    def ino(self, path):
        ino = ROOT_INO
        for name in path.split("/") if path else []:
            ino = self.fs.lookup(self.caller, ino, name.encode()).ino
        return ino

    def parent(self, path):
        head, _, name = path.rpartition("/")
        return self.ino(head), name.encode()

    def walk(self, ino=ROOT_INO, path=""):
        cookie = 0
        while page := self.fs.readdir(self.caller, ino, cookie, 400, 152, hold=True):
            for entry in page:
                name = path + entry.name.decode()
                if entry.attr.mode & 0o040000:
                    yield name + "/", 0
                    yield from self.walk(entry.attr.ino, name + "/")
                else:
                    yield name, entry.attr.size
            cookie = page[-1].cookie

    # What the view is

    def directories(self):
        """The directories that must be shown."""
        keys = [*self.view, *self.kept]
        return {up for key in keys for up in above(key)} | {k for k in keys if k.endswith("/")}

    def is_directory(self, path):
        return f"{path}/" in self.directories()

    def keep(self, key):
        """What stays when *key* has gone: the directory that it was in."""
        for directory in reversed(above(key)):
            if not any(k.startswith(directory) for k in [*self.view, *self.kept]):
                self.kept.add(directory)
            return

    def has_parent(self, path):
        head = path.rpartition("/")[0]
        return not head or self.is_directory(head)

    def met(self, exc, key):
        """An access met a change by somebody else: the mirror has been repaired."""
        assert exc.errno in (ESTALE, ENOENT), exc
        assert self.view.get(key) != self.truth.get(key), exc
        if key in self.truth:
            self.view[key] = self.truth[key]
        else:
            self.view.pop(key, None)

    # Rules

    @rule(path=files, data=contents)
    def write(self, path, data):
        if not self.has_parent(path) or path in self.view:
            return
        parent, name = self.parent(path)
        _, opened = self.fs.create(self.caller, parent, name, 0o644, os.O_WRONLY)
        self.fs.write(self.caller, opened.handle, 0, memoryview(data))
        assert path in dict(self.walk())
        self.fs.flush(self.caller, opened.handle)
        self.fs.release(opened.handle)
        self.truth[path] = self.view[path] = data

    @rule(path=files, data=contents, how=st.sampled_from(["replace", "append", "truncate"]))
    def change(self, path, data, how):
        if path not in self.view:
            return
        flags = os.O_WRONLY | (os.O_TRUNC if how == "replace" else 0)
        old = self.view[path]
        new = {"replace": data, "append": old + data, "truncate": old[: len(data)]}[how]
        try:
            if how == "truncate":
                size = min(len(data), len(old))
                self.fs.setattr(self.caller, self.ino(path), NewAttr(size=size), None)
            else:
                opened = self.fs.open(self.caller, self.ino(path), flags)
                try:
                    offset = len(old) if how == "append" else 0
                    if data:
                        self.fs.write(self.caller, opened.handle, offset, memoryview(data))
                    self.fs.flush(self.caller, opened.handle)
                finally:
                    self.fs.release(opened.handle)
        except MimicError as exc:
            self.met(exc, path)
            return
        if new != old or how == "replace":
            self.truth[path] = self.view[path] = new

    @rule(path=files)
    def read(self, path):
        if path not in self.view:
            with pytest.raises(MimicError) as raised:
                self.ino(path)
            assert raised.value.errno == ENOENT
            return
        opened = self.fs.open(self.caller, self.ino(path), os.O_RDONLY)
        try:
            data = bytes(self.fs.read(self.caller, opened.handle, 0, 100))
        except MimicError as exc:
            self.met(exc, path)
        else:
            assert data == self.view[path]
        finally:
            self.fs.release(opened.handle)

    @rule(path=files)
    def unlink(self, path):
        if path not in self.view:
            return
        self.fs.unlink(self.caller, *self.parent(path))
        self.view.pop(path)
        self.truth.pop(path, None)
        self.keep(path)

    @rule(path=st.sampled_from(DIRECTORIES))
    def mkdir(self, path):
        if not self.has_parent(path):
            return
        make = lambda: self.fs.mkdir(self.caller, *self.parent(path), 0o755)  # noqa: E731
        if self.is_directory(path):
            with pytest.raises(MimicError) as raised:
                make()
            assert raised.value.errno == EEXIST
            return
        make()
        self.truth[f"{path}/"] = self.view[f"{path}/"] = b""

    @rule(path=st.sampled_from(DIRECTORIES))
    def rmdir(self, path):
        if not self.is_directory(path):
            return
        key = f"{path}/"
        below = [k for k in [*self.view, *self.directories()] if k.startswith(key) and k != key]
        remove = lambda: self.fs.rmdir(self.caller, *self.parent(path))  # noqa: E731
        if below:
            with pytest.raises(MimicError) as raised:
                remove()
            assert raised.value.errno == ENOTEMPTY
            return
        remove()
        if self.view.pop(key, None) is not None:
            self.truth.pop(key, None)
        self.kept.discard(key)
        self.keep(key)

    @rule(old=files, new=files)
    def rename(self, old, new):
        if old not in self.view or old == new or not self.has_parent(new):
            return
        if self.truth.get(old) != self.view[old]:
            return  # moto ignores x-amz-copy-source-if-match, with which S3 refuses this
        try:
            self.fs.rename(self.caller, *self.parent(old), *self.parent(new), 0)
        except MimicError as exc:
            self.met(exc, old)
            return
        self.view[new] = self.truth[new] = self.view.pop(old)
        self.truth.pop(old, None)
        self.keep(old)

    @rule(path=files, data=contents)
    def somebody_puts(self, path, data):
        self.client.put_object(Bucket=self.bucket, Key=path, Body=data)
        self.truth[path] = data

    @rule(path=files)
    def somebody_deletes(self, path):
        self.client.delete_object(Bucket=self.bucket, Key=path)
        self.truth.pop(path, None)

    @rule()
    def sync(self):
        control = self.fs.lookup(self.caller, ROOT_INO, b".sync").ino
        self.fs.setattr(self.caller, control, NewAttr(mtime_ns=1), None)
        self.view = dict(self.truth)

    @invariant()
    def the_tree_is_the_view(self):
        found = dict(self.walk())
        assert {name for name in found if name.endswith("/")} == self.directories()
        expected = {k: len(data) for k, data in self.view.items() if not k.endswith("/")}
        assert {k: size for k, size in found.items() if not k.endswith("/")} == expected

    @invariant()
    def s3_is_the_truth(self):
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        assert {item["Key"]: item["Size"] for item in listed} == {
            key: len(data) for key, data in self.truth.items()
        }


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_mount_shows_what_it_must(moto, tmp_path):
    machine = type("Machine", (FileSystem,), {"url": moto, "directory": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
