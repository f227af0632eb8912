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
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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


def drain(fd: int) -> bytes:
    """Take what signals have written, a byte with the number of each, and return it: *fd* is
    readable again with the next one."""
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def wait_for_signal(fd: int) -> None:
    """Wait until *fd*, of `woken_by_signals`, is readable. The caller looks then at what the
    handlers have left; there may be nothing, where another signal came."""
    select.select([fd], [], [])
    drain(fd)


@contextmanager
def held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Within, the handlers of the signals *numbers* wait; they run at the end. For the main thread
    alone."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in numbers}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    for held in handlers:
        signal.signal(held, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
    for number in came:
        signal.raise_signal(number)


@contextmanager
def told_of(number: signal.Signals, tell: Callable[[], None]) -> Iterator[None]:
    """Within, *tell* is called, by a thread of its own, when the signal *number* comes: it may
    take locks, which a handler may not, as the main thread may hold them. The main thread need
    not wake for it."""
    over = os.eventfd(0, os.EFD_CLOEXEC)
    with woken_by_signals() as fd:
        thread = threading.Thread(target=_tell, args=(fd, over, number, tell), daemon=True)
        thread.start()
        before = signal.signal(number, lambda *_: None)
        try:
            yield
        finally:
            signal.signal(number, before)
            os.eventfd_write(over, 1)
            thread.join()
            os.close(over)


def _tell(fd: int, over: int, number: signal.Signals, tell: Callable[[], None]) -> None:
    while over not in select.select([fd, over], [], [])[0]:
        if number in drain(fd):
            tell()
