"""The feed: what changed in the mirror of a bucket, in order, for people and programs.

The log of a store says which keys may have changed, and not what they were. So a feed keeps, in a
store of its own, what it has told last of each key: the difference between that and the mirror is
the news. A program misses nothing, however long it was away: where the log does not reach back,
everything is compared. Of a key that changed twice between two looks, the feed tells once, as it is
now.

In the store of the feed, a bucket has

    s/KEY    what was told last of KEY
    n/SEQ    one piece of news, by its number; the latest 100,000 are kept
    l        the number of the latest (as a size)
    a note   the place in the mirror's log up to which everything was told

INVARIANT: the news and the new s/KEY are stored in one step, so a feed that is killed tells nothing
twice and leaves nothing out.

Threading: one thread; several processes may have the same file, one after the other (`_alone`).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.backends.memory import Memory
from mimicfs.backends.sessions import StoreSession, epoch
from mimicfs.entry import OBJECT, PAGE, Change, Entry, name_of, pages
from mimicfs.errors import LogTrimmed
from mimicfs.merging import same_version
from mimicfs.mimicdb import Mirror

ADDED, CHANGED, DELETED, MOVED = "added", "changed", "deleted", "moved"
S3, THIS = "S3", "this"

_KEPT = 100_000  # pieces of news
_TOGETHER_S = 0.5  # the two halves of a rename come one after the other
_LOOK_S = 1.0  # most time between two looks
_COMPARE_S = 60.0  # between two comparisons of everything, while something is not certain
_TOLD_AT_ONCE = 10_000  # lines of the log, and changes
_PLACE, _UNCERTAIN = "place", "uncertain"
_LAST = "l"


class News(NamedTuple):
    """A change of one key in a feed (`MimicDB.changes`). Sizes are bytes, *etag* is without quotes,
    *time_ns* is ns since 1970."""

    seq: int  # of this feed; without gaps
    time_ns: int  # when it was seen
    change: str  # added, changed, deleted, moved
    bucket: str
    key: str
    size: int  # of what is there now; for a deletion, of what was there
    etag: str
    by: str  # "S3": found there; "this": this process; else its writer, as HOST:MOUNTPOINT
    source: str = ""  # the key that it was moved from


class _LogPlace(NamedTuple):
    """A place in the log of a store: a number, and a mark of the log itself. The log is another one
    if the store was made again, or restored from a backup and changed since."""

    seq: int
    epoch: str = ""
    line: str = ""  # the line of that number; "": there is none, or it is not known

    @staticmethod
    def read(text: str | None) -> _LogPlace:
        """An earlier version wrote the number alone."""
        found = json.loads(text or "0")
        return _LogPlace(found) if isinstance(found, int) else _LogPlace(*found)


class _KeyChange(NamedTuple):
    """The fate of one key, between two looks."""

    key: str
    old: Entry | None
    new: Entry | None
    by: str


class Feed:
    """The changes in *bucket* of *mimicdb* below *prefix*. The feed keeps what it told in *store*;
    without one it forgets that at the end. A feed begins when its store is new: what the mirror has
    by then is no news. *path* is that of the store, which others may use, too."""

    def __init__(
        self,
        mimicdb: Mirror,
        bucket: str,
        prefix: str = "",
        store: Backend | None = None,
        path: Path | None = None,
    ) -> None:
        self._mimicdb = mimicdb
        self._bucket = bucket
        self._prefix = prefix
        self._store = store if store is not None else Memory()
        self._lock = path.with_suffix(".lock") if path is not None else None
        self._mirrored = mimicdb.backend
        self._waiter = self._mirrored.waiter()
        self._compared_s = float("-inf")
        with self._alone():
            if self._store.note(bucket, _PLACE) is None:
                self._begin()

    def close(self) -> None:
        """Close what the feed keeps."""
        self._waiter.close()
        self._store.close()

    def last(self) -> int:
        """Return the number of the latest news; 0: there was none."""
        found = self._store.get(self._bucket, _LAST)
        return found.size if found is not None else 0

    def since(self, seq: int) -> Iterator[list[News]]:
        """Yield the news after number *seq*, page by page, to the last that was seen. Raises
        LogTrimmed if not all of it is kept."""
        first = self._store.scan(self._bucket, "n/", "", 1)
        oldest = int(first[0].key[2:]) if first else self.last() + 1
        if not oldest - 1 <= seq <= self.last():
            text = self._refusal(seq, oldest)
            raise LogTrimmed(f"s3://{self._bucket}/{self._prefix}: {text}; begin without --since")
        scan = self._store.scan
        for page in pages(lambda at: scan(self._bucket, "n/", at), _number(seq)):
            yield [self._news(entry) for entry in page]

    def _refusal(self, seq: int, oldest: int) -> str:
        last = self.last()
        if seq <= last:
            return f"the changes after {seq} are no longer kept, only {oldest} to {last}"
        if last:
            return f"{seq} is beyond the last change, which has the number {last}"
        return f"{seq} is beyond the last change: there are none yet"

    def look(self) -> None:
        """See what is new in the mirror, and keep it. Raises StoreError."""
        with self._alone():
            place = self._place()
            try:
                if place != self._place_at(place.seq):
                    raise LogTrimmed(f"the log of {self._bucket} is another one")
                while changes := self._changes_after(place.seq):
                    self._tell(self._certain(self._of_lines(changes)))
                    place = place._replace(seq=changes[-1].seq, line=_line_of(changes[-1]))
                    self._keep_place(place)
            except LogTrimmed:
                place = self._place_at(self._mimicdb.seq(self._bucket))
                self._compare()
                self._keep_place(place)
            if self._is_uncertain and time.monotonic() - self._compared_s > _COMPARE_S:
                self._compare()

    def end(self) -> None:
        """Tell that everything is gone: S3 has no such bucket."""
        with self._alone():
            gone = self._all_told(self._prefix, "")
            self._tell(_KeyChange(entry.key, entry, None, S3) for entry in gone)

    def wait(self) -> None:
        """Return when there may be news, or soon."""
        seq = self._place().seq
        if self._mimicdb.seq(self._bucket) == seq:
            self._waiter.wait({self._bucket: seq}, _LOOK_S)
        if self._mimicdb.seq(self._bucket) != seq:
            time.sleep(_TOGETHER_S)

    # The place in the log

    def _place(self) -> _LogPlace:
        return _LogPlace.read(self._store.note(self._bucket, _PLACE))

    def _keep_place(self, place: _LogPlace) -> None:
        self._store.set_note(self._bucket, _PLACE, json.dumps(place))

    def _place_at(self, seq: int) -> _LogPlace:
        """Return the place of number *seq* in the log as it is now."""
        found: Sequence[Change] = ()
        with suppress(LogTrimmed):
            found = self._mirrored.changes(self._bucket, seq - 1, 1) if seq else ()
        return _LogPlace(seq, epoch(self._mirrored), _line_of(found[0]) if found else "")

    def _changes_after(self, seq: int) -> list[Change]:
        """Return the lines of the log behind *seq* that are told together: the two halves of the
        rename of a large directory may be far apart."""
        found: list[Change] = []
        while len(found) < _TOLD_AT_ONCE:
            page = self._mirrored.changes(self._bucket, found[-1].seq if found else seq, PAGE)
            found += page
            if len(page) < PAGE:
                break
        return found

    # The beginning

    def _begin(self) -> None:
        place = self._place_at(self._mimicdb.seq(self._bucket))
        self._store.drop_bucket(self._bucket)  # the remains of a beginning that was interrupted
        for page in _pages(self._mirrored, self._bucket, self._prefix):
            self._store.apply(self._bucket, [_kept(it) for it in page if it.kind == OBJECT])
        self._keep_place(place)

    # What is new

    def _of_lines(self, changes: Sequence[Change]) -> Iterator[_KeyChange]:
        """Yield what became of the keys of *changes*: first of ranges of keys, then of single ones,
        each at its last line."""
        names = _names(self._mimicdb.member.others())
        spans = _spans(changes)
        for first, last, origin in spans:
            yield from self._of_range(first, last, self._by(origin, names))
        latest: dict[str, Change] = {}
        for change in changes:
            if change.first == change.last:
                latest[change.first] = _with_writer(change, latest.get(change.first))
        for key, change in sorted(latest.items(), key=lambda item: item[1].seq):
            within = any(first <= key <= last for first, last, _ in spans)
            if key.startswith(self._prefix) and not within:
                yield _KeyChange(
                    key, self._told(key), self._now(key), self._by(change.origin, names)
                )

    def _certain(self, found: Iterator[_KeyChange]) -> Iterator[_KeyChange]:
        """Yield those of *found* that are certain. S3 may still have a key that the mirror has only
        stopped to show (settling.py): what there is, a later line of the log or a comparison says.
        """
        intents = self._mimicdb.intents
        # read before the mirror is: S3 may be asked meanwhile
        rows = intents.all_unsettled(self._bucket) if intents.are_kept else []
        unsettled = {row.key for row in rows}
        for each in found:
            gone = each.new is None and each.old is not None
            if gone and each.key in unsettled and not self._is_covered(each.key):
                self._store.set_note(self._bucket, _UNCERTAIN, "1")
            else:
                yield each

    def _of_range(self, first: str, last: str, by: str) -> Iterator[_KeyChange]:
        """Yield what differs of the keys from *first* to *last*."""
        told, now = self._all_told(first, last), self._all_now(first, last)
        old, new = next(told, None), next(now, None)
        while old is not None or new is not None:
            if new is None or (old is not None and old.key < new.key):
                assert old is not None
                yield _KeyChange(old.key, old, None, by)
                old = next(told, None)
            elif old is None or new.key < old.key:
                yield _KeyChange(new.key, None, new, by)
                new = next(now, None)
            else:
                yield _KeyChange(new.key, old, new, by)
                old, new = next(told, None), next(now, None)

    def _compare(self) -> None:
        """Compare everything. The absence of a key in the mirror means something only where that is
        complete; elsewhere it is looked at again later."""
        self._compared_s = time.monotonic()
        uncertain: list[str] = []

        def certain() -> Iterator[_KeyChange]:
            for seen in self._of_range(self._prefix, "", S3):
                if seen.new is None and not self._is_covered(seen.key):
                    uncertain[:] = [seen.key]
                else:
                    yield seen

        self._tell(certain())
        self._store.set_note(self._bucket, _UNCERTAIN, "1" if uncertain else None)

    def _is_covered(self, key: str) -> bool:
        """Whether the mirror knows all names of the directory of *key*."""
        directory = key[: key.rfind("/", 0, -1) + 1]
        return self._mimicdb.cover(self._bucket, directory) is not None

    @property
    def _is_uncertain(self) -> bool:
        return self._store.note(self._bucket, _UNCERTAIN) is not None

    def _tell(self, found: Iterator[_KeyChange]) -> None:
        """Keep the news in *found*, and what was learned besides."""
        other = (each for each in found if each.old != each.new)
        while some := list(islice(other, _TOLD_AT_ONCE)):
            self._keep(some)

    def _keep(self, seen: Sequence[_KeyChange]) -> None:
        """Keep *seen* as news, and as what was told of each key, in one step."""
        seq, now_ns = self.last(), time.time_ns()
        news: list[Entry] = []
        for each, source in _with_moves([it for it in seen if not _same(it)]):
            seq += 1
            news.append(_entry_of(News(seq, now_ns, *_said(self._bucket, each, source))))
        told = [_kept(each.new) for each in seen if each.new is not None]
        gone = [f"s/{each.key}" for each in seen if each.new is None]
        old = [_number(it) for it in range(max(1, seq - _KEPT - len(news)), seq - _KEPT + 1)]
        puts = [*news, *told, Entry(_LAST, size=seq)]
        self._store.apply(self._bucket, puts, [*gone, *old])

    def _by(self, origin: int, names: dict[int, str]) -> str:
        if origin & 1:
            return S3
        if self._mirrored.is_own(origin):
            return THIS
        return names.get(origin, "another")

    # Both sides

    def _told(self, key: str) -> Entry | None:
        found = self._store.get(self._bucket, f"s/{key}")
        return found._replace(key=key) if found is not None else None

    def _now(self, key: str) -> Entry | None:
        found = self._mimicdb.entry(self._bucket, key)
        return found._replace(head=None) if found is not None and found.kind == OBJECT else None

    def _all_told(self, first: str, last: str) -> Iterator[Entry]:
        for page in _pages(self._store, self._bucket, f"s/{self._prefix}", f"s/{first}"):
            for entry in page:
                if last and entry.key[2:] > last:
                    return
                yield entry._replace(key=entry.key[2:])

    def _all_now(self, first: str, last: str) -> Iterator[Entry]:
        for page in _pages(self._mirrored, self._bucket, self._prefix, first):
            for entry in page:
                if last and entry.key > last:
                    return
                if entry.kind == OBJECT:
                    yield entry._replace(head=None)

    def _news(self, entry: Entry) -> News:
        said = entry.meta or {}
        return News(
            seq=int(entry.key[2:]),
            time_ns=entry.mtime_ns,
            change=said["change"],
            bucket=self._bucket,
            key=said["key"],
            size=entry.size,
            etag=entry.etag,
            by=said["by"],
            source=said.get("source", ""),
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within, no other process looks with the same store."""
        if self._lock is None:
            yield
            return
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def changes(feed: Feed, since: int | None, *, follow: bool) -> Iterator[list[News]]:
    """Yield the news of *feed* after number *since* (None: from now on), page by page; with
    *follow*, for ever. Raises StoreError."""
    feed.look()
    at = feed.last() if since is None else since
    while True:
        for page in feed.since(at):
            yield page
            at = page[-1].seq
        if not follow:
            return
        feed.wait()
        feed.look()


