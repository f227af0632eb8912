"""Messages from an SQS queue: S3's own, through SNS, or through EventBridge."""

from __future__ import annotations

from collections.abc import Sequence

from mimicfs.s3.requests.queue import Queue
from mimicfs.sync.events.source import Delivery, EventSource

_AGAIN_S = 5  # until a message comes again that could not be applied


class SQS(EventSource):
    shared = True

    def __init__(self, queue: Queue) -> None:
        self.name = f"sqs:{queue.url}"
        self._queue = queue

    def receive(self, wait_s: float) -> list[Delivery]:
        return [Delivery(*each) for each in self._queue.receive(wait_s)]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._queue.delete([each.receipt for each in deliveries])

    def retry(self, deliveries: Sequence[Delivery]) -> None:
        self._queue.release([each.receipt for each in deliveries], _AGAIN_S)

    def retention_s(self) -> float | None:
        return self._queue.retention_s()

    def arn(self) -> str:
        return self._queue.arn()

    def close(self) -> None:
        self._queue.close()
