"""Reading ahead across files: a reader that goes through the files of a directory one after the
other finds the next ones already here.

The mirror knows sizes and etags, so nothing is asked of S3 but the bytes. Programs go through a
directory in one of two orders: that of the names (grep -r, tar, a shell's *, rsync), or that of the
inode numbers (cp -r: coreutils sort so, for disks on which that is quicker). Once the second file
follows the first in one of them, the next small ones are fetched: 4, then 8, up to 32 ahead. A
wrong guess ends that, and has cost what was fetched. After a right guess only several wrong ones in
a row end it: where many threads read, some lag behind. Files that were passed over are dropped when
64 others were opened. A reader goes through a tree in one order: after it has read one directory
like that, the next one is foreseen from its first file on. If S3 must first be asked what is stored
with that file, both happen at the same time. If the file is not opened then, the directory behind
it is not foreseen.

Threading: any thread may open. `Neighbours._lock` protects the table of walks, and is held for a
few instructions. The lock of a walk protects the walk, and is held while the mirror looks up its
next names: `opened_at_once` does not wait for it. Nobody waits for the files that are fetched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from mimicfs.config.sizes import MIB
from mimicfs.entry import OBJECT, Entry
from mimicfs.errors import MimicError
from mimicfs.files.reader import Reader
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import Node

log = logging.getLogger(__name__)

_SMALL = 1 * MIB  # a larger file has a read-ahead of its own
_BYTES = 8 * MIB  # of one directory, fetched and not opened yet
_MOST = 32  # files foreseen: 1,600 a second where each takes 20 ms
_LATE = 64  # a file that was passed over is dropped after so many others were opened
_PRESUMED_ROW = 2  # begin as if so many had been foreseen: 16 files ahead at once
_NEAR = 4  # the next file is one of the next so many: several threads may read at once
_MISSES = 3  # so many unforeseen files in a row end a walk that was right so often before
_SORTED = 20_000  # a directory with more files is foreseen by name, or not at all
_ORDERS = 8  # directories of which the order of the inode numbers is kept
_AGAIN_S = 5.0  # by then a name that is not in the order may be new
_WALKS = 64  # directories that are remembered
_SOON_S = 2.0  # a directory that is begun so soon after another one goes on with its tree


class _Habit(NamedTuple):
    """The order in which programs go through directories of a bucket, as was seen at *seen_s*."""

    bucket: str
    by_number: bool
    seen_s: float


class _Foreseen(NamedTuple):
    entry: Entry
    reader: Reader | None  # None: not fetched
    since: int  # how many files had been opened by then


class _OpenInWalk(NamedTuple):
    """The place of an open in its walk."""

    found: _Foreseen | None
    before: str  # the key before it, where it was not foreseen
    dropped: list[Reader]  # to be closed
    look: bool  # whether to look the next names up


class _Order(NamedTuple):
    """The files of a directory in the order of their inode numbers, as it was at *made_s*; no files
    of a directory that has too many."""

    made_s: float
    keys: list[str]
    places: dict[str, int]  # in that list


class _DirectoryWalk:
    """The walk of a program through one directory."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # protects all below
        self.opened = 0
        self.row = 0  # files in a row that were foreseen
        self.missed = 0  # files in a row that were not
        self.last = ""  # key of the file that was opened last, or foreseen last
        self.by_number = False  # the order is that of the inode numbers
        self.presumed = False  # it is foreseen because others were, and no file of it was read yet
        self.order: _Order | None = None  # replaced in one step, also without the lock
        self.foreseen: OrderedDict[str, _Foreseen] = OrderedDict()
        self.looking = False  # somebody looks the next names up

    def begin(self, key: str) -> list[Reader]:
        """Begin anew behind *key*; return the readers to be closed."""
        readers = [each.reader for each in self.foreseen.values() if each.reader is not None]
        self.foreseen.clear()
        self.row, self.missed, self.last = 0, 0, key
        return readers

    def goes_on(self, key: str) -> bool:
        """Whether the walk goes on though a thread opens *key*, which was not foreseen: that thread
        lags behind the others, or they were quicker than the walk foresees."""
        self.missed += 1
        if self.presumed or self.row < _MISSES or self.missed > _MISSES:
            return False
        if self.is_behind(key):
            self.last = key
        return True

    def is_behind(self, key: str) -> bool:
        """Whether *key* comes behind the files that were foreseen."""
        if not self.by_number:
            return key > self.last
        places = self.order.places if self.order is not None else {}
        return places.get(key, -1) > places.get(self.last, -1)

    def lacks_order(self, key: str) -> bool:
        """Whether the whole directory must be looked at before it is known what follows *key*."""
        order = self.order
        return self.by_number and (order is None or (key not in order.places and _is_old(order)))

    def presume(self, habit: _Habit) -> None:
        """Presume that the walk goes as *habit* says."""
        self.presumed, self.by_number, self.row = True, habit.by_number, _PRESUMED_ROW

    def late(self) -> list[Reader]:
        """Forget files that were passed over long ago; return the readers to be closed."""
        dropped: list[Reader] = []
        while self.foreseen:
            key, first = next(iter(self.foreseen.items()))
            if self.opened - first.since <= _LATE:
                break
            del self.foreseen[key]
            dropped += [first.reader] if first.reader is not None else []
        return dropped

    def wanted(self) -> int:
        """Return how many more files to foresee."""
        ahead = min(_MOST, 4 << min(self.row, 4))
        missing = ahead - len(self.foreseen)
        return missing if self.row and 4 * missing >= ahead else 0