def _pages(store: Backend, bucket: str, prefix: str, first: str = "") -> Iterator[Sequence[Entry]]:
    """Yield the entries that begin with *prefix*, from the key *first* on."""
    own = store.get(bucket, first) if first and first.startswith(prefix) else None
    if own is not None:
        yield [own]
    yield from pages(lambda after: store.scan(bucket, prefix, after), first)


def _with_writer(change: Change, before: Change | None) -> Change:
    """Return *change*, a line of a key. If it was found in S3, and *before*, the line before it, is
    by a writer, give it that writer: mostly something more was learned of what it wrote."""
    if before is None or before.origin & 1 or not change.origin & 1:
        return change
    return change._replace(origin=before.origin)


def _line_of(change: Change) -> str:
    return json.dumps(change[1:])


def _spans(changes: Sequence[Change]) -> list[tuple[str, str, int]]:
    """Return the ranges of keys that *changes* are about, which do not overlap, with the origin of
    the last change of each."""
    wide = sorted((it.first, it.last, it.seq, it.origin) for it in changes if it.first != it.last)
    found: list[tuple[str, str, int, int]] = []
    for first, last, seq, origin in wide:
        begin, end, before, their = found[-1] if found else ("", "", 0, 0)
        if found and first <= end:
            latest = (seq, origin) if seq > before else (before, their)
            found[-1] = (begin, max(end, last), *latest)
        else:
            found.append((first, last, seq, origin))
    return [(first, last, origin) for first, last, _, origin in found]


