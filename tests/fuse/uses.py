"""The client process in the tests of the kernel's cache and of interrupts."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import threading
from pathlib import Path

_open: dict[str, int] = {}  # files kept open between calls, by path


def ls_l(path: Path) -> list[str]:
    """Return the names that `ls -lA` shows."""
    done = subprocess.run(
        ["ls", "-lA", str(path)], capture_output=True, text=True, check=True, timeout=15
    )
    return [line.split()[-1] for line in done.stdout.splitlines()[1:]]


def watch(path: Path) -> None:
    """Watch *path* by inotify for everything."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK)
    if libc.inotify_add_watch(fd, os.fsencode(path), 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
    _open[f"{path} watched"] = fd


def noticed(path: Path) -> list[tuple[int, bytes]]:
    """Return the mask and the name of each event of *path* that inotify has by now."""
    found: list[tuple[int, bytes]] = []
    try:
        data = os.read(_open[f"{path} watched"], 65536)
    except BlockingIOError:
        return found
    while data:
        _, mask, _, size = struct.unpack_from("iIII", data)
        found.append((mask, data[16 : 16 + size].rstrip(b"\0")))
        data = data[16 + size :]
    return found


def exists(path: Path) -> bool:
    return os.path.lexists(path)


def size(path: Path) -> int:
    return os.stat(path).st_size


def read(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def write(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)


def append(path: Path, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(data)


def keep_open(path: Path) -> None:
    _open[str(path)] = os.open(path, os.O_RDONLY)


def read_kept(path: Path, size: int) -> bytes:
    return os.pread(_open[str(path)], size, 0)


def size_of_kept(path: Path) -> int:
    return os.fstat(_open[str(path)]).st_size


def error_of_kept(path: Path) -> int | None:
    """Return the errno of reading the file kept open."""
    try:
        os.pread(_open[str(path)], 1, 0)
    except OSError as exc:
        return exc.errno
    return None


def close_kept(path: Path) -> int | None:
    """Close the file kept open; return the errno of its close."""
    try:
        os.close(_open.pop(str(path)))
    except OSError as exc:
        return exc.errno
    return None


def read_in_threads(folder: Path, count: int) -> None:
    """Start *count* threads that each read a file of their own, and do not wait for them."""
    for number in range(count):
        path = folder / f"file-{number}"
        threading.Thread(target=read, args=(path,), daemon=True).start()


def touch_in_threads(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / f"file-{number}"
        threading.Thread(target=os.utime, args=(path,), daemon=True).start()
