"""The changed ranges of a partial staging file, in the order of the changes: the file NAME.ranges.

A line has 32 bytes, little endian: two u64, a u64 of zeros, and a CRC-32, as a u64, of NAME and of
what all lines up to this one say. (Beside a record without a format, record.py, the sum does not
cover NAME.) The bytes [start, end) were written; where end is 2^64-1, everything from start on was
cut off. No line crosses a page, so that `kill -9` leaves whole lines.

Threading: one thread at a time.
"""

from __future__ import annotations

import errno
import os
import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

from mimicfs.errors import PosixError
from mimicfs.files import disk

_LINE = struct.Struct("<QQQQ")
_RANGE = _REST = struct.Struct("<QQ")
_CUT = (1 << 64) - 1  # in the place of an end: all from the start on was cut off

FileChange = tuple[int, int | None]  # (start, end) was written; (size, None): cut


class Changes:
    """The lines beside the staging file *data*, to be added to. *form*: see `seed`."""

    def __init__(self, data: Path, form: int) -> None:
        self._path = data.with_suffix(".ranges")
        self._form = form
        self._fd: int | None = None
        self._sum = seed(data, form)  # of all lines so far

    def note(self, change: FileChange) -> None:
        """Add a line. Raises PosixError."""
        said = _packed(change)
        with disk.errors_of(self._path):
            fd = self._opened()
            total = zlib.crc32(said, self._sum)
            if os.write(fd, said + _REST.pack(0, total)) != _LINE.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._sum = total  # of the lines that are there: a full disk has not taken the new one

    def _opened(self) -> int:
        if self._fd is None:
            total = self._sum
            for change in read(self._path, self._form):  # of a file that a later mount goes on with
                total = zlib.crc32(_packed(change), total)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd, self._sum = os.open(self._path, flags, 0o600), total
            weakref.finalize(self, os.close, self._fd)
        return self._fd

    def size(self) -> int:
        """Return how many bytes of lines there are."""
        with disk.errors_of(self._path):
            return os.fstat(self._fd).st_size if self._fd is not None else 0

    def forget(self) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            self._sum = seed(self._path, self._form)


def seed(path: Path, form: int) -> int:
    """Return what a CRC-32 of *path* begins with. *form* is the format of the record beside it. 0
    is a record of a former version, which has no format: its sums do not cover NAME."""
    if not form:
        return 0
    name = os.fspath(path).rpartition("/")[2]  # pathlib takes three times as long
    return zlib.crc32((name.rpartition(".")[0] or name).encode())


def _packed(change: FileChange) -> bytes:
    start, end = change
    return _RANGE.pack(start, _CUT if end is None else end)


def read(path: Path, form: int, least: int = 0) -> Iterator[FileChange]:
    """Yield what *path* says. Raises PosixError if it is not what was written, or has less than
    *least* bytes. *form*: see `seed`."""
    with disk.errors_of(path):
        try:
            lines = path.read_bytes()
        except FileNotFoundError:
            lines = b""
    if len(lines) < least or len(lines) % _LINE.size:
        raise PosixError(errno.EIO, f"{path}: cut short")
    total = seed(path, form)
    for number, (start, end, zero, checksum) in enumerate(_LINE.iter_unpack(lines)):
        total = zlib.crc32(_RANGE.pack(start, end), total)
        if (zero, checksum) != (0, total):
            raise PosixError(errno.EIO, f"{path}: line {number} is damaged")
        yield start, end if end != _CUT else None
