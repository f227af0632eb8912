"""Requests of small objects, sent together by one thread: the base of putting.py and getting.py.
Otherwise each of many would have a thread, and all of these would fight for the interpreter's lock.

The thread sends all new requests over idle connections, and deals with what S3 has answered
meanwhile. It does no more than that. If there is no idle connection, or an answer is late, broken,
a refusal, or not plain, the request is made as any other, in a thread of the pool: only that code
retries, follows S3 elsewhere, and finds out what a refusal means.

Threading: any thread calls `close`, and what the classes above add. Everything else belongs to the
thread that sends, except what runs in the pool. `_lock` is a leaf.
"""

from __future__ import annotations

import logging
import os
import select
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from itertools import takewhile
from typing import Any, Generic, NamedTuple, TypeVar

from mimicfs.baton import Baton
from mimicfs.config.values import S3Options
from mimicfs.errors import MimicError, S3Unavailable
from mimicfs.s3.mimicking.learning import Learner
from mimicfs.s3.requests.pool import RequestPool
from mimicfs.s3.requests.rules import Rules
from mimicfs.s3.transport.http import Connection, Transport
from mimicfs.s3.transport.plain import PlainAnswer, refusal, whole_answer
from mimicfs.s3.transport.traffic import Seen, Traffic
from mimicfs.s3.transport.wire import ReadyRequest, Wire

log = logging.getLogger(__name__)

_READ = 80 << 10  # bytes: an answer with all of a small object
_FULL_S = 0.005  # how often to look whether another request may run
_ENDED = "the mount has ended"
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Ways(NamedTuple):
    """The parts of an S3 object by which requests go and answers come."""

    wire: Wire
    rules: Rules
    transport: Transport
    traffic: Traffic
    learner: Learner
    pool: RequestPool
    options: S3Options


