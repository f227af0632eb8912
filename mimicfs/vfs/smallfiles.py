"""Small files of a directory that is listed are brought into the cache on disk, before anybody
opens them (-o small_files=SIZE).

It is bounded: by requests at once, at most a quarter of all; by files and bytes of one directory;
and by waiting directories, of which the oldest goes. All that is on its way must fit into free room
of the cache, so nothing is evicted for it; and it waits while others wait for a connection to S3. A
read of a file that is on its way waits for it, and sends no request itself.

Threading: `listed` is called by any thread, and does not wait; one thread goes through directories,
requests run in the S3 object's pool. `_lock` is a leaf.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator

from mimicfs.config.sizes import MIB
from mimicfs.entry import OBJECT, Entry, pages
from mimicfs.errors import NOTHING_SAID, MimicError, Unlisted
from mimicfs.files.cache import BlockCache, CachedObject
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.vfs.nodes import Node

log = logging.getLogger(__name__)

_AT_ONCE = 8  # requests
_SHARE = 4  # at most one part in so many of all requests that may be under way
_FILES = 2_000  # of one directory
_BYTES = 64 * MIB  # of one directory
_WAITING = 64  # directories
_AGAIN_S = 30.0  # a directory that is listed again so soon is not searched again
_SEEN = 1_000  # directories whose time of that is remembered
_LOOK_S = 0.2  # while requests go on, how often to look whether the mount ends
_YIELD_S = 0.02  # between two looks at whether others wait
_PAGE = 256  # names that the mirror is asked for at a time
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # classes whose objects S3 does not give
_KINDS = ("directories", "fetched", "bytes", "already", "refused", "no_room", "passed_over")


class SmallFiles:
    """Brings objects of up to *most* bytes into *cache*. *connections* is the number of requests
    that may be under way in all."""

    def __init__(
        self, mimicdb: Mirror, s3: S3, cache: BlockCache, most: int, connections: int
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._cache = cache
        cache.note_reads()
        self._most = most
        at_once = max(1, min(_AT_ONCE, connections // _SHARE))
        self._turns = threading.BoundedSemaphore(at_once)
        self._lock = threading.Condition()  # protects the four below
        self._waiting: OrderedDict[tuple[str, str], Node] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._ended = False
        self._under_way: list[int] = []  # the sizes of the objects that are being fetched
        self._seen_s: OrderedDict[tuple[str, str], float] = OrderedDict()  # the thread's own
        self._thread = threading.Thread(target=self._run, name="small-files", daemon=True)
        self._thread.start()

    def listed(self, directory: Node) -> None:
        """Note that somebody lists *directory*."""
        where = (directory.bucket, directory.key)
        with self._lock:
            self._waiting[where] = directory
            self._waiting.move_to_end(where)
            if len(self._waiting) > _WAITING:
                self._waiting.popitem(last=False)
                self._counts["passed_over"] += 1
            self._lock.notify()

    def figures(self) -> dict[str, int]:
        """Return how many files were fetched, how many were not and why, and how many wait."""
        with self._lock:
            return {
                **{kind: self._counts[kind] for kind in _KINDS},
                "waiting": len(self._waiting),
                "most": self._most,
            }

    def close(self) -> None:
        """Fetch nothing more; do not wait for requests that are under way."""
        with self._lock:
            self._ended = True
            self._waiting.clear()
            self._lock.notify()
        self._thread.join()

    # In the thread

    def _run(self) -> None:
        while (directory := self._next()) is not None:
            try:
                self._bring(directory)
            except Unlisted:
                log.debug("s3://%s/%s is not known any more", directory.bucket, directory.key)
            except MimicError as exc:
                log.debug("no small files are fetched: %s", exc)
            except Exception:
                log.exception("fetching the small files of a directory failed")

    def _next(self) -> Node | None:
        """Wait for the next directory: the one that was listed last. None: it is over."""
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return None
                where, directory = self._waiting.popitem()
            if time.monotonic() - self._seen_s.get(where, -_AGAIN_S) >= _AGAIN_S:
                self._seen_s[where] = time.monotonic()
                self._seen_s.move_to_end(where)
                if len(self._seen_s) > _SEEN:
                    self._seen_s.popitem(last=False)
                return directory

    def _bring(self, directory: Node) -> None:
        self._count("directories")
        files, size = _FILES, _BYTES
        for entry in self._small(directory):
            kept = self._cache.object(directory.bucket, entry)
            if kept is None or self._is_here(kept, entry):
                continue
            files, size = files - 1, size - entry.size
            if not self._turn():
                kept.close()
                return
            if files < 0 or size < 0 or not self._has_spare(entry):
                self._let_go(kept)
                self._count("no_room")
                return
            arrived = kept.expect()
            if arrived is None:  # somebody reads it
                self._let_go(kept)
                self._count("already")
                continue
            with self._lock:
                self._under_way.append(entry.size)
            try:
                self._s3.pool.submit(self._fetch, directory.bucket, entry, kept).add_done_callback(
                    lambda _, arrived=arrived: arrived()  # type: ignore[misc]
                )
            except RuntimeError:  # the mount ends
                arrived()
                self._let_go(kept)
                return

    def _small(self, directory: Node) -> Iterator[Entry]:
        bucket, key, read = directory.bucket, directory.key, self._mimicdb.children
        for page in pages(lambda after: read(bucket, key, after, _PAGE), key, _PAGE):
            yield from (entry for entry in page if self._is_wanted(directory, entry))

    def _is_wanted(self, directory: Node, entry: Entry) -> bool:
        if entry.kind != OBJECT or not 0 < entry.size <= self._most:
            return False
        if not entry.etag or entry.storage_class in _ARCHIVES:
            return False
        node = directory.below(entry.key[len(directory.key) :])
        return node is None or node.pages_etag != entry.etag  # otherwise the kernel has its pages

    def _is_here(self, kept: CachedObject, entry: Entry) -> bool:
        here = kept.here_until(0, entry.size) == entry.size
        if here:
            kept.close()
            self._count("already")
        return here

    def _has_spare(self, entry: Entry) -> bool:
        with self._lock:
            return self._cache.has_spare([*self._under_way, entry.size])

    def _turn(self) -> bool:
        """Wait until a request may be sent, and nobody else waits to send one; False: it is
        over."""
        while not self._turns.acquire(timeout=_LOOK_S):
            if self._ended:
                return False
        with self._lock:
            while self._s3.waiting and not self._ended:
                self._lock.wait(_YIELD_S)
            if self._ended:
                self._turns.release()
            return not self._ended

    # In the pool

    def _fetch(self, bucket: str, entry: Entry, kept: CachedObject) -> None:
        try:
            buffer = memoryview(bytearray(entry.size))
            self._s3.read_into(bucket, entry.key, entry.etag, 0, buffer)
            kept.write(0, buffer)
        except NOTHING_SAID as exc:  # other files would fail like it
            log.debug("no small files are fetched: %s", exc)
            with self._lock:
                self._waiting.clear()
                self._counts["refused"] += 1
        except MimicError as exc:
            log.debug("s3://%s/%s is not fetched: %s", bucket, entry.key, exc)
            self._count("refused")
        else:
            self._count("fetched")
            self._count("bytes", entry.size)
        finally:
            with self._lock:
                self._under_way.remove(entry.size)
            self._let_go(kept)

    def _let_go(self, kept: CachedObject) -> None:
        """Let waiting readers go on without *kept*; a block of it may be here and in use."""
        kept.close()
        self._turns.release()

    def _count(self, kind: str, by: int = 1) -> None:
        with self._lock:
            self._counts[kind] += by
