"""`mimicfs mount`, `umount` and `status`."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicfs import errors
from mimicfs.cli.options import cache_directory, common, json_option
from mimicfs.cli.text import iso_time
from mimicfs.config import Target, parse_size, parse_target

if TYPE_CHECKING:
    from mimicfs.mount import Settings


@click.command()
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
    help="Where bytes are that S3 does not have yet, and what was read is kept."
    "  [default: the state directory, ~/.cache/mimicfs]",
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help="How much is kept of what was read: 20G; 0: nothing."
    "  [default: a quarter of what is free]",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to the terminal.")
@common
def mount(
    settings: Settings,
    where: tuple[str, ...],
    choices: tuple[str, ...],
    cache_dir: Path | None,
    cache_size: str | None,
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
    size = parse_size(cache_size) if cache_size is not None else None
    settings = replace(
        settings,
        cache_dir=cache_dir,
        log_level=level,
        blocks=cache_directory() / "blocks",
        cache_size=size,
    )
    if foreground:
        set_up_logging(settings, foreground=True)
        serve_mount(settings, target, Path(point), parsed, lambda: None)
    else:
        start_daemon(settings, target, Path(point), parsed)


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-z", "--lazy", is_flag=True, help="Also when in use; open files go on.")
@common
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


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path))
@json_option
@common
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
    click.echo(f"  endpoint {each['endpoint']}, mounted {iso_time(each['started_ns'])}")
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
                "synced": iso_time(scope.listed_ns)
                if (scope := mimicdb.scope(bucket.name, ""))
                else "never",
            }
            for bucket in mimicdb.backend.buckets()
        ]
