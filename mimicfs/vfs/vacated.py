"""Names that a file was renamed away from a moment ago.

Many programs save so: they rename the file to its backup, and write a new one (emacs, `sed -i.bak`,
`cp -b`, `rsync -b`, `patch -b`). What comes to such a name takes over what is stored with the
object that stood there, as it would if it replaced it. NTFS calls that tunnelling, and has the
same time for it.

It is asked for only when something comes: the object has it at its new place.

Threading: any thread; `_lock` protects all, and is not held while S3 is asked.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress

from mimicfs.errors import AccessDenied, KeyNotFound
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Content

_KEPT_S = 15.0
_KEPT_MAX = 1024  # names

Place = tuple[str, str]  # bucket and key


class Vacated:
    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._lock = threading.Lock()
        self._gone: OrderedDict[Place, tuple[Place, float]] = OrderedDict()  # new place, until when

    def moved(self, old: Place, new: Place) -> None:
        """The object at *old* is at *new* now."""
        with self._lock:
            self._gone.pop(new, None)
            self._gone[old] = new, time.monotonic() + _KEPT_S
            while len(self._gone) > _KEPT_MAX:
                self._gone.popitem(last=False)

    def stored(self, place: Place) -> Content | None:
        """Return what is stored with the object that left *place* a moment ago, where it is now."""
        with self._lock:
            now, until = self._gone.pop(place, (place, 0.0))
        if now == place or time.monotonic() > until:
            return None
        with suppress(KeyNotFound, AccessDenied):
            content = self._s3.kept.of(*now)[1]
            return self._s3.kept.successor(content, now, place)  # its type by the name it had
        return None

    def inherited(self, place: Place, content: Content, cancellation: Cancellation) -> Content:
        """Return *content*, of a new file at *place*, with what it takes over."""
        with self._lock:
            if place not in self._gone:
                return content
        before = cancellation.wait(self._s3.pool.submit(self.stored, place))
        return self._s3.kept.successor(content, place, place, before) if before else content
