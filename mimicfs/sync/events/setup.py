"""Makes S3 tell a queue of what happens to a bucket, and undoes that.

Three things: the queue, its policy (this bucket may put messages into it), and a rule in the
bucket's notification configuration. Rules and statements of others are kept. If S3 could not take
ours beside them, nothing changes and the error says why. Everything that this makes is marked as
ours, and only things with that mark are removed.

Threading: one caller.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from contextlib import suppress
from typing import Any, NamedTuple

from mimicfs.config.values import Target
from mimicfs.errors import ConfigError, MimicError, NoSuchBucket
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.queues import Made, Queues
from mimicfs.sync.events.notification import (
    OURS,
    Configuration,
    our_rule,
    ours,
    overlapping,
    target_of,
    with_ours,
    without,
)

log = logging.getLogger(__name__)

# SQS keeps a message for at most two weeks. A message that a dead consumer had taken can be taken
# again after a minute.
ATTRIBUTES = {"MessageRetentionPeriod": "1209600", "VisibilityTimeout": "60"}
_NAME_MAX = 80  # of a queue
_OTHERS = (
    "s3://{bucket}: S3 already sends the same events to {target} (rule {id}), and it sends them to"
    " one target only. Put a topic (SNS) or EventBridge in its place, which sends them to both;"
    " then name the queue with --events"
)

_TOLD_ALREADY = (
    "s3://{bucket}: S3 already sends the same events to this queue (rule {id}); mount with --events"
    " and this queue, or remove that rule first"
)


_NO_QUEUE = (
    "s3://{}: no such bucket; and SQS has no queue {} in this region. If the bucket was in another"
    " one, name it with --region"
)


class SetupPlan(NamedTuple):
    """The plan of a setup."""

    queue: str  # its name
    attributes: dict[str, str]
    policy: dict[str, Any]
    configuration: Configuration  # of the bucket, with the rules of others
    made: Made | None  # the queue, if it is there already
    rule: Configuration  # ours, in the configuration
    before: bool  # our rule was there already

    def shown(self) -> dict[str, Any]:
        """Return the plan as a dictionary, for people and programs."""
        return {
            "queue": {"name": self.queue, "exists": self.made is not None, **self.attributes},
            "policy": self.policy,
            "notification": self.configuration,
        }


class Setup:
    """Sets up the bucket or prefix *target*. *queue* is the name of the queue; "": the target gets
    one of its own. *queues* are those in the region of the bucket: S3 tells no others. Raises
    ConfigError."""

    def __init__(self, s3: S3, queues: Queues, target: Target, queue: str = "") -> None:
        if queue and not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", queue):
            raise ConfigError(f"--queue {queue}: letters, digits, - and _ only, at most 80")
        self._s3 = s3
        self._queues = queues
        self._target = target
        self.queue = queue or _queue_of(target)
        self.id = f"{OURS}-{_digest(self.queue, target.prefix)}"

    def plan(self) -> SetupPlan:
        """Return what is to be made. Raises ConfigError where S3 would refuse it."""
        bucket = self._target.bucket
        made = self._queues.find(self.queue)
        arn = (
            made.arn
            if made
            else f"arn:{self._queues.partition}:sqs:{self._queues.region}:ACCOUNT:{self.queue}"
        )
        rule = our_rule(self.id, arn, self._target.prefix)
        now = self.configuration()
        for other in overlapping(now, rule):
            if target_of(other) == arn:
                raise ConfigError(_TOLD_ALREADY.format(bucket=bucket, id=other.get("Id", "")))
            about = {"bucket": bucket, "target": target_of(other), "id": other.get("Id", "")}
            raise ConfigError(_OTHERS.format(**about))
        policy = _with_statement(made.policy if made else {}, self._statement(arn))
        then, before = with_ours(now, rule), bool(ours(now, self.id))
        return SetupPlan(self.queue, ATTRIBUTES, policy, then, made, rule, before)

    def make(self) -> Made:
        """Carry out the plan; return the queue. After a failure, the steps before it are undone."""
        plan = self.plan()
        made = plan.made or self._queues.make(self.queue, ATTRIBUTES, self._target.bucket)
        try:
            self._queues.set_policy(made, _with_statement(made.policy, self._statement(made.arn)))
            rule = our_rule(self.id, made.arn, self._target.prefix)
            self._put(with_ours(self.configuration(), rule))
        except MimicError:
            self._undo_rule(plan)
            self._undo_queue(plan, made)
            raise
        return made

    def _undo_rule(self, plan: SetupPlan) -> None:
        """Remove our rule, which S3 has not confirmed, and may have all the same."""
        with suppress(MimicError):  # what failed first is what is said
            now = self.configuration()
            if not plan.before and ours(now, self.id):
                self._put(without(now, [self.id]))

    def _undo_queue(self, plan: SetupPlan, made: Made) -> None:
        try:
            if plan.made is None:
                self._queues.delete(made)
            else:
                self._queues.set_policy(made, plan.made.policy)
        except MimicError as exc:  # what failed first is what is said
            log.warning("%s could not be made as it was before: %s", made.url, exc)

    def remove(self) -> list[str]:
        """Remove everything that is ours; return, in words, what that was."""
        done: list[str] = []
        try:
            now = self.configuration()
            if ours(now, self.id):
                self._put(without(now, [self.id]))
                done.append(f"the rule {self.id} of s3://{self._target.bucket}")
        except NoSuchBucket:
            if self._queues.find(self.queue) is None:
                raise NoSuchBucket(_NO_QUEUE.format(self._target.bucket, self.queue)) from None
            done.append(f"nothing from s3://{self._target.bucket}, which is gone")
        made = self._queues.find(self.queue)
        if made is None:
            return done
        policy = _without_statement(made.policy, self._sid)
        if made.ours and not policy.get("Statement"):
            self._queues.delete(made)
            done.append(f"the queue {made.url}, with about {made.waiting} messages")
        elif policy != made.policy:
            self._queues.set_policy(made, policy)
            done.append(f"the permission for s3://{self._target.bucket} to write to {made.url}")
        return done

    def configuration(self) -> Configuration:
        """Return the notification configuration of the bucket as it is."""
        found = self._s3.call("get_bucket_notification_configuration", self._target.bucket)
        return {name: value for name, value in found.items() if name != "ResponseMetadata"}

    def _put(self, configuration: Configuration) -> None:
        self._s3.call(
            "put_bucket_notification_configuration",
            self._target.bucket,
            NotificationConfiguration=configuration,
        )

    @property
    def _sid(self) -> str:
        return f"{OURS}{_digest(self._target.bucket, self._target.prefix)}"

    def _statement(self, arn: str) -> dict[str, Any]:
        _, partition, _, _, account, *_ = arn.split(":")
        source = {"aws:SourceArn": f"arn:{partition}:s3:::{self._target.bucket}"}
        owner = {"aws:SourceAccount": account}
        return {
            "Sid": self._sid,
            "Effect": "Allow",
            "Principal": {"Service": "s3.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            "Condition": {"ArnEquals": source, "StringEquals": owner},
        }


def terraform(plan: SetupPlan, bucket: str) -> str:
    """Return *plan* as Terraform. The resource is the whole configuration of the bucket, so it has
    the rules of others, too. Raises ConfigError if the queue is there already."""
    if plan.made is not None:
        why = "exists already, and Terraform would allow only this bucket to use it"
        raise ConfigError(f"the queue {plan.queue} {why}; --dry-run prints what to add to it")
    lines = [
        'resource "aws_sqs_queue" "mimicfs" {',
        f"  name = {_quoted(plan.queue)}",
        f"  message_retention_seconds = {plan.attributes['MessageRetentionPeriod']}",
        f"  visibility_timeout_seconds = {plan.attributes['VisibilityTimeout']}",
        f'  tags = {{ "{OURS}" = {_quoted(f"s3://{bucket}")} }}',
        "}",
        "",
        'data "aws_caller_identity" "mimicfs" {}',
        "",
        'resource "aws_sqs_queue_policy" "mimicfs" {',
        "  queue_url = aws_sqs_queue.mimicfs.url",
        "  policy    = jsonencode({",
        '    Version = "2012-10-17"',
        "    Statement = [{",
        '      Effect    = "Allow"',
        '      Principal = { Service = "s3.amazonaws.com" }',
        '      Action    = "sqs:SendMessage"',
        "      Resource  = aws_sqs_queue.mimicfs.arn",
        "      Condition = {",
        f'        ArnEquals    = {{ "aws:SourceArn" = {_quoted(_arn_of(plan, bucket))} }}',
        f'        StringEquals = {{ "aws:SourceAccount" = {_ACCOUNT} }}',
        "      }",
        "    }]",
        "  })",
        "}",
        "",
        'resource "aws_s3_bucket_notification" "mimicfs" {',
        f"  bucket = {_quoted(bucket)}",
    ]
    if "EventBridgeConfiguration" in plan.configuration:
        lines.append("  eventbridge = true")
    for name, block, argument in _BLOCKS:
        for rule in plan.configuration.get(name, ()):
            lines += _block(rule, block, argument, mine=rule is plan.rule)
    return "\n".join([*lines, "  depends_on = [aws_sqs_queue_policy.mimicfs]", "}", ""])


_ACCOUNT = "data.aws_caller_identity.mimicfs.account_id"
_BLOCKS = (
    ("QueueConfigurations", "queue", "queue_arn"),
    ("TopicConfigurations", "topic", "topic_arn"),
    ("LambdaFunctionConfigurations", "lambda_function", "lambda_function_arn"),
)


def _block(rule: Configuration, block: str, argument: str, *, mine: bool) -> list[str]:
    target = "aws_sqs_queue.mimicfs.arn" if mine else _quoted(target_of(rule))
    lines = [f"  {block} {{", f"    {argument} = {target}"]
    if rule.get("Id"):
        lines.append(f"    id = {_quoted(rule['Id'])}")
    lines.append(f"    events = [{', '.join(_quoted(each) for each in rule['Events'])}]")
    for each in rule.get("Filter", {}).get("Key", {}).get("FilterRules", ()):
        lines.append(f"    filter_{each['Name'].lower()} = {_quoted(each['Value'])}")
    return [*lines, "  }"]


def _arn_of(plan: SetupPlan, bucket: str) -> str:
    """Return the name of *bucket* in the part of AWS that *plan* is for: aws, aws-cn, ..."""
    _, partition, *_ = target_of(plan.rule).split(":")
    return f"arn:{partition}:s3:::{bucket}"


def _quoted(text: str) -> str:
    """Return *text* as Terraform quotes it."""
    return json.dumps(text, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")


def _with_statement(policy: dict[str, Any], statement: dict[str, Any]) -> dict[str, Any]:
    kept = _without_statement(policy, statement["Sid"])
    statements = [*kept.get("Statement", []), statement]
    return {"Version": "2012-10-17", **kept, "Statement": statements}


def _without_statement(policy: dict[str, Any], sid: str) -> dict[str, Any]:
    if not policy:
        return {}
    found = policy.get("Statement", [])
    statements = found if isinstance(found, list) else [found]
    return policy | {"Statement": [each for each in statements if each.get("Sid") != sid]}


def _queue_of(target: Target) -> str:
    """Return the name of the queue of its own that *target* has; no other one has the same."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "-", target.bucket)[: _NAME_MAX - 22]
    return f"{OURS}-{readable}-{_digest(target.bucket, target.prefix)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
