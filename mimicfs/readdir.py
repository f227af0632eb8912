"""Reading a directory page by page, from any place that was once handed out.

A reader's place is a cookie: the number of its listing, and an index in it. The page that
the reader is in is kept, so that going on in its middle sees the same names; the next page
begins after the last name, so that a name that was there all the time is seen exactly once
whatever else comes and goes.

Thread-safe: the table of listings has a lock; a listing is locked while it is read.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from mimicfs import names
from mimicfs.entry import Entry
from mimicfs.inodes import Node
from mimicfs.mimicdb import MimicDB

log = logging.getLogger(__name__)

_PAGE = 2000  # names asked of the mirror at a time
_LISTINGS_MAX = 256  # readers whose place is remembered

# One row: the file name, the slot of its node, the entry of the object or directory.
Row = tuple[bytes, str, Entry]


class Listing:
    """One reader's way through one directory."""

    def __init__(self, number: int, read: Callable[[str], tuple[list[Row], str, bool]]) -> None:
        self.number = number
        self.lock = threading.Lock()  # protects all below
        self._read = read
        self._start = 0  # the index of the first row of the page
        self._rows: list[Row] = []
        self._after = ""
        self._ended = False

    def rows(self, index: int) -> tuple[list[Row], int]:
        """Return the page that *index* is in and the place of *index* in it; ([], 0) at the end."""
        if index < self._start:  # rewound to an earlier page: go there again
            self._start, self._rows, self._after, self._ended = 0, [], "", False
        while index >= self._start + len(self._rows):
            if self._ended:
                return [], 0
            page = self._read(self._after)
            self._start += len(self._rows)
            self._rows, self._after, self._ended = page
        return self._rows, index - self._start


class Listings:
    """The places of all readers."""

    def __init__(self, mimicdb: MimicDB) -> None:
        self._mimicdb = mimicdb
        self._lock = threading.Lock()  # protects the two below
        self._open: OrderedDict[int, Listing] = OrderedDict()
        self._last = 0

    def at(self, node: Node, cookie: int, unsaved: Callable[[], Iterable[str]]) -> Listing:
        """Return the listing that *cookie* is a place in; a new one for cookie 0, or when its
        listing was given up. *unsaved* names the files of the directory that S3 lacks yet."""
        with self._lock:
            number = cookie >> 32
            found = self._open.get(number) if number else None
            if found is None:
                self._last = self._last + 1 & 0x3FFF_FFFF or 1
                number = self._last
                found = Listing(number, lambda after: self._page(node, after, unsaved))
            self._open[number] = found
            self._open.move_to_end(number)
            while len(self._open) > _LISTINGS_MAX:
                self._open.popitem(last=False)
        return found

    def _page(
        self, node: Node, after: str, unsaved: Callable[[], Iterable[str]]
    ) -> tuple[list[Row], str, bool]:
        """Return the rows after key *after*, the last key, and whether that was the end."""
        directory = node.key
        entries = self._mimicdb.children(node.bucket, directory, after, _PAGE)
        ended = len(entries) < _PAGE
        upto = entries[-1].key if entries else after
        news = self._unsaved(directory, after, None if ended else upto, unsaved())
        if news:
            entries = _merged(entries, news)
        rows = self._rows(node.bucket, directory, entries, ended)
        if not after and node.content:
            marker = self._mimicdb.entry(node.bucket, directory)
            if marker is not None and marker.size:
                rows.insert(0, (names.file_name("", beside=True), "", marker))
        return rows, upto, ended

    def _rows(self, bucket: str, directory: str, entries: list[Entry], ended: bool) -> list[Row]:
        cut = len(directory)
        slots = [entry[0][cut:] for entry in entries]
        directories = {slot[:-1] for slot in slots if slot[-1] == "/"}
        # "a/" comes after "a-": whether a directory "a/" follows cannot be seen on this
        # page for the few names that the page's last one begins with.
        last = "" if ended or not slots else slots[-1]
        rows: list[Row] = []
        for slot, entry in zip(slots, entries, strict=True):
            if slot[-1] == "/":
                name = names.file_name(slot[:-1])
            elif slot in directories or (last and slot + "/" > last):
                beside = slot in directories or self._is_directory(bucket, directory, slot)
                name = names.file_name(slot, beside)
            else:
                name = names.file_name(slot)
            if len(name) > names.NAME_MAX:
                log.warning("not shown, its name is too long: s3://%s/%s", bucket, entry.key)
            else:
                rows.append((name, slot, entry))
        return rows

    def _is_directory(self, bucket: str, directory: str, component: str) -> bool:
        return self._mimicdb.lookup(bucket, directory, component)[1] is not None

    @staticmethod
    def _unsaved(directory: str, after: str, upto: str | None, slots: Iterable[str]) -> list[Entry]:
        keys = sorted(directory + slot for slot in slots if slot)
        return [Entry(key) for key in keys if key > after and (upto is None or key <= upto)]


def _merged(entries: list[Entry], news: list[Entry]) -> list[Entry]:
    known = {entry.key for entry in entries}
    both = entries + [entry for entry in news if entry.key not in known]
    return sorted(both, key=lambda entry: entry.key)
