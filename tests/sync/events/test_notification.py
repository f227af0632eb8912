"""The events that a notification configuration tells of, and how ours is put beside others."""

from __future__ import annotations

import pytest

from mimicfs.sync.events.notification import (
    expires,
    is_indirect,
    our_rule,
    overlapping,
    shortcoming,
    unexpired,
    with_ours,
    without,
)

ARN = "arn:aws:sqs:us-east-1:123456789012:photos"
ALL = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
SINGLY = [f"s3:ObjectCreated:{it}" for it in ("Put", "Copy", "CompleteMultipartUpload")]


def rule(id_="other", events=("s3:ObjectCreated:*", "s3:ObjectRemoved:*"), **filters):
    rules = [{"Name": name, "Value": value} for name, value in filters.items()]
    found = {"Id": id_, "QueueArn": ARN, "Events": list(events)}
    return found | ({"Filter": {"Key": {"FilterRules": rules}}} if rules else {})


def test_prefixes_are_written_and_read_as_forms_are():
    """AWS wants it so: userguide/notification-how-to-filtering.html."""
    prefix = "my photos/a+b é(1)/"
    mine = our_rule("mine", ARN, prefix)
    assert mine["Filter"]["Key"]["FilterRules"] == [
        {"Name": "prefix", "Value": "my+photos/a%2Bb+%C3%A9(1)/"}
    ]
    assert shortcoming({"QueueConfigurations": [mine]}, ARN, f"{prefix}d/") == ""
    assert overlapping({"QueueConfigurations": [rule(prefix="my+photos/")]}, mine)


@pytest.mark.parametrize(
    ("configuration", "prefix", "why"),
    [
        ({"QueueConfigurations": [rule()]}, "", ""),
        ({"QueueConfigurations": [rule(prefix="a/")]}, "a/b/", ""),
        ({"EventBridgeConfiguration": {}}, "", ""),
        (
            {"QueueConfigurations": [rule(regex="a.*")]},  # of Ceph
            "a/",
            "its notifications cover only some of the keys",
        ),
        (
            {"QueueConfigurations": [rule() | {"Filter": {"S3Tags": {}}}]},
            "",
            "its notifications cover only some of the keys",
        ),
        ({"QueueConfigurations": [rule(prefix="", suffix="")]}, "", ""),
        ({"TopicConfigurations": [{"TopicArn": "t", "Events": rule()["Events"]}]}, "", ""),
        (
            {"LambdaFunctionConfigurations": [{"LambdaFunctionArn": "l", "Events": ALL}]},
            "",
            "no notification configuration names its queue",
        ),
        (
            {"QueueConfigurations": [rule(events=[*SINGLY, "s3:ObjectRemoved:Delete"])]},
            "",
            (
                "its notifications do not cover s3:ObjectCreated:Post and"
                " s3:ObjectRemoved:DeleteMarkerCreated"
            ),
        ),
        ({}, "", "no notification configuration names its queue"),
        (
            {"QueueConfigurations": [rule() | {"QueueArn": "another"}]},
            "",
            "no notification configuration names its queue",
        ),
        (
            {"QueueConfigurations": [rule(prefix="a/")]},
            "",
            "its notifications cover only some of the keys",
        ),
        (
            {"QueueConfigurations": [rule(suffix=".jpg")]},
            "",
            "its notifications cover only some of the keys",
        ),
        (
            {"QueueConfigurations": [rule(events=["s3:ObjectCreated:Put"])]},
            "",
            (
                "its notifications do not cover s3:ObjectCreated:CompleteMultipartUpload and"
                " s3:ObjectCreated:Copy and s3:ObjectCreated:Post and s3:ObjectRemoved:*"
            ),
        ),
    ],
)
def test_what_is_not_told_of_is_named(configuration, prefix, why):
    assert shortcoming(configuration, ARN, prefix) == why


def test_what_comes_by_a_topic_or_by_eventbridge_alone_is_not_certain():
    topic = {"TopicConfigurations": [{"TopicArn": "t", "Events": ALL}]}
    both = topic | {"QueueConfigurations": [rule()]}
    found = [is_indirect(it, ARN, "") for it in (topic, {"EventBridgeConfiguration": {}}, both, {})]
    assert found == [True, True, False, False]
    assert is_indirect(topic, "", "")  # how Ceph names a webhook: whose, it does not say


