"""Uploads that nobody waits for, and that give way to whoever changes the file.

Threading: one thread uploads (`File` has its turn); any other may call `give_way`.
"""

from __future__ import annotations

from concurrent.futures import Future

from mimicfs.posix import Cancellation


class Behind(Cancellation):
    """The cancellation of such an upload. Whoever is about to change the file waits for its end for
    up to *patience_s*."""

    def __init__(self, patience_s: float = 0.0) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._ended = Future[None]()

    def ends(self) -> None:
        """Note that the upload has ended."""
        self._ended.set_result(None)

    def give_way(self, cancellation: Cancellation) -> None:
        """Return when the upload has ended, or is cancelled. Raises Interrupted if *cancellation*
        comes first."""
        if self._patience_s:
            try:
                cancellation.wait(self._ended, self._patience_s)
                return
            except TimeoutError:
                pass
        self.cancel()
