"""Directories of pods that show a mount at another place: mount(2) with MS_BIND. Nothing here
looks into a mount in the directory of a pod, and the directory is removed only when it is empty.

Threading: no state; any thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from mimicfs.csi.refusal import Code, Refusal
from mimicfs.fuse import mounting

# <sys/mount.h>
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_DETACH, _NOFOLLOW = 2, 8
_libc = ctypes.CDLL(None, use_errno=True)


def check(target: str) -> None:
    """Raise Refusal if *target* exists and is not an empty directory."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise _failed("stat", target, exc.errno or 0) from exc
    if not stat.S_ISDIR(status.st_mode) or os.listdir(target):
        text = f"{target}: not an empty directory; nothing is mounted over it"
        raise Refusal(Code.INTERNAL, text)


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show the mount at *source* at *target* as well, an empty directory, which is made if need be.
    Raises Refusal."""
    check(target)
    try:
        os.makedirs(target, 0o750, exist_ok=True)
    except OSError as exc:
        raise _failed("mkdir", target, exc.errno or 0) from exc
    _mount(source, target, _BIND)
    if read_only:
        try:
            _mount("", target, _BIND | _REMOUNT | _RDONLY | _NOSUID | _NODEV | _noexec(target))
        except BaseException:  # after any error: nobody may write there
            unbind(target, lazy=True)
            raise


def is_read_only(target: str) -> bool:
    """Whether nobody can write through the mount at *target*."""
    return "ro" in mounting.options_of(Path(target))


def unbind(target: str, *, lazy: bool = False) -> None:
    """Unmount *target*; *lazy*: even while it is in use. Raises Refusal."""
    if _libc.umount2(os.fsencode(target), _NOFOLLOW | (_DETACH if lazy else 0)):
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise Refusal(Code.FAILED_PRECONDITION, f"{target}: in use; a process is in it")
        raise _failed("umount", target, number)


def remove(directory: str) -> None:
    """Remove an empty directory, if it exists. Raises Refusal."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise _failed("rmdir", directory, exc.errno or 0) from exc


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None):
        raise _failed("mount", target, ctypes.get_errno())


def _noexec(target: str) -> int:
    """Return the flag noexec if *target* has it: a remount takes away the flags that it does not
    name. The kernel is asked, not the file system, whose process may not answer."""
    return _NOEXEC if "noexec" in mounting.options_of(Path(target)) else 0


def _failed(what: str, path: str, number: int) -> Refusal:
    return Refusal(Code.INTERNAL, f"{what} {path}: {os.strerror(number)}")