@pytest.mark.parametrize(
    ("events", "named"),
    [
        ([], ["s3:LifecycleExpiration:*"]),
        (["s3:LifecycleExpiration:*"], []),
        (["s3:LifecycleExpiration:Delete"], ["s3:LifecycleExpiration:*"]),
        (["s3:ObjectLifecycle:Expiration:*"], []),
    ],
)
def test_a_rule_that_tells_of_no_expiry_is_said(events, named):
    said = unexpired({"QueueConfigurations": [rule(events=[*ALL, *events])]}, ARN, "")
    assert [each for each in said.split() if each.startswith("s3:")] == [f"{it}:" for it in named]


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"EventBridgeConfiguration": {}},
        {"TopicConfigurations": [{"TopicArn": "t", "Events": ["s3:LifecycleExpiration:*"]}]},
    ],
)
def test_expiry_that_is_told_elsewhere_is_not_told_to_a_queue_that_is_told_of_all_else(elsewhere):
    """No message proves that a topic or EventBridge tells this queue: it is told without them."""
    said = unexpired({"QueueConfigurations": [rule()], **elsewhere}, ARN, "")
    assert said.startswith("its notifications do not cover s3:LifecycleExpiration:*: ")
    assert unexpired(elsewhere, ARN, "") == ""  # a message by that way is waited for


def test_minio_tells_of_expiry_as_of_any_deletion():
    """Its lifecycle sends s3:ObjectRemoved:Delete."""
    of_minio = rule() | {"QueueArn": "arn:minio:sqs::PRIMARY:webhook"}
    assert unexpired({"QueueConfigurations": [of_minio]}, "", "") == ""


@pytest.mark.parametrize(
    ("rule", "deletes"),
    [
        ({"Expiration": {"Days": 1}}, True),
        ({"Expiration": {"Days": 1}, "Prefix": "a/"}, True),
        ({"Expiration": {"Days": 1}, "Filter": {"Prefix": "a/b/"}}, True),
        ({"Expiration": {"Days": 1}, "Filter": {"And": {"Prefix": "b/", "Tags": []}}}, False),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, False),
        ({"Transitions": [{"Days": 1}]}, False),
        ({"Expiration": {"Days": 1}, "Status": "Disabled"}, False),
    ],
)
def test_a_lifecycle_rule_that_deletes_objects_is_found(rule, deletes):
    assert expires({"Rules": [{"Status": "Enabled"} | rule]}, "a/") is deletes


@pytest.mark.parametrize("kind", ["Topic", "LambdaFunction"])
def test_a_rule_of_another_kind_is_never_taken_for_ours(kind):
    ours = our_rule("mimicfs-1", ARN, "photos/")
    theirs = {"Id": "mimicfs-1", f"{kind}Arn": "x", "Events": ALL}
    configuration = {f"{kind}Configurations": [theirs]}
    assert overlapping(configuration, ours) == [theirs]
    assert without(configuration, ["mimicfs-1"]) == configuration


def test_ours_is_put_beside_others_and_taken_away_again():
    others = {"QueueConfigurations": [rule(prefix="logs/")], "EventBridgeConfiguration": {}}
    ours = our_rule("mimicfs-1", ARN, "photos/")
    both = with_ours(with_ours(others, ours), ours)
    assert both["QueueConfigurations"] == [rule(prefix="logs/"), ours]
    assert without(both, ["mimicfs-1"]) == others


@pytest.mark.parametrize(
    ("other", "overlaps"),
    [
        (rule(), True),
        (rule(events=["s3:ObjectCreated:Put"]), True),
        (rule(events=["s3:ObjectTagging:*"]), False),
        (rule(prefix="photos/2026/"), True),
        (rule(prefix="logs/"), False),
        (rule(prefix="p", suffix=".jpg"), True),
        (rule(id_="mimicfs-1"), False),
    ],
)
def test_rules_that_s3_would_not_take_beside_ours_are_found(other, overlaps):
    found = overlapping({"QueueConfigurations": [other]}, our_rule("mimicfs-1", ARN, "photos/"))
    assert found == ([other] if overlaps else [])
