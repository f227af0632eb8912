"""The notification configuration of a bucket: which of its rules tell a queue, and how to put ours
beside others.

S3 takes a configuration as a whole, so the rules that are there must be kept; and it refuses two
rules for the same events of the same keys. The prefixes and suffixes in it are written as forms
are: "+" for a space, other special characters in percents. Pure functions over what boto3 calls
NotificationConfiguration; any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote_plus, unquote_plus

Configuration = dict[str, Any]

CREATED, REMOVED = "s3:ObjectCreated:*", "s3:ObjectRemoved:*"
EXPIRED = "s3:LifecycleExpiration:*"
# The members of a family of events, which MinIO's answers name one by one.
_FAMILIES = {
    CREATED: {
        "s3:ObjectCreated:Put",
        "s3:ObjectCreated:Post",
        "s3:ObjectCreated:Copy",
        "s3:ObjectCreated:CompleteMultipartUpload",
    },
    REMOVED: {"s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated"},
}
_EXPIRED_OF_CEPH = "s3:ObjectLifecycle:Expiration:*"
_EXPIRIES = (  # each of these tells of everything that a lifecycle rule takes from sight
    {EXPIRED},
    {"s3:LifecycleExpiration:Delete", "s3:LifecycleExpiration:DeleteMarkerCreated"},
    {_EXPIRED_OF_CEPH},
    {"s3:ObjectLifecycle:Expiration:Current"},
)
_HARMLESS = "/!*'()"  # never written in percents, like letters, digits, and - _ .
OURS = "mimicfs"  # begins the Id of what we have added
_QUEUES = "QueueConfigurations"
# By the kind of target: its list in a configuration, and what names the target there.
_TARGETS = {
    _QUEUES: "QueueArn",
    "TopicConfigurations": "TopicArn",
    "LambdaFunctionConfigurations": "LambdaFunctionArn",
}


def shortcoming(configuration: Configuration, arn: str, prefix: str) -> str:
    """Return, in words, what *configuration* does not tell of the keys below *prefix*; "": it tells
    everything, as far as one can see. *arn* is that of our queue; "": messages come by another way,
    or it is not known.

    Events that go to a topic or to EventBridge may reach the queue from there (`is_indirect`).
    """
    if "EventBridgeConfiguration" in configuration:
        return ""
    return _missing_of([*_direct(configuration, arn), *_topics(configuration)], arn, prefix)


def is_indirect(configuration: Configuration, arn: str, prefix: str) -> bool:
    """Whether *configuration* tells our queue of everything only by way of a topic or EventBridge,
    which nobody can see here."""
    if shortcoming(configuration, arn, prefix):
        return False
    if not arn:  # the topic may tell somebody else: no server shows to which address it leads
        return True
    return bool(_missing_of(_direct(configuration, arn), arn, prefix))


def unexpired(configuration: Configuration, arn: str, prefix: str) -> str:
    """Return, in words, that *configuration* tells our queue (*arn*, as above) of no expiry below
    *prefix*; "" if it does. MinIO tells of an expiry as of any other deletion.

    Where it tells the queue itself of all else, a message that has come proves nothing of a topic
    or EventBridge: they may tell somebody else of the expiry."""
    rules = _direct(configuration, arn)
    if not arn or _missing_of(rules, arn, prefix):
        if "EventBridgeConfiguration" in configuration:
            return ""
        rules = [*rules, *_topics(configuration)]
    covering = [rule for rule in rules if _covers(rule, prefix)]
    told = {event for rule in covering for event in rule.get("Events", ())}
    known = any(names <= told for names in _EXPIRIES)
    if known or any(target_of(rule).startswith("arn:minio:") for rule in covering):
        return ""
    return (
        f"its notifications do not cover {EXPIRED if arn else _EXPIRED_OF_CEPH}: what a lifecycle"
        " rule deletes stays in the mirror until a sweep"
    )


def expires(lifecycle: Configuration, prefix: str) -> bool:
    """Whether *lifecycle*, the answer to GetBucketLifecycleConfiguration, has a rule that deletes
    objects below *prefix*."""
    return any(
        rule.get("Status") == "Enabled"
        and {*rule.get("Expiration", ())} & {"Days", "Date"}
        and _meet((_prefix_of(rule), ""), (prefix, ""))
        for rule in lifecycle.get("Rules", ())
    )


def _prefix_of(rule: Configuration) -> str:
    """Return the prefix of the keys that *rule* of a lifecycle is about; it may be in three
    places."""
    filters = rule.get("Filter", {})
    places = (rule, filters, filters.get("And", {}))
    return next((str(each["Prefix"]) for each in places if each.get("Prefix")), "")


def _missing_of(rules: Sequence[Configuration], arn: str, prefix: str) -> str:
    if not rules:
        return "no notification configuration names its queue" if arn else "it has no notifications"
    covering = [rule for rule in rules if _covers(rule, prefix)]
    if not covering:
        return "its notifications cover only some of the keys"
    told = {event for rule in covering for event in rule.get("Events", ())}
    missing = [
        event
        for family, each in _FAMILIES.items()
        if family not in told
        for event in (sorted(each - told) if each & told else [family])
    ]
    return f"its notifications do not cover {' and '.join(missing)}" if missing else ""


def _direct(configuration: Configuration, arn: str) -> list[Configuration]:
    """Return the rules that tell the queue *arn* itself; "": any queue, or any topic, as servers
    name what they send to a webhook. A function of Lambda is never ours."""
    queues = configuration.get(_QUEUES, ())
    if arn:
        return [rule for rule in queues if rule.get("QueueArn") == arn]
    return [*queues, *_topics(configuration)]


def _topics(configuration: Configuration) -> list[Configuration]:
    return list(configuration.get("TopicConfigurations", ()))


def with_ours(configuration: Configuration, rule: Configuration) -> Configuration:
    """Return *configuration* with *rule*, a QueueConfiguration, in the place of an older one of
    the same Id."""
    kept = without(configuration, [rule["Id"]])
    return kept | {_QUEUES: [*kept.get(_QUEUES, []), rule]}


def without(configuration: Configuration, ids: Iterable[str]) -> Configuration:
    """Return *configuration* without the rules of *ids* that tell queues: no other is ours."""
    gone, kept = set(ids), dict(configuration)
    if _QUEUES in kept:
        kept[_QUEUES] = [rule for rule in kept[_QUEUES] if rule.get("Id") not in gone]
        if not kept[_QUEUES]:
            del kept[_QUEUES]
    return kept


def overlapping(configuration: Configuration, rule: Configuration) -> list[Configuration]:
    """Return the rules beside which S3 would not take *rule*."""
    return [
        other
        for other in _rules(configuration)
        if ("QueueArn" not in other or other.get("Id") != rule["Id"])
        and any(_same(a, b) for a in other.get("Events", ()) for b in rule["Events"])
        and _meet(_filter(other), _filter(rule))
    ]


def target_of(rule: Configuration) -> str:
    """Return the ARN of the target of *rule*."""
    return next((str(rule[name]) for name in _TARGETS.values() if name in rule), "")


def our_rule(id_: str, arn: str, prefix: str) -> Configuration:
    """Return the QueueConfiguration that tells the queue *arn* of all below *prefix*."""
    rule: Configuration = {"Id": id_, "QueueArn": arn, "Events": [CREATED, REMOVED, EXPIRED]}
    if prefix:
        value = quote_plus(prefix, safe=_HARMLESS)
        rule["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": value}]}}
    return rule


def ours(configuration: Configuration, id_: str) -> list[Configuration]:
    """Return the rules of the Id *id_* that tell queues."""
    return [rule for rule in configuration.get(_QUEUES, ()) if rule.get("Id") == id_]


def _rules(configuration: Configuration) -> Iterator[Configuration]:
    for name in _TARGETS:
        yield from configuration.get(name, ())


def _filter(rule: Configuration) -> tuple[str, str]:
    """Return the prefix and the suffix of the keys that *rule* is about."""
    rules = _rules_of(rule.get("Filter", {}))
    found = {each["Name"].lower(): unquote_plus(each.get("Value", "")) for each in rules}
    return found.get("prefix", ""), found.get("suffix", "")


def _rules_of(filters: Configuration) -> Sequence[dict[str, str]]:
    return filters.get("Key", {}).get("FilterRules", ())  # type: ignore[no-any-return]


def _covers(rule: Configuration, prefix: str) -> bool:
    """Whether *rule* is about all keys below *prefix*. Any filter other than a prefix, such as
    Ceph's regex, metadata and tags, leaves some out, as far as we know."""
    begins, _ = _filter(rule)
    filters = rule.get("Filter", {})
    by = {each["Name"].lower() for each in _rules_of(filters) if each.get("Value")}
    return prefix.startswith(begins) and by <= {"prefix"} and {*filters} <= {"Key"}


def _meet(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether a key can fit both filters."""
    (begin, end), (other_begin, other_end) = first, second
    begins = begin.startswith(other_begin) or other_begin.startswith(begin)
    return begins and (end.endswith(other_end) or other_end.endswith(end))


def _same(first: str, second: str) -> bool:
    """Whether two kinds of events, which may end in "*", have any in common."""
    one, other = first.removesuffix("*"), second.removesuffix("*")
    if first.endswith("*") and other.startswith(one):
        return True
    return first == second or (second.endswith("*") and one.startswith(other))
