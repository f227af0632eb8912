"""Make system calls as somebody, and tell what they did: run as a program, on any file system.

    python syscalls.py DIRECTORY < calls.json > results.json

A call is [name, argument ...]; ["as", uid, [gid ...], call] makes it as another user. Its result
is the name of an errno, or what it returned. Paths are relative to DIRECTORY.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import time
from typing import Any

NS = 1_000_000_000


def shown(found: os.stat_result) -> dict[str, Any]:
    """Return what two file systems must agree on."""
    kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link"}.get(
        stat.S_IFMT(found.st_mode), oct(stat.S_IFMT(found.st_mode))
    )
    told = {"kind": kind, "mode": oct(found.st_mode & 0o7777), "uid": found.st_uid}
    told["gid"] = found.st_gid
    if kind != "dir":
        told |= {"size": found.st_size, "nlink": found.st_nlink}
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
            return getattr(self, name, None or getattr(os, name, None))(*arguments)
        except OSError as exc:
            return errno.errorcode[exc.errno or 0]

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

    def note(self, path: str) -> None:
        """Remember the times, and return once the clock of the file system has gone on."""
        self.times[path] = os.lstat(path)
        while time.time_ns() - self.times[path].st_ctime_ns < 20_000_000:
            pass

    def moved(self, path: str) -> list[str]:
        """Tell which times are later than those noted."""
        before, now = self.times[path], os.lstat(path)
        return [name for name in ("st_mtime_ns",) if getattr(now, name) > getattr(before, name)]

    def times_of(self, path: str) -> tuple[int, int]:
        found = os.lstat(path)
        return found.st_atime_ns, found.st_mtime_ns

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def touch(self, path: str) -> None:
        os.utime(path)

    def setxattr(self, path: str, name: str, value: str, flags: int = 0) -> None:
        os.setxattr(path, name, value.encode(), flags)

    def getxattr(self, path: str, name: str) -> str:
        return os.getxattr(path, name).decode()

    def rename2(self, old: str, new: str, flags: int) -> None:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
            raise OSError(ctypes.get_errno(), "renameat2")


def main() -> None:
    os.chdir(sys.argv[1])
    os.umask(0o022)
    results = []
    calls = Calls()
    for call in json.load(sys.stdin):
        if call[0] == "as":
            results.append(calls.as_(call[1], call[2], *call[3]))
        else:
            results.append(calls.make(call))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