class Neighbours:
    """Foresees which files of *mimicdb* are read next. *reader_of* makes the reader of a version
    of an object in a bucket, *fetch* has readers ask for all of their objects, *submit* runs
    something in another thread, and *soon* something short."""

    def __init__(
        self,
        mimicdb: Mirror,
        inodes: Inodes,
        reader_of: Callable[[str, Entry], Reader],
        fetch: Callable[[list[Reader]], None],
        submit: Callable[..., Future[None]],
        soon: Callable[..., Future[None]],
    ) -> None:
        self._mimicdb = mimicdb
        self._inodes = inodes
        self._reader_of = reader_of
        self._fetch = fetch
        self._submit = submit
        self._soon = soon
        self._habit: _Habit | None = None  # replaced in one step; None: nothing is known
        self._expected: _DirectoryWalk | None = (
            None  # the latest walk whose first file was only looked up
        )
        self._lock = threading.Lock()  # protects the two below
        self._walks: OrderedDict[tuple[str, str], _DirectoryWalk] = OrderedDict()
        self._ordered: deque[_DirectoryWalk] = deque()  # walks that have an order, the latest last

    def opened(self, node: Node, entry: Entry) -> Reader | None:
        """Note that *node* is opened for reading. Return its reader if it was foreseen; from then
        on the caller owns that."""
        walk = self._walk(node.bucket, _directory(entry.key))
        with walk.lock:
            noted = self._noted(walk, node.bucket, entry.key)
        return self._went_on(walk, node, entry, noted)

    def opened_at_once(self, node: Node, entry: Entry) -> tuple[bool, Reader | None]:
        """Note the same if that waits for nobody; return also whether it was noted."""
        walk = self._walk(node.bucket, _directory(entry.key))
        if not walk.lock.acquire(blocking=False):
            return False, None
        try:
            noted = self._noted(walk, node.bucket, entry.key)
        finally:
            walk.lock.release()
        return True, self._went_on(walk, node, entry, noted)

    def looked_up(self, directory: Node, key: str) -> None:
        """Note that somebody looks up *key*, in *directory*, and waits until S3 was asked what is
        stored with it. Never waits itself."""
        habit, expected = self._habit, self._expected
        where = (directory.bucket, directory.key)
        if habit is None or not self._is_recent(habit, directory.bucket) or where in self._walks:
            return
        if expected is not None and not expected.opened:
            self._habit = None
            return
        self._expected = walk = self._walk(*where)
        if walk.lock.acquire(blocking=False):
            try:
                walk.presume(habit)
                walk.looking = True
            finally:
                walk.lock.release()
            self._begin(self._submit, self._look_from, walk, directory, key)

    @staticmethod
    def _is_recent(habit: _Habit, bucket: str) -> bool:
        return habit.bucket == bucket and time.monotonic() - habit.seen_s < _SOON_S

    def _noted(self, walk: _DirectoryWalk, bucket: str, key: str) -> _OpenInWalk:
        """Note in *walk*, whose lock is held, that *key* is opened; return what that means."""
        found = walk.foreseen.pop(key, None)
        before, dropped = "", list[Reader]()
        if found is not None:
            walk.row, walk.missed = walk.row + 1, 0
            walk.presumed = False
            self._habit = _Habit(bucket, walk.by_number, time.monotonic())
        elif not walk.goes_on(key):
            before, dropped = walk.last, walk.begin(key)
            self._presume(walk, bucket, before)
        walk.opened += 1
        dropped += walk.late()
        look = not walk.looking and (walk.wanted() > 0 or before not in ("", key))
        walk.looking = walk.looking or look
        return _OpenInWalk(found, before, dropped, look)

    def _went_on(
        self, walk: _DirectoryWalk, node: Node, entry: Entry, noted: _OpenInWalk
    ) -> Reader | None:
        """Do what follows from what was *noted*; return the reader of *entry* if there is one."""
        _close(noted.dropped)
        if noted.look and node.parent is not None:
            short = not (noted.before or walk.lacks_order(walk.last))
            submit = self._soon if short else self._submit
            self._begin(submit, self._look, walk, node.parent, noted.before, entry.key)
        return self._of_version(noted.found, entry)

    def _presume(self, walk: _DirectoryWalk, bucket: str, before: str) -> None:
        """Presume the order of a walk whose opened file was not foreseen. If it is the first file
        of its directory, the order of the directory before will do; if that was presumed already,
        it was wrong."""
        habit = self._habit
        if habit is None or habit.bucket != bucket:
            return
        if walk.presumed:
            walk.presumed = False
            if not walk.looking:
                self._habit = None
        elif not before and self._is_recent(habit, bucket):
            walk.presume(habit)

    @staticmethod
    def _of_version(found: _Foreseen | None, entry: Entry) -> Reader | None:
        if found is None or found.reader is None:
            return None
        if found.entry.etag == entry.etag and found.entry.size == entry.size:
            return found.reader
        found.reader.close()  # the file was replaced since
        return None

    def close(self) -> None:
        with self._lock:
            walks = list(self._walks.values())
            self._walks.clear()
        for walk in walks:
            _end(walk)

    def _walk(self, bucket: str, directory: str) -> _DirectoryWalk:
        with self._lock:
            walk = self._walks.setdefault((bucket, directory), _DirectoryWalk())
            self._walks.move_to_end((bucket, directory))
            dropped = len(self._walks) > _WALKS
            _, oldest = self._walks.popitem(last=False) if dropped else ("", None)
        if oldest is not None:
            self._begin(self._submit, _end, oldest)
        return walk

    @staticmethod
    def _begin(
        submit: Callable[..., Future[None]],
        work: Callable[..., None],
        walk: _DirectoryWalk,
        *args: object,
    ) -> None:
        """Have *submit* do *work* for *walk*. If it cannot, nothing is foreseen; who opens a file
        hears nothing of that."""
        try:
            begun = submit(work, walk, *args)
        except RuntimeError as exc:  # no thread can start
            log.debug("nothing is read ahead: %s", exc)
            walk.looking = False
            return
        if begun.cancelled():
            walk.looking = False
        begun.add_done_callback(_tell)

    # In another thread

    def _look(self, walk: _DirectoryWalk, directory: Node, before: str, key: str) -> None:
        """Foresee the next files. If *before* is "", these are more of the same; otherwise those
        behind *key*, if that follows *before* in some order."""
        with walk.lock:
            walk.looking = False
            if before and not self._is_next(walk, directory, before, key):
                return
            if before:
                walk.row, walk.last = 1, key
            found = self._following(walk, directory, walk.last, walk.wanted())
            readers = self._foresee(walk, directory, found)
        self._fetch(readers)

    def _look_from(self, walk: _DirectoryWalk, directory: Node, key: str) -> None:
        """Foresee *key*, the first file that somebody looks at, and the files behind it."""
        with walk.lock:
            walk.looking = False
            first = self._mimicdb.entry(directory.bucket, key)
            if walk.opened or first is None:
                return
            others = self._following(walk, directory, key, walk.wanted() - 1)
            readers = self._foresee(walk, directory, [first, *others])
        self._fetch(readers)

    def _foresee(self, walk: _DirectoryWalk, directory: Node, entries: list[Entry]) -> list[Reader]:
        """Note that *entries* are foreseen, with *walk* locked; return the readers that are to
        fetch them. A thread that opens one of them meanwhile fetches it by itself."""
        held = sum(each.entry.size for each in walk.foreseen.values() if each.reader is not None)
        readers: list[Reader] = []
        for entry in entries:
            walk.last = entry.key
            if entry.kind == OBJECT and not entry.key.endswith("/"):
                reader = self._reader(directory, held, entry)
                walk.foreseen[entry.key] = _Foreseen(entry, reader, walk.opened)
                if reader is not None:
                    readers.append(reader)
                    held += entry.size
        return readers

    def _is_next(self, walk: _DirectoryWalk, directory: Node, before: str, key: str) -> bool:
        """Whether *key* follows *before*; then the walk's order is the one in which it does."""
        for by_number in (False, True):
            walk.by_number = by_number
            near = self._following(walk, directory, before, _NEAR)
            if any(entry.key == key for entry in near):
                return True
        return False

    def _following(
        self, walk: _DirectoryWalk, directory: Node, key: str, count: int
    ) -> list[Entry]:
        """Return up to *count* entries behind *key*."""
        if not count:
            return []
        bucket = directory.bucket
        if not walk.by_number:
            return self._mimicdb.children(bucket, _directory(key), key, count)
        order = walk.order
        if order is None or walk.lacks_order(key):
            order = self._put_in_order(walk, directory)
        place = order.places.get(key, len(order.keys)) + 1
        found = [self._mimicdb.entry(bucket, each) for each in order.keys[place : place + count]]
        return [entry for entry in found if entry is not None]

    def _put_in_order(self, walk: _DirectoryWalk, directory: Node) -> _Order:
        """Note and return the order of the inode numbers in *directory*, as a listing shows them.
        (The kernel may hold none of the names, if it must ask what is stored with them.)"""
        above = directory.key
        cut = len(above)
        entries = self._mimicdb.children(directory.bucket, above, "", _SORTED + 1)
        slots = [entry.key[cut:] for entry in entries] if len(entries) <= _SORTED else []
        files = [slot for slot in slots if slot[-1:] != "/"]
        numbered = sorted(zip(self._inodes.numbers(directory, files), files, strict=True))
        keys = [above + slot for _, slot in numbered]
        places = {key: place for place, key in enumerate(keys)}
        walk.order = order = _Order(time.monotonic(), keys, places)
        with self._lock:
            if walk in self._ordered:
                self._ordered.remove(walk)
            self._ordered.append(walk)
            old = self._ordered.popleft() if len(self._ordered) > _ORDERS else None
        if old is not None:
            old.order = None
        return order

    def _reader(self, directory: Node, held: int, entry: Entry) -> Reader | None:
        """Return a reader of *entry*; None if it is not to be fetched ahead of those that have so
        many bytes already."""
        node = directory.below(entry.key[len(_directory(entry.key)) :])
        if node is not None and node.pages_etag == entry.etag:
            return None  # the kernel has its pages
        if not 0 < entry.size <= _SMALL or held + entry.size > _BYTES or not entry.etag:
            return None
        return self._reader_of(directory.bucket, entry)


def _directory(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _is_old(order: _Order) -> bool:
    return time.monotonic() - order.made_s > _AGAIN_S


def _end(walk: _DirectoryWalk) -> None:
    with walk.lock:
        dropped = walk.begin("")
    _close(dropped)


def _close(readers: list[Reader]) -> None:
    for reader in readers:
        reader.close()


def _tell(looked: Future[None]) -> None:
    """Log an error. A guess that failed costs only the reading ahead."""
    error = None if looked.cancelled() else looked.exception()
    if isinstance(error, MimicError):
        log.debug("reading ahead failed: %s", error)
    elif error is not None:
        log.error("reading ahead failed", exc_info=error)
