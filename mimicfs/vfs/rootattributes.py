"""Mode, owner, times and extended attributes of directories that have no object which could hold
them: a bucket, and the root over all buckets. The mirror notes them, in the form of an object's
user metadata. (A directory with -o no_markers has a row of its own in the mirror: its entry has
them.)

The other mounts of a store show them once they are mounted again.

Threading: any thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mimicfs.entry import KEPT, Entry
from mimicfs.mimicdb import Mirror

_NOTE = "attributes"


class RootAttributes:
    """What is noted in *mimicdb* of buckets, by name; "" is the root over all."""

    def __init__(self, mimicdb: Mirror) -> None:
        self._mimicdb = mimicdb
        self._known: dict[str, Entry | None] = {}  # a bucket's is asked for once

    def entry(self, bucket: str) -> Entry | None:
        """Return what is known of *bucket*, as an entry; None: nothing was set."""
        if bucket not in self._known:
            self._known[bucket] = _entry(self._mimicdb.note(bucket, _NOTE))
        return self._known[bucket]

    def set(self, bucket: str, meta: Mapping[str, str]) -> None:
        self._mimicdb.set_note(bucket, _NOTE, json.dumps(dict(meta)))
        self._known[bucket] = Entry("", kind=KEPT, meta=meta)


def _entry(text: str | None) -> Entry | None:
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        return None
    return Entry("", kind=KEPT, meta=found)
