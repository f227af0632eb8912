"""Uploading files that are closed already: with --write-back, close(2) returns when the bytes
are in the journal, and S3 gets them from here.

Small files come in large numbers. The thread that takes the next one only begins its upload, and
the thread that sends all of them (s3/requests/putting.py) ends it. Another thread waits where that
is necessary, as for any larger file.

An upload that S3 refuses is tried again, later and later, for as long as the mount lives; the next
mount uploads what is left then (recovery.py). A change of a file interrupts its upload
(File.flush), and the file is uploaded when it is closed again. Of a file that is changed without a
pause S3 would get nothing: whoever changes it waits for an upload now and then (`_Waiting.upload`).

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
from mimicfs.files.behind import Behind
from mimicfs.files.file import File
from mimicfs.files.small import SMALL
from mimicfs.files.turn import Turn
from mimicfs.files.upload import BegunPut

log = logging.getLogger(__name__)

_DELAY_S = 0.2  # programs close a file and open it again: it must be left alone for so long first
_THREADS = 12  # for uploads that wait
_FLYING = 48  # uploads for which no thread waits: S3 takes a round trip to answer each
# While files are closed so soon after each other, no upload is begun, for so long at most: uploads
# would take the interpreter's lock from the programs that write.
_BURST_S, _BURST_MAX_S = 0.03, 1.0
_AGAIN_S = (1.0, 60.0)  # the first pause after a refusal, and the longest
# Once a file has waited for so long, and each time that has doubled, a change of it waits for its
# upload, for this part of that time, and no longer than this.
_PATIENT_S, _PATIENCE, _PATIENCE_MAX_S = 4.0, 1 / 8, 10.0


class Pending(NamedTuple):
    """A file that S3 does not have yet, though its writer was told that it is safe."""

    bucket: str
    key: str
    size: int  # bytes
    since_ns: int
    tries: int
    error: str  # the error of the last try


class Flight(NamedTuple):
    """An upload that has begun, and for which no thread waits. It has the turn of its file, and
    *turn*, that of the name. *ended* is to be called at its end."""

    put: BegunPut
    turn: Turn
    ended: Callable[[], None]


class UploadsBehind(Protocol):
    """How files are uploaded. *handle* holds a file open until then."""

    def upload(self, file: File, handle: int, cancellation: Behind, flight: Flight | None) -> None:
        """Upload *file*; or end *flight*, if its future is done."""
        ...

    def begin(self, file: File, handle: int, cancellation: Behind) -> Flight | None:
        """Begin to upload *file*, if that waits for nobody; None: nothing has happened. The caller
        ends it by `upload` or `abandon`."""
        ...

    def abandon(self, file: File, flight: Flight) -> None:
        """Give *flight* up: *file* is about to be changed."""
        ...

    def let_go(self, handle: int) -> None:
        """Close *handle*, which need not hold the file open any more."""
        ...

    def let_go_at_once(self, handle: int) -> bool:
        """Do the same, if that waits for nobody; return whether it is done. If not, nothing has
        happened."""
        ...


class _Waiting:
    """A file in the queue, which *handle* holds open."""

    def __init__(self, file: File, handle: int) -> None:
        self.file = file
        self.handle = handle
        self.since_ns = time.time_ns()
        self.since_s = time.monotonic()
        self.patient_s = self.since_s + _PATIENT_S  # when an upload next gives way to no change
        self.due = 0.0  # on the monotonic clock, s
        self.tries = 0
        self.error = ""
        self.running = False
        self.behind = Behind()  # of the upload that is running
        self.flight: Flight | None = None  # its end is not known yet

    def upload(self) -> Behind:
        """Return the cancellation of the next upload, which begins now."""
        now_s = time.monotonic()
        if now_s < self.patient_s:
            return Behind()
        waited_s = now_s - self.since_s
        self.patient_s = now_s + waited_s
        return Behind(min(waited_s * _PATIENCE, _PATIENCE_MAX_S))


class WriteBack:
    """Uploads files by *uploads*: at most *large* at a time of those that are more than one small
    PUT."""

    def __init__(self, uploads: UploadsBehind, large: int) -> None:
        self._uploads = uploads
        self._large = threading.Semaphore(large)
        # held by the thread that takes the next file; taken before the next lock
        self._idle = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: dict[File, _Waiting] = {}
        # an item that is no longer due at its time is stale
        self._queue: list[tuple[float, int, _Waiting]] = []
        self._last = 0  # breaks ties
        self._added_last = 0.0  # on the monotonic clock: when a file was closed last
        self._flying = 0  # flights that have not ended
        self._threads: list[threading.Thread] = []
        self._aside: set[threading.Thread] = set()  # each does one thing
        self._closing = False

    def add(self, file: File, hold: Callable[[], int]) -> None:
        """Upload *file* soon. *hold* holds it open, and returns the handle that does."""
        with self._changed:
            waiting = self._waiting.get(file)
            if waiting is None:
                waiting = self._waiting[file] = _Waiting(file, hold())
            # not put off for ever, where it is closed again and again
            self._due(waiting, min(time.monotonic() + _DELAY_S, waiting.patient_s))
            self._added_last = 0.0 if self._closing else time.monotonic()
            if len(self._threads) < min(_THREADS, len(self._waiting)):
                self._start()

    def _start(self) -> None:
        name = f"write-back-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # no more threads can start; the next file tries again
            log.warning("no thread to upload closed files: %s", exc)
        else:
            self._threads.append(thread)

    def pending(self) -> list[Pending]:
        """Return the files that S3 does not have yet, the oldest first."""
        with self._changed:
            return [
                Pending(each.file.bucket, each.file.key, each.file.size, *_tries(each))
                for each in self._waiting.values()
            ]

    def close(self) -> list[File]:
        """Try once more to upload everything, now; return the files that S3 did not take. After a
        failure of S3 itself, and not about one file, no other upload begins."""
        with self._changed:
            self._closing, self._added_last = True, 0.0
            self._queue.clear()  # the times at which files would have been tried again
            for waiting in self._waiting.values():
                self._due(waiting, 0.0)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        while (aside := self._any_aside()) is not None:
            aside.join()
        return list(self._waiting)

    def _due(self, waiting: _Waiting, at_s: float) -> None:
        waiting.due = 0.0 if self._closing else at_s
        self._last += 1
        heapq.heappush(self._queue, (waiting.due, self._last, waiting))
        _, _, first = self._queue[0]
        if first is waiting:  # otherwise one thread waits for the first, and wakes the next
            self._changed.notify()

    def _work(self) -> None:
        while (waiting := self._next()) is not None:
            self._ended(waiting, self._try(waiting, waiting.behind, None))

    def _ended(self, waiting: _Waiting, reachable: bool, *, waits: bool = True) -> None:
        """Note that a try of *waiting* has ended. *reachable*: S3 can be reached. *waits*: this
        thread may wait."""
        vain: list[Flight] = []
        with self._changed:
            waiting.running = False
            done = not waiting.file.dirty  # it is in S3, deleted, or lost
            if done:
                del self._waiting[waiting.file]
            elif not self._closing:
                self._due(waiting, time.monotonic() + _pause_s(waiting))
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
        """Return the next file that is due and for which a thread has to wait; None when the mount
        ends and nothing is left."""
        with self._idle:  # one thread waits for the first of the queue
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
                        waiting.running, waiting.behind = True, waiting.upload()
                        return waiting
                if self._closing and not (self._queue or self._flying):
                    return None
                begins = self._begins() if self._queue and self._flying < _FLYING else None
                self._changed.wait(None if begins is None else begins - now)

    def _begins(self) -> float:
        """Return when to begin the first of the queue: when it is due, or somewhat later while one
        file after the other is closed."""
        due, _, _ = self._queue[0]
        return max(due, min(self._added_last + _BURST_S, due + _BURST_MAX_S))

    # Uploads that no thread waits for

    def _flies(self, waiting: _Waiting) -> bool:
        """Begin to upload a file, if no thread has to wait for that; return whether it has
        begun."""
        if waiting.file.size > SMALL:
            return False
        cancellation = waiting.behind
        try:
            flight = self._uploads.begin(waiting.file, waiting.handle, cancellation)
        except Exception:  # a thread tries it again, and reports
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

    def _lands(self, waiting: _Waiting, flight: Flight, cancellation: Behind) -> None:
        """End *flight*, whose request has ended. This is the thread that sends all of them: another
        one goes on where something must be waited for."""
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
        self, waiting: _Waiting, flight: Flight, cancellation: Behind, *, waits: bool = True
    ) -> None:
        try:
            self._ended(waiting, self._try(waiting, cancellation, flight), waits=waits)
        finally:
            self._flown()

    def _falls(self, waiting: _Waiting, flight: Flight) -> None:
        """Abandon *flight*: this thread is about to change the file; or the request was not sent,
        and is not to be."""
        if not self._is_over(waiting, flight):
            return
        try:
            self._uploads.abandon(waiting.file, flight)
        except MimicError as exc:  # not for the caller that changes the file
            log.error("s3://%s/%s: %s", waiting.file.bucket, waiting.file.key, exc)
        waiting.tries, waiting.error = 0, ""
        try:
            self._ended(waiting, reachable=True, waits=False)
        finally:
            self._flown()

    def _is_over(self, waiting: _Waiting, flight: Flight) -> bool:
        """Whether this caller is the first to hear that *flight* is over."""
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
        """Do *work* in a thread of its own, or in this one, if no more can start."""

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

    def _try(self, waiting: _Waiting, cancellation: Behind, flight: Flight | None) -> bool:
        """Try to upload a file; or end *flight*. Return whether S3 can be reached."""
        file, reachable = waiting.file, True
        waiting.tries += flight is None
        try:
            with nullcontext() if file.size <= SMALL else self._large:
                self._uploads.upload(file, waiting.handle, cancellation, flight)
            waiting.tries, waiting.error = 0, ""
        except Interrupted:
            waiting.tries, waiting.error = 0, ""  # somebody is changing it
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
