"""What a reader will ask next, prepared while nobody asks: the next names of its directory; the
names of the directory to which a walk comes next; and the answer to a walk that asks for them. What
is left to do when it does is to note that the kernel holds the names.

Answers are made of directories in which there are only objects, of which nobody holds any; all
others are answered as they are asked for.

Threading: the thread that reads requests calls `idle` when there are none, and any thread the
others. `_upcoming` and `_made` are replaced as a whole, and each has one taker.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import DirEntry
from mimicfs.vfs.attributes import Attributes
from mimicfs.vfs.firstlook import FirstLook
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.kernel import asked
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.readdir import DirectoryPage, Listing, Listings, first_fitting
from mimicfs.vfs.walking import Walking

log = logging.getLogger(__name__)

_NAME_USUAL = 16  # bytes: how many names to read for one answer is reckoned by this

_Space = tuple[int, int]  # the bytes of an answer, and how many each name takes beside its own


def names_in(room: _Space) -> int:
    """Return how many names to read for an answer with so much *room*."""
    size, overhead = room
    return size // (overhead + _NAME_USUAL)


class _Prepared(NamedTuple):
    """The *entries* with which a reader of *listing* begins, while its page is *page*."""

    listing: Listing
    page: DirectoryPage
    room: _Space
    key: str
    slots: list[str]
    numbers: list[int]
    entries: list[DirEntry]


class NextAnswers:
    """Reads ahead *listings*. *walking* guesses the next directory, *shown* says which attributes
    are shown of the objects of a bucket, *unsaved* which files of a directory S3 does not have."""

    def __init__(
        self,
        mimicdb: Mirror,
        inodes: Inodes,
        listings: Listings,
        look: FirstLook,
        walking: Walking,
        shown: Callable[[str], Attributes],
        unsaved: Callable[[Node], Sequence[str]],
    ) -> None:
        self._mimicdb = mimicdb
        self._inodes = inodes
        self._listings = listings
        self._look = look
        self._walking = walking
        self._shown = shown
        self._unsaved = unsaved
        self._room: _Space = (0, 0)  # of the latest question
        self._upcoming: tuple[Listing, int, int] | None = None  # where its reader goes on
        self._made: _Prepared | None = None
        self._tried: Listing | None = None  # of which an answer was made, or could not be

    def goes_on(self, listing: Listing, index: int, want: int) -> None:
        """Note that the reader of *listing* will ask for *want* names from *index* on."""
        self._upcoming = (listing, index, want)

    def idle(self) -> list[DirEntry] | None:
        """Read ahead what will be asked next, of this directory or, after it, of the next one. The
        kernel takes as long to take in a page of names as we take to read one. Or make the answer
        of what was read, and return its entries: `take` will return the same list."""
        upcoming, self._upcoming = self._upcoming, None
        try:
            if upcoming is None:
                return self._prepare()
            self._read_ahead(*upcoming)
        except MimicError as exc:  # the caller that asks for it gets the error
            log.debug("reading ahead: %s", exc)
        except Exception:  # nobody has asked for this work: no mount ends by it
            log.exception("reading ahead failed")
        return None

    def _read_ahead(self, listing: Listing, index: int, want: int) -> None:
        if listing.lock.acquire(blocking=False):
            try:
                with self._mimicdb.one_state():
                    if not listing.rows(index, self._mimicdb.generation, want):
                        self._foresee(want)
            finally:
                listing.lock.release()

    def _foresee(self, want: int) -> None:
        coming = self._walking.coming()
        if coming:
            node = self._inodes.get(coming)
            if node.parent is None:  # it was removed
                return
            self._listings.foresee(node, want, lambda: self._unsaved(node))
            self._look.needs(node.bucket, node.key)  # it remembers the answer

    def _prepare(self) -> list[DirEntry] | None:
        foreseen = self._listings.foreseen
        if foreseen is None or foreseen[1] is self._tried:
            return None
        node, self._tried, _ = foreseen
        self._made = made = self._make(node, self._tried)
        return made.entries if made is not None else None

    def _make(self, node: Node, listing: Listing) -> _Prepared | None:
        page, room, key = listing.page, self._room, node.key
        if not page.ended or not page.rows or node.children:
            return None
        if self._look.needs(node.bucket, key):
            return None
        slots = [slot for _, slot, _ in first_fitting(page.rows, *room)]
        if len(slots) < len(page.rows) or any(slot[-1:] == "/" for slot in slots):
            return None
        numbers = self._inodes.numbers(node, slots)
        of_object, new = self._shown(node.bucket).of_object, tuple.__new__
        attrs = [of_object(ino, row[2]) for ino, row in zip(numbers, page.rows, strict=True)]
        if any(not stat.S_ISREG(attr.mode) for attr in attrs):
            return None
        rows = zip(page.rows, attrs, strict=True)
        entries = [
            new(DirEntry, (row[0], attr, listing.cookie(index)))
            for index, (row, attr) in enumerate(rows, 1)
        ]
        return _Prepared(listing, page, room, key, slots, numbers, entries)

    def take(self, directory: Node, listing: Listing, room: _Space) -> list[DirEntry] | None:
        """Return the entries that were made for *listing* of *directory*, which the kernel holds
        from now on; None: there are none, or something has changed."""
        self._room = room
        made, self._made = self._made, None
        if made is None or made.listing is not listing or made.room != room:
            return None
        generation = self._mimicdb.generation
        with listing.lock, asked(directory):
            if listing.page is not made.page or made.page.generation != generation:
                return None
            if self._look.needs(directory.bucket, made.key):
                return None
        if not self._inodes.hold_all(directory, made.slots, made.numbers):
            return None
        if self._mimicdb.generation == generation:
            self.goes_on(listing, len(made.entries), names_in(room))
            return made.entries
        for ino in made.numbers:  # the kernel was not told of a change since
            self._inodes.forget(ino, 1)
        return None
