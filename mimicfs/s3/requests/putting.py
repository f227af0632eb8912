"""PUTs of small objects, sent together by one thread. Otherwise a burst of closed files
(--write-back) would be a thread for each, fighting for the interpreter's lock, with two
transactions each.

The thread begins all new PUTs in one transaction (StoreIntents.begin), sends them over idle
connections, and records in one transaction what S3 has answered meanwhile. It does no more than
that. If there is no idle connection, or an answer is late, broken, a refusal, or not plain, the
object is put as any other (S3.put, in a thread of the pool), and goes on with the intent that was
begun for it. So only that code retries, resolves, and reports to the caller.

INVARIANT: nothing is sent to S3 before the store has the intent of it, and no future is done before
the result is recorded, or the caller is told that it is not.

Threading: any thread calls `put` and `close`. Everything else belongs to the thread that sends,
except what runs in the pool. `_lock` is a leaf.
"""

from __future__ import annotations

import logging
import os
import select
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from mimicfs.config.values import S3Options
from mimicfs.entry import Entry
from mimicfs.errors import MimicError, S3Unavailable, StoreError
from mimicfs.intent import StoreIntent
from mimicfs.s3.mimicking.learning import Learner, untold
from mimicfs.s3.requests.pool import RequestPool
from mimicfs.s3.requests.rules import Rules
from mimicfs.s3.transport.calls import Answer, CallParams
from mimicfs.s3.transport.errors import ours
from mimicfs.s3.transport.http import Connection, Transport
from mimicfs.s3.transport.plain import PlainAnswer, refusal, whole_answer
from mimicfs.s3.transport.traffic import Seen, Traffic
from mimicfs.s3.transport.wire import ReadyPut, Wire

log = logging.getLogger(__name__)

