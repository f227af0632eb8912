"""The ordered merge of a listed page with the same range of the mirror.

`merged` reads the mirror's side in pages and yields the changes in batches of bounded size; it
changes nothing itself. The common cases are fast: a range that the mirror does not have, and a
range that is the same on both sides.

Threading: none of its own; the backend's reads are snapshots, and a caller that applies a batch
leaves alone the keys that have changed since the page was asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.entry import KEPT, LISTED, NS, OBJECT, PAGE, Difference, DirectorySeen, Entry, pages

# Two sights of one version may differ by this: LastModified and Date have whole seconds.
SAME_TIME_NS = 2 * NS
_key = itemgetter(0)


class PageRange(NamedTuple):
    """The range for which a page speaks: the keys in (*after*, *upto*] below *prefix* (*upto* None:
    to the end). A *deep* page has every key. Any other has the direct children of *prefix*, and a
    child that is not listed takes everything below it along. *beyond* is the next key of S3 behind
    *upto*, if it is known."""

    prefix: str
    after: str
    upto: str | None
    deep: bool
    beyond: str = ""


@dataclass(slots=True)
class Batch:
    """A batch of changes that are applied together, and what it means. *gone* are entries that S3
    does not have. S3 does not have *late*, either: they are the last known entries of a directory
    of which S3 may have other keys, in another range. A caller that can wait deletes them when
    those keys are merged, so that the directory is there all the time."""

    puts: list[Entry] = field(default_factory=list)
    gone: list[Entry] = field(default_factory=list)
    late: list[Entry] = field(default_factory=list)
    # directories that were LISTED, whose keys are known now
    dropped: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: int = 0

    @property
    def deletes(self) -> list[str]:
        return [*(entry.key for entry in self.gone + self.late), *self.dropped]

    def without_gone(self) -> list[Entry]:
        """Return the entries that are gone, and leave them out."""
        gone, self.gone = self.gone, []
        return self._left_out(gone)

    def without_late(self) -> list[Entry]:
        """Return the entries to delete late, and leave them out."""
        late, self.late = self.late, []
        return self._left_out(late)

    def _left_out(self, entries: list[Entry]) -> list[Entry]:
        keys = {entry.key for entry in entries}
        self.deleted = [key for key in self.deleted if key not in keys]
        return entries

    def added_to(self, so_far: Difference, left: set[str]) -> Difference:
        """Return *so_far* with the changes of this batch, but for the keys *left* alone."""

        def still(keys: list[str]) -> list[str]:
            return [key for key in keys if key not in left] if left else keys

        return Difference(
            so_far.added + still(self.added),
            so_far.changed + still(self.changed),
            so_far.deleted + still(self.deleted),
            so_far.unchanged + self.unchanged,
        )


def merged(
    backend: Backend,
    bucket: str,
    where: PageRange,
    listed: Sequence[Entry],
    seen: DirectorySeen | None = None,
) -> Iterator[Batch]:
    """Yield the changes that make the mirror equal to *listed* in the range *where*; *seen* is all
    that it has there, if that was read already."""
    return _Merge(backend, bucket, where, listed, seen).batches()


class _Merge:
    def __init__(
        self,
        backend: Backend,
        bucket: str,
        where: PageRange,
        listed: Sequence[Entry],
        seen: DirectorySeen | None,
    ) -> None:
        self._seen = seen
        self._backend = backend
        self._bucket = bucket
        self._where = where
        self._listed = listed

    def batches(self) -> Iterator[Batch]:
        at, after, upto = 0, self._where.after, self._where.upto
        own = self._own_marker()
        while True:
            olds, ended = self._read(after)
            if own is not None:
                olds, own = [own, *olds], None
            if ended:
                news = self._listed[at:]
            else:
                end = bisect_right(self._listed, olds[-1].key, at, key=_key)
                news, at = self._listed[at:end], end
            uncertain = self._uncertain(after, upto if ended else olds[-1].key, news)
            yield from self._compared(olds, news, uncertain)
            if ended or olds[-1].key == upto:
                return
            after = olds[-1].key

    @staticmethod
    def _uncertain(after: str, upto: str | None, news: Sequence[Entry]) -> tuple[str, ...]:
        """Return the directories that reach beyond (*after*, *upto*] and have nothing in *news*:
        this page does not say whether S3 has them."""
        ends = {*_directories(after), *_directories(upto or "")}
        return tuple(end for end in ends if not _from(news, end).startswith(end))

    def _own_marker(self) -> Entry | None:
        """Return the marker of the directory, which a listing shows and `children` does not."""
        prefix, after, _, deep, _ = self._where
        if deep or not prefix or after:
            return None
        own = self._seen.own if self._seen else self._backend.get(self._bucket, prefix)
        return own if own is not None and own.kind == OBJECT else None

    def _read(self, after: str) -> tuple[list[Entry], bool]:
        """Return the next entries of the mirror, and whether they are the last of the range."""
        prefix, start, upto, deep, _ = self._where
        read = self._backend.scan if deep else self._backend.children
        if self._seen is not None:  # a directory of one page
            return self._seen.rows, True
        # nothing is known here, as at a first sync: other ranges need no reading
        if after == start:
            first = read(self._bucket, prefix, after, 1)
            if not first or (upto is not None and first[0].key > upto):
                return [], True
        page = read(self._bucket, prefix, after, PAGE)
        if not page:
            return [], True
        if upto is not None and page[-1].key > upto:
            return page[: bisect_right(page, upto, key=_key)], True
        return page, len(page) < PAGE

    def _compared(
        self, olds: list[Entry], news: Sequence[Entry], uncertain: tuple[str, ...]
    ) -> Iterator[Batch]:
        """Yield the changes that make *olds* equal to *news*."""
        if not olds:
            for start in range(0, len(news), PAGE):
                page = list(news[start : start + PAGE])
                yield Batch(puts=page, added=[entry.key for entry in page])
            return
        if olds == news:
            yield Batch(unchanged=len(olds))
            return
        batch = Batch()
        known = {entry.key: entry for entry in olds}
        for new in news:
            old = known.pop(new.key, None)
            if old is None:
                batch.puts.append(new)
                batch.added.append(new.key)
            elif old == new or (put := _difference(old, new)) is None:
                batch.unchanged += 1
            else:
                batch.puts.append(put)
                batch.changed.append(new.key)
        directories = [self._remove(batch, old, news, uncertain) for old in known.values()]
        yield batch
        for directory in directories:
            if directory:
                yield from self._all_below(directory, uncertain)

    def _remove(
        self, batch: Batch, old: Entry, news: Sequence[Entry], uncertain: tuple[str, ...]
    ) -> str:
        """Add to *batch* what it means that S3 does not show *old*. Return the directory that goes
        as a whole, or ""."""
        if old.kind == KEPT:
            return ""
        if not self._where.deep and old.key.endswith("/") and old.key != self._where.prefix:
            return old.key
        # Nobody sees that LISTED stood for keys which are known now. If they are merged later, it
        # stays, so that the directory is there all the time.
        if old.kind == LISTED:
            if _behind(news, old.key).startswith(old.key):
                batch.dropped.append(old.key)
                return ""
            if self._has_more(old.key):
                return ""
        (batch.late if old.key.startswith(uncertain) else batch.gone).append(old)
        batch.deleted.append(old.key)
        return ""

    def _has_more(self, directory: str) -> bool:
        """Whether S3 has a key below *directory*, which is in the range."""
        following = _behind(self._listed, directory) or self._where.beyond
        return following.startswith(directory)

    def _all_below(self, directory: str, uncertain: tuple[str, ...]) -> Iterator[Batch]:
        """Yield all entries below a subdirectory that S3 no longer shows: they go."""
        scan = self._backend.scan
        for page in pages(lambda after: scan(self._bucket, directory, after)):
            gone = [entry for entry in page if entry.kind != KEPT]
            keys = [entry.key for entry in gone]
            if directory.startswith(uncertain):
                yield Batch(late=gone, deleted=keys)
            else:
                yield Batch(gone=gone, deleted=keys)


def _behind(listed: Sequence[Entry], key: str) -> str:
    """Return the first key of *listed* behind *key*; "" if there is none."""
    at = bisect_right(listed, key, key=_key)
    return listed[at].key if at < len(listed) else ""


def _from(listed: Sequence[Entry], key: str) -> str:
    """Return *key* if it is in *listed*, or the first key behind it; "" if there is none."""
    at = bisect_left(listed, key, key=_key)
    return listed[at].key if at < len(listed) else ""


def _directories(key: str) -> list[str]:
    """Return the directories that *key* is in, itself included."""
    return [key[: n + 1] for n, letter in enumerate(key) if letter == "/"]


def _difference(old: Entry, new: Entry) -> Entry | None:
    """Return the entry to store where the mirror has *old* and S3 shows *new*; None: nothing
    changes."""
    if new.kind == LISTED:
        # This is a common prefix, which the mirror has as an entry, or which keys imply. A shallow
        # listing of the parent does not show a marker object, so that stays.
        return None
    if new.meta is None and same_version(old, new):
        head = still_said(old, new)
        if (new.storage_class, head) == (old.storage_class, old.head):
            return None
        return old._replace(storage_class=new.storage_class, head=head)
    return new


def same_version(old: Entry, new: Entry) -> bool:
    """Whether two sights of one key are of one version of its object.

    The times may differ by a little: the answer to a PUT has a Date, a HEAD whole seconds, a
    listing fractions. The time that was seen first is kept, so that it does not wander.
    """
    close = abs(old.mtime_ns - new.mtime_ns) <= SAME_TIME_NS
    return close and (old.kind, old.etag, old.size) == (OBJECT, new.etag, new.size)


def still_said(old: Entry, new: Entry) -> str | None:
    """Return what a HEAD said of *old* (Entry.head), unless *new*, a later sight of this version,
    shows that it would say something else now. A copy onto itself, which changes what is stored
    beside the bytes, leaves etag and size as they were; a lifecycle rule leaves the time, too."""
    if old.head is None or new.storage_class != old.storage_class:
        return None
    if None not in (old.meta, new.meta) and old.meta != new.meta:
        return None
    return old.head if f'"LastModified":{new.mtime_ns // NS}.' in old.head else None
