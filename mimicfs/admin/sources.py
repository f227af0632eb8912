"""The sources of a mount's figures: named calls that each return a plain dict.

mount/serving.py registers them ("mirror", "s3", "files" ...); the control socket and the metrics
ask for all at once. A source that fails says so in its place. Nobody waits for one that hangs (a
Redis that does not answer), nor asks it again before it has answered.

Threading: `register` before anybody asks; `collect` from any thread. Each call is made by a
thread of its own, always the same one: stores have a connection for each thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mimicfs.fuse.pool import Pool

Figures = Mapping[str, Any]  # of one part of a mount, or of all by their names
_LIMIT_S = 2.0


def failure(said: Mapping[str, Any]) -> str:
    """Return why a source did not answer; "" if it did. (A source may also have an `error` among
    its figures, about the thing that it describes.)"""
    return str(said["error"]) if said.keys() == {"error"} else ""


class Sources:
    """The calls, in the order in which they were registered."""

    def __init__(self) -> None:
        self._sources: dict[str, _FiguresSource] = {}

    def register(self, name: str, figures: Callable[[], Figures]) -> None:
        """Have *figures* answer for *name*."""
        self._sources[name] = _FiguresSource(name, figures)

    def collect(
        self, timeout_s: float = _LIMIT_S, only: Collection[str] | None = None
    ) -> dict[str, Figures]:
        """Return the figures of each source, or of *only* these, or `{"error": ...}`; after
        *timeout_s* at the latest."""
        deadline = time.monotonic() + timeout_s
        asked = [
            (name, source, source.ask())
            for name, source in self._sources.items()
            if only is None or name in only
        ]
        return {
            name: source.told(done, max(0.0, deadline - time.monotonic()))
            for name, source, done in asked
        }


class _FiguresSource:
    def __init__(self, name: str, figures: Callable[[], Figures]) -> None:
        self._figures = figures
        self._pool = Pool(f"figures-{name}", 1)
        self._lock = threading.Lock()  # protects the two below
        self._asked: threading.Event | None = None  # set when the answer is there
        self._said: Figures = {}

    def ask(self) -> threading.Event:
        """Ask, unless a question is under way; return an event that is set when there is an
        answer."""
        with self._lock:
            if self._asked is None:
                self._asked = threading.Event()
                self._pool.submit(self._answer)
            return self._asked

    def told(self, done: threading.Event, timeout_s: float) -> Figures:
        return self._said if done.wait(timeout_s) else {"error": "does not answer"}

    def _answer(self) -> None:
        try:
            said = self._figures()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others are to be seen
            said = {"error": " ".join(f"{exc or type(exc).__name__}".split())}
        with self._lock:
            self._said = said
            done, self._asked = self._asked, None
        if done is not None:
            done.set()
