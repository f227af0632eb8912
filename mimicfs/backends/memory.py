"""Memory: the mirror in a Python dict. Gone when the process ends.

The shortest complete backend, and the example to copy. One lock protects everything; the
keys of a bucket are held in order beside the dict of their entries.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mimicfs.backends import Backend
from mimicfs.backends.loglines import left_alone, logged_as
from mimicfs.backends.pending import (
    LEARNED,
    IntentStep,
    Unsettled,
    admitted,
    begun,
    ended,
    reaped,
    unsettled,
)
from mimicfs.backends.uncovering import LEFT_MAX, uncovered
from mimicfs.entry import LINES, OBJECT, PAGE, BucketEntry, Change, Entry, Scope
from mimicfs.errors import LogTrimmed

_LOG_MAX = 100_000  # lines of a bucket's log


@dataclass(slots=True)
class _MemoryBucket:
    created_ns: int = 0
    known: bool = False  # False: dropped, or only its log is in use
    seq: int = 0
    born: int = 0  # the number when it was dropped last
    bytes: int = 0
    objects: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # those of entries, in order
    scopes: dict[str, Scope] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)  # rows of pending.py
    log: deque[Change] = field(default_factory=lambda: deque(maxlen=_LOG_MAX))


class Memory(Backend):
    """A store in the memory of the process, for its threads alone: gone with it. Its methods are
    those of Backend."""

    private = True
    intents = True

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()  # protects all below
        self._buckets: dict[str, _MemoryBucket] = {"": _MemoryBucket()}

    def buckets(self) -> list[BucketEntry]:
        with self._lock:
            known = [(name, at) for name, at in self._buckets.items() if at.known]
            return [_shown(name, at) for name, at in sorted(known)]

    def bucket(self, name: str) -> BucketEntry | None:
        with self._lock:
            at = self._buckets.get(name)
            return _shown(name, at) if at is not None and at.known else None

    def add_bucket(self, name: str, created_ns: int) -> None:
        with self._lock:
            at = self._buckets.setdefault(name, _MemoryBucket())
            if not at.known:
                at.known = True
                self._log("", [name])
            at.created_ns = created_ns or at.created_ns

    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        with self._lock:
            if since is not None and left_alone(self.changes("", since, _LOG_MAX), [name]):
                return False
            at = self._buckets.get(name)
            if at is not None and at.known:
                self._buckets[name] = _MemoryBucket(seq=at.seq + 1, born=at.seq + 1)
            self._log("", [name])
            return True

    def get(self, bucket: str, key: str) -> Entry | None:
        at = self._buckets.get(bucket)
        return at.entries.get(key) if at is not None else None

    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        with self._lock:
            return super().children(bucket, directory, after, limit)

    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        with self._lock:
            at = self._buckets.get(bucket, _MemoryBucket())
            start = bisect_right(at.keys, after) if after else 0
            start = max(start, bisect_left(at.keys, prefix))
            found: list[Entry] = []
            for place in range(start, min(start + limit, len(at.keys))):
                key = at.keys[place]
                if not key.startswith(prefix):
                    break
                found.append(at.entries[key])
            return found

    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        with self._lock:
            at = self._known(bucket)
            new = {entry.key: entry for entry in puts}
            keys = [*new, *(key for key in dict.fromkeys(deletes) if key not in new)]
            since = at.seq if since is None else since
            left = left_alone(self.changes(bucket, since, _LOG_MAX), keys)
            left = self._not_admitted(at, keys, step, left)
            changed = [key for key in keys if key not in left]
            self._store(at, {key: new.get(key) for key in changed})
            self._log(bucket, changed)
            return left

    @staticmethod
    def _not_admitted(
        at: _MemoryBucket, keys: list[str], step: IntentStep, left: set[str]
    ) -> set[str]:
        if not at.pending and step == LEARNED:
            return left
        found: set[str] = set()
        for key in keys:
            ok, row = admitted(at.pending.get(key), step, guarded=key in left)
            found |= set() if ok else {key}
            _keep_row(at, key, row)
        return found

    def begin(self, bucket: str, keys: Sequence[str], token: str, lasts_ms: int) -> set[str]:
        with self._lock:
            at = self._known(bucket)
            met = at.pending.keys() & set(keys)
            for key in keys:
                at.pending[key] = begun(at.pending.get(key), token, self.now_ms(), lasts_ms)
            return met

    def end(self, bucket: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        with self._lock:
            at = self._known(bucket)
            for key in keys:
                _keep_row(at, key, ended(at.pending.get(key), token, unsure=unsure))
            return {key for key in keys if key in at.pending}

    def unsettled(self, bucket: str, key: str | None = None) -> list[Unsettled]:
        with self._lock:
            rows = self._buckets.get(bucket, _MemoryBucket()).pending
            return unsettled(rows, self.now_ms(), key)

    def reap(self, bucket: str, lives: Callable[[str], bool]) -> set[str]:
        with self._lock:
            at = self._buckets.get(bucket, _MemoryBucket())
            before, now_ms = dict(at.pending), self.now_ms()
            at.pending |= {key: reaped(row, now_ms, lives) for key, row in before.items()}
            return {key for key, row in before.items() if at.pending[key] != row}

    def _known(self, bucket: str) -> _MemoryBucket:
        if bucket and self.bucket(bucket) is None:
            self.add_bucket(bucket, 0)
        return self._buckets[bucket]

    def _store(self, at: _MemoryBucket, changes: dict[str, Entry | None]) -> None:
        """Put the entries; None: delete the key."""
        added: list[str] = []
        for key, entry in changes.items():
            old = at.entries.get(key)
            self._count(at, old, -1)
            self._count(at, entry, 1)
            if entry is not None:
                at.entries[key] = entry
                added += [] if old is not None else [key]
            elif old is not None:
                del at.entries[key]
                del at.keys[bisect_left(at.keys, key)]
        if len(added) == 1:
            at.keys.insert(bisect_left(at.keys, added[0]), added[0])
        elif added:
            at.keys.extend(sorted(added))
            at.keys.sort()  # two ordered runs: merged, not sorted anew

    @staticmethod
    def _count(at: _MemoryBucket, entry: Entry | None, sign: int) -> None:
        if entry is not None and entry.kind == OBJECT:
            at.objects += sign
            at.bytes += sign * entry.size

    def _log(self, bucket: str, keys: list[str]) -> None:
        at = self._buckets[bucket]
        for first, last in logged_as(keys):
            at.seq += 1
            at.log.append(Change(at.seq, first, last, self.origin))

    def seq(self, bucket: str) -> int:
        at = self._buckets.get(bucket)
        return at.seq if at is not None else 0

    def changes(self, bucket: str, since: int, limit: int = LINES) -> list[Change]:
        with self._lock:
            at = self._buckets.get(bucket, _MemoryBucket())
            first = at.log[0].seq if at.log else at.seq + 1
            if since > at.seq or since < first - 1:
                raise LogTrimmed(f"the log of {bucket or 'the buckets'} has {first} to {at.seq}")
            start = since - first + 1
            return [at.log[n] for n in range(start, min(start + limit, len(at.log)))]

    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        with self._lock:
            at = self._buckets.get(bucket, _MemoryBucket())
            if since is not None and not at.born <= since <= at.seq:
                raise LogTrimmed.after(since, bucket)
            scopes = self._known(bucket).scopes
            if scope.deep:
                _drop_scopes(scopes, scope.prefix)
            scopes[scope.prefix] = scope

    def unmark(self, bucket: str, prefix: str) -> None:
        with self._lock:
            known = self._buckets[bucket].scopes if bucket in self._buckets else {}
            after = uncovered(
                prefix,
                lambda prefixes: {each: known[each] for each in prefixes if each in known},
                lambda directory: [
                    entry.key for entry in self.children(bucket, directory, "", LEFT_MAX)
                ],
                lambda directory: self.has_below(bucket, directory),
            )
            _drop_scopes(known, prefix)
            for each, scope in after.items():
                known.pop(each, None)
                if scope is not None:
                    known[each] = scope

    def scope(self, bucket: str, prefix: str) -> Scope | None:
        at = self._buckets.get(bucket)
        return at.scopes.get(prefix) if at is not None else None

    def scopes(self, bucket: str) -> list[Scope]:
        with self._lock:
            at = self._buckets.get(bucket)
            found = list(at.scopes.values()) if at is not None else []
        return sorted(found, key=lambda scope: scope.listed_ns)

    def note(self, bucket: str, name: str) -> str | None:
        at = self._buckets.get(bucket)
        return at.notes.get(name) if at is not None else None

    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        with self._lock:
            notes = self._known(bucket).notes
            notes.pop(name, None)
            if text is not None:
                notes[name] = text

    def notes(self, bucket: str) -> dict[str, str]:
        with self._lock:
            at = self._buckets.get(bucket)
            return dict(at.notes) if at is not None else {}

    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None]:
        with self._lock:
            notes = self._buckets.setdefault(bucket, _MemoryBucket()).notes
            if notes.get(name) != before:
                return False, notes.get(name)
            notes.pop(name, None)
            if after is not None:
                notes[name] = after
            if tell:
                self._log(bucket, [name])
            return True, after

    def close(self) -> None:
        self._buckets = {"": _MemoryBucket()}


def _drop_scopes(scopes: dict[str, Scope], prefix: str) -> None:
    """Drop the scopes at and below *prefix*."""
    for inside in [known for known in scopes if known.startswith(prefix)]:
        del scopes[inside]


def _keep_row(at: _MemoryBucket, key: str, row: str | None) -> None:
    if row is None:
        at.pending.pop(key, None)
    else:
        at.pending[key] = row


def _shown(name: str, at: _MemoryBucket) -> BucketEntry:
    return BucketEntry(name, at.created_ns, at.objects, at.bytes, at.seq)
