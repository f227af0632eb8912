"""Redis: the mirror in a server that several mounts and programs share. Redis or Valkey, 6.2+.

`layout.py` says what is kept under which keys, `directories.py` and `walking.py` read them,
`orphans.py` finds those that belong to nothing, `connecting.py` makes the client, `waiting.py`
waits for news.
Records, their directories, the totals and the log change in one step: a script (`scripts.py`)
or, if this user may not run scripts, a transaction (`transactions.py`); `steps.py` chooses.

`scan` reads a directory at a time: each page of one directory is a snapshot.

If Redis may evict keys, absence means nothing: then no scope is ever complete, and each
directory is listed in S3 again.

Threading: as redis-py's client, any number of threads.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from mimicfs.errors import ConfigError, LogTrimmed, StoreCorrupt, StoreTooNew

try:
    import redis
except ModuleNotFoundError as exc:
    raise ConfigError("the mirror in Redis needs redis-py: pip install 'mimicfs[redis]'") from exc

from mimicfs.backends import DOUBTED, OF_DIRECTORY, Backend, Waiter, left_alone
from mimicfs.backends.pending import LEARNED, IntentStep, Unsettled, unsettled
from mimicfs.backends.redis.connecting import (
    FOREIGN,
    clock_ms,
    connected,
    evicts_by,
    identity_of,
    our_error,
    place,
    said_by_all,
)
from mimicfs.backends.redis.layout import (
    LAST,
    LOG_MAX,
    VERSION,
    ChangeBatch,
    bucket_of,
    change_of,
    child,
    cover_of,
    entry_of,
    found_of,
    packed,
    prefix,
    scope_of,
    split,
)
from mimicfs.backends.redis.orphans import orphans, quoted
from mimicfs.backends.redis.scripts import Scripts
from mimicfs.backends.redis.steps import steps_of
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.backends.redis.waiting import LogWaiter
from mimicfs.backends.redis.walking import ReadPage, names, walk
from mimicfs.backends.sessions import epoch
from mimicfs.backends.uncovering import prefixes_of
from mimicfs.entry import LINES, PAGE, BucketEntry, Change, Entry, Scope

log = logging.getLogger(__name__)

_JUMP = 1_000_000  # numbers that a new epoch passes over

P = ParamSpec("P")
T = TypeVar("T")


def _ours(
    method: Callable[Concatenate[RedisBackend, P], T],
) -> Callable[Concatenate[RedisBackend, P], T]:
    """Turn redis-py's errors into StoreError."""

    @functools.wraps(method)
    def call(self: RedisBackend, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except FOREIGN as exc:
            raise our_error(exc, self._where) from exc

    return cast("Callable[Concatenate[RedisBackend, P], T]", call)


class RedisBackend(Backend):
    """The mirror in the Redis that *client*, of redis-py, asks (decode_responses off). *namespace*
    keeps several mirrors apart in one Redis. Methods: those of Backend. Raises StoreUnavailable,
    StoreTooNew, StoreCorrupt.
    """

    quick = False
    intents = True

    def __init__(self, client: redis.Redis, namespace: str = "") -> None:
        super().__init__()
        self._client: Any = client
        self._prefix = prefix(namespace)
        self._where = place(client)
        self._steps: Scripts | Transactions = Scripts(client)
        self._policy = ""  # by which keys may be evicted
        self._highest: dict[str, int] = {}  # by bucket: the highest number that was seen
        try:
            self._check()
        except BaseException:
            client.close()
            raise

    @classmethod
    def from_url(cls, url: str, namespace: str = "", password: str | None = None) -> RedisBackend:
        """Connect to what *url* names (connecting.py). *password* where it has none."""
        return cls(connected(url, password), namespace)

    @property
    def client(self) -> Any:
        """The client of redis-py that asks."""
        return self._client

    def enter(self, namespace: str) -> None:
        self._prefix = prefix(namespace)
        self._check()

    @_ours
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
        if int(found) == 1:  # its directories are legal, as one chunk that is too large
            self._unlink(f"{self._prefix}{{", "*}:z:*")
        if int(found) < VERSION:
            self._client.set(key, VERSION)
        self._steps = steps_of(self._client, self._tag(""), self._where)
        epoch(self)  # looks at the policy of eviction, too

    def _note_eviction(self, policy: str) -> None:
        """See whether keys may be evicted: that can be switched on and off while Redis runs. It
        counts for one look longer, in which a new epoch begins."""
        before, self._policy = self._policy, policy
        if policy and not self.evicts:
            text = "%s: with maxmemory-policy %s, no directory counts as listed; set it to %s"
            log.warning(text, self._where, policy, "noeviction")
        elif self.evicts and not policy and not before:
            log.warning("%s: no keys are evicted any more", self._where)
        self.evicts = bool(policy or before)

    def _unlink(self, start: str, pattern: str) -> None:
        """Delete the keys that begin with *start* and go on as *pattern* says."""
        for key in self._client.scan_iter(quoted(start) + pattern, count=1000):
            self._client.unlink(key)

    def _tag(self, bucket: str) -> str:
        return f"{self._prefix}{{{bucket or '/'}}}"  # an empty tag would not keep keys together

    # Buckets

    @_ours
    def buckets(self) -> list[BucketEntry]:
        found_names = [name for name, _ in names(self._pages(""), "")]
        pipe = self._client.pipeline(transaction=False)
        for name in found_names:
            pipe.hgetall(f"{self._tag(name)}:meta")
        found = zip(found_names, pipe.execute(), strict=True)
        return [bucket_of(name, meta) for name, meta in found if meta.get(b"known") == b"1"]

    @_ours
    def bucket(self, name: str) -> BucketEntry | None:
        meta = self._client.hgetall(f"{self._tag(name)}:meta") if name else {}
        return bucket_of(name, meta) if meta.get(b"known") == b"1" else None

    @_ours
    def add_bucket(self, name: str, created_ns: int) -> None:
        meta = f"{self._tag(name)}:meta"
        if created_ns:
            self._client.hset(meta, "created_ns", created_ns)
        self._client.hsetnx(meta, "known", 1)
        # Also if it was known: whoever added it may have been killed before this step.
        self._steps.enlist(self._tag(""), self.origin, name)

    @_ours
    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        # The list and the bucket may be on two nodes. Forgotten in between, a bucket is not known.
        if since is not None and left_alone(self.changes("", since, LOG_MAX), [name]):
            return False
        if self._is_known(name):
            self._wipe(self._tag(name))
        steps = Transactions(self._client)  # a script more would not be worth it
        if steps.delist(self._tag(""), self.origin, name, since):
            return True
        self.add_bucket(name, 0)  # it was made meanwhile; what is in it is asked of S3
        return False

    def _wipe(self, tag: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hdel(f"{tag}:meta", "known", "objects", "bytes", "created_ns")
            pipe.hincrby(f"{tag}:meta", "seq", 1)
            pipe.unlink(
                f"{tag}:scopes", f"{tag}:notes", f"{tag}:log", f"{tag}:k", f"{tag}:d:", f"{tag}:i:"
            )
            pipe.execute()
        self._unlink(f"{tag}:", "[cdi]:*")

    # Entries

    @_ours
    def get(self, bucket: str, key: str) -> Entry | None:
        directory, name = split(key)
        (record,) = self._steps.records(self._tag(bucket), directory, [name])
        return entry_of(key, record) if record else None

    @_ours
    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        records = self._steps.records(self._tag(bucket), directory, [name, f"{name}/"])
        return found_of(directory, name, records)

    @_ours
    def lookups(
        self, bucket: str, wanted: Sequence[tuple[str, str]]
    ) -> list[tuple[Entry | None, Entry | None]]:
        asked = [(directory, [name, f"{name}/"]) for directory, name in wanted]
        found = self._steps.records_of(self._tag(bucket), asked)
        return [found_of(*each, records) for each, records in zip(wanted, found, strict=True)]

    @_ours
    def directories(
        self, bucket: str, directories: Sequence[str], limit: int
    ) -> list[tuple[Scope | None, list[Entry]]]:
        covers = self._covers(bucket, directories)
        pages = self._steps.pages(self._tag(bucket), directories, LAST, limit)
        found: list[tuple[Scope | None, list[Entry]]] = []
        for directory, cover, page in zip(directories, covers, pages, strict=True):
            pairs = sorted(page)[:limit]  # names differ
            rows = [child(directory + name.decode(), record) for name, record in pairs]
            found.append((cover, rows))
        return found

    @_ours
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

    @_ours
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

    @_ours
    def has_below(self, bucket: str, directory: str) -> bool:
        tag = self._tag(bucket)
        if not directory:
            return bool(self._client.exists(f"{tag}:d:", f"{tag}:i:"))
        parent, name = split(directory)
        return self._steps.records(tag, parent, [name]) != [None]

    # Changes

    @_ours
    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        # The beginning of an intent has looked: this is one round trip.
        if bucket and not step.token and not self._is_known(bucket):
            self.add_bucket(bucket, 0)
        unique = {entry.key: entry for entry in puts}
        gone = [key for key in dict.fromkeys(deletes) if key not in unique]
        keys = [*unique, *gone]
        batch = ChangeBatch(
            self.origin,
            since,
            [(*split(key), packed(entry)) for key, entry in unique.items()],
            [split(key) for key in gone],
            min(keys, default=""),
            max(keys, default=""),
            step,
        )
        return self._steps.apply(self._tag(bucket), batch)

    @_ours
    def begin(self, bucket: str, keys: Sequence[str], token: str, lasts_ms: int) -> None:
        if not self._steps.begin(self._tag(bucket), keys, token, lasts_ms):
            self.add_bucket(bucket, 0)

    def _is_known(self, bucket: str) -> bool:
        return bool(self._client.hexists(f"{self._tag(bucket)}:meta", "known"))

    @_ours
    def end(self, bucket: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        return self._steps.end(self._tag(bucket), keys, token, unsure=unsure)

    @_ours
    def unsettled(self, bucket: str, key: str | None = None) -> list[Unsettled]:
        tag = self._tag(bucket)
        if key is None:
            found = self._client.hgetall(f"{tag}:k")
        else:
            row = self._client.hget(f"{tag}:k", key)
            found = {} if row is None else {key.encode(): row}
        now_ms = clock_ms(self._client, tag) if found and key is None else 0
        return unsettled({name.decode(): row.decode() for name, row in found.items()}, now_ms)

    @_ours
    def reap(self, bucket: str, alive: Collection[str]) -> None:
        Transactions(self._client).reap(self._tag(bucket), alive)

    @_ours
    def seq(self, bucket: str) -> int:
        found = int(self._client.hget(f"{self._tag(bucket)}:meta", "seq") or 0)
        self._highest[bucket] = max(found, self._highest.get(bucket, 0))
        return found

    @_ours
    def changes(self, bucket: str, since: int, limit: int = LINES) -> list[Change]:
        last = self.seq(bucket)
        if since == last:
            return []
        lines = self._client.xrange(f"{self._tag(bucket)}:log", f"({since}-0", "+", count=limit)
        found = [change_of(number, fields) for number, fields in lines]
        if since > last or not found or found[0].seq != since + 1:
            raise LogTrimmed.after(since, bucket)
        # Behind a gap (a new epoch) nothing follows on: whoever asks for that is told so.
        return [change for n, change in enumerate(found, since + 1) if change.seq == n]

    # Scopes

    @_ours
    def mark(self, bucket: str, scope: Scope) -> None:
        if self.evicts:
            return
        if bucket and not self._is_known(bucket):
            self.add_bucket(bucket, 0)
        scopes = f"{self._tag(bucket)}:scopes"
        if scope.deep:
            start = scope.prefix.encode()
            inside = [key for key in self._client.hkeys(scopes) if key.startswith(start)]
            if inside:
                self._client.hdel(scopes, *inside)
        self._client.hset(scopes, scope.prefix, json.dumps(scope))

    @_ours
    def unmark(self, bucket: str, prefix: str) -> None:
        steps = Transactions(self._client)  # a script more would not be worth it
        steps.unmark(self._tag(bucket), self.origin, prefix)

    @_ours
    def scope(self, bucket: str, prefix: str) -> Scope | None:
        if self.evicts:
            return None
        found = self._client.hget(f"{self._tag(bucket)}:scopes", prefix)
        return scope_of(found) if found else None

    @_ours
    def scopes(self, bucket: str) -> list[Scope]:
        found = self._client.hvals(f"{self._tag(bucket)}:scopes") if not self.evicts else []
        return sorted((scope_of(text) for text in found), key=lambda each: each.listed_ns)

    @_ours
    def cover(self, bucket: str, directory: str) -> Scope | None:
        return self._covers(bucket, [directory])[0]

    def _covers(self, bucket: str, directories: Sequence[str]) -> list[Scope | None]:
        if self.evicts:
            return [None] * len(directories)
        ways = {directory: prefixes_of(directory) for directory in directories}
        asked = list(dict.fromkeys(prefix for way in ways.values() for prefix in way))
        texts = self._client.hmget(f"{self._tag(bucket)}:scopes", asked)
        scopes = {prefix: scope_of(text) for prefix, text in zip(asked, texts, strict=True) if text}
        return [cover_of(ways[directory], scopes) for directory in directories]

    # Notes

    @_ours
    def note(self, bucket: str, name: str) -> str | None:
        found = self._client.hget(f"{self._tag(bucket)}:notes", name)
        return None if found is None else found.decode()

    @_ours
    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        if text is None:
            self._client.hdel(f"{self._tag(bucket)}:notes", name)
        else:
            self._client.hset(f"{self._tag(bucket)}:notes", name, text)

    @_ours
    def notes(self, bucket: str) -> dict[str, str]:
        found = self._client.hgetall(f"{self._tag(bucket)}:notes")
        return {name.decode(): text.decode() for name, text in found.items()}

    @_ours
    def notes_of(self, bucket: str, directories: Sequence[str]) -> list[str | None]:
        names = [OF_DIRECTORY + each for each in directories]
        found = self._client.hmget(f"{self._tag(bucket)}:notes", names) if names else []
        return [None if each is None else each.decode() for each in found]

    @_ours
    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None]:
        origin = self.origin if tell else None
        return self._steps.swap_note(self._tag(bucket), name, before, after, origin)

    # What the store says of itself

    @_ours
    def now_ms(self) -> int:
        return clock_ms(self._client, self._tag(""))

    @_ours
    def identity(self) -> str:
        said = said_by_all(self._client)
        self._note_eviction(max(evicts_by(each) for each in said))
        return "+".join(sorted(identity_of(each) for each in said))

    @_ours
    def begin_epoch(self) -> None:
        names = self._with_scopes()
        for name in names:  # also of buckets that the list has lost
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
        """Go on with numbers beyond all that were given out: the log has a gap, which
        everybody who reads on finds."""
        behind = max(0, self._highest.get(bucket, 0) - self.seq(bucket))
        self._client.hincrby(f"{self._tag(bucket)}:meta", "seq", behind + _JUMP)

    @_ours
    def orphans(self, bucket: str) -> list[str]:
        # The list of buckets is the directory of a bucket, whose names imply nothing.
        return list(orphans(self._client, self._tag(bucket), self._steps)) if bucket else []

    # Life

    def waiter(self) -> Waiter:
        return LogWaiter(self._client, lambda bucket: f"{self._tag(bucket)}:log", self._where)

    def close(self) -> None:
        self._client.close()
