"""The command line. Errors are one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicfs import __version__, errors
from mimicfs.config import S3Options, Target, parse_target
from mimicfs.errors import MimicError

if TYPE_CHECKING:
    from mimicfs.entry import Entry
    from mimicfs.mount import Parts, Settings
    from mimicfs.sync import Progress, Report

# The first class that the error is one of decides.
EXIT_CODES: list[tuple[type[MimicError], int]] = [
    (errors.ConfigError, 2),
    (errors.MountError, 3),
    (errors.StoreError, 4),
    (errors.CredentialsError, 5),
    (errors.AccessDenied, 5),
    (errors.NoSuchBucket, 6),
    (errors.KeyNotFound, 6),
    (errors.S3Error, 7),
    (errors.MalformedListing, 7),
    (errors.Interrupted, 130),
    (MimicError, 1),
]
_PAGE = 1000  # entries read from the mirror at a time
_LEVELS = ["debug", "info", "warning", "error"]


def main() -> None:
    """Run the command line; the console script."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except MimicError as exc:
        click.echo(f"mimicfs: {_one_line(exc)}", err=True)
        sys.exit(exit_code(exc))


def exit_code(exc: MimicError) -> int:
    """Return the exit code of a command that ended with *exc*."""
    from mimicfs.mount import Failed

    kind = type(exc)
    if isinstance(exc, Failed):  # raised in the daemon: only the name of its class came over
        kind = getattr(errors, exc.kind, errors.MountError)
    return next(code for known, code in EXIT_CODES if issubclass(kind, known))


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split("\n"))


# Options that several commands have

Command = Callable[..., Any]


def _common(command: Command) -> Command:
    """Add the options that say which S3 and which mirror; pass them as *settings*."""
    options = [
        click.option("--endpoint-url", envvar=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
                     metavar="URL", help="An S3 server other than AWS."),
        click.option("--profile", metavar="NAME", help="A profile of the AWS configuration."),
        click.option("--region", metavar="NAME", help="The region of the buckets."),
        click.option("--no-sign-request", is_flag=True,
                     help="No credentials: for public buckets."),
        click.option("--store", envvar="MIMICFS_STORE", metavar="URL", default="",
                     help="Where the mirror is: sqlite:///PATH, memory:, redis://..., rediss://..."
                     "  [default: a SQLite file for each endpoint and account]"),
        click.option("--namespace", envvar="MIMICFS_NAMESPACE", metavar="NAME", default="",
                     help="Keeps several mirrors apart in one store."),
        click.option("--log-level", type=click.Choice(_LEVELS), default="warning",
                     show_default=True, help="What is logged."),
        click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False),
                     help="Where it is logged."),
    ]  # fmt: skip

    @functools.wraps(command)
    def run(
        endpoint_url: str | None,
        profile: str | None,
        region: str | None,
        no_sign_request: bool,
        store: str,
        namespace: str,
        log_level: str,
        log_file: Path | None,
        **rest: Any,
    ) -> Any:
        from mimicfs.mount import Settings

        settings = Settings(
            S3Options(endpoint_url, region, profile, not no_sign_request),
            _state_directory(),
            store,
            namespace,
            os.environ.get("MIMICFS_STORE_PASSWORD"),
            None,
            log_level,
            log_file,
        )
        return command(settings=settings, **rest)

    for option in reversed(options):
        run = option(run)
    return run


