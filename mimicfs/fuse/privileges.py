"""HANDLE_KILLPRIV_V2: a change of a file ends its set-user-id and set-group-id bits. The kernel
says when; without the flag it asked for security.capability before each write.

Threading: no state; any thread that may wait. Any thread at all may call `may_drop`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from mimicfs.errors import Unlisted
from mimicfs.fuse.abi import Fattr
from mimicfs.fuse.groups import is_member
from mimicfs.posix import Attr, Caller, FileSystem, NewAttr

_ENDS = Fattr.KILL_SUIDGID | Fattr.UID | Fattr.GID
_NOTHING = Fattr.FH | Fattr.LOCKOWNER | Fattr.CTIME  # chown(2) of -1 and -1 sends nothing else
Sure = Callable[[Caller, Callable[[], Attr]], Attr]


class Privileges:
    """Takes privileges away from files. *sure* returns the attributes that a call returns, once
    they are learned."""

    def __init__(self, fs: FileSystem, sure: Sure) -> None:
        self._fs = fs
        self._sure = sure

    def drop(self, caller: Caller, ino: int, handle: int | None) -> None:
        """Take away the privileges that end when *caller* changes the bytes of *ino*."""
        new = self.without(caller, ino, handle, Fattr.KILL_SUIDGID, NewAttr())
        if new.mode is not None:
            self._fs.drop_privileges(caller, ino, new.mode, handle)

    def may_drop(self, caller: Caller, ino: int, handle: int) -> bool:
        """Whether there may be privileges to take away. Never waits."""
        try:
            mode = self._fs.getattr(caller, ino, handle).mode
        except Unlisted:
            return True
        return bool(mode & (stat.S_ISUID | stat.S_ISGID))

    def without(
        self, caller: Caller, ino: int, handle: int | None, valid: int, new: NewAttr
    ) -> NewAttr:
        """Return *new* with the mode that remains after the change that *valid* describes."""
        if new.mode is not None or not (valid & _ENDS or not valid & ~_NOTHING):
            return new
        attr = self._sure(caller, lambda: self._fs.getattr(caller, ino, handle))
        mode = attr.mode
        if stat.S_ISDIR(mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
            return new
        kept = not mode & stat.S_IXGRP and is_member(caller, attr.gid)
        drop = stat.S_ISUID | (0 if kept else stat.S_ISGID)
        return new._replace(mode=stat.S_IMODE(mode & ~drop))
