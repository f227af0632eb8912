"""S3 is made to tell a queue, beside what others have set up."""

from __future__ import annotations

import re

import pytest
from support.clients import others_rule, plain

from mimicfs.config.values import Target
from mimicfs.errors import AccessDenied, ConfigError, NoSuchBucket, S3Error
from mimicfs.sync.events.setup import Setup, terraform

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def setup(s3):
    made = []

    def make(bucket, prefix="", queue=""):
        made.append(s3.queues(bucket))
        return Setup(s3, made[-1], Target(bucket, prefix), queue)

    yield make
    for queues in made:
        queues.close()


@pytest.fixture
def others(server, bucket):
    return others_rule(server, bucket)


def rules(client, bucket):
    found = client.get_bucket_notification_configuration(Bucket=bucket)
    return found.get("QueueConfigurations", [])


def test_a_plan_changes_nothing_and_has_all_of_it(setup, client, bucket, others):
    plan = setup(bucket, "a/").plan()
    assert plan.made is None
    assert plan.configuration["QueueConfigurations"][0]["Id"] == "others"
    assert plan.rule["Events"] == [
        "s3:ObjectCreated:*",
        "s3:ObjectRemoved:*",
        "s3:LifecycleExpiration:*",
    ]
    text = terraform(plan, bucket)
    assert re.findall("filter_prefix = (.*)", text) == ['"logs/"', '"a/"']
    assert text.count("queue_arn = aws_sqs_queue.mimicfs.arn") == 1
    assert [it["Id"] for it in rules(client, bucket)] == ["others"]


def test_a_rule_beside_which_s3_would_not_take_ours_is_refused(setup, client, bucket, others):
    with pytest.raises(ConfigError, match=r"\(rule others\)"):
        setup(bucket).make()
    assert [it["Id"] for it in rules(client, bucket)] == ["others"]


def test_a_queue_that_is_told_already_is_named_as_such(setup, client, bucket):
    setup(bucket, "", f"q-{bucket}").make()
    with pytest.raises(ConfigError, match=r"already sends the same events to this queue \(rule mi"):
        setup(bucket, "a/", f"q-{bucket}").make()
    assert len(rules(client, bucket)) == 1


def test_setting_up_twice_is_the_same_as_once(setup, client, bucket, others):
    first, second = setup(bucket, "a/").make(), setup(bucket, "a/").make()
    assert (second.url, len(second.policy["Statement"])) == (first.url, 1)
    assert len(rules(client, bucket)) == 2


def test_a_shared_queue_goes_with_the_last_of_its_buckets(setup, client, bucket):
    second = f"{bucket}-b"
    client.create_bucket(Bucket=second)
    name = f"q-{bucket}"
    queue = setup(bucket, "", name).make()
    assert setup(second, "", name).make().url == queue.url
    assert setup(bucket, "", name).remove()[1].startswith("the permission for ")
    assert rules(client, bucket) == []
    assert len(rules(client, second)) == 1
    with pytest.raises(ConfigError, match="exists already"):  # with leave for others in it
        terraform(setup(second, "", name).plan(), second)
    client.delete_bucket(Bucket=second)
    assert [it.partition(" from ")[0] for it in setup(second, "", name).remove()][:1] == ["nothing"]
    with pytest.raises(NoSuchBucket):  # and now nothing is left of it
        setup(second, "", name).remove()


def test_a_queue_of_others_is_not_deleted(setup, server, client, bucket):
    url = plain(server, "sqs").create_queue(QueueName=f"q-{bucket}")["QueueUrl"]
    setup(bucket, "", f"q-{bucket}").make()
    setup(bucket, "", f"q-{bucket}").remove()
    assert rules(client, bucket) == []
    assert plain(server, "sqs").get_queue_url(QueueName=f"q-{bucket}")["QueueUrl"] == url


def test_what_fails_half_way_is_undone(setup, s3, bucket, monkeypatch):
    ask = s3.call

    def refuse(operation, *args, **params):
        if operation.startswith("put_bucket"):
            raise AccessDenied("s3:PutBucketNotification")
        return ask(operation, *args, **params)

    monkeypatch.setattr(s3, "call", refuse)
    with pytest.raises(AccessDenied):
        setup(bucket).make()
    assert setup(bucket).plan().made is None


def test_what_failed_first_is_said_and_what_is_left_over_is_logged(
    setup, bucket, monkeypatch, caplog
):
    failing = setup(bucket)

    def refuse(what):
        def refused(*_):
            raise AccessDenied(what)

        return refused

    monkeypatch.setattr(failing._queues, "set_policy", refuse("sqs:SetQueueAttributes"))
    monkeypatch.setattr(failing._queues, "delete", refuse("sqs:DeleteQueue"))
    with pytest.raises(AccessDenied, match="SetQueueAttributes"):
        failing.make()
    assert f"{failing.queue} could not be made as it was before: sqs:DeleteQueue" in caplog.text


def test_a_bucket_in_china_is_named_as_one_of_china(setup, client, bucket):
    name = f"{bucket}-china"
    place = {"LocationConstraint": "cn-north-1"}
    client.create_bucket(Bucket=name, CreateBucketConfiguration=place)
    for plan in (setup(name).plan(), setup(name).make() and setup(name).plan()):
        [statement] = plan.policy["Statement"]
        assert statement["Resource"].startswith("arn:aws-cn:sqs:cn-north-1:")
        assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": f"arn:aws-cn:s3:::{name}"}


def test_a_queue_of_a_bucket_that_is_gone_is_looked_for_in_a_region(setup, client, bucket):
    client.delete_bucket(Bucket=bucket)
    with pytest.raises(NoSuchBucket, match="name it with --region"):
        setup(bucket).remove()


def test_the_queue_is_where_the_bucket_is_and_a_rule_that_failed_is_undone(setup, client, bucket):
    """S3 tells queues of the bucket's region only. moto says no to others, and keeps the rule."""
    name = f"{bucket}-elsewhere"
    place = {"LocationConstraint": "eu-central-1"}
    client.create_bucket(Bucket=name, CreateBucketConfiguration=place)
    made = setup(name).make()
    assert made.arn.startswith("arn:aws:sqs:eu-central-1:")
    setup(name).remove()
    near = setup(name)
    near._queues = setup(bucket)._queues
    with pytest.raises(S3Error, match="region"):
        near.make()
    assert (rules(client, name), near.plan().made) == ([], None)
