"""The groups of a process that asks. FUSE tells one group; /proc knows the others."""

from __future__ import annotations

from mimicfs.fuse.processes import status
from mimicfs.posix import Caller


def is_member(caller: Caller, gid: int) -> bool:
    """Whether *caller* is in the group *gid*, or is root; False if that cannot be seen."""
    return caller.uid == 0 or caller.gid == gid or gid in _supplementary(caller.pid)


def _supplementary(pid: int) -> list[int]:
    return [*map(int, status(pid).get("Groups", "").split())]
