"""Staging files: bytes that S3 does not have yet, on local disk, and what is left of them when
a mount dies.

A staging file NAME.data whose bytes S3 does not have has a record NAME.json beside it: which
object it is to become, and over which version. NAME is random. While its mount lives the
data file is locked (flock), so that another mount of the same directory leaves it alone.
What a dead mount left is moved to the directory `recovered`, for its owner to look at; a
staging file without a record is only a copy of what S3 has.

Threading: any thread may make staging files; one uses each (files/file.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mimicfs.errors import ConfigError, PosixError

_RECOVERED = "recovered"
_CLOEXEC = os.O_CLOEXEC
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Orphan(NamedTuple):
    """What a dead mount left: *size* bytes that were to become s3://bucket/key."""

    name: str
    bucket: str
    key: str
    size: int


class Journal:
    """The staging files in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def open(cls, directory: Path) -> Journal:
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
        return cls(directory)

    def stage(self) -> Staging:
        """Return a new, empty staging file, without a record."""
        name = secrets.token_hex(16)
        data = self.directory / f"{name}.data"
        with _disk_errors(data):
            fd = os.open(data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _CLOEXEC, 0o600)
        staging = Staging(data, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            staging.remove()
            raise
        return staging

    def orphans(self) -> list[Orphan]:
        """Return what dead mounts left and S3 does not have; remove what it has."""
        found: list[Orphan] = []
        for data in sorted(self.directory.glob("*.data")):
            fd = _locked(data)
            if fd is None:
                continue
            with os.fdopen(fd):
                record = _record(data)
                if record is None:
                    data.unlink()
                else:
                    size = os.fstat(fd).st_size
                    found.append(Orphan(data.stem, record["bucket"], record["key"], size))
        return found

    def recover(self, orphan: Orphan) -> Path:
        """Move an orphan's bytes, and its record, to the directory `recovered`; return where
        they are now."""
        directory = self.directory / _RECOVERED
        directory.mkdir(mode=0o700, exist_ok=True)
        # For people: the last part of the key, as far as it is harmless as a file name.
        readable = _UNSAFE.sub("_", orphan.key.rstrip("/").rpartition("/")[2])[-80:].lstrip(".")
        target = directory / f"{readable or 'file'}.{orphan.name[:12]}"
        (self.directory / f"{orphan.name}.json").rename(f"{target}.json")
        (self.directory / f"{orphan.name}.data").rename(target)
        return target


class Staging:
    """One staging file. *path* is where its bytes are. Reads and writes are those of
    pread(2) and pwrite(2): any thread, at once."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def describe(self, bucket: str, key: str, etag: str) -> None:
        """Write the record: what the bytes are to become, and over which version."""
        record = {"bucket": bucket, "key": key, "etag": etag, "created_ns": time.time_ns()}
        target, new = self.path.with_suffix(".json"), self.path.with_suffix(".new")
        with _disk_errors(target):
            with open(new, "w", opener=_private) as file:
                json.dump(record, file)
            new.rename(target)

    def settle(self) -> None:
        """Remove the record: S3 has the bytes, or nobody wants them."""
        self.path.with_suffix(".json").unlink(missing_ok=True)

    def read(self, offset: int, size: int) -> bytes:
        with _disk_errors(self.path):
            return os.pread(self.fd, size, offset)

    def write(self, offset: int, data: memoryview | bytes | bytearray) -> int:
        with _disk_errors(self.path):
            view, done = memoryview(data), 0
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)
            return done

    def truncate(self, size: int) -> None:
        with _disk_errors(self.path):
            os.ftruncate(self.fd, size)

    def keep(self) -> None:
        """Close it; the bytes stay for the next mount to find."""
        os.close(self.fd)

    def remove(self) -> None:
        """Close it, and give up the bytes."""
        self.settle()
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


def _locked(data: Path) -> int | None:
    """Return *data* opened and locked; None if its mount lives or has just removed it."""
    try:
        fd = os.open(data, os.O_RDWR | os.O_NOFOLLOW | _CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _record(data: Path) -> dict[str, str] | None:
    try:
        record: Any = json.loads(data.with_suffix(".json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # damaged: the bytes are worth keeping all the same
        record = {}
    return {"bucket": str(record.get("bucket", "")), "key": str(record.get("key", ""))}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | _CLOEXEC, 0o600)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Within, errors of the local disk name the file; a full one says what to do."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; free space or name another --cache-dir" if full else ""
        raise PosixError(exc.errno or errno.EIO, f"staging file {path}{advice}") from exc
