"""`mimicfs store`: checks the store of the mirror, and moves the mirror to another store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mimicfs.cli.helping import Group
from mimicfs.cli.options import assembled, common, json_option
from mimicfs.cli.progress import bar
from mimicfs.config.values import redacted, refuse_shown_secret
from mimicfs.human import amount, number_of, printable

if TYPE_CHECKING:
    from mimicfs.backends.checking import BucketCheck
    from mimicfs.config.values import Settings


@click.group(cls=Group)
def store() -> None:
    """Check or move the store of the mirror."""


@store.command()
@json_option
@common
def check(settings: Settings, as_json: bool) -> None:
    """Check that the counts, directories and scopes of the store agree with its entries.

    \b
    Exit code: 0 they agree; 1 something is wrong, with --json too; others are errors.

    The command does not ask S3 (`mimicfs verify` does) and changes nothing (`mimicfs sync` builds
    the mirror of a bucket anew).
    """
    from mimicfs.backends import checking

    with closing(assembled(settings)) as parts:
        found = list(checking.check(parts.mimicdb.backend))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found]))
    else:
        for line in _lines(found):
            click.echo(printable(line))
    if any(each.wrong for each in found):
        sys.exit(1)


def _lines(found: list[BucketCheck]) -> Iterator[str]:
    if not found:
        yield "the store has no buckets"
    for each in found:
        if each.name:
            yield (
                f"s3://{each.name}: {number_of(each.objects, 'object')}, {amount(each.bytes)},"
                f" {number_of(each.scopes, 'scope')}"
            )
        yield from (f"  WRONG: {text}" for text in each.wrong)
        if each.unsettled:
            yield f"  {number_of(each.unsettled, 'key')} being changed, or to be checked in S3"
        if each.doubted:
            yield "  the store may have lost changes: visited directories are listed again"
        if each.changed:
            yield "  others changed it during the check: counts were not compared"


@store.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@json_option
@common
def migrate(settings: Settings, source: str, target: str, as_json: bool) -> None:
    """Copy a mirror from the store SRC to the store DST; both are written as for --store.

    The command does not ask S3. Read-only mounts may use SRC meanwhile. DST must be empty, or
    hold the rest of an earlier attempt. Passwords are given as for --store.
    """
    from mimicfs.backends.migrating import migrate
    from mimicfs.backends.open import open_store

    refuse_shown_secret("SRC", source)
    refuse_shown_secret("DST", target)
    password, namespace = settings.store_password, settings.namespace
    with (
        closing(open_store(source, namespace, password, create=False)) as old,
        closing(open_store(target, namespace, password)) as new,
        bar(redacted(target), None) as more,
    ):
        copied = migrate(old, new, more)
    if as_json:
        click.echo(json.dumps([{"bucket": it, "keys": count} for it, count in copied.items()]))
        return
    for name, count in copied.items():
        click.echo(printable(f"s3://{name}: {number_of(count, 'key')}"))
