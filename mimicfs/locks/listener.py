"""Reads in the log of the store that somebody let go of a lock, for the callers that wait for it.

Threading: any thread; a thread of its own listens from the first wait on, while somebody waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mimicfs.backends import Backend
from mimicfs.errors import LogTrimmed, StoreError

log = logging.getLogger(__name__)

_AGAIN_S = 0.2


class LockListener:
    """Calls *heard* with the name of each file in the log *name* of *store*, or with None, which
    stands for any file. Every *look_s*, *is_waited* tells whether anybody waits."""

    def __init__(
        self,
        store: Backend,
        name: str,
        look_s: float,
        is_waited: Callable[[], bool],
        heard: Callable[[str | None], None],
    ) -> None:
        self._store = store
        self._name = name
        self._look_s = look_s
        self._is_waited = is_waited
        self._heard = heard
        self._waiter = store.waiter()
        self._lock = threading.Lock()  # protects the beginning
        self._thread: threading.Thread | None = None
        self._place = 0  # in the log; the thread's own
        self._waits = threading.Event()  # somebody may be waiting
        self._closed = False

    def begin(self) -> None:
        """Begin to hear what is logged from now on. Raises StoreError."""
        with self._lock:
            if self._thread is not None:
                return
            self._place = self._store.seq(self._name)
            self._thread = threading.Thread(target=self._run, name="locks", daemon=True)
            self._thread.start()

    def look(self) -> None:
        """Begin to listen: somebody waits."""
        self._waits.set()

    def close(self) -> None:
        self._closed = True
        self._waits.set()
        self._waiter.close()

    def _run(self) -> None:
        while not self._closed:
            if not self._is_waited():
                self._waits.clear()
                if not self._is_waited():
                    self._waits.wait()
                continue
            try:
                self._hear()
            except StoreError as exc:
                log.debug("%s", exc)
                time.sleep(_AGAIN_S)

    def _hear(self) -> None:
        if not self._waiter.wait({self._name: self._place}, self._look_s):
            return
        try:
            lines = self._store.changes(self._name, self._place)
        except LogTrimmed:
            self._place = self._store.seq(self._name)
            self._heard(None)
            return
        self._place = lines[-1].seq if lines else self._place
        for name in {line.first for line in lines}:
            self._heard(name)
