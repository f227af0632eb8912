"""Reading a directory page by page, from any place that was once handed out.

A reader's place is a cookie: an index, and in its last bits the number of a listing. So each number
up to a cookie that was handed out is a place, too: a program may give any of them to seekdir(3). A
listing is of one directory: a made-up cookie shows no other.

The page that the reader is in is kept. The next one begins after the last name, so that a reader
sees a name that was there all the time exactly once, whatever else comes and goes. A page is good
for one generation of the mirror: the kernel keeps what it is shown, and would never hear again of a
change that it was told before.

Thread-safe: the table of listings has a lock; a listing is locked while it is read.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mimicfs.entry import OBJECT, OWN, Entry
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.ownkeys import is_own
from mimicfs.vfs import names
from mimicfs.vfs.nodes import Node

log = logging.getLogger(__name__)

_PAGE = 256  # names that the mirror is asked for at a time, at least
_LISTINGS_MAX = 256  # readers whose places are remembered
_FORESEEN_S = 1.0  # how long names are good that were read before anybody asked

_OWN = OWN.encode()

# One row: the file name, the slot of its node, the entry of the object or directory.
ListedRow = tuple[bytes, str, Entry]


_NUMBER = (1 << 30) - 1  # the bits of a cookie that are a number


def index_of(cookie: int) -> int:
    return cookie >> 30


class DirectoryPage(NamedTuple):
    rows: list[ListedRow]
    after: str  # the key behind which it begins
    upto: str  # the key behind which the next one begins
    ended: bool  # there is no next one
    generation: int  # of the mirror, when the page was read, or before


_NOTHING = DirectoryPage([], "", "", False, -1)


class Listing:
    """One reader's way through one directory."""

    def __init__(
        self, number: int, directory: Node, read: Callable[[str, int, int], DirectoryPage]
    ) -> None:
        self.number = number
        self.directory = directory
        self.read_all = False  # its reader has come to the end
        self.lock = threading.Lock()  # protects all below
        self._read = read
        self._start = 0  # the index of the first row of the page
        self._page = _NOTHING

    @property
    def page(self) -> DirectoryPage:
        """The page in which its reader is; another object as soon as anything of it is another."""
        return self._page

    def cookie(self, index: int) -> int:
        """Return the place *index* in this listing."""
        return index << 30 | self.number

    def rows(self, index: int, generation: int, want: int = 1) -> list[ListedRow]:
        """Return the rows from *index* on, *want* or more if there are so many. None of them is
        older than *generation* of the mirror."""
        if index < self._start:  # the reader went back to an earlier page: read that again
            self._start, self._page = 0, _NOTHING
        elif self._page.generation != generation:
            self._keep(index - self._start)
        while not self._page.ended and self._start + len(self._page.rows) < index + want:
            self._read_on(index, max(want, _PAGE), generation)
        found = self._page.rows[index - self._start :]
        self.read_all = not found
        return found

    def _read_on(self, index: int, want: int, now: int) -> None:
        """Add a page, and drop the rows before *index*."""
        rows, after, upto, _, generation = self._page
        more = self._read(upto, want, now)
        cut = min(index - self._start, len(rows))
        if cut:
            _, _, dropped = rows[cut - 1]
            after = dropped.key
        generation = generation if cut < len(rows) else more.generation
        self._page = DirectoryPage(rows[cut:] + more.rows, after, more.upto, more.ended, generation)
        self._start += cut

    def _keep(self, count: int) -> None:
        """Keep only the first *count* rows of the page, which were read already."""
        rows = self._page.rows[:count]
        upto = self._page.after
        if rows:
            _, _, last = rows[-1]
            upto = last.key
        self._page = self._page._replace(rows=rows, upto=upto, ended=False)

    def ended_at(self, index: int, generation: int) -> bool:
        """Whether it is already known that nothing comes at *index*. Needs no lock."""
        page = self._page
        return (
            page.ended and page.generation == generation and index == self._start + len(page.rows)
        )


