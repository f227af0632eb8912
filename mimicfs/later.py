"""Writes to the store in groups what reads teach and nobody sees.

Most GETs teach only that nothing is stored with an object except what a listing says. That changes
no attribute, so it is no change: the log has no line about it, and it holds up no sync that is
under way. If the process is killed, the next read learns it again.

Threading: any thread. `_lock` is a leaf, and not held while the store is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mimicfs.backends import Backend
from mimicfs.entry import Entry
from mimicfs.errors import StoreError

log = logging.getLogger(__name__)

_MOST = 64  # in a group
_LATE_S = 0.5  # the first of a group is at most so old when the next one comes


class Later:
    """Groups for *backend*. There are none before `begin`: a program that reads wants to find in
    the mirror what it has just read."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._begun = False
        self._submit: Callable[[Callable[[], None]], object] | None = None
        self._lock = threading.Lock()  # protects all below
        self._waiting: dict[tuple[str, str], Entry] = {}
        self._since_s = 0.0
        self._due = False  # somebody is about to write them

    def begin(self, submit: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Take from now on what may wait, if the store has a call for groups. *submit* has another
        thread write them; without it, whoever brings the last one of a group writes it."""
        self._begun, self._submit = self._backend.groups, submit

    def takes(self, bucket: str, known: Entry, entry: Entry) -> bool:
        """Take *entry* for later, if it tells only that nothing is stored with *known*; return
        whether it is taken. Raises StoreError, about an earlier one."""
        if not self._begun or known.meta is not None or entry != known._replace(meta={}):
            return False
        now_s = time.monotonic()
        with self._lock:
            if not self._waiting:
                self._since_s = now_s
            self._waiting[bucket, entry.key] = entry
            due = len(self._waiting) >= _MOST or now_s - self._since_s >= _LATE_S
            due, self._due = due and not self._due, due
        if due and not self._is_submitted():
            self._write()
        return True

    def _is_submitted(self) -> bool:
        if self._submit is None:
            return False
        try:
            self._submit(self.close)
        except RuntimeError:  # no more threads
            return False
        return True

    def close(self) -> None:
        """Write what waits, if the store takes it."""
        try:
            self._write()
        except StoreError as exc:
            log.debug("what reads have taught last is not written: %s", exc)

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting, self._due = self._waiting, {}, False
        buckets: dict[str, list[Entry]] = {}
        for (bucket, _), entry in waiting.items():
            buckets.setdefault(bucket, []).append(entry)
        for bucket, entries in buckets.items():
            self._backend.learn_plain(bucket, entries)
