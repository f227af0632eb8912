"""Holes of a file that become zeros in S3, which has no holes: one object of zeros is sent, and
every part that has only zeros is copied from it. It stands beside the file while that is uploaded,
as `.mimicfs-zeros-` and a random name, and is deleted then; the record in the journal names it, so
that the next mount deletes what `kill -9` leaves. Mounts do not show these objects.

Threading: `make` and `remove` run in `s3.pool`, one after the other.
"""

from __future__ import annotations

import logging

from mimicfs.entry import Entry
from mimicfs.errors import AccessDenied, MimicError, Unsupported
from mimicfs.files.layout import Layout
from mimicfs.files.ranges import PlannedPart
from mimicfs.files.staging import Staging
from mimicfs.files.transfer import RequestBatch
from mimicfs.s3.requests.client import S3, Content
from mimicfs.s3.requests.ownkeys import own_name

log = logging.getLogger(__name__)

LEAST = 4  # parts: fewer of them are sent as they are


def marked(parts: list[PlannedPart], layout: Layout, staging: Staging) -> list[PlannedPart]:
    """Return *parts*, in which those to be sent that are holes of *staging* are marked as zeros,
    unless they are too few."""
    sparse = [part._replace(zeros=_is_hole(part, layout, staging)) for part in parts]
    return sparse if sum(part.zeros for part in sparse) >= LEAST else parts


def _is_hole(part: PlannedPart, layout: Layout, staging: Staging) -> bool:
    span = (part.start, part.end)
    return not part.copied and not layout.missing([span]) and staging.is_hole(*span)


class Zeros:
    """The object of *size* zeros for an upload of *key*, whose requests are *batch*'s. It is sent
    in parts of *piece* bytes."""

    def __init__(
        self, s3: S3, batch: RequestBatch, bucket: str, key: str, size: int, piece: int
    ) -> None:
        self._s3 = s3
        self._batch = batch
        self._size = size
        self._piece = piece
        self.bucket = bucket
        self.key = f"{key[: key.rfind('/') + 1]}{own_name('zeros')}"

    def make(self) -> Entry:
        """Send the object. Raises Unsupported where objects of other names must not be made."""
        try:
            return self._sent()
        except AccessDenied as exc:
            raise Unsupported(str(exc)) from exc

    def _sent(self) -> Entry:
        to = (self.bucket, self.key)
        if self._size <= self._piece:
            return self._s3.put(*to, bytes(self._size), self._size, Content())
        upload = self._s3.start_upload(*to, self._s3.kept.usual(*to))
        try:
            etags = [self._part(upload, start) for start in range(0, self._size, self._piece)]
            return self._s3.finish_upload(*to, upload, etags, self._size)
        except BaseException:
            self._s3.abort_upload(*to, upload)
            raise

    def _part(self, upload: str, start: int) -> str:
        self._batch.check()
        size = min(self._piece, self._size - start)
        number = start // self._piece + 1
        return self._s3.upload_part(self.bucket, self.key, upload, number, bytes(size), size)

    def remove(self) -> None:
        try:
            self._s3.delete(self.bucket, self.key)
        except MimicError as exc:
            log.warning(
                "an auxiliary object of zeros stays in S3: s3://%s/%s: %s",
                self.bucket,
                self.key,
                exc,
            )
