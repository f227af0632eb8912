"""The version in S3 that a file stands on: its bytes, and what else is stored with it.

Threading: `handed` and the reader may be used by any thread; `File` replaces a whole Origin under
its lock. `_making` is a leaf.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from weakref import WeakSet

from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, ObjectChanged
from mimicfs.files import transfer
from mimicfs.files.reader import Reader
from mimicfs.files.staging import Staging
from mimicfs.files.tools import Tools
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.kept import StoredContent

Span = tuple[int, int]
_making = threading.Lock()  # held while the reader of an Origin is made, or given up


class Origin:
    """The version *entry* of an object in *bucket*."""

    def __init__(
        self, tools: Tools, bucket: str, entry: Entry, reader: Reader | None = None
    ) -> None:
        self._tools = tools
        self._bucket = bucket
        self.entry = entry
        self.handed = False  # somebody has got bytes of it
        self._reader = reader  # None: nobody has asked for one
        self._closed = False
        # Versions that this one is a copy of; None: of none.
        self._sources: WeakSet[Origin] | None = None

    def follows(self, old: Origin, *, copied: bool) -> None:
        """Note that the file stood on *old* before. *copied*: this is a copy of that."""
        self.handed = old.handed
        if copied:
            self._sources = WeakSet(old._sources or ())
            self._sources.add(old)

    def has_bytes_of(self, other: Origin) -> bool:
        return other is self or (self._sources is not None and other in self._sources)

    def fetch(self, spans: Iterable[Span], staging: Staging, cancellation: Cancellation) -> None:
        """Write the bytes of *spans* into *staging*. Raises ObjectChanged if they are gone."""
        place = (self._bucket, self.entry, spans, staging, cancellation)
        try:
            transfer.fetch(self._tools.s3, self._tools.options, *place)
        except KeyNotFound as exc:
            raise self._deleted() from exc

    def content(
        self, key: str, cancellation: Cancellation, *, cut: bool, anew: bool = False
    ) -> StoredContent | None:
        """Return what else is stored with the object *key*, so that a change of its bytes keeps it.
        *cut*: none of its bytes stay, so any version will do, and None means that it is gone.
        *anew*: nothing that is remembered will do. Raises ObjectChanged where it is another
        version."""
        s3 = self._tools.s3
        kept = s3.kept
        known = kept.heard(self._bucket, self.entry) if cut and not anew else None
        if known is not None:
            return known
        at_s = time.monotonic()
        try:
            asked = s3.pool.submit(kept.of, self._bucket, key)
            found, content = cancellation.wait(asked)
        except KeyNotFound as exc:
            if cut:
                return None
            raise self._deleted() from exc
        if found.etag != self.entry.etag and not cut:
            raise ObjectChanged.since_opened(f"s3://{self._bucket}/{key}")
        return StoredContent(content, at_s)

    @property
    def reader(self) -> Reader:
        """What reads its bytes. It is made when it is asked for: of most files that were written,
        and of those whose pages the kernel has, nobody reads."""
        reader = self._reader
        if reader is None:
            with _making:
                reader = self._reader
                if reader is None:
                    reader = Reader(self._tools, self._bucket, self.entry)
                    if self._closed:
                        reader.close()
                    self._reader = reader
        return reader

    def close(self) -> None:
        with _making:
            self._closed, reader = True, self._reader
        if reader is not None:
            reader.close()

    def _deleted(self) -> ObjectChanged:
        return ObjectChanged.deleted(f"s3://{self._bucket}/{self.entry.key}")
