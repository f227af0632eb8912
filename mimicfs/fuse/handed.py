"""/dev/fd/N as a mount point: a descriptor of /dev/fuse that somebody else opened, mounted and
handed to us. So the process that mounts needs the privileges. The process that serves has the
network and the keys, and needs no privileges.

Threading: no state but the descriptor; made by the main thread.
"""

from __future__ import annotations

import os
import re
import select
import stat
from dataclasses import dataclass
from pathlib import Path

from mimicfs.errors import MountError
from mimicfs.fuse import mounting

_NAMES = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_FUSE_DEVICE = (10, 229)  # Documentation/admin-guide/devices.txt; nodes may be anywhere
_STANDARD = 2  # descriptors up to this one are the terminal's, and a daemon closes them
_INIT_S = 5.0  # the kernel sends INIT as soon as it is mounted


@dataclass(frozen=True, slots=True)
class Handed:
    """The descriptor *fd*, and where it is mounted, as far as that can be seen from here."""

    fd: int
    device: str  # "MAJOR:MINOR" of the file system; "": the kernel does not say (before 6.14)
    mountpoint: Path  # /proc/PID/fd/N if it is in another mount namespace

    @classmethod
    def named(cls, path: Path) -> Handed | None:
        """Return the descriptor that *path* names; None: it names none. Raises MountError for one
        through which nothing can be served."""
        found = _NAMES.fullmatch(os.fspath(path))
        if found is None:
            return None
        fd = int(found[1])
        _check(path, fd)
        os.set_inheritable(fd, False)
        device = _device(fd)
        return cls(fd, device, _mountpoint(device) or Path(f"/proc/{os.getpid()}/fd/{fd}"))

    def wait_for_init(self) -> None:
        """Return when the kernel asks for something. Raises MountError if it asks for nothing."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        events = poll.poll(_INIT_S * 1000)
        if not events:
            raise MountError(
                f"/dev/fd/{self.fd}: the kernel sends no request; does another process serve it?"
            )
        ((_, event),) = events
        if not event & select.POLLIN:
            raise MountError(
                f"/dev/fd/{self.fd}: it belongs to no mount; call mount(2) with fd= first"
            )


def _check(path: Path, fd: int) -> None:
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError) as exc:
        raise MountError(
            f"{path}: this descriptor is not open; was it inherited (without close-on-exec)?"
        ) from exc
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not stat.S_ISCHR(status.st_mode) or number != _FUSE_DEVICE:
        raise MountError(f"{path}: the descriptor does not refer to {mounting.DEVICE}")
    if fd <= _STANDARD:
        raise MountError(
            f"{path}: stdin, stdout and stderr cannot be the mount; hand over 3 or more"
        )


def _device(fd: int) -> str:
    """Return the file system as which *fd* is mounted, by the word of the kernel."""
    said = Path(f"/proc/self/fdinfo/{fd}").read_text()
    found = re.search(r"^fuse_connection:\s*(\d+)$", said, re.MULTILINE)
    return f"0:{found[1]}" if found else ""


def _mountpoint(device: str) -> Path | None:
    """Return the place at which *device* is mounted in this mount namespace; None: there is
    none."""
    places = (each.place for each in mounting.mounted() if each.number == device)
    first = next(places, None)
    return Path(os.fsdecode(first)) if first is not None else None
