"""What is stored with the object of an open file besides its bytes; each upload stores it again.

The second layer of a File (file.py, which has the theory and the locks). A chmod by another mount,
tags, or a copy of the object onto itself change what is stored, and no ETag. So S3 is asked before
the first change of the bytes, and again before an upload if the last answer is older than two
seconds, or the mirror has seen the same version anew.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from collections.abc import Mapping

from mimicfs import metadata
from mimicfs.entry import Entry
from mimicfs.errors import AccessDenied, ObjectChanged, PosixError
from mimicfs.files.multipart import size_max
from mimicfs.files.origin import Origin
from mimicfs.files.reader import Reader
from mimicfs.files.standing import StandingFile
from mimicfs.files.tools import Tools
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import Content

log = logging.getLogger(__name__)


class ContentFile(StandingFile):
    """The same, of which the next upload stores *content*."""

    def __init__(
        self,
        tools: Tools,
        bucket: str,
        key: str,
        entry: Entry | None,
        content: Content,
        reader: Reader | None = None,
    ) -> None:
        super().__init__(tools, bucket, key, entry, reader)
        self.content = content
        # Metadata that programs have set (None: removed) and S3 does not have yet, by name.
        self._said: dict[str, str | None] = {}
        self._mtime_said = False  # a program has set it, after the last change of bytes
        # The mirror has the version that the file stands on as this, which was not known when it
        # was asked what is stored with that.
        self._sight: Entry | None = None
        self._heard_s = -math.inf  # when S3 was asked, or has stored it for us (time.monotonic)

    def seen_anew(self, entry: Entry) -> None:
        """Note that the mirror has, as *entry*, the version that the file stands on. Where S3 has
        stored that anew, it has another time, or other metadata than we know."""
        with self._lock:
            known = self.entry
            if known is None or (entry.mtime_ns, entry.meta) != (known.mtime_ns, self.content.meta):
                self._sight = entry

    def _heard(self) -> None:
        """Note that S3 has just stored what is known. `_lock` is held."""
        self._heard_s = time.monotonic()

    def set_meta(self, updates: Mapping[str, str]) -> None:
        """Store *updates* as user metadata with the next upload."""
        with self._lock:
            self.content = self.content._replace(meta={**self.content.meta, **updates})

    def _say(self, meta: dict[str, str]) -> None:
        """Note that a program has made *meta* of the user metadata. `_lock` is held."""
        old = self.content.meta
        changed = {name for name in meta.keys() | old.keys() if meta.get(name) != old.get(name)}
        self._said |= {name: meta.get(name) for name in changed}
        self.content = self.content._replace(meta=meta)

    def _with_said(self, content: Content) -> Content:
        """Return *content*, which S3 has, with what programs have set and S3 does not have yet."""
        meta = {**content.meta, **self._said}
        return content._replace(
            meta={name: said for name, said in meta.items() if said is not None}
        )

    def _learn_content(self, origin: Origin, cancellation: Cancellation, *, cut: bool) -> None:
        """Learn what is stored with the object, so that the next upload stores it again. *cut*: as
        Origin.content says. Raises ObjectChanged, PosixError ESTALE."""
        sight, self._sight = self._sight, None
        try:
            heard = origin.content(self.key, cancellation, cut=cut, anew=sight is not None)
        except BaseException:
            self._sight = self._sight or sight
            raise
        if heard is None:
            return
        content, at_s = heard
        self._check_regular(content)
        with self._lock:
            if self._origin is not origin:
                return
            if self._sight is not None and self._sight.meta == content.meta:
                self._sight = None  # the answer itself was the news
            self.content, self._heard_s = self._with_said(content), at_s

    def _check_regular(self, content: Content) -> None:
        """Raise PosixError ESTALE if the object with *content* is, say, a link. Nobody knew when it
        was opened, or others have made it one since: a new open finds where it points to."""
        if metadata.is_special(content.meta) and not metadata.is_special(self.content.meta):
            raise PosixError(errno.ESTALE, f"{self._about}: is no regular file")

    @property
    def _may_differ(self) -> bool:
        """Whether others may have changed what is stored with the object since it was learned."""
        known = self._sight is None and self._s3.kept.is_recent(self._heard_s)
        return self._origin is not None and not known

    def _learn_again(self, cancellation: Cancellation, *, cut: bool) -> None:
        """Do the same before an upload, where others may have changed it. Where S3 does not let us
        ask, what is known is stored. Where it has another version, the upload says so."""
        origin = self._origin
        if origin is None or not self._may_differ:
            return
        try:
            self._learn_content(origin, cancellation, cut=cut)
        except ObjectChanged:
            pass  # then the upload says so, or finds that it was ours
        except AccessDenied as exc:
            log.info("%s: what others have stored with it may be lost: %s", self._about, exc)

    @property
    def _size_max(self) -> int:
        return size_max(self._tools.options.part_size)

    def _check_size(self, size: int) -> None:
        if size > self._size_max:
            raise PosixError(errno.EFBIG, f"{self._about}: S3 takes {self._size_max} bytes")
