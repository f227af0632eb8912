"""The directories that are being renamed, by all mounts that share a store: of two renames of one
directory, of one in the other, or to one place, the second waits until the first has ended. Then it
finds what that has left: mostly nothing, and fails with ENOENT.

A note beside the bucket has a row for each rename that is under way. Rows of sessions that are dead
count no more: so whoever held one, and may have been taken for dead, asks again before originals
are deleted (`RenameClaim.holds`), and once more in the end (`RenameClaim.was_lost`). Rows of
sessions that live count as long as they are there. A store that has lost its latest changes may
have one again whose rename has ended: so each process takes away what is noted of it and nobody in
it holds.

Whoever makes, removes or renames a single name in such a directory waits, too (`begun`). The store
tells of the renames in the step in which the intent of that begins, and a rename waits for intents
that began before it, as far as it can. In the same way they wait for who takes a copy back that a
failed rename has made at their name (`alone`): its row has that key as the directory.

Threading: any thread; a claim belongs to the thread that renames. `_lock` is a leaf.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar

from mimicfs.backends.pending import Begun
from mimicfs.errors import BeingRenamed, StoreError
from mimicfs.intent import StoreIntent
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.vfs.intents import KeyTree

log = logging.getLogger(__name__)

_NOTE = "renames"
_GLANCE_S = 0.05  # between two looks whether the other rename has ended
_ALIVE_S = 1.0  # between two looks whether its session lives
# Beats after which rows of ours are looked for: a command without an answer may come late.
_LOOKS = 5

T = TypeVar("T")


class _ClaimedRename(NamedTuple):
    """A rename of *old* to *new*; None: that is in another bucket."""

    session: str
    token: str
    old: str | None
    new: str | None

    def moves(self, keys: Sequence[str]) -> bool:
        """Whether one of *keys* is the directory, or in it."""
        return self.old is not None and any(key.startswith(self.old) for key in keys)

    def meets(self, other: _ClaimedRename) -> bool:
        """Whether one of the two must wait for the other."""
        return _overlap(self.old, other.old) or _overlap(self.new, other.new)


class RenameClaims:
    """The claims of the renames of this process, in the store of *mimicdb*."""

    def __init__(self, mimicdb: Mirror) -> None:
        self._mimicdb = mimicdb
        self._lock = threading.Lock()  # protects the four below
        self._held: set[tuple[str, _ClaimedRename]] = set()  # with their buckets
        self._buckets: set[str] = set()  # in which this process has renamed
        self._looks = 0  # so many beats more, rows of ours that nobody holds are looked for
        self._epoch_changes = mimicdb.member.epoch_changes
        mimicdb.member.beaten.append(self._beaten)

    @property
    def lapses(self) -> int:
        """How often others may have taken this process for dead (Member.lapses)."""
        return self._mimicdb.member.lapses

    @contextmanager
    def held(self, cancellation: Cancellation, old: KeyTree, new: KeyTree) -> Iterator[RenameClaim]:
        """Within, nobody else renames *old*, what is in it or above it, or anything to *new*.
        Raises StoreError, Interrupted."""
        claim = RenameClaim(self, self._rows(old, new))
        with self._holding(claim.rows):
            claim.take(cancellation)
            yield claim

    @contextmanager
    def alone(self, bucket: str, key: str) -> Iterator[None]:
        """Within, nobody else begins to make, remove or rename the single name *key*. Raises
        StoreError; BeingRenamed if somebody renames a directory above it, or something to it."""
        rows = [(bucket, self._row(key, None))] if self._mimicdb.intents.are_kept else []
        with self._holding(rows):
            for _, row in rows:
                self._take_at_once(bucket, row)
            yield

    @contextmanager
    def _holding(self, rows: list[tuple[str, _ClaimedRename]]) -> Iterator[None]:
        """Within, *rows* are ours, where they are noted."""
        with self._lock:
            self._held |= set(rows)
            self._buckets |= {bucket for bucket, _ in rows}
        try:
            yield
        except StoreError:
            self._look_again()
            raise
        finally:
            with self._lock:
                self._held -= set(rows)
            for bucket, row in rows:
                self._end(bucket, row)

    def _rows(self, old: KeyTree, new: KeyTree) -> list[tuple[str, _ClaimedRename]]:
        if not self._mimicdb.intents.are_kept:  # the kernel of this mount is all that renames here
            return []
        if old.bucket == new.bucket:
            return [(old.bucket, self._row(old.prefix, new.prefix))]
        return [
            (old.bucket, self._row(old.prefix, None)),
            (new.bucket, self._row(None, new.prefix)),
        ]

    def _row(self, old: str | None, new: str | None) -> _ClaimedRename:
        if not self._mimicdb.private:
            self._mimicdb.member.join()  # others believe in what a session claims, and in no other
        return _ClaimedRename(self._mimicdb.member.id, secrets.token_hex(8), old, new)

    def _take_at_once(self, bucket: str, mine: _ClaimedRename) -> None:
        """Note *mine*, the claim of a key. Raises StoreError; BeingRenamed if it meets another."""
        text: str | None = None
        done = False
        while not done:
            others = _parsed(text)
            if any(each.meets(mine) or _overlap(each.new, mine.old) for each in others):
                raise BeingRenamed(bucket, [mine.old or ""])
            done, text = self._mimicdb.swap_note(bucket, _NOTE, text, _text([*others, mine]))

    def take(self, cancellation: Cancellation, bucket: str, mine: _ClaimedRename) -> None:
        """Wait until *mine* is noted. Raises StoreError, Interrupted."""
        text: str | None = None  # mostly nobody renames anything
        looked_s, waited = time.monotonic(), False
        while True:
            others = [each for each in _parsed(text) if each != mine]
            if any(each.meets(mine) for each in others):
                waited = True
                looked_s = self._glance(cancellation, bucket, looked_s)
                text = self._mimicdb.note(bucket, _NOTE)
                continue
            done, text = self._mimicdb.swap_note(bucket, _NOTE, text, _text([*others, mine]))
            if done:
                break
        if waited:  # what the other one has done is to be seen
            self._mimicdb.catch_up(bucket)

    def _glance(self, cancellation: Cancellation, bucket: str, looked_s: float) -> float:
        """Wait a moment. If that is due, look which sessions are dead. Return when that was done
        last. Raises StoreError, Interrupted."""
        with suppress(TimeoutError):
            cancellation.wait(Future[None](), _GLANCE_S)
        if time.monotonic() - looked_s < _ALIVE_S:
            return looked_s
        self._end_dead(bucket)
        return time.monotonic()

    def rows(self, bucket: str) -> list[_ClaimedRename]:
        """Return what is noted now."""
        return _parsed(self._mimicdb.note(bucket, _NOTE))

    # Those that rename no directory

    @contextmanager
    def begun(
        self, bucket: str, key: str, *beside: str, most: int = -1, deletes: bool = False
    ) -> Iterator[tuple[StoreIntent, Begun] | None]:
        """Within, *key* is changed by the first call about it. Yield the intent of that, and what
        the store had when it began, as Backend.begin_seeing; None: the store keeps no intents.
        Raises StoreError; BeingRenamed if somebody renames a directory with *key* or one of the
        keys *beside*."""
        intents = self._mimicdb.intents
        if not intents.are_kept:
            yield None
            return
        intent, begun = intents.begin_seeing(bucket, key, _NOTE, most, deletes=deletes)
        try:
            keys = (key, *beside)
            if self._others_move(keys, _parsed(begun.note)):
                raise BeingRenamed(bucket, keys)
            with intent.given():
                yield intent, begun
        finally:
            intents.give_up(intent)

    def again(
        self, cancellation: Cancellation, work: Callable[[], T], check: Callable[[], object]
    ) -> T:
        """Return what *work* returns. As often as it raises BeingRenamed, wait until that has
        ended, *check* that what is to be done can still be done, and call it anew. Raises
        StoreError, Interrupted."""
        while True:
            try:
                return work()
            except BeingRenamed as exc:
                bucket, looked_s = exc.bucket, time.monotonic()
                while self._others_move(exc.keys, self.rows(bucket)):
                    looked_s = self._glance(cancellation, bucket, looked_s)
                self._mimicdb.catch_up(bucket)
            check()

    def _others_move(self, keys: Sequence[str], rows: list[_ClaimedRename]) -> bool:
        """Whether one of *rows* is a rename of *keys* by another process. (In one process those
        that rename wait: departures.py.)"""
        mine = self._mimicdb.member.id
        return any(row.session != mine and row.moves(keys) for row in rows)

    # The end of claims

    def _end_dead(self, bucket: str) -> None:
        member = self._mimicdb.member
        alive = {member.id, *(each.id for each in member.others() if each.alive)}
        for row in self.rows(bucket):
            if row.session not in alive:
                log.warning(
                    "the rename of s3://%s/%s was not ended; it is of a dead mount",
                    bucket,
                    row.old if row.old is not None else row.new,
                )
                self._remove(bucket, row)
        self._end_stale(bucket)

    def _end_stale(self, bucket: str) -> None:
        """End what is noted of this process and has ended. Raises StoreError."""
        for row in self.rows(bucket):
            with self._lock:
                is_held = (bucket, row) in self._held
            if row.session == self._mimicdb.member.id and not is_held:
                self._remove(bucket, row)

    def _end(self, bucket: str, row: _ClaimedRename) -> None:
        try:
            self._remove(bucket, row)
        except StoreError as exc:
            log.debug("that a rename has ended is said later: %s", exc)
            self._look_again()

    def _look_again(self) -> None:
        with self._lock:
            self._looks = _LOOKS

    def _beaten(self) -> None:
        """Look, if that is due, for claims of ours that the store does not know to have ended, or
        has again: others wait for them. It has just taken a beat of our session."""
        with self._lock:
            if self._epoch_changes != self._mimicdb.member.epoch_changes:
                self._epoch_changes, self._looks = self._mimicdb.member.epoch_changes, _LOOKS
            buckets = sorted(self._buckets) if self._looks else []
            self._looks = max(0, self._looks - 1)
        try:
            for bucket in buckets:
                self._end_stale(bucket)
        except StoreError as exc:
            log.debug("what is noted of our renames is looked at later: %s", exc)
            self._look_again()

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
        self._lapses = claims.lapses

    def take(self, cancellation: Cancellation) -> None:
        """Wait until it is ours. Raises StoreError, Interrupted."""
        for bucket, row in self.rows:
            self._claims.take(cancellation, bucket, row)

    def holds(self, cancellation: Cancellation) -> bool:
        """Whether it has been ours all the time. If not (this process was stopped for long, or the
        store has lost it), it is taken again."""
        if all(row in self._claims.rows(bucket) for bucket, row in self.rows):
            return True
        self.take(cancellation)
        return False

    def was_lost(self, *, alone: bool) -> bool:
        """Whether somebody else may have renamed the same since `holds` was asked. The claim is not
        noted then, and another one that meets it is, or others may have taken this process for
        dead, or this process was not *alone* with it, as far as it can see."""
        for bucket, row in self.rows:
            noted = self._claims.rows(bucket)
            met = any(each.meets(row) for each in noted if each != row)
            if row not in noted and (met or not alone or self._claims.lapses != self._lapses):
                return True
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
