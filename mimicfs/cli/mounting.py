"""`mimicfs mount` and `umount`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimicfs import errors
from mimicfs.cli.advice import advised
from mimicfs.cli.helping import ManyOptions
from mimicfs.cli.leaving import leave
from mimicfs.cli.options import (
    PlainPath,
    completes_mount_points,
    completes_url_or_path,
    for_mounts,
    of_this_machine,
    tell_doubts,
)
from mimicfs.cli.places import innermost
from mimicfs.config.settled import Settled
from mimicfs.config.values import Target, parse_target

if TYPE_CHECKING:
    from mimicfs.config.values import Settings


@click.command(cls=ManyOptions)
@click.argument(
    "where",
    nargs=-1,
    required=True,
    metavar="[s3://BUCKET[/PREFIX]] MOUNTPOINT",
    shell_complete=completes_url_or_path,
)
@for_mounts
def mount(settled: Settled, where: tuple[str, ...]) -> None:
    """Show S3 at MOUNTPOINT: all buckets, one bucket, or a prefix of one.

    The command returns when the mount answers. `mimicfs umount` or fusermount3 -u ends the mount.

    \b
    mimicfs mount ~/s3
    mimicfs mount s3://photos/2024 ~/photos --profile work -o ro,uid=alice,umask=027
    """
    *urls, point = where
    if len(urls) > 1:
        raise click.UsageError("at most one s3:// URL, then the mount point")
    if point.startswith("s3://"):
        given = urls[0] if urls else "DIRECTORY"
        raise click.UsageError(f"the directory comes last: mimicfs mount {point} {given}")
    mount_at(settled, parse_target(urls[0]) if urls else Target(), Path(point))


def mount_at(settled: Settled, target: Target, point: Path) -> None:
    """Mount *target* at *point*. Raises MimicError."""
    from mimicfs.admin import logs
    from mimicfs.mount.daemon import start_daemon
    from mimicfs.mount.outside import check_outside
    from mimicfs.mount.starting import serve_at
    from mimicfs.mount.systemd import ServiceManager

    settings = settled.settings()
    if not target.prefix:
        target = Target(target.bucket, settings.s3.buckets.of(target.bucket).prefix)
    choices = settled.choices(target)
    tell_doubts(settled)
    check_outside(settings, point)
    if "log-level" not in settled.values:
        settings = replace(settings, log_level="info")
    with advised(settings):
        if settled.get("foreground"):
            logs.set_up_by(settings, foreground=True)
            manager = ServiceManager(os.environ.pop("NOTIFY_SOCKET", ""))
            serve_at(settings, target, point, choices, lambda: None, manager)
            leave(0)
        else:
            start_daemon(settings, target, point, choices)
            if settings.ui:
                click.echo(f"page: {_page(settings, point)}")


def _page(settings: Settings, point: Path) -> str:
    """Return the URL of the page of the mount at *point*."""
    from mimicfs.fuse.mountpoint import resolved
    from mimicfs.mount.mounted import mounts

    path = str(resolved(point))
    return next((it.page for it in mounts(settings) if it.mountpoint == path), "")


@click.command()
@click.argument("mountpoint", type=PlainPath(), shell_complete=completes_mount_points)
@click.option(
    "-z",
    "-l",
    "--lazy",
    is_flag=True,
    help="Unmount even if the mount is in use; open files keep working.",
)
@of_this_machine
def umount(settings: Settings, mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT.

    The command returns when all uploads are done and the daemon has ended. With --lazy it returns
    at once, and the daemon runs until the last file is closed and uploaded.
    """
    umount_at(settings, mountpoint, lazy=lazy)


def umount_at(settings: Settings, mountpoint: Path, *, lazy: bool) -> None:
    """Unmount *mountpoint*, and wait for its uploads. Raises MountError."""
    from mimicfs.fuse import mounting
    from mimicfs.mount.mounted import watched

    if mounting.device_number(mountpoint) is None:
        raise errors.MountError(f"{mountpoint}: {_what_it_is(settings, mountpoint)}")
    with watched(settings, mountpoint) as wait:
        mounting.unmount(mountpoint, lazy=lazy)
        if not lazy:
            wait(lambda pending: click.echo(f"waiting: {pending}", err=True))


def _what_it_is(settings: Settings, path: Path) -> str:
    """Return what is at *path*, where no mount of mimicfs is."""
    if os.path.ismount(path):
        return f"not a mount of mimicfs; use umount {path}"
    inside = innermost(settings, Path(os.path.realpath(path)))
    return f"in the mount at {inside.mountpoint}; name that" if inside else "not mounted"
