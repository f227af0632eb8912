"""Staging files: bytes that S3 does not have yet, on local disk, and what is left of them when
a mount dies.

A staging file NAME.data whose bytes S3 does not have has a record NAME.json beside it: which
object it is to become, and over which version. NAME is random. While its mount lives the
data file is locked (flock), so that another mount of the same directory leaves it alone; it
gets the name *.data only once it is locked. What a dead mount left is uploaded by the next one
(recovery.py), or moved to the directory `recovered`, for its owner to look at; a staging file
without a record is only a copy of what S3 has.

A file that has only some bytes of a large object says in NAME.ranges which: a line of 20 bytes
(two u64 and a u32, little endian) for each change. [start, end) was written; start with an end of
2^64-1: all from start on was cut off. The rest is as in the version that the record names.

What is read back is believed only if it is what was written. A record has a CRC-32 of itself, each
line of ranges one of all lines up to it, and a record whose writer was told that the bytes are
safe one of the bytes. What does not match is moved to `recovered`, with the reason.

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
import logging
import os
import re
import secrets
import stat
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mimicfs.errors import ConfigError, PosixError

log = logging.getLogger(__name__)

_RECOVERED = "recovered"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_RANGE = struct.Struct("<QQ")
_SUM = struct.Struct("<I")
_LINE = _RANGE.size + _SUM.size
_PIECE = 1 << 20
_RECORD_MAX = 1 << 20  # bytes; a record has some hundred, and S3 takes 2 KiB of metadata
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
    noted: int = 0  # so many bytes of ranges there were then
    checksum: int = 0  # of the bytes then (CRC-32, or 1 for 0); 0: none was made
    damaged: str = ""  # not "": why none of this is believed


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
                if record is None or not (
                    size or record.closed or record.uploads or record.damaged
                ):
                    _remove(data)
                else:
                    found.append(Orphan(data.stem, size, _checked(record, data, fd)))
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
            _tell_ranges(data, orphan.record.damaged)
            for source, place in ((data, target), (data.with_suffix(".json"), _beside(target))):
                try:
                    source.rename(place)
                except FileNotFoundError:
                    if not place.exists():
                        raise
            with _may_vanish():  # those that could not be told
                data.with_suffix(".ranges").rename(target.with_name(target.name + ".ranges"))
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
        self._ranges_sum = 0  # of all lines so far
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
        said["created_ns"] = time.time_ns()
        with _disk_errors(target):
            with open(new, "w", opener=_private) as file:
                # Not `dump`, which is not done in C: half of the time of a record.
                file.write(json.dumps({**said, "record_checksum": _sum_of(said)}))
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
            if not self._ranges_sum:  # a file that is gone on with has lines
                self._ranges_sum = zlib.crc32(path.read_bytes())
            line = _RANGE.pack(start, end)
            line += _SUM.pack(zlib.crc32(line, self._ranges_sum))
            os.write(self._ranges, line)
            self._ranges_sum = zlib.crc32(line, self._ranges_sum)

    def _forget_ranges(self) -> None:
        if self._ranges is not None:
            os.ftruncate(self._ranges, 0)
            self._ranges_sum = 0

    def ranges(self) -> Iterator[tuple[int, int | None]]:
        """Yield what was noted, in order: (start, end), or (size, None) for a cut."""
        yield from _ranges(self.path)

    def promise(self, record: Record) -> None:
        """Write *record*, with what it takes to see later that the bytes are what they are now.
        Raises PosixError."""
        path = self.path.with_suffix(".ranges")
        with _disk_errors(path):
            noted = path.stat().st_size if record.partial and path.exists() else 0
        self.describe(record._replace(closed=True, noted=noted, checksum=_sum_of_bytes(self._fd)))

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
    """Return *data* opened and locked; None if its mount lives or has just removed it, or where
    it is none of ours."""
    try:
        fd = os.open(data, _OPEN | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:  # a link, a directory, a socket
        log.warning("%s: left alone: %s", data, exc.strerror)
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _record(path: Path) -> Record | None:
    """Return the record of a staging file; None if it has none. One that cannot be believed
    says so in `damaged`: the bytes are worth keeping all the same."""
    try:
        said: Any = json.loads(_text(path.with_suffix(".json")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as exc:
        return Record(damaged=f"its record cannot be read: {exc}")
    if not isinstance(said, dict):
        return Record(damaged="its record is no object")
    checksum = said.pop("record_checksum", None)
    known = {name: said[name] for name, kind in _KINDS.items() if type(said.get(name)) is kind}
    if "uploads" in known:
        known["uploads"] = tuple(str(upload) for upload in known["uploads"])
    if checksum != _sum_of(said):
        # What it says is good for a name, and for nothing else.
        return Record(key=known.get("key", ""), damaged="its record does not match its checksum")
    return Record(**known)


def _text(path: Path) -> str:
    """Return what is in the regular file *path*, and never wait for a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(_RECORD_MAX)


