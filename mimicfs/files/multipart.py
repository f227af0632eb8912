"""A multipart upload of a staging file: parts go to S3 while the file is still written, the
rest when it is finished; parts that S3 has already are copied there.

A part that was sent and then changed is sent again: S3 keeps the last one of its number.

Threading: one thread at a time calls (File holds its `_change`); requests run in `s3.pool`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry, unquoted
from mimicfs.errors import Interrupted, KeyNotFound, MimicError, NoSuchBucket, S3Unavailable
from mimicfs.files.ranges import PlannedPart
from mimicfs.files.staging import Staging
from mimicfs.files.transfer import RequestBatch, Slice, first_of, note_sent
from mimicfs.files.zeros import Zeros
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.transport.backoff import backoff_s

log = logging.getLogger(__name__)

# S3 takes 10,000 parts (PARTS_MAX), and nobody knows the size of a file while it is written. So
# parts grow: (how many parts, how many times the smallest one). With 16 MiB: 31 GiB, then 250 GiB,
# then 6 TiB. Where all must be equal, 31 GiB are sent ahead, and the rest at the end.
_TIERS = ((2000, 1), (2000, 8), (6000, 64))
_MD5 = re.compile("[0-9a-f]{32}")
_LOOKS = 4  # at S3, for an object that may be there already
_SIZE_MAX = 5 << 40


def size_max(least: int) -> int:
    """Return how many bytes S3 takes in parts, the smallest of which have *least* bytes."""
    return min(_SIZE_MAX, least * sum(count * times for count, times in _TIERS))


def part_at(number: int, least: int) -> PlannedPart:
    """Return the part *number* (from 1) of a file whose smallest parts have *least* bytes."""
    start, before = 0, number - 1
    for count, times in _TIERS:
        if before < count:
            start += before * least * times
            return PlannedPart(start, start + least * times, False)
        start += count * least * times
        before -= count
    raise ValueError(f"there is no part {number}")


def parts_of(size: int, least: int) -> Iterator[PlannedPart]:
    """Yield the parts of a file of *size* bytes."""
    number, end = 1, 0
    while end < size:
        part = part_at(number, least)
        end = min(part.end, size)
        yield part._replace(end=end)
        number += 1


def etag_of(parts: list[str]) -> str:
    """Return the ETag of an object that was uploaded in *parts*, by their ETags, as S3 makes it; ""
    where those are no MD5 sums."""
    sums = [unquoted(part) for part in parts]
    if not all(_MD5.fullmatch(each) for each in sums):
        return ""
    whole = hashlib.md5(bytes.fromhex("".join(sums)), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(sums)}"


def _may_be_done(exc: MimicError) -> bool:
    return isinstance(exc, S3Unavailable) or getattr(exc, "code", "") == "NoSuchUpload"


class Multipart:
    """An upload of *staging* as s3://bucket/key. *source*: the version of it that copied parts
    are of. It ends finished or aborted; an upload that cannot be aborted is logged."""

    def __init__(
        self,
        s3: S3,
        options: FileOptions,
        staging: Staging,
        bucket: str,
        key: str,
        content: Content,
        source: Entry | None = None,
    ) -> None:
        self._s3 = s3
        self._least = options.part_size
        self._equal = s3.capabilities["equal-parts"] == "yes"
        self._staging = staging
        self._bucket = bucket
        self._key = key
        self._source = source
        self.content = content
        self.batch = RequestBatch(s3, options.requests_per_file, NEVER)
        self._sent: dict[int, tuple[PlannedPart, str]] = {}  # by number, with its ETag
        self._running: dict[Future[str], tuple[int, PlannedPart]] = {}
        self._stale: set[int] = set()  # running ones whose bytes were changed
        self._error: MimicError | None = None
        self._next = 1
        self.sent_to = 0  # nothing behind this place was sent
        self.sent_as = ""  # the ETag of the object that S3 was asked to make of the parts, if known
        self._finished = False
        self._zeros: Zeros | None = None
        self._zero_object: Future[Entry]
        self._id = s3.pool.submit(self._begin)

    def _begin(self) -> str:
        content = self._s3.kept.completed(self._bucket, self._key, self.content)
        upload = self._s3.start_upload(self._bucket, self._key, content)
        self._staging.note_upload(upload)
        return upload

    # While the file is written

    def ahead(self, front: int, cancellation: Cancellation) -> None:
        """Send the whole parts of the first *front* bytes, which are written. Waits while as many
        parts as are allowed are on their way, which slows down a writer that is faster than S3.
        Once S3 has refused one, nothing more is sent ahead; `finish` reports the error."""
        while self._error is None and (part := part_at(self._next, self._least)).end <= front:
            if self._equal and part.end - part.start > self._least:
                return
            self._make_room(cancellation)
            self._send(self._next, part)
            self._next += 1
            self.sent_to = part.end

    def changed(self, start: int, end: int) -> None:
        """Note that the bytes from *start* to *end* are about to be changed."""
        for number in [n for n, (part, _) in self._sent.items() if _overlap(part, start, end)]:
            del self._sent[number]
        for number, part in self._running.values():
            if _overlap(part, start, end):
                self._stale.add(number)

    # To the end

    def finish(
        self, parts: list[PlannedPart], size: int, condition: Condition, cancellation: Cancellation
    ) -> Entry:
        """Make *parts* the object, under *condition*; return it. Bytes that were not sent yet, or
        were changed since, are sent. If it raises, nothing more is read from the staging file, and
        the upload is given up: `batch.settled` is done when no request is on its way any more."""
        try:
            self._collect_all(cancellation)
            self._error = None  # a refused part is tried once more
            self._prepare_zeros(max((p.end - p.start for p in parts if p.zeros), default=0))
            for number, part in enumerate(parts, start=1):
                sent, _ = self._sent.get(number, (None, ""))
                if sent != part:
                    self._make_room(cancellation)
                    self._check()
                    self._send(number, part)
            self._collect_all(cancellation)
            self._check()
            found = [self._sent[number] for number in range(1, len(parts) + 1)]
            etags = [etag for _, etag in found]
            finished = self._s3.pool.submit(self._complete, etags, size, condition)
            self.batch.running = [finished]
            return cancellation.wait(finished)
        except BaseException:
            self.give_up()
            raise

    def _prepare_zeros(self, size: int) -> None:
        """Begin to send the object of zeros that holes are copied from, before the first of
        them."""
        if size:
            place = (self._bucket, self._key, size, self._least)
            self._zeros = zeros = Zeros(self._s3, self.batch, *place)
            self._zero_object = self._s3.pool.submit(self._made, zeros)

    def _made(self, zeros: Zeros) -> Entry:
        self._staging.note_zeros(zeros.key)
        return zeros.make()

    def give_up(self) -> None:
        """Abort the upload, once nothing is on its way."""
        self.batch.running = [*self.batch.running, *self._running, self._id]
        if self._zeros is not None:
            self.batch.running.append(self._zero_object)
        self.batch.stop(self._abort)

    def _complete(self, etags: list[str], size: int, condition: Condition) -> Entry:
        place = (self._bucket, self._key)
        self.batch.unless_stopped(self._note_sent, etag_of(etags), size)
        try:
            entry = self._s3.finish_upload(*place, self._id.result(), etags, size, condition)
        except (S3Unavailable, KeyNotFound) as exc:
            # It may take S3 minutes, and a second request is told that there is no such upload.
            found = self._completed(etags, size) if _may_be_done(exc) else None
            if found is None:
                raise
            self._s3.finished(self._bucket, self._id.result(), found)
            entry = found
        self._finished = True
        self._remove_zeros()
        return entry

    def _note_sent(self, etag: str, size: int) -> None:
        self.sent_as = etag
        if etag:  # for the mount that comes after a kill -9
            note_sent(self._staging, etag, size, unchanged=True)

    def _completed(self, etags: list[str], size: int) -> Entry | None:
        """Return what S3 has, if that is what the parts *etags* make."""
        ours = etag_of(etags)
        for attempt in range(_LOOKS if ours else 0):
            time.sleep(backoff_s(attempt) if attempt else 0)
            try:
                entry, _ = self._s3.head(self._bucket, self._key)
            except KeyNotFound:
                continue
            except MimicError as exc:
                log.debug("s3://%s/%s: %s", self._bucket, self._key, exc)
                return None
            if entry.etag == ours and entry.size == size:
                return entry
        return None

    def _remove_zeros(self) -> None:
        if self._zeros is not None:
            self._zeros.remove()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _send(self, number: int, part: PlannedPart) -> None:
        self._running[self._s3.pool.submit(self._work, number, part)] = (number, part)

    def _work(self, number: int, part: PlannedPart) -> str:
        """Send, or copy, one part; return its ETag."""
        upload = self._id.result()  # it was submitted earlier: no thread waits for work behind it
        if self.batch.stopped:
            raise Interrupted("the upload was abandoned")
        place = (self._bucket, self._key)
        size = part.end - part.start
        if part.zeros:
            source = (self._bucket, self._zero_object.result())
            return self._s3.copy_part(source, *place, upload, number, 0, size)
        if part.copied:
            assert self._source is not None
            source = (self._bucket, self._source)
            return self._s3.copy_part(source, *place, upload, number, part.start, part.end)
        body = Slice(self.batch, self._staging, part.start, size)
        return self._s3.upload_part(*place, upload, number, body, size)

    def _make_room(self, cancellation: Cancellation) -> None:
        while len(self._running) >= self.batch.at_once:
            self._collect(cancellation)

    def _collect_all(self, cancellation: Cancellation) -> None:
        while self._running:
            self._collect(cancellation)

    def _collect(self, cancellation: Cancellation) -> None:
        """Wait until at least one part is done."""
        cancellation.wait(first_of(list(self._running)))
        for future in [future for future in self._running if future.done()]:
            number, part = self._running.pop(future)
            try:
                etag = future.result()
            except (MimicError, CancelledError) as exc:
                self._error = exc if isinstance(exc, MimicError) else Interrupted("given up")
                continue
            if number in self._stale:
                self._stale.discard(number)
            else:
                self._sent[number] = (part, etag)

    def _abort(self) -> None:
        if not self._finished:
            self._remove_zeros()
        if self._finished or self._id.cancelled() or self._id.exception() is not None:
            return
        try:
            self._s3.abort_upload(self._bucket, self._key, self._id.result())
        except (KeyNotFound, NoSuchBucket):
            return  # it is gone: S3 finished it and the answer was lost, or the bucket is gone, too
        except MimicError as exc:
            log.warning(
                "an unfinished upload stays in S3 and costs money: s3://%s/%s: %s",
                self._bucket,
                self._key,
                exc,
            )


def _overlap(part: PlannedPart, start: int, end: int) -> bool:
    return part.start < end and start < part.end
