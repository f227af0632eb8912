"""Mode, owner, times and extended attributes of directories that have no object which could hold
them: a bucket, and the root over all buckets. The mirror notes them, in the form of an object's
user metadata. (With -o no_markers a directory has a row of its own in the mirror, whose entry has
them.)

Other mounts of the store show a change once they are mounted again.

Threading: any thread. `_lock` is a leaf; `_setting` is held while the store is told.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from mimicfs.config.values import Buckets
from mimicfs.entry import KEPT, Difference, Entry
from mimicfs.mimicdb import Mirror

_NOTE = "attributes"


class RootAttributes:
    """The attributes that *mimicdb* notes of buckets, by name; "" is the root over all. *buckets*
    says of which buckets they are believed."""

    def __init__(self, mimicdb: Mirror, buckets: Buckets) -> None:
        self._mimicdb = mimicdb
        self._buckets = buckets
        self._setting = threading.Lock()  # one thread at a time changes a note
        self._lock = threading.Lock()  # protects the three below
        self._known: dict[str, Entry | None] = {}  # each is asked for once
        self._created: dict[str, int] = {}  # in ns since the epoch; 0: nobody knows
        self._changes = 0  # a note that was read before the latest change may be older than that

    def entry(self, bucket: str) -> Entry | None:
        """Return the attributes of *bucket*, as an entry; None: nothing was set. Raises
        StoreUnavailable."""
        if not self._buckets.of(bucket).keeps_metadata:
            return None
        with self._lock:
            if bucket in self._known:
                return self._known[bucket]
            before = self._changes
        found = _entry(self._mimicdb.note(bucket, _NOTE))
        with self._lock:
            if self._changes == before:
                self._known[bucket] = found
            return self._known.get(bucket, found)

    def created_ns(self, bucket: str) -> int:
        """Return when *bucket* was made, in ns since the epoch; 0 where that is not known."""
        created_ns = self._created.get(bucket)
        if created_ns is None:
            before = self._changes
            known = self._mimicdb.known_bucket(bucket)
            created_ns = known.created_ns if known is not None else 0
            with self._lock:
                if self._changes == before:
                    self._created[bucket] = created_ns
        return created_ns

    def set(self, bucket: str, meta: Mapping[str, str]) -> None:
        with self._setting:
            self._mimicdb.set_note(bucket, _NOTE, json.dumps(dict(meta)))
            with self._lock:
                self._known[bucket] = Entry("", kind=KEPT, meta=meta)
                self._changes += 1

    def forget(self, *buckets: str) -> None:
        """Forget the attributes of *buckets*, which were made or removed: those of earlier buckets
        are not theirs."""
        with self._lock:
            for bucket in buckets:
                self._known.pop(bucket, None)
            self._created.clear()  # a list of buckets says the time of all
            self._changes += 1

    def changed(self, bucket: str, difference: Difference | None) -> None:
        """Take note of *difference*, which the mirror has learned of and announces."""
        if difference is None:
            self.forget(*([bucket] if bucket else list(self._known)))
        elif not bucket:
            self.forget(*difference.added, *difference.deleted)


def _entry(text: str | None) -> Entry | None:
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        return None
    return Entry("", kind=KEPT, meta=found)
