"""Make system calls as somebody, and tell what they did: run as a program, on any file system.

    python syscalls.py DIRECTORY < cases.json > results.json

A case is a list of calls, made in a new subdirectory of DIRECTORY, to which paths are relative. A
call is [name, argument ...]; ["as", uid, [gid ...], call] makes it as another user. Its result is
the name of an errno, or what it returned.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


def shown(found: os.stat_result) -> dict[str, Any]:
    """Return what two file systems must agree on."""
    kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link"}.get(
        stat.S_IFMT(found.st_mode), oct(stat.S_IFMT(found.st_mode))
    )
    told = {"kind": kind, "mode": oct(found.st_mode & 0o7777), "uid": found.st_uid}
    told["gid"] = found.st_gid
    if kind != "dir":
        told |= {"size": found.st_size, "nlink": found.st_nlink}
    elif not found.st_nlink:  # else that is not told in one way
        told["removed"] = True
    if found.st_rdev:
        told["rdev"] = found.st_rdev
    return told


class Calls:
    """The calls, by their names."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.times: dict[str, os.stat_result] = {}

    def make(self, call: list[Any]) -> Any:
        name, *arguments = call
        try:
            return getattr(self, name)(*arguments)
        except OSError as exc:
            return errno.errorcode.get(exc.errno or 0, str(exc))

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def as_(self, uid: int, groups: list[int], *call: Any) -> Any:
        os.setgroups(groups)
        os.setegid(groups[0])
        os.seteuid(uid)
        try:
            return self.make(list(call))
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups([0])

    def umask(self, mask: int) -> None:
        os.umask(mask)

    def create(self, path: str, mode: int = 0o644, data: str = "") -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        os.write(fd, data.encode())
        os.close(fd)

    def open(self, name: str, path: str, flags: list[str], mode: int = 0o644) -> None:
        self.files[name] = os.open(path, sum({getattr(os, flag) for flag in flags}), mode)

    def use(self, name: str, call: str, *arguments: Any) -> Any:
        found = getattr(os, call)(self.files[name], *arguments)
        return shown(found) if isinstance(found, os.stat_result) else found

    def write(self, name: str, text: str) -> int:
        return os.write(self.files[name], text.encode())

    def read(self, path: str) -> str:
        with open(path, "rb") as file:
            return file.read().decode()

    def close(self, name: str) -> None:
        os.close(self.files.pop(name))

    def stat(self, path: str) -> dict[str, Any]:
        return shown(os.stat(path))

    def lstat(self, path: str) -> dict[str, Any]:
        return shown(os.lstat(path))

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def bind(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)

    def note(self, path: str, wait_s: float = 0.02) -> None:
        """Remember the times, and return once the clock of the file system has gone on."""
        self.times[path] = os.lstat(path)
        time.sleep(wait_s)

    def moved(self, path: str, now_at: str = "") -> list[str]:
        """Tell which times are later than those noted of *path*, which may have been renamed."""
        before, now = self.times[path], os.lstat(now_at or path)
        names = ("st_mtime_ns", "st_ctime_ns")
        return [name for name in names if getattr(now, name) > getattr(before, name)]

    def times_of(self, path: str) -> tuple[int, int]:
        found = os.lstat(path)
        return found.st_atime_ns, found.st_mtime_ns

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def now_or_omit(self, path: str, atime: str, mtime: str) -> None:
        """utimensat(2) with UTIME_NOW and UTIME_OMIT, which Python has no way to say."""
        special = {"now": (1 << 30) - 1, "omit": (1 << 30) - 2}
        times = (ctypes.c_long * 4)(0, special[atime], 0, special[mtime])
        if _libc.utimensat(-100, path.encode(), times, 0):
            raise OSError(ctypes.get_errno(), path)

    def copy(self, source: str, target: str) -> None:
        shutil.copyfile(source, target)

    def start(self, program: str, *arguments: str) -> None:
        self.running = subprocess.Popen([f"./{program}", *arguments])

    def stop(self) -> None:
        self.running.kill()
        self.running.wait()

    def mkdirs(self, path: str) -> None:
        os.makedirs(path)

    def touch(self, path: str) -> None:
        os.utime(path)

    def setxattr(self, path: str, name: str, value: str, flags: int = 0) -> None:
        os.setxattr(path, name, value.encode(), flags)

    def getxattr(self, path: str, name: str) -> str:
        return os.getxattr(path, name).decode()

    def rename2(self, old: str, new: str, flags: int) -> None:
        if _libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
            raise OSError(ctypes.get_errno(), "renameat2")


def run(directory: str, case: list[list[Any]]) -> list[Any]:
    """Return the results of the calls of *case*, made in *directory*."""
    os.umask(0o022)
    os.mkdir(directory)
    os.chdir(directory)
    calls = Calls()
    results = [
        calls.as_(call[1], call[2], *call[3]) if call[0] == "as" else calls.make(call)
        for call in case
    ]
    for name in list(calls.files):
        calls.close(name)
    return results


def main() -> None:
    cases = json.load(sys.stdin)
    json.dump([run(f"{sys.argv[1]}/{n}", case) for n, case in enumerate(cases)], sys.stdout)


if __name__ == "__main__":
    main()