class UnderWay:
    """A request about *bucket* and *key* that waits, or is on its way over *connection*. *future*
    gets its result."""

    def __init__(self, bucket: str, key: str, future: Future[Any]) -> None:
        self.bucket = bucket
        self.key = key
        self.future = future
        self.host = ""
        self.connection: Connection
        self.left = memoryview(b"")  # not sent yet
        self.waits_to_send = False
        self.come = b""  # of the answer
        self.ends_s = 0.0  # on the monotonic clock: nobody waits for it after that
        self.seen: Seen | None = None

    @property
    def about(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def is_ready(self, ready: ReadyRequest) -> None:
        """Note that it is sent as *ready*."""
        self.host, self.left = ready.host, memoryview(ready.data)


Each = TypeVar("Each", bound=UnderWay)


class Together(ABC, Generic[Each]):
    """Sends requests for *operation*, up to *most* at once, in a thread called *name*. The first
    one of a group waits *gather_s* for others. It shares *baton* with who reads requests."""

    # Whether somebody may wait for each. Then it has its turn in the pool while all threads of that
    # are busy: they leave no room for this thread as long as there is work for them.
    _awaited = False

    def __init__(
        self,
        ways: Ways,
        operation: str,
        most: int,
        name: str,
        gather_s: float = 0.0,
        baton: Baton | None = None,
    ) -> None:
        self._wire = ways.wire
        self._rules = ways.rules
        self._transport = ways.transport
        self._traffic = ways.traffic
        self._learner = ways.learner
        self._pool = ways.pool
        self._operation = operation
        self._method = operation[:3].upper()
        self._most = most
        self._name = name
        self._gather_s = gather_s
        self._baton = baton or Baton()
        self._patience_s = min(ways.options.read_timeout_s, ways.options.request_timeout_s)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        # By the descriptor of its connection; the one that was sent first comes first.
        self._sent: dict[int, Each] = {}
        self._lock = threading.Lock()  # protects the next four
        self._aside = 0  # how many the pool has
        self._new: deque[Each] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._unclear = False  # the server does not answer these as S3 does

    def _add(self, new: Sequence[Each]) -> None:
        """Send *new* as soon as possible. Raises S3Unavailable; RuntimeError if no thread can be
        had for that: then nothing waits for one."""
        with self._lock:
            if self._closed:
                raise S3Unavailable(": ".join([*(each.about for each in new[:1]), _ENDED]))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            wake = not (self._new and new) and self._thread is not threading.current_thread()
            self._new.extend(new)
        if wake:
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Begin no more requests."""
        with self._lock:
            self._closed = True
            new, self._new = self._new, deque()
        for each in new:
            if each.future.set_running_or_notify_cancel():
                each.future.set_exception(S3Unavailable(f"{each.about}: {_ENDED}"))
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        os.close(self._wake)

    # What the classes above do

    @abstractmethod
    def _begin_group(self, bucket: str, group: Sequence[Each]) -> None:
        """Do what must be done before *group*, requests about *bucket*, is sent. What this raises,
        each caller is told."""

    @abstractmethod
    def _is_confirmed(self, each: Each, found: PlainAnswer) -> bool:
        """Whether *found* is S3's plain word that *each* is done."""

    @abstractmethod
    def _confirmed(self, done: Sequence[Each]) -> None:
        """End *done*, which S3 has confirmed. Never raises."""

    @abstractmethod
    def _otherwise(self, each: Each) -> Callable[[], Any]:
        """Return what makes the request as any other."""

    @abstractmethod
    def _again(self, each: Each, status: int) -> Callable[[], Any]:
        """Return the same for a request that was begun. *status*: of its refusal, by which S3 has
        not done it if it is below 500; 0: there was none."""

    def _body_size(self, _each: Each) -> int:
        """Return how many bytes the request has behind its head."""
        return 0

    def _host(self, each: Each) -> str:
        """Return where *each*, which is ready, goes ("https://HOST:PORT"); "": it cannot be sent
        like this."""
        return each.host

    # The thread that sends

    def _run(self) -> None:
        while not self._closed or self._sent:
            try:
                self._turn()
            except Exception:
                log.exception("%s: requests that are sent together", self._operation)
                self._give_up(list(self._sent.values()))
        self._baton.ends()

    def _turn(self) -> None:
        waits_ms = self._waits_ms()
        self._baton.ends()
        ready = self._poll.poll(waits_ms)
        self._baton.begins()
        if self._gather_s and len(self._sent) + len(self._new) > 1:
            time.sleep(self._gather_s)
            ready = self._poll.poll(0)
        answered = [self._sent[fd] for fd, _ in ready if fd in self._sent]
        done = []
        for each in answered:
            self._baton.pauses()
            if self._went_on(each):
                done.append(each)
        if done:
            self._confirmed(done)
        now_s = time.monotonic()
        self._give_up([*takewhile(lambda each: each.ends_s < now_s, self._sent.values())])
        if len(answered) < len(ready):
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        self._prepare()
        if self._new:
            for bucket, group in self._begun().items():
                self._send(bucket, group)

    def _prepare(self) -> None:
        """Do what comes before new requests are looked for."""

    def _waits_ms(self) -> float | None:
        """Return how long nothing needs to be done; None: until somebody wakes us."""
        if self._new and self._free():
            return _FULL_S * 1000
        if not self._sent:
            return None
        first = next(iter(self._sent.values()))
        return max(0.0, first.ends_s - time.monotonic()) * 1000 + 1

    def _begun(self) -> dict[str, list[Each]]:
        """Begin the requests that may begin now; return them, by bucket."""
        groups: dict[str, list[Each]] = {}
        under_way = {(each.bucket, each.key) for each in self._sent.values()}
        while self._new and self._free(groups.values()):
            self._baton.pauses()
            begins = self._pool.begins()
            if not begins and not self._awaited:
                break
            with self._lock:
                found = self._new.popleft() if self._new else None
            connection = None
            if found is not None and found.future.set_running_or_notify_cancel():
                place = (found.bucket, found.key)
                connection = self._idle(found) if begins and place not in under_way else None
                if connection is None:
                    self._in_pool(found.future, self._otherwise(found))
            if found is None or connection is None:
                if begins:
                    self._pool.ended()
                continue
            found.connection = connection
            under_way.add((found.bucket, found.key))
            groups.setdefault(found.bucket, []).append(found)
        return groups

    def _free(self, begun: Iterable[Sized] = ()) -> bool:
        """Whether one more may be under way besides those that are *begun* now, sent, or in the
        pool: others must not wait for these."""
        return len(self._sent) + self._aside + sum(map(len, begun)) < self._most

    def _idle(self, each: Each) -> Connection | None:
        try:
            host = self._host(each)
            return self._transport.idle(host) if host else None
        except Exception as exc:  # noqa: BLE001 - who makes the request otherwise is told
            log.debug("%s: no connection: %r", each.about, exc)
            return None

    def _send(self, bucket: str, group: Sequence[Each]) -> None:
        try:
            self._begin_group(bucket, group)
        except Exception as exc:  # noqa: BLE001 - whatever it is, each caller is told
            for each in group:
                self._leave(each, kept=True)
                each.future.set_exception(exc)
            return
        for each in group:
            self._baton.pauses()
            try:
                self._begin(each)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is asked again
                self._failed(each, exc)

    def _begin(self, each: Each) -> None:
        connection = each.connection
        try:
            self._wire.sending(self._method, self._body_size(each))
        except MimicError:  # too many requests today: whoever makes it otherwise raises that
            self._leave(each, kept=True)
            self._in_pool(each.future, self._again(each, HTTPStatus.TOO_MANY_REQUESTS))
            return
        each.seen = self._traffic.observing(self._operation, each.about)
        each.ends_s = time.monotonic() + self._patience_s
        connection.sock.setblocking(False)
        self._sent[connection.sock.fileno()] = each
        self._poll.register(connection.sock, select.POLLIN)
        self._write(each)

    def _write(self, each: Each) -> None:
        sock, done = each.connection.sock, False
        with suppress(*_NOT_NOW):
            while each.left:
                each.left = each.left[sock.send(each.left) :]
            done = True
        if not done or each.waits_to_send:
            each.waits_to_send = bool(each.left)
            events = select.POLLIN | (select.POLLOUT if each.left else 0)
            self._poll.register(sock, events)

    def _went_on(self, each: Each) -> bool:
        """Send or receive as much as possible; return whether S3 has confirmed the request."""
        try:
            if each.left:
                self._write(each)
            found = self._read(each)
            if found is None:
                return False
            confirmed = not each.left and self._is_confirmed(each, found)
        except OSError as exc:
            self._failed(each, exc)
            return False
        except Exception as exc:  # noqa: BLE001 - not plain, or unreadable: it is made as any other
            self._unclear = self._unclear or not refusal(each.come)
            self._failed(each, exc)
            return False
        if not confirmed:  # S3 refused it, or answered before the end
            self._unclear = self._unclear or found.status // 100 == 2
            self._failed(each, None)
            return False
        self._seen(each, "", found.joined)
        self._leave(each, kept=not found.will_close)
        return True

    def _read(self, each: Each) -> PlainAnswer | None:
        """Return the answer, if all of it is here. Raises OSError, HTTPException."""
        sock = each.connection.sock
        with suppress(*_NOT_NOW):
            while True:
                piece = sock.recv(_READ)
                if not piece:
                    raise ConnectionError("the connection broke before the answer")
                each.come += piece
                found = whole_answer(each.come, self._method)
                if found is not None:
                    return found
        return None

    def _leave(self, each: Each, *, kept: bool) -> None:
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

    def _failed(self, each: Each, exc: Exception | None) -> None:
        """Deal with a request that S3 has not confirmed, and may have done."""
        log.debug("%s %s: %r; it is sent again", self._method, each.about, exc)
        self._seen(each, "" if exc is None else type(exc).__name__, {})
        self._leave(each, kept=False)
        self._in_pool(each.future, self._again(each, refusal(each.come)))

    def _seen(self, each: Each, failed: str, headers: Mapping[str, str]) -> None:
        seen, each.seen = each.seen, None
        if seen is not None:
            seen.failed, seen.headers = failed, headers
            self._traffic.ended(self._operation, each.about, seen)

    def _give_up(self, late: Iterable[Each]) -> None:
        for each in late:
            self._failed(each, TimeoutError("no answer"))

    def _in_pool(self, future: Future[Any], work: Callable[[], Any]) -> None:
        """Have *work*, in the pool, give *future* its result."""

        def over(done: Future[None]) -> None:
            if done.cancelled():
                future.set_exception(S3Unavailable(_ENDED))
            self._count_aside(-1)
            os.eventfd_write(self._wake, 1)

        self._count_aside(1)
        try:
            self._pool.submit(end, future, work).add_done_callback(over)
        except RuntimeError as exc:  # the pool is closed
            self._count_aside(-1)
            future.set_exception(S3Unavailable(f"{_ENDED}: {exc}"))

    def _count_aside(self, more: int) -> None:
        with self._lock:
            self._aside += more


def end(future: Future[Any], work: Callable[[], Any]) -> None:
    """Have *work* give *future* its result."""
    try:
        found = work()
    except BaseException as exc:  # noqa: BLE001 - it is the caller's
        future.set_exception(exc)
    else:
        future.set_result(found)
