"""Bodies on their way: tells a program how far they are, as boto does; and streams.

botocore reads a body more than once: to sign it, and for each attempt. Only bytes that it reads
after the request was signed are on their way: `tell_sending`, for the event before-send, says so.

Threading: several threads tell of the parts of a stream, under a lock.
"""

from __future__ import annotations

import io
import math
import os
import threading
from typing import Any, BinaryIO

from mimicfs.s3.boto2 import STEP, Callback

_PIECE = 256 << 10  # bytes moved at a time, at most
_UNKNOWN = 1 << 20  # bytes between two calls if the total is not known


class CallbackProgress:
    """Calls *cb* with the number of bytes that are done and with *total* (0: not known): at the
    beginning, at the end, and in between, so that it is called up to *num_cb* times. If *num_cb*
    is 0 or 1, it is not called in between; if it is less than 0, it is called for each piece.
    *buffer* is the number of bytes that the program wants to be moved at a time."""

    def __init__(self, cb: Callback | None, num_cb: int, total: int, buffer: int = STEP) -> None:
        self._cb = cb
        self._total = total
        self._step = math.inf
        if num_cb < 0:
            self._step = 1
        elif not total:
            self._step = _UNKNOWN
        elif num_cb > 1:
            self._step = math.ceil(total / buffer / (num_cb - 1)) * buffer
        # The number of bytes that are moved at a time, so that there is something to tell.
        usual = int(min(max(self._step, STEP), _PIECE))
        self.piece = usual if buffer == STEP else buffer
        self._lock = threading.Lock()  # protects the two below
        self._done = 0
        self._told = -1

    def begin(self) -> None:
        """Begin, or begin anew: nothing is done."""
        with self._lock:
            self._done, self._told = 0, -1
            self._tell()

    def add(self, size: int) -> None:
        """Add *size* bytes that are done."""
        with self._lock:
            self._done += size
            if self._done - self._told >= self._step:
                self._tell()

    def end(self) -> None:
        """Tell that everything is done."""
        with self._lock:
            if self._told != self._done:
                self._tell()

    def _tell(self) -> None:
        self._told = self._done
        if self._cb:
            self._cb(self._done, self._total)


class _ReadBody(io.RawIOBase):
    """A body that can be read by `read`, and in the way of awscrt, with which botocore signs if it
    is installed."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


class CountedBody(_ReadBody):
    """Stands for *body*. Once that is being sent, *progress* hears of the bytes that are read."""

    def __init__(self, body: BinaryIO | Any, progress: CallbackProgress) -> None:
        self._body = body
        self._progress = progress
        self._sending = False

    def sending(self) -> None:
        self._sending = True
        self._progress.begin()

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        place: int = self._body.tell()
        return place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._sending = False  # it is read again, and perhaps only to be signed
        place: int = self._body.seek(offset, whence)
        return place

    def read(self, size: int = -1, /) -> bytes:
        if not self._sending:
            return bytes(self._body.read(size))
        data: bytes = self._body.read(min(size, self._progress.piece) if size > 0 else size)
        self._progress.add(len(data))
        return data


def tell_sending(request: Any, **_: Any) -> None:
    """Tell a CountedBody that it is being sent now (botocore's event before-send)."""
    if isinstance(request.body, CountedBody):
        request.body.sending()


class LimitedStream(_ReadBody):
    """The bytes of *file*, at most *size*; it need not be seekable.

    A pipe gives fewer bytes than are asked for, and s3transfer takes that for the end: `read`
    gives all of them.
    """

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self._file = file
        self._left = math.inf if size is None else size

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        pieces = []
        while wanted:
            data = self._file.read(_PIECE if wanted > _PIECE else int(wanted))
            if not data:
                break
            pieces.append(data)
            wanted -= len(data)
            self._left -= len(data)
        return b"".join(pieces)
