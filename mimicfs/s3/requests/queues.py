"""Making and removing SQS queues for a bucket. (queue.py takes their messages.)

Threading: any thread; a client of botocore is safe.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from mimicfs.errors import S3Error
from mimicfs.s3.requests.queue import NO_QUEUE

# The partition of AWS by region, if it is not "aws". No other one knows the bucket.
_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eusc-": "aws-eusc",
}
_TAG = "mimicfs"  # on queues that we have made


class Made(NamedTuple):
    """A queue that is there."""

    url: str
    arn: str
    policy: dict[str, Any]  # {}: none
    ours: bool  # mimicfs made it
    waiting: int  # messages, about


class Queues:
    """The queues of the account of *session* (of botocore): at the endpoint for SQS in its
    configuration, otherwise at *endpoint*, or at AWS. Raises the errors of errors.py."""

    def __init__(self, session: Any, endpoint: str | None, region: str | None) -> None:
        from mimicfs.s3.transport.errors import ours

        self.region: str = region or session.get_config_variable("region") or "us-east-1"
        found = [part for begin, part in _PARTITIONS.items() if self.region.startswith(begin)]
        self.partition = found[0] if found else "aws"
        with ours("SQS"):
            elsewhere = None if _is_named(session) else endpoint
            self._client = session.create_client(
                "sqs", endpoint_url=elsewhere, region_name=self.region
            )

    def find(self, name: str) -> Made | None:
        """Return the queue *name*, or None."""
        try:
            url = self._ask(name, "get_queue_url", QueueName=name)["QueueUrl"]
        except S3Error as exc:
            if exc.code.rpartition(".")[2] in NO_QUEUE:
                return None
            raise
        asked = ["QueueArn", "Policy", "ApproximateNumberOfMessages"]
        answer = self._ask(name, "get_queue_attributes", QueueUrl=url, AttributeNames=asked)
        found = answer["Attributes"]
        tags = self._ask(name, "list_queue_tags", QueueUrl=url).get("Tags", {})
        waiting = int(found.get("ApproximateNumberOfMessages", 0))
        policy = json.loads(found.get("Policy") or "{}")
        return Made(url, found["QueueArn"], policy, _TAG in tags, waiting)

    def make(self, name: str, attributes: dict[str, str], about: str) -> Made:
        """Make the queue *name*, marked as ours and as being of *about*."""
        self._ask(name, "create_queue", QueueName=name, Attributes=attributes, tags={_TAG: about})
        made = self.find(name)
        if made is None:
            raise S3Error(f"the queue {name}: SQS made it, but does not have it")
        return made

    def set_policy(self, queue: Made, policy: dict[str, Any]) -> None:
        text = json.dumps(policy) if policy.get("Statement") else ""
        attributes = {"Policy": text}
        self._ask(queue.url, "set_queue_attributes", QueueUrl=queue.url, Attributes=attributes)

    def delete(self, queue: Made) -> None:
        self._ask(queue.url, "delete_queue", QueueUrl=queue.url)

    def close(self) -> None:
        self._client.close()

    def _ask(self, about: str, operation: str, **params: Any) -> Any:
        from mimicfs.s3.transport.errors import ours

        with ours(f"the queue {about}"):
            return getattr(self._client, operation)(**params)


def _is_named(core: Any) -> bool:
    """Whether the configuration of *core*, a session of botocore, says where SQS is. The variable
    is no setting of ours: botocore reads it when it makes the client. This asks only whether it
    will, since there is no call of botocore that tells."""
    if os.environ.get("AWS_ENDPOINT_URL_SQS"):
        return True
    services = core.full_config.get("services", {})
    own = services.get(core.get_scoped_config().get("services"), {}).get("sqs", {})
    return isinstance(own, dict) and bool(own.get("endpoint_url"))
