"""The groups of a process that asks. FUSE tells one group; /proc knows the others."""

from __future__ import annotations

from pathlib import Path

from mimicfs.posix import Caller


def is_member(caller: Caller, gid: int) -> bool:
    """Whether *caller* is in the group *gid*, or is root; False if that cannot be seen."""
    return caller.uid == 0 or caller.gid == gid or gid in _supplementary(caller.pid)


def _supplementary(pid: int) -> list[int]:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    lines = (line.partition(":") for line in status.splitlines())
    return next(([*map(int, said.split())] for name, _, said in lines if name == "Groups"), [])
