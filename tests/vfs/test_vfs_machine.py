"""The file system against a model, with writers that it does not see, and syncs.

`truth` is what S3 has; `view` is what the mirror must have: its own changes at once, those of
others after a sync, or when an access meets them. An open file is a `File`: its bytes until they
are uploaded, which nobody else may lose or be lost by. The mount must show both. Over a real
server; the kernel is played by the test, which looks every name up.
"""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support.clients import plain

from mimicfs.backends.memory import Memory
from mimicfs.config.values import FileOptions, S3Options, Target, VFSOptions
from mimicfs.errors import MimicError
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.slow

FILES = ["a", "b", "d/a", "d/b", "d/e/a"]
LINKS = ["l", "d/l", "d/e/l"]  # also pipes; nobody else touches these
NOREPLACE, EXCHANGE = 1, 2
DIRECTORIES = ["d", "d/e", "x"]
ESTALE, ENOENT, ENOTEMPTY, EEXIST = errno.ESTALE, errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST
HANDLES = 3  # most open at once
LONG = 100  # bytes; no file is longer
files = st.sampled_from(FILES)
contents = st.binary(max_size=8)
offsets = st.integers(0, 20)
_numbers = itertools.count()


class Kernel:
    """Keeps nothing, so needs to be told nothing."""

    def entry_changed(self, parent, name): ...
    def file_deleted(self, parent, name, ino): ...
    def listing_changed(self, ino): ...
    def attr_changed(self, ino): ...
    def data_changed(self, ino, dropped): ...
    def drop_data(self, inos, timeout_s, dropped): ...
    def asked_anew(self, ino): ...
    def everything_changed(self): ...
    def names_changed(self): ...
    def flush(self, timeout_s):
        return True


class File:
    """What the handles of one file share: *data* is what they must read."""

    def __init__(self, path, base, *, absent=False, exclusive=False):
        self.path = path  # None: unlinked, or replaced
        self.base = base  # the version in S3 that it stands on; None: there is none
        self.data = base or b""
        self.dirty = base is None
        self.based = base is not None  # its bytes are partly those of `base`
        self.absent = absent
        self.appended = base is None and not exclusive  # nothing was done but appends
        self.expired = False  # or lost: ESTALE from now on
        self.unsure = False  # it may have expired

    def put(self, offset, data):
        if data:
            old = self.data.ljust(offset, b"\0")
            self.change(old[:offset] + data + old[offset + len(data) :])
            self.appended = False

    def append(self, data):
        if data:
            self.appended = self.appended or not self.dirty
            self.change(self.data + data)

    def resize(self, size):
        if size != len(self.data) or self.dirty:
            self.change(self.data[:size].ljust(size, b"\0"))
            self.appended = False
            self.based = self.based and size > 0

    def change(self, data):
        self.data = data
        self.dirty = True


def above(key):
    """The directories above *key*, ending in "/"."""
    return [key[: n + 1] for n, letter in enumerate(key[:-1]) if letter == "/"]


