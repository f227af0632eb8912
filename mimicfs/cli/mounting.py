"""`mimicfs mount` and `umount`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimicfs import errors
from mimicfs.cli.options import common
from mimicfs.config import Target, parse_target

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
    " sync_rate=: LIST requests a second that `touch .sync` may cost in the long run;"
    " no_markers: mkdir puts no object (for servers that store `d/` as `d`: rclone serve s3).",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where bytes are that S3 does not have yet.  [default: the state directory]",
)
@click.option(
    "--metrics",
    default="",
    metavar="ADDRESS",
    help="Where Prometheus may ask: 127.0.0.1:PORT or unix:/PATH.  [default: nowhere]",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to the terminal.")
@common
def mount(
    settings: Settings,
    where: tuple[str, ...],
    choices: tuple[str, ...],
    cache_dir: Path | None,
    metrics: str,
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
    settings = replace(settings, cache_dir=cache_dir, log_level=level, metrics=metrics)
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
