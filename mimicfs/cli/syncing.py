"""`mimicfs sync`, its progress and its report."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.options import assembled, common, json_option
from mimicfs.config import Target, parse_target

if TYPE_CHECKING:
    from mimicfs.config import Settings
    from mimicfs.parts import Parts
    from mimicfs.sync import Progress, Report


@click.command()
@click.argument("urls", nargs=-1, metavar="[s3://BUCKET[/PREFIX]]...")
@json_option
@common
def sync(settings: Settings, urls: tuple[str, ...], as_json: bool) -> None:
    """Make the mirror true: everything, or the named buckets and prefixes.

    A mount that uses the same store shows what was found within a second. Interrupted, what
    was found stays.
    """
    targets = [parse_target(url) for url in urls] or [Target()]
    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        with _Bar(parts) as bar:
            reports = [report for target in targets for report in _sync_one(parts, target, bar)]
        for report in reports:
            _print_report(report, as_json)
    if any(report.error for report in reports):
        sys.exit(1)


def _sync_one(parts: Parts, target: Target, bar: _Bar) -> list[Report]:
    if target.bucket:
        return [parts.syncer.sync(target.bucket, target.prefix, bar.show, bar.cancellation)]
    return parts.syncer.sync_all(bar.show, bar.cancellation)


class _Bar:
    """A progress line on a terminal; nothing elsewhere. Ctrl-C ends a sync between pages."""

    def __init__(self, parts: Parts) -> None:
        import signal

        from mimicfs.posix import Cancellation

        self.cancellation = Cancellation()
        self._parts = parts
        self._signal = signal
        self._progress: Any = None
        self._tasks: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> _Bar:
        self._before = self._signal.signal(
            self._signal.SIGINT, lambda *_: self.cancellation.cancel()
        )
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f} keys"),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._signal.signal(self._signal.SIGINT, self._before)

    def show(self, so_far: Progress) -> None:
        if self._progress is None:
            return
        scope = (so_far.bucket, so_far.prefix)
        if scope not in self._tasks:
            known = self._parts.mimicdb.backend.bucket(so_far.bucket)
            total = known.objects if known is not None and not so_far.prefix else None
            name = f"s3://{so_far.bucket}/{so_far.prefix}"
            self._tasks[scope] = self._progress.add_task(name, total=total or None)
        self._progress.update(self._tasks[scope], completed=so_far.keys)


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report._asdict()))
        return
    scope = f"s3://{report.bucket}/{report.prefix}"
    if report.error:
        click.echo(f"{scope}: {report.error}", err=True)
        return
    click.echo(
        f"{scope}: {report.keys} keys, {report.added} added, {report.changed} changed,"
        f" {report.deleted} deleted in {report.duration_ns / 1e9:.2f} s"
    )
