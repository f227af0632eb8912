"""The local disk, where staging files are: its errors, and how files there are opened."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from mimicfs.errors import PosixError

_PUNCH_HOLE = 0x02 | 0x01  # and keep the size; linux/falloc.h
_TEXT_MAX = 64 << 20  # bytes; the record of a recovered file names all of its ranges


def private(path: str, flags: int) -> int:
    """Open a file for us alone; an `opener` of open()."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_private(path: str, data: bytes, *, synced: bool = False) -> None:
    """Make *data* the file *path*, for us alone; *synced*: on the disk. Raises OSError."""
    fd = private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        while data:
            data = data[os.write(fd, data) :]
        if synced:
            os.fsync(fd)
    finally:
        os.close(fd)


def text(path: Path) -> str:
    """Return what is in the regular file *path*. Never waits for a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(_TEXT_MAX)


def punch(fd: int, start: int, end: int) -> bool:
    """Make a hole of the bytes from *start* to *end*; return whether the disk could."""
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return start >= end or int(fallocate(fd, _PUNCH_HOLE, start, end - start)) == 0


def is_hole(fd: int, start: int, end: int) -> bool:
    """Whether the bytes from *start* to *end* take no place: they are zeros."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= end
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return True


def sync_all(fd: int) -> None:
    """Sync all of the file system of *fd*: one wait for any number of files. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def may_vanish() -> suppress:
    """Within, a file that another mount removes meanwhile is no error."""
    return suppress(FileNotFoundError)


def errors_of(path: Path) -> _ErrorsOf:
    """Within, errors of the local disk name the file; a full one says what to do."""
    return _ErrorsOf(path)


class _ErrorsOf:
    """This is no generator, which takes four calls more: each new file passes six of these."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, OSError):
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "; free space, raise --staging-size, or name another --cache-dir"
            text = f"staging file {self._path}{advice if full else ''}"
            raise PosixError(exc.errno or errno.EIO, text) from exc
