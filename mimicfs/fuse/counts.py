"""Counts the requests of the kernel, and how they were answered.

To count costs the thread that reads the device one addition to a list, without a lock: it is the
only thread that writes there. The counts of workers are under a lock; workers wait for S3 anyway.
Readers see each number as it was a moment ago.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from typing import Any

from mimicfs.fuse.abi import Opcode

_SIZE = 64  # above every opcode that is counted
# Of the requests that the mirror answers, those for which a file system without one sends a HEAD.
_HEADS = (Opcode.LOOKUP, Opcode.GETATTR)

# Answers, not errors: a name is not there, an attribute is not set, the kernel must do it itself.
ANSWERS = frozenset(
    {(Opcode.LOOKUP, errno.ENOENT)}
    | {(Opcode.GETXATTR, errno.ENODATA), (Opcode.GETXATTR, errno.EOPNOTSUPP)}
    | {(Opcode.COPY_FILE_RANGE, errno.EOPNOTSUPP), (Opcode.COPY_FILE_RANGE_64, errno.EOPNOTSUPP)}
)


class Counts:
    """The counts of one mount.

    INVARIANT: only the reading thread writes `came` and `cached_bytes`, and `listings` if the file
    system is quick; else workers write `listings`, and may lose a count now and then."""

    def __init__(self) -> None:
        self.came = [0] * _SIZE  # by opcode
        self.listings = 0  # of directories, begun
        self.cached_bytes = 0  # of reads that the reading thread answers
        self._lock = threading.Lock()  # protects all below
        self._learned: Counter[int] = Counter()  # by opcode: S3 had to be asked first
        self._errors: Counter[int] = Counter()  # by errno
        self._read = 0  # bytes
        self._written = 0  # bytes

    def learned(self, opcode: int) -> None:
        with self._lock:
            self._learned[opcode] += 1

    def failed(self, opcode: int, code: int) -> None:
        if (opcode, code) in ANSWERS:
            return
        with self._lock:
            self._errors[code] += 1

    def moved(self, read: int, written: int) -> None:
        with self._lock:
            self._read += read
            self._written += written

    def figures(self) -> dict[str, Any]:
        """Return the sums, for people and programs.

        *answered_by_mirror* are the questions about names, attributes and directories that cost no
        request. *saved* are the requests that they would have cost without a mirror: a HEAD for
        each name and its attributes, a LIST for each directory that was read. Answers of the kernel
        from its own caches are not seen here, and not counted.
        """
        with self._lock:
            learned, errors = dict(self._learned), dict(self._errors)
            read, written = self._read + self.cached_bytes, self._written
        heads = sum(self.came[opcode] - learned.get(opcode, 0) for opcode in _HEADS)
        directories = learned.get(Opcode.READDIR, 0) + learned.get(Opcode.READDIRPLUS, 0)
        saved = {"HEAD": max(0, heads), "LIST": max(0, self.listings - directories)}
        return {
            "requests": {op.name.lower(): n for op in Opcode if (n := self.came[op])},
            "answered_by_mirror": sum(saved.values()),
            "asked_s3_first": sum(learned.values()),
            "saved": saved,
            "bytes_read": read,
            "bytes_written": written,
            "errors": {errno.errorcode.get(code, str(code)): n for code, n in errors.items()},
        }
