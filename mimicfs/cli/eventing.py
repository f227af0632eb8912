"""`mimicfs events`: has S3 tell of changes, checks whether it does, and listens without a mount."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from mimicfs import errors
from mimicfs.cli.helping import Group
from mimicfs.cli.options import assembled, bucket_of, common, for_listeners, json_option
from mimicfs.config.settled import Settled
from mimicfs.config.values import EventOptions, Target, parse_target, redacted
from mimicfs.human import printable
from mimicfs.signals import of_end, wait_for_signal, woken_by_signals

if TYPE_CHECKING:
    from mimicfs.admin.sources import Sources
    from mimicfs.config.values import Settings
    from mimicfs.parts import Parts
    from mimicfs.sync.events.setup import Setup

log = logging.getLogger(__name__)

_LOOK_S = 0.05  # between two looks at the mirror
_queue = click.option("--queue", default="", metavar="NAME", help="Use this queue instead of"
                      " making one; several buckets may share it.")  # fmt: skip


@click.group(cls=Group)
def events() -> None:
    """Let S3 tell the mirror what others change, through a queue of SQS."""


@events.command("setup")
@click.argument("url", metavar="s3://BUCKET[/PREFIX]")
@_queue
@click.option(
    "--dry-run", is_flag=True, help="Print what the command would make, as JSON, and make nothing."
)
@click.option(
    "--terraform", "as_terraform", is_flag=True, help="Print the same as a Terraform configuration."
)
@common
def set_up(settings: Settings, url: str, queue: str, dry_run: bool, as_terraform: bool) -> None:
    """Make a queue, and let S3 send it a message for each change in the bucket.

    The notifications that the bucket already has stay as they are; if S3 could not send both,
    the command changes nothing. It prints the value for `mimicfs mount --events`.
    """
    from mimicfs.sync.events.setup import terraform

    target = bucket_of(url)
    with _setting_up(settings, target, queue) as setup:
        if as_terraform:
            click.echo(terraform(setup.plan(), target.bucket), nl=False)
        elif dry_run:
            click.echo(json.dumps(setup.plan().shown(), indent=2))
        else:
            click.echo(f"sqs:{setup.make().url}")


@events.command()
@click.argument("url", metavar="s3://BUCKET[/PREFIX]")
@_queue
@common
def remove(settings: Settings, url: str, queue: str) -> None:
    """Undo `mimicfs events setup`: remove what it made, and nothing else."""
    with _setting_up(settings, bucket_of(url), queue) as setup:
        done = setup.remove()
    for each in done:
        click.echo(f"removed {printable(each)}")
    if not done:
        click.echo("nothing was there", err=True)


@events.command()
@click.argument("url", metavar="s3://BUCKET[/PREFIX]")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for S3's message.",
)
@json_option
@for_listeners
def check(settled: Settled, url: str, timeout: float, as_json: bool) -> None:
    """Change something in the bucket, and measure how long the mirror takes to learn of it.

    The command puts an empty object into the bucket and deletes it at the end. It watches the
    mount or the `mimicfs events run` that uses the same store and source; if there is none, it
    listens to S3 itself.
    """
    target, options = bucket_of(url), _source(settled)
    with closing(assembled(settled.settings())) as parts:
        found = _checked(settled, parts, target, options, timeout)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(
            f"a new object was in the mirror after {found['added_s']:.2f} s, its deletion after"
            f" {found['deleted_s']:.2f} s; told by {found['by']}"
        )
        if found["shortcoming"]:
            click.echo(printable(f"but: {found['shortcoming']}"), err=True)


@events.command()
@click.argument("url", required=False, default="s3://", metavar="[s3://BUCKET[/PREFIX]]")
@for_listeners
def run(settled: Settled, url: str) -> None:
    """Keep the mirror up to date without a mount, from S3's messages, until a signal.

    If several mounts and programs share a store, the oldest of them takes the messages, and the
    others are ready to take over.
    """
    options, target = _source(settled), parse_target(url)
    came: list[int] = []
    for number in (signal.SIGINT, *of_end()):
        signal.signal(number, lambda number, _: came.append(number))
    with (
        woken_by_signals() as wakes,
        closing(assembled(settled.settings())) as parts,
        listening_to(settled, parts, target, options),
    ):
        click.echo(f"listening to {redacted(options.source)}", err=True)
        while not came:
            wait_for_signal(wakes)


# Parts


def _source(settled: Settled) -> EventOptions:
    options = settled.events()
    if not options.source:
        raise errors.ConfigError("name where S3 tells: --events sqs:QUEUE_URL, http://..., ...")
    return options


@contextmanager
def _setting_up(settings: Settings, target: Target, queue: str) -> Iterator[Setup]:
    from mimicfs.sync.events.setup import Setup

    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        with closing(parts.s3.queues(target.bucket)) as queues:
            yield Setup(parts.s3, queues, target, queue)


@contextmanager
def listening_to(
    settled: Settled,
    parts: Parts,
    target: Target,
    options: EventOptions,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Sources]:
    """Within, this process is a member of the store, and takes the messages of S3. The sources that
    it yields say how that goes. *prepare* is called before the first message is taken."""
    from mimicfs.admin.sources import Sources
    from mimicfs.mount.telling import source_opened, told
    from mimicfs.parts import check as check_target

    check_target(parts, target)
    parts.mimicdb.join()
    with source_opened(options, parts.s3) as source:
        prepare()
        sources = Sources()
        with told(parts, target, options, source, sources, settled.settings().state):
            yield sources


def _checked(
    settled: Settled, parts: Parts, target: Target, options: EventOptions, timeout_s: float
) -> dict[str, Any]:
    from mimicfs.mount.telling import source_of
    from mimicfs.sync.events.election import listening
    from mimicfs.sync.events.notification import shortcoming, unexpired

    parts.s3.check_credentials()
    if parts.mimicdb.cover(target.bucket, target.prefix) is None:
        parts.syncer.list_directory(target.bucket, target.prefix)
    configuration = parts.s3.call("get_bucket_notification_configuration", target.bucket)
    arn = ""
    if options.source.startswith("sqs:"):  # others cannot be opened beside a listener
        with closing(source_of(options, parts.s3)) as source:
            arn = source.arn()
    others = listening(parts.mimicdb, redacted(options.source))
    found = {
        "shortcoming": shortcoming(configuration, arn, target.prefix)
        or unexpired(configuration, arn, target.prefix),
        "by": "a mount or program that was there" if others else "this command",
    }
    if others:
        return found | _timed(parts, target, timeout_s)
    with listening_to(settled, parts, target, options) as sources:
        _wait_for_the_turn(sources, timeout_s)
        return found | _timed(parts, target, timeout_s)


def _wait_for_the_turn(sources: Sources, timeout_s: float) -> None:
    """Return when messages are taken, or cannot be taken: the start is no delay of S3's. Return
    after *timeout_s* at the latest."""
    from mimicfs.sync.events.consumer import FAILING, LISTENING

    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        told = sources.collect(only=["events"])["events"]
        if told.get("state") in (LISTENING, FAILING):
            return
        time.sleep(_LOOK_S)


def _timed(parts: Parts, target: Target, timeout_s: float) -> dict[str, float]:
    """Return how long it takes until an object is in the mirror, and until its deletion is. The
    object is made by a client from which the mirror learns nothing."""
    from mimicfs.s3.requests.ownkeys import own_name

    bucket, key = target.bucket, target.prefix + own_name("check")
    with closing(parts.s3.plain_client()) as client:
        made = client.put_object(Bucket=bucket, Key=key, Body=b"")
        version = {"VersionId": made["VersionId"]} if made.get("VersionId") else {}
        try:
            added_s = _until(parts, bucket, key, True, timeout_s)
        finally:  # and leave neither a version nor a delete marker
            client.delete_object(Bucket=bucket, Key=key, **version)
        deleted_s = _until(parts, bucket, key, False, timeout_s)
    return {"added_s": added_s, "deleted_s": deleted_s}


def _until(parts: Parts, bucket: str, key: str, there: bool, timeout_s: float) -> float:
    began_s = time.monotonic()
    while (parts.mimicdb.entry(bucket, key) is not None) != there:
        if time.monotonic() - began_s > timeout_s:
            what = "a new object" if there else "a deletion"
            raise errors.NotTold(f"s3://{bucket}: nothing told of {what} within {timeout_s:.0f} s")
        time.sleep(_LOOK_S)
    return round(time.monotonic() - began_s, 3)