class FileSystem(RuleBasedStateMachine):
    """Each example has a bucket of its own; making clients takes longer than most examples."""

    client: Any
    s3: S3
    directory: Path

    def __init__(self):
        super().__init__()
        self.bucket = f"vfs-{os.getpid()}-{next(_numbers)}"
        self.client.create_bucket(Bucket=self.bucket)
        self.mimicdb = self.s3.mimicdb
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
        self.handles: list[tuple[File, int]] = []
        self.opened: dict[str, File] = {}  # by path: what a new open joins
        # Mode and attributes of what was made here, by key, until somebody else replaces it; and
        # where links lead.
        self.meta: dict[str, tuple[int, dict[bytes, bytes]]] = {}
        self.targets: dict[str, bytes] = {}
        self.sync()

    def teardown(self):
        while self.handles:
            self.close(0)
        self.fs.close()

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

    def shown(self):
        """The files that must be shown, and how long they are: S3's, but for what is open."""
        found = {key: len(data) for key, data in self.view.items() if not key.endswith("/")}
        for path, file in self.opened.items():
            if file.dirty and (path in self.view or (file.base is None and self.has_parent(path))):
                found[path] = len(file.data)
        return found

    def keep(self, key):
        """What stays when *key* has gone: the directory that it was in."""
        for directory in reversed(above(key)):
            if not any(k.startswith(directory) for k in [*self.view, *self.kept]):
                self.kept.add(directory)
            return

    def has_parent(self, path):
        head = path.rpartition("/")[0]
        return not head or self.is_directory(head)

    def learned(self, key):
        """The mirror has been told what S3 has of *key*."""
        if key in self.truth:
            self.view[key] = self.truth[key]
        else:
            self.view.pop(key, None)
        file = self.opened.get(key)
        if file is not None and not file.dirty and file.base != self.view.get(key):
            file.expired = True
            del self.opened[key]

    def met(self, exc, key):
        """An access met a change by somebody else: the mirror has been repaired."""
        assert exc.errno in (ESTALE, ENOENT), exc
        assert self.view.get(key) != self.truth.get(key), exc
        self.learned(key)

    def stored(self, file):
        """The bytes of *file* are in S3: that was allowed only over what they stand on, or,
        where nothing was done but appends, behind what somebody else made."""
        now = self.truth.get(file.path)
        if file.appended and now is not None and now != file.base and (file.based or file.absent):
            file.data = now + file.data[len(file.base or b"") :]
        elif file.based:
            assert self.truth.get(file.path) == file.base, "somebody's object was lost"
        elif file.absent and file.base is None:
            assert file.path not in self.truth, "somebody's object was lost"
        self.truth[file.path] = self.view[file.path] = file.base = file.data
        file.dirty, file.based, file.appended = False, True, True

    @contextmanager
    def uploads(self, file):
        """Within, *file* is uploaded, or refused because of what somebody else did."""
        lost = file.expired and file.dirty
        due = file.dirty and file.path is not None and not lost
        try:
            yield
        except MimicError as exc:
            if not lost:
                self.refused(exc, file, due)
        else:
            assert not lost
            if due:
                self.stored(file)

    def refused(self, exc, file, due):
        """*file* will never be uploaded; it goes on saying so."""
        assert due, exc
        assert not (file.appended and file.path in self.truth), exc
        if file.based:
            assert exc.errno == ESTALE, exc
            assert self.truth.get(file.path) != file.base, exc
        else:
            assert exc.errno == EEXIST, exc
            assert file.absent, exc
            assert file.path in self.truth, exc
        file.expired = True
        del self.opened[file.path]
        self.learned(file.path)

    @contextmanager
    def may_be_stale(self, file):
        """Within, *file* may turn out to be another version than S3 has."""
        before = file.data, file.dirty, file.based, file.appended
        try:
            yield
        except MimicError as exc:
            file.data, file.dirty, file.based, file.appended = before
            file.expired |= file.unsure
            if file.expired:
                assert exc.errno == ESTALE, exc  # noqa: PT017
                return
            assert file.path is not None, exc  # noqa: PT017
            self.met(exc, file.path)
        else:
            assert not file.expired

    # Rules: open files

    @rule(path=files, flags=st.sampled_from([0, os.O_EXCL, os.O_TRUNC]))
    def create(self, path, flags):
        if not self.has_parent(path) or path in self.shown() or len(self.handles) == HANDLES:
            return
        parent, name = self.parent(path)
        flags |= os.O_RDWR | os.O_CREAT
        _, opened = self.fs.create(self.caller, parent, name, 0o644, flags)
        file = self.opened[path] = File(
            path, None, absent=not flags & os.O_TRUNC, exclusive=bool(flags & os.O_EXCL)
        )
        self.handles.append((file, opened.handle))
        if path not in self.truth:
            self.meta[path] = (0o100644, {})

    @rule(path=files, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC]))
    def open(self, path, flags):
        if path not in self.shown() or len(self.handles) == HANDLES:
            return
        opened = self.open_as_the_mount_does(path, flags)
        file = self.opened.get(path)
        if file is None or not (file.dirty or file.base == self.view.get(path)):
            if file is not None:
                file.expired = True
            file = self.opened[path] = File(path, self.view[path])
        if flags & os.O_TRUNC:
            file.resize(0)
        self.handles.append((file, opened.handle))

    def open_as_the_mount_does(self, path, flags):
        ino = self.ino(path)
        at_once = self.fs.open_at_once(self.caller, ino, flags)
        return at_once or self.fs.open(self.caller, ino, flags)

    def release_as_the_mount_does(self, handle):
        if not self.fs.release_at_once(handle):
            self.fs.release(handle)

    def handle(self, number):
        return self.handles[number % len(self.handles)]

    @rule(number=offsets, offset=offsets, data=contents)
    def write(self, number, offset, data):
        if self.handles:
            file, handle = self.handle(number)
            with self.may_be_stale(file):
                file.put(offset, data)
                self.fs.write(self.caller, handle, offset, memoryview(data), append=False)

    @rule(number=offsets, data=contents)
    def append(self, number, data):
        if self.handles:
            file, handle = self.handle(number)
            with self.may_be_stale(file):
                file.append(data)
                self.fs.write(self.caller, handle, 0, memoryview(data), append=True)

    @rule(number=offsets, size=offsets)
    def resize(self, number, size):
        if self.handles:
            file, handle = self.handle(number)
            with self.may_be_stale(file):
                file.resize(size)
                ino = self.fs._handles.node(handle).ino
                self.fs.setattr(self.caller, ino, NewAttr(size=size), handle)

    @rule(number=offsets, mode=st.sampled_from([0, 1, 3, 16, 17]), offset=offsets, size=offsets)
    def allocate(self, number, mode, offset, size):
        if not self.handles or not size:
            return
        file, handle = self.handle(number)
        if file.expired:
            return  # often there is nothing to do, which succeeds
        with self.may_be_stale(file):
            end = offset + size
            if mode & ~1:
                file.put(offset, bytes(max(0, min(end, len(file.data)) - offset)))
            if not mode & 1 and end > len(file.data):
                file.resize(end)
            self.fs.fallocate(self.caller, handle, mode, offset, size)

    @rule(number=offsets)
    def read_on(self, number):
        if self.handles:
            file, handle = self.handle(number)
            with self.may_be_stale(file):
                assert self.bytes_of(handle) == file.data

    def bytes_of(self, handle):
        cached = self.fs.read_cached(handle, 0, LONG)
        data = bytes(self.fs.read(self.caller, handle, 0, LONG))
        assert cached is None or cached == data
        return data

    @rule(number=offsets)
    def fsync(self, number):
        if self.handles:
            file, handle = self.handle(number)
            with self.uploads(file):
                self.fs.fsync(self.caller, handle)

    @rule(number=offsets)
    def close(self, number):
        if not self.handles:
            return
        file, handle = self.handles.pop(number % len(self.handles))
        with self.uploads(file):
            self.fs.flush(self.caller, handle)
        self.release_as_the_mount_does(handle)
        self.forget_closed(file)

    @rule(numbers=st.tuples(offsets, offsets))
    def copy_range(self, numbers):
        if not self.handles:
            return
        (old, source), (new, target) = map(self.handle, numbers)
        if not old.expired and old.path is not None and self.truth.get(old.path) != old.base:
            return  # S3 refuses this, which is not modelled here
        try:
            copied = self.fs.copy_file_range(self.caller, source, 0, target, 0, LONG)
        except MimicError as exc:
            assert exc.errno == errno.EOPNOTSUPP, exc  # noqa: PT017
            return
        assert not old.expired
        assert not new.expired
        assert copied == len(old.data)
        new.data = new.base = old.data
        self.truth[new.path] = self.view[new.path] = new.data
        new.dirty, new.based, new.appended = False, True, True

    # Rules: names

    @rule(path=files, size=offsets)
    def truncate(self, path, size):
        if path not in self.shown():
            return
        file = self.opened.setdefault(path, File(path, self.view.get(path)))
        file.resize(size)
        with self.uploads(file):
            self.fs.setattr(self.caller, self.ino(path), NewAttr(size=size), None)
        self.forget_closed(file)

    def forget_closed(self, file):
        """A new open joins *file* only while somebody has it open."""
        unused = all(other is not file for other, _ in self.handles)
        if unused and self.opened.get(file.path) is file:
            del self.opened[file.path]

    @rule(path=files)
    def read(self, path):
        if path not in self.shown():
            with pytest.raises(MimicError) as raised:
                self.ino(path)
            assert raised.value.errno == ENOENT
            return
        expected = self.opened[path].data if path in self.opened else self.view[path]
        opened = self.open_as_the_mount_does(path, os.O_RDONLY)
        try:
            data = self.bytes_of(opened.handle)
        except MimicError as exc:
            self.met(exc, path)
        else:
            assert data == expected
        finally:
            self.release_as_the_mount_does(opened.handle)

    def going(self, path):
        """The name *path* is about to go; who has it open goes on, if the version that it
        stands on can still be read."""
        file = self.opened.get(path)
        if file is not None and not file.dirty and self.truth.get(path) != file.base:
            file.unsure = True

    def gone(self, path):
        file = self.opened.pop(path, None)
        if file is not None:
            file.path = None

    @rule(path=files)
    def unlink(self, path):
        if path not in self.shown():
            return
        unsaved = path in self.opened and self.opened[path].base is None
        self.going(path)
        self.fs.unlink(self.caller, *self.parent(path))
        self.gone(path)
        self.meta.pop(path, None)
        if not unsaved:
            self.view.pop(path, None)
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
        self.meta[f"{path}/"] = (0o040755, {})

    @rule(path=st.sampled_from(DIRECTORIES))
    def rmdir(self, path):
        if not self.is_directory(path):
            return
        key = f"{path}/"
        names = [*self.shown(), *self.directories()]
        below = [k for k in names if k.startswith(key) and k != key]
        remove = lambda: self.fs.rmdir(self.caller, *self.parent(path))  # noqa: E731
        if below:
            with pytest.raises(MimicError) as raised:
                remove()
            assert raised.value.errno == ENOTEMPTY
            return
        remove()
        self.meta.pop(key, None)
        if self.view.pop(key, None) is not None:
            self.truth.pop(key, None)
        self.kept.discard(key)
        self.keep(key)

    @rule(old=files, new=files, flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, old, new, flags):
        if old not in self.shown() or old == new or not self.has_parent(new):
            return
        if flags and (flags == EXCHANGE or new in self.shown() or new in self.truth):
            self.not_renamed(old, new, flags)
            return
        file = self.opened.get(old) or File(old, self.view[old])
        if not file.dirty and self.truth.get(old) != self.view[old]:
            return  # S3 refuses this, which is not modelled here
        self.opened[old] = file
        self.going(new)
        with self.uploads(file):  # what is written is, before it is copied
            self.fs.rename(self.caller, *self.parent(old), *self.parent(new), 0)
        if file.expired:
            return
        self.gone(new)
        self.opened[new] = self.opened.pop(old)
        file.path = new
        self.forget_closed(file)
        self.view[new] = self.truth[new] = self.view.pop(old)
        self.truth.pop(old, None)
        self.meta.pop(new, None)
        if old in self.meta:
            self.meta[new] = self.meta.pop(old)
        self.keep(old)

    def not_renamed(self, old, new, flags):
        """An exchange is refused; nothing is replaced that is to stay, known or not."""
        file = self.opened.get(old)
        if flags == NOREPLACE and file is not None and file.dirty:
            return  # `rename` says what its upload may come to
        with pytest.raises(MimicError) as raised:
            self.fs.rename(self.caller, *self.parent(old), *self.parent(new), flags)
        if flags == EXCHANGE:
            assert raised.value.errno == errno.EINVAL
            return
        assert raised.value.errno == EEXIST
        if new not in self.shown():
            self.learned(new)

    @rule(old=st.sampled_from(DIRECTORIES), new=st.sampled_from(DIRECTORIES))
    def rename_directory(self, old, new):
        old, new = f"{old}/", f"{new}/"
        known = {key: data for key, data in self.view.items() if key.startswith(old)}
        really = {key: data for key, data in self.truth.items() if key.startswith(old)}
        if old not in self.directories() or new in self.directories() or new.startswith(old):
            return
        if not self.has_parent(new[:-1]):
            return
        if any(key.startswith(new) for key in self.truth):
            self.not_free(old, new)
            return
        if any(known[key] != really.get(key) for key in known):
            return  # S3 refuses to copy these, which is not modelled here
        moved = [file for path, file in self.opened.items() if path.startswith(old)]
        if any(file.dirty and self.truth.get(file.path) != file.base for file in moved):
            return  # refused, as in `rename`
        for file in moved:
            if file.dirty:
                self.stored(file)
        self.fs.rename(self.caller, *self.parent(old[:-1]), *self.parent(new[:-1]), 0)
        for key in really:  # also what nobody here had seen
            self.learned(key)
        for mapping in (self.view, self.truth, self.opened, self.meta, self.targets):
            for key in [key for key in mapping if key.startswith(old)]:
                mapping[new + key[len(old) :]] = mapping.pop(key)
        for file in moved:
            file.path = new + file.path[len(old) :]
        below = {key for key in self.kept if key.startswith(old)}
        self.kept = self.kept - below | {new + key[len(old) :] for key in below}
        self.keep(old)

    def not_free(self, old, new):
        """Somebody else has put something where a directory was to go."""
        dirty = [file for path, file in self.opened.items() if path.startswith(old) and file.dirty]
        if dirty:
            return  # it is uploaded before: `rename_directory` says what that may come to
        with pytest.raises(MimicError) as raised:
            self.fs.rename(self.caller, *self.parent(old[:-1]), *self.parent(new[:-1]), 0)
        assert raised.value.errno == ENOTEMPTY
        for key in [key for key in self.truth if key.startswith(new)]:
            self.learned(key)

    # Rules: metadata

    @rule(path=files, mode=st.sampled_from([0o600, 0o644]))
    def chmod(self, path, mode):
        if path in self.shown() and self.changed(
            path, lambda ino: self.fs.setattr(self.caller, ino, NewAttr(mode=mode), None)
        ):
            self.note(path, mode=0o100000 | mode)

    @rule(path=files, value=st.sampled_from([b"", b"1", b"22"]))
    def set_attribute(self, path, value):
        if path in self.shown() and self.changed(
            path, lambda ino: self.fs.setxattr(self.caller, ino, b"user.a", value, 0)
        ):
            self.note(path, attributes={b"user.a": value})

    @rule(path=files)
    def remove_attribute(self, path):
        if path not in self.shown() or b"user.a" not in self.meta.get(path, (0, {}))[1]:
            return
        if self.changed(path, lambda ino: self.fs.removexattr(self.caller, ino, b"user.a")):
            self.note(path, attributes={})

    @rule(path=st.sampled_from(DIRECTORIES), mode=st.sampled_from([0o700, 0o750]))
    def chmod_directory(self, path, mode):
        key = f"{path}/"
        if not self.is_directory(path):
            return
        self.fs.setattr(self.caller, self.ino(path), NewAttr(mode=mode), None)
        self.truth[key] = self.view[key] = b""  # its marker has it
        self.kept.discard(key)
        self.meta[key] = (0o040000 | mode, self.meta.get(key, (0, {}))[1])

    def changed(self, path, change):
        """Make a change of metadata; return whether it was made: not of what has changed in S3."""
        try:
            change(self.ino(path))
        except MimicError as exc:
            self.met(exc, path)
            return False
        if path not in self.opened or not self.opened[path].dirty:
            self.learned(path)  # it was looked at before it was copied
        return True

    def note(self, path, mode=None, attributes=None):
        if path in self.meta:
            old = self.meta[path]
            self.meta[path] = (
                old[0] if mode is None else mode,
                old[1] if attributes is None else attributes,
            )

    # Rules: links and pipes

    @rule(path=st.sampled_from(LINKS), leads=st.sampled_from([b"a", b"../b", b"\xff"]))
    def symlink(self, path, leads):
        if self.has_parent(path) and path not in self.view:
            self.fs.symlink(self.caller, *self.parent(path), leads)
            self.truth[path] = self.view[path] = self.targets[path] = leads
            self.meta[path] = (0o120777, {})

    @rule(path=st.sampled_from(LINKS))
    def mkfifo(self, path):
        if self.has_parent(path) and path not in self.view:
            self.fs.mknod(self.caller, *self.parent(path), 0o010640, 0)
            self.truth[path] = self.view[path] = b""
            self.meta[path] = (0o010640, {})

    @rule(path=st.sampled_from(LINKS))
    def unlink_special(self, path):
        if path in self.view:
            self.fs.unlink(self.caller, *self.parent(path))
            for mapping in (self.view, self.truth, self.meta, self.targets):
                mapping.pop(path, None)
            self.keep(path)

    @rule(old=st.sampled_from(LINKS), new=st.sampled_from(LINKS))
    def rename_special(self, old, new):
        if old not in self.view or old == new or not self.has_parent(new):
            return
        self.fs.rename(self.caller, *self.parent(old), *self.parent(new), 0)
        for mapping in (self.view, self.truth, self.meta, self.targets):
            mapping.pop(new, None)
            if old in mapping:
                mapping[new] = mapping.pop(old)
        self.keep(old)

    # Rules: somebody else

    @rule(path=files, data=contents)
    def somebody_puts(self, path, data):
        self.client.put_object(Bucket=self.bucket, Key=path, Body=data)
        self.truth[path] = data
        self.meta.pop(path, None)

    @rule(path=files)
    def somebody_deletes(self, path):
        self.client.delete_object(Bucket=self.bucket, Key=path)
        self.truth.pop(path, None)
        self.meta.pop(path, None)

    @rule()
    def sync(self):
        control = self.fs.lookup(self.caller, ROOT_INO, b".sync").ino
        self.fs.setattr(self.caller, control, NewAttr(mtime_ns=1), None)
        for key in {*self.view, *self.truth}:
            self.learned(key)

    @invariant()
    def the_tree_is_the_view(self):
        found = dict(self.walk())
        assert {name for name in found if name.endswith("/")} == self.directories()
        files = {name: size for name, size in found.items() if not name.endswith("/")}
        assert files == self.shown()

    @invariant()
    def metadata_is_what_was_set(self):
        for key, (mode, attributes) in self.meta.items():
            path = key.removesuffix("/")
            if not (self.is_directory(path) if key != path else path in self.shown()):
                continue
            ino = self.ino(path)
            assert oct(self.fs.getattr(self.caller, ino, None).mode) == oct(mode), key
            names = self.fs.listxattr(self.caller, ino)
            assert {n: self.fs.getxattr(self.caller, ino, n) for n in names} == attributes, key
        for path, target in self.targets.items():
            assert self.fs.readlink(self.caller, self.ino(path)) == target

    @invariant()
    def s3_is_the_truth(self):
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        assert {item["Key"]: item["ETag"] for item in listed} == {
            key: f'"{md5(data).hexdigest()}"' for key, data in self.truth.items()
        }


@pytest.mark.timeout(2400)  # a failure is made smaller for minutes
def test_the_mount_shows_what_it_must(request, moto, tmp_path, caplog):  # what is lost is logged
    exploring = request.config.getoption("--explore")
    client = plain(moto)
    s3 = S3(S3Options(endpoint_url=moto), Mirror(Memory()))
    parts = {"client": client, "s3": s3, "directory": tmp_path}
    machine = type("Machine", (FileSystem,), parts)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200 if exploring else 12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    s3.close()
    client.close()