SMALL = 64 << 10  # bytes: a larger object is not put so
_READ = 16 << 10
_GATHER_S = 0.003  # how long a group grows
_FULL_S = 0.005  # how often to look whether another request may run
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SmallPut(NamedTuple):
    """A PutObject with *params*. *has_stored* is called with what S3 has then, and whether that is
    contended, and returns what the caller gets. *otherwise* does all that as for any other PUT."""

    params: CallParams
    has_stored: Callable[[Entry, bool], Entry]
    otherwise: Callable[[], Entry]

    @property
    def about(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def size(self) -> int:
        return len(self.params["Body"])

    @property
    def bucket(self) -> str:
        return str(self.params["Bucket"])

    @property
    def key(self) -> str:
        return str(self.params["Key"])


class _PutUnderWay:
    """A PUT that waits, or is on its way over *connection*, begun with others."""

    def __init__(self, put: SmallPut, ready: ReadyPut, future: Future[Entry]) -> None:
        self.put = put
        self.host = ready.host
        self.future = future
        self.connection: Connection
        self.whole: StoreIntent  # the intent of all that were begun with it
        self.left = memoryview(ready.data)  # not sent yet
        self.waits_to_send = False
        self.come = b""  # of the answer
        self.answer: Answer = {}
        self.ends_s = 0.0  # on the monotonic clock: nobody waits for it after that
        self.seen: Seen | None = None


class Putter:
    """Puts by *wire*; *learner* learns the results."""

    def __init__(
        self,
        wire: Wire,
        rules: Rules,
        transport: Transport,
        traffic: Traffic,
        learner: Learner,
        pool: RequestPool,
        options: S3Options,
    ) -> None:
        self._wire = wire
        self._rules = rules
        self._transport = transport
        self._traffic = traffic
        self._learner = learner
        self._pool = pool
        self._most = options.connections * 3 // 4  # at once: the rest is for readers
        self._patience_s = min(options.read_timeout_s, options.request_timeout_s)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._sent: dict[int, _PutUnderWay] = {}  # by the descriptor of its connection
        self._lock = threading.Lock()  # protects the next four
        self._aside = 0  # how many the pool has
        self._new: deque[_PutUnderWay] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._unclear = False  # the server does not confirm PUTs as S3 does

    def put(self, put: SmallPut) -> Future[Entry] | None:
        """Return a future of what S3.put returns or raises. It can be cancelled until the PUT
        begins. None: the object is not to be sent like this. Raises PosixError EROFS."""
        params = self._rules.stored("PutObject", put.params)
        with ours(put.about):
            ready = self._wire.ready(self._rules.sent("PutObject", params))
        if ready is None or self._unclear or not self._most:
            return None
        future: Future[Entry] = Future()
        with self._lock:
            if self._closed:
                raise S3Unavailable(f"{put.about}: the mount has ended")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="s3-puts", daemon=True)
                # raises if no more threads can start: then nothing waits for this one
                thread.start()
                self._thread = thread
            wake = not self._new
            self._new.append(_PutUnderWay(put._replace(params=params), ready, future))
        if wake:
            os.eventfd_write(self._wake, 1)
        return future

    def close(self) -> None:
        """Begin no more PUTs."""
        with self._lock:
            self._closed = True
            new, self._new = self._new, deque()
        for each in new:
            if each.future.set_running_or_notify_cancel():
                each.future.set_exception(S3Unavailable(f"{each.put.about}: the mount has ended"))
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        os.close(self._wake)

    # The thread that sends

    def _run(self) -> None:
        while not self._closed or self._sent:
            try:
                self._turn()
            except Exception:
                log.exception("sending small objects failed")
                self._give_up(list(self._sent.values()))

    def _turn(self) -> None:
        ready = self._poll.poll(self._waits_ms())
        # no single caller waits: the larger a group, the cheaper it is
        if len(self._sent) + len(self._new) > 1:
            time.sleep(_GATHER_S)
            ready = self._poll.poll(0)
        answered = [self._sent[fd] for fd, _ in ready if fd in self._sent]
        self._learn([each for each in answered if self._went_on(each)])
        now_s = time.monotonic()
        self._give_up([each for each in self._sent.values() if each.ends_s < now_s])
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for group in self._begun():
            self._send(group)

    def _waits_ms(self) -> float | None:
        """Return how long nothing needs to be done; None: until somebody wakes us."""
        if self._new and self._free():
            return _FULL_S * 1000
        if not self._sent:
            return None
        first_s = min(each.ends_s for each in self._sent.values())
        return max(0.0, first_s - time.monotonic()) * 1000 + 1

    def _begun(self) -> Iterable[list[_PutUnderWay]]:
        """Begin the PUTs that may begin now; return them, by bucket."""
        groups: dict[str, list[_PutUnderWay]] = {}
        under_way = {(each.put.bucket, each.put.key) for each in self._sent.values()}
        while self._new and self._free(groups.values()) and self._pool.begins():
            with self._lock:
                found = self._new.popleft() if self._new else None
            if found is None or not found.future.set_running_or_notify_cancel():
                self._pool.ended()
                continue
            place = (found.put.bucket, found.put.key)
            connection = None if place in under_way else self._idle(found.host)
            if connection is None:
                self._pool.ended()
                self._in_pool(found.future, found.put.otherwise)
                continue
            found.connection = connection
            under_way.add(place)
            groups.setdefault(found.put.bucket, []).append(found)
        return groups.values()

    def _free(self, begun: Iterable[Sized] = ()) -> bool:
        """Whether one more may be under way besides those that are *begun* now, sent, or in the
        pool: readers must not wait for these."""
        return len(self._sent) + self._aside + sum(map(len, begun)) < self._most

    def _idle(self, host: str) -> Connection | None:
        try:
            return self._transport.idle(host)
        except Exception as exc:  # noqa: BLE001 - who puts it otherwise is told
            log.debug("no connection to %s: %r", host, exc)
            return None

    def _send(self, group: list[_PutUnderWay]) -> None:
        keys = [each.put.key for each in group]
        try:
            intent = self._learner.begin_puts(group[0].put.bucket, keys)
        except Exception as exc:  # noqa: BLE001 - whatever it is, each caller is told
            for each in group:
                self._leave(each, kept=True)
                each.future.set_exception(exc)
            return
        for each in group:
            each.whole = intent
            try:
                self._begin(each)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is put again
                self._failed(each, exc)

    def _begin(self, each: _PutUnderWay) -> None:
        put, connection = each.put, each.connection
        try:
            self._wire.sending(put.size)
        except MimicError:  # too many requests today: S3.put raises that
            self._leave(each, kept=True)
            self._put_again(each, unsure=False)
            return
        each.seen = self._traffic.observing("PutObject", put.about)
        each.ends_s = time.monotonic() + self._patience_s
        connection.sock.setblocking(False)
        self._sent[connection.sock.fileno()] = each
        self._poll.register(connection.sock, select.POLLIN)
        self._write(each)

    def _write(self, each: _PutUnderWay) -> None:
        sock, done = each.connection.sock, False
        with suppress(*_NOT_NOW):
            while each.left:
                each.left = each.left[sock.send(each.left) :]
            done = True
        if not done or each.waits_to_send:
            each.waits_to_send = bool(each.left)
            events = select.POLLIN | (select.POLLOUT if each.left else 0)
            self._poll.register(sock, events)

    def _went_on(self, each: _PutUnderWay) -> bool:
        """Send or receive as much as possible; return whether S3 has confirmed the PUT."""
        try:
            if each.left:
                self._write(each)
            found = self._read(each)
            if found is None:
                return False
            answer = None if each.left else self._wire.confirmed(found)
        except OSError as exc:
            self._failed(each, exc)
            return False
        except Exception as exc:  # noqa: BLE001 - not plain, or unreadable: as any PUT it is
            self._unclear = self._unclear or not refusal(each.come)
            self._failed(each, exc)
            return False
        if answer is None or not answer.get("ETag"):  # S3 refused it, or answered before the end
            self._unclear = self._unclear or found.status // 100 == 2
            self._failed(each, None)
            return False
        each.answer = answer
        self._traffic.moved(0, each.put.size)
        self._seen(each, "", found.joined)
        self._leave(each, kept=not found.will_close)
        return True

    def _read(self, each: _PutUnderWay) -> PlainAnswer | None:
        """Return the answer, if all of it is here. Raises OSError, HTTPException."""
        sock = each.connection.sock
        with suppress(*_NOT_NOW):
            while True:
                piece = sock.recv(_READ)
                if not piece:
                    raise ConnectionError("the connection broke before the answer")
                each.come += piece
                found = whole_answer(each.come, "PUT")
                if found is not None:
                    return found
        return None

    def _leave(self, each: _PutUnderWay, *, kept: bool) -> None:
        """Stop using the connection for *each*."""
        connection = each.connection
        if self._sent.pop(connection.sock.fileno(), None) is not None:
            self._poll.unregister(connection.sock)
        if kept:
            self._transport.keep(each.host, connection)
        else:
            connection.close()
        self._pool.ended()

    # What came of it

    def _learn(self, confirmed: Sequence[_PutUnderWay]) -> None:
        groups: dict[str, list[_PutUnderWay]] = {}
        for each in confirmed:
            groups.setdefault(each.whole.token, []).append(each)
        for group in groups.values():
            self._learn_group(group)

    def _learn_group(self, group: list[_PutUnderWay]) -> None:
        intent = group[0].whole.part([each.put.key for each in group])
        done = [(each.put.params, each.answer, each.put.size) for each in group]
        try:
            entries = self._learner.put_together(intent, done)
        except Exception as exc:  # noqa: BLE001 - whatever it is, each caller is told
            for each in group:
                each.future.set_exception(_told(each.put, exc))
            return
        for each, entry in zip(group, entries, strict=True):
            if each.put.key in intent.contended:
                self._in_pool(each.future, partial(self._resolved, each.put, entry))
            else:
                _end(each.future, partial(each.put.has_stored, entry, False))

    def _resolved(self, put: SmallPut, entry: Entry) -> Entry:
        resolve = self._learner.mimicdb.intents.resolve
        if resolve is not None:
            resolve(put.bucket, put.key)
        return put.has_stored(entry, True)

    def _failed(self, each: _PutUnderWay, exc: Exception | None) -> None:
        """Deal with a PUT that S3 has not confirmed, and may have done."""
        log.debug("PUT %s: %r; it is put again", each.put.about, exc)
        self._seen(each, "" if exc is None else type(exc).__name__, {})
        self._leave(each, kept=False)
        self._put_again(each, unsure=not 400 <= refusal(each.come) < 500)

    def _seen(self, each: _PutUnderWay, failed: str, headers: Mapping[str, str]) -> None:
        seen, each.seen = each.seen, None
        if seen is not None:
            seen.failed, seen.headers = failed, headers
            self._traffic.ended("PutObject", each.put.about, seen)

    def _give_up(self, late: list[_PutUnderWay]) -> None:
        for each in late:
            self._failed(each, TimeoutError("no answer"))

    def _put_again(self, each: _PutUnderWay, *, unsure: bool) -> None:
        """Put it as any other object. *unsure*: S3 may have done it already."""
        put, intent = each.put, each.whole.part([each.put.key])
        intent.unsure = unsure

        def again() -> Entry:
            try:
                with intent.given():
                    return put.otherwise()
            finally:
                if not intent.taken:
                    self._learner.cut_off(intent)

        self._in_pool(each.future, again)

    def _in_pool(self, future: Future[Entry], work: Callable[[], Entry]) -> None:
        """Have *work*, in the pool, give *future* its result."""

        def over(done: Future[None]) -> None:
            if done.cancelled():
                future.set_exception(S3Unavailable("the mount has ended"))
            self._count_aside(-1)
            os.eventfd_write(self._wake, 1)

        self._count_aside(1)
        try:
            self._pool.submit(_end, future, work).add_done_callback(over)
        except RuntimeError as exc:  # the pool is closed
            self._count_aside(-1)
            future.set_exception(S3Unavailable(f"the mount has ended: {exc}"))

    def _count_aside(self, more: int) -> None:
        with self._lock:
            self._aside += more


def _end(future: Future[Entry], work: Callable[[], Entry]) -> None:
    """Have *work* give *future* its result."""
    try:
        found = work()
    except BaseException as exc:  # noqa: BLE001 - it is the caller's
        future.set_exception(exc)
    else:
        future.set_result(found)


def _told(put: SmallPut, exc: Exception) -> Exception:
    """Return the error for the caller of *put*, which S3 has done, by *exc*."""
    return untold("PutObject", put.params, exc) if isinstance(exc, StoreError) else exc
