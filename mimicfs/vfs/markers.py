"""The objects that mark directories (`d/`), where the server keeps them.

There are servers to which `d/` is the name of a file `d` (rclone): then nothing can be stored below
it. A look at `d`, after the first marker, shows it; mimicfs deletes such a marker again, and from
then on the mirror alone remembers directories, as with -o no_markers.

Threading: any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mimicfs.config.values import VFSOptions
from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, MimicError, S3Unavailable
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.ownkeys import own_key_beside

DIRECTORY_TYPE = "application/x-directory"  # as s3fs writes it
_NEW = Condition(absent=True)

log = logging.getLogger(__name__)


class Markers:
    """Of the server of *s3*."""

    def __init__(self, mimicdb: Mirror, s3: S3, options: VFSOptions) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._options = options
        self._looked = False  # once is enough, where nothing was learned by it

    @property
    def are_kept(self) -> bool:
        """Whether directories have markers here, as far as it is known."""
        return self._options.markers and self._s3.capabilities["markers"] != "no"

    def make(self, bucket: str, key: str, meta: Mapping[str, str]) -> None:
        """Make the directory *key*: its marker, or what the mirror remembers in the place of one.
        Raises PosixError EEXIST."""
        if self.are_kept and self._is_made(bucket, key, meta):
            return
        keeps = self._options.buckets.of(bucket).keeps_metadata
        self._mimicdb.keep(bucket, key, meta if keeps else None)

    def _is_made(self, bucket: str, key: str, meta: Mapping[str, str]) -> bool:
        try:
            made = self._put(bucket, key, meta)
        except S3Unavailable as exc:
            # What rclone says of each directory that has names.
            if exc.status != 500 or self._is_known or self._mimicdb.entry(bucket, key) is None:
                raise
            if self._is_kept_beside(bucket, key):
                raise
            return False
        return self._is_known or self._is_kept(bucket, made)

    @property
    def _is_known(self) -> bool:
        return self._looked or self._s3.capabilities["markers"] == "yes"

    def _is_kept_beside(self, bucket: str, key: str) -> bool:
        """As `_is_kept`, of a marker of our own."""
        own = self._put(bucket, own_key_beside(key.rstrip("/")) + "/", {})
        if not self._is_kept(bucket, own):
            return False
        self._s3.delete(bucket, own.key)
        return True

    def _is_kept(self, bucket: str, made: Entry) -> bool:
        """Whether *made* is a marker; if not, it is gone again."""
        self._looked = True
        try:
            beside, _ = self._s3.head(bucket, made.key.rstrip("/"))
        except KeyNotFound:
            self._s3.capabilities.learned("markers", "yes")
            return True
        except MimicError as exc:  # it is made all the same
            log.debug("s3://%s/%s: whether it is a marker is not known: %s", bucket, made.key, exc)
            return True
        return beside.size > 0 or not self._is_file(bucket, made)

    def _is_file(self, bucket: str, made: Entry) -> bool:
        """Whether the file beside *made* goes when that is deleted; if not, it is somebody's own,
        and *made* is made again."""
        self._s3.conditions.delete(bucket, made.key, made.etag)
        try:
            self._s3.head(bucket, made.key.rstrip("/"))
        except KeyNotFound:
            self._s3.capabilities.learned("markers", "no")
            return True
        self._put(bucket, made.key, made.meta or {})
        return False

    def _put(self, bucket: str, key: str, meta: Mapping[str, str]) -> Entry:
        return self._s3.put(bucket, key, b"", 0, Content(DIRECTORY_TYPE, meta), _NEW)
