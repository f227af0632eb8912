"""Staging files: bytes that S3 does not have yet, on local disk, and what is left of them when
a mount dies.

A staging file NAME.data whose bytes S3 does not have has a record NAME.json beside it: which
object it is to become, and over which version. NAME is random. While its mount lives the
data file is locked (flock), so that another mount of the same directory leaves it alone; it
gets the name *.data only once it is locked. What a dead mount left is uploaded by the next one
(recovery.py), or moved to the directory `recovered`, for its owner to look at; a staging file
without a record is only a copy of what S3 has.

A file that has only some bytes of a large object says in NAME.ranges which: a line of 16 bytes
(two u64, little endian) for each change. [start, end) was written; start with an end of 2^64-1:
all from start on was cut off. The rest is as in the version that the record names.

INVARIANT: at every instant a file of bytes that S3 does not have either is *.data with a
record, or is in `recovered`. So the record is written before the first byte is changed, and
the bytes are moved before their record is.

Nothing is fsynced while S3 is to have the bytes before anybody is told that they are safe: this
guards against the end of the process, not of the machine. A synced record would name bytes that
are not there, for 1.8 ms a file against 0.05 (measured, ext4). `Staging.sync` does it for who
must answer before S3 has them.

Threading: any thread may make staging files; several may use one at once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mimicfs.errors import ConfigError, PosixError

_RECOVERED = "recovered"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_RANGE = struct.Struct("<QQ")
_CUT = (1 << 64) - 1  # in the place of an end: all from the start on was cut off
_FREE = 64 << 20  # bytes that stay free on the disk
_LOOK_EVERY = 16 << 20  # most bytes that are written between two looks at how much is free
_UNBORN_S = 60.0  # a file that is not locked and named by then never will be


class Record(NamedTuple):
    """What the bytes of a staging file are to become: s3://bucket/key, over the version *etag*
    ("": there is none). *base*: that version's first so many bytes are the file's, but for what
    was changed. *endpoint*: as S3.endpoint says. *uploads*: multipart uploads that were begun."""

    bucket: str = ""
    key: str = ""
    etag: str = ""
    base: int = 0
    partial: bool = False  # only what was changed is in the file
    endpoint: str = ""
    content_type: str = ""
    meta: Mapping[str, str] = {}
    headers: Mapping[str, Any] = {}
    uploads: tuple[str, ...] = ()
    closed: bool = False  # somebody was told that the bytes are safe


class Orphan(NamedTuple):
    """What a dead mount left: *size* bytes that were to become what *record* says."""

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
    """The staging files in one directory. They may take *limit* bytes of the disk together, give
    or take what is written between two looks; 0: as long as some of it is free."""

    def __init__(self, directory: Path, limit: int = 0) -> None:
        self.directory = directory
        self.room = Room(limit)

    @classmethod
    def open(cls, directory: Path, limit: int = 0) -> Journal:
        """Return the journal in *directory*, which is made if it is not there. Raises
        ConfigError unless it is a directory of ours that nobody else can enter."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = directory.lstat()
        except OSError as exc:
            raise ConfigError(f"{directory}: {exc.strerror}; name another --cache-dir") from exc
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{directory}: not a directory of ours; name another --cache-dir")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(f"{directory}: others can enter it; chmod 700 it")
        return cls(directory, limit)

    def stage(self) -> Staging:
        """Return a new, empty staging file, without a record."""
        data = self.directory / f"{secrets.token_hex(16)}.data"
        unborn = data.with_suffix(".unborn")
        with _disk_errors(data):
            flags = _OPEN | os.O_CREAT | os.O_EXCL
            try:
                fd = os.open(unborn, flags, 0o600)
            except FileNotFoundError:  # somebody has removed the directory
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                fd = os.open(unborn, flags, 0o600)
            staging = Staging(data, fd, room=self.room)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unborn.rename(data)
        return staging

    def orphans(self) -> list[Orphan]:
        """Return what dead mounts left and S3 does not have; remove what is of no use: copies
        of what S3 has, empty files, and what was being made."""
        self._remove_unborn()
        self._settle_records()
        found: list[Orphan] = []
        for data in sorted(self.directory.glob("*.data")):
            fd = _locked(data)
            if fd is None:
                continue
            try:
                record, size = _record(data), os.fstat(fd).st_size
                if record is None or not (size or record.closed or record.uploads):
                    _remove(data)
                else:
                    found.append(Orphan(data.stem, size, record))
            finally:
                os.close(fd)
        return found

    def resume(self, orphan: Orphan) -> Staging | None:
        """Return the staging file of an orphan, locked; None if another mount has it."""
        data = self.directory / f"{orphan.name}.data"
        with _disk_errors(data):
            fd = _locked(data)
            return Staging(data, fd, orphan.record, self.room) if fd is not None else None

    def recover(self, orphan: Orphan) -> Path:
        """Move an orphan's bytes, and its record, to the directory `recovered`; return where
        they are now, also if another mount has moved them meanwhile."""
        target = self._recovered(orphan.name, orphan.key)
        data = self.directory / f"{orphan.name}.data"
        with _disk_errors(data):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            _tell_ranges(data)
            for source, place in ((data, target), (data.with_suffix(".json"), _beside(target))):
                try:
                    source.rename(place)
                except FileNotFoundError:
                    if not place.exists():
                        raise
        return target

    def _recovered(self, name: str, key: str) -> Path:
        # For people: the last part of the key, as far as it is harmless as a file name.
        readable = _UNSAFE.sub("_", key.rstrip("/").rpartition("/")[2])[-80:].lstrip(".")
        return self.directory / _RECOVERED / f"{readable or 'file'}.{name}"

    def _remove_unborn(self) -> None:
        for path in self.directory.glob("*.unborn"):
            with _may_vanish():
                if time.time() - path.lstat().st_mtime > _UNBORN_S:
                    path.unlink()

    def _settle_records(self) -> None:
        """Deal with records without bytes: a mount died while it recovered or removed them."""
        for path in self.directory.glob("*.json"):
            record = None if path.with_suffix(".data").exists() else _record(path)
            if record is None:
                continue
            target = self._recovered(path.stem, record.key)
            with _may_vanish():
                if target.exists():
                    path.rename(_beside(target))
                elif not path.with_suffix(".data").exists():
                    path.unlink()


