"""The steps of `scripts.py` where scripts are denied: MULTI and WATCH, with the same promises.

Reading: one MULTI reads the index of a directory and its chunks. The index says which chunks there
are. So the chunks are read that it named a moment ago, and again if it names others now. A
directory of one chunk costs one round trip. Where the rows of a bucket are is remembered, and asked
with them: if it was dropped, they are read again.

Changing: every change of a bucket changes TAG:meta, whichever way it is made. So that key is
watched (watching.py). The records of the change are read, changed here, and written in one MULTI,
which Redis refuses if somebody was faster. All that is read first is in the packet of WATCH: the
change costs two round trips, and one more if what was read says what else must be read.

Threading: like the client of redis-py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from redis.exceptions import WatchError

from mimicfs.backends import NoteSwap
from mimicfs.backends.loglines import left_alone, logged_as
from mimicfs.backends.pending import IntentStep, admitted, begun, ended, may_go
from mimicfs.backends.redis.connecting import as_ms
from mimicfs.backends.redis.directories import (
    Directories,
    RowPlaces,
    asked_with,
    life_asked,
    names_about,
)
from mimicfs.backends.redis.layout import (
    LAST,
    LOG_MAX,
    AppliedBatch,
    BegunKey,
    ChangeBatch,
    MarkedScope,
    RedisCommand,
    SeenKey,
    change_of,
    chunk_key,
    index_key,
    place_of,
    scope_of,
    split,
    totals,
)
from mimicfs.backends.redis.lives import marked, marked_at_once, scopes_kept, swept, wiped
from mimicfs.backends.redis.watching import CLOCK, Watch, watched
from mimicfs.backends.uncovering import LEFT_MAX, uncovered
from mimicfs.entry import LAST_KEY, Change, Scope
from mimicfs.errors import LogTrimmed, StoreUnavailable

T = TypeVar("T")
_ATTEMPTS = 1000  # with their waits, minutes
_SCANNED = 200  # rows of unfinished changes that are read because they may matter


class Transactions:
    """The steps, each a transaction."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._places: RowPlaces = {}

    def records(self, tag: str, directory: str, names: list[str]) -> list[bytes | None]:
        """Do as Scripts.records."""
        starts = [b""] * len(names)

        def asks(place: str) -> Iterator[RedisCommand]:
            for name, start in zip(names, starts, strict=True):
                low = b"[" + name.encode()
                yield "ZREVRANGEBYLEX", index_key(place, directory), low, b"-", "LIMIT", 0, 1
                yield "HGET", chunk_key(place, directory, start), name

        while True:
            answers = self._read(tag, asks)
            now = [found[0] if found else b"" for found in answers[::2]]
            if now == starts:
                records: list[bytes | None] = answers[1::2]
                return records
            starts = now

    def page(
        self, tag: str, directory: str, low: bytes, high: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Do as Scripts.page."""
        starts, more = [b""], 0  # the chunks to read, and how many of them are behind the first

        def asks(place: str) -> Iterator[RedisCommand]:
            index = index_key(place, directory)
            yield "ZREVRANGEBYLEX", index, b"[" + low, b"-", "LIMIT", 0, 1
            yield "ZRANGEBYLEX", index, b"(" + low, b"(" + high, "LIMIT", 0, more + 1
            for start in starts:
                yield "HGETALL", chunk_key(place, directory, start)

        while True:
            first, behind, *chunks = self._read(tag, asks)
            now = [*(first or [b""]), *behind[:more]]
            whole = now == starts
            pairs = [pair for chunk in chunks for pair in _pairs(chunk)]
            if whole and (len(behind) <= more or sum(name >= low for name, _ in pairs) >= limit):
                return pairs
            if whole:
                more = 2 * more + 1
            starts = [*(first or [b""]), *behind[:more]]

    def _read(self, tag: str, asks: Callable[[str], Iterable[RedisCommand]]) -> list[Any]:
        """Return the answers to the commands of *asks*, in one step. It is given the place of the
        rows of *tag*."""
        while True:
            place = self._places.get(tag, tag)
            with self._client.pipeline(transaction=True) as pipe:
                for each in (life_asked(tag), *asks(place)):
                    pipe.execute_command(*each)
                answers: list[Any]
                life, *answers = pipe.execute()
            if place_of(tag, life) == place:
                return answers
            self._places[tag] = place_of(tag, life)

    def records_of(
        self, tag: str, wanted: Sequence[tuple[str, list[str]]]
    ) -> list[list[bytes | None]]:
        """Do as Scripts.records_of, in a round trip for each."""
        return [self.records(tag, *each) for each in wanted]

    def pages(
        self,
        tag: str,
        directories: Sequence[str],
        high: bytes,
        limit: int,
        before: Sequence[RedisCommand],
        after: RedisCommand,
    ) -> tuple[list[Any], list[list[tuple[bytes, bytes]]], Any]:
        """Do as Scripts.pages, in a round trip for each."""
        first = [self._client.execute_command(*each) for each in before]
        found = [self.page(tag, each, b"", high, limit) for each in directories]
        return first, found, self._client.execute_command(*after)

    def apply(self, tag: str, batch: ChangeBatch) -> AppliedBatch:
        """Do as Scripts.apply."""
        return self._watched(tag, lambda watch: _apply(watch, tag, batch, self._places))

    def begin(
        self, tag: str, keys: Sequence[str], token: str, lasts_ms: int
    ) -> tuple[bool, set[str]]:
        """Do as Scripts.begin."""

        def plan(watch: Watch) -> tuple[tuple[bool, set[str]], list[RedisCommand]]:
            moment, *answers = watch.ask(CLOCK, *_BucketState.asks(tag, keys))
            now_ms, state = as_ms(moment), _BucketState(answers, keys)
            after = {key: begun(state.rows[key], token, now_ms, lasts_ms) for key in keys}
            met = {key for key in keys if state.rows[key] is not None}
            return (state.known, met), _kept(tag, after)

        return self._watched(tag, plan)

    def begin_seeing(self, tag: str, asked: BegunKey) -> SeenKey:
        """Do as Scripts.begin_seeing."""
        notes = f"{tag}:notes"
        return self._watched(tag, lambda watch: _see(watch, tag, asked, self._places), notes)

    def end(self, tag: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        """Do as Backend.end."""

        def plan(watch: Watch) -> tuple[set[str], list[RedisCommand]]:
            state = _BucketState(watch.ask(*_BucketState.asks(tag, keys)), keys)
            after = {key: ended(state.rows[key], token, unsure=unsure) for key in keys}
            return {key for key, row in after.items() if row is not None}, _kept(tag, after)

        return self._watched(tag, plan)

    def swap_note(
        self,
        tag: str,
        name: str,
        before: str | None,
        after: str | None,
        origin: int | None,
        *beside: RedisCommand,
    ) -> tuple[bool, str | None, list[Any]]:
        """Do as Scripts.swap_note."""
        place = f"{tag}:notes"

        def plan(watch: Watch) -> tuple[tuple[bool, str | None], list[RedisCommand]]:
            found, number = watch.ask(("HGET", place, name), _seq_of(tag))
            now = None if found is None else found.decode()
            if now != before:
                return (False, now), []
            commands: list[RedisCommand] = [("HDEL", place, name)]
            if after is not None:
                commands = [("HSET", place, name, after)]
            if origin is not None:
                commands += _logged(tag, origin, int(number or 0), [(name, name)])
            return (True, after), commands

        done, now = self._watched(tag, plan, place)
        return done, now, [self._client.execute_command(*each) for each in beside]

    def swap_notes(
        self, tag: str, swaps: Sequence[NoteSwap], origins: Sequence[int | None]
    ) -> list[tuple[bool, str | None]]:
        """Do as Scripts.swap_notes, one after the other."""
        both = zip(swaps, origins, strict=True)
        return [self.swap_note(tag, *each, origin)[:2] for each, origin in both]

    def enlist(self, tag: str, origin: int, name: str) -> None:
        """Do as Scripts.enlist."""
        self._watched(tag, lambda watch: _enlist(watch, tag, origin, name))

    def delist(self, tag: str, origin: int, name: str, since: int | None) -> bool:
        """Take *name* out of the list of buckets, and log it. With *since*: unless it was changed
        after that number. Return whether it is taken out. Raises LogTrimmed."""
        return self._watched(tag, lambda watch: _delist(watch, tag, origin, name, since))

    def wipe(self, tag: str) -> bool:
        """Make the bucket unknown, and begin another life of its rows. Return whether it was
        known."""
        return self._watched(tag, lambda watch: wiped(watch, tag))

    def sweep(self, tag: str, rows: Sequence[bytes]) -> None:
        """Delete those of the keys *rows*, which were seen before, that belong to a life that is
        over."""
        if rows:
            self._watched(tag, lambda watch: swept(watch, tag, rows))

    def mark(self, tag: str, scope: Scope, since: int | None) -> MarkedScope:
        """Do as Scripts.mark."""
        if since is None:
            return marked_at_once(self._client, tag, scope)
        inside = [f"{tag}:scopes"] if scope.deep else []
        return self._watched(tag, lambda watch: marked(watch, tag, scope, since), *inside)

    def unmark(self, tag: str, origin: int, prefix: str) -> None:
        """Do as Backend.unmark."""
        place = f"{tag}:scopes"

        def plan(watch: Watch) -> tuple[None, list[RedisCommand]]:
            found, number = watch.ask(("HKEYS", place), _seq_of(tag))
            keys = [key.decode() for key in found]
            after: dict[str, Scope | None] = {key: None for key in keys if key.startswith(prefix)}
            after |= uncovered(prefix, scopes, names, shows)
            if not after:
                return None, []
            logged = _logged(tag, origin, int(number or 0), [(prefix, prefix + LAST_KEY)])
            return None, [*scopes_kept(place, after), *logged]

        def scopes(prefixes: Sequence[str]) -> dict[str, Scope]:
            texts = self._client.hmget(place, prefixes) if prefixes else []
            return {
                each: scope_of(text) for each, text in zip(prefixes, texts, strict=True) if text
            }

        def names(directory: str) -> list[str]:
            found = sorted(self.page(tag, directory, b"", LAST, LEFT_MAX))[:LEFT_MAX]
            return [directory + name.decode() for name, _ in found]

        def shows(directory: str) -> bool:
            parent, name = split(directory)
            return self.records(tag, parent, [name]) != [None]

        self._watched(tag, plan, place)

    def _watched(
        self, tag: str, plan: Callable[[Watch], tuple[T, list[RedisCommand]]], *also: str
    ) -> T:
        """Run the commands of *plan*. If the bucket (or a key of *also*) changed meanwhile, plan
        and run anew; and once if the connection broke. Return the result of *plan*."""
        keys = (f"{tag}:meta", f"{tag}:k", *also)
        broken = False
        for attempt in range(_ATTEMPTS):
            try:
                with watched(self._client, tag, *keys) as watch:
                    result, commands = plan(watch)
                    watch.change(commands)
            except WatchError as exc:
                if broken and exc.__cause__ is not None:
                    raise exc.__cause__ from None
                broken |= exc.__cause__ is not None
                time.sleep(random.uniform(0, min(attempt, 100) / 1000))
            else:
                return result
        raise StoreUnavailable(f"{tag}: others keep writing; try again")


class _BucketState:
    """What a change must know of a bucket, from the *answers* to `asks`: whether it is *known*, the
    number *seq* of its log, the *rows* of the unfinished changes of *keys*, and the lines *later*
    than *since*. Raises LogTrimmed."""

    def __init__(
        self, answers: Sequence[Any], keys: Sequence[str] = (), since: int | None = None
    ) -> None:
        (known, seq), rows, *more = answers
        self.known = known is not None
        self.seq = int(seq or 0)
        self.rows = {key: row and row.decode() for key, row in zip(keys, rows, strict=False)}
        self.later: list[Change] = []
        if since is not None and since != self.seq:
            # Others may write meanwhile; then all of this is done anew.
            found = [change_of(*line) for line in more[0]]
            self.later = [change for change in found if change.seq <= self.seq]
            if len(self.later) != self.seq - since:
                raise LogTrimmed.after(since)

    @staticmethod
    def asks(tag: str, keys: Sequence[str] = (), since: int | None = None) -> list[RedisCommand]:
        return [
            ("HMGET", f"{tag}:meta", "known", "seq"),
            ("HMGET", f"{tag}:k", *keys, ""),  # there is no key ""
            *([] if since is None else [("XRANGE", f"{tag}:log", f"({since}-0", "+")]),
        ]


def _state_and_directories(
    watch: Watch, tag: str, keys: Sequence[str], since: int | None, places: RowPlaces
) -> tuple[_BucketState, Directories]:
    """Return what a change of the names *keys* must know."""
    asks = _BucketState.asks(tag, keys, since)
    answers, at = asked_with(asks, watch, tag, names_about(keys), places)
    return _BucketState(answers, keys, since), at


def _see(
    watch: Watch, tag: str, asked: BegunKey, places: RowPlaces
) -> tuple[SeenKey, list[RedisCommand]]:
    key, token, lasts_ms, note, most = asked
    directory, name = split(key)
    parent, own = split(directory)
    names = {directory: [name]} | ({parent: [own]} if directory else {})
    asks = [CLOCK, ("HGET", f"{tag}:notes", note), *_BucketState.asks(tag, [key])]
    asks += [("HSCAN", f"{tag}:k", 0, "COUNT", _SCANNED)] if most >= 0 else []
    answers, at = asked_with(asks, watch, tag, names, places)
    moment, text, known, row, *scanned = answers
    state = _BucketState((known, row), [key])
    met = state.rows[key] is not None
    rows = {key: begun(state.rows[key], token, as_ms(moment), lasts_ms)}
    record, above = at.get(directory, name), at.get(parent, own) if directory else None
    last = False
    if most >= 0:
        others = [directory + it for it in at.some(directory, most + 2, watch) if it != name]
        last = len(others) <= most and _go(watch, tag, others, *scanned)
    return SeenKey(state.known, state.seq, record, above, met, last, text), _kept(tag, rows)


def _go(
    watch: Watch, tag: str, keys: Sequence[str], scanned: tuple[int, dict[bytes, bytes]]
) -> bool:
    """Whether all *keys* may be gone soon. The rows are in *scanned*, if these are all."""
    place, (cursor, found) = f"{tag}:k", scanned
    if cursor and keys:
        (rows,) = watch.ask(("HMGET", place, *keys))
    else:
        rows = [found.get(key.encode()) for key in keys]
    return all(row is not None and may_go(row.decode()) for row in rows)


def _apply(
    watch: Watch, tag: str, batch: ChangeBatch, places: RowPlaces
) -> tuple[AppliedBatch, list[RedisCommand]]:
    puts = {directory + name: (directory, name, record) for directory, name, record in batch.puts}
    deletes = {directory + name: (directory, name) for directory, name in batch.deletes}
    keys = [*puts, *deletes]
    state, at = _state_and_directories(watch, tag, keys, batch.since, places)
    left = left_alone(state.later, keys)
    left, rows = _not_admitted(tag, batch.step, state.rows, left)
    changed = [key for key in keys if key not in left]
    if not changed:
        return AppliedBatch(state.known, left, state.seq, [], []), rows
    made: list[str] = []
    gone: list[str] = []
    objects = size = 0
    for key in changed:
        if key in puts:
            directory, name, record = puts[key]
            old = _put(at, directory, name, record, made)
        else:
            record, old = None, _delete(at, *deletes[key], made, gone)
        objects_now, size_now = totals(record)
        objects_then, size_then = totals(old)
        objects += objects_now - objects_then
        size += size_now - size_then
    meta = f"{tag}:meta"
    counts: list[RedisCommand] = [
        ("HINCRBY", meta, "objects", objects),
        ("HINCRBY", meta, "bytes", size),
    ]
    logged = _logged(tag, batch.origin, state.seq, logged_as(changed))
    done = AppliedBatch(state.known, left, state.seq, made, gone)
    return done, [*rows, *at.commands(), *counts, *logged]


def _not_admitted(
    tag: str, step: IntentStep, found: Mapping[str, str | None], late: set[str]
) -> tuple[set[str], list[RedisCommand]]:
    """Return the keys, of which *found* has the rows, that are left alone, and the commands that
    keep the new rows of all."""
    left, after = set[str](), dict[str, str | None]()
    for key, text in found.items():
        ok, row = admitted(text, step, guarded=key in late)
        left |= set() if ok else {key}
        if row != text:
            after[key] = row
    return left, _kept(tag, after)


def _kept(tag: str, rows: Mapping[str, str | None]) -> list[RedisCommand]:
    gone: list[RedisCommand] = [
        ("HDEL", f"{tag}:k", key) for key, row in rows.items() if row is None
    ]
    return [*gone, *(("HSET", f"{tag}:k", k, row) for k, row in rows.items() if row is not None)]


def _put(
    at: Directories, directory: str, name: str, record: bytes, made: list[str]
) -> bytes | None:
    """Put the record, and the directories above it; add these to *made*. Return the record that
    was there."""
    old = at.get(directory, name)
    at.put(directory, name, record)
    while directory:
        parent, sub = split(directory)
        if at.get(parent, sub) is not None:
            break
        at.put(parent, sub, b"")
        made.append(directory)
        directory = parent
    return old


def _delete(
    at: Directories, directory: str, name: str, made: list[str], gone: list[str]
) -> bytes | None:
    """Delete the name, and the directories that nothing implies any more; add them to *gone*, or
    to *made* a directory that has names still. Return the record that was there."""
    old = at.get(directory, name)
    if old is None:
        return None
    if name.endswith("/") and at.exists(directory + name):
        at.put(directory, name, b"")
        made.append(directory + name)
        return old
    at.remove(directory, name)
    gone.append(directory + name)
    while directory and not at.exists(directory):
        parent, sub = split(directory)
        if at.get(parent, sub) != b"":
            break
        at.remove(parent, sub)
        gone.append(directory)
        directory = parent
    return old


def _logged(tag: str, origin: int, seq: int, lines: list[tuple[str, str]]) -> list[RedisCommand]:
    commands: list[RedisCommand] = [("HINCRBY", f"{tag}:meta", "seq", len(lines))]
    for number, (first, last) in enumerate(lines, seq + 1):
        line = (f"{number}-0", "f", first, "l", last, "o", origin)
        commands.append(("XADD", f"{tag}:log", "MAXLEN", "~", LOG_MAX, *line))
    return commands


def _pairs(chunk: Mapping[bytes, bytes] | Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Return names and records of the answer to HGETALL. (In a cluster, redis-py before 8 gives the
    answers of a transaction as they come.)"""
    return (
        chunk.items() if isinstance(chunk, Mapping) else zip(chunk[::2], chunk[1::2], strict=True)
    )


def _seq_of(tag: str) -> RedisCommand:
    return ("HGET", f"{tag}:meta", "seq")


def _enlist(watch: Watch, tag: str, origin: int, name: str) -> tuple[None, list[RedisCommand]]:
    state, at = _state_and_directories(watch, tag, [name], None, {})
    if at.get("", name) is not None:
        return None, []
    at.put("", name, b"")
    return None, [*at.commands(), *_logged(tag, origin, state.seq, [(name, name)])]


def _delist(
    watch: Watch, tag: str, origin: int, name: str, since: int | None
) -> tuple[bool, list[RedisCommand]]:
    state, at = _state_and_directories(watch, tag, [name], since, {})
    if left_alone(state.later, [name]):
        return False, []
    if at.get("", name) is not None:
        at.remove("", name)
    return True, [*at.commands(), *_logged(tag, origin, state.seq, [(name, name)])]
