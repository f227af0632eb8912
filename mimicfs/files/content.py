"""What is stored with the object of an open file besides its bytes; each upload stores it again.

The second layer of a File (file.py, which has the theory and the locks). S3 is asked before the
first change of the bytes, and again once the mirror has seen the same version anew: a chmod by
another mount, or a copy of the object onto itself, changes what is stored, and no ETag.
"""

from __future__ import annotations

from collections.abc import Mapping

from mimicfs import metadata
from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import ObjectChanged
from mimicfs.files.origin import Origin
from mimicfs.files.reader import Budget, Reader
from mimicfs.files.standing import StandingFile
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Content


class ContentFile(StandingFile):
    """The same, of which the next upload stores *content*."""

    def __init__(
        self,
        s3: S3,
        options: FileOptions,
        budget: Budget,
        bucket: str,
        key: str,
        entry: Entry | None,
        content: Content,
        reader: Reader | None = None,
    ) -> None:
        super().__init__(s3, options, budget, bucket, key, entry, reader)
        self.content = content
        # Metadata that programs have set (None: removed) and S3 does not have yet, by name.
        self._said: dict[str, str | None] = {}
        self._mtime_said = False  # a program has set it, after the last change of bytes
        # The mirror has the version that the file stands on as this, which was not known when it
        # was asked what is stored with that.
        self._sight: Entry | None = None

    def seen_anew(self, entry: Entry) -> None:
        """Note that the mirror has, as *entry*, the version that the file stands on. If that was
        changed by us, its metadata is what we know."""
        with self._lock:
            if entry.meta is None or entry.meta != self.content.meta:
                self._sight = entry

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
        Origin.content says. Raises ObjectChanged."""
        sight, self._sight = self._sight, None
        try:
            content = origin.content(self.key, cancellation, cut=cut, anew=sight is not None)
        except BaseException:
            self._sight = self._sight or sight
            raise
        unknown = origin.entry.meta is None
        if content is not None and unknown and metadata.is_special(content.meta):
            # Nobody knew when it was opened: a new open finds, say, where the link points to.
            raise ObjectChanged(f"{self._about}: is no regular file")
        with self._lock:
            if content is None or self._origin is not origin:
                return
            if self._sight is not None and self._sight.meta == content.meta:
                self._sight = None  # the answer itself was the news
            if cut and sight is None:  # maybe no answer: the mirror may know more than we remember
                content = content._replace(meta={**content.meta, **self.content.meta})
            self.content = self._with_said(content)

    def _learn_again(self, cancellation: Cancellation, *, cut: bool) -> None:
        """Do the same where others may have changed that since it was learned."""
        origin = self._origin
        if self._sight is not None and origin is not None:
            self._learn_content(origin, cancellation, cut=cut)
