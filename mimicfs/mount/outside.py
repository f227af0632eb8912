"""The files that a mount itself needs, none of which may lie in the mount: a mount that asks
itself for one would wait for its own answer."""

from __future__ import annotations

import os
from pathlib import Path

from mimicfs.backends.open import file_of, socket_of
from mimicfs.config.values import Settings
from mimicfs.errors import MountError
from mimicfs.fuse.mountpoint import resolved


def check_outside(settings: Settings, mountpoint: Path) -> None:
    """Raise MountError if a file or directory of *settings* is at or below *mountpoint*."""
    place = resolved(mountpoint)
    for what, path in _needed(settings):
        real = Path(os.path.realpath(path)) if path is not None else None
        if real is not None and real.is_relative_to(place):
            raise MountError(
                f"{mountpoint}: {what} ({path}) would lie in the mount, which needs it to answer;"
                " name another mount point, or a place outside of it"
            )


def _needed(settings: Settings) -> list[tuple[str, Path | None]]:
    return [
        ("the state of mimicfs", settings.state),
        ("the cache", settings.cache_dir),
        ("the cache", settings.blocks),
        ("the store", file_of(settings.store) or socket_of(settings.store)),
        ("the log", settings.log_file),
        ("the access log", settings.access_log),
    ]
