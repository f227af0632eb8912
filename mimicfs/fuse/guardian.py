"""A process of its own that ends the connection when the daemon is killed.

The kernel does so by itself once nobody has /dev/fuse open. But a thread of ours that waits in the
kernel for a lock (a notification) cannot be killed there, and keeps /dev/fuse open, while the
holder of that lock waits for our answer. The mount would hang for good, whoever touches it.

The guardian is forked before there is a thread, a lock or an open /dev/fuse, and keeps nothing open
but a pipe. The kernel sends it a signal when the thread that forked it ends. If it may not end the
connection (no fusectl mounted, and not root), it cannot help.

Threading: made, told and closed by the main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWNS = 0x20000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # linux/mount.h
_CONNECTIONS = "/sys/fs/fuse/connections"
_TOLD = signal.SIGUSR1  # says that the daemon has ended; others may send it, too
_LOOK_S = 60.0  # between two looks at the daemon, in case that signal gets lost
_ENDING_S = 2.0
_CLOSED_MAX = 1 << 16


class Guardian:
    """Guards the process that makes it. Raises OSError if no process can be made."""

    def __init__(self) -> None:
        daemon = os.getpid()
        told, self._tell = os.pipe()
        self._closed = False
        self._pid = os.fork()
        if self._pid == 0:
            _guard(daemon, told)
        os.close(told)

    def watch(self, device: str) -> None:
        """Have the connection of the file system *device* ("0:MINOR") end with this process."""
        os.write(self._tell, device.partition(":")[2].encode())

    def close(self) -> None:
        """End the guardian: the connection has ended as it should, and nothing is left to guard."""
        if self._closed:
            return
        self._closed = True
        os.close(self._tell)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _guard(daemon: int, told: int) -> NoReturn:
    """Guard, in the child. It uses nothing of the parent but the number of its process."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [_TOLD])
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(_TOLD))
        os.closerange(0, told)
        os.closerange(told + 1, _CLOSED_MAX)
        os.chdir("/")
        device = os.read(told, 32).decode()  # empty: the daemon has ended before it mounted
        if device:
            # Opened now: once this connection has ended, the kernel gives its number to another
            # one, and the open file belongs to none then.
            abort = _opened_abort(device)
            _wait_for_end(daemon)
            with suppress(OSError):  # the connection has ended
                os.write(abort, b"1")
    finally:
        os._exit(0)


def _wait_for_end(daemon: int) -> None:
    """Return when *daemon* has ended. The signal comes a moment before that, and others may send
    it, too."""
    while not _has_ended(daemon):
        if signal.sigtimedwait([_TOLD], _LOOK_S) is not None:
            deadline = time.monotonic() + _ENDING_S
            while not _has_ended(daemon) and time.monotonic() < deadline:
                time.sleep(0.01)


def _has_ended(daemon: int) -> bool:
    """Whether *daemon* is gone, or its main thread is: other threads may be left in the kernel."""
    if os.getppid() != daemon:
        return True
    try:
        stat = Path(f"/proc/{daemon}/stat").read_bytes()
    except OSError:
        return True
    return stat.rpartition(b") ")[2][:1] in (b"Z", b"X")


def _opened_abort(device: str) -> int:
    """Return a descriptor of the file that ends the connection; -1: we may not end it. Root may
    look at fusectl in a mount namespace of its own."""
    abort = f"{_CONNECTIONS}/{device}/abort"
    with suppress(OSError):
        return os.open(abort, os.O_WRONLY | os.O_CLOEXEC)
    # The other namespace has a copy of each mount, of ours, too: while it lived, umount(8) would
    # not end the connection. It ends with its only process; the file that this process opened stays
    # open.
    here, there = socket.socketpair()
    opening = os.fork()
    if opening == 0:
        _open_elsewhere(abort, there)
    there.close()
    with here:
        _, found, *_ = socket.recv_fds(here, 1, 1)
    os.waitpid(opening, 0)
    return found[0] if found else -1


def _open_elsewhere(abort: str, there: socket.socket) -> NoReturn:
    """Send *abort*, opened in a mount namespace that has fusectl, if we may make such a namespace.
    To return from there would take CAP_SYS_CHROOT as well, which a container may lack."""
    try:
        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNS) == 0:
            libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            libc.mount(b"fusectl", _CONNECTIONS.encode(), b"fusectl", 0, None)
            with suppress(OSError):
                socket.send_fds(there, [b"1"], [os.open(abort, os.O_WRONLY | os.O_CLOEXEC)])
    finally:
        os._exit(0)
