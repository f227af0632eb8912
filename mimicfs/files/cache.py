"""The cache on disk: what was read of objects, for the next time, also after a remount.

A file for each version of an object (blocks.py), `ab/cdef...`: a hash of the endpoint, bucket, key,
etag and size. Small objects share files (shelves.py). So whatever is found under a name is right,
no local name comes from a key, and a version that was replaced in S3 is never found again; in the
end the eviction (eviction.py) removes it. An object without an ETag has no name, and is not kept.

A refusal of the disk (it is full, the directory is gone, an error) is logged once and costs the
request to S3 that the cache would have saved: nothing here fails a read. Several mounts may use one
directory.

What is pinned is never evicted (eviction.py). For each pinned key, `pins/` has a link to the file
of the version that was pinned. The link of the next version takes its place, and the old version
can go.

Threading: any thread. `_lock`, a leaf, protects the counts of open files, and the root's descriptor
when it is made anew; it is held for a few system calls.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mimicfs.entry import Entry
from mimicfs.errors import ConfigError
from mimicfs.files.blocks import BLOCK, BlockFile
from mimicfs.files.bringing import Bringer
from mimicfs.files.direct import Direct
from mimicfs.files.eviction import PINNED, Eviction
from mimicfs.files.shelves import MOST, Shelf, Shelves
from mimicfs.private import private_directory

log = logging.getLogger(__name__)

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PINS = "pins"
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
# https://bford.info/cachedir/: backups leave such a directory out.
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Blocks of objects, kept by mimicfs.\n"


class CacheUsage(NamedTuple):
    """The figures of a cache, in bytes."""

    directory: str
    used: int  # until the first look through the directory has ended: written since the mount
    limit: int
    hit: int  # read from the disk
    missed: int  # asked of S3 by objects that may be kept


class BlockCache:
    """The cache in *directory*, which must be ours alone. *endpoint* tells in which S3 the objects
    are. *limit* is in bytes; None: a share of what is free."""

    def __init__(self, directory: Path, endpoint: str, limit: int | None = None) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._lock = threading.Lock()  # protects the four below
        self._root = _opened(directory)
        weakref.finalize(self, os.close, self._root)
        self._in_use: Counter[str] = Counter()
        self._said: set[int] = set()  # errors that were logged
        self._hit = self._missed = 0
        self._stays_since_s = 0.0  # a use from then on is noted by all means
        self._noted = False  # whether reads are noted below
        self._reads: Counter[str] = Counter()  # of whole objects, under way, by file
        self._coming: dict[str, Future[None]] = {}  # whole objects that are fetched, by their files
        self._direct = Direct()
        self._bringer = Bringer()
        self._eviction = Eviction(self._root, limit, self._in_use.__contains__)
        self._shelves = Shelves(self._root, lambda: self._eviction.limit, self._make_directory)

    def object(self, bucket: str, entry: Entry, *, stays: bool = False) -> CachedObject | None:
        """Return what is kept of the version *entry*; None: it cannot be told from other versions.
        An object that *stays* gets a file of its own, which only the eviction removes."""
        if not entry.etag or not entry.size:
            return None
        what = (self._endpoint, bucket, entry.key, entry.etag, entry.size)
        return CachedObject(self, what, entry.size, shelved=not stays and entry.size <= MOST)

    def pin(self, bucket: str, entry: Entry) -> None:
        """Keep what is here of the version *entry* from the eviction, and no other version of
        its key. Raises OSError."""
        kept = self.object(bucket, entry, stays=True)
        self.unpin(bucket, entry.key, but=kept.name if kept is not None else "")
        if kept is None:
            return
        os.chmod(kept.name, 0o600 | PINNED, dir_fd=self._root)
        with suppress(FileExistsError):
            os.mkdir(_PINS, 0o700, dir_fd=self._root)
        with suppress(FileExistsError):
            os.symlink(kept.name, self._pin(bucket, entry.key), dir_fd=self._root)

    def unpin(self, bucket: str, key: str, but: str = "") -> bool:
        """Let the version of *key* that is pinned be evicted, unless its file is *but*. Return
        whether there was one. Raises OSError."""
        return self._unpin(self._pin(bucket, key), but)

    def unpin_all(self) -> int:
        """Let all be evicted; return how many objects were pinned. Raises OSError."""
        try:
            pins = os.open(_PINS, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            return 0
        try:
            return sum(self._unpin(f"{_PINS}/{name}") for name in os.listdir(pins))
        finally:
            os.close(pins)

    def _unpin(self, pin: str, but: str = "") -> bool:
        try:
            name = os.readlink(pin, dir_fd=self._root)
        except FileNotFoundError:
            return False
        if name != but:
            with suppress(FileNotFoundError):
                os.chmod(name, 0o600, dir_fd=self._root)
            os.unlink(pin, dir_fd=self._root)
        return True

    def _pin(self, bucket: str, key: str) -> str:
        return f"{_PINS}/{_hashed(self._endpoint, bucket, key)}"

    def keep_what_comes(self, check: Callable[[], None]) -> None:
        """Evict nothing that is used from now on. The times of the files tell when that was: their
        clock is some milliseconds behind time.time(). Waits until it is known how much is
        here (Eviction.await_count)."""
        self._eviction.await_count(check)
        try:
            os.utime(self._root)
            now_s = os.fstat(self._root).st_mtime
        except OSError as exc:
            self.trouble(exc)
            return
        self._stays_since_s = self._eviction.stays_since_s = now_s

    def make_room(self, size: int, check: Callable[[], None]) -> bool:
        """As `has_room`, for a thread that may wait (Eviction.make_room)."""
        return self._eviction.make_room(size, check)

    def note_reads(self) -> None:
        """Let `expect` know from now on what readers ask for."""
        self._noted = True

    def has_spare(self, sizes: Collection[int]) -> bool:
        """Whether objects of *sizes* have room without anything being evicted for them."""
        return self._eviction.has_spare(sizes)

    def usage(self) -> CacheUsage:
        eviction = self._eviction
        counts = (eviction.used, eviction.limit, self._hit, self._missed)
        return CacheUsage(str(self._directory), *counts)

    def close(self) -> None:
        """End the eviction. Files that are open go on, and are kept."""
        self._bringer.close()
        self._eviction.close()

    # Of CachedObject

    def expect(self, name: str) -> Callable[[], None] | None:
        coming: Future[None] = Future()
        with self._lock:
            if name in self._reads or name in self._coming:
                return None
            self._coming[name] = coming

        def over() -> None:
            with self._lock:
                del self._coming[name]
            coming.set_result(None)

        return over

    def coming(self, name: Callable[[], str]) -> Future[None] | None:
        return self._coming.get(name()) if self._coming else None

    def is_read(self, name: Callable[[], str], read: Future[None]) -> None:
        if not self._noted:
            return
        name_ = name()

        def over(_: Future[None]) -> None:
            with self._lock:
                self._reads[name_] -= 1
                if not self._reads[name_]:
                    del self._reads[name_]

        with self._lock:
            self._reads[name_] += 1
        read.add_done_callback(over)

    def has_room(self, size: int) -> bool:
        return self._eviction.has_room(size)

    def can_hold(self, size: int) -> bool:
        return self._eviction.can_hold(size)

    def note(self, hit: int = 0, missed: int = 0, written: int = 0) -> None:
        """Count bytes. Not exact, where threads do so at once: it would cost a lock."""
        self._hit += hit
        self._missed += missed
        if written:
            self._eviction.added(written)

    def shelf(self, size: int, *, make: bool = False) -> Shelf | None:
        """Return where objects of *size* bytes are; None: nowhere, or not yet."""
        return self._shelves.shelf(size, make=make)

    def open(self, name: str, size: int, make: bool) -> BlockFile | None:
        """Return the file *name*; None if it is not there and not to be made."""
        file = self._found(name, size)
        if file is None and make:
            file = self._made(name, size)
        if file is not None:
            with self._lock:
                self._in_use[name] += 1
        return file

    def _found(self, name: str, size: int) -> BlockFile | None:
        try:
            fd = os.open(name, _OPEN, dir_fd=self._root)
        except FileNotFoundError:
            return None
        file = BlockFile(fd, size, self._direct, self._bringer)
        return file if file.is_sound(self._stays_since_s) else None

    def _made(self, name: str, size: int) -> BlockFile:
        """Make the file anew. A file that is there already is replaced, never changed: others may
        have read its records."""
        new = f"{name[:2]}/{secrets.token_hex(8)}.new"
        flags = _OPEN | os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(new, flags, 0o600, dir_fd=self._root)
        except FileNotFoundError:
            self._make_directory(name[:2])
            fd = os.open(new, flags, 0o600, dir_fd=self._root)
        file = BlockFile(fd, size, self._direct, self._bringer)
        try:
            file.begin()
            os.rename(new, name, src_dir_fd=self._root, dst_dir_fd=self._root)
        except OSError:
            os.unlink(new, dir_fd=self._root)
            raise
        return file

    def _make_directory(self, name: str) -> None:
        with self._lock:
            if os.fstat(self._root).st_nlink == 0:
                log.warning("%s was removed: the cache starts anew", self._directory)
                root = _opened(self._directory)
                os.dup2(root, self._root, inheritable=False)
                os.close(root)
        try:
            os.mkdir(name, 0o700, dir_fd=self._root)
        except FileExistsError:
            return  # another thread was quicker

    def closed(self, name: str) -> None:
        with self._lock:
            self._in_use[name] -= 1
            if not self._in_use[name]:
                del self._in_use[name]

    def trouble(self, exc: OSError | ConfigError) -> None:
        """Log what the disk refuses, once for each kind."""
        code = exc.errno or errno.EIO
        if code in _FULL:
            self._eviction.full()
        with self._lock:
            if code in self._said:
                return
            self._said.add(code)
        log.warning("cache in %s: %s; reading continues without it", self._directory, exc)


class CachedObject:
    """The blocks that are kept of one version of an object. The file is opened when it is first
    needed, and made when there is something to keep."""

    def __init__(
        self, cache: BlockCache, what: tuple[str | int, ...], size: int, *, shelved: bool
    ) -> None:
        self._cache = cache
        self._what = what
        self._size = size
        # Whether it is on a shelf; None: nobody has looked. Replaced in one step.
        self._shelved: bool | None = None if shelved else False
        self._small = shelved  # it may be
        self._lock = threading.Lock()  # protects all below
        self._file: BlockFile | None = None
        self._looked = False  # whether there is one
        self._closed = False

    @cached_property
    def name(self) -> str:
        """Its file. Not made before it is asked for: the kernel may have all pages."""
        name = _hashed(*self._what)
        return f"{name[:2]}/{name[2:]}"

    @cached_property
    def _digest(self) -> bytes:
        return bytes.fromhex(self.name.replace("/", ""))

    def expect(self) -> Callable[[], None] | None:
        """Note that all of it is going to be fetched; return what the caller calls once that is
        over. None: somebody else fetches it already."""
        return self._cache.expect(self.name)

    def is_read(self, read: Future[None]) -> None:
        """Note that a reader asks S3 for all of it, until *read* is done."""
        self._cache.is_read(lambda: self.name, read)

    def coming(self) -> Future[None] | None:
        """Return the future of its fetching, if somebody fetches it now."""
        found = self._cache.coming(lambda: self.name)
        if found is not None:
            with self._lock:
                self._looked = self._file is not None  # there will be one
                self._shelved = None if self._small else False
        return found

    @property
    def is_whole(self) -> bool:
        """Whether all of it seems to be here, as far as anybody has looked. A hint."""
        file = self._file
        return file is not None and file.is_whole

    def here_until(self, start: int, end: int) -> int:
        """Return how far from *start* all is kept; *end* at most."""
        try:
            if self._on_shelf() is not None:
                return end
            file = self._opened()
            return file.here_until(start, end) if file is not None else start
        except OSError as exc:
            self._cache.trouble(exc)
            return start

    def read(self, start: int, end: int, *, wait: bool) -> bytes | memoryview | None:
        """Return the bytes from *start* to *end*; None if they are not kept, or not sound, or
        cannot be had without a wait."""
        try:
            data = self._read_from_shelf(start, end) if wait else None
            if data is None:
                file = self._opened() if wait else self._file
                data = file.read(start, end, wait) if file is not None else None
        except OSError as exc:
            self._cache.trouble(exc)
            return None
        if data is not None:
            self._cache.note(hit=end - start)
        return data

    def _on_shelf(self) -> Shelf | None:
        """Return the shelf that has it."""
        if self._shelved is False:
            return None
        shelf = self._cache.shelf(self._size)
        if self._shelved is None:
            self._shelved = shelf is not None and shelf.has(self._digest, self._size)
        return shelf if self._shelved else None

    def _read_from_shelf(self, start: int, end: int) -> bytes | memoryview | None:
        if self._shelved is False:
            return None
        shelf = self._cache.shelf(self._size)
        data = shelf.read(self._digest, self._size) if shelf is not None else None
        self._shelved = data is not None
        return data if data is None or end - start == self._size else memoryview(data)[start:end]

    def fill(self, start: int, buffer: memoryview) -> tuple[int, int]:
        """Fill *buffer* with the bytes from *start* on as far as they are kept at its beginning
        and at its end. Return the range that is left."""
        end = start + len(buffer)
        here = self.here_until(start, end)
        if here > start and self._read_into(start, buffer[: here - start]):
            start, buffer = here, buffer[here - start :]
        while start < end:
            last = max(start, (end - 1) // BLOCK * BLOCK)
            if not self._read_into(last, buffer[last - start :]):
                break
            end, buffer = last, buffer[: last - start]
        self._cache.note(missed=end - start)
        return start, end

    def _read_into(self, start: int, buffer: memoryview) -> bool:
        try:
            data = self._read_from_shelf(start, start + len(buffer))
            if data is not None:
                buffer[:] = data
            file = self._opened() if data is None else None
            done = data is not None or (file is not None and file.read_into(start, buffer))
        except OSError as exc:
            self._cache.trouble(exc)
            return False
        if done:
            self._cache.note(hit=len(buffer))
        return done

    def fetched(self, data: memoryview) -> None:
        """Keep *data*, all of it, for which S3 was asked."""
        self._cache.note(missed=len(data))
        self.write(0, data)

    def would_keep(self, size: int) -> bool:
        """Whether *size* more bytes would be kept now, and the cache is large enough for the whole
        object."""
        return self._cache.can_hold(self._size) and self._cache.has_room(size)

    def write(self, start: int, data: memoryview) -> None:
        """Keep *data*, the bytes from *start* on, if there is room."""
        if not self._cache.has_room(len(data)):
            return
        try:
            if self._small and len(data) == self._size and self._is_put_on_shelf(data):
                return
            file = self._opened(make=True)
            if file is not None:
                self._cache.note(written=file.write(start, data))
        except (OSError, ConfigError) as exc:
            self._cache.trouble(exc)
        if len(data) == self._size:  # one of many small objects, which is in memory as well
            with self._lock:
                self._put_away()
            self._put_away_if_closed()

    def _is_put_on_shelf(self, data: memoryview) -> bool:
        shelf = self._cache.shelf(self._size, make=True) if not self._closed else None
        if shelf is not None:
            self._cache.note(written=shelf.write(self._digest, data))
            self._shelved = True
        return shelf is not None

    def close(self) -> None:
        """Keep nothing more: what arrives late is not written. Never waits: a thread that is just
        opening the file puts it away itself."""
        self._closed = True
        self._put_away_if_closed()

    def _put_away_if_closed(self) -> None:
        """Call this after `_closed` was set, and after letting go of the lock: the last caller sees
        both."""
        while self._closed and self._file is not None and self._lock.acquire(blocking=False):
            try:
                self._put_away()
            finally:
                self._lock.release()

    def _opened(self, make: bool = False) -> BlockFile | None:
        if self._file is not None or (self._looked and not make):
            return self._file
        with self._lock:
            if self._file is None and not self._closed:
                self._looked = True
                self._file = self._cache.open(self.name, self._size, make)
            file = self._file
        self._put_away_if_closed()
        return None if self._closed else file

    def _put_away(self) -> None:
        if self._file is not None:
            self._cache.closed(self.name)
        self._file, self._looked = None, False


def _hashed(*what: str | int) -> str:
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=20).hexdigest()


def _opened(directory: Path) -> int:
    """Return *directory* opened. Raises ConfigError."""
    private_directory(directory, "name another --cache-dir")
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(root).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "not ours")
        tag = os.open("CACHEDIR.TAG", _OPEN | os.O_CREAT, 0o600, dir_fd=root)
        with os.fdopen(tag, "wb") as file:
            file.write(_TAG)
    except OSError as exc:
        raise ConfigError(f"{directory}: {exc.strerror}; name another --cache-dir") from exc
    return root
