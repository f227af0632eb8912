"""`mimicfs doctor`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mimicfs.cli.options import common, json_option
from mimicfs.cli.text import printable
from mimicfs.config.values import Target, parse_target
from mimicfs.errors import MimicError
from mimicfs.finding import FAIL, WARN, Finding

if TYPE_CHECKING:
    from mimicfs.config.values import Settings

_ATTEMPTS = 2  # at a request: a user who looks for a fault does not want to wait a minute
_COLOURS = {FAIL: "red", WARN: "yellow"}


@click.command()
@click.argument("url", default="", metavar="[s3://BUCKET[/PREFIX]]")
@click.option(
    "--write",
    is_flag=True,
    help="Also what can be found only by writing: in keys .mimicfs-doctor-*, deleted again.",
)
@json_option
@common
def doctor(settings: Settings, url: str, write: bool, as_json: bool) -> None:
    """Check whether all is there that a mount needs, and say what to do.

    Looks at this machine, the store and the account; with a URL also at that bucket. The exit
    code is 1 if a check failed.
    """
    target = parse_target(url) if url else Target()
    if write and not target.bucket:
        raise click.UsageError("--write needs a bucket: s3://BUCKET")
    found: list[Finding] = []
    for finding in _findings(settings, target, write):
        found.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in found]))
    if any(finding.result == FAIL for finding in found):
        sys.exit(1)


def _findings(settings: Settings, target: Target, write: bool) -> Iterator[Finding]:
    from mimicfs.admin.doctor import machine
    from mimicfs.backends.examine import examine_store
    from mimicfs.backends.memory import Memory
    from mimicfs.mimicdb import Mirror
    from mimicfs.mount.daemon import set_up_logging
    from mimicfs.parts import own_directories, store_url
    from mimicfs.s3.requests.client import S3
    from mimicfs.s3.requests.examine import Examination

    quiet = "error" if settings.log_level == "warning" else settings.log_level
    set_up_logging(replace(settings, log_level=quiet), foreground=True)  # it is told below
    options = replace(settings.s3, attempts=_ATTEMPTS)
    yield from machine(own_directories(settings))
    try:
        with closing(S3(options, Mirror(Memory()))) as s3:
            url = store_url(settings, s3)
            yield from examine_store(url, settings.namespace, settings.store_password)
            yield from Examination(s3, options, target.bucket, target.prefix).findings(write)
    except MimicError as exc:
        text, _, advice = str(exc).partition("; ")
        yield Finding("credentials", FAIL, text, advice)


def _print(finding: Finding) -> None:
    result = click.style(f"{finding.result:4}", fg=_COLOURS.get(finding.result, "green"))
    click.echo(f"{result}  {printable(f'{finding.name}: {finding.found}')}")
    if finding.advice:
        click.echo(f"      {printable(finding.advice)}")
