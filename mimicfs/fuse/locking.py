"""The requests about locks of files, for mounts in which we keep the locks, and not the kernel.

Threading: no state; any thread.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping

from mimicfs.fuse.abi import IN_HEADER, LK_FLOCK, LK_IN, LK_OUT, Opcode
from mimicfs.posix import Caller, FileLock, FileLocks

LockHandler = Callable[[Caller, int, bytes], bytes]


class LockRequests:
    """Answers from *locks*. Requests in *asks* never wait for a lock. Those in *waits* may, even if
    the program does not want to wait: a close(2) may have returned before others know of it."""

    def __init__(self, locks: FileLocks) -> None:
        self._locks = locks
        self.asks: Mapping[Opcode, LockHandler] = {Opcode.GETLK: self._get}
        self.waits: Mapping[Opcode, LockHandler] = {
            Opcode.SETLK: lambda caller, _, request: self._set(caller, request, wait=False),
            Opcode.SETLKW: lambda caller, _, request: self._set(caller, request, wait=True),
        }

    def _get(self, caller: Caller, nodeid: int, request: bytes) -> bytes:
        handle, owner, asked = _asked(request)
        found = self._locks.get(handle, owner, asked) or asked._replace(kind=fcntl.F_UNLCK)
        return LK_OUT.pack(found.start, found.end, found.kind, found.pid)

    def _set(self, caller: Caller, request: bytes, *, wait: bool) -> bytes:
        handle, owner, asked = _asked(request)
        self._locks.set(caller, handle, owner, asked, wait=wait)
        return b""


def gives_up(request: bytes) -> bool:
    """Whether *request*, SETLK or SETLKW, gives up a lock: then it does not wait for others."""
    whole = len(request) >= IN_HEADER.size + LK_IN.size
    if not whole:
        return False
    _, _, asked = _asked(request)
    return asked.kind == fcntl.F_UNLCK


def _asked(request: bytes) -> tuple[int, int, FileLock]:
    """Return the handle, the owner, and the lock in *request*."""
    fields = LK_IN.unpack_from(request, IN_HEADER.size)
    handle, owner, start, end, kind, pid, flags, _ = fields
    return handle, owner, FileLock(kind, start, end, pid, bool(flags & LK_FLOCK))
