"""The name of a mount point, as the kernel and the records of mounts have it. No call here asks a
process that serves a mount: it may be dead, or not answer.

Threading: no state; any thread.
"""

from __future__ import annotations

import os
from pathlib import Path

_LINKS_MAX = 40  # as in path_resolution(7)


def resolved(mountpoint: Path) -> Path:
    """Return *mountpoint* without links, even if it is one itself."""
    path = parent_resolved(mountpoint)
    for _ in range(_LINKS_MAX):
        if path.parts[1:2] == ("proc",):  # a descriptor that stands for a mount: handed.py
            break
        try:
            to = os.readlink(path)  # of a directory: EINVAL, for which no file system is asked
        except OSError:
            break
        path = parent_resolved(path.parent / to)
    return path


def parent_resolved(path: Path) -> Path:
    """Return *path* with no link above it; it may be a link itself."""
    path = Path(os.path.abspath(path))
    return Path(os.path.realpath(path.parent)) / path.name
