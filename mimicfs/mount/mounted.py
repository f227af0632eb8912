"""The running mounts. Each mount describes itself in a file that it keeps locked while it lives. At
its end the file says what S3 does not have yet.

Threading: no state; any thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from mimicfs.config.values import Settings
from mimicfs.errors import MountError
from mimicfs.fuse.mountpoint import resolved
from mimicfs.mount.ending import PendingTotal
from mimicfs.private import private_directory

log = logging.getLogger(__name__)

_FREE_S = 0.5  # how long a mount that ends has to give up its record


class Mounted(NamedTuple):
    """The description of a running mount, in a file that it keeps locked while it lives."""

    mountpoint: str
    target: str
    endpoint: str
    store: str
    pid: int
    started_ns: int
    alive: bool = True
    files: int = 0  # at its end: how many S3 does not have yet
    bytes: int = 0  # and how many bytes they have
    read_only: bool = False
    page: str = ""  # its URL (--ui); "": there is none


def _record(settings: Settings, mountpoint: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
    return private_directory(settings.state / "mounts") / f"{digest}.json"


def control_socket(settings: Settings, mountpoint: Path) -> Path:
    """Return where the process that serves *mountpoint* listens (admin/controlsocket.py)."""
    return _record(settings, resolved(mountpoint)).with_suffix(".sock")


def mounts(settings: Settings) -> list[Mounted]:
    """Return the mounts of this user that are known, dead ones included."""
    found: list[Mounted] = []
    for path in sorted((settings.state / "mounts").glob("*.json")):
        try:
            with open(path) as file:
                record: Any = json.load(file)
                found.append(Mounted(**record)._replace(alive=_is_locked(file.fileno())))
        except (OSError, ValueError, TypeError):
            log.debug("%s: not a record of a mount", path)
    return found


def is_served(settings: Settings, mountpoint: Path) -> bool:
    """Whether a process serves *mountpoint*, whatever its version, however slow it is."""
    with suppress(FileNotFoundError), open(_record(settings, resolved(mountpoint))) as file:
        return _is_locked(file.fileno())
    return False


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def watched(
    settings: Settings, mountpoint: Path
) -> Iterator[Callable[[Callable[[PendingTotal], None]], None]]:
    """Within, the process that serves *mountpoint* can be waited for, by a function: it
    returns when that process has ended, and calls what it is given with what is still to be
    uploaded, once a second."""
    try:
        file = open(_record(settings, resolved(mountpoint)))  # noqa: SIM115  closed below
    except FileNotFoundError:
        yield lambda waiting: None
        return
    with file:
        yield lambda waiting: _wait_for_end(file, waiting)


def _wait_for_end(file: TextIO, waiting: Callable[[PendingTotal], None]) -> None:
    asked = time.monotonic()
    while _is_locked(file.fileno()):
        time.sleep(0.02)
        if time.monotonic() - asked > 1:
            asked = time.monotonic()
            file.seek(0)
            with suppress(ValueError):  # it is being written
                said = json.load(file)
                waiting(PendingTotal(said["files"], said["bytes"]))


def check_free(settings: Settings, mountpoint: Path) -> None:
    """Raise MountError, within a second, if a mount at *mountpoint* is still served: one that was
    unmounted lazily while files are open, or one in another mount namespace."""
    with suppress(FileNotFoundError), open(_record(settings, resolved(mountpoint))) as file:
        if not _locked(file.fileno()):
            raise _taken(settings, mountpoint)


def _locked(fd: int) -> bool:
    """Lock *fd* as soon as it is free; False if that takes more than half a second."""
    deadline = time.monotonic() + _FREE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _taken(settings: Settings, mountpoint: Path) -> MountError:
    path = str(resolved(mountpoint))
    pid = next((each.pid for each in mounts(settings) if each.mountpoint == path), 0)
    return MountError(
        f"{mountpoint}: process {pid} still serves a mount there. It was unmounted lazily and has"
        " open files, or it is in another mount namespace; close the files, end the process, or"
        " mount elsewhere"
    )


@contextmanager
def recorded(settings: Settings, mounted: Mounted) -> Iterator[Callable[[PendingTotal], None]]:
    """Within, others can see that this process serves the mount, and, once it says so, what is
    still to be uploaded."""

    def write(pending: PendingTotal = PendingTotal(0, 0)) -> None:  # noqa: B008  an immutable default
        file.seek(0)
        json.dump({**mounted._asdict(), "alive": True, **pending._asdict()}, file)
        file.truncate()
        file.flush()

    path = _record(settings, Path(mounted.mountpoint))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+") as file:
        if not _locked(fd):
            raise _taken(settings, Path(mounted.mountpoint))
        write()
        try:
            yield write
        finally:
            path.unlink(missing_ok=True)
