"""Turns the requests of the kernel into names and values, and refuses malformed ones.

Pure functions. A refusal raises PosixError.
"""

from __future__ import annotations

import errno
import os
import stat

from mimicfs.errors import PosixError
from mimicfs.fuse.abi import Fattr
from mimicfs.fuse.packing import NS
from mimicfs.posix import NewAttr


def name_of(request: bytes, start: int) -> bytes:
    """Return the rest of *request*, from *start* on, as a name."""
    name = request[start:-1]
    if not name or request[-1] or 0 in name:
        raise PosixError(errno.EINVAL, "a malformed name from the kernel")
    return name


def two_names(request: bytes, start: int) -> tuple[bytes, bytes]:
    names = request[start:].split(b"\0")
    if len(names) != 3 or not names[0] or not names[1] or names[2]:
        raise PosixError(errno.EINVAL, "malformed names from the kernel")
    return names[0], names[1]


def user_name(request: bytes, start: int) -> bytes:
    """Return the name of an extended attribute; we have only those in user.*

    With ENODATA for the others, `ls -l` would ask for two of them for every file (10.8 s for
    100,000 files instead of 0.6); after EOPNOTSUPP it asks no more.
    """
    name = name_of(request, start)
    if not name.startswith(b"user."):
        raise PosixError(errno.EOPNOTSUPP, os.fsdecode(name))
    return name


def new_attr(fields: tuple[int, ...], now_ns: int) -> NewAttr:
    """Return the changes for which a fuse_setattr_in asks."""
    valid, _, _, size, _, atime, mtime, _, atime_rest, mtime_rest, _, mode, _, uid, gid, _ = fields
    atime_ns = now_ns if valid & Fattr.ATIME_NOW else atime * NS + atime_rest
    mtime_ns = now_ns if valid & Fattr.MTIME_NOW else mtime * NS + mtime_rest
    return NewAttr(
        mode=stat.S_IMODE(mode) if valid & Fattr.MODE else None,
        uid=uid if valid & Fattr.UID else None,
        gid=gid if valid & Fattr.GID else None,
        size=size if valid & Fattr.SIZE else None,
        atime_ns=atime_ns if valid & Fattr.ATIME else None,
        mtime_ns=mtime_ns if valid & Fattr.MTIME else None,
    )
