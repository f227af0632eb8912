"""Files and directories that are ours alone: they are made so, and refused where they are not.

Somebody who can write in a directory can put a link or a file of his own there under the name that
we are about to open, and somebody who can read a store knows every key. So a directory of ours
belongs to us, is no symbolic link, and nobody else can enter it. A file of ours is opened without
following a link, and examined once it is open.

Threading: no state; any thread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mimicfs.errors import ConfigError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_directory(path: Path, advice: str = "set XDG_STATE_HOME to another place") -> Path:
    """Return *path*, a directory for us alone, which is made if it is not there. Raises
    ConfigError, with *advice*."""
    try:
        make_directory(path)
        os.close(open_directory(path))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}; {advice}") from exc
    return path


def make_directory(path: Path) -> None:
    """Make *path* and what is missing above it, for us alone: mkdir(parents=True) would let others
    into the directories above. Raises OSError."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def open_directory(path: Path) -> int:
    """Return a descriptor of a directory of ours, for use as dir_fd. Raises OSError,
    ConfigError."""
    if path.is_symlink():
        raise ConfigError(f"{path}: a symbolic link; name the directory itself")
    fd = os.open(path, os.O_DIRECTORY | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{path}: belongs to user {found.st_uid}; name a directory of yours")
        if found.st_mode & _OTHERS:
            raise ConfigError(f"{path}: others can enter it; chmod 700 {path}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_file(path: Path, found: os.stat_result) -> None:
    """Raise ConfigError unless the stat *found* of the open *path* is that of a file that only we
    (and root) can read or write."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: not a file")
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path}: belongs to user {found.st_uid}; name a file of yours")
    if found.st_mode & _OTHERS:
        raise ConfigError(f"{path}: others can read or write it; chmod 600 {path}")


def check_parent(path: Path) -> None:
    """Raise ConfigError where others could put a file of theirs at *path*: in a directory that
    anybody may write in, or that is neither ours nor root's. A missing directory does no harm."""
    parent = Path(os.path.realpath(path.parent))
    try:
        found = parent.stat()
    except OSError:  # it will be made, or the one that opens the file reports it
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{parent}: belongs to user {found.st_uid}; name a file in a directory of yours"
        )
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{parent}: anybody can write in it; name a file in a directory of yours")


def seen_by_others(path: Path) -> bool:
    """Whether *path* is a file that somebody other than its owner can read."""
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def open_private(path: str, flags: int) -> int:
    """Open a file; if it is made, it is ours alone. An opener for `open`. Raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def open_private_itself(path: str, flags: int) -> int:
    """Open a file as `open_private` does, but follow no symbolic link. Raises OSError."""
    return open_private(path, flags | os.O_NOFOLLOW)


def append_line(path: Path, line: str, size_max: int) -> Path:
    """Append *line* to a file for us alone and return *path*. A file that would exceed
    *size_max* bytes is renamed to end in ".1", over the one before it. Raises ConfigError."""
    data = line.encode(errors="backslashreplace") + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        try:
            found = os.fstat(fd)
            check_file(path, found)
            if found.st_size and found.st_size + len(data) > size_max:
                path.rename(path.with_name(path.name + ".1"))
                os.close(fd)
                fd = os.open(path, flags | os.O_EXCL, 0o600)
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    return path
