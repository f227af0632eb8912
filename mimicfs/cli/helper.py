"""The programs that mount(8) and umount(8) call, `mount.mimicfs` and `umount.mimicfs`, and their
installation in the directory in which those look for them.

    mount.mimicfs   SOURCE DIRECTORY [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
    umount.mimicfs  DIRECTORY [-flnrv] [-N NAMESPACE] [-t TYPE]

mount(8) calls /sbin/mount.fuse.mimicfs for the type fuse.mimicfs and /sbin/mount.mimicfs for the
type mimicfs. Without the first it calls mount.fuse3, which calls `mimicfs SOURCE DIRECTORY
-o OPTIONS`. umount(8) goes by the type of the mount, fuse.mimicfs. (Tried with util-linux 2.38:
options x-* never arrive; `_netdev`, `nofail` and `user` do.)
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from mimicfs.cli.mounting import mount_at, umount_at
from mimicfs.cli.options import PlainPath
from mimicfs.cli.text import one_line
from mimicfs.config.given import from_words, words
from mimicfs.config.settled import settle
from mimicfs.config.values import Target, parse_target
from mimicfs.errors import ConfigError, MimicError, MountError
from mimicfs.mount import remount

# From mount(8), "EXIT STATUS".
_WRONG_CALL = 1
_FAILED = 32

_EVERYTHING = ("none", "mimicfs", "s3://")
_HELPERS = ("mount.mimicfs", "mount.fuse.mimicfs", "umount.mimicfs", "umount.fuse.mimicfs")
_MOUNT_USAGE = "mount.mimicfs s3://[BUCKET[/PREFIX]] DIRECTORY [-sfnv] [-o OPTIONS]"
_UMOUNT_USAGE = "umount.mimicfs DIRECTORY [-flnrv]"


def mount() -> None:
    """Mount as mount(8) asks: the console script mount.mimicfs."""
    _run(_mount, sys.argv[1:])


def umount() -> None:
    """Unmount as umount(8) asks: the console script umount.mimicfs."""
    _run(_umount, sys.argv[1:])


def mount_for_fuse3() -> None:
    """Mount as `mount` does. mount.fuse3 adds suid and dev to the options of root, unless root says
    no; so here they mean nothing."""
    _run(lambda arguments: _mount(arguments, unless=("suid", "dev")), sys.argv[1:])


def _run(do: Callable[[list[str]], None], arguments: list[str]) -> None:
    try:
        do(arguments)
    except MimicError as exc:
        click.echo(f"mimicfs: {one_line(exc)}", err=True)
        sys.exit(_WRONG_CALL if isinstance(exc, ConfigError) else _FAILED)


def _mount(arguments: list[str], unless: tuple[str, ...] = ()) -> None:
    (source, point), flags, groups = _parsed(arguments, 2, _MOUNT_USAGE)
    given = [word for word in words(groups) if word not in unless]
    if remount.is_asked(given):
        remount.remount(settle({}, os.environ).settings(), Path(point), given)
        return
    settled = settle({}, os.environ, from_words(given, sloppy="-s" in flags))
    target = Target() if source in _EVERYTHING else parse_target(source)
    if "-f" in flags:  # do everything but mount
        settled.settings(), settled.choices(target)
        return
    mount_at(settled, target, Path(point))


def _umount(arguments: list[str]) -> None:
    (point,), flags, _ = _parsed(arguments, 1, _UMOUNT_USAGE)
    umount_at(settle({}, os.environ).settings(), Path(point), lazy="-l" in flags)


def _parsed(arguments: list[str], count: int, usage: str) -> tuple[list[str], set[str], list[str]]:
    """Return the named places, the flags, and the groups of options."""
    try:
        found, rest = getopt.gnu_getopt(arguments, "sfnvlrihwcN:o:t:")
    except getopt.GetoptError as exc:
        raise ConfigError(f"{exc}; {usage}") from exc
    if len(rest) != count:
        raise ConfigError(f"{usage}")
    return rest, {name for name, _ in found}, [value for name, value in found if name == "-o"]


@click.command()
@click.option(
    "--directory",
    type=PlainPath(),
    default=Path("/sbin"),
    show_default=True,
    help="The directory in which mount(8) looks for helpers.",
)
@click.option("--remove", is_flag=True, help="Remove the links.")
def install_helper(directory: Path, remove: bool) -> None:
    """Let mount(8), fstab and systemd mount the types `mimicfs` and `fuse.mimicfs`.

    The command links mount.mimicfs and umount.mimicfs, which pip installed beside mimicfs, into
    /sbin.
    """
    beside = Path(os.path.realpath(sys.argv[0])).parent  # /usr/bin/mimicfs may be a link
    for name in _HELPERS:
        script = beside / name.replace(".fuse", "")
        if not script.exists():
            raise MountError(f"{script}: not installed; run the mimicfs that pip installed")
        link = directory / name
        _check_ours(link)
        try:
            link.unlink(missing_ok=True)
            if not remove:
                link.symlink_to(script)
        except OSError as exc:
            raise MountError(f"{link}: {exc.strerror}; run as root, or name a --directory") from exc
        click.echo(f"{'removed' if remove else 'made'} {link}")


def _check_ours(link: Path) -> None:
    if link.is_symlink() and os.readlink(link).endswith(("/mount.mimicfs", "/umount.mimicfs")):
        return
    if link.exists() or link.is_symlink():
        raise MountError(f"{link}: it exists and is no link to mimicfs; remove it first")