def _state_directory() -> Path:
    """Return where stores, logs and staging files are (XDG base directory specification)."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "mimicfs"


_json_option = click.option("--json", "as_json", is_flag=True, help="Output for programs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mimicfs")
def cli() -> None:
    """S3 as a file system, on a mirror of its metadata that answers at local speed.

    Credentials are found as boto3 finds them: environment, profiles, SSO, instance roles.
    """


# Mounting


@cli.command()
@click.argument("where", nargs=-1, required=True, metavar="[s3://BUCKET[/PREFIX]] MOUNTPOINT")
@click.option(
    "-o",
    "choices",
    multiple=True,
    metavar="OPTIONS",
    help="ro, allow_other, uid=, gid=, umask=, file_mode=, dir_mode=, noexec, noatime;"
    " no_markers: mkdir puts no object (for servers that store `d/` as `d`: rclone serve s3).",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where bytes are that S3 does not have yet.  [default: the state directory]",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to the terminal.")
@_common
def mount(
    settings: Settings,
    where: tuple[str, ...],
    choices: tuple[str, ...],
    cache_dir: Path | None,
    foreground: bool,
) -> None:
    """Show S3 at MOUNTPOINT: all buckets, one bucket, or a prefix of one.

    Returns once the mount answers. Ends with `mimicfs umount` or fusermount3 -u.
    """
    from dataclasses import replace

    from mimicfs.mount import parse_choices, serve_mount, set_up_logging, start_daemon

    *urls, point = where
    if len(urls) > 1:
        raise click.UsageError("at most one s3:// URL, then the mount point")
    target = parse_target(urls[0]) if urls else Target()
    words = [word for group in choices for word in group.split(",") if word]
    parsed = parse_choices(words, target)
    level = "info" if settings.log_level == "warning" else settings.log_level
    settings = replace(settings, cache_dir=cache_dir, log_level=level)
    if foreground:
        set_up_logging(settings, foreground=True)
        serve_mount(settings, target, Path(point), parsed, lambda: None)
    else:
        start_daemon(settings, target, Path(point), parsed)


@cli.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-z", "--lazy", is_flag=True, help="Also when in use; open files go on.")
@_common
def umount(settings: Settings, mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT. Returns when all uploads are done and the daemon has ended."""
    from mimicfs.fuse import mounting
    from mimicfs.mount import wait_for_end

    if mounting.device_number(mountpoint) is None:
        raise errors.MountError(f"{mountpoint}: not mounted")
    mounting.unmount(mountpoint, lazy=lazy)
    if not lazy:
        wait_for_end(
            settings, mountpoint, lambda: click.echo("waiting for uploads to end", err=True)
        )


# The mirror


@cli.command()
@click.argument("urls", nargs=-1, metavar="[s3://BUCKET[/PREFIX]]...")
@_json_option
@_common
def sync(settings: Settings, urls: tuple[str, ...], as_json: bool) -> None:
    """Make the mirror true: everything, or the named buckets and prefixes.

    A mount that uses the same store shows what was found within a second. Interrupted, what
    was found stays.
    """
    targets = [parse_target(url) for url in urls] or [Target()]
    with closing(_parts(settings)) as parts:
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


@cli.command()
@click.argument("url", default="s3://", metavar="[s3://[BUCKET[/PREFIX]]]")
@click.option("-l", "long", is_flag=True, help="With size, time and storage class.")
@click.option("-R", "recursive", is_flag=True, help="With all directories below.")
@_json_option
@_common
def ls(settings: Settings, url: str, long: bool, recursive: bool, as_json: bool) -> None:
    """List buckets or a directory, from the mirror. What it does not know is listed once."""
    target = parse_target(url)
    with closing(_parts(settings)) as parts:
        if not target.bucket:
            for bucket in parts.syncer.sure(parts.mimicdb.buckets):
                _print_bucket(bucket, long, as_json)
            return
        for entry in _listed(parts, target, url, recursive):
            name = entry.key if recursive else entry.key[len(target.prefix) :]
            _print_entry(entry, name or entry.key, long, as_json)


def _print_bucket(bucket: Any, long: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(bucket._asdict()))
    elif long:
        click.echo(f"{_time(bucket.created_ns)} {bucket.bytes:>15} {bucket.name}/")
    else:
        click.echo(f"{bucket.name}/")


def _listed(parts: Parts, target: Target, url: str, recursive: bool) -> Iterator[Entry]:
    """Yield the entries of a directory; of one object, if the URL names that."""
    if target.prefix and not url.endswith("/"):
        directory, _, name = target.prefix[:-1].rpartition("/")
        above = f"{directory}/" if directory else ""
        entry, below = parts.syncer.sure(lambda: parts.mimicdb.lookup(target.bucket, above, name))
        if entry is not None:
            yield entry
        if below is None:
            if entry is None:
                raise errors.KeyNotFound(f"{url}: no such object or directory")
            return
    yield from _children(parts, target.bucket, target.prefix, recursive)


def _children(parts: Parts, bucket: str, directory: str, recursive: bool) -> Iterator[Entry]:
    after = ""
    while True:
        page = parts.syncer.sure(partial(parts.mimicdb.children, bucket, directory, after, _PAGE))
        for entry in page:
            yield entry
            if recursive and entry.key.endswith("/"):
                yield from _children(parts, bucket, entry.key, recursive)
        if len(page) < _PAGE:
            return
        after = page[-1].key


def _print_entry(entry: Entry, name: str, long: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_described(entry)))
    elif not long:
        click.echo(_printable(name))
    elif entry.key.endswith("/"):
        click.echo(f"{'-':>25} {'-':>15} {'':12} {_printable(name)}")
    else:
        storage_class = entry.storage_class or "STANDARD"
        click.echo(
            f"{_time(entry.mtime_ns)} {entry.size:>15} {storage_class:12} {_printable(name)}"
        )


