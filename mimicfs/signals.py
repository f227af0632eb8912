"""Waits that no signal is lost to.

Python runs the handler of a signal between two steps of the main thread. If a signal comes just
before that thread begins to wait in a system call, or goes to another thread, the handler has to
wait until the call ends: for ever, where nothing else ends it. So the interpreter writes a byte
for each signal (signal.set_wakeup_fd), and what the main thread waits for is that as well.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def woken_by_signals() -> Iterator[int]:
    """Within, each signal that has a handler makes the descriptor readable that is yielded. For
    the main thread alone."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def drain(fd: int) -> None:
    """Take what signals have written: *fd* is readable again with the next one."""
    with suppress(BlockingIOError):
        os.read(fd, 4096)


def wait_for_signal(fd: int) -> None:
    """Wait until *fd*, of `woken_by_signals`, is readable. What waits looks then at what the
    handlers have left; there may be nothing, where another signal came."""
    select.select([fd], [], [])
    drain(fd)
