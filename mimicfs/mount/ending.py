"""The end of a mount: once a second, those that wait for it are told what S3 does not have yet.

Threading: a thread of its own, asleep until the end begins. `begin` may be called by a signal
handler, and more than once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from mimicfs.human import amount

_TELL_S = 1.0


class PendingTotal(NamedTuple):
    """The total of the bytes that S3 does not have yet."""

    files: int
    bytes: int

    def __str__(self) -> str:
        if not self.files and not self.bytes:
            return "S3 has everything, but another mount namespace (a container) has the mount too"
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return f"{files}, {amount(self.bytes)}, to be uploaded"


class Ending:
    """From `begin` on, calls *tell* with what *pending* returns, until `over`."""

    def __init__(
        self, pending: Callable[[], tuple[int, int]], tell: Callable[[PendingTotal], None]
    ) -> None:
        self._pending = pending
        self._tell = tell
        self._begun: SimpleQueue[None] = SimpleQueue()  # a signal handler may put into it
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ending", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self._begun.put(None)

    def over(self) -> None:
        self._over.set()
        self._begun.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._begun.get()
        while not self._over.is_set():
            self._tell(PendingTotal(*self._pending()))
            self._over.wait(_TELL_S)
