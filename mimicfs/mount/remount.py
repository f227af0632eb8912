"""`mount -o remount,ro` and `remount,rw`: the kernel alone changes that, as on a local disk (EBUSY
while a file is open for writing). Uploads that wait for S3 go on. Nothing else can be changed while
a mount lives.

Threading: no state; any thread.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mimicfs.config.given import words
from mimicfs.config.values import Settings
from mimicfs.errors import ConfigError, MountError
from mimicfs.fuse.mountpoint import resolved
from mimicfs.mount.mounted import mounts

_WORD = "remount"
_WAYS = ("ro", "rw")
_TIMEOUT_S = 30.0


def is_asked(given: Sequence[str]) -> bool:
    return _WORD in given


def remount(settings: Settings, point: Path, given: Sequence[str]) -> None:
    """Make the mount at *point* what the last of *given* says: read-only, or writable. Raises
    ConfigError for what else is asked, MountError."""
    path = resolved(point)
    found = [each for each in mounts(settings) if each.mountpoint == str(path) and each.alive]
    if not found:
        raise MountError(f"{point}: you have no mount of mimicfs there")
    # mount(8) repeats what holds already: what it says itself, and what fstab says
    known = {_WORD, *_WAYS, *_options(path), *_options_of(found[0].pid)}
    others = [word for word in given if word not in known]
    if others:
        raise ConfigError(f"-o {others[0]}: cannot be changed while mounted; unmount, then mount")
    way = [word for word in given if word in _WAYS][-1:]
    if way == ["rw"] and found[0].read_only:
        raise ConfigError(f"{point}: was mounted read-only; unmount, then mount")
    if way:
        _change(path, way[0])


def _options(point: Path) -> set[str]:
    """Return the options of what is mounted at *point*, as the kernel and mount(8) say them."""
    command = ["findmnt", "--noheadings", "--first-only", "--output", "OPTIONS", "--mountpoint"]
    return set(_run([*command, os.fspath(point)]).strip().split(","))


def _options_of(process: int) -> set[str]:
    """Return the words after -o with which *process* has mounted."""
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has just ended
        return set()
    return set(words(os.fsdecode(then) for name, then in pairwise(line) if name == b"-o"))


def _change(point: Path, way: str) -> None:
    # Not with the options of fstab, where nothing says `nosuid,nodev`: these would end.
    internally = ["mount", "--internal-only", "--options-source", "mtab"]
    _run([*internally, "-o", f"{_WORD},{way}", os.fspath(point)])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise MountError(f"{command[0]}: {exc}") from exc
    if done.returncode:
        raise MountError(done.stderr.strip().splitlines()[0] if done.stderr else command[0])
    return done.stdout
