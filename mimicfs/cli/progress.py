"""The progress of a command, and signals: Ctrl-C, and an end that leaves no terminal spoiled.

A command that is ended by SIGTERM, or with its terminal, ends at once: its work survives that. But
on a terminal it first gives back the cursor and the screen.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import click

from mimicfs.human import printable
from mimicfs.posix import Cancellation
from mimicfs.signals import of_end, told_of

_EVERY_S = 0.2
# By ECMA-48 and xterm: the line is cleared, the cursor is shown, the first screen comes back.
_CURSOR = b"\r\x1b[K\x1b[?25h"
_SCREEN = _CURSOR + b"\x1b[?1049l"


@contextmanager
def bar(label: str, length: int | None) -> Iterator[Callable[[int], None]]:
    """Show a line on a terminal, nothing elsewhere. Yields a function to call with the number of
    keys that are done in addition."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    done, shown_s = 0, 0.0

    def more(count: int) -> None:
        nonlocal done, shown_s
        done += count
        if time.monotonic() - shown_s >= _EVERY_S:
            shown_s = time.monotonic()
            of = f" of {length:,}" if length else ""
            _show_line(f"{label}: {done:,}{of} keys")

    try:
        yield more
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _show_line(text: str) -> None:
    """Show *text* in place of the line before, cut at its start to the width of the terminal: a
    line that the terminal has to break would be written again and again."""
    from rich.cells import cell_len

    columns = os.get_terminal_size(sys.stderr.fileno()).columns
    shown = printable(text)
    if columns and cell_len(shown) >= columns:
        shown = shown[-columns:]
        while cell_len(shown) >= columns - 1:
            shown = shown[1:]
        shown = f"…{shown}"
    click.echo(f"\r{shown}\x1b[K", nl=False, err=True)


class Interruptible:
    """Within, Ctrl-C cancels `cancellation`, and a line on a terminal says how far the work is."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self._told = ExitStack()
        self._shown_s = 0.0

    def __enter__(self) -> Interruptible:
        tell: dict[signal.Signals, Callable[[], None]] = {signal.SIGINT: self.cancellation.cancel}
        if sys.stderr.isatty():
            tell |= _ends(sys.stderr.fileno(), _CURSOR)
        self._told.enter_context(told_of(tell))
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._told.close()

    def show(self, text: str) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._shown_s >= _EVERY_S:
            self._shown_s = time.monotonic()
            _show_line(text)

    def clear(self) -> None:
        if self._shown_s:
            self._shown_s = 0.0
            click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def in_place(*, screen: bool) -> Iterator[Callable[[str], None]]:
    """Within, each text that is shown takes the place of the one before; *screen*: on the whole
    screen. If the terminal cannot do that, and in a pipe, texts stand below each other."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda text: click.echo(f"{text}\n")
        return
    with (
        told_of(_ends(sys.stdout.fileno(), _SCREEN if screen else _CURSOR)),
        Live(console=console, auto_refresh=False, screen=screen) as live,
    ):
        # A screen has rows, and no row may take the place of others.
        kind = partial(Text, no_wrap=screen, overflow="ellipsis")
        yield lambda text: live.update(kind(text), refresh=True)


def _ends(terminal: int, put_right: bytes) -> dict[signal.Signals, Callable[[], None]]:
    """Return, for each signal that has to end this process, a function that writes *put_right* to
    *terminal* and then ends it."""
    return {number: partial(_end, number, terminal, put_right) for number in of_end()}


def _end(number: signal.Signals, terminal: int, put_right: bytes) -> None:
    with suppress(OSError):  # the terminal has gone
        os.write(terminal, put_right)
    os._exit(128 + number)
