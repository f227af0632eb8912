"""The directories that are being renamed, by all mounts that share a store: of two renames of one
directory, of one in the other, or to one place, the second waits until the first has ended. Then it
finds what that has left: mostly nothing, and fails with ENOENT.

A note beside the bucket has a row for each rename that is under way. Rows of sessions that are dead
count no more: so whoever held one, and may have been taken for dead, asks again before the first
original is deleted (`RenameClaim.holds`).

Threading: any thread; a claim belongs to the thread that renames. `_lock` is a leaf.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mimicfs.errors import StoreError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.vfs.intents import KeyTree

log = logging.getLogger(__name__)

_NOTE = "renames"
_GLANCE_S = 0.05  # between two looks whether the other rename has ended
_ALIVE_S = 1.0  # between two looks whether its session lives


class _ClaimedRename(NamedTuple):
    """A rename of *old* to *new*; None: that is in another bucket."""

    session: str
    token: str
    old: str | None
    new: str | None

    def meets(self, other: _ClaimedRename) -> bool:
        """Whether one of the two must wait for the other."""
        return _overlap(self.old, other.old) or _overlap(self.new, other.new)


class RenameClaims:
    """The claims of the renames of this process, in the store of *mimicdb*."""

    def __init__(self, mimicdb: Mirror) -> None:
        self._mimicdb = mimicdb
        self._lock = threading.Lock()  # protects the set below
        # with their buckets: claims that have ended, which the store does not know
        self._late: set[tuple[str, _ClaimedRename]] = set()
        mimicdb.member.beaten.append(self._end_late)

    @contextmanager
    def held(self, cancellation: Cancellation, old: KeyTree, new: KeyTree) -> Iterator[RenameClaim]:
        """Within, nobody else renames *old*, what is in it or above it, or anything to *new*.
        Raises StoreError, Interrupted."""
        claim = RenameClaim(self, self._rows(old, new))
        try:
            claim.take(cancellation)
            yield claim
        finally:
            for bucket, row in claim.rows:
                self._end(bucket, row)

    def _rows(self, old: KeyTree, new: KeyTree) -> list[tuple[str, _ClaimedRename]]:
        mimicdb, token = self._mimicdb, secrets.token_hex(8)
        if not mimicdb.intents.are_kept:  # the kernel of this mount is all that renames here
            return []
        if not mimicdb.private:
            mimicdb.member.join()  # others believe in what a session claims, and in no other
        mine = mimicdb.member.id
        if old.bucket == new.bucket:
            return [(old.bucket, _ClaimedRename(mine, token, old.prefix, new.prefix))]
        return [
            (old.bucket, _ClaimedRename(mine, token, old.prefix, None)),
            (new.bucket, _ClaimedRename(mine, token, None, new.prefix)),
        ]

    def take(self, cancellation: Cancellation, bucket: str, mine: _ClaimedRename) -> None:
        """Wait until *mine* is noted. Raises StoreError, Interrupted."""
        text: str | None = None  # mostly nobody renames anything
        looked_s, waited = time.monotonic(), False
        while True:
            others = [each for each in _parsed(text) if each != mine]
            if any(each.meets(mine) for each in others):
                waited = True
                with suppress(TimeoutError):
                    cancellation.wait(Future[None](), _GLANCE_S)
                if time.monotonic() - looked_s >= _ALIVE_S:
                    self._end_dead(bucket)
                    looked_s = time.monotonic()
                text = self._mimicdb.note(bucket, _NOTE)
                continue
            done, text = self._mimicdb.swap_note(bucket, _NOTE, text, _text([*others, mine]))
            if done:
                break
        if waited:  # what the other one has done is to be seen
            self._mimicdb.catch_up(bucket)

    def has(self, bucket: str, mine: _ClaimedRename) -> bool:
        """Whether *mine* is noted still."""
        return mine in _parsed(self._mimicdb.note(bucket, _NOTE))

    def _end_dead(self, bucket: str) -> None:
        self._end_late()  # a store that nobody shares takes no beats
        member = self._mimicdb.member
        alive = {member.id, *(each.id for each in member.others() if each.alive)}
        for row in _parsed(self._mimicdb.note(bucket, _NOTE)):
            if row.session not in alive:
                log.warning(
                    "the rename of s3://%s/%s was not ended; it is of a dead mount",
                    bucket,
                    row.old if row.old is not None else row.new,
                )
                self._remove(bucket, row)

    def _end(self, bucket: str, row: _ClaimedRename) -> None:
        try:
            self._remove(bucket, row)
        except StoreError as exc:
            log.debug("that a rename has ended is said later: %s", exc)
            with self._lock:
                self._late.add((bucket, row))

    def _end_late(self) -> None:
        """End claims that the store, which has taken a beat of our session, does not know to have
        ended: others wait for them."""
        with self._lock:
            late, self._late = self._late, set()
        for each in late:
            self._end(*each)

    def _remove(self, bucket: str, row: _ClaimedRename) -> None:
        text = self._mimicdb.note(bucket, _NOTE)
        done = False
        while not done and row in (rows := _parsed(text)):
            left = [each for each in rows if each != row]
            done, text = self._mimicdb.swap_note(bucket, _NOTE, text, _text(left) if left else None)


class RenameClaim:
    """The claim of one rename: its *rows*, each with its bucket."""

    def __init__(self, claims: RenameClaims, rows: list[tuple[str, _ClaimedRename]]) -> None:
        self.rows = rows
        self._claims = claims

    def take(self, cancellation: Cancellation) -> None:
        """Wait until it is ours. Raises StoreError, Interrupted."""
        for bucket, row in self.rows:
            self._claims.take(cancellation, bucket, row)

    def holds(self, cancellation: Cancellation) -> bool:
        """Whether it has been ours all the time. If not (this process was stopped for long, or the
        store has lost it), it is taken again."""
        if all(self._claims.has(*each) for each in self.rows):
            return True
        self.take(cancellation)
        return False


def _overlap(one: str | None, other: str | None) -> bool:
    """Whether one of two directories is the other, or is in it."""
    if one is None or other is None:
        return False
    return one.startswith(other) or other.startswith(one)


def _text(rows: list[_ClaimedRename]) -> str:
    return json.dumps(rows)


def _parsed(text: str | None) -> list[_ClaimedRename]:
    """Return the rows of a note. A text that has none is not ours, and nobody waits for it."""
    try:
        return [_ClaimedRename(*each) for each in json.loads(text or "[]")]
    except (ValueError, TypeError):
        log.warning("the note of renames is not of mimicfs: %.80r", text)
        return []
