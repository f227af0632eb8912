"""The consumer: takes messages from a source, has the mirror hear them, acknowledges them.

    receive -> parse -> hear -> acknowledge

A message is acknowledged only after the mirror has what it says: a consumer that dies leaves its
messages to the next one. A message that would hold up the others is put aside in a file with the
reason, for a person, and then acknowledged: that is a message that nobody can read, or one that
could not be applied again and again while others could.

States, as `mimicfs status` shows them:

    beginning  nothing was asked yet
    waiting    another process consumes for this store, or our name at the source is not certain
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
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mimicfs.entry import LIST_MAX, NS
from mimicfs.errors import Interrupted, MimicError
from mimicfs.human import number_of
from mimicfs.posix import Cancellation
from mimicfs.private import append_line
from mimicfs.s3.transport.backoff import backoff_s
from mimicfs.sync.events.hearing import Heard, Hearing
from mimicfs.sync.events.messages import RulesPut, Told, parse
from mimicfs.sync.events.source import Delivery, EventSource

log = logging.getLogger(__name__)

_WAIT_S = 20.0  # of a long poll
_SOON_S = 1.0  # of the poll after something came
_BATCH_MAX = LIST_MAX  # records that are heard together: what one LIST may answer
_BYTES_MAX = 8 << 20  # of messages, held at once
_GATHER_S = 0.2  # how long messages wait for others at most
_OWED_S = 60.0  # after this time a message that could not be applied has come again, or is lost
_ASIDE_MAX = 16 << 20  # bytes of the file of messages that nobody can read
_SHOWN_MAX = 65_536  # characters of one of them
_TURN_S = 1.0  # between two looks whether it is our turn
_OUTLIVED_MAX = 5  # how often others could be applied while a message could not

BEGINNING, WAITING, LISTENING = "beginning", "waiting", "listening"
FAILING, ENDED = "failing", "ended"


class Witness:
    """Hears how the consumer fares, and decides whether it may consume. This one always agrees."""

    def turn(self) -> bool:
        """Return whether this process may consume; called before each poll."""
        return True

    def begins(self) -> bool:
        """Note that messages are going to be taken. Return whether another consumer may have taken
        some since the last time, or before the first."""
        return False

    def taken(self) -> None:
        """Note that messages may have been taken, and none of them is applied yet."""

    def heard(self, told: Sequence[Told], until_ns: int) -> None:
        """Record that the mirror has what a poll has brought, which is not acknowledged yet.
        *until_ns*: the mirror has everything that was put into the source until then; 0: more was
        waiting, or is to come again."""

    def rules_put(self, rules: Sequence[RulesPut]) -> None:
        """Note that the notification configurations of some buckets were put. Called before
        `heard`."""

    def unread(self, count: int) -> None:
        """Note that *count* messages, or parts of them, could not be read: what they said is
        lost."""

    def failed(self, exc: MimicError) -> None:
        """Note that the source, S3 or the store cannot be asked."""


class Consumer:
    """Applies what *source* delivers. *aside* is the file for messages that are put aside."""

    def __init__(
        self, source: EventSource, hearing: Hearing, aside: Path, witness: Witness | None = None
    ) -> None:
        self._source = source
        self._hearing = hearing
        self._aside = aside
        self._witness = witness or Witness()
        self._cancellation = Cancellation()
        self._ended = threading.Event()
        # By hash of a message that could not be applied: how often others could meanwhile.
        self._outlived: Counter[int] = Counter()
        # by hash: messages put aside in part, and not acknowledged yet
        self._kept: set[int] = set()
        self._owed_s = float("-inf")  # when a message was last sent back, or dropped
        self._lock = threading.Lock()  # protects the figures below
        self._state = BEGINNING
        self._error = ""
        self._messages = self._aside_count = 0
        self._heard = Heard()
        self._lag_s = 0.0  # of the last record, from S3's clock to the mirror
        self._last_ns = 0  # when a message came last

    def figures(self) -> dict[str, Any]:
        """Return the state of the consumer, and what it has done."""
        with self._lock:
            return {
                "source": self._source.name,
                "state": self._state,
                "error": self._error,
                "messages": self._messages,
                "put_aside": self._aside_count,
                "lag_s": round(self._lag_s, 3),
                "last_ns": self._last_ns,
                **self._heard._asdict(),
            }

    def run(self) -> None:
        """Consume until `close`."""
        failures, wait_s = 0, _WAIT_S
        while not self._ended.is_set():
            try:
                if not self._witness.turn():
                    self._enter(WAITING)
                    self._pause(_TURN_S)
                    continue
                if self._witness.begins():
                    self._hearing.succeed()
                if self._state in (BEGINNING, WAITING):
                    self._enter(LISTENING)
                found, until_ns = self._taken(wait_s)
                wait_s = _WAIT_S if until_ns else _SOON_S
                if not self._ended.is_set():  # otherwise they come again, to the next consumer
                    self.consume(found, until_ns)
            except Interrupted:  # by `close`
                continue
            except Exception as exc:  # noqa: BLE001  the thread must go on, or say that it ended
                self._take_again()
                self._fail(exc if isinstance(exc, MimicError) else self._unforeseen(exc))
                self._pause(backoff_s(failures))
                failures += 1
            else:
                failures = 0
                self._enter(LISTENING)
        self._enter(ENDED)

    def _unforeseen(self, exc: Exception) -> MimicError:
        error = f"an error that nobody foresaw: {exc!r}"
        if self._error != error:
            log.error("%s: the consumer failed", self._source.name, exc_info=exc)
        return MimicError(error)

    def _taken(self, wait_s: float) -> tuple[list[Delivery], int]:
        try:
            return self.received(wait_s)
        finally:  # messages that came before an error, or before `close`, were taken as well
            self._witness.taken()

    def _take_again(self) -> None:
        """Have the source give again the messages that were taken and are dropped now, here or
        within the source."""
        self._owed_s = time.monotonic()
        self._source.resume()

    def _fail(self, exc: MimicError) -> None:
        self._enter(FAILING, str(exc))
        with suppress(MimicError):  # if the store is away, that is what has failed, or will soon
            self._witness.failed(exc)

    def close(self) -> None:
        """End `run` soon; messages that are not acknowledged by then come again."""
        self._ended.set()
        self._cancellation.cancel()
        self._source.close()

    def received(self, wait_s: float) -> tuple[list[Delivery], int]:
        """Return the messages that come within *wait_s*, with those that wait behind them: many
        changes of one directory should be heard together. Return also until when (ns) these are
        certainly all; 0: more may be waiting."""
        found = self._source.receive(wait_s)
        if not found:
            return [], self._source.given_until_ns()
        more, until_s = found, time.monotonic() + _GATHER_S
        while more and len(found) < _BATCH_MAX and time.monotonic() < until_s:
            if sum(len(each.body) for each in found) > _BYTES_MAX:
                break
            more = self._source.receive(0)
            found += more
        all_given = not more and self._source.exact
        return found, self._source.given_until_ns() if all_given else 0

    def consume(self, deliveries: Sequence[Delivery], until_ns: int = 0) -> None:
        """Apply *deliveries* and acknowledge them. Raises MimicError if that is not possible now;
        then they come again."""
        try:
            read = self._read(deliveries)
        except MimicError:
            self._retry(deliveries)
            raise
        told = [record for _, records in read for record in records]
        try:
            self._apply(told)
        except Interrupted:
            raise
        except Exception as exc:  # a MimicError, or a message of a kind that nobody foresaw
            if len(read) == 1:
                self._retry(deliveries)
                raise _as_ours(exc) from exc
            self._one_by_one(read, exc)
        owed = time.monotonic() < self._owed_s + _OWED_S
        self._witness.heard(told, 0 if owed else until_ns)
        self._acknowledge(deliveries)

    def _one_by_one(self, read: Sequence[tuple[Delivery, list[Told]]], exc: Exception) -> None:
        """Apply one by one the messages that could not be applied together. Raises if any of them
        cannot be applied, and is not put aside."""
        failed: list[tuple[Delivery, list[Told], Exception]] = []
        # True once S3 has answered about another message: then it is not S3 that fails
        answered = False
        for delivery, records in read:
            try:
                answered |= self._apply(records)
            except Interrupted:
                raise
            except Exception as own:  # noqa: BLE001  told of below, once
                failed.append((delivery, records, own))
        if answered:
            failed = self._without_poison(failed)
        if failed:
            again = [delivery for delivery, _, _ in failed]
            self._retry(again)
            self._acknowledge([each for each, _ in read if each not in again])
            raise _as_ours(exc) from exc

    def _without_poison(
        self, failed: list[tuple[Delivery, list[Told], Exception]]
    ) -> list[tuple[Delivery, list[Told], Exception]]:
        """Return those of *failed* that are to come again. A message that others have outlived
        often enough is put aside, and the keys that it is about become uncertain."""
        again: list[tuple[Delivery, list[Told], Exception]] = []
        for delivery, records, exc in failed:
            self._outlived[hash(delivery.body)] += 1
            if self._outlived[hash(delivery.body)] < _OUTLIVED_MAX:
                again.append((delivery, records, exc))
                continue
            self._hearing.doubt(records)
            self._put_aside([(delivery, [f"cannot be applied: {exc}"])])
        return again

    def _retry(self, deliveries: Sequence[Delivery]) -> None:
        self._owed_s = time.monotonic()
        self._source.retry(deliveries)

    def _read(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, list[Told]]]:
        read = [(each, parse(each.body)) for each in deliveries]
        self._witness.rules_put([rules for _, message in read for rules in message.put])
        unread = [
            (each, message.faults)
            for each, message in read
            if message.faults and hash(each.body) not in self._kept
        ]
        self._put_aside(unread)
        self._kept |= {hash(each.body) for each, _ in unread}
        self._witness.unread(len(unread))
        return [(each, message.told) for each, message in read]

    def _apply(self, told: Sequence[Told]) -> bool:
        """Apply the messages; return whether S3 was asked."""
        asked = 0
        for start in range(0, len(told), _BATCH_MAX):
            batch = told[start : start + _BATCH_MAX]
            heard = self._hearing.hear(batch, self._cancellation)
            self._count(heard, batch)
            asked += heard.heads + heard.lists
        return asked > 0

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self._source.acknowledge(deliveries)
            for each in deliveries:
                self._outlived.pop(hash(each.body), None)
                self._kept.discard(hash(each.body))
            with self._lock:
                self._messages += len(deliveries)
                self._last_ns = time.time_ns()

    def _count(self, heard: Heard, batch: Sequence[Told]) -> None:
        latest = max((each.time_ns for each in batch), default=0)
        with self._lock:
            self._heard = Heard(*map(sum, zip(self._heard, heard, strict=True)))
            if latest:
                self._lag_s = max(0.0, (time.time_ns() - latest) / NS)

    def _enter(self, state: str, error: str = "") -> None:
        with self._lock:
            before, self._state, self._error = self._state, state, error
        if state == FAILING and before != FAILING:
            log.warning("S3's messages cannot be received: %s", error)
        elif before == FAILING and state == LISTENING:
            log.warning("messages of S3 are received again from %s", self._source.name)
        elif before != state:
            log.info("%s: %s", self._source.name, state)

    def _pause(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def _put_aside(self, messages: Sequence[tuple[Delivery, list[str]]]) -> None:
        """Put messages aside, or the parts of them that could not be read. Somebody may send many
        to fill the log: so one line is logged, and the file is bounded."""
        for delivery, faults in messages:
            body = delivery.body if isinstance(delivery.body, str) else repr(delivery.body)
            said = {"time": time.time(), "why": faults, "message": body[:_SHOWN_MAX]}
            append_line(self._aside, json.dumps(said), _ASIDE_MAX)
        if messages:
            _, (why, *_) = messages[0]
            log.warning(
                "%s: %s written to %s, because they cannot be understood: %s",
                self._source.name,
                number_of(len(messages), "message"),
                self._aside,
                why,
            )
            with self._lock:
                self._aside_count += len(messages)


def _as_ours(exc: Exception) -> MimicError:
    """Return *exc*, or an error of ours about it, which is logged with its traceback."""
    if isinstance(exc, MimicError):
        return exc
    log.error("a message could not be applied", exc_info=exc)
    return MimicError(f"a message could not be applied: {exc!r}")