class Listings:
    """The places of all readers."""

    def __init__(self, mimicdb: Mirror, reserved: frozenset[str] = names.RESERVED) -> None:
        self._mimicdb = mimicdb
        self._reserved = reserved
        self._lock = threading.Lock()  # protects the two below
        self._open: OrderedDict[int, Listing] = OrderedDict()
        self._last = 0
        # The page that will be asked for next: its directory, and when it was read
        # (time.monotonic).
        self.foreseen: tuple[Node, Listing, float] | None = None

    def foresee(self, node: Node, want: int, unsaved: Callable[[], Sequence[str]]) -> None:
        """Read the first names of *node*, which somebody is going to list."""
        if unsaved():
            return
        with self._lock:
            listing = self._begun(node, unsaved)
        listing.rows(0, self._mimicdb.generation, want)
        self.foreseen = node, listing, time.monotonic()

    def _begun(self, node: Node, unsaved: Callable[[], Sequence[str]]) -> Listing:
        self._last = self._last + 1 & _NUMBER or 1
        return Listing(self._last, node, functools.partial(self._page, node, unsaved))

    def _taken(self, node: Node, unsaved: Callable[[], Sequence[str]]) -> Listing | None:
        """Return, once, the page that was foreseen of *node*."""
        foreseen, self.foreseen = self.foreseen, None
        if foreseen is None:
            return None
        of, listing, at_s = foreseen
        if of is not node or unsaved():
            return None
        return listing if time.monotonic() - at_s < _FORESEEN_S else None

    def ended(self, node: Node, cookie: int) -> bool:
        """Whether *cookie* is the end of a listing of *node*. Each reader asks once more there."""
        found = self._open.get(cookie & _NUMBER)
        if found is None or found.directory is not node:
            return False
        found.read_all = found.ended_at(index_of(cookie), self._mimicdb.generation)
        return found.read_all

    def at(self, node: Node, cookie: int, unsaved: Callable[[], Sequence[str]]) -> Listing:
        """Return the listing that *cookie* is a place in; a new one for cookie 0, or when its
        listing was given up. *unsaved* names the files of the directory that S3 does not have yet.
        """
        foreseen = self._taken(node, unsaved) if not cookie and self.foreseen else None
        with self._lock:
            number = cookie & _NUMBER
            found = self._open.get(number) if cookie else None
            if found is None or found.directory is not node:
                found = foreseen or self._begun(node, unsaved)
                number = found.number
            self._open[number] = found
            self._open.move_to_end(number)
            while len(self._open) > _LISTINGS_MAX:
                del self._open[self._least_wanted()]
        return found

    def _least_wanted(self) -> int:
        """Return the number of the listing that is given up: that of a reader that has read
        everything, if there is one. A reader of a tree reads many directories between two looks at
        the one above them."""
        ended = (number for number, each in self._open.items() if each.read_all)
        return next(ended, next(iter(self._open)))

    def _page(
        self,
        node: Node,
        unsaved: Callable[[], Sequence[str]],
        after: str,
        want: int,
        generation: int,
    ) -> DirectoryPage:
        """Return the rows of the next *want* names behind key *after*, of *generation* of the
        mirror or a later one."""
        directory = node.key
        after = _moved(directory, after)
        entries = self._mimicdb.children(node.bucket, directory, after, want)
        ended = len(entries) < want
        upto = entries[-1].key if entries else after
        news = self._unsaved(directory, after, None if ended else upto, unsaved())
        if news:
            entries = _merged(entries, news)
        rows = self._rows(node.bucket, directory, entries, ended)
        if not after and directory:
            marker = self._mimicdb.entry(node.bucket, directory)
            node.content = marker is not None and marker.kind == OBJECT and marker.size > 0
            if marker is not None and node.content:
                rows.insert(0, (names.file_name("", beside=True), "", marker))
        return DirectoryPage(rows, after, upto, ended, generation)

    def _rows(
        self, bucket: str, directory: str, entries: list[Entry], ended: bool
    ) -> list[ListedRow]:
        cut, reserved = len(directory), self._reserved
        slots = [entry.key[cut:] for entry in entries]
        shown = names.plain_names(slots, reserved) if ended else None
        if shown is not None:
            return list(zip(shown, slots, entries, strict=True))
        directories = {slot[:-1] for slot in slots if slot[-1] == "/"}
        # "a/" comes after "a-": for the few names with which the last name of the page begins, this
        # page does not show whether a directory follows.
        last = "" if ended or not slots else slots[-1]
        rows: list[ListedRow] = []
        for slot, entry in zip(slots, entries, strict=True):
            if slot[-1] == "/":
                name = names.file_name(slot[:-1], reserved=reserved)
            elif slot in directories or (last and slot + "/" > last):
                beside = slot in directories or self._is_directory(bucket, directory, slot)
                name = names.file_name(slot, beside, reserved)
            else:
                name = names.file_name(slot, reserved=reserved)
            if name.startswith(_OWN) and is_own(slot):
                continue  # an object of an upload, say: it is nobody's file
            if len(name) > names.NAME_MAX:
                log.warning("not shown because its name is too long: s3://%s/%s", bucket, entry.key)
            else:
                rows.append((name, slot, entry))
        return rows

    def _is_directory(self, bucket: str, directory: str, component: str) -> bool:
        _, below = self._mimicdb.lookup(bucket, directory, component)
        return below is not None

    @staticmethod
    def _unsaved(directory: str, after: str, upto: str | None, slots: Iterable[str]) -> list[Entry]:
        keys = sorted(directory + slot for slot in slots if slot)
        return [Entry(key) for key in keys if key > after and (upto is None or key <= upto)]


def _moved(directory: str, after: str) -> str:
    """Return *after*, the key of a name in *directory*, which may have had another key then."""
    if not after or (after.startswith(directory) and "/" not in after[len(directory) : -1]):
        return after
    return directory + after[after.rfind("/", 0, len(after) - 1) + 1 :]


def _merged(entries: list[Entry], news: list[Entry]) -> list[Entry]:
    known = {entry.key for entry in entries}
    both = entries + [entry for entry in news if entry.key not in known]
    return sorted(both, key=lambda entry: entry.key)


def first_fitting(rows: Iterable[ListedRow], size: int, overhead: int) -> list[ListedRow]:
    """Return as many of the first *rows* as *size* bytes have room for."""
    found: list[ListedRow] = []
    for row in rows:
        name, _, _ = row
        size -= (overhead + len(name) + 7) & ~7
        if size < 0:
            break
        found.append(row)
    return found
