"""The upload of a file's bytes to S3: in one PUT, or in parts. Parts are sent while the file is
still written (multipart.py); what has not changed is copied in S3 where the server can.

An upload that was interrupted is given up, and nobody waits for it. None of its bytes are read any
more, so the file may change at once. But no other upload and no deletion begins before its last
request has ended (`settle`): S3 might take them in the wrong order. If S3 has taken the upload all
the same, the file stands on that version from then on.

Threading: one thread at a time calls (`File` has its turn); requests run in `s3.pool`.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from mimicfs.config.sizes import MIB
from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, MimicError, ObjectChanged, S3Error, Unsupported
from mimicfs.files import zeros
from mimicfs.files.layout import Layout
from mimicfs.files.multipart import Multipart, parts_of
from mimicfs.files.ranges import PlannedPart, are_equal
from mimicfs.files.small import SMALL
from mimicfs.files.staging import Staging
from mimicfs.files.transfer import UNSURE, RequestBatch, Slice, note_sent
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import COPY_MAX, S3, Condition, Content
from mimicfs.s3.requests.content import PARTS_MAX, Body
from mimicfs.s3.requests.ownkeys import is_zeros
from mimicfs.s3.requests.sending import wants_equal_parts

_PART_MIN = 5 * MIB  # S3 takes no smaller one but the last
_REFUSED = 400  # InvalidPart, InvalidRequest and others: the parts are not as the server wants them


class Job(NamedTuple):
    """The upload that makes s3://bucket/key: the bytes of *staging*, laid out as *layout* says, and
    *content*, under *condition*. *entry*: the version that they are partly of. *fill* fetches what
    the staging file lacks of some ranges."""

    bucket: str
    key: str
    staging: Staging
    layout: Layout
    content: Content
    entry: Entry | None
    condition: Condition
    fill: Callable[[list[tuple[int, int]]], None]


class SentBytes(NamedTuple):
    """The *size* bytes that *job* has sent to S3; the file may have changed since. *etag* is the
    MD5 of the bytes, or of the MD5 sums of their parts; "" if it is neither."""

    job: Job
    etag: str
    size: int
    in_parts: bool = False


class BegunPut(NamedTuple):
    """The upload *job*, which is one request of *batch*; *future* is its result."""

    job: Job
    batch: RequestBatch
    future: Future[Entry]


class Uploader:
    """Uploads one file, again and again. *took* is called with the version that S3 has taken of an
    upload that was given up."""

    def __init__(self, s3: S3, options: FileOptions, took: Callable[[Entry], None]) -> None:
        self._s3 = s3
        self._options = options
        self._took = took
        self._multipart: Multipart | None = None  # begun while the file is written
        self._given_up: RequestBatch | None = None  # an upload that may still be on its way
        # bytes of it that S3 may have taken without saying so
        self._doubtful: SentBytes | None = None

    # While the file is written

    @property
    def begun(self) -> bool:
        """Whether parts were sent of a file that is still written."""
        return self._multipart is not None

    def ahead(self, front: int, cancellation: Cancellation) -> None:
        """Send the whole parts of the first *front* bytes."""
        if self._multipart is not None:
            self._multipart.ahead(front, cancellation)

    def begin(self, job: Job) -> None:
        """Begin an upload in parts, of a file that is still written."""
        self._multipart = self._new_multipart(job)

    def changed(self, start: int, end: int) -> None:
        """Note that the bytes from *start* to *end* are about to be changed."""
        if self._multipart is not None and start < self._multipart.sent_to:
            self._multipart.changed(start, end)

    def give_up(self) -> None:
        """Give up everything that was sent."""
        multipart, self._multipart = self._multipart, None
        if multipart is not None:
            multipart.give_up()
            self._given_up, self._doubtful = multipart.batch, None

    def settle(self, cancellation: Cancellation) -> None:
        """Wait until nothing of an upload that was given up is on its way."""
        batch = self._given_up
        if batch is None:
            return
        cancellation.wait(batch.settled)
        found = [each for each in batch.results() if isinstance(each, Entry)]
        found = [each for each in found if not is_zeros(each.key)]
        # a request ran in this thread, or in the pool
        unsure = not batch.running or batch.is_unsure()
        if not found and unsure and self._doubtful is not None:
            found = self._arrived_unsaid(self._doubtful, cancellation)
        self._given_up = self._doubtful = None
        for entry in found:
            self._took(entry)

    def _arrived_unsaid(self, sent: SentBytes, cancellation: Cancellation) -> list[Entry]:
        """Return the version in S3, if that is what it was sent: the answer was lost, and nobody
        wanted to send it again. Otherwise the file would not know its own object, and would leave
        it behind, or take it for somebody else's."""
        job = sent.job
        try:
            head = self._s3.pool.submit(self._s3.head, job.bucket, job.key)
            entry, _ = cancellation.wait(head)
        except KeyNotFound:
            return []
        if entry.etag == sent.etag and entry.size == sent.size:
            return [entry]
        ours = None if sent.in_parts else self._as_sent(job, sent.size)
        return [ours] if ours and self._has_bytes(ours, job, sent.etag, cancellation) else []

    # All of it

    def begin_small(self, job: Job, cancellation: Cancellation) -> BegunPut | None:
        """Begin `upload` where it is a small PUT that is sent beside others. None: nothing has
        happened. The caller then calls `upload`, which goes on with it, or `give_up_small`."""
        size = job.layout.size
        if self._given_up is not None or self.begun or job.layout.partial:
            return None
        if size > min(SMALL, 2 * self._options.part_size):
            return None
        batch = RequestBatch(self._s3, self._options.requests_per_file, cancellation)
        body = Slice(batch, job.staging, 0, size)
        to = (job.bucket, job.key, body, size, job.content, job.condition)
        try:
            found = self._s3.put_soon(*to)
        except MimicError:  # the next try is told
            return None
        if found is None:
            return None
        batch.running = [found]
        return BegunPut(job, batch, found)

    def give_up_small(self, begun: BegunPut) -> None:
        """Give up what `begin_small` began."""
        self._stop(begun.batch, begun.job, unsure=True)

    def upload(
        self, job: Job, cancellation: Cancellation, begun: BegunPut | None = None
    ) -> tuple[Entry, Content]:
        """Upload the file, which *begun* may have begun already. Return the new version, and the
        content as it was when the upload began. Raises ObjectChanged, PosixError EEXIST, and the
        errors of S3."""
        parts = self._parts(job)
        if parts is None:
            self.give_up()  # the file was cut to nothing
        if self._multipart is not None:
            job = job._replace(content=self._multipart.content)
        try:
            if parts is None:
                return self._whole(job, cancellation, begun), job.content
            return self._in_parts(job, parts, cancellation), job.content
        except MimicError as exc:
            entry = self._arrived(exc, job)
            if entry is None:
                raise
            if not (parts or self._has_bytes(entry, job, _md5_of(job), cancellation)):
                raise
            if parts:
                self._make_tagged(entry, job, cancellation)
            return entry, job.content

    def _parts(self, job: Job) -> list[PlannedPart] | None:
        """Return the parts in which to upload the file; None: in one request."""
        least, layout = self._options.part_size, job.layout
        if layout.size <= 2 * least and not self.begun:
            return None
        if layout.base >= least and not self.begun and self._s3.copies_parts:
            if self._wants_equal:
                return self._equal_parts(layout)
            part = max(least, -(-layout.size // (PARTS_MAX // 2)))
            parts = layout.plan(part, min(_PART_MIN, least), COPY_MAX, PARTS_MAX)
            if any(part.copied for part in parts):
                return zeros.marked(parts, layout, job.staging)
        return self._sparse(job) or self._sent_parts(layout.size) or None

    def _sparse(self, job: Job) -> list[PlannedPart] | None:
        """Return the parts of a file with many holes, so large that S3 takes their number."""
        size, least = job.layout.size, self._options.part_size
        if not self._s3.copies_parts or job.staging.taken() > size - zeros.LEAST * least:
            return None
        part = max(least, -(-size // (PARTS_MAX // 2)))
        even = Layout(size).equal_plan(part)
        parts = zeros.marked(even, job.layout, job.staging)
        return parts if parts is not even else None

    def _sent_parts(self, size: int) -> list[PlannedPart]:
        """Return the parts of a file of *size* bytes none of which is copied."""
        if self._wants_equal:
            return self._equal_parts(Layout(size))
        return list(parts_of(size, self._options.part_size))

    def _equal_parts(self, layout: Layout) -> list[PlannedPart]:
        part = max(self._options.part_size, -(-layout.size // PARTS_MAX // MIB) * MIB)
        return layout.equal_plan(part)

    @property
    def _wants_equal(self) -> bool:
        return self._s3.capabilities["equal-parts"] == "yes"

    def _whole(self, job: Job, cancellation: Cancellation, begun: BegunPut | None) -> Entry:
        if begun is not None:
            batch, future = begun.batch, begun.future
            return self._or_stopped(batch, job, lambda: cancellation.wait(future))
        self.settle(cancellation)
        job.fill([(0, job.layout.size)])
        batch = RequestBatch(self._s3, self._options.requests_per_file, cancellation)
        size = job.layout.size
        part = Slice(batch, job.staging, 0, size)
        # what nobody can stop is read once
        body: Body = part.read() if cancellation is NEVER and size <= SMALL else part
        to = (job.bucket, job.key, body, size)
        # after a kill -9 the bytes of the file alone do not say what was sent
        if job.layout.partial:
            note_sent(job.staging, _md5_of(job), size, unchanged=True)
        put = partial(batch.one, self._s3.put, *to, job.content, job.condition)
        return self._or_stopped(batch, job, put)

    def _or_stopped(self, batch: RequestBatch, job: Job, put: Callable[[], Entry]) -> Entry:
        try:
            return put()
        except BaseException as exc:
            self._stop(batch, job, unsure=isinstance(exc, UNSURE))
            raise

    def _stop(self, batch: RequestBatch, job: Job, *, unsure: bool) -> None:
        """Begin no more requests of *batch*. *unsure*: S3 may have done what it was asked without
        saying so."""
        batch.stop(lambda: None)
        self._given_up, self._doubtful = batch, None
        if unsure:
            self._doubtful = SentBytes(job, _md5_of(job), job.layout.size)
            note_sent(job.staging, self._doubtful.etag, job.layout.size)  # also after a kill -9

    def _in_parts(self, job: Job, parts: list[PlannedPart], cancellation: Cancellation) -> Entry:
        copied, sparse = any(part.copied for part in parts), any(part.zeros for part in parts)
        begun = self.begun
        try:
            return self._finished(job, parts, cancellation)
        except Unsupported:  # some servers copy no parts, and some take no part a second time
            if not (copied or sparse or begun):
                raise
            self._s3.copies_parts &= not copied
            parts = self._sent_parts(job.layout.size)
        except KeyNotFound as exc:
            if exc.code != "NoSuchUpload":
                raise  # otherwise somebody has aborted it: a lifecycle rule of the bucket, say
        except S3Error as exc:
            if exc.status != _REFUSED or are_equal(parts):
                raise
            return self._equally(job, exc, cancellation)
        self.settle(cancellation)
        return self._finished(job, parts, cancellation)

    def _equally(self, job: Job, refusal: S3Error, cancellation: Cancellation) -> Entry:
        """Upload in equal parts what was refused in unequal ones: some servers take no others (R2).
        If the server refuses those, too, it was about something else."""
        self.settle(cancellation)
        try:
            entry = self._finished(job, self._equal_parts(job.layout), cancellation)
        except S3Error as exc:
            raise (refusal if exc.status == _REFUSED else exc) from None
        if wants_equal_parts(refusal):  # otherwise a part may have been lost
            self._s3.capabilities.learned("equal-parts", "yes")
        return entry

    def _finished(self, job: Job, parts: list[PlannedPart], cancellation: Cancellation) -> Entry:
        job.fill([(part.start, part.end) for part in parts if not (part.copied or part.zeros)])
        multipart, self._multipart = self._multipart or self._new_multipart(job), None
        try:
            return multipart.finish(parts, job.layout.size, job.condition, cancellation)
        except BaseException:
            size, etag = job.layout.size, multipart.sent_as
            self._given_up = multipart.batch
            self._doubtful = SentBytes(job, etag, size, in_parts=True) if etag else None
            raise

    def _new_multipart(self, job: Job) -> Multipart:
        place = (job.bucket, job.key, job.content, job.entry)
        return Multipart(self._s3, self._options, job.staging, *place)

    def _arrived(self, exc: MimicError, job: Job) -> Entry | None:
        """Return the version in S3, if that is what it was sent. After a lost answer the request is
        sent again, and then its condition no longer holds: we have changed the object ourselves."""
        changed = isinstance(exc, ObjectChanged | KeyNotFound) or exc.errno == errno.EEXIST
        if not changed or job.condition == Condition():
            return None
        return self._as_sent(job, job.layout.size)

    def _as_sent(self, job: Job, size: int) -> Entry | None:
        """Return the version in S3, if it looks like the one that *job* makes of *size* bytes."""
        sent = {name.lower(): value for name, value in job.content.meta.items()}
        if "mtime" not in sent:
            return None
        entry = self._s3.mimicdb.entry(job.bucket, job.key)  # as a HEAD has just found it
        ours = entry is not None and (entry.size, entry.meta) == (size, sent)
        return entry if ours else None

    def _make_tagged(self, entry: Entry, job: Job, cancellation: Cancellation) -> None:
        """Add the tags that the server may have left out of *entry*, which was made of parts."""
        kept = self._s3.kept
        headers = kept.completed(job.bucket, job.key, job.content).headers
        said = (job.bucket, entry, headers.get("Tagging", ""), "upload-tags")
        cancellation.wait(self._s3.pool.submit(kept.make_tagged, *said))

    def _has_bytes(self, entry: Entry, job: Job, md5: str, cancellation: Cancellation) -> bool:
        """Whether *entry* has the bytes of *job*, which is one request, with that *md5*. Others may
        have put as many bytes there with the same time, if a program has set it (rsync -t)."""
        if entry.etag == md5:
            return True
        found = bytearray(entry.size)
        place = (job.bucket, job.key, entry.etag, 0, memoryview(found))
        cancellation.wait(self._s3.pool.submit(self._s3.read_into, *place))
        return hashlib.md5(found, usedforsecurity=False).hexdigest() == md5


def _md5_of(job: Job) -> str:
    sent = job.staging.read(0, job.layout.size)
    return hashlib.md5(sent, usedforsecurity=False).hexdigest()
