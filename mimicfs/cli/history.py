"""`mimicfs diff`, `restore` and `undelete`: the earlier states of a versioned bucket, and the way
back to them."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.options import (
    assembled,
    bucket_of,
    common,
    completes_url_or_path,
    completes_urls,
    json_option,
)
from mimicfs.cli.places import innermost, key_named, of_a_moment, reached
from mimicfs.cli.progress import bar
from mimicfs.config.moments import parse_moment
from mimicfs.config.values import parse_object
from mimicfs.entry import NS
from mimicfs.errors import ConfigError
from mimicfs.human import iso_time, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.history.changes import Changed
    from mimicfs.history.restoring import Done, Step
    from mimicfs.s3.requests.versions import Version

_SIGNS = {"added": "+", "deleted": "-", "changed": "M", "rewritten": "="}


@click.command()
@click.argument("url", metavar="s3://BUCKET[/PREFIX]", shell_complete=completes_urls)
@click.option(
    "--from",
    "since",
    required=True,
    metavar="MOMENT",
    help="The earlier moment: 2026-11-01T18:00, -2h.",
)
@click.option(
    "--to",
    "until",
    default="now",
    show_default=True,
    metavar="MOMENT",
    help="The later moment, written likewise.",
)
@json_option
@common
def diff(settings: Settings, url: str, since: str, until: str, as_json: bool) -> None:
    """Print the names that were added (+), changed (M), rewritten with the same bytes (=) or
    deleted (-) between two moments. The command reads the versions of everything below the
    prefix once, and keeps nothing.

    \b
    Exit code: 0 nothing differs; 1 something differs; others are errors.
    """
    from mimicfs.history.changes import changed

    bucket_of(url)
    (bucket, scope), now_ns = parse_object(url), time.time_ns()
    from_ns, to_ns = parse_moment(since, now_ns), parse_moment(until, now_ns)
    if from_ns > to_ns:
        raise ConfigError(f"--from {since}: comes after --to {until}")
    differs = False
    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        for each in changed(parts.s3, bucket, scope, from_ns, to_ns):
            differs = True
            _print_change(bucket, each, as_json)
    if differs:
        sys.exit(1)


def _print_change(bucket: str, change: Changed, as_json: bool) -> None:
    if as_json:
        told: dict[str, Any] = {"change": change.kind, "bucket": bucket, "key": change.key}
        told |= {"before": _told(change.before), "after": _told(change.after)}
        click.echo(json.dumps(told))
    else:
        click.echo(f"{_SIGNS[change.kind]} {printable(f's3://{bucket}/{change.key}')}")


def _told(version: Version | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {
        "version": version.version,
        "size": version.size,
        "etag": version.etag,
        "last_modified": iso_time(version.mtime_ns),
        "storage_class": version.storage_class or "STANDARD",
    }


@click.command()
@click.argument("url", metavar="s3://BUCKET[/PREFIX]", shell_complete=completes_urls)
@click.option(
    "--at",
    required=True,
    metavar="MOMENT",
    help="The moment whose state comes back: 2026-11-01T18:00, -2h, yesterday.",
)
@click.option("--dry-run", is_flag=True, help="Print what the command would do, and do nothing.")
@click.option("--keep-new", is_flag=True, help="Keep objects that did not exist at that moment.")
@json_option
@common
def restore(
    settings: Settings, url: str, at: str, dry_run: bool, keep_new: bool, as_json: bool
) -> None:
    """Bring everything below the prefix back to its state at a moment, within S3.

    An object that has changed or was deleted since becomes a copy of its version at that moment,
    and an object that did not exist then gets a delete marker. No version and no delete marker is
    removed, so another restore can undo this one. The command refuses a bucket that keeps no
    versions. After an interruption, run it again with the moment that it prints, and it
    continues.

    \b
    Exit code: 0 everything was restored; 1 something was not; others are errors.
    """
    from mimicfs.history.restoring import Restoring, journal_so_far, journalled, plan
    from mimicfs.private import private_directory

    target, moment_ns = bucket_of(url), parse_moment(at, time.time_ns())
    bucket, scope = parse_object(url)
    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        steps = plan(parts.s3, bucket, scope, moment_ns, keep_new=keep_new)
        if dry_run:
            made = journal_so_far(settings.state / "restores", target, moment_ns)
            restoring = Restoring(parts.s3, bucket, made)
            restoring.check_versions()
            for step in restoring.left(steps):
                _print_step(bucket, step, as_json)
            return
        exact = _exact(moment_ns)
        named = printable(f"s3://{bucket}/{scope}")
        click.echo(f"restoring {named} to --at {exact}", err=True)
        directory = private_directory(private_directory(settings.state) / "restores")
        with journalled(directory, target, moment_ns) as journal, bar(str(target), None) as more:

            def told(done: Done) -> None:
                more(1)
                _print_done(bucket, done, as_json)

            restoring = Restoring(parts.s3, bucket, journal)
            restoring.check_versions()
            counts = restoring.run(steps, told)
    _end(counts)


def _exact(moment_ns: int) -> str:
    """Return a moment as a text from which `parse_moment` makes it again."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(moment_ns // NS, UTC)
    return at.replace(microsecond=moment_ns // 1000 % 1_000_000, tzinfo=None).isoformat()


@click.command()
@click.argument("what", metavar="PATH|s3://BUCKET/KEY", shell_complete=completes_url_or_path)
@click.option("--dry-run", is_flag=True, help="Print what the command would do, and do nothing.")
@json_option
@common
def undelete(settings: Settings, what: str, dry_run: bool, as_json: bool) -> None:
    """Bring back a deleted object, named by its key or its path in a mount, by removing its
    delete markers. A name that ends in / brings back everything that was deleted below it. If
    versioning was suspended when a marker was made (its id is null), the command does not remove
    it, but puts a copy of the object in its place, if the server can ensure that nobody has written
    the key meanwhile.

    \b
    Exit code: 0 it is back; 1 nothing was deleted there, or it failed; others are errors.
    """
    from mimicfs.history.restoring import Restoring, undeleted

    bucket, key, settings = _place(settings, what)
    _check_meant(what, key)
    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        steps = undeleted(parts.s3, bucket, key)

        def told(done: Done) -> None:
            _print_done(bucket, done, as_json)
            if not done.error and not as_json:
                _print_step(bucket, done.step, as_json)

        if dry_run:
            counts = Counter(_shown(bucket, step, as_json) for step in steps)
        else:
            counts = Restoring(parts.s3, bucket).run(steps, told)
    if not counts:
        click.echo(f"mimicfs: {printable(what)}: nothing there was deleted", err=True)
        sys.exit(1)
    if not dry_run:
        _end(counts)


def _shown(bucket: str, step: Step, as_json: bool) -> str:
    _print_step(bucket, step, as_json)
    return step.what.value


def _place(settings: Settings, what: str) -> tuple[str, str, Settings]:
    """Return bucket and key of an s3:// URL, or of a path in a mount, with the settings that reach
    them as that mount does. Raises ConfigError, MountError."""
    from mimicfs.fuse.mountpoint import parent_resolved

    if what.startswith("s3://"):
        bucket_of(what)
        return *parse_object(what), settings
    path = parent_resolved(Path(what))
    mounted = innermost(settings, path)
    if mounted is None:
        raise ConfigError(f"{what}: in no mount of mimicfs on this machine; write s3://BUCKET/KEY")
    if of_a_moment(mounted):
        text = "shows a moment, and undelete changes the present; write s3://BUCKET/KEY"
        raise ConfigError(f"{what}: {text}")
    bucket, key = key_named(mounted, path, directory=what.endswith("/"))
    if not bucket:
        raise ConfigError(f"{what}: shows all buckets; name one of them")
    return bucket, key, reached(settings, mounted)


def _check_meant(what: str, key: str) -> None:
    """Raise ConfigError if *key*, for which *what* stands, means everything in a bucket or below a
    prefix, and *what* does not say so by a / at its end."""
    if not what.endswith("/") and (not key or key.endswith("/")):
        raise ConfigError(f"{what}: write {what}/ to undelete everything below it")


def _print_step(bucket: str, step: Step, as_json: bool) -> None:
    if as_json:
        told = {"do": step.what.value, "bucket": bucket, "key": step.key}
        click.echo(json.dumps({**told, "version": _told(step.version)}))
        return
    since = f" as of {iso_time(step.version.mtime_ns)}" if step.version is not None else ""
    click.echo(f"{step.what.value} {printable(f's3://{bucket}/{step.key}')}{since}")


def _print_done(bucket: str, done: Done, as_json: bool) -> None:
    if as_json:
        told = {"did": done.step.what.value, "bucket": bucket, "key": done.step.key}
        click.echo(json.dumps({**told, "error": done.error or None}))
    elif done.error:
        click.echo(f"mimicfs: {printable(done.error)}", err=True)


def _end(counts: dict[str, int]) -> None:
    said = ", ".join(f"{counts[word]} {word}d" for word in ("restore", "undelete", "delete"))
    failed = counts["failed"]
    click.echo(f"{said}, {failed} failed", err=True)
    if failed:
        sys.exit(1)
