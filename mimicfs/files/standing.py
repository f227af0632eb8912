"""The base of an open file, and reading it: the version in S3, its staging file, or both.

The first layer of a File (file.py, which has the theory and the locks). This layer never asks for a
turn: reading goes on during an upload.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from concurrent.futures import Future
from typing import NamedTuple

from mimicfs.entry import Entry
from mimicfs.errors import ObjectChanged, PosixError
from mimicfs.files.layout import Layout
from mimicfs.files.origin import Origin
from mimicfs.files.reader import Reader
from mimicfs.files.staging import Staging
from mimicfs.files.states import Event, State, after
from mimicfs.files.tools import Tools
from mimicfs.files.view import HandleView
from mimicfs.posix import Cancellation

_WAY_S = 1.0  # how long a WRITE may take from the kernel's pages to us, on a busy machine
_BEHIND_S = 10.0  # how long the kernel may stay behind a growth, should it not drop its pages
_MOMENT_S = 0.05  # a program that opens a file asks for its attributes next


class LatelySeen(NamedTuple):
    """What the mirror had as *entry* at *at_s*, when it was at *generation*."""

    entry: Entry
    generation: int
    at_s: float


class Growth(NamedTuple):
    """The file has grown where pages of the kernel may end before, and have zeros behind.
    *dropped*: the inodes of which the kernel has dropped them since. *before*: those of the growth
    before it, if there was one."""

    dropped: set[int]
    before: set[int] | None
    until_s: float

    def had_dropped(self, ino: int) -> bool:
        """Whether the kernel has dropped the pages of *ino* that end before the growth before."""
        return self.before is None or ino in self.before


class StandingFile:
    """The file s3://bucket/key. *entry* is the version that it stands on; None: S3 has none.
    *reader* reads that version, if there is a reader yet."""

    def __init__(
        self, tools: Tools, bucket: str, key: str, entry: Entry | None, reader: Reader | None = None
    ) -> None:
        self._tools = tools
        self._s3 = tools.s3
        self._lock = threading.Lock()  # protects all below, and the fields of the layers above
        self.state = State.CLEAN
        self.bucket = bucket
        self.key = key
        self._origin = self._origin_of(entry, reader) if entry is not None else None
        self._layout = Layout(entry.size if entry is not None else 0)
        self._staging: Staging | None = None
        self.mtime_ns = entry.mtime_ns if entry is not None else time.time_ns()
        # It shows what others put in its place, even to a reader who has bytes of it: it is open
        # for writing, or locked, and mounts share their locks.
        self.follows = False
        # It follows a version that is shorter than the kernel knows. A read that ends early tells
        # the kernel, unless the kernel was told to forget the size meanwhile: then the read gets
        # zeros.
        self.shrunk = False
        self.moves = 0  # how often it has gone over to a version of others
        # A READ may have been answered since the kernel was last told to drop all pages. Any thread
        # that answers one sets it.
        self.shown = True
        # The kernel had pages of its version before it was opened: these outlive the version, until
        # the kernel is told (Kernel.followed).
        self.pages_before = False
        self.in_kernel = -1  # what `moves` was when the kernel opened it last
        # When the kernel was last told to drop its pages (time.monotonic), and whether a READ may
        # have been answered since. Any thread sets them.
        self._dropped_s = -math.inf
        self._read_anew = False
        self.seen: LatelySeen | None = None  # when it was opened; replaced in one step
        self._growth: Growth | None = None  # the latest one
        self._views: set[HandleView] = set()  # of the handles that it has

    def seen_by(self, view: HandleView) -> None:
        """Note that the handle with *view* is of this file from now on."""
        with self._lock:
            self._views.add(view)

    def dropping(self) -> None:
        """Note that the kernel is about to drop its pages of the file, maybe beside a writer."""
        now_s = time.monotonic()
        if now_s - self._dropped_s >= _WAY_S:
            self._read_anew = False
        self._dropped_s = now_s

    def dropped(self, ino: int, growth: Growth | None) -> None:
        """Note that it has dropped those of the inode *ino*, of which it was told after *growth*.
        That may take long, as it waits for a page that is being read."""
        self._dropped_s = time.monotonic()
        self.caught_up(ino, growth)

    def caught_up(self, ino: int, growth: Growth | None) -> None:
        """Note that nobody reads pages of the inode *ino* any more that end before *growth*."""
        if growth is not None:
            growth.dropped.add(ino)

    def was_dropped(self, since_s: float) -> bool:
        """Whether the kernel may have dropped pages while a WRITE that came here at *since_s* was
        on its way, or waited here, and have read them anew before it was done."""
        return self._read_anew and self._dropped_s > since_s - _WAY_S

    def dropped_again(self) -> None:
        """Note that it has dropped them once more since, before that WRITE is answered."""
        self._read_anew = False

    def left_by(self, view: HandleView) -> None:
        with self._lock:
            self._views.discard(view)

    def just_opened(self, generation: int) -> Entry | None:
        """Return what the mirror had of the file when it was opened, a moment ago; None: that is
        long ago, or the mirror was at another *generation*."""
        seen = self.seen
        if seen is None or seen.generation != generation:
            return None
        return seen.entry if time.monotonic() - seen.at_s < _MOMENT_S else None

    def _happens(self, event: Event) -> None:
        self.state = after(self.state, event)

    @property
    def dirty(self) -> bool:
        """Whether it has bytes that S3 does not have yet and is to get."""
        return self.state is State.DIRTY

    @property
    def apart(self) -> bool:
        """Whether the object bucket/key is no longer this file's."""
        return self.state.apart

    @property
    def changed(self) -> bool:
        """Whether it has bytes that S3 does not have."""
        return self.state in (State.DIRTY, State.UNSAVED, State.LOST)

    @property
    def expired(self) -> bool:
        return self.state.expired

    @property
    def size(self) -> int:
        return self._layout.size

    def _grows(self) -> None:
        """Note that the file is about to grow where pages of the kernel may end before. `_lock` is
        held, so `growth` is followed by no READ that ends before."""
        before = self._growth.dropped if self._growth is not None else None
        self._growth = Growth(set(), before, time.monotonic() + _BEHIND_S)

    @property
    def growth(self) -> Growth | None:
        if self._growth is None:  # nearly always
            return None
        with self._lock:
            return self._growth

    def is_behind(self, ino: int) -> bool:
        """Whether a size that was read a moment ago may be behind the end of pages that the kernel
        still has of the inode *ino*."""
        growth = self._growth
        if growth is None or ino in growth.dropped:
            return False
        return time.monotonic() < growth.until_s

    @property
    def entry(self) -> Entry | None:
        """The version that the file stands on; None: S3 has none."""
        origin = self._origin
        return origin.entry if origin is not None else None

    @property
    def etag(self) -> str:
        """The ETag of that version; "" if S3 has none, or gave it no ETag."""
        entry = self.entry
        return entry.etag if entry is not None else ""

    @property
    def _about(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    # Reading

    def read(
        self, offset: int, size: int, cancellation: Cancellation, view: HandleView | None = None
    ) -> bytes | memoryview:
        """Return up to *size* bytes; less only at the end. Raises ObjectChanged once the
        version that the file stands on, or the one that *view* has seen, is gone from S3."""
        self.shown = self._read_anew = True
        if view is not None:
            view.got = True
        found = self._read(offset, size, cancellation)
        self._check_view(view)
        return found

    def _read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        while True:
            staging, origin, pieces = self._source(offset, size)
            try:
                found = [
                    self._piece(staging if local else None, origin, start, end, cancellation)
                    for start, end, local in pieces
                ]
            except ObjectChanged:
                if self._source(offset, size)[:2] == (staging, origin):
                    raise
                continue  # the object is the same: the file was moved, uploaded or changed
            if not self._is_still(staging):
                continue
            if staging or self._hand_out(origin):
                return found[0] if len(found) == 1 else b"".join(found)

    def _hand_out(self, origin: Origin | None) -> bool:
        """Note that somebody gets bytes of *origin*. Return False if that is the old version, and
        nobody had got bytes of it."""
        if origin is not None and origin.handed and self._stands_still(origin):
            return True
        with self._lock:
            self._check(reading=True)
            now = self._origin
            if now is None or origin is None:
                return origin is now
            right = now.has_bytes_of(origin)
            now.handed = now.handed or right
            return right

    def _stands_still(self, origin: Origin | None) -> bool:
        """Whether the whole file is *origin*. Takes no lock: an origin that was replaced does not
        come back, so all three conditions held at one moment."""
        return self.state is State.CLEAN and self._staging is None and origin is self._origin

    def hand_out_pages(self) -> bool:
        """Note that somebody may read on in the kernel's pages of the version that the file stands
        on. Return whether somebody may have got bytes of that version, or written some."""
        with self._lock:
            if self._origin is None:
                return True
            self._origin.handed = self._origin.handed or self.pages_before
            return self._origin.handed or self._staging is not None

    def _piece(
        self,
        staging: Staging | None,
        origin: Origin | None,
        start: int,
        end: int,
        cancellation: Cancellation,
    ) -> bytes | memoryview:
        if staging is not None:
            return staging.read(start, end - start)
        if origin is None:
            raise PosixError(errno.EBADF, self._about)
        return origin.reader.read(start, end - start, cancellation)

    def read_cached(
        self, offset: int, size: int, view: HandleView | None = None
    ) -> bytes | memoryview | None:
        """Return the same if that needs no wait, otherwise None."""
        self.shown = self._read_anew = True
        if view is not None:
            view.got = True
        found = self._read_cached(offset, size)
        self._check_view(view)
        return found

    def coming(self, offset: int) -> Future[None] | None:
        """Return a future after which `read_cached` has the bytes, if they are on their way. Never
        waits."""
        origin = self._origin
        if origin is None or not self._stands_still(origin):
            return None
        return origin.reader.coming(offset)

    def _check_view(self, view: HandleView | None) -> None:
        if view is not None and view.stale:
            raise ObjectChanged.since_opened(self._about)

    def _read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        origin = self._origin
        if origin is not None and self._stands_still(origin):
            data = origin.reader.read_cached(offset, min(size, self.size - offset))
            return data if data is not None and self._hand_out(origin) else None
        staging, origin, pieces = self._source(offset, size)
        if not pieces:
            return b""
        if len(pieces) > 1:
            return None
        [(start, end, local)] = pieces
        if local and staging is not None:
            found = staging.read(start, end - start)
            return found if self._is_still(staging) else None
        data = origin.reader.read_cached(start, end - start) if origin is not None else None
        return data if data is not None and self._hand_out(origin) else None

    def _is_still(self, staging: Staging | None) -> bool:
        """Whether bytes that were read from *staging* may be handed out: not once the file has
        expired, nor if the staging file was given up meanwhile."""
        with self._lock:
            self._check(reading=True)
            return self._staging is staging

    def _source(
        self, offset: int, size: int
    ) -> tuple[Staging | None, Origin | None, list[tuple[int, int, bool]]]:
        """Return what the bytes from *offset* on are read from: (start, end, whether they are
        in the staging file) for each piece."""
        with self._lock:
            self._check(reading=True)
            end = min(offset + size, self.size)
            pieces = list(self._layout.pieces(offset, end)) if offset < end else []
            return self._staging, self._origin, pieces

    def _check(self, *, reading: bool = False) -> None:
        if self.state is State.CLOSED:
            raise PosixError(errno.EBADF, self._about)
        if self.state is State.VANISHED and reading:
            raise PosixError(errno.ENOENT, f"{self._about}: deleted in S3")
        if self.state.expired:
            raise ObjectChanged.since_opened(self._about)

    def _origin_of(self, entry: Entry, reader: Reader | None = None) -> Origin:
        return Origin(self._tools, self.bucket, entry, reader)

    def _stand_on(self, entry: Entry, *, copied: bool = False) -> None:
        """Stand on *entry* from now on; *copied*: it has the bytes of the version before."""
        origin = self._origin_of(entry)
        with self._lock:
            old = self._put_on(origin, copied=copied)
        if old is not None:
            old.close()

    def _put_on(self, origin: Origin, *, copied: bool = False) -> Origin | None:
        """Do the same, with `_lock` held. Return what it stood on, which the caller closes."""
        self._origin, old = origin, self._origin
        if old is not None:
            origin.follows(old, copied=copied)
        return old
