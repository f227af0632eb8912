"""Waits that lose no signal.

Python runs the handler of a signal between two steps of the main thread. If a signal comes just
before that thread begins to wait in a system call, or goes to another thread, the handler has to
wait until the call ends: for ever, where nothing else ends it. So the interpreter writes a byte for
each signal (signal.set_wakeup_fd), and the main thread waits for that as well.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


def of_end() -> list[signal.Signals]:
    """Return the signals, except that of Ctrl-C, by which others end a process: SIGTERM, and SIGHUP
    (its terminal has gone) unless that is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def woken_by_signals() -> Iterator[int]:
    """Within, each signal that has a handler makes the yielded descriptor readable. Only for the
    main thread."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def drain(fd: int) -> bytes:
    """Take the bytes that signals have written, each the number of a signal, and return them: *fd*
    is readable again with the next one."""
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


def wait_for_signal(fd: int) -> None:
    """Wait until *fd*, of `woken_by_signals`, is readable. The caller then looks at what the
    handlers have left; that may be nothing, if another signal came."""
    select.select([fd], [], [])
    drain(fd)


@contextmanager
def held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Within, the handlers of the signals *numbers* wait; they run at the end. Only for the main
    thread."""
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
def told_of(tell: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Within, a thread of its own calls what *tell* has for a signal when that comes. It may take
    locks, which a handler may not, as the main thread may hold them, and the main thread need not
    wake for it. A signal that comes again does what it did before: Ctrl-C raises KeyboardInterrupt,
    in case nobody heeds the first one."""
    over = os.eventfd(0, os.EFD_CLOEXEC)
    before = {int(number): signal.getsignal(number) for number in tell}

    def once(number: int, _: FrameType | None) -> None:
        signal.signal(number, before[number])

    with woken_by_signals() as fd:
        thread = threading.Thread(target=_tell, args=(fd, over, tell), daemon=True)
        thread.start()
        for number in before:
            signal.signal(number, once)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.eventfd_write(over, 1)
            thread.join()
            os.close(over)


def _tell(fd: int, over: int, tell: Mapping[signal.Signals, Callable[[], None]]) -> None:
    while over not in select.select([fd, over], [], [])[0]:
        came = drain(fd)
        for number, call in tell.items():
            if number in came:
                call()
