"""Uploading files that are closed already: with --write-back, close(2) returns when the bytes
are in the journal, and S3 gets them from here.

An upload that S3 refuses is tried again, later and later, for as long as the mount lives; what
is left then is uploaded by the next one (recovery.py). A file that is changed again while it is
uploaded interrupts that (File.flush), and is uploaded when it is closed again.

Threading: any thread may call. `_changed` protects everything; it is never held while S3 is
asked.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

from mimicfs.errors import Interrupted, MimicError, S3Unavailable, UploadFailed
from mimicfs.files.file import File
from mimicfs.files.small import SMALL
from mimicfs.posix import Cancellation

log = logging.getLogger(__name__)

_DELAY_S = 0.2  # programs close and open again: so long a file must be left alone first
_AT_ONCE = 24  # most; S3 answers none of them before a round trip is over
_AGAIN_S = (1.0, 60.0)  # the first pause after a refusal, and the longest


class Pending(NamedTuple):
    """A file that S3 does not have yet, though its writer was told that it is safe."""

    bucket: str
    key: str
    size: int  # bytes
    since_ns: int
    tries: int
    error: str  # of the last try


class _Waiting:
    """A file in the queue. *done* is called once it has left it for good."""

    def __init__(self, file: File, done: Callable[[], None]) -> None:
        self.file = file
        self.done = done
        self.since_ns = time.time_ns()
        self.due = 0.0  # on the monotonic clock, s
        self.tries = 0
        self.error = ""
        self.running = False


class WriteBack:
    """Uploads files by *upload*: *large* of those at a time that are more than one small PUT."""

    def __init__(self, upload: Callable[[File, Cancellation], None], large: int) -> None:
        self._upload = upload
        self._large = threading.Semaphore(large)
        self._idle = threading.Lock()  # had by the thread that takes the next; before the next
        self._changed = threading.Condition()
        self._waiting: dict[File, _Waiting] = {}
        self._queue: list[tuple[float, int, _Waiting]] = []  # what is no longer due then is stale
        self._last = 0  # breaks ties
        self._threads: list[threading.Thread] = []
        self._closing = False

    def add(self, file: File, hold: Callable[[], Callable[[], None]]) -> None:
        """Upload *file* soon. *hold* keeps it until what it returns is called."""
        with self._changed:
            waiting = self._waiting.get(file)
            if waiting is None:
                waiting = self._waiting[file] = _Waiting(file, hold())
            self._due(waiting, _DELAY_S)
            if len(self._threads) < min(_AT_ONCE, len(self._waiting)):
                name = f"write-back-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()

    def pending(self) -> list[Pending]:
        """Return what S3 does not have yet, the oldest first."""
        with self._changed:
            return [
                Pending(each.file.bucket, each.file.key, each.file.size, *_tries(each))
                for each in self._waiting.values()
            ]

    def close(self) -> list[File]:
        """Try to upload everything once more, now; return what S3 did not take. After a failure
        that is S3's, and not the file's, nothing else is begun."""
        with self._changed:
            self._closing = True
            self._queue.clear()  # of when files would have been tried again
            for waiting in self._waiting.values():
                self._due(waiting, 0.0)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        return list(self._waiting)

    def _due(self, waiting: _Waiting, after_s: float) -> None:
        waiting.due = 0.0 if self._closing else time.monotonic() + after_s
        self._last += 1
        heapq.heappush(self._queue, (waiting.due, self._last, waiting))
        _, _, first = self._queue[0]
        if first is waiting:  # else one waits for the first, and wakes the next
            self._changed.notify()

    def _work(self) -> None:
        while (waiting := self._next()) is not None:
            reachable = self._try(waiting)
            with self._changed:
                waiting.running = False
                done = not waiting.file.dirty  # it is in S3, deleted, or lost
                if done:
                    del self._waiting[waiting.file]
                elif not self._closing:
                    self._due(waiting, _pause_s(waiting))
                if self._closing and not reachable:
                    self._queue.clear()
            if done:
                waiting.done()

    def _next(self) -> _Waiting | None:
        """Return the next file that is due; None when the mount ends and nothing is left."""
        with self._idle, self._changed:  # one waits for the first of the queue
            while True:
                now = time.monotonic()
                while self._queue and self._due_first() <= now:
                    due, _, waiting = heapq.heappop(self._queue)
                    if due == waiting.due and waiting.file in self._waiting and not waiting.running:
                        waiting.running = True
                        return waiting
                if self._closing and not self._queue:
                    return None
                self._changed.wait(self._due_first() - now if self._queue else None)

    def _due_first(self) -> float:
        due, _, _ = self._queue[0]
        return due

    def _try(self, waiting: _Waiting) -> bool:
        """Try to upload a file. Return whether S3 can be reached."""
        file, reachable = waiting.file, True
        waiting.tries += 1
        try:
            with nullcontext() if file.size <= SMALL else self._large:
                self._upload(file, Cancellation())
            waiting.tries, waiting.error = 0, ""
        except Interrupted:
            waiting.tries, waiting.error = 0, ""  # it is being changed
        except UploadFailed as exc:
            if not waiting.error and file.lost is None:
                log.warning("%s; mimicfs tries again", exc)
            waiting.error = str(exc)
            reachable = not isinstance(exc.__cause__, S3Unavailable)
        except MimicError as exc:
            log.exception("s3://%s/%s", file.bucket, file.key)
            waiting.error = str(exc)
        return reachable


def _pause_s(waiting: _Waiting) -> float:
    first, longest = _AGAIN_S
    again = min(longest, first * 2.0 ** min(waiting.tries, 10))
    return again if waiting.error else _DELAY_S


def _tries(waiting: _Waiting) -> tuple[int, int, str]:
    return waiting.since_ns, waiting.tries, waiting.error
