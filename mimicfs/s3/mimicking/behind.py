"""What reads teach of versions that the mirror knows, told to it in groups.

A GET shows what is stored with an object besides its bytes. That changes nothing that anybody
sees, so the mirror need not have it before the reader has his bytes, and a transaction for each
file that is read costs more than the reading. What is not told when the process dies, the next
read teaches.

Threading: any thread. `_changed` protects the entries; the mirror is told without it.
"""

from __future__ import annotations

import logging
import threading

from mimicfs.entry import Entry
from mimicfs.errors import StoreError
from mimicfs.mimicdb import Mirror

log = logging.getLogger(__name__)

_AFTER_S = 0.05  # so long the first one of a group waits for others
_MOST = 256  # entries of a group, after which those that teach more wait for the store


class Behind:
    """Tells *mimicdb*, in a thread of its own that is started when there is something."""

    def __init__(self, mimicdb: Mirror) -> None:
        self._mimicdb = mimicdb
        self._changed = threading.Condition()
        self._entries: dict[tuple[str, str], tuple[Entry, int]] = {}  # with `since`
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, bucket: str, entry: Entry, since: int) -> None:
        """S3 has *entry*, and was asked after change number *since*."""
        with self._changed:
            self._entries[bucket, entry.key] = entry, since
            full = len(self._entries) >= _MOST
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="learn", daemon=True)
                self._thread.start()
            self._changed.notify()
        if full:
            self.tell()

    def tell(self) -> None:
        """Tell the mirror all that was noted so far."""
        with self._changed:
            entries, self._entries = self._entries, {}
        groups: dict[str, list[tuple[Entry, int]]] = {}
        for (bucket, _), noted in entries.items():
            groups.setdefault(bucket, []).append(noted)
        for bucket, group in groups.items():
            try:
                # The oldest number: what was changed after it is left alone, and asked again.
                since = min(number for _, number in group)
                self._mimicdb.record_all(bucket, [entry for entry, _ in group], since)
            except StoreError as exc:
                log.debug("what reads of s3://%s showed is not learned: %s", bucket, exc)

    def close(self) -> None:
        """Tell the mirror the rest, and end."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(5)
        self.tell()

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._closing.is_set())
            self._closing.wait(_AFTER_S)
            self.tell()
