"""Messages from an SQS queue: S3's own, through SNS, or through EventBridge."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from mimicfs.errors import Interrupted
from mimicfs.s3.requests.queue import BATCH_MAX, TAKEN_S, WAIT_MAX_S, Queue, QueueMessage
from mimicfs.sync.events.source import Delivery, EventSource

_Argument = TypeVar("_Argument")
_Outcome = TypeVar("_Outcome")

_AGAIN_S = 5  # after this a message comes again that could not be applied
_SIGNED = "mimicfs-store"
_LOOK_S = 60.0  # between two questions about how often the queue gives a message
_AT_ONCE = 8  # requests, where many messages wait; each takes ten


class SQS(EventSource):
    exact = False  # a short poll asks some of the servers of a queue
    # the last poll of a dead consumer goes on, takes a message, and hides it
    unsettled_s = float(WAIT_MAX_S + TAKEN_S)
    shared = True

    def __init__(self, queue: Queue) -> None:
        self.name = f"sqs:{queue.url}"
        self._queue = queue
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sqs")
        self._closed = threading.Event()
        self._times_max, self._looked_s = float("inf"), float("-inf")
        self._delay_ns = 0  # how long the queue holds a new message back
        # Receipts of messages that the queue gave for the last time. Unless they are applied, they
        # go to its dead-letter queue.
        self._last: set[str] = set()
        # asked for after each error: a queue is gone before another one is made
        self._identity = ""

    def receive(self, wait_s: float) -> list[Delivery]:
        self._look_at_attributes()
        self.looked_ns = time.time_ns()
        found = self._received(wait_s)
        if len(found) == BATCH_MAX:
            more = self._at_once(lambda _: self._received(0), range(_AT_ONCE))
            found += [each for page in more for each in page]
        return [Delivery(each.body, each) for each in found]

    def given_until_ns(self) -> int:
        return self.looked_ns - self._delay_ns

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        receipts = [each.receipt.receipt for each in deliveries]
        self._last.difference_update(receipts)  # they are applied, whether they are deleted or not
        pages = [receipts[at : at + BATCH_MAX] for at in range(0, len(receipts), BATCH_MAX)]
        self._at_once(self._queue.delete, pages)

    def retry(self, deliveries: Sequence[Delivery]) -> None:
        receipts = [each.receipt.receipt for each in deliveries]
        self._lose(self._last.intersection(receipts))  # whether they are released or not
        self._queue.release(receipts, _AGAIN_S)

    def resume(self) -> None:
        self._lose(self._last.copy())
        self._identity = ""

    def at_stake(self) -> int:
        return len(self._last)

    def retention_s(self) -> float | None:
        return self._queue.retention_s()

    def arn(self) -> str:
        return self._queue.arn()

    def identity(self) -> str:
        self._identity = self._identity or self._queue.identity()
        return self._identity

    def signed(self) -> str:
        return self._queue.tag(_SIGNED)

    def sign(self, text: str) -> None:
        self._queue.set_tag(_SIGNED, text)

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._queue.close()

    def _look_at_attributes(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._times_max = self._queue.times_max()
            self._delay_ns = int(self._queue.delay_s() * 1e9)
            self._looked_s = now_s

    def _received(self, wait_s: float) -> list[QueueMessage]:
        found = self._queue.receive(wait_s)
        self._last.update(each.receipt for each in found if each.times >= self._times_max)
        return found

    def _lose(self, receipts: set[str]) -> None:
        self._last -= receipts
        self.lost += len(receipts)

    def _at_once(
        self, ask: Callable[[_Argument], _Outcome], about: Iterable[_Argument]
    ) -> list[_Outcome]:
        """Return the answers of *ask*, once all have come. Raises Interrupted after `close`."""
        try:
            asked = [self._pool.submit(ask, each) for each in about]
            for each in asked:  # what comes after an error of another one is counted with the rest
                each.exception()
            return [each.result() for each in asked]
        except (RuntimeError, CancelledError) as exc:
            if self._closed.is_set():
                raise Interrupted(f"{self.name} is closed") from exc
            raise
