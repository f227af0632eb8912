"""From an index file into the mirror: a merge, as of the time that the file speaks of.

A store that does not know the bucket takes the whole file. Any other store knows some things that
are newer than the file, and leaves them alone:

* an entry whose time is later than the file's: it was written since;
* no entry, where the file has one that is older than the last listing of its place: that
  listing had it, and it was deleted since;
* any directory that was listed after the file's time;
* what another process changes while the import runs.

Times are S3's on one side and this machine's on the other, so they count as later or earlier only
by more than clocks may differ. In doubt an entry is shown: whoever opens an entry that is gone
finds out, but nobody finds out about a missing one. The lines that are left are merged page by page
by `Mirror.replace`, as a sync does it, and only at the end the scope is marked, with the file's
time. An import that ends early has deleted nothing behind the place that it has reached.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.entry import DAY_S, LISTED, NS, OBJECT, Difference, Entry, Scope, pages
from mimicfs.errors import ConfigError, LogTrimmed, MalformedIndex, StoreUnavailable
from mimicfs.index.exporting import whole_scope
from mimicfs.index.records import BATCH, Header, IndexPart, time_text
from mimicfs.merging import same_version, still_said
from mimicfs.mimicdb import Mirror
from mimicfs.sync.freshness import note_known_as_of_before

# S3 refuses requests from a clock that is off by more, so clocks differ by less.
SKEW_NS = 15 * 60 * NS
# An object of several parts has the time when its upload began, and a report of S3 Inventory
# may lack what was written not long before.
DAY_NS = DAY_S * NS

_TRIES = 20  # of merging one page while others change it


class Imported(NamedTuple):
    """The result of importing a part. *left*: entries of the mirror that were newer."""

    bucket: str
    prefix: str
    synced_ns: int
    entries: int
    added: int
    changed: int
    deleted: int
    unchanged: int
    left: int


def import_buckets(mimicdb: Mirror, header: Header) -> None:
    """Take the list of buckets from *header*, where the mirror has none."""
    if header.buckets_ns is None or mimicdb.scope("", "") is not None:
        return
    for name, created_ns in header.buckets:
        mimicdb.add_bucket(name, created_ns)
    mimicdb.complete("", Scope("", False, header.buckets_ns))


def import_part(
    mimicdb: Mirror,
    part: IndexPart,
    batches: Iterable[list[Entry]],
    *,
    force: bool = False,
    uncertain_ns: int = SKEW_NS,
) -> Imported:
    """Merge *part*, whose entries come in order in *batches*, into the mirror.

    *force*: the mirror is made equal to it, whatever it knows. Where the prefix ends within a
    name, the directories whose names begin so are known whole then. *uncertain_ns*: the part
    may lack what was written so long before its time. Raises ConfigError if what the mirror
    knows of all of it is newer, StoreError, and what reading *batches* raises; then the scope
    is not marked.
    """
    if force:
        mimicdb.uncover(part.bucket, directory_of(part.prefix))
    else:
        _check_age(mimicdb, part)
    if part.created_ns:
        mimicdb.add_bucket(part.bucket, part.created_ns)
    merge = _ImportMerge(mimicdb, part, force, uncertain_ns)
    try:
        imported = merge.run(batches)
    except MalformedIndex as exc:
        text = f"the entries before that were merged, but {part} is not marked as synced"
        raise MalformedIndex(f"{exc} ({text})") from exc
    note_known_as_of_before(mimicdb, part.bucket)
    names = imported.entries if directory_of(part.prefix) == part.prefix else 0
    counts = (imported.added, imported.changed, imported.deleted, names)
    for prefix in _directories(mimicdb.backend, part):
        scope = Scope(prefix, True, part.synced_ns, part.duration_ns, *counts)
        mimicdb.complete(part.bucket, scope, merge.since)
    for scope in merge.newer.values():  # marking the whole has replaced them
        mimicdb.complete(part.bucket, scope, merge.since)
    return imported


def directory_of(prefix: str) -> str:
    """Return the directory that keys which begin with *prefix* are in."""
    return prefix[: prefix.rfind("/") + 1]


def _directories(backend: Backend, part: IndexPart) -> Iterator[str]:
    """Yield the directories that are just what begins with the part's prefix."""
    directory = directory_of(part.prefix)
    if directory == part.prefix:
        yield directory
        return
    children = backend.children
    for page in pages(lambda after: children(part.bucket, directory, after), part.prefix):
        for child in page:
            if not child.key.startswith(part.prefix):
                return
            if child.key.endswith("/"):
                yield child.key