@cli.command()
@click.argument("url", metavar="s3://BUCKET[/KEY]")
@_json_option
@_common
def stat(settings: Settings, url: str, as_json: bool) -> None:
    """Tell what the mirror knows of an object, a directory or a bucket."""
    target = parse_target(url)
    if not target.bucket:
        raise click.UsageError("name a bucket or an object: s3://BUCKET[/KEY]")
    key = url.removeprefix(f"s3://{target.bucket}").removeprefix("/")
    with closing(_parts(settings)) as parts:
        told = _told(parts, target.bucket, key)
    if as_json:
        click.echo(json.dumps(told))
        return
    for name, value in told.items():
        click.echo(f"{name + ':':15} {_printable(str(value))}")


def _told(parts: Parts, bucket: str, key: str) -> dict[str, Any]:
    scope = parts.mimicdb.cover(bucket, key[: key.rfind("/") + 1])
    if not key:
        known = parts.syncer.sure(lambda: parts.mimicdb.bucket(bucket))
        told: dict[str, Any] = {"bucket": bucket, "created": _time(known.created_ns)}
        told |= {"objects": known.objects, "bytes": known.bytes}
    else:
        directory, _, name = key.removesuffix("/").rpartition("/")
        above = f"{directory}/" if directory else ""
        entry, below = parts.syncer.sure(lambda: parts.mimicdb.lookup(bucket, above, name))
        found = below if key.endswith("/") else entry or below
        if found is None:
            raise errors.KeyNotFound(f"s3://{bucket}/{key}: no such object or directory")
        told = {"bucket": bucket, **_described(found)}
        scope = parts.mimicdb.cover(bucket, above)
    return {**told, "synced": _time(scope.listed_ns) if scope else "never"}


def _described(entry: Entry) -> dict[str, Any]:
    if entry.key.endswith("/") and entry.kind:
        return {"key": entry.key, "type": "directory"}
    return {
        "key": entry.key,
        "type": "object",
        "size": entry.size,
        "last_modified": _time(entry.mtime_ns),
        "etag": entry.etag,
        "storage_class": entry.storage_class or "STANDARD",
        "metadata": dict(entry.meta) if entry.meta is not None else None,
    }


@cli.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path))
@_json_option
@_common
def status(settings: Settings, mountpoint: Path | None, as_json: bool) -> None:
    """Tell what is mounted, and what the mirrors behind it hold."""
    from mimicfs.mount import mounts, resolved

    found = mounts(settings)
    if mountpoint is not None:
        found = [each for each in found if each.mountpoint == str(resolved(mountpoint))]
        if not found:
            raise errors.MountError(f"{mountpoint}: no mount of mimicfs")
    told = [{**each._asdict(), "buckets": _buckets_in(settings, each.store)} for each in found]
    if as_json:
        click.echo(json.dumps(told))
    elif not told:
        click.echo("nothing is mounted")
    for each in told if not as_json else ():
        _print_mounted(each)


def _print_mounted(each: dict[str, Any]) -> None:
    state = f"pid {each['pid']}" if each["alive"] else "DEAD; mount again, or fusermount3 -u -z"
    click.echo(f"{each['target']} at {each['mountpoint']} ({state})")
    click.echo(f"  endpoint {each['endpoint']}, mounted {_time(each['started_ns'])}")
    click.echo(f"  mirror   {each['store']}")
    for bucket in each["buckets"]:
        click.echo(
            f"    {bucket['name']}: {bucket['objects']} keys, {bucket['bytes']} bytes,"
            f" last sync {bucket['synced']}"
        )


def _buckets_in(settings: Settings, store: str) -> list[dict[str, Any]]:
    """Return what a mirror holds; nothing where only its mount can see into it."""
    from mimicfs.backends.open import open_store
    from mimicfs.mimicdb import MimicDB

    if store.startswith("memory:") or "***" in store:
        return []
    opened = open_store(store, settings.namespace, settings.store_password)
    with closing(MimicDB(opened)) as mimicdb:
        return [
            {
                "name": bucket.name,
                "objects": bucket.objects,
                "bytes": bucket.bytes,
                "synced": _time(scope.listed_ns)
                if (scope := mimicdb.scope(bucket.name, ""))
                else "never",
            }
            for bucket in mimicdb.backend.buckets()
        ]


# What the above is made of


def _parts(settings: Settings) -> Parts:
    from mimicfs.mount import assemble, set_up_logging

    set_up_logging(settings, foreground=True)
    return assemble(settings)


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")


def _printable(text: str) -> str:
    """A key may hold what a terminal takes as a command."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


if __name__ == "__main__":
    main()
