"""The last warnings and errors of the log, for the page.

Threading: any thread logs; `_lock` of the handler protects the notes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_NOTES_MAX = 20
_TEXT_MAX = 600  # letters


class Warned(NamedTuple):
    at_s: float
    level: str  # "warning", "error"
    text: str


class RecentWarnings(logging.Handler):
    """Keeps the last lines at which somebody should look."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._notes: deque[Warned] = deque(maxlen=_NOTES_MAX)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - as logging's own handlers: the caller goes on
            self.handleError(record)
            return
        if len(text) > _TEXT_MAX:
            text = f"{text[:_TEXT_MAX]} …"
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._notes.append(Warned(record.created, level, text))

    def latest(self) -> list[Warned]:
        """Return the notes, the newest first."""
        self.acquire()
        try:
            return list(reversed(self._notes))
        finally:
            self.release()


@contextmanager
def noted(notes: RecentWarnings) -> Iterator[None]:
    """Within, *notes* hears the lines of the log."""
    root = logging.getLogger()
    root.addHandler(notes)
    try:
        yield
    finally:
        root.removeHandler(notes)