def _checked(record: Record, data: Path, fd: int) -> Record:
    """Return *record*, or why the ranges or the bytes of *data* cannot be believed."""
    if record.damaged:
        return record
    try:
        if record.partial:
            for _ in _ranges(data, record.noted):
                pass
        wrong = record.checksum not in (0, _sum_of_bytes(fd))
    except (OSError, PosixError) as exc:
        return record._replace(damaged=str(exc))
    return record._replace(damaged="its bytes do not match their checksum") if wrong else record


def _sum_of(said: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _sum_of_bytes(fd: int) -> int:
    """Return the CRC-32 of a staging file. Its holes are as long as it is: they are skipped."""
    size, place, found = os.fstat(fd).st_size, 0, zlib.crc32(b"")
    while place < size:
        try:
            start = os.lseek(fd, place, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            break
        piece = os.pread(fd, _PIECE, start - start % _PIECE)
        place = start - start % _PIECE
        if piece.strip(b"\0"):  # a hole and zeros are the same bytes
            found = zlib.crc32(piece, zlib.crc32(b"%d" % place, found))
        place += max(1, len(piece))
    return zlib.crc32(b"%d" % size, found) or 1


_KINDS: dict[str, type] = {
    **dict.fromkeys(("bucket", "key", "etag", "endpoint", "content_type"), str),
    "base": int,
    "partial": bool,
    "closed": bool,
    "noted": int,
    "checksum": int,
    "meta": dict,
    "headers": dict,
    "uploads": list,
}


def _ranges(data: Path, noted: int = 0) -> Iterator[tuple[int, int | None]]:
    """Yield what is noted beside *data*. Raises PosixError where that is not what was written,
    or less than *noted* bytes."""
    path = data.with_suffix(".ranges")
    with _disk_errors(path):
        try:
            lines = path.read_bytes()
        except FileNotFoundError:
            lines = b""
    if len(lines) < noted or len(lines) % _LINE:
        raise PosixError(errno.EIO, f"{path}: cut short")
    total = 0
    for place in range(0, len(lines), _LINE):
        line = lines[place : place + _LINE]
        start, end = _RANGE.unpack_from(line)
        if _SUM.unpack_from(line, _RANGE.size)[0] != zlib.crc32(line[: _RANGE.size], total):
            raise PosixError(errno.EIO, f"{path}: line {place // _LINE} is damaged")
        total = zlib.crc32(line, total)
        yield start, end if end != _CUT else None


def _tell_ranges(data: Path, damaged: str) -> None:
    """Write what a partial file has, and what is wrong, into its record, for its owner to read."""
    record, ranges = data.with_suffix(".json"), data.with_suffix(".ranges")
    try:
        noted, said = list(_ranges(data)), json.loads(_text(record))
    except (OSError, PosixError, ValueError, RecursionError):
        return  # they are moved as they are
    if not isinstance(said, dict):
        return
    more = {**({"written": noted} if noted else {}), **({"damaged": damaged} if damaged else {})}
    if more:
        with open(record, "w", opener=_private) as file:
            json.dump({**said, **more}, file)
    ranges.unlink(missing_ok=True)


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
