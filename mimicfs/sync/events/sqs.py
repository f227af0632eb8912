"""Messages from an SQS queue: S3's own, through SNS, or through EventBridge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from mimicfs.errors import Interrupted
from mimicfs.s3.requests.queue import BATCH_MAX, TAKEN_S, Queue
from mimicfs.sync.events.source import Delivery, EventSource

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

_AGAIN_S = 5  # until a message comes again that could not be applied
_SIGNED = "mimicfs-store"
_AT_ONCE = 8  # requests, where many messages wait: each is of ten


class SQS(EventSource):
    exact = False  # a short poll asks some of the servers of a queue
    unsettled_s = float(TAKEN_S)
    shared = True

    def __init__(self, queue: Queue) -> None:
        self.name = f"sqs:{queue.url}"
        self._queue = queue
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sqs")
        self._closed = threading.Event()

    def receive(self, wait_s: float) -> list[Delivery]:
        found = self._queue.receive(wait_s)
        if len(found) == BATCH_MAX:
            more = self._at_once(lambda _: self._queue.receive(0), range(_AT_ONCE))
            found += [each for page in more for each in page]
        return [Delivery(each.body, each) for each in found]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        receipts = [each.receipt.receipt for each in deliveries]
        pages = [receipts[at : at + BATCH_MAX] for at in range(0, len(receipts), BATCH_MAX)]
        self._at_once(self._queue.delete, pages)

    def retry(self, deliveries: Sequence[Delivery]) -> None:
        """What was given as often as the queue allows goes to its dead-letter queue now."""
        self._queue.release([each.receipt.receipt for each in deliveries], _AGAIN_S)
        most = self._queue.times_max()
        self.lost += sum(each.receipt.times >= most for each in deliveries)

    def retention_s(self) -> float | None:
        return self._queue.retention_s()

    def arn(self) -> str:
        return self._queue.arn()

    def signed(self) -> str:
        return self._queue.tag(_SIGNED)

    def sign(self, text: str) -> None:
        self._queue.set_tag(_SIGNED, text)

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._queue.close()

    def _at_once(self, ask: Callable[[_Asked], _Answer], about: Iterable[_Asked]) -> list[_Answer]:
        """Return the answers of *ask*. Raises Interrupted after `close`."""
        try:
            return list(self._pool.map(ask, about))
        except (RuntimeError, CancelledError) as exc:
            if self._closed.is_set():
                raise Interrupted(f"{self.name} is closed") from exc
            raise
