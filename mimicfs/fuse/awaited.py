"""Requests that are answered later, by the thread that ends what they wait for: no worker waits.

A FLUSH that waits for the local disk is ended whatever happens to its caller. A READ of a file that
is on its way is answered as soon as its bytes are here; if it is cancelled, with EINTR.

Threading: the reading thread begins, any thread ends. Whoever takes a READ out of `_reads` answers
it, or leaves it to a worker.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sized

from mimicfs.fuse.abi import FLUSH_IN, IN_HEADER, READ_IN, Opcode
from mimicfs.fuse.counts import Counts
from mimicfs.fuse.killed import Killed, WaitingCall
from mimicfs.fuse.session import Session
from mimicfs.posix import Caller, Cancellation, FileSystem

log = logging.getLogger(__name__)


class Elsewhere:
    """Says how much is going on in other threads: the requests that are *waiting* for them, and
    what *fs* has them do before it is asked for."""

    def __init__(self, fs: FileSystem, waiting: Sized) -> None:
        self._fs = fs
        self._waiting = waiting

    def __len__(self) -> int:
        return len(self._waiting) + self._fs.baton.at_work


class Awaited:
    """The requests of *session* that *fs* answers later. *waiting* and *asked* have the requests at
    other threads, as Server says. *failed* returns the errno to answer, *by_worker* has a worker
    answer a READ, which is cancelled like before."""

    def __init__(
        self,
        fs: FileSystem,
        session: Session,
        counts: Counts,
        killed: Killed,
        waiting: dict[int, Cancellation],
        asked: dict[int, WaitingCall],
        failed: Callable[[Exception, int], int],
        by_worker: Callable[[Caller, int, bytes, Cancellation], None],
    ) -> None:
        self._fs = fs
        self._session = session
        self._counts = counts
        self._killed = killed
        self._waiting = waiting
        self._asked = asked
        self._failed = failed
        self._by_worker = by_worker
        self._reads: dict[int, Cancellation] = {}  # by their unique numbers

    def flush(self, caller: Caller, unique: int, nodeid: int, request: bytes) -> bool:
        """Begin a FLUSH that waits only for the local disk; return whether it has begun."""
        # As for the requests of workers: it is answered at the end, whatever happens.
        self._asked[unique] = WaitingCall(Opcode.FLUSH, caller.pid)
        self._waiting[unique] = Cancellation()
        # A process that was killed need not wait for the disk, or for S3 in its place.
        self._killed.closes(unique, caller.pid)
        begun = False
        try:
            handle = FLUSH_IN.unpack_from(request, IN_HEADER.size)[0]
            begun = self._fs.flush_later(handle, lambda exc: self._flushed(unique, nodeid, exc))
        except Exception as exc:  # noqa: BLE001 - a worker meets it again, and answers
            log.debug("FLUSH: %s", exc)
        if not begun:
            self._killed.answered(unique)
            del self._waiting[unique], self._asked[unique]
        return begun

    def _flushed(self, unique: int, nodeid: int, exc: Exception | None) -> None:
        if exc is None:
            self._session.reply(unique)
        else:
            self._session.fail(unique, self._failed(exc, Opcode.FLUSH))
        self._waiting.pop(unique, None)
        self._asked.pop(unique, None)
        if self._killed.answered(unique):
            self._fs.unheard(nodeid)

    def read(self, caller: Caller, unique: int, nodeid: int, request: bytes) -> bool:
        """Have a READ of bytes that are on their way answered by the thread that brings them;
        return whether there is one."""
        waits = self._reads[unique] = self._waiting[unique] = Cancellation()
        self._asked[unique] = WaitingCall(Opcode.READ, caller.pid)
        self._session.busy.begin((nodeid,))
        begun = False
        try:
            handle, offset, size, *_ = READ_IN.unpack_from(request, IN_HEADER.size)
            begun = self._fs.read_later(
                handle, offset, size, lambda found: self._read(caller, unique, request, found)
            )
        except Exception as exc:  # noqa: BLE001 - a worker meets it again, and answers
            log.debug("READ: %s", exc)
        if begun:
            waits.tell(lambda: self._interrupted(unique, nodeid))
        else:
            del self._reads[unique], self._waiting[unique], self._asked[unique]
            self._session.busy.end((nodeid,))
        return begun

    def _read(
        self,
        caller: Caller,
        unique: int,
        request: bytes,
        found: bytes | memoryview | Exception | None,
    ) -> None:
        waits = self._reads.pop(unique, None)
        if waits is None:
            return  # interrupted, and answered
        _, _, _, nodeid, *_ = IN_HEADER.unpack_from(request)
        if found is None:
            self._by_worker(caller, unique, request, waits)
            self._session.busy.end((nodeid,))
            return
        if isinstance(found, Exception):
            self._session.fail(unique, self._failed(found, Opcode.READ))
        else:
            self._counts.moved(len(found), 0)
            self._session.reply(unique, found)
        self._left(unique, nodeid)

    def _interrupted(self, unique: int, nodeid: int) -> None:
        if self._reads.pop(unique, None) is not None:
            self._session.fail(unique, errno.EINTR)
            self._left(unique, nodeid)

    def _left(self, unique: int, nodeid: int) -> None:
        # After the answer: an INTERRUPT that comes between still finds it, and needs no more.
        self._waiting.pop(unique, None)
        self._asked.pop(unique, None)
        self._killed.answered(unique)
        self._session.busy.end((nodeid,))
