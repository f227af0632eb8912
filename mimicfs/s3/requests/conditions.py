"""Writes that S3 must refuse if somebody else was quicker: If-Match, If-None-Match.

Not every server looks at these headers: `rclone serve s3` and `juicefs gateway` overwrite all
the same, and some answer that they know no such header. So it is tried once, by a write that
a server which looks must refuse, of a key that nobody has. Where the server does not look,
the check is made here, a moment before the write: better than none, and not safe.

Threading: any thread. While one tries, others wait for what it finds.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
from typing import TYPE_CHECKING, NamedTuple

from mimicfs.errors import KeyNotFound, ObjectChanged, PosixError, S3Error

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

_KEY_MAX = 1024  # bytes
_NOBODYS = '"00000000000000000000000000000000"'  # the ETag of no object
_NOT_KNOWN = (400, 405, 501)  # what a server answers that does not know the header


class Condition(NamedTuple):
    """What must be so for a write to be done. None of both: it is done in any case."""

    etag: str = ""  # only over this version
    absent: bool = False  # only if there is no object


class Conditions:
    """What the server of *s3* does with conditions."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._trying = threading.Lock()  # held while it is tried: once for all who ask
        self._honoured: bool | None = None  # None: not tried yet
        self._of_deletes = True  # False: the server will not hear of any for a deletion

    def params(self, bucket: str, key: str, condition: Condition) -> dict[str, str]:
        """Return the parameters of a write that is to be done only under *condition*. Raises
        what `check` raises, where the server would not look."""
        if condition == Condition():
            return {}
        if not self.honours(bucket, key):
            self.check(bucket, key, condition)
            return {}
        return {"IfNoneMatch": "*"} if condition.absent else {"IfMatch": f'"{condition.etag}"'}

    def check(self, bucket: str, key: str, condition: Condition) -> None:
        """Raise ObjectChanged, or PosixError EEXIST, if *condition* does not hold now."""
        try:
            now, _ = self._s3.head(bucket, key)
        except KeyNotFound as exc:
            if condition.absent:
                return
            raise ObjectChanged(f"s3://{bucket}/{key}: deleted in S3") from exc
        if condition.absent:
            raise PosixError(errno.EEXIST, f"s3://{bucket}/{key}")
        if now.etag != condition.etag:
            raise ObjectChanged(f"s3://{bucket}/{key}: changed in S3; open it again")

    @property
    def of_deletes(self) -> bool:
        """Whether a deletion may have a condition; not that the server looks at it."""
        return self._of_deletes

    def refused(self, refusal: S3Error) -> bool:
        """Whether the *refusal* of a deletion is about its having one. That is remembered."""
        about_it = refusal.status in _NOT_KNOWN
        self._of_deletes = self._of_deletes and not about_it
        return about_it

    def delete(self, bucket: str, key: str, etag: str) -> None:
        """Delete the version *etag* of *key*. Raises ObjectChanged if there is another by now,
        as far as the server looks; that there is none is no error."""
        try:
            if etag and self._of_deletes:
                return self._delete_only(bucket, key, etag)
            if etag and self._s3.head(bucket, key)[0].etag != etag:
                raise ObjectChanged(f"s3://{bucket}/{key}: changed in S3 meanwhile")
        except KeyNotFound:
            return None
        return self._s3.delete(bucket, key)

    def _delete_only(self, bucket: str, key: str, etag: str) -> None:
        try:
            self._s3.call("delete_object", bucket, key, IfMatch=f'"{etag}"')
        except S3Error as exc:
            if not self.refused(exc):
                raise
            self.delete(bucket, key, etag)

    def honours(self, bucket: str, key: str) -> bool:
        """Whether the server looks at conditions. Tried once, by a write beside *key*."""
        if self._honoured is not None:
            return self._honoured
        with self._trying:
            if self._honoured is None:
                self._honoured = self._try(bucket, key)
                if not self._honoured:
                    log.info("this server does not look at conditions of writes; we do")
            return self._honoured

    def _try(self, bucket: str, key: str) -> bool:
        """Replace a version that nobody has of a key that nobody has, beside *key*: who may
        write there may write it too."""
        name = f".mimicfs-{secrets.token_hex(16)}"
        beside = key[: key.rfind("/") + 1] + name
        if len(beside.encode()) > _KEY_MAX:
            beside = name
        try:
            self._s3.call("put_object", bucket, beside, Body=b"", ContentLength=0, IfMatch=_NOBODYS)
        except (KeyNotFound, ObjectChanged):
            return True
        except S3Error as exc:
            if exc.status in _NOT_KNOWN:
                return False
            raise
        self._s3.delete(bucket, beside)
        return False
