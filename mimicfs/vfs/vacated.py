"""Names that a file was renamed away from a moment ago.

Many programs save so: they rename the file to its backup, and write a new one (emacs, `sed -i.bak`,
`cp -b`, `rsync -b`, `patch -b`). A file that comes to such a name takes over what is stored with
the object that stood there, as if it replaced that. NTFS calls that tunnelling, and has the same
time for it.

S3 is asked only when a file comes: the object has it all at its new place.

Threading: any thread; `_lock` protects all, and is not held while S3 is asked.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mimicfs.errors import AccessDenied, KeyNotFound
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Content

_KEPT_S = 15.0
_KEPT_MAX = 1024  # names

VacatedKey = tuple[str, str]  # bucket and key


class _Gone(NamedTuple):
    now: VacatedKey  # where the object is
    until_s: float  # on the monotonic clock


class Vacated:
    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._lock = threading.Lock()
        self._gone: OrderedDict[VacatedKey, _Gone] = OrderedDict()

    def moved(self, old: VacatedKey, new: VacatedKey) -> None:
        """Note that the object at *old* is at *new* now, and has taken over what left that
        place."""
        with self._lock:
            self._gone.pop(new, None)
            self._gone[old] = _Gone(new, time.monotonic() + _KEPT_S)
            while len(self._gone) > _KEPT_MAX:
                self._gone.popitem(last=False)

    def stored(self, place: VacatedKey) -> Content | None:
        """Return what is stored, at its new place, with the object that left *place* a moment ago.
        Raises S3Error; then the next caller is told."""
        gone = self._left(place)
        return self._stored(gone, place) if gone is not None else None

    def has_left(self, place: VacatedKey) -> bool:
        """Whether a new file at *place* takes over something."""
        return self._left(place) is not None

    @contextmanager
    def inherited(
        self, place: VacatedKey, content: Content, cancellation: Cancellation
    ) -> Iterator[Content]:
        """Yield *content*, of a new file at *place*, with everything that it takes over. If the
        file is made within, the next one takes over nothing."""
        gone = self._left(place)
        if gone is None:
            yield content
            return
        before = cancellation.wait(self._s3.pool.submit(self._stored, gone, place))
        yield self._s3.kept.successor(content, place, place, before) if before else content
        with self._lock:
            if self._gone.get(place) is gone:
                del self._gone[place]

    def _left(self, place: VacatedKey) -> _Gone | None:
        """Return the object that left *place* a moment ago."""
        with self._lock:
            gone = self._gone.get(place)
            if gone is not None and time.monotonic() > gone.until_s:
                del self._gone[place]
                return None
            return gone

    def _stored(self, gone: _Gone, place: VacatedKey) -> Content | None:
        with suppress(KeyNotFound, AccessDenied):
            content = self._s3.kept.content_of(*gone.now)
            # its type goes by the name that it had
            return self._s3.kept.successor(content, gone.now, place)
        return None
