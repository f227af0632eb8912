"""S3's messages as they really come to a queue by SNS and by EventBridge: moto's services pass them
on. And what else happens to a queue."""

from __future__ import annotations

import json

import pytest
from support.clients import plain, queue_of

from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.hearing import Hearing
from mimicfs.sync.events.sqs import SQS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
]
ODD = "a b+c/ü%20&.jpg"


@pytest.fixture
def heard(s3, mimicdb, syncer, bucket, tmp_path):
    """Consume what comes to a queue, and return what the mirror has then."""
    syncer.sync(bucket)

    def heard(url):
        consumer = Consumer(SQS(s3.queue(url)), Hearing(mimicdb, s3, syncer), tmp_path / "aside")
        while deliveries := consumer.received(0)[0]:
            consumer.consume(deliveries)
        consumer.close()
        assert consumer.figures()["put_aside"] == 0
        return [entry.key for entry in mimicdb.listing(bucket)]

    return heard


def queue_and_arn(server, name, attributes=None):
    sqs = plain(server, "sqs")
    url = sqs.create_queue(QueueName=name, Attributes=attributes or {})["QueueUrl"]
    asked = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, asked["Attributes"]["QueueArn"]


@pytest.mark.parametrize("raw", ["true", "false"])
def test_by_a_topic(server, client, bucket, heard, raw):
    url, arn = queue_and_arn(server, f"by-sns-{bucket}")
    sns = plain(server, "sns")
    topic = sns.create_topic(Name=f"t-{bucket}")["TopicArn"]
    sns.subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": raw}
    )
    rule = {"TopicArn": topic, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    client.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [rule]}
    )
    client.put_object(Bucket=bucket, Key=ODD, Body=b"1")
    client.put_object(Bucket=bucket, Key="gone", Body=b"1")
    assert heard(url) == [ODD, "gone"]
    client.delete_object(Bucket=bucket, Key="gone")
    assert heard(url) == [ODD]


@pytest.mark.parametrize("kind", ["standard", "fifo"])
def test_by_eventbridge(server, client, bucket, heard, kind):
    """Which alone writes to a FIFO queue."""
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    name = f"by-bridge-{bucket}" + (".fifo" if kind == "fifo" else "")
    url, arn = queue_and_arn(server, name, fifo if kind == "fifo" else {})
    bridge = plain(server, "events")
    bridge.put_rule(Name=f"r-{bucket}", EventPattern=json.dumps({"source": ["aws.s3"]}))
    target = {"Id": "q", "Arn": arn}
    if kind == "fifo":
        target["SqsParameters"] = {"MessageGroupId": "s3"}
    bridge.put_targets(Rule=f"r-{bucket}", Targets=[target])
    client.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    client.put_object(Bucket=bucket, Key=ODD, Body=b"1")
    client.put_object(Bucket=bucket, Key="gone", Body=b"1")
    assert heard(url) == [ODD, "gone"]
    client.delete_object(Bucket=bucket, Key="gone")
    assert heard(url) == [ODD]


def test_what_is_moved_back_from_a_dead_letter_queue_is_a_late_message(
    server, client, bucket, heard
):
    url = queue_of(server, bucket)
    sqs = plain(server, "sqs")
    dead, arn = queue_and_arn(server, f"dead-{bucket}")
    policy = {"maxReceiveCount": "1", "deadLetterTargetArn": arn}
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(policy)})
    client.put_object(Bucket=bucket, Key="late", Body=b"1")
    for _ in range(2):  # to somebody who does not delete them
        sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    assert heard(url) == []
    found = sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10)["Messages"]
    for each in found:  # as StartMessageMoveTask does, which moto has not
        sqs.send_message(QueueUrl=url, MessageBody=each["Body"])
    assert heard(url) == ["late"]
