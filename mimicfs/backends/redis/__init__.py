"""Redis: the mirror in a server that several mounts and programs share. Redis or Valkey, 6.2+.

`layout.py` describes the keys and their values, `directories.py` and `walking.py` read them,
`orphans.py` finds keys that belong to nothing, `connecting.py` makes the client, `waiting.py` waits
for news, `notes.py` keeps plain texts, and learns what the server says of itself.
Records, their directories, the totals and the log change in one step: a script (`lua.py`, which
`scripts.py` runs) or, if this user may not run scripts, a transaction (`transactions.py`, with
`watching.py` and `lives.py`); `steps.py` chooses.

`scan` reads a directory at a time: each page of one directory is a snapshot.

Threading: any number of threads, like the client of redis-py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from mimicfs.errors import ConfigError, LogTrimmed, StoreCorrupt, StoreTooNew

try:
    import redis
except ModuleNotFoundError as exc:
    raise ConfigError("the mirror in Redis needs redis-py: pip install 'mimicfs[redis]'") from exc

from mimicfs.backends import DOUBTED, OF_DIRECTORY
from mimicfs.backends.loglines import WIDE_CHANGE, left_alone
from mimicfs.backends.pending import (
    LEARNED,
    Begun,
    IntentStep,
    Unsettled,
    overdue,
    unsettled,
)
from mimicfs.backends.redis.connecting import clock_ms, close, connected
from mimicfs.backends.redis.layout import (
    LAST,
    LOG_MAX,
    VERSION,
    BegunKey,
    ChangeBatch,
    bucket_of,
    change_of,
    child,
    cover_of,
    entry_of,
    found_of,
    life_of,
    packed,
    prefix,
    scope_of,
    split,
)
from mimicfs.backends.redis.notes import NotingBackend, ours
from mimicfs.backends.redis.orphans import orphans, quoted
from mimicfs.backends.redis.steps import steps_of
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.backends.redis.waiting import LogWaiter
from mimicfs.backends.redis.walking import ReadPage, names, walk
from mimicfs.backends.sessions import epoch
from mimicfs.backends.uncovering import prefixes_of
from mimicfs.backends.waiter import Waiter
from mimicfs.entry import LINES, PAGE, BucketEntry, Change, DirectoryCopy, Entry, OwnChange, Scope

_JUMP = 1_000_000  # numbers that a new epoch passes over
_SWEPT = 1000  # keys that are looked at together when a bucket was dropped


class RedisBackend(NotingBackend):
    """The mirror in the Redis that *client*, of redis-py, asks (decode_responses off). *namespace*
    keeps several mirrors apart in one Redis. The methods are those of Backend. Raises
    StoreUnavailable, StoreTooNew, StoreCorrupt.
    """

    quick = False
    intents = True

    def __init__(self, client: redis.Redis, namespace: str = "") -> None:
        super().__init__(client, namespace)
        try:
            self._check()
        except BaseException:
            close(client)
            raise

    @classmethod
    def from_url(cls, url: str, namespace: str = "", password: str | None = None) -> RedisBackend:
        """Connect to the server that *url* names (connecting.py). *password* is used if *url* has
        none."""
        return cls(connected(url, password), namespace)

    @property
    def client(self) -> Any:
        """The client of redis-py with which this store asks."""
        return self._client

    def enter(self, namespace: str) -> None:
        self._prefix = prefix(namespace)
        self._highest.clear()  # these are numbers of the other one
        self._lately.clear()
        self._check()

    @ours
    def _check(self) -> None:
        key = f"{self._prefix}version"
        self._client.set(key, VERSION, nx=True)
        found = self._client.get(key)
        if not found.isdigit():
            raise StoreCorrupt(f"{self._where}: {key} is not of mimicfs; give another --namespace")
        if int(found) > VERSION:
            raise StoreTooNew(
                f"{self._where}: written by a newer mimicfs (schema {int(found)}, this one"
                f" knows {VERSION}); upgrade mimicfs or give another --namespace"
            )
        if int(found) == 1:  # its directories are legal: each is one chunk that is too large
            self._unlink(f"{self._prefix}{{", "*}:z:*")
        if int(found) < VERSION:
            self._client.set(key, VERSION)
        self._steps = steps_of(self._client, self._tag(""), self._where)
        epoch(self)  # looks at the policy of eviction, too

    def _unlink(self, start: str, pattern: str) -> None:
        """Delete the keys that begin with *start* and go on as *pattern* says."""
        for key in self._client.scan_iter(quoted(start) + pattern, count=1000):
            self._client.unlink(key)

    # Buckets

    @ours
    def buckets(self) -> list[BucketEntry]:
        found_names = [name for name, _ in names(self._pages(""), "")]
        pipe = self._client.pipeline(transaction=False)
        for name in found_names:
            pipe.hgetall(f"{self._tag(name)}:meta")
        found = zip(found_names, pipe.execute(), strict=True)
        return [bucket_of(name, meta) for name, meta in found if meta.get(b"known") == b"1"]

    @ours
    def bucket(self, name: str) -> BucketEntry | None:
        meta = self._client.hgetall(f"{self._tag(name)}:meta") if name else {}
        return bucket_of(name, meta) if meta.get(b"known") == b"1" else None

    @ours
    def add_bucket(self, name: str, created_ns: int) -> None:
        meta = f"{self._tag(name)}:meta"
        if created_ns:
            self._client.hset(meta, "created_ns", created_ns)
        self._client.hsetnx(meta, "known", 1)
        # Even if it was known: the process that added it may have been killed before this step.
        self._steps.enlist(self._tag(""), self.origin, name)

    @ours
    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        # The list and the bucket may be on two nodes. A bucket that is forgotten in between is not
        # known.
        if since is not None and left_alone(self.changes("", since, LOG_MAX), [name]):
            return False
        steps = Transactions(self._client)  # a script more would not be worth it
        if steps.wipe(self._tag(name)):
            self._sweep(self._tag(name), steps)
        delisted = steps.delist(self._tag(""), self.origin, name, since)
        if delisted and not self._is_known(name):
            return True
        self.add_bucket(name, 0)  # it was made meanwhile; S3 is asked for its contents
        return False

    def _sweep(self, tag: str, steps: Transactions) -> None:
        """Delete the rows of the lives that are over."""
        keys = self._client.scan_iter(f"{quoted(tag)}:*", count=1000)
        while some := list(islice(keys, _SWEPT)):
            steps.sweep(tag, [key for key in some if life_of(tag, key) is not None])

    # Entries

    @ours
    def get(self, bucket: str, key: str) -> Entry | None:
        directory, name = split(key)
        (record,) = self._steps.records(self._tag(bucket), directory, [name])
        return entry_of(key, record) if record else None

    @ours
    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        records = self._steps.records(self._tag(bucket), directory, [name, f"{name}/"])
        return found_of(directory, name, records)

    @ours
    def lookups(
        self, bucket: str, wanted: Sequence[tuple[str, str]]
    ) -> list[tuple[Entry | None, Entry | None]]:
        names: dict[str, list[str]] = {}
        for directory, name in wanted:
            names.setdefault(directory, []).extend((name, f"{name}/"))
        found = self._steps.records_of(self._tag(bucket), list(names.items()))
        records = dict(zip(names, map(iter, found), strict=True))
        return [
            found_of(directory, name, list(islice(records[directory], 2)))
            for directory, name in wanted
        ]

    @ours
    def directories(
        self, bucket: str, directories: Sequence[str], limit: int
    ) -> list[DirectoryCopy]:
        if not directories:
            return []
        tag, asked = self._tag(bucket), _asked_scopes(directories)
        scopes = ("HMGET", f"{tag}:scopes", *asked)
        notes = ("HMGET", f"{tag}:notes", *(OF_DIRECTORY + each for each in directories))
        before = (("HGET", f"{tag}:meta", "seq"), scopes)
        (seq, texts), pages, said = self._steps.pages(tag, directories, LAST, limit, before, notes)
        self._seen(bucket, int(seq or 0))
        covers = self._covers_of(directories, asked, texts)
        found: list[DirectoryCopy] = []
        for directory, cover, page, note in zip(directories, covers, pages, said, strict=True):
            pairs = sorted(page)[:limit]  # names differ
            rows = [child(directory + name.decode(), record) for name, record in pairs]
            found.append(DirectoryCopy(cover, rows, note and note.decode()))
        return found

    @ours
    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        low = after[len(directory) :].encode() + b"\0" if after > directory else b""
        page = self._page(bucket, directory, low, LAST, limit)
        return [child(directory + name, record) for name, record in page]

    def _pages(self, bucket: str) -> ReadPage:
        return functools.partial(self._page, bucket)

    def _page(
        self, bucket: str, directory: str, low: bytes, high: bytes, limit: int
    ) -> list[tuple[str, bytes]]:
        """Return the first *limit* names from *low* up to *high*, with their records."""
        found = self._steps.page(self._tag(bucket), directory, low, high, limit)
        pairs = sorted(pair for pair in found if low <= pair[0] < high)  # names differ
        return [(name.decode(), record) for name, record in pairs[:limit]]

    @ours
    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        directory = prefix[: prefix.rfind("/") + 1]
        found: list[Entry] = []
        if directory and directory == prefix and directory > after:
            own = self.get(bucket, directory)
            found += [own] if own is not None else []
        found += islice(
            walk(self._pages(bucket), directory, prefix, after, limit), limit - len(found)
        )
        return found

    @ours
    def has_below(self, bucket: str, directory: str) -> bool:
        if not directory:
            return bool(self._page(bucket, "", b"", LAST, 1))
        parent, name = split(directory)
        return self._steps.records(self._tag(bucket), parent, [name]) != [None]

    # Changes

    @ours
    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        left, _ = self.apply_told(bucket, puts, deletes, since, step)
        return left

    @ours
    def apply_told(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> tuple[set[str], OwnChange]:
        batch = self._batch(puts, deletes, since, step)
        done = self._steps.apply(self._tag(bucket), batch)
        changed = len(batch.puts) + len(batch.deletes) - len(done.left)
        lines = 1 if changed > WIDE_CHANGE else changed
        self._seen(bucket, done.before + lines)
        if done.left:  # a number from a moment ago may have been too old
            self._lately.pop(bucket, None)
        if bucket and not done.known and not step.token:  # else the intent's beginning has looked
            self.add_bucket(bucket, 0)
        return done.left, OwnChange(done.before, lines, done.made, done.gone)

    def _batch(
        self, puts: Sequence[Entry], deletes: Sequence[str], since: int | None, step: IntentStep
    ) -> ChangeBatch:
        unique = {entry.key: entry for entry in puts}
        gone = [key for key in dict.fromkeys(deletes) if key not in unique]
        keys = [*unique, *gone]
        return ChangeBatch(
            self.origin,
            since,
            [(*split(key), packed(entry)) for key, entry in unique.items()],
            [split(key) for key in gone],
            min(keys, default=""),
            max(keys, default=""),
            step,
        )

    @ours
    def begin(self, bucket: str, keys: Sequence[str], token: str, lasts_ms: int) -> set[str]:
        known, met = self._steps.begin(self._tag(bucket), keys, token, lasts_ms)
        if not known:
            self.add_bucket(bucket, 0)
        return met

    @ours
    def begin_seeing(
        self, bucket: str, key: str, token: str, lasts_ms: int, note: str, most: int
    ) -> Begun:
        directory, _ = split(key)
        tag, asked = self._tag(bucket), BegunKey(key, token, lasts_ms, note, most)
        seen = self._steps.begin_seeing(tag, asked)
        if not seen.known:
            self.add_bucket(bucket, 0)
        entry = entry_of(key, seen.record) if seen.record else None
        above = entry_of(directory, seen.above) if seen.above else None
        text = None if seen.note is None else seen.note.decode()
        return Begun(self._seen(bucket, seen.seq), entry, above, seen.met, seen.last, text)

    def _is_known(self, bucket: str) -> bool:
        return bool(self._client.hexists(f"{self._tag(bucket)}:meta", "known"))

    @ours
    def end(self, bucket: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        return self._steps.end(self._tag(bucket), keys, token, unsure=unsure)

    @ours
    def unsettled(self, bucket: str, key: str | None = None) -> list[Unsettled]:
        tag = self._tag(bucket)
        if key is None:
            rows = self._rows(tag)
        else:
            row = self._client.hget(f"{tag}:k", key)
            rows = {} if row is None else {key: row.decode()}
        now_ms = clock_ms(self._client, tag) if rows and key is None else 0
        return unsettled(rows, now_ms)

    def _rows(self, tag: str) -> dict[str, str]:
        found = self._client.hgetall(f"{tag}:k")
        return {key.decode(): row.decode() for key, row in found.items()}

    @ours
    def reap(self, bucket: str, lives: Callable[[str], bool]) -> set[str]:
        # No transaction: where others change much, that would be begun anew again and again.
        tag = self._tag(bucket)
        rows = self._rows(tag)
        over = overdue(rows, clock_ms(self._client, tag), lives)
        for token, keys in over.items():
            self._steps.end(tag, keys, token, unsure=True)
        return {key for keys in over.values() for key in keys}

    @ours
    def seq(self, bucket: str) -> int:
        return self._seen(bucket, int(self._client.hget(f"{self._tag(bucket)}:meta", "seq") or 0))

    @ours
    def changes(self, bucket: str, since: int, limit: int = LINES) -> list[Change]:
        tag = self._tag(bucket)
        number, lines = self._together(
            ("HGET", f"{tag}:meta", "seq"),
            ("XRANGE", f"{tag}:log", f"({since}-0", "+", "COUNT", limit),
        )
        last = self._seen(bucket, int(number or 0))
        found = [change_of(number, fields) for number, fields in lines]
        whole = all(change.seq == n for n, change in enumerate(found, since + 1))
        # Lines may have been added since the number was read. A new epoch leaves a gap.
        if since > last or not whole or (since < last and not found):
            raise LogTrimmed.after(since, bucket)
        return found

    # Scopes

    @ours
    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        if self.evicts:
            return
        highest = self._highest.get(bucket, 0)  # read before: other threads go on
        done = self._steps.mark(self._tag(bucket), scope, since)
        if done.seq < highest:  # what was merged before is lost
            self.begin_epoch()  # and this scope with all others
        elif not done.marked:
            raise LogTrimmed.after(since, bucket)
        elif bucket and not done.known:
            self.add_bucket(bucket, 0)

    @ours
    def unmark(self, bucket: str, prefix: str) -> None:
        steps = Transactions(self._client)  # a script more would not be worth it
        steps.unmark(self._tag(bucket), self.origin, prefix)

    @ours
    def scope(self, bucket: str, prefix: str) -> Scope | None:
        if self.evicts:
            return None
        found = self._client.hget(f"{self._tag(bucket)}:scopes", prefix)
        return scope_of(found) if found else None

    @ours
    def scopes(self, bucket: str) -> list[Scope]:
        found = self._client.hvals(f"{self._tag(bucket)}:scopes") if not self.evicts else []
        return sorted((scope_of(text) for text in found), key=lambda each: each.listed_ns)

    @ours
    def cover(self, bucket: str, directory: str) -> Scope | None:
        return self._covers(bucket, [directory])[0]

    def _covers(self, bucket: str, directories: Sequence[str]) -> list[Scope | None]:
        asked = _asked_scopes(directories)
        texts = self._client.hmget(f"{self._tag(bucket)}:scopes", asked) if not self.evicts else ()
        return self._covers_of(directories, asked, texts)

    def _covers_of(
        self, directories: Sequence[str], asked: Sequence[str], texts: Sequence[bytes | None]
    ) -> list[Scope | None]:
        """Return, for each of *directories*, the scope that covers it, among the scopes *asked*
        for, of which *texts* are the values."""
        if self.evicts:
            return [None] * len(directories)
        scopes = {prefix: scope_of(text) for prefix, text in zip(asked, texts, strict=True) if text}
        return [cover_of(prefixes_of(directory), scopes) for directory in directories]

    # Epochs

    @ours
    def begin_epoch(self) -> None:
        names = self._with_scopes()
        for name in names:  # even buckets that the list has lost
            self._client.delete(f"{self._tag(name)}:scopes")
            self.set_note(name, DOUBTED, "1")
        super().begin_epoch()
        known = {*(bucket.name for bucket in self.buckets()), *self._highest, *names}
        for bucket in {"", *known} if known else ():  # a new store has no numbers to pass over
            self._jump(bucket)

    def _with_scopes(self) -> set[str]:
        """Return the buckets that have scopes."""
        start, end = f"{self._prefix}{{", "}:scopes"
        found = self._client.scan_iter(f"{quoted(start)}*{end}", count=1000)
        return {key.decode()[len(start) : -len(end)] for key in found} - {"/"}

    def _jump(self, bucket: str) -> None:
        """Go on with numbers beyond all that were given out: then the log has a gap, which every
        reader finds."""
        behind = max(0, self._highest.get(bucket, 0) - self.seq(bucket))
        self._client.hincrby(f"{self._tag(bucket)}:meta", "seq", behind + _JUMP)

    @ours
    def orphans(self, bucket: str) -> list[str]:
        # The list of buckets is the directory of a bucket, whose names imply nothing.
        return list(orphans(self._client, self._tag(bucket), self._steps)) if bucket else []

    # Life

    def waiter(self) -> Waiter:
        return LogWaiter(self._client, lambda bucket: f"{self._tag(bucket)}:log", self._where)

    def close(self) -> None:
        close(self._client)


def _asked_scopes(directories: Sequence[str]) -> list[str]:
    """Return the prefixes of the scopes that may cover *directories*."""
    return list(dict.fromkeys(prefix for each in directories for prefix in prefixes_of(each)))