def _check_age(mimicdb: Mirror, part: IndexPart) -> None:
    scope = whole_scope(mimicdb.backend, part.bucket, part.prefix)
    if scope is not None and scope.listed_ns > part.synced_ns:
        raise ConfigError(
            f"{part}: the mirror has it as of {time_text(scope.listed_ns)[:19]}Z, the import is"
            f" older ({time_text(part.synced_ns)[:19]}Z); --force goes back to it"
        )


class _ImportMerge:
    """The ordered merge of what is imported with what the mirror has of *part*."""

    def __init__(self, mimicdb: Mirror, part: IndexPart, force: bool, uncertain_ns: int) -> None:
        self.newer: dict[str, Scope] = {}  # scopes that are newer than the import
        self.merged = 0  # entries of the import
        self._mimicdb = mimicdb
        self._backend = mimicdb.backend
        self._part = part
        self._force = force
        self._uncertain_ns = uncertain_ns
        self._others = _Others(mimicdb, part.bucket)
        self.since = self._others.seen  # of the log, before anything is merged
        self._known = self._is_known()
        self._left = 0
        self._cover: tuple[str, Scope | None] = ("\0", None)  # of the directory asked for last

    def _is_known(self) -> bool:
        bucket, prefix = self._part.bucket, self._part.prefix
        if self._backend.scan(bucket, prefix, "", 1):
            return True
        return self._backend.cover(bucket, directory_of(prefix)) is not None

    def run(self, batches: Iterable[list[Entry]]) -> Imported:
        part = self._part
        added = changed = deleted = unchanged = 0
        after = ""
        coming = self._reconciled(batches)
        page = list(islice(coming, BATCH))
        while True:
            following = list(islice(coming, BATCH))
            upto = page[-1].key if following else None
            difference = self._replace(page, after, upto)
            added += len(difference.added)
            changed += len(difference.changed)
            deleted += len(difference.deleted)
            unchanged += difference.unchanged
            if upto is None:
                break
            page, after = following, upto
        where = (part.bucket, part.prefix, part.synced_ns)
        return Imported(*where, self.merged, added, changed, deleted, unchanged, self._left)

    def _replace(self, page: list[Entry], after: str, upto: str | None) -> Difference:
        """Merge *page*, but for what others have changed since this began.

        A change that they make while it is merged has a higher number, and is left alone. Where
        that is a range, so is what is in the range and nobody has changed: then it is done again.
        """
        others = self._others
        others.look()
        for _ in range(_TRIES):
            difference = self._mimicdb.replace(
                self._part.bucket,
                self._part.prefix,
                page if self._force else self._without(page, after, upto),
                after=after,
                upto=upto,
                since=others.seen,
                deep=True,
            )
            if not any(
                last > after and (not upto or first <= upto) for first, last in others.look()
            ):
                return difference
        text = "too much changes there; import when there is less activity"
        raise StoreUnavailable(f"{self._part}: {text}")

    def _without(self, page: list[Entry], after: str, upto: str | None) -> list[Entry]:
        """Return *page* with what others have made of its keys."""
        if not self._others.any:
            return page
        theirs = {entry.key: entry for entry in self._of_others(after, upto)}
        rest = [e for e in page if e.key not in theirs and not self._others.named(e.key)]
        return sorted([*rest, *theirs.values()], key=attrgetter("key"))

    def _of_others(self, after: str, upto: str | None) -> Iterator[Entry]:
        for entry in self._mirror(after):
            if upto is not None and entry.key > upto:
                return
            if self._others.changed(entry.key):
                yield entry

    def _reconciled(self, batches: Iterable[list[Entry]]) -> Iterator[Entry]:
        """Yield what the mirror is to have, in order."""
        mirror = self._mirror("") if self._known else iter(())
        old = next(mirror, None)
        for batch in batches:
            for new in batch:
                self.merged += 1
                while old is not None and old.key < new.key:
                    yield from self._decided(old, None)
                    old = next(mirror, None)
                if old is not None and old.key == new.key:
                    yield from self._decided(old, new)
                    old = next(mirror, None)
                else:
                    yield from self._decided(None, new)
        while old is not None:
            yield from self._decided(old, None)
            old = next(mirror, None)

    def _mirror(self, after: str) -> Iterator[Entry]:
        """Yield the mirror's entries behind *after*."""
        part, scan = self._part, self._backend.scan
        for page in pages(lambda at: scan(part.bucket, part.prefix, at), after):
            yield from page

    def _decided(self, old: Entry | None, new: Entry | None) -> Iterator[Entry]:
        chosen = new if self._force or not self._known else self._chosen(old, new)
        if chosen is not new and (old is None or old.kind == OBJECT):
            self._left += 1
        if chosen is not None:
            yield _with_learned(old, chosen)

    def _chosen(self, old: Entry | None, new: Entry | None) -> Entry | None:
        """Return which of the mirror's and the import's is to be there."""
        if old is None:
            return self._if_not_deleted(new) if new is not None else None
        if new is not None and (old.kind == LISTED or same_version(old, new)):
            return new
        if self._is_known_later(old):
            return old
        if old.kind != OBJECT:
            return new
        if self._is_later(old) and (new is None or old.mtime_ns > new.mtime_ns):
            return old
        return new

    def _if_not_deleted(self, new: Entry) -> Entry | None:
        """Return *new*, unless the mirror had it and lacks it by now."""
        if self._is_known_later(new):
            return None
        cover = self._covering(new)
        return None if cover is not None and _was_there(new, cover) else new

    def _is_known_later(self, entry: Entry) -> bool:
        """Whether the place of *entry* was listed after the import's time."""
        cover = self._covering(entry)
        if cover is None or cover.listed_ns <= self._part.synced_ns:
            return False
        if cover.prefix != self._part.prefix:
            self.newer[cover.prefix] = cover
        return True

    def _covering(self, entry: Entry) -> Scope | None:
        """Return the newest listing that *entry* must have been in. A marker object is in that
        of its directory; a directory without one in that of the directory above."""
        key = entry.key
        directory = directory_of(key if entry.kind == OBJECT else key.removesuffix("/"))
        before, cover = self._cover
        if before != directory:
            cover = self._backend.cover(self._part.bucket, directory)
            self._cover = directory, cover
        return cover

    def _is_later(self, old: Entry) -> bool:
        """Whether *old* may have been written after the import's time."""
        uncertain_ns = DAY_NS if "-" in old.etag else self._uncertain_ns
        return old.mtime_ns > self._part.synced_ns - uncertain_ns


