"""A plain boto3 client: somebody else, who uses S3 without us."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import boto3
from botocore.config import Config

# Of a user whose server may be rclone, which answers a ranged GET with the checksum of the whole.
CONFIG = Config(
    s3={"addressing_style": "path"},
    response_checksum_validation="when_required",
    retries={"total_max_attempts": 1},
)


def plain(url: str, service: str = "s3") -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2})
    make: Any = boto3.client  # its types want a literal name
    return make(service, endpoint_url=url, config=config)


def if_match(client: Any, bucket: str) -> Callable[[str], str] | None:
    """Return how the server wants an ETag in the If-Match of a PUT: as it says it, or without
    quotes (Ceph RGW); None: it looks at neither."""
    forms: list[Callable[[str], str]] = [str, lambda etag: etag.strip('"')]
    etag = client.put_object(Bucket=bucket, Key="if-match", Body=b"")["ETag"]

    def taken(said: str) -> bool:
        try:
            client.put_object(Bucket=bucket, Key="if-match", Body=b"", IfMatch=said)
        except client.exceptions.ClientError:
            return False
        return True

    wrong = '"00000000000000000000000000000000"'
    found = [form for form in forms if taken(form(etag)) and not taken(form(wrong))]
    client.delete_object(Bucket=bucket, Key="if-match")
    return found[0] if found else None


def queue_of(url: str, bucket: str) -> str:
    """Return the URL of a new SQS queue that S3 tells of all that happens to *bucket*."""
    sqs = plain(url, "sqs")
    queue: str = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = _arn(sqs, queue)
    events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"]
    plain(url).put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": events}]},
    )
    return queue


def others_rule(url: str, bucket: str) -> dict[str, Any]:
    """Have somebody else's queue told of what happens below logs/ in *bucket*; return the rule."""
    sqs = plain(url, "sqs")
    queue = sqs.create_queue(QueueName=f"others-{bucket}")["QueueUrl"]
    rule = {
        "Id": "others",
        "QueueArn": _arn(sqs, queue),
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "logs/"}]}},
    }
    plain(url).put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]}
    )
    return rule


def _arn(sqs: Any, queue: str) -> str:
    asked = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    arn: str = asked["Attributes"]["QueueArn"]
    return arn


def without_acls(client: Any, bucket: str) -> None:
    """Switch ACLs off, as they are in new buckets of AWS; Ceph and Swift cannot."""
    rules = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    with suppress(client.exceptions.ClientError):
        client.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=rules)
