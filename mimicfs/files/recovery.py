"""What a mount that died has left in the journal: brought to S3, where the object is still as
it was; else kept for its owner, and said in the log. Nothing is thrown away but copies of what
S3 has.

A staging file of another endpoint is left to a mount of that one.

Threading: one thread; what a living mount holds is locked, and left alone.
"""

from __future__ import annotations

import hashlib
import logging

from mimicfs.config import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import AccessDenied, KeyNotFound, MimicError, S3Unavailable, UploadFailed
from mimicfs.files.file import File
from mimicfs.files.journal import Journal, Orphan, Record, Staging
from mimicfs.files.reader import Budget
from mimicfs.posix import NEVER
from mimicfs.s3.client import S3, Content

log = logging.getLogger(__name__)

_PIECE = 1 << 20


def recover(s3: S3, journal: Journal, options: FileOptions) -> int:
    """Deal with everything that is left; return how many files must be tried again later,
    because S3 cannot be asked, or refuses it for now."""
    later = 0
    for orphan in journal.orphans():
        endpoint = orphan.record.endpoint
        if endpoint and endpoint != s3.endpoint:
            log.warning("%s: waits for a mount of %s", _about(orphan, journal), endpoint)
        elif not _recover(s3, journal, options, orphan):
            later += 1
    return later


def _recover(s3: S3, journal: Journal, options: FileOptions, orphan: Orphan) -> bool:
    """Return whether nothing is left to do."""
    staging = journal.resume(orphan)
    if staging is None:
        return True  # another mount has it now
    try:
        _settle(s3, journal, options, orphan, staging)
        return True
    except UploadFailed as exc:
        log.error("%s", exc)
        staging.keep()
        return not isinstance(exc.__cause__, S3Unavailable | AccessDenied)
    except (S3Unavailable, AccessDenied) as exc:
        log.warning("%s: not uploaded yet: %s", _about(orphan, journal), exc)
        staging.keep()
        return False
    except MimicError as exc:
        log.warning("%s: not uploaded: %s", _about(orphan, journal), exc)
        _keep(journal, orphan)
        return True


def _settle(
    s3: S3, journal: Journal, options: FileOptions, orphan: Orphan, staging: Staging
) -> None:
    record = orphan.record
    if not record.endpoint:  # it is damaged
        _keep(journal, orphan)
        return
    _abort(s3, record)
    if not orphan.size and not record.closed:  # nobody has written anything
        staging.remove()
        return
    now = _current(s3, record)
    if now is not None and not record.partial and _has(now, staging):
        staging.remove()
    elif (now.etag if now is not None else "") != record.etag:
        _keep(journal, orphan)
    else:
        _upload(s3, journal, options, record, now, staging)


def _upload(
    s3: S3,
    journal: Journal,
    options: FileOptions,
    record: Record,
    now: Entry | None,
    staging: Staging,
) -> None:
    content = Content(record.content_type, record.meta, record.headers)
    place = (Budget(), record.bucket, record.key, now, content)
    file = File(s3, journal, options, *place, absent=now is None, staging=staging)
    try:
        file.flush(NEVER)
        log.warning("what a mount that died had of s3://%s/%s is uploaded", file.bucket, file.key)
    finally:
        file.close()


def _current(s3: S3, record: Record) -> Entry | None:
    try:
        return s3.head(record.bucket, record.key)[0]
    except KeyNotFound:
        return None


def _has(now: Entry, staging: Staging) -> bool:
    """Whether S3 has these bytes: the mount died between S3's answer and the next step. Known
    of what was one PUT: its ETag is an MD5."""
    size = staging.stat().st_size
    if now.size != size or "-" in now.etag:
        return False
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, size, _PIECE):
        digest.update(staging.read(start, min(_PIECE, size - start)))
    return digest.hexdigest() == now.etag


def _abort(s3: S3, record: Record) -> None:
    for upload in record.uploads:
        try:
            s3.abort_upload(record.bucket, record.key, upload)
        except KeyNotFound:
            continue  # it was finished, or aborted


def _keep(journal: Journal, orphan: Orphan) -> None:
    kept_at = journal.recover(orphan)
    part = (
        " (only what was written; the .json beside it says where)" if orphan.record.partial else ""
    )
    log.warning(
        "a mount died before s3://%s/%s was uploaded, which is another one now; the %d bytes "
        "are in %s%s",
        *(orphan.bucket, orphan.key, orphan.size, kept_at, part),
    )


def _about(orphan: Orphan, journal: Journal) -> str:
    return f"s3://{orphan.bucket}/{orphan.key}, in {journal.directory}/{orphan.name}.data"
