"""`mimicfs sync`, its progress and its report."""

from __future__ import annotations

import gc
import json
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.options import assembled, common, completes_urls, json_option
from mimicfs.cli.progress import Interruptible
from mimicfs.config.values import Target, parse_target
from mimicfs.entry import NS
from mimicfs.human import number_of, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.parts import Parts
    from mimicfs.sync import Doomed, Progress, Report, Wish


@click.command()
@click.argument(
    "urls", nargs=-1, metavar="[s3://BUCKET[/PREFIX]]...", shell_complete=completes_urls
)
@click.option(
    "--metadata",
    is_flag=True,
    help="Also ask S3, by one HEAD each, for the modes, owners and links of objects"
    " if the mirror does not know them.",
)
@click.option(
    "--delete-guard/--no-delete-guard",
    default=True,
    show_default=True,
    help="Ask before deleting more than half of over 1,000 known objects from the mirror.",
)
@click.option("-y", "--yes", is_flag=True, help="Answer that question with yes.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Begin again, even if a sync was interrupted in the last ten minutes.",
)
@json_option
@common
def sync(
    settings: Settings,
    urls: tuple[str, ...],
    metadata: bool,
    delete_guard: bool,
    yes: bool,
    fresh: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """List S3 and bring the mirror up to date: all buckets, or the named buckets and prefixes.

    A mount that uses the same store shows the changes within a second. An interrupted sync keeps
    what it has found, and the next sync continues from there.
    """
    from mimicfs.s3.requests.sparing import spare_awscrt

    targets = [parse_target(url) for url in urls] or [Target()]
    spare_awscrt(settings.s3, [target.bucket for target in targets])
    gc.disable()
    from mimicfs.sync import Wish  # which imports botocore

    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        # The objects that exist by now stay; to look through them again and again took a tenth of
        # the time.
        gc.freeze()
        gc.enable()
        with _Bar() as bar:
            guard = bar.confirm if delete_guard and not yes else None
            wish = Wish(guard, fresh)
            reports = [it for target in targets for it in _sync_one(parts, target, bar, wish)]
            if metadata:
                _learn_metadata(parts, reports, bar)
        for report in reports:
            _print_report(report, as_json)
    if any(report.error for report in reports):
        sys.exit(1)


def _sync_one(parts: Parts, target: Target, bar: _Bar, wish: Wish) -> list[Report]:
    if target.bucket:
        where = (target.bucket, target.prefix)
        return [parts.syncer.sync(*where, bar.show, bar.cancellation, wish)]
    return parts.syncer.sync_all(bar.show, bar.cancellation, wish)


def _learn_metadata(parts: Parts, reports: list[Report], bar: _Bar) -> None:
    from mimicfs.sync.heads import learn_metadata

    for report in reports:
        if not report.error:
            where = (report.bucket, report.prefix)
            learn_metadata(parts.mimicdb, parts.s3, *where, bar.heads(*where), bar.cancellation)


class _Bar:
    """Shows a line of progress on a terminal; nothing elsewhere. Ctrl-C ends a sync between
    pages."""

    def __init__(self) -> None:
        self._stop = Interruptible()
        self.cancellation = self._stop.cancellation
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bar:
        self._stop.__enter__()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:,.0f} {task.fields[what]}"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._stop.__exit__()

    def show(self, so_far: Progress) -> None:
        """Show how far a sync is."""
        rate = f"{so_far.keys_per_s:,.0f}/s in {so_far.ranges} ranges"
        name = f"s3://{so_far.bucket}/{so_far.prefix}"
        self._update(name, "keys", so_far.keys, rate, so_far.expected)

    def heads(self, bucket: str, prefix: str) -> Any:
        """Return a function that shows how many objects were asked about."""
        name = f"s3://{bucket}/{prefix} metadata"
        return lambda count: self._update(name, "objects", count, "", None)

    def _update(self, name: str, what: str, count: int, rate: str, total: int | None) -> None:
        if self._progress is None:
            return
        if name not in self._tasks:
            shown = printable(name)
            self._tasks[name] = self._progress.add_task(shown, total=None, what=what, rate="")
        total = max(total, count) if total else None  # not 0: such a bar looks finished
        self._progress.update(self._tasks[name], completed=count, total=total, rate=rate)

    def confirm(self, doomed: Doomed) -> bool:
        """Ask whether most of a scope may be deleted from the mirror. Without a terminal, the
        answer is no."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        if self._progress is not None:
            self._progress.stop()
        name = printable(f"s3://{doomed.bucket}/{doomed.prefix}")
        text = f"{name}: S3 does not show {doomed.gone:,} of {doomed.known:,} known objects. Delete"
        # Ctrl-C ends the question.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer = click.confirm(f"{text} them from the mirror?", default=False, err=True)
        finally:
            signal.signal(signal.SIGINT, ours)
        if self._progress is not None:
            self._progress.start()
        return answer


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report._asdict()))
        return
    scope = printable(f"s3://{report.bucket}/{report.prefix}")
    if report.error:
        click.echo(f"{scope}: {printable(report.error)}", err=True)
        return
    click.echo(
        f"{scope}: {number_of(report.keys, 'key')}, {report.added} added, {report.changed} changed,"
        f" {report.deleted} deleted in {report.duration_ns / NS:.2f} s"
        + (" (continued an interrupted sync)" if report.resumed else "")
    )
