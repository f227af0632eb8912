"""The start of a mount: its place is examined before its parts are even imported, so that an error
about the place comes at once.

Threading: the main thread of the process that is to serve the mount, before any other is started.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from mimicfs.config.values import Buckets, MountChoices, Settings, Target
from mimicfs.fuse import mounting
from mimicfs.fuse.guardian import Guardian
from mimicfs.fuse.handed import Handed
from mimicfs.mount import process
from mimicfs.mount.mounted import check_free
from mimicfs.mount.place import MountPlace
from mimicfs.mount.systemd import ServiceManager
from mimicfs.s3.requests.sparing import spare_awscrt

_NOBODY = ServiceManager()


def serve_at(
    settings: Settings,
    target: Target,
    mountpoint: Path,
    choices: MountChoices,
    ready: Callable[[], None],
    manager: ServiceManager = _NOBODY,
) -> None:
    """Do what `serve_mount` does, at what *mountpoint* names. Raises MountError if nothing can be
    mounted there now."""
    process.set_up()
    place, choices = _place(settings, mountpoint, choices)
    # The guardian is made before there is anything that it could hold: an open /dev/fuse, a lock,
    # the memory of imports.
    with closing(Guardian()) as guardian:
        spare_awscrt(settings.s3, [target.bucket])
        from mimicfs.mount.serving import serve_mount  # four fifths of the CPU until here

        serve_mount(settings, target, place, choices, guardian, ready, manager)


def _place(
    settings: Settings, mountpoint: Path, choices: MountChoices
) -> tuple[MountPlace, MountChoices]:
    """Return the place that *mountpoint* names, and the choices that we must keep ourselves
    there."""
    handed = Handed.named(mountpoint)
    if handed is None:
        options = mounting.MountOptions(clear_dead=choices.clear_dead, nonempty=choices.nonempty)
        mounting.check(mountpoint, options)
    else:
        mountpoint, choices = handed.mountpoint, _without_kernel(choices)
    check_free(settings, mountpoint)
    return MountPlace(mountpoint, handed), choices


def _without_kernel(choices: MountChoices) -> MountChoices:
    """Return *choices* for a mount that somebody else has made: the kernel refuses writing only if
    it was mounted so, and otherwise we refuse it."""
    if not choices.read_only:
        return choices
    buckets = choices.vfs.buckets
    named = {name: replace(each, read_only=True) for name, each in buckets.named.items()}
    buckets = Buckets(replace(buckets.default, read_only=True), named)
    return replace(choices, vfs=replace(choices.vfs, buckets=buckets))