class Room:
    """How many bytes of the disk staging files take, and may take (0: any number)."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()  # protects `used`

    def taken(self, before: int, now: int) -> None:
        """A file that took *before* bytes takes *now*."""
        with self._lock:
            self.used += now - before


class Staging:
    """One staging file. *path* is where its bytes are. Reads and writes are those of
    pread(2) and pwrite(2): any thread, at once.

    The descriptor is closed when nobody holds the object any more, so that a request that
    still runs after the file was given up cannot meet another file under its number.
    """

    def __init__(
        self, path: Path, fd: int, record: Record | None = None, room: Room | None = None
    ) -> None:
        self.path = path
        self._fd = fd
        self._room = room or Room()
        self._taken = [0]  # bytes of the room
        weakref.finalize(self, _give_back, self._room, self._taken)
        self._lock = threading.Lock()  # protects the record, and its file
        self._record = record
        self._ranges: int | None = None
        self._unseen = 0  # bytes that are written before it is looked how much is free
        weakref.finalize(self, os.close, fd)

    @property
    def record(self) -> Record:
        return self._record or Record()

    def describe(self, record: Record) -> None:
        """Write the record. Raises PosixError."""
        with self._lock:
            if record.partial and self._record is None:
                self._forget_ranges()
            self._store(record)

    def note_upload(self, upload: str) -> None:
        """Write into the record that a multipart upload was begun, if there still is one."""
        with self._lock:
            if self._record is not None:
                self._store(self._record._replace(uploads=(*self._record.uploads, upload)))

    def _store(self, record: Record) -> None:
        target, new = self.path.with_suffix(".json"), self.path.with_suffix(".new")
        said = {name: value for name, value in record._asdict().items() if value}
        with _disk_errors(target):
            with open(new, "w", opener=_private) as file:
                # Not `dump`, which is not done in C: half of the time of a record.
                file.write(json.dumps({**said, "created_ns": time.time_ns()}))
            new.rename(target)
        self._record = record

    def settle(self) -> None:
        """Remove the record: S3 has the bytes, or nobody wants them."""
        with self._lock:
            self.path.with_suffix(".json").unlink(missing_ok=True)
            self._record = None
            self._forget_ranges()

    def changed(self, start: int, end: int) -> None:
        """Note which bytes of a partial file were written."""
        self._append(start, end)

    def cut(self, size: int) -> None:
        """Note that a partial file ends at *size*, and has nothing of the version behind it."""
        self._append(size, _CUT)

    def _append(self, start: int, end: int) -> None:
        path = self.path.with_suffix(".ranges")
        with _disk_errors(path):
            if self._ranges is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._ranges = os.open(path, flags, 0o600)
                weakref.finalize(self, os.close, self._ranges)
            os.write(self._ranges, _RANGE.pack(start, end))

    def _forget_ranges(self) -> None:
        if self._ranges is not None:
            os.ftruncate(self._ranges, 0)

    def ranges(self) -> Iterator[tuple[int, int | None]]:
        """Yield what was noted, in order: (start, end), or (size, None) for a cut."""
        yield from _ranges(self.path)

    def stat(self) -> os.stat_result:
        return os.fstat(self._fd)

    def sync(self) -> None:
        """Return when the bytes and the record would outlive a power cut."""
        with _disk_errors(self.path):
            os.fsync(self._fd)
            for path in (self.path.with_suffix(".json"), self.path.with_suffix(".ranges")):
                with _may_vanish():
                    _fsync(path)
            _fsync(self.path.parent)

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes from *offset*, less only at the end."""
        with _disk_errors(self.path):
            data = os.pread(self._fd, size, offset)
            while data and len(data) < size:  # pread(2) gives at most 2 GiB at once
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data

    def write(self, offset: int, data: memoryview | bytes | bytearray) -> int:
        with _disk_errors(self.path):
            self._check_free(len(data))
            view, done = memoryview(data), 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
            return done

    def _check_free(self, size: int) -> None:
        """Raise OSError ENOSPC before the disk is full: others live on it, too."""
        self._unseen -= size
        if self._unseen > 0:
            return
        self._take()
        disk = os.fstatvfs(self._fd)
        free, all_of_it = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        free -= min(_FREE, all_of_it // 20)
        room = self._room
        if room.limit:
            free = min(free, room.limit - room.used)
        if free < size:
            self._unseen = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unseen = min(_LOOK_EVERY, free // 2)

    def _take(self) -> None:
        now = os.fstat(self._fd).st_blocks * 512
        self._room.taken(self._taken[0], now)
        self._taken[0] = now

    def truncate(self, size: int) -> None:
        with _disk_errors(self.path):
            os.ftruncate(self._fd, size)
            if self._taken[0]:
                self._take()

    def keep(self) -> None:
        """Give it up, but for its bytes: the next mount finds them."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def remove(self) -> None:
        """Give up the bytes, and their place on the disk: somebody may still hold the file."""
        _remove(self.path)
        os.ftruncate(self._fd, 0)
        self._take()


def _give_back(room: Room, taken: list[int]) -> None:
    room.taken(taken[0], 0)


def _beside(path: Path) -> Path:
    """Return where the record of the recovered file *path* is."""
    return path.with_name(path.name + ".json")


def _remove(data: Path) -> None:
    """Remove a staging file: first what says that its bytes matter."""
    for suffix in (".json", ".new", ".ranges", ".data"):
        data.with_suffix(suffix).unlink(missing_ok=True)


def _locked(data: Path) -> int | None:
    """Return *data* opened and locked; None if its mount lives or has just removed it."""
    try:
        fd = os.open(data, _OPEN)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _record(path: Path) -> Record | None:
    """Return the record of a staging file; None if it has none."""
    try:
        said: Any = json.loads(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        said = None
    if not isinstance(said, dict):  # damaged: the bytes are worth keeping all the same
        return Record()
    known = {name: said[name] for name, kind in _KINDS.items() if isinstance(said.get(name), kind)}
    if "uploads" in known:
        known["uploads"] = tuple(str(upload) for upload in known["uploads"])
    return Record(**known)


_KINDS: dict[str, type] = {
    **dict.fromkeys(("bucket", "key", "etag", "endpoint", "content_type"), str),
    "base": int,
    "partial": bool,
    "closed": bool,
    "meta": dict,
    "headers": dict,
    "uploads": list,
}


def _ranges(data: Path) -> Iterator[tuple[int, int | None]]:
    with _disk_errors(data):
        try:
            noted = data.with_suffix(".ranges").read_bytes()
        except FileNotFoundError:
            return
    whole = len(noted) - len(noted) % _RANGE.size  # the last one may have been cut short
    for start, end in _RANGE.iter_unpack(noted[:whole]):
        yield start, end if end != _CUT else None


def _tell_ranges(data: Path) -> None:
    """Write what a partial file has into its record, for its owner to read."""
    noted = list(_ranges(data))
    record = data.with_suffix(".json")
    if noted and record.exists():
        said = json.loads(record.read_text())
        with open(record, "w", opener=_private) as file:
            json.dump({**said, "written": noted}, file)
    data.with_suffix(".ranges").unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextmanager
def _may_vanish() -> Iterator[None]:
    """Within, a file that another mount removes meanwhile is no error."""
    try:
        yield
    except FileNotFoundError:
        return


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Within, errors of the local disk name the file; a full one says what to do."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; free space, raise --staging-size, or name another --cache-dir" if full else ""
        raise PosixError(exc.errno or errno.EIO, f"staging file {path}{advice}") from exc
