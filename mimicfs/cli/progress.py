"""The progress of a command, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click

from mimicfs.human import printable
from mimicfs.posix import Cancellation
from mimicfs.signals import told_of

_EVERY_S = 0.2


@contextmanager
def bar(label: str, length: int | None) -> Iterator[Callable[[int], None]]:
    """A line on a terminal, nothing elsewhere. Yields what is to be told how many more are
    done."""
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
            click.echo(f"\r{printable(label)}: {done:,}{of} keys\x1b[K", nl=False, err=True)

    try:
        yield more
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


class Interruptible:
    """Within, Ctrl-C cancels `cancellation`, and a line on a terminal says how far it is."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self._told = ExitStack()
        self._shown_s = 0.0

    def __enter__(self) -> Interruptible:
        self._told.enter_context(told_of(signal.SIGINT, self.cancellation.cancel))
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._told.close()

    def show(self, text: str) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._shown_s >= _EVERY_S:
            self._shown_s = time.monotonic()
            click.echo(f"\r{printable(text)}\x1b[K", nl=False, err=True)

    def clear(self) -> None:
        if self._shown_s:
            self._shown_s = 0.0
            click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def in_place(*, screen: bool) -> Iterator[Callable[[str], None]]:
    """Within, each text that is shown takes the place of the one before; on the whole *screen*, if
    that is wanted. Where a terminal cannot do that, and in a pipe, they stand below each other."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda text: click.echo(f"{text}\n")
        return
    with Live(console=console, auto_refresh=False, screen=screen) as live:
        yield lambda text: live.update(Text(text), refresh=True)
