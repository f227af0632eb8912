"""The objects that mark directories (`d/`), where the server keeps them.

To some servers (rclone) `d/` is the name of a file `d`, and then nothing can be stored below it. A
look at `d` after the first marker shows that. mimicfs deletes such a marker again, and from then on
only the mirror remembers directories, as with -o no_markers.

Threading: any thread.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping

from mimicfs.config.values import VFSOptions
from mimicfs.entry import Entry
from mimicfs.errors import AccessDenied, KeyNotFound, MimicError, PosixError, S3Unavailable
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.ownkeys import own_key_beside

DIRECTORY_TYPE = "application/x-directory"  # as s3fs writes it
_NEW = Condition(absent=True)

log = logging.getLogger(__name__)


class Markers:
    """The markers on the server of *s3*."""

    def __init__(self, mimicdb: Mirror, s3: S3, options: VFSOptions) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._options = options
        self._denied = False  # S3 refused a look whether they are kept: it is asked once

    @property
    def are_kept(self) -> bool:
        """Whether directories have markers here, as far as that is known."""
        return self._options.markers and self._s3.capabilities["markers"] != "no"

    def make(self, bucket: str, key: str, meta: Mapping[str, str]) -> None:
        """Make the directory *key*: its marker, or a row of the mirror in the place of one. Raises
        PosixError EEXIST."""
        if self.are_kept and self._is_made(bucket, key, meta):
            return
        keeps = self._options.buckets.of(bucket).keeps_metadata
        self._mimicdb.keep(bucket, key, meta if keeps else {})

    def _is_made(self, bucket: str, key: str, meta: Mapping[str, str]) -> bool:
        try:
            made = self._put(bucket, key, meta)
        except S3Unavailable as exc:
            if exc.status != 500:
                raise
            if self._mimicdb.entry(bucket, key) is None:
                if self._is_in_the_way(bucket, key, meta):
                    raise PosixError(errno.EEXIST, f"s3://{bucket}/{key}") from exc
                raise
            # rclone says this of each directory that has names.
            if self._is_known or self._file_of_own(bucket, key, meta) is None:
                raise
            return False
        return self._is_known or self._is_kept(bucket, made)

    @property
    def _is_known(self) -> bool:
        return self._denied or self._s3.capabilities["markers"] == "yes"

    def _is_kept(self, bucket: str, made: Entry) -> bool:
        """Whether *made* is a marker; if not, it is gone again. Raises PosixError EEXIST."""
        beside = self._file_beside(bucket, made)
        if beside is None or beside.size > 0:  # somebody's own file, which tells nothing
            return True
        try:
            own = self._file_of_own(bucket, made.key, made.meta or {})
        except MimicError as exc:
            self._not_known(bucket, made, exc)
            return True
        if own is None:
            return True
        if beside.etag:  # otherwise nothing there is ours
            if not _is_same(beside, made, keeps_metadata=bool(own.meta)):
                raise PosixError(errno.EEXIST, f"s3://{bucket}/{beside.key}")
            self._s3.conditions.delete(bucket, made.key, made.etag)
        return False

    def _file_beside(self, bucket: str, made: Entry) -> Entry | None:
        """Return the object that has the name of *made* without its slash. None: there is none, and
        *made* is a marker, as far as one can know. If another mount found a file and has deleted it
        meanwhile, return that file, without an ETag, as nobody has seen it."""
        name = made.key.rstrip("/")
        try:
            try:
                return self._s3.look(bucket, name)
            except KeyNotFound:
                self._s3.look(bucket, made.key)
                self._s3.capabilities.learned("markers", "yes")
        except KeyNotFound:
            return Entry(name)
        except MimicError as exc:
            self._not_known(bucket, made, exc)
        return None

    def _not_known(self, bucket: str, made: Entry, exc: MimicError) -> None:
        """Keep *made*, though nobody can see whether it is a marker."""
        log.debug("s3://%s/%s: whether it is a marker is not known: %s", bucket, made.key, exc)
        self._denied = self._denied or isinstance(exc, AccessDenied)

    def _is_in_the_way(self, bucket: str, key: str, meta: Mapping[str, str]) -> bool:
        """Whether the server refuses the directory *key* because somebody has made a file of that
        name: where keys are paths (JuiceFS, rclone), there cannot be both. Others can be made."""
        try:
            self._s3.head(bucket, key.rstrip("/"))  # from now on the mirror knows it
            self._file_of_own(bucket, key, meta)
        except MimicError as exc:
            log.debug("s3://%s/%s cannot be made: %s", bucket, key, exc)
            return False
        return True

    def _file_of_own(self, bucket: str, key: str, meta: Mapping[str, str]) -> Entry | None:
        """Make a marker of our own beside *key*, which nobody else touches, and return the file
        that the server makes of it. None: it keeps markers."""
        own = self._put(bucket, own_key_beside(key.rstrip("/")) + "/", meta)
        try:
            file = self._s3.look(bucket, own.key.rstrip("/"))
        except KeyNotFound:
            self._s3.capabilities.learned("markers", "yes")
            return None
        else:
            self._s3.capabilities.learned("markers", "no")
            return file
        finally:
            self._remove(bucket, own.key)

    def _remove(self, bucket: str, own: str) -> None:
        try:
            self._s3.delete(bucket, own)
        except MimicError as exc:  # what was seen counts all the same
            log.warning("s3://%s/%s is left: %s", bucket, own, exc)

    def _put(self, bucket: str, key: str, meta: Mapping[str, str]) -> Entry:
        return self._s3.put(bucket, key, b"", 0, Content(DIRECTORY_TYPE, meta), _NEW)


def _is_same(beside: Entry, made: Entry, *, keeps_metadata: bool) -> bool:
    """Whether the file *beside* is *made*. The bytes of empty files are the same, but the metadata,
    where the server keeps them, have the time in them."""
    same = not keeps_metadata or (beside.meta or {}) == (made.meta or {})
    return same and beside.etag == made.etag
