"""The name of a mount point, as the kernel and the records of mounts have it. No process that
serves a mount is asked: it may be dead, or not answer.

Threading: no state; any thread.
"""

from __future__ import annotations

import os
from pathlib import Path

_LINKS_MAX = 40  # as path_resolution(7)


def resolved(mountpoint: Path) -> Path:
    """Return *mountpoint* without links, also where it is one itself."""
    path = parent_resolved(mountpoint)
    for _ in range(_LINKS_MAX):
        if path.parts[1:2] == ("proc",):  # a descriptor that stands for a mount: handed.py
            break
        try:
            to = os.readlink(path)  # of a directory: EINVAL, which no file system is asked for
        except OSError:
            break
        path = parent_resolved(path.parent / to)
    return path


def parent_resolved(path: Path) -> Path:
    """Return *path* with no link above it; it may be one itself."""
    path = Path(os.path.abspath(path))
    return Path(os.path.realpath(path.parent)) / path.name
