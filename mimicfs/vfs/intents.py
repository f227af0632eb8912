"""The record of the rename of a directory, in case its mount dies. It is on the local disk, and
written before the first object is copied. It says what becomes what, and which copies S3 has
confirmed.

A record is a file NAME.rename of lines of JSON: the first says what is renamed, the next are the
copies, and the last, once all are made, says so. NAME is random. While its mount lives the file is
locked (flock), so that another mount of the same directory leaves it alone; it gets its name only
once it is locked. As in the journal of files, nothing is fsynced: this guards against the end of
the process.

Threading: a record belongs to the thread that renames.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mimicfs.errors import PosixError

log = logging.getLogger(__name__)

RENAMES = "renames"  # the directory of records, beside staging files
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND


class KeyTree(NamedTuple):
    """All keys of a bucket that begin with *prefix*, which ends in "/"."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class Copy(NamedTuple):
    """An original and its copy: the ETags of both, the time of the original, and what was stored
    with it (None: not known)."""

    original: str
    copy: str
    mtime_ns: int = 0
    meta: Mapping[str, str] | None = None


class Intent:
    """The record of one rename. *copies* are by key, without the prefix of its tree. *replaces*:
    an empty directory had the new name. *copied*: all copies are made, originals may be gone."""

    def __init__(self, path: Path, fd: int, old: KeyTree, new: KeyTree, *, replaces: bool) -> None:
        self.old = old
        self.new = new
        self.replaces = replaces
        self.copies: dict[str, Copy] = {}
        self.copied = False
        self._path = path
        self._fd = fd

    def note(self, key: str, copy: Copy) -> None:
        """Note that S3 has confirmed the copy of *key*."""
        self.copies[key] = copy
        meta = None if copy.meta is None else dict(copy.meta)
        self._append([key, *copy[:3], meta])

    def all_copied(self) -> None:
        """Note that from now on originals are deleted: there is no way back."""
        self.copied = True
        self._append("copied")

    def end(self) -> None:
        """Remove the record: the rename is done, or undone."""
        self._path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Leave the record to the next mount: the rename is neither done nor undone."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _append(self, line: object) -> None:
        data = json.dumps(line).encode() + b"\n"
        try:
            before = os.fstat(self._fd).st_size
            if os.write(self._fd, data) < len(data):  # what comes next must not go behind a part
                os.ftruncate(self._fd, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as exc:
            raise PosixError(exc.errno or 0, f"record of a rename {self._path}") from exc


class Intents:
    """The records of *account* in *directory*, which is shared with others."""

    def __init__(self, directory: Path, account: str) -> None:
        self._directory = directory
        self._account = account

    def begin(self, old: KeyTree, new: KeyTree, *, replaces: bool) -> Intent:
        """Return a new record. Raises PosixError where the disk is full."""
        path = self._directory / f"{secrets.token_hex(16)}.rename"
        unborn = path.with_suffix(".unborn")
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(unborn, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                intent = Intent(path, fd, old, new, replaces=replaces)
                said = {"account": self._account, "old": old, "new": new, "replaces": replaces}
                intent._append(said)
                unborn.rename(path)
            except BaseException:
                os.close(fd)
                unborn.unlink(missing_ok=True)
                raise
        except OSError as exc:
            raise PosixError(exc.errno or 0, f"record of a rename {path}") from exc
        return intent

    def left(self) -> list[Intent]:
        """Return the records on which nobody works any more, and lock them."""
        found = (self._taken(path) for path in sorted(self._directory.glob("*.rename")))
        return [intent for intent in found if intent is not None]

    def _taken(self, path: Path) -> Intent | None:
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:  # its mount has just ended it
            return None
        except OSError as exc:  # a directory or a link: no record of ours
            log.warning("%s: cannot be read; mimicfs leaves it alone: %s", path, exc.strerror)
            return None
        intent = None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):  # reading a fifo would never end
                raise ValueError("not a file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            intent = self._read(path, fd) if path.exists() else None
        except BlockingIOError:
            return None
        except OSError as exc:  # nobody can say whether its mount lives
            log.warning("%s: cannot be locked; mimicfs leaves it alone: %s", path, exc.strerror)
        except (ValueError, KeyError, TypeError) as exc:
            log.warning("%s: not a record of a rename; mimicfs leaves it alone: %r", path, exc)
        finally:
            if intent is None:
                os.close(fd)
        return intent

    def _read(self, path: Path, fd: int) -> Intent | None:
        """Return what the record says; None: it is of another account. A last line that was not
        written to its end is passed over: S3 is asked anyway."""
        first, *lines = path.read_text().split("\n")[:-1] or [""]
        head = json.loads(first)
        if head["account"] != self._account:
            return None
        old, new = KeyTree(*head["old"]), KeyTree(*head["new"])
        intent = Intent(path, fd, old, new, replaces=head["replaces"])
        for line in map(json.loads, lines):
            if line == "copied":
                intent.copied = True
            else:
                key, *copy = line
                intent.copies[key] = Copy(*copy)
        return intent