def _same(seen: _KeyChange) -> bool:
    """Whether nobody needs to be told: to learn more of an object is no change of it."""
    old, new = seen.old, seen.new
    if old is None or new is None:
        return old is new
    learned = old.meta is None or new.meta is None
    return same_version(old, new) and (learned or old.meta == new.meta)


def _with_moves(seen: Sequence[_KeyChange]) -> Iterator[tuple[_KeyChange, str]]:
    """Yield *seen*, each with the key from which it was moved, or "". A deletion whose object is
    there again under a new key is left out."""
    gone: dict[tuple[str, int], list[str]] = {}
    for each in seen:
        if each.new is None and each.old is not None and each.old.etag and each.old.size:
            gone.setdefault((each.old.etag, each.old.size), []).append(each.key)
    moved: dict[str, str] = {}
    for each in seen:
        if each.old is None and each.new is not None:
            candidates = gone.get((each.new.etag, each.new.size))
            if candidates:
                moved[each.key] = _likeliest(each.key, candidates)
                candidates.remove(moved[each.key])
    sources = set(moved.values())
    for each in seen:
        if each.new is not None or each.key not in sources:
            yield each, moved.get(each.key, "")


def _likeliest(key: str, candidates: Sequence[str]) -> str:
    """Return the one of *candidates*, all with the same bytes, that *key* has become: preferably
    one of the same name."""
    name = name_of(key)
    return next((it for it in candidates if name_of(it) == name), candidates[0])


def _said(bucket: str, seen: _KeyChange, source: str) -> tuple[str, str, str, int, str, str, str]:
    change = MOVED if source else DELETED if seen.new is None else CHANGED if seen.old else ADDED
    shown = seen.new or seen.old
    assert shown is not None
    return change, bucket, seen.key, shown.size, shown.etag, seen.by, source


def _entry_of(news: News) -> Entry:
    said = {"change": news.change, "key": news.key, "by": news.by}
    if news.source:
        said["source"] = news.source
    return Entry(_number(news.seq), news.size, news.time_ns, news.etag, "", said)


def _kept(entry: Entry) -> Entry:
    return entry._replace(key=f"s/{entry.key}", head=None)


def _number(seq: int) -> str:
    return f"n/{seq:016d}"


def _names(sessions: Sequence[StoreSession]) -> dict[int, str]:
    """Return the names of the members of a store, by their origin."""
    found: dict[int, str] = {}
    for each in sessions:
        with suppress(KeyError, ValueError):
            place = each.mountpoint or f"process {each.pid}"
            found[int(each.said["origin"])] = f"{each.host}:{place}"
    return found