def _was_there(new: Entry, cover: Scope) -> bool:
    """Whether the listing *cover* certainly had *new*, which the mirror lacks by now."""
    whole = new.kind == OBJECT and "-" not in new.etag
    return whole and new.mtime_ns < cover.listed_ns - SKEW_NS


def _with_learned(old: Entry | None, new: Entry) -> Entry:
    """Return *new* with what the mirror has learned of the same version."""
    if old is None or old is new or not same_version(old, new):
        return new
    return old._replace(
        storage_class=new.storage_class,
        meta=new.meta if old.meta is None else old.meta,
        head=still_said(old, new) or new.head,
    )


class _Others:
    """The changes of other processes in *bucket* while this runs. Bounded by what they do."""

    def __init__(self, mimicdb: Mirror, bucket: str) -> None:
        self.any = False
        self._backend = mimicdb.backend
        self._bucket = bucket
        self.seen = self._backend.seq(bucket)
        self._keys: set[str] = set()
        self._ranges: list[tuple[str, str]] = []  # in order, and apart from each other

    def look(self) -> list[tuple[str, str]]:
        """Take note of what changed since the last look; return the ranges among that."""
        try:
            changes = self._backend.changes(self._bucket, self.seen)
        except LogTrimmed as exc:
            text = "its log is trimmed too fast; import when there is less activity"
            raise StoreUnavailable(f"s3://{self._bucket}: {text}") from exc
        foreign = [change for change in changes if not self._backend.is_own(change.origin)]
        if changes:
            self.seen = changes[-1].seq
        self.any = self.any or bool(foreign)
        self._keys |= {change.first for change in foreign if change.first == change.last}
        wide = [(change.first, change.last) for change in foreign if change.first < change.last]
        if wide:
            self._ranges = _joined(self._ranges + wide)
        return wide

    def named(self, key: str) -> bool:
        """Whether just *key* was changed, or deleted."""
        return key in self._keys

    def changed(self, key: str) -> bool:
        """Whether *key* may have been changed. Of many changes at once the log has the first
        and the last key: one in between that is not there need not have been deleted."""
        if key in self._keys:
            return True
        place = bisect_right(self._ranges, key, key=lambda span: span[0]) - 1
        _, last = self._ranges[place] if place >= 0 else ("", "")
        return place >= 0 and key <= last


def _joined(spans: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the same spans in order, those joined that overlap."""
    found: list[tuple[str, str]] = []
    for first, last in sorted(spans):
        begin, end = found[-1] if found else ("", "")
        if found and first <= end:
            found[-1] = (begin, max(last, end))
        else:
            found.append((first, last))
    return found
