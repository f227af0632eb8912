"""The staging files of a mount, and what is left of them when it dies.

A staging file NAME.data whose bytes S3 does not have has a record NAME.json beside it: which object
it is to become, and over which version (record.py). NAME is random. While its mount lives the data
file is locked (flock), so that another mount of the same directory leaves it alone; it gets the
name *.data only once it is locked. Files that a dead mount left are uploaded by the next one
(recovery.py), or moved to the directory `recovered`, for their owner to look at; a staging file
without a record is only a copy of what S3 has. Where a file has only some bytes of a large object,
NAME.ranges says which (changes.py); the rest is as in the version that the record names.

A small file has no staging file of its own, but is in a segment, NAME.segment, with others
(segment.py, small.py). The segments of dead mounts are made into staging files first.

INVARIANT: at every instant a file of bytes that S3 does not have either is *.data with a record, or
is in `recovered`. So the record is written before the first byte is changed, and the bytes move
before their record does.

Threading: any thread may make staging files; several may use one at once.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import re
import secrets
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mimicfs.entry import name_of
from mimicfs.errors import ConfigError, PosixError
from mimicfs.files import disk, record
from mimicfs.files.record import Record
from mimicfs.files.replaying import Left, replayed
from mimicfs.files.room import Room
from mimicfs.files.segment import Segments
from mimicfs.files.small import SmallStaging
from mimicfs.files.staging import Staging, remove
from mimicfs.private import make_directory

log = logging.getLogger(__name__)

_RECOVERED = "recovered"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_GLANCE_S = 0.1  # between two looks whether another mount has ended its recovery
_PATIENCE_S = 30.0  # then the log says that this waits for another mount
_UNBORN_S = 60.0  # a file that is not locked and named by then never will be


class Orphan(NamedTuple):
    """The remains of a file of a dead mount: *size* bytes that were to become what *record*
    says."""

    name: str
    size: int
    record: Record

    @property
    def bucket(self) -> str:
        return self.record.bucket

    @property
    def key(self) -> str:
        return self.record.key


class Journal:
    """The staging files in one directory. Together they may take *limit* bytes of the disk, give or
    take what is written between two looks. With 0, they may take any number as long as some of the
    disk is free."""

    def __init__(self, directory: Path, limit: int = 0) -> None:
        self.directory = directory
        self.room = Room(limit)
        self.waiting = set[str]()  # files in segments that `orphans` could not make files of
        self._segments = Segments(lambda: self._born(secrets.token_hex(16), "segment"), self.room)

    @classmethod
    def open(cls, directory: Path, limit: int = 0) -> Journal:
        """Return the journal in *directory*, which is made if it is not there. Raises
        ConfigError unless it is a directory of ours that nobody else can enter."""
        try:
            make_directory(directory)
            found = directory.lstat()
        except OSError as exc:
            raise ConfigError(f"{directory}: {exc.strerror}; name another --cache-dir") from exc
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{directory}: not a directory of yours; name another --cache-dir")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(f"{directory}: others can enter it; chmod 700 it")
        return cls(directory, limit)

    def stage(self, *, small: bool = False) -> Staging:
        """Return a new, empty staging file, without a record. *small*: it may be in a segment, for
        as long as it is small."""
        name = secrets.token_hex(16)
        if small:
            path = self.directory / f"{name}.data"
            return SmallStaging(path, self._segments, self._born, self.room)
        return Staging(*self._born(name), room=self.room)

    def close(self) -> None:
        """Make no more staging files. What S3 does not have is left to the next mount."""
        self._segments.close()

    def _born(self, name: str, kind: str = "data") -> tuple[Path, int]:
        """Make the file NAME.*kind*, locked; return its path and descriptor. Raises PosixError."""
        path = self.directory / f"{name}.{kind}"
        unborn = f"{self.directory}/{name}.unborn"
        with disk.errors_of(path):
            flags = _OPEN | os.O_CREAT | os.O_EXCL
            try:
                fd = os.open(unborn, flags, 0o600)
            except FileNotFoundError:  # somebody has removed the directory
                make_directory(self.directory)
                fd = os.open(unborn, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(unborn, path)
                if kind == "segment":
                    # otherwise a power cut takes away what is synced in it
                    disk.fsync(self.directory)
            except BaseException:
                os.close(fd)
                raise
        return path, fd

    @contextmanager
    def recovering(self, endpoint: str, stopped: threading.Event) -> Iterator[bool]:
        """Within, no other mount deals with what is left here for *endpoint*: of two files of one
        name it would bring the older one to S3 beside us. Yields False, and nothing may be done,
        where *stopped* comes first."""
        lock = self.directory / f"recovery-{zlib.crc32(endpoint.encode()):08x}.lock"
        fd = None
        try:
            tell_at = time.monotonic() + _PATIENCE_S
            while (fd := self._lock_of(lock)) is None and not stopped.is_set():
                if time.monotonic() > tell_at:
                    log.warning("%s: another mount is still recovering, or is stopped", lock)
                    tell_at = math.inf
                stopped.wait(_GLANCE_S)
            ours = fd is not None
        except PosixError as exc:
            log.warning("%s; it is done without a lock", exc)  # on a full disk this makes room
            ours = True
        try:
            yield ours
        finally:
            if fd is not None:
                try:
                    with disk.may_vanish():
                        lock.unlink()
                except OSError as exc:
                    log.warning("%s: not removed: %s", lock, exc.strerror)
                finally:  # kept open, it would keep out everybody, also our own next try
                    os.close(fd)

    def _lock_of(self, lock: Path) -> int | None:
        """Return *lock*, made and locked; None if somebody else has it, or has just removed it."""
        with disk.errors_of(lock):
            make_directory(self.directory)
            fd = os.open(lock, _OPEN | os.O_CREAT | os.O_NONBLOCK, 0o600)
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            os.close(fd)
            if not is_file:
                raise OSError(errno.EINVAL, "not a file")
            return _locked(lock)

    def orphans(self) -> list[Orphan]:
        """Return what dead mounts left and S3 does not have; remove what is of no use: copies of
        what S3 has, empty files, and files that were being made. Files in a segment that cannot be
        made for now are `waiting`."""
        with disk.errors_of(self.directory):
            try:
                fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []  # somebody has removed it
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)  # others see no half-made file
                return self._orphans()
            finally:
                os.close(fd)

    def _orphans(self) -> list[Orphan]:
        self._remove_unborn()
        segments = sorted(self.directory.glob("*.segment"))
        self.waiting = set[str]().union(*map(self._replay, segments))
        self._settle_records()
        found: list[Orphan] = []
        for data in sorted(self.directory.glob("*.data")):
            fd = None if data.stem in self.waiting else _locked(data)
            if fd is None:
                continue
            try:
                said, size = record.read(data), os.fstat(fd).st_size
                if said is None or not (size or said.closed or said.uploads or said.damaged):
                    _remove_if_possible(data)
                else:
                    found.append(Orphan(data.stem, size, said))
            finally:
                os.close(fd)
        return found

    def resume(self, orphan: Orphan) -> Staging | None:
        """Return the staging file of an orphan, locked, with what can be believed of its record;
        None if another mount has it, or has dealt with it. The record is read again: another mount
        may have tried, and have noted what it sent."""
        data = self.directory / f"{orphan.name}.data"
        with disk.errors_of(data):
            fd = _locked(data)
            if fd is None:
                return None
            said = record.read(data)
            if said is None:  # another mount was about to remove it
                os.close(fd)
                return None
            return Staging(data, fd, record.checked(said, data, fd), self.room)

    def recover(self, orphan: Orphan) -> Path:
        """Move an orphan's bytes, and its record, to the directory `recovered`; return where they
        are now, even if another mount has moved them meanwhile."""
        target = self._recovered(orphan.name, orphan.key)
        data = self.directory / f"{orphan.name}.data"
        with disk.errors_of(data):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            record.tell_owner(data, orphan.record.damaged)
            for source, place in ((data, target), (data.with_suffix(".json"), _beside(target))):
                try:
                    source.rename(place)
                except FileNotFoundError:
                    if not place.exists():
                        raise
            with disk.may_vanish():  # those that could not be told
                data.with_suffix(".ranges").rename(_ranges_beside(target))
        return target

    def recovered(self) -> int:
        """Return how many files there are for their owner to look at."""
        found = (self.directory / _RECOVERED).glob("*")
        return sum(each.suffix not in (".json", ".ranges") for each in found)

    def _recovered(self, name: str, key: str) -> Path:
        # People find it by the last part of the key, as far as that is harmless as a file name.
        readable = _UNSAFE.sub("_", name_of(key.rstrip("/")))[-80:].lstrip(".")
        return self.directory / _RECOVERED / f"{readable or 'file'}.{name}"

    def _remove_unborn(self) -> None:
        for path in self.directory.glob("*.unborn"):
            with disk.may_vanish():
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _UNBORN_S:
                    path.unlink()

    def _replay(self, path: Path) -> set[str]:
        """Make staging files of what is in the segment *path*, if its mount is dead; return the
        names of those that wait for another try. Nobody takes one of them before the segment is
        gone: a file that was uploaded and removed would be made again."""
        fd = _locked(path)
        if fd is None:
            return set()
        waiting, made = {path.stem}, list[Path]()
        try:
            with disk.errors_of(path):
                found = replayed(_all_of(fd), path)
                waiting = {each.name for each in found.left} or waiting
                for each in found.left:
                    self._make(each, made)
                if found.left:
                    disk.sync_all(fd)  # also the files of a replay that was killed
                if found.damaged:
                    self._keep_damaged(path)
                with disk.may_vanish():
                    path.unlink()
        except PosixError as exc:
            log.error("%s is left as it is: %s", path, exc)
            for data in made:
                _remove_if_possible(data)
            return waiting
        finally:
            os.close(fd)
        return set()

    def _make(self, left: Left, made: list[Path]) -> None:
        """Add to *made* a staging file of *left*, unless there is one. Where *left* is not the
        whole file, its record is not believed."""
        data = self.directory / f"{left.name}.data"
        for each in map(data.with_suffix, (".data", ".json", ".new", ".unborn")):
            self._clear(each)
        if data.exists():
            fd = _locked(data)
            if fd is None:
                return  # another mount has it
            said = record.read(data)
            sound = said is not None and not record.checked(said, data, fd).damaged
            os.close(fd)
            if sound:
                return  # it was made before, or has got a file of its own
        # Its mount, or one that replayed it, died while it made the file: nobody else ever does.
        with disk.errors_of(data), disk.may_vanish():
            data.with_suffix(".unborn").unlink()
        path, fd = self._born(left.name)
        made.append(path)
        with disk.errors_of(path), open(fd, "wb") as file:
            file.write(left.data)  # however little is free: the segment goes for it
        record.write_text(path, left.text if left.sound else _disowned(left.text))

    def _clear(self, path: Path) -> None:
        """Put aside what is at *path* and is no file, so that no mount takes it for one."""
        with disk.errors_of(path), suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                return
            target = self.directory / _RECOVERED / f"stray.{secrets.token_hex(4)}.{path.name}"
            target.parent.mkdir(mode=0o700, exist_ok=True)
            path.rename(target)
            log.error("%s was in the way of the journal; it is %s now", path, target)

    def _keep_damaged(self, path: Path) -> None:
        """Keep the segment *path*, a part of which cannot be read, for its owner."""
        target = self.directory / _RECOVERED / f"damaged.{path.name}"
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.link(path, target)
        log.error("the journal %s is damaged; it is in %s", path, target)

    def _settle_records(self) -> None:
        """Deal with records without bytes: a mount died while it recovered or removed them."""
        for path in self.directory.glob("*.json"):
            said = None if path.with_suffix(".data").exists() else record.read(path)
            if said is None:
                continue
            target = self._recovered(path.stem, said.key)
            with disk.may_vanish():
                if target.exists():
                    path.rename(_beside(target))
                    path.with_suffix(".ranges").rename(_ranges_beside(target))
                elif not (said.damaged or path.with_suffix(".data").exists()):
                    path.unlink()


def _remove_if_possible(data: Path) -> None:
    try:
        remove(data)
    except OSError as exc:  # a directory has one of its names: go on with the other files
        log.error("%s: not removed: %s", data, exc.strerror)


def _disowned(text: bytes) -> bytes:
    """Return the record *text* in a form that people can read and no mount believes."""
    return text[:-1] + b', "damaged": "its segment"}' if text else b"{}"


def _beside(path: Path) -> Path:
    """Return where the record of the recovered file *path* is."""
    return path.with_name(path.name + ".json")


def _ranges_beside(path: Path) -> Path:
    """Return where the changed ranges of the recovered file *path* are."""
    return path.with_name(path.name + ".ranges")


def _all_of(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _locked(data: Path) -> int | None:
    """Return *data* opened and locked; None if its mount lives or has just removed it, or if it is
    not one of ours. Raises OSError where the disk has no locks."""
    try:
        fd = os.open(data, _OPEN | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:  # a link, a directory, a socket
        log.warning("%s: not touched: %s", data, exc.strerror)
        return None
    ours = False
    try:
        ours = _is_ours(data, fd)
    finally:
        if not ours:
            os.close(fd)
    return fd if ours else None


def _is_ours(data: Path, fd: int) -> bool:
    """Lock *fd*; return whether it is the file *data* and nobody else has it."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        log.warning("%s: not touched: not a file", data)
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0
