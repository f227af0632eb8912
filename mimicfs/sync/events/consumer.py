"""The consumer: takes messages from a source, has the mirror hear them, acknowledges them.

    receive -> parse -> hear -> acknowledge

A message is acknowledged after what it says is in the mirror, and never before: a consumer that
dies leaves its messages to the next one. A message that nobody can read is put aside in a file
with the reason, for a person, and is acknowledged then: it must not hold up the others.

States, as `mimicfs status` shows them:

    waiting    another process consumes for this store
    listening  messages are taken and applied
    failing    the source, S3 or the store cannot be asked; tried again with backoff
    ended

Threading: one thread consumes; figures may be read by any.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mimicfs.errors import Interrupted, MimicError
from mimicfs.posix import Cancellation
from mimicfs.private import append_line
from mimicfs.s3.transport.backoff import backoff_s
from mimicfs.sync.events.hearing import Heard, Hearing
from mimicfs.sync.events.messages import Told, parse
from mimicfs.sync.events.source import Delivery, Source

log = logging.getLogger(__name__)

_WAIT_S = 20.0  # of a long poll
_BATCH_MAX = 1000  # records that are heard together: what one LIST may answer
_ASIDE_MAX = 16 << 20  # bytes of the file of messages that nobody can read
_TURN_S = 2.0  # between two looks whether it is our turn

WAITING, LISTENING, FAILING, ENDED = "waiting", "listening", "failing", "ended"


class Consumer:
    """Applies what *source* delivers.

    *aside*: the file for messages that nobody can read. *turn*: whether this process is the one
    to consume; asked before each poll. *told*: called with what a poll said, once it is in the
    mirror and before it is acknowledged.
    """

    def __init__(
        self,
        source: Source,
        hearing: Hearing,
        aside: Path,
        turn: Callable[[], bool] = lambda: True,
        told: Callable[[Sequence[Told]], None] = lambda _told: None,
    ) -> None:
        self._source = source
        self._hearing = hearing
        self._aside = aside
        self._turn = turn
        self._told = told
        self._cancellation = Cancellation()
        self._ended = threading.Event()
        self._lock = threading.Lock()  # protects the figures below
        self._state = WAITING
        self._error = ""
        self._messages = self._put_aside = 0
        self._heard = Heard()
        self._lag_s = 0.0  # of the last record: from S3's clock to the mirror
        self._last_ns = 0  # when a message came last

    def figures(self) -> dict[str, Any]:
        """Return the state of the consumer, and what it has done."""
        with self._lock:
            return {
                "source": self._source.name,
                "state": self._state,
                "error": self._error,
                "messages": self._messages,
                "put_aside": self._put_aside,
                "lag_s": round(self._lag_s, 3),
                "last_ns": self._last_ns,
                **self._heard._asdict(),
            }

    def run(self) -> None:
        """Consume until `close`."""
        failures = 0
        while not self._ended.is_set():
            try:
                if not self._turn():
                    self._enter(WAITING)
                    self._pause(_TURN_S)
                    continue
                found = self.received(_WAIT_S)
                if not self._ended.is_set():  # else they come again, to the next consumer
                    self.consume(found)
            except Interrupted:  # by `close`
                continue
            except MimicError as exc:
                self._enter(FAILING, str(exc))
                self._pause(backoff_s(failures))
                failures += 1
            else:
                failures = 0
                self._enter(LISTENING)
        self._enter(ENDED)

    def close(self) -> None:
        """End `run` soon; what is not acknowledged by then comes again."""
        self._ended.set()
        self._cancellation.cancel()
        self._source.close()

    def received(self, wait_s: float) -> list[Delivery]:
        """Return what comes within *wait_s*, and what waits behind it: many changes of one
        directory are to be heard together."""
        found = self._source.receive(wait_s)
        more = found
        while more and len(found) < _BATCH_MAX:
            more = self._source.receive(0)
            found += more
        return found

    def consume(self, deliveries: Sequence[Delivery]) -> None:
        """Apply *deliveries* and acknowledge them. Raises MimicError where that is not possible
        now; they come again then."""
        told: list[Told] = []
        for each in deliveries:
            message = parse(each.body)
            told += message.told
            if message.faults:
                self._put(each, message.faults)
        try:
            for start in range(0, len(told), _BATCH_MAX):
                batch = told[start : start + _BATCH_MAX]
                heard = self._hearing.hear(batch, self._cancellation)
                self._count(heard, batch)
        except MimicError:
            self._source.retry(deliveries)
            raise
        if deliveries:
            self._told(told)
            self._source.acknowledge(deliveries)
            with self._lock:
                self._messages += len(deliveries)
                self._last_ns = time.time_ns()

    def _count(self, heard: Heard, batch: Sequence[Told]) -> None:
        latest = max((each.time_ns for each in batch), default=0)
        with self._lock:
            self._heard = Heard(*map(sum, zip(self._heard, heard, strict=True)))
            if latest:
                self._lag_s = max(0.0, (time.time_ns() - latest) / 1e9)

    def _enter(self, state: str, error: str = "") -> None:
        with self._lock:
            before, self._state, self._error = self._state, state, error
        if state == FAILING and before != FAILING:
            log.warning("changes by others are not heard: %s", error)
        elif before == FAILING and state == LISTENING:
            log.warning("changes by others are heard again from %s", self._source.name)
        elif before != state:
            log.info("%s: %s", self._source.name, state)

    def _pause(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def _put(self, delivery: Delivery, faults: Sequence[str]) -> None:
        """Put aside a message, or what of it could not be read."""
        body = delivery.body if isinstance(delivery.body, str) else repr(delivery.body)
        said = json.dumps({"time": time.time(), "why": list(faults), "message": body[:65536]})
        where = append_line(self._aside, said, _ASIDE_MAX)
        log.warning("%s: a message is put aside in %s: %s", self._source.name, where, faults[0])
        with self._lock:
            self._put_aside += 1
