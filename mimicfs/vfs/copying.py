"""copy_file_range(2) of a whole object: a copy within S3, so that no byte comes here.

Threading: any thread.
"""

from __future__ import annotations

import errno

from mimicfs import metadata
from mimicfs.entry import Entry
from mimicfs.errors import ObjectChanged, PosixError
from mimicfs.files.file import File
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Condition, Content

ONLY_WHOLE = "only whole objects are copied by S3"


class WholeCopier:
    """Copies within *s3* the versions that files stand on."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3

    def copy_whole(self, old: File, new: File, cancellation: Cancellation) -> Entry:
        """Copy the object of *old* onto *new*, an empty file; return what S3 has then. Raises
        PosixError EOPNOTSUPP where a copy within S3 would not be the same."""
        if old is new:
            raise PosixError(errno.EOPNOTSUPP, ONLY_WHOLE)
        # Not while `adopt` waits for *new*: another thread may copy the other way.
        with old.still(cancellation):
            if new.size or old.apart or new.apart:
                raise PosixError(errno.EOPNOTSUPP, ONLY_WHOLE)
            if not old.size or old.dirty or old.entry is None:
                raise PosixError(errno.EOPNOTSUPP, ONLY_WHOLE)
            if new.entry is None or not new.dirty:
                self._s3_has_no_other(new, cancellation)
            entry, content = self._copied(old, old.entry, new)
        new.adopt(entry, content, put=True)
        return entry

    def _copied(self, old: File, source: Entry, new: File) -> tuple[Entry, Content]:
        """Copy the version *source* onto *new*, which keeps what is stored with it."""
        own = self._s3.kept.remembered(old.bucket, source)
        own = own or self._s3.kept.content_of(old.bucket, source.key)
        own = own._replace(meta=metadata.without_ours(own.meta))
        replaced = new.content if new.entry is not None else None
        places = (old.bucket, old.key), (new.bucket, new.key)
        content = self._s3.kept.successor(own, *places, replaced)
        posix = {**new.content.meta, **metadata.written(mtime_ns=new.mtime_ns)}
        content = content._replace(meta={**content.meta, **posix})
        return self._s3.copy((old.bucket, source), new.bucket, new.key, content), content

    def _s3_has_no_other(self, file: File, cancellation: Cancellation) -> None:
        """Raise PosixError EOPNOTSUPP if S3 has an object that the mirror does not: a copy would
        replace it, and only an upload knows whether it may."""
        condition = Condition(file.etag, absent=file.entry is None)
        check = self._s3.pool.submit(self._s3.conditions.check, file.bucket, file.key, condition)
        try:
            cancellation.wait(check)
        except (PosixError, ObjectChanged) as exc:
            about = f"s3://{file.bucket}/{file.key}: others have replaced it"
            raise PosixError(errno.EOPNOTSUPP, about) from exc
