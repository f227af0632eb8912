"""Which of some threads works: they take turns, and do not fight for the interpreter's lock.

Threading: each part of `Baton` says which thread calls it. Knows nothing of what the threads do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

_READS_S = 0.001  # so long a request waits for the thread that brings: some pieces of its work
_BRINGS_S = 0.002  # so long that thread waits where requests come and come
_WORKS_S = 0.003  # and so long a worker that closes a file
_NOTHING = nullcontext()


class Baton:
    """Has one of some threads work at a time: the one that reads requests, the one that brings what
    is about to be read, and the workers that close files. Otherwise each would give up the
    interpreter's lock in every system call, about 14 times a file, another one would take it, and
    both would wake on another core.

    Nobody depends on it: who has not got it after a moment works without it, and a worker that is
    waiting for something else loses it. *workers*: they take part; where they wait for a store on
    a server, they must not.
    """

    def __init__(self, *, workers: bool = True) -> None:
        self._workers = workers
        self._lock = threading.Lock()  # whoever has it works
        self._lent: threading.Lock | None = None  # the same, if a worker has taken it
        self._call = threading.Lock()  # free: the thread that brings is called
        self._call.acquire()
        # What each has of it: the thread that reads requests, the one that brings, each worker.
        self._reads: threading.Lock | None = None
        self._brings: threading.Lock | None = None
        self._works = _Works()
        self._read_waits = False
        self.brings_later = False  # the thread that brings waits until the other ones sleep
        self.at_work = False  # the thread that brings does not wait for anything else
        self._resting: set[int] = set()  # the workers that wait for S3; each use is one step

    # The thread that reads requests

    def wakes(self) -> None:
        """The thread that reads requests has woken. It waits until the other ones pause."""
        self._reads = self._taken()
        if self._reads is None:
            self._read_waits = True
            self._reads = self._taken(_READS_S)
            self._read_waits = False

    def sleeps(self) -> None:
        """The thread that reads requests has none, and is about to sleep."""
        held, self._reads = self._reads, None
        if held is not None:
            held.release()
        self._calls()

    def comes_soon(self, elsewhere: int) -> bool:
        """Whether to look for a request once more, though *elsewhere* other things are done: the
        next one of the same program comes soon, and nobody works meanwhile."""
        return self.brings_later or elsewhere <= len(self._resting)

    # The thread that brings

    def begins(self) -> None:
        """The thread that brings has something to do. It waits until the other ones sleep."""
        self.at_work = True
        self._brings = self._taken()
        if self._brings is None:
            self._asks()
            self._brings = self._taken()  # the other one may have slept meanwhile
            self._waits()

    def pauses(self) -> None:
        """The thread that brings can let the other one work now."""
        if self._read_waits:
            self._asks()
            self._let_go()
            self._waits()

    def ends(self) -> None:
        """The thread that brings waits for S3."""
        self.at_work = False
        self._let_go()

    def _let_go(self) -> None:
        held, self._brings = self._brings, None
        if held is not None:
            held.release()

    def _asks(self) -> None:
        """Have the others call this thread when they sleep."""
        self._call.acquire(blocking=False)  # it was called when it did not wait any more
        self.brings_later = True

    def _waits(self) -> None:
        if self._brings is None:
            self._call.acquire(timeout=_BRINGS_S)
            self._brings = self._taken()
        self.brings_later = False

    def _calls(self) -> None:
        if self.brings_later:
            self.brings_later = False
            with suppress(RuntimeError):  # called already
                self._call.release()

    # Workers

    def joins(self) -> None:
        """A worker has something to do. It waits until nobody else works."""
        if self._workers:
            self._works.joined = True
            self._works.held = self._lent = self._taken(_WORKS_S)

    def leaves(self) -> None:
        """The worker has ended it."""
        self._works.joined = False
        self._rests()

    def resting(self) -> AbstractContextManager[None]:
        """Within, this thread waits for S3: if it is a worker that has joined, others work."""
        return self._resting_worker() if self._works.joined else _NOTHING

    @contextmanager
    def _resting_worker(self) -> Iterator[None]:
        me = threading.get_ident()
        self._resting.add(me)
        self._rests()
        try:
            yield
        finally:
            self._resting.discard(me)
            self.joins()

    def _rests(self) -> None:
        held, self._works.held = self._works.held, None
        if held is not None:
            held.release()
            self._calls()

    # All

    def _taken(self, timeout_s: float = 0.0) -> threading.Lock | None:
        """Return what must be released later; None: another thread works. A worker that does not
        pause in *timeout_s* waits for something else, and loses what it has."""
        lock = self._lock
        if lock.acquire(timeout=timeout_s) if timeout_s else lock.acquire(blocking=False):
            self._lent = None
            return lock
        if not timeout_s or lock is not self._lent:
            return None
        self._lock = lock = threading.Lock()
        lock.acquire()
        return lock


class _Works(threading.local):
    """What a worker has of a baton."""

    joined = False
    held: threading.Lock | None = None
