"""`mimicfs top`: the requests of each program to a mount."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.options import PlainPath, completes_mount_points, json_option, of_this_machine
from mimicfs.cli.progress import in_place
from mimicfs.cli.watching import asked
from mimicfs.human import amount, number_of, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings

_EVERY_S = 2.0
_ROWS = 10


@click.command()
@click.argument("mountpoint", type=PlainPath(), shell_complete=completes_mount_points)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to look before printing, without a terminal or with --json.",
)
@json_option
@of_this_machine
def top(settings: Settings, mountpoint: Path, seconds: float, as_json: bool) -> None:
    """Show the requests of each program to the mount at MOUNTPOINT in the last minute.

    The mount records requests only while somebody looks. It does not see the requests that the
    kernel answers from its own caches.
    """
    ask = asked(settings, mountpoint)
    told = ask("top")
    if as_json or not sys.stdout.isatty():
        time.sleep(seconds)
        told = ask("top")
        click.echo(json.dumps(told) if as_json else "\n".join(_lines(told)))
        return
    try:
        with in_place(screen=True) as show:
            while True:
                show("\n".join(_lines(told)))
                time.sleep(_EVERY_S)
                told = ask("top")
    except KeyboardInterrupt:
        return


def _lines(told: dict[str, Any]) -> Iterator[str]:
    seconds = max(told["seconds"], 0.1)
    yield f"{number_of(told['requests'], 'request')} in the last {seconds:.0f} s"
    yield f"{'PID':>9} {_HEAD}  PROGRAM"
    for each in told["processes"][:_ROWS]:
        yield f"{each['pid']:>9} {_row(each, seconds)}  {printable(each['program'])}"
    yield f"{'':>9} {_HEAD}  FILE"
    for each in told["paths"][:_ROWS]:
        yield f"{'':>9} {_row(each, seconds)}  {printable(each['path'])}"


_HEAD = f"{'REQ/S':>8} {'READ/S':>11} {'WRITE/S':>11} {'MS EACH':>8} {'ERRORS':>6}"


def _row(each: dict[str, Any], seconds: float) -> str:
    return (
        f"{each['requests'] / seconds:>8.1f} {amount(each['read_bytes'] / seconds):>11}"
        f" {amount(each['write_bytes'] / seconds):>11}"
        f" {each['seconds'] / each['requests'] * 1000:>8.1f} {each['errors']:>6}"
    )
