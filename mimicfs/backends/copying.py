"""The copy of a replica: what it has, how directories come into it, and how the log is applied.

    copied     The directories of which the copy has all children, each with the scope that
               covers it in the store, and what was noted of it.
    named      The directories above the one that the mount shows, of which the copy has one name:
               the one on the way.
    coming     Those that are being copied: the log is applied to them, and nobody is answered
               from them.
    place      By bucket, the number of the last line of the log that the copy has taken in.

INVARIANT: what the copy has of a copied directory is what the store had at one time not before
line `place`; a subdirectory that is copied too and is empty by now may have rows below it.
What a line changed is read from the store, not from the line, so that no line comes twice.

The store is asked for the rows of a directory without a lock: the log can be taken in meanwhile,
however large the directory is. Rows that the log has brought since then (`touched`) are newer, and
stay.

The copy outlives the mount. At the next one it goes on from its place, if that is in the log.

Threading: any thread. `lock` protects everything except `rows`, which any thread reads, and only
the holder of `lock` writes.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mimicfs.backends import Backend
from mimicfs.backends.recent import Recent, RecentNotes
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import (
    LAST_KEY,
    LISTED,
    PAGE,
    Change,
    DirectoryCopy,
    DirectorySeen,
    Entry,
    OwnChange,
    Scope,
    pages,
)
from mimicfs.errors import LogTrimmed

log = logging.getLogger(__name__)

_PAGE = PAGE  # names, and lines of the log, that are read at a time
_PLACE = "place"
_NOTHING: Mapping[str, Scope] = {}


@dataclass(slots=True, eq=False)
class _Coming:
    """*directories* are being copied. *touched*: the keys in them that the log brought since their
    rows were asked for."""

    directories: set[str]
    touched: set[str] = field(default_factory=set)


class Copying:
    """Copies *shared* into *rows*. *prefix*: that of the mount, which shows nothing else. *heard*
    is called for each answer of *shared* while a log is taken in."""

    def __init__(
        self, shared: Backend, rows: SQLite, prefix: str, heard: Callable[[], None]
    ) -> None:
        self.rows = rows
        self._heard = heard
        self.lock = threading.RLock()
        self._shared = shared
        self._way = dict(_way(prefix))
        self._copied: dict[str, dict[str, Scope]] = {}
        self._named: dict[str, set[str]] = {}
        self._coming: dict[str, list[_Coming]] = {}
        self._places: dict[str, int] = {}
        self._kept_places: dict[str, int] = {}
        # Those that the store had not listed, with a line from before and their rows.
        self._unlisted: Recent[tuple[int, list[Entry]]] = Recent()
        self.notes = RecentNotes(shared, rows)
        # Held by the thread that copies: the rows for which it asks are newer than any that another
        # thread has stored. Taken before `lock`.
        self._small = threading.Lock()
        self._large = threading.Lock()

    def resume(self) -> None:
        """Go on with the copy of an earlier mount. Raises StoreError."""
        for bucket in self.rows.buckets():
            place = self.rows.note(bucket.name, _PLACE)
            if place is not None:
                self._places[bucket.name] = self._kept_places[bucket.name] = int(place)
                scopes = self.rows.scopes(bucket.name)
                self._copied[bucket.name] = {scope.prefix: scope for scope in scopes}

    # What there is

    def of(self, bucket: str) -> Mapping[str, Scope]:
        """Return the scopes of the copied directories."""
        return self._copied.get(bucket, _NOTHING)

    def has_name(self, bucket: str, directory: str, name: str) -> bool:
        """Whether the copy knows *name* in *directory*, present or absent."""
        return directory in self.of(bucket) or (
            directory in self._named.get(bucket, ()) and self._is_on_way(directory, name)
        )

    def is_shown(self, directory: str) -> bool:
        """Whether the mount may ask for more than one name in *directory*."""
        return directory not in self._way

    def _is_on_way(self, directory: str, name: str) -> bool:
        return self._way.get(directory) == name.removesuffix("/")

    def __len__(self) -> int:
        return sum(len(each) for each in list(self._copied.values()))

    # Copying

    def bring_name(self, bucket: str, directory: str) -> None:
        """Copy the one name of *directory* that the mount shows. Raises StoreError."""
        with self.lock:
            self._begin(bucket)
            self._copy_names(bucket, [(directory, self._way[directory])])
            self._named.setdefault(bucket, set()).add(directory)

    def bring_all(
        self, bucket: str, directories: Sequence[str], *, large: Collection[str] = ()
    ) -> tuple[list[str], int]:
        """Copy those of *directories* that the store has whole; if they have more than one page,
        only those that are *large*. Return what comes next, the directories in those that were not
        copied before and the large ones that were left out; and how many names they have. Raises
        StoreError."""
        with self._small:
            missing = [each for each in directories if each not in self.of(bucket)]
            left, found = self._copy_small(bucket, missing) if missing else ([], {})
        for directory in set(left).intersection(large):
            with self._large:
                if directory not in self.of(bucket):
                    self._copy_large(bucket, directory)
        for directory in missing:
            if directory not in found and directory in self.of(bucket):
                found[directory] = self.rows.children(bucket, directory)
        rows = [row for each in missing for row in found.get(each, ())]
        below = [row.key for row in rows if row.key.endswith("/")]
        return below + [each for each in left if each not in large], len(rows)

    def _begin(self, bucket: str) -> None:
        if bucket not in self._places:
            self.forget(bucket)
            self._places[bucket] = self._shared.seq(bucket)
            self._copied[bucket] = {}

    @contextmanager
    def _asking(self, bucket: str, directories: Collection[str]) -> Iterator[_Coming]:
        """Within, *directories* are coming."""
        coming = _Coming(set(directories))
        with self.lock:
            self._begin(bucket)
            self._coming.setdefault(bucket, []).append(coming)
        try:
            yield coming
        finally:
            with self.lock:
                left = [each for each in self._coming.get(bucket, ()) if each is not coming]
                self._coming[bucket] = left

    def _copy_small(
        self, bucket: str, directories: Sequence[str]
    ) -> tuple[list[str], dict[str, list[Entry]]]:
        """Copy those of *directories* that have one page, and return their rows; and those that
        have more."""
        large: list[str] = []
        whole: list[tuple[str, DirectoryCopy]] = []
        with self._asking(bucket, directories) as coming:
            place = self._places.get(bucket, 0)  # before: what comes after it is in the log
            found = self._shared.directories(bucket, directories, _PAGE)
            with self.lock:
                for directory, copy in zip(directories, found, strict=True):
                    if copy.scope is None:
                        self._unlisted.note(bucket, directory, (place, copy.rows))
                        continue
                    if directory not in coming.directories:
                        continue
                    if directory in self.of(bucket):  # another thread has rows that are newer
                        continue
                    if len(copy.rows) < _PAGE:
                        whole.append((directory, copy))
                    else:
                        large.append(directory)
                if whole:  # otherwise the bucket may be forgotten
                    self._take_whole(bucket, whole, coming)
        return large, {directory: copy.rows for directory, copy in whole}

    def _take_whole(
        self, bucket: str, whole: list[tuple[str, DirectoryCopy]], coming: _Coming
    ) -> None:
        scopes = {each: copy.scope for each, copy in whole if copy.scope is not None}
        differences = self._differences(bucket, whole, coming)
        with self.rows.together():
            new, gone = (
                [row for each in its for row in each] for its in zip(*differences, strict=True)
            )
            self._store(bucket, new, gone)
            self._note_copied(bucket, [(each, scopes[each], copy.note) for each, copy in whole])
        # Others read without a lock: they find the directory from now on, and not before it is
        # committed.
        self._copied[bucket].update((each, _of(each, scope)) for each, scope in scopes.items())

    def _copy_large(self, bucket: str, directory: str) -> None:
        """Copy page by page. Between two of them others may write."""
        with self._asking(bucket, [directory]) as coming:
            [(scope, rows, _)] = self._shared.directories(bucket, [directory], _PAGE)
            after = ""
            while scope is not None:
                with self.lock:
                    if directory not in coming.directories or directory in self.of(bucket):
                        return
                    self._store(bucket, *self._differs(bucket, (directory, after), rows, coming))
                    coming.touched.clear()
                    if len(rows) < _PAGE:
                        [note] = self._shared.notes_of(bucket, [directory])
                        self._note_copied(bucket, [(directory, scope, note)])
                        self._copied[bucket][directory] = _of(directory, scope)
                        return
                after = rows[-1].key
                rows = self._shared.children(bucket, directory, after, _PAGE)

    def _differences(
        self, bucket: str, whole: list[tuple[str, DirectoryCopy]], coming: _Coming
    ) -> list[tuple[list[Entry], list[str]]]:
        """Return the result of `_differs` for each of *whole*. Most of what a walk copies is copied
        for the first time, and nothing of it can have gone."""
        places = [directory for directory, _ in whole]
        old = {*places} if coming.touched else self.rows.with_rows(bucket, places)
        return [
            self._differs(bucket, (each, ""), copy.rows, coming) if each in old else (copy.rows, [])
            for each, copy in whole
        ]

    def _differs(
        self, bucket: str, place: tuple[str, str], rows: list[Entry], coming: _Coming
    ) -> tuple[list[Entry], list[str]]:
        """Return the rows to store, and those that have gone, where the store has *rows* at
        *place*, in a directory behind a key."""
        touched = coming.touched
        gone = [key for key in self._gone(bucket, *place, rows) if key not in touched]
        new = [row for row in rows if row.key not in touched] if touched else rows
        return new, self._with_all_below(bucket, gone)

    def _note_copied(self, bucket: str, found: Sequence[tuple[str, Scope, str | None]]) -> None:
        self.rows.keep_directories(
            bucket, [(_of(each, scope), note) for each, scope, note in found]
        )
        for directory, _, note in found:
            self.notes.note(bucket, directory, note)

    def _gone(self, bucket: str, directory: str, after: str, rows: list[Entry]) -> Iterator[str]:
        """Yield what the copy has of *directory* behind *after* although the store, of which
        *rows* is the page there, has not."""
        keys = {row.key for row in rows}
        upto = rows[-1].key if len(rows) == _PAGE else LAST_KEY
        read = self.rows.children
        for page in pages(lambda key: read(bucket, directory, key, _PAGE), after, _PAGE):
            yield from (row.key for row in page if row.key not in keys and row.key <= upto)
            if page[-1].key > upto:
                return

    def _with_all_below(self, bucket: str, keys: Iterable[str]) -> list[str]:
        found: list[str] = []
        for key in keys:
            found.append(key)
            if key.endswith("/"):
                found += self._keys_below(bucket, key)
        return found

    def _keys_below(self, bucket: str, directory: str) -> list[str]:
        scan = self.rows.scan
        read = pages(lambda after: scan(bucket, directory, after, _PAGE), directory, _PAGE)
        return [row.key for page in read for row in page]

    def _store(self, bucket: str, rows: Sequence[Entry], gone: Sequence[str]) -> None:
        if rows or gone:
            self.rows.keep(bucket, rows, gone)

    # The log. Whoever calls one of these holds `lock`.

    def take_in(self, bucket: str, upto: float = math.inf) -> None:
        """Take in what the log of *bucket* has by now, at least up to line *upto*. Raises
        StoreError."""
        while self._places.get(bucket, math.inf) < upto:
            try:
                changes = self._shared.changes(bucket, self._places[bucket], _PAGE)
            except LogTrimmed as exc:
                log.info("s3://%s: %s; the copy starts anew", bucket, exc)
                self.forget(bucket)
                return
            if not changes:
                return
            self._heard()
            self._absorb(bucket, changes)
            self._places[bucket] = changes[-1].seq
            self._keep_place(bucket, _PAGE)
            if len(changes) < _PAGE:  # that was the end
                return

    def take_in_own(self, bucket: str, own: OwnChange, puts: Sequence[Entry]) -> bool:
        """Take in *own*, a change by which this process has just stored *puts*, if the copy has all
        lines before it: then nobody need ask for the rows. Return whether the copy has it now."""
        place, after = self._places.get(bucket), own.before + own.lines
        if place is not None and place >= after:  # nothing is new, or another thread was quicker
            return True
        if place != own.before:
            return False
        gone = [key for key in own.gone if self._is_copied(bucket, key)]
        made = set(own.made).difference(gone, (entry.key for entry in puts))
        rows = [*puts, *(Entry(key, kind=LISTED) for key in sorted(made))]
        rows = [row for row in rows if self._is_copied(bucket, row.key)]
        self._store(bucket, rows, self._with_all_below(bucket, gone))
        for coming in self._coming.get(bucket, ()):
            coming.touched.update(gone, (row.key for row in rows))
        self._places[bucket] = after
        self._keep_place(bucket, _PAGE)
        return True

    def _is_copied(self, bucket: str, key: str) -> bool:
        """Whether the copy has, or is going to have, the directory in which *key* is."""
        return next(self._ways(bucket, key), None) == _name_in(key)

    def place(self, bucket: str) -> int | None:
        """Return the number of the last line that was taken in; None: nothing is copied."""
        return self._places.get(bucket)

    def _absorb(self, bucket: str, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.first != change.last:
                self.drop(bucket, change.first, change.last)
        keys = {change.first for change in changes if change.first == change.last}
        wanted = dict.fromkeys(pair for key in keys for pair in self._ways(bucket, key))
        if wanted:
            self._copy_names(bucket, list(wanted))

    def _copy_names(self, bucket: str, wanted: Sequence[tuple[str, str]]) -> None:
        """Copy single names, each given as its directory and itself."""
        rows: list[Entry] = []
        gone: list[str] = []
        keys: set[str] = set()
        for (directory, name), found in zip(
            wanted, self._shared.lookups(bucket, list(wanted)), strict=True
        ):
            for key, entry in zip((directory + name, f"{directory}{name}/"), found, strict=True):
                keys.add(key)
                if entry is None:
                    gone.append(key)
                else:
                    rows.append(entry)
        there = [key for key in gone if self._is_there(bucket, key)]
        self._store(bucket, rows, self._with_all_below(bucket, there))
        for coming in self._coming.get(bucket, ()):
            coming.touched |= keys

    def _is_there(self, bucket: str, key: str) -> bool:
        if key.endswith("/"):
            return self.rows.has_below(bucket, key)
        return self.rows.get(bucket, key) is not None

    def _ways(self, bucket: str, key: str) -> Iterator[tuple[str, str]]:
        """Yield each directory with *key* in or below it of which there is a copy, or will be, and
        the name there."""
        coming = [each.directories for each in self._coming.get(bucket, ())]
        while key:
            directory, name = split(key)
            if self.has_name(bucket, directory, name) or any(directory in each for each in coming):
                yield directory, name.removesuffix("/")
            key = directory

    def drop(self, bucket: str, first: str, last: str) -> None:
        """Forget the directories between two keys, where anything may have changed: they are not
        copied now."""
        copied = self._copied.get(bucket, {})
        named = self._named.get(bucket, set())
        coming = [each.directories for each in self._coming.get(bucket, ())]
        near = [
            directory
            for directory in {*copied, *named}.union(*coming)
            if directory <= last and first < directory + LAST_KEY
        ]
        self.rows.unmark_each(bucket, near)
        for directory in near:
            copied.pop(directory, None)
            for each in (named, *coming):
                each.discard(directory)

    def is_unlisted(self, bucket: str, directory: str) -> bool:
        """Whether nobody had listed *directory* a moment ago. Somebody may have by now: then it is
        listed once more."""
        return self._unlisted.recent(bucket, directory) is not None

    def seen_lately(self, bucket: str, directory: str) -> DirectorySeen | None:
        """Return what was seen then, if that is all."""
        parent, _ = split(directory)
        with self.lock:
            seen = self._unlisted.recent(bucket, directory)
            if seen is None or (directory and parent not in self.of(bucket)):
                return None
            own = self.rows.get(bucket, directory) if directory else None
        place, rows = seen
        return DirectorySeen(place, own, rows) if len(rows) < _PAGE else None

    def remark(self, bucket: str, scope: Scope) -> None:
        """Note that the store has listed *scope*."""
        self._unlisted.clear()
        copied = self._copied.get(bucket, {})
        inside = [each for each in copied if each.startswith(scope.prefix)]
        for each in inside if scope.deep else [scope.prefix]:
            if each in copied:
                copied[each] = _of(each, scope)

    def forget(self, bucket: str) -> None:
        """Forget the copy of *bucket*."""
        for coming in self._coming.get(bucket, ()):
            coming.directories.clear()
        self._places.pop(bucket, None)
        self._kept_places.pop(bucket, None)
        self._copied.pop(bucket, None)
        self._named.pop(bucket, None)
        self.rows.unmark(bucket, "")
        self.rows.set_note(bucket, _PLACE, None)

    def forget_all(self) -> None:
        for bucket in list(self._copied):
            self.forget(bucket)

    def _keep_place(self, bucket: str, lag: int) -> None:
        """Note the place, if the noted one is *lag* behind. (A line that comes twice does no
        harm.)"""
        place = self._places.get(bucket)
        if place is not None and place - self._kept_places.get(bucket, -lag) >= lag:
            self.rows.set_note(bucket, _PLACE, str(place))
            self._kept_places[bucket] = place

    def close(self) -> None:
        with self.lock:
            for bucket in list(self._places):
                self._keep_place(bucket, 1)
            self.rows.close()


def _name_in(key: str) -> tuple[str, str]:
    directory, name = split(key)
    return directory, name.removesuffix("/")


def split(key: str) -> tuple[str, str]:
    """Return the directory that *key* is in, and its name there."""
    cut = key.rfind("/", 0, -1) + 1
    return key[:cut], key[cut:]


def _of(directory: str, scope: Scope) -> Scope:
    """Return *scope* as that of *directory* alone."""
    return scope._replace(prefix=directory, deep=False)


def _way(prefix: str) -> Iterator[tuple[str, str]]:
    """Yield each directory above *prefix*, and the name there that leads on."""
    key = prefix if prefix.endswith("/") else ""
    while key:
        directory, name = split(key)
        yield directory, name[:-1]
        key = directory
