"""A process that has imported mimicfs, and that becomes a mimicfs command in each of its forks.

preloaded.py starts it, and says what for. Its first argument is a socket: each message has in JSON
what the command is to have, and its descriptors beside it; the answer is the command's process id.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import botocore.session

_LARGEST = 200_000  # bytes of a message
_CLONE3 = 435  # of every architecture
_CLONE_PARENT = 0x8000
_PR_SET_NAME = 15
_ARG_START, _ARG_END = 45, 46  # fields of /proc/PID/stat behind the name
# Libraries that a command imports when it uses them, with threads and memory of their own.
_LATER = ("mimicfs.__main__", "mimicfs.csi", "mimicfs.fsspec", "mimicfs.index.parquet",
          "mimicfs.testing", "mimicfs.admin.metrics")  # fmt: skip
_libc = ctypes.PyDLL(None)  # which keeps the interpreter's lock: a fork must hold it


def preload() -> None:
    """Import what commands import, and read the files that botocore's clients read."""
    import mimicfs

    for module in pkgutil.walk_packages(mimicfs.__path__, "mimicfs."):
        if not module.name.startswith(_LATER):
            importlib.import_module(module.name)
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    botocore.session.Session().create_client(
        "s3", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
    ).close()
    gc.collect()
    gc.freeze()  # the memory of what is there already is not written to any more
    assert len(os.listdir("/proc/self/task")) == 1  # a fork has only the thread that called it


def serve(door: socket.socket) -> dict[str, Any] | None:
    """Fork for each message. Return what was asked in the fork; None where nobody asks any more."""
    while True:
        message, fds, _, _ = socket.recv_fds(door, _LARGEST, 64)
        if not message:
            return None
        pid = _fork_for_parent()
        if pid == 0:
            door.close()
            asked: dict[str, Any] = json.loads(message)
            _take(fds, asked["descriptors"])
            return asked
        for fd in fds:
            os.close(fd)
        door.send(str(pid).encode())


def _fork_for_parent() -> int:
    """Fork; the fork is a child not of this process but of its parent. -1: the kernel refused."""
    arguments = (ctypes.c_uint64 * 8)(_CLONE_PARENT)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc.syscall(_CLONE3, arguments, ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return int(pid)


def _take(fds: list[int], numbers: list[int]) -> None:
    """Have the descriptors *fds* under *numbers*, and no others."""
    above = max(*numbers, *fds) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in numbers:
            with contextlib.suppress(OSError):  # it was that of the listing
                os.close(fd)


def become(asked: dict[str, Any]) -> None:
    """Have what a command has that was started with *asked*."""
    os.chdir(asked["cwd"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    time.tzset()
    sys.argv = asked["words"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    _show([sys.executable, *sys.argv])
    sys.stdin = sys.__stdin__ = _opened(sys.stdin, 0)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _opened(sys.stdout, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _opened(sys.stderr, 2)  # type: ignore[misc]


def end(code: object) -> None:
    """End as the interpreter does, but free nothing: that would write to all the memory that a fork
    shares, which is a quarter of the CPU of a mount that does nothing. Returns where there is more
    to say."""
    if not isinstance(code, int | None):
        return
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _opened(like: Any, fd: int) -> Any:
    """Open the descriptor *fd* as the interpreter did that of *like*."""
    mode = "rb" if fd == 0 else "wb"
    unbuffered = fd != 0 and like.write_through
    file = open(fd, mode, 0 if unbuffered else -1, closefd=False)  # noqa: SIM115  as long as we
    return io.TextIOWrapper(
        file,
        like.encoding,
        like.errors,
        line_buffering=fd == 2 or file.isatty(),
        write_through=unbuffered,
    )


def _show(words: list[str]) -> None:
    """Show *words* to those who list processes. The arguments of this process were long."""
    _libc.prctl(_PR_SET_NAME, os.fsencode(Path(words[1]).name))
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    line = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, line, len(line))


signal.signal(signal.SIGINT, signal.SIG_DFL)  # who interrupts the tests ends this one too
preload()
if asked := serve(socket.socket(fileno=int(sys.argv[1]))):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become(asked)
    from mimicfs.cli import main

    try:
        sys.exit(main())  # type: ignore[func-returns-value]  # as the console script does
    except SystemExit as exc:
        end(exc.code)
        raise
