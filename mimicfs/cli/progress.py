"""How far a command is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from mimicfs.cli.text import printable

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
