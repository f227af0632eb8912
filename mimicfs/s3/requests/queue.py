"""An SQS queue into which S3 puts what happens to a bucket.

Long polls, in batches of ten; https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference.

Threading: any thread; a client of botocore is safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mimicfs.errors import ConfigError, NoSuchQueue, S3Error

BATCH_MAX = 10  # of SQS
# The length of a long poll. SQS would take 20 s. But the poll of a killed consumer goes on at SQS
# for so long, and may take a message that nobody applies; until then nothing counts as told. An
# idle queue costs 17,280 requests a day instead of 4,320.
WAIT_MAX_S = 5
# How long the answer to a request may take, besides. A connection that is dead without a word (the
# network of the machine is another one) takes the poll with it: nothing is told meanwhile, and
# nobody is told of that.
_ANSWER_S = 10.0
# Messages that a consumer has taken and not deleted come again after this time, so another consumer
# soon gets those of a dead one. A batch that takes longer is taken twice, which does no harm.
TAKEN_S = 6
NO_QUEUE = frozenset({"NonExistentQueue", "QueueDoesNotExist"})
_TIMES = "ApproximateReceiveCount"
_REGION = re.compile(r"sqs(?:-fips)?\.([a-z0-9-]+)\.|^([a-z0-9-]+)\.queue\.")


def queue_id(url: str) -> str:
    """Return the part that all forms of the *url* of a queue have in common."""
    parts = urlsplit(url)
    host, path = (parts.hostname or "").lower(), parts.path.strip("/")
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")):
        found = _REGION.search(host)
        region = next(filter(None, found.groups()), "") if found else "us-east-1"
        return f"{region}/{path}"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{host}:{port}/{path}"


class QueueMessage(NamedTuple):
    body: str
    receipt: str
    times: int  # how often it was given to a consumer, this time included


class Queue:
    """The queue at *url*, asked with the credentials of *session* (of botocore).

    Raises the errors of errors.py that S3 would raise.
    """

    def __init__(
        self, session: Any, url: str, connect_timeout_s: float, read_timeout_s: float
    ) -> None:
        from botocore.config import Config

        from mimicfs.s3.transport.errors import ours

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.count("/") < 2:
            raise ConfigError(f"{url}: not the URL of a queue; write https://HOST/ACCOUNT/NAME")
        found = _REGION.search(parts.hostname)
        region = next(filter(None, found.groups()), None) if found else None
        config = Config(
            connect_timeout=connect_timeout_s,
            read_timeout=WAIT_MAX_S + min(_ANSWER_S, read_timeout_s),
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        self.url = url
        self._arn = ""
        self._about = f"the queue {url}"
        with ours(self._about):
            self._client = session.create_client(
                "sqs",
                endpoint_url=f"{parts.scheme}://{parts.netloc}",
                region_name=region or session.get_config_variable("region") or "us-east-1",
                config=config,
            )

    def receive(self, wait_s: float) -> list[QueueMessage]:
        """Return up to ten messages; [] if none comes within *wait_s* (at most WAIT_MAX_S)."""
        answer = self._ask(
            "receive_message",
            MaxNumberOfMessages=BATCH_MAX,
            WaitTimeSeconds=min(WAIT_MAX_S, int(wait_s)),
            VisibilityTimeout=TAKEN_S,
            AttributeNames=[_TIMES],
        )
        return [
            QueueMessage(
                each["Body"], each["ReceiptHandle"], int(each.get("Attributes", {}).get(_TIMES, 1))
            )
            for each in answer.get("Messages", ())
        ]

    def delete(self, receipts: Sequence[str]) -> None:
        """Delete the messages of *receipts*. One that is refused comes again."""
        for start in range(0, len(receipts), BATCH_MAX):
            page = receipts[start : start + BATCH_MAX]
            entries = [{"Id": str(n), "ReceiptHandle": each} for n, each in enumerate(page)]
            self._ask("delete_message_batch", Entries=entries)

    def release(self, receipts: Sequence[str], after_s: int) -> None:
        """Have the messages of *receipts* come again after *after_s*."""
        for start in range(0, len(receipts), BATCH_MAX):
            page = receipts[start : start + BATCH_MAX]
            entries = [
                {"Id": str(n), "ReceiptHandle": each, "VisibilityTimeout": after_s}
                for n, each in enumerate(page)
            ]
            self._ask("change_message_visibility_batch", Entries=entries)

    def retention_s(self) -> float:
        """Return how long the queue keeps a message."""
        name = "MessageRetentionPeriod"
        answer = self._ask("get_queue_attributes", AttributeNames=[name])
        return float(answer["Attributes"][name])

    def times_max(self) -> float:
        """Return how often a message is given to consumers before it goes to the dead-letter
        queue; infinity: it never does."""
        answer = self._ask("get_queue_attributes", AttributeNames=["RedrivePolicy"])
        policy = answer.get("Attributes", {}).get("RedrivePolicy")
        return float(json.loads(policy)["maxReceiveCount"]) if policy else float("inf")

    def delay_s(self) -> float:
        """Return how long the queue holds a message back from everybody."""
        answer = self._ask("get_queue_attributes", AttributeNames=["DelaySeconds"])
        return float(answer.get("Attributes", {}).get("DelaySeconds", 0))

    def arn(self) -> str:
        """Return the name by which S3 knows the queue; it is asked for once."""
        if not self._arn:
            answer = self._ask("get_queue_attributes", AttributeNames=["QueueArn"])
            self._arn = str(answer["Attributes"]["QueueArn"])
        return self._arn

    def identity(self) -> str:
        """Return a mark that no other queue has, not even a later one of the same name."""
        asked = ["QueueArn", "CreatedTimestamp"]
        found = self._ask("get_queue_attributes", AttributeNames=asked)["Attributes"]
        return f"{found['QueueArn']} {found.get('CreatedTimestamp', '')}"

    def tag(self, name: str) -> str:
        """Return the tag *name*; "": there is none."""
        return str(self._ask("list_queue_tags").get("Tags", {}).get(name, ""))

    def set_tag(self, name: str, value: str) -> None:
        self._ask("tag_queue", Tags={name: value})

    def close(self) -> None:
        self._client.close()

    def _ask(self, operation: str, **params: Any) -> Any:
        from mimicfs.s3.transport.errors import ours

        try:
            with ours(self._about):
                return getattr(self._client, operation)(QueueUrl=self.url, **params)
        except S3Error as exc:
            if exc.code.rpartition(".")[2] in NO_QUEUE:
                text = f"{self._about}: no such queue"
                raise NoSuchQueue(text, status=exc.status, code=exc.code) from exc
            raise
