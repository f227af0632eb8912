"""Uploading files that are closed already: with --write-back, close(2) returns when the bytes
are in the journal, and S3 gets them from here.

Small files are many. The thread that takes the next one only begins its upload, and the thread that
sends those of all (s3/requests/putting.py) ends it; another thread waits where something is to be
waited for, as for all that is larger.

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
from typing import NamedTuple, Protocol

from mimicfs.errors import Interrupted, MimicError, S3Unavailable, UploadFailed
from mimicfs.files.file import File
from mimicfs.files.small import SMALL
from mimicfs.files.turn import Turn
from mimicfs.files.upload import BegunPut
from mimicfs.posix import Cancellation

log = logging.getLogger(__name__)

_DELAY_S = 0.2  # programs close and open again: so long a file must be left alone first
_THREADS = 12  # for what is waited for
_FLYING = 48  # uploads that no thread waits for; S3 answers none before a round trip is over
# While files are closed so soon after each other, uploads would take the interpreter's lock from
# those who write: nothing is begun, for so long at most.
_BURST_S, _BURST_MAX_S = 0.03, 1.0
_AGAIN_S = (1.0, 60.0)  # the first pause after a refusal, and the longest


class Pending(NamedTuple):
    """A file that S3 does not have yet, though its writer was told that it is safe."""

    bucket: str
    key: str
    size: int  # bytes
    since_ns: int
    tries: int
    error: str  # of the last try


class Flight(NamedTuple):
    """An upload that has begun, and no thread waits for. It has the turn of its file, and *turn*,
    that of the name."""

    put: BegunPut
    turn: Turn


class UploadsBehind(Protocol):
    """How files are uploaded. *handle* is what holds one open until then."""

    def upload(
        self, file: File, handle: int, cancellation: Cancellation, flight: Flight | None
    ) -> None:
        """Upload *file*, or end *flight*, whose future is done."""
        ...

    def begin(self, file: File, handle: int, cancellation: Cancellation) -> Flight | None:
        """Begin to upload *file*, if nobody is to be waited for; None: nothing has happened. It is
        ended by `upload` or `abandon`."""
        ...

    def abandon(self, file: File, flight: Flight) -> None:
        """*file* is about to be changed: nothing of *flight* is wanted."""
        ...

    def let_go(self, handle: int) -> None:
        """The file need not be held open any more."""
        ...

    def let_go_at_once(self, handle: int) -> bool:
        """The same, if nobody is to be waited for; return whether. If not, nothing has happened."""
        ...


class _Waiting:
    """A file in the queue, which *handle* holds open."""

    def __init__(self, file: File, handle: int) -> None:
        self.file = file
        self.handle = handle
        self.since_ns = time.time_ns()
        self.due = 0.0  # on the monotonic clock, s
        self.tries = 0
        self.error = ""
        self.running = False
        self.flight: Flight | None = None  # of which nobody has heard the end yet


class WriteBack:
    """Uploads files by *uploads*: *large* of those at a time that are more than one small PUT."""

    def __init__(self, uploads: UploadsBehind, large: int) -> None:
        self._uploads = uploads
        self._large = threading.Semaphore(large)
        self._idle = threading.Lock()  # had by the thread that takes the next; before the next
        self._changed = threading.Condition()
        self._waiting: dict[File, _Waiting] = {}
        self._queue: list[tuple[float, int, _Waiting]] = []  # what is no longer due then is stale
        self._last = 0  # breaks ties
        self._added_last = 0.0  # on the monotonic clock: when a file was closed last
        self._flying = 0  # flights that have not ended
        self._threads: list[threading.Thread] = []
        self._aside: set[threading.Thread] = set()  # that do one thing
        self._closing = False

    def add(self, file: File, hold: Callable[[], int]) -> None:
        """Upload *file* soon. *hold* holds it open, and returns the handle that does."""
        with self._changed:
            waiting = self._waiting.get(file)
            if waiting is None:
                waiting = self._waiting[file] = _Waiting(file, hold())
            self._due(waiting, _DELAY_S)
            self._added_last = 0.0 if self._closing else time.monotonic()
            if len(self._threads) < min(_THREADS, len(self._waiting)):
                self._start()

    def _start(self) -> None:
        name = f"write-back-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # there can be no more; the next file tries again
            log.warning("no thread to upload closed files: %s", exc)
        else:
            self._threads.append(thread)

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
            self._closing, self._added_last = True, 0.0
            self._queue.clear()  # of when files would have been tried again
            for waiting in self._waiting.values():
                self._due(waiting, 0.0)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        while (aside := self._any_aside()) is not None:
            aside.join()
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
            self._ended(waiting, self._try(waiting, Cancellation(), None))

    def _ended(self, waiting: _Waiting, reachable: bool, *, waits: bool = True) -> None:
        """A try of *waiting* has ended. *reachable*: S3 is. *waits*: this thread may wait."""
        vain: list[Flight] = []
        with self._changed:
            waiting.running = False
            done = not waiting.file.dirty  # it is in S3, deleted, or lost
            if done:
                del self._waiting[waiting.file]
            elif not self._closing:
                self._due(waiting, _pause_s(waiting))
            if self._closing and not reachable:
                self._queue.clear()
                vain = [each.flight for each in self._waiting.values() if each.flight is not None]
        for flight in vain:
            flight.put.future.cancel()  # unless it is sent already
        if not done or self._uploads.let_go_at_once(waiting.handle):
            return
        if waits:
            self._uploads.let_go(waiting.handle)
        else:
            self._do_aside(self._uploads.let_go, waiting.handle)

    def _next(self) -> _Waiting | None:
        """Return the next file that is due and that a thread has to wait for; None when the mount
        ends and nothing is left."""
        with self._idle:  # one waits for the first of the queue
            while (waiting := self._first_due()) is not None:
                if not self._flies(waiting):
                    return waiting
            return None

    def _first_due(self) -> _Waiting | None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._queue and self._begins() <= now and self._flying < _FLYING:
                    due, _, waiting = heapq.heappop(self._queue)
                    waits = self._waiting.get(waiting.file) is waiting and not waiting.running
                    if due == waiting.due and waits:
                        waiting.running = True
                        return waiting
                if self._closing and not (self._queue or self._flying):
                    return None
                begins = self._begins() if self._queue and self._flying < _FLYING else None
                self._changed.wait(None if begins is None else begins - now)

    def _begins(self) -> float:
        """Return when the first of the queue is to be begun: when it is due, but for some time not
        while one file after the other is closed."""
        due, _, _ = self._queue[0]
        return max(due, min(self._added_last + _BURST_S, due + _BURST_MAX_S))

    # Uploads that no thread waits for

    def _flies(self, waiting: _Waiting) -> bool:
        """Begin to upload a file, if no thread has to wait for that; return whether it has."""
        if waiting.file.size > SMALL:
            return False
        cancellation = Cancellation()
        try:
            flight = self._uploads.begin(waiting.file, waiting.handle, cancellation)
        except Exception:  # a thread tries it again, and tells
            log.exception("s3://%s/%s", waiting.file.bucket, waiting.file.key)
            return False
        if flight is None:
            return False
        with self._changed:
            waiting.tries += 1
            waiting.flight = flight
            self._flying += 1
        # Whichever comes first ends it.
        flight.put.future.add_done_callback(lambda _: self._lands(waiting, flight, cancellation))
        cancellation.tell(lambda: self._falls(waiting, flight))
        return True

    def _lands(self, waiting: _Waiting, flight: Flight, cancellation: Cancellation) -> None:
        """The request of *flight* has ended. This is the thread that sends those of all: another
        one goes on where something is to be waited for."""
        if flight.put.future.cancelled():
            self._falls(waiting, flight)
            return
        if not self._is_over(waiting, flight):
            return
        if waiting.file.is_plain(flight.put):
            self._land(waiting, flight, cancellation, waits=False)
        else:
            self._do_aside(self._land, waiting, flight, cancellation)

    def _land(
        self, waiting: _Waiting, flight: Flight, cancellation: Cancellation, *, waits: bool = True
    ) -> None:
        try:
            self._ended(waiting, self._try(waiting, cancellation, flight), waits=waits)
        finally:
            self._flown()

    def _falls(self, waiting: _Waiting, flight: Flight) -> None:
        """Somebody is about to change the file of *flight*, in this thread; or it was not sent, and
        is not to be."""
        if not self._is_over(waiting, flight):
            return
        try:
            self._uploads.abandon(waiting.file, flight)
        except MimicError as exc:  # not the business of whoever changes the file
            log.error("s3://%s/%s: %s", waiting.file.bucket, waiting.file.key, exc)
        waiting.tries, waiting.error = 0, ""
        try:
            self._ended(waiting, reachable=True, waits=False)
        finally:
            self._flown()

    def _is_over(self, waiting: _Waiting, flight: Flight) -> bool:
        """Whether nobody else has heard before that *flight* is over."""
        with self._changed:
            if waiting.flight is not flight:
                return False
            waiting.flight = None
            return True

    def _flown(self) -> None:
        with self._changed:
            if self._flying == _FLYING or self._closing:
                self._changed.notify()
            self._flying -= 1

    def _do_aside(self, work: Callable[..., None], *args: object) -> None:
        """Have *work* done by a thread of its own; by this one, if there can be no more."""

        def run() -> None:
            try:
                work(*args)
            finally:
                with self._changed:
                    self._aside.discard(thread)

        thread = threading.Thread(target=run, name="write-back-aside", daemon=True)
        with self._changed:
            self._aside.add(thread)
            try:
                thread.start()
                return
            except RuntimeError as exc:
                log.debug("%s", exc)
        run()

    def _any_aside(self) -> threading.Thread | None:
        with self._changed:
            return next(iter(self._aside), None)

    # A try

    def _try(self, waiting: _Waiting, cancellation: Cancellation, flight: Flight | None) -> bool:
        """Try to upload a file, or end *flight*. Return whether S3 can be reached."""
        file, reachable = waiting.file, True
        waiting.tries += flight is None
        try:
            with nullcontext() if file.size <= SMALL else self._large:
                self._uploads.upload(file, waiting.handle, cancellation, flight)
            waiting.tries, waiting.error = 0, ""
        except Interrupted:
            waiting.tries, waiting.error = 0, ""  # it is being changed
        except UploadFailed as exc:
            if not waiting.error and file.lost is None:
                log.warning("%s; mimicfs tries again", exc)
            waiting.error = str(exc)
            reachable = not isinstance(exc.__cause__, S3Unavailable)
        except Exception as exc:
            log.exception("s3://%s/%s", file.bucket, file.key)
            waiting.error = str(exc) or repr(exc)
        return reachable


def _pause_s(waiting: _Waiting) -> float:
    first, longest = _AGAIN_S
    again = min(longest, first * 2.0 ** min(waiting.tries, 10))
    return again if waiting.error else _DELAY_S


def _tries(waiting: _Waiting) -> tuple[int, int, str]:
    return waiting.since_ns, waiting.tries, waiting.error
