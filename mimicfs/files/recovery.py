"""The recovery of what a dead mount has left in the journal. It is brought to S3 where the object
is still as it was; otherwise it is kept for its owner, and the log says so. Only copies of what S3
has are thrown away.

A staging file of another endpoint is left to a mount of that endpoint.

Threading: threads of its own deal with several files at once. Files of a living mount are locked,
and left alone.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from mimicfs import metadata
from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import (
    NOTHING_SAID,
    AccessDenied,
    KeyNotFound,
    MimicError,
    PosixError,
    UploadFailed,
)
from mimicfs.files.budget import Budget
from mimicfs.files.file import File
from mimicfs.files.journal import Journal, Orphan
from mimicfs.files.record import Record
from mimicfs.files.staging import Staging
from mimicfs.files.tools import Tools
from mimicfs.posix import NEVER
from mimicfs.s3.requests.client import S3, Content
from mimicfs.s3.requests.ownkeys import is_zeros

log = logging.getLogger(__name__)

_PIECE = 1 << 20
_GOT = 8 << 20  # bytes of one GET
_AGAIN_S = 30.0  # between two tries
_PASSING: tuple[type[MimicError], ...] = (AccessDenied, *NOTHING_SAID)


class Recovery:
    """Deals with all files that are left, and tries again those that S3 does not take for now."""

    def __init__(self, s3: S3, journal: Journal, options: FileOptions) -> None:
        self._parts = (s3, journal, options)
        self._tried = threading.Event()  # everything, once
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recover", daemon=True)

    def start(self, patience_s: float) -> None:
        """Begin; return once everything was tried, or after *patience_s*: then it goes on behind
        the caller."""
        self._thread.start()
        self._tried.wait(patience_s)

    def close(self) -> None:
        """End, once the uploads that are under way have ended."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        left = self._recover()
        self._tried.set()
        while left and not self._stopped.wait(_AGAIN_S):
            left = self._recover()

    def _recover(self) -> int:
        try:
            return recover(*self._parts, self._stopped)
        except PosixError as exc:  # of the directory itself
            log.error("%s; mimicfs tries again", exc)
        except Exception:
            log.exception("what earlier mounts have left is not uploaded yet; mimicfs tries again")
        return 1


def recover(
    s3: S3, journal: Journal, options: FileOptions, stopped: threading.Event | None = None
) -> int:
    """Deal with everything that is left, unless *stopped* meanwhile; return how many files must
    be tried again later, because S3 cannot be asked, or it or the disk refuses it for now. Where
    another mount does so, that is waited for."""
    stopped = stopped or threading.Event()
    with journal.recovering(s3.endpoint, stopped) as ours:
        tools = Tools(s3, journal, options, Budget())
        return _recovered(tools, stopped) if ours else 0


def _recovered(tools: Tools, stopped: threading.Event) -> int:
    journal = tools.journal

    def settled(orphan: Orphan) -> bool:
        if stopped.is_set():
            return False
        endpoint = orphan.record.endpoint
        if endpoint and endpoint != tools.s3.endpoint:
            log.warning(
                "%s: not uploaded before somebody mounts %s", _about(orphan, journal), endpoint
            )
            return True
        return _recover(tools, orphan)

    def left_of(orphans: list[Orphan]) -> int:
        """Deal with the files of one object, the newest first: the name stood for that one. The
        others would be in its way, and are tried once it has come to its place."""
        try:
            _put_apart(journal, orphans)
        except PosixError as exc:
            log.error("%s: not dealt with yet: %s", _about(orphans[0], journal), exc)
            return len(orphans)
        for done, orphan in enumerate(orphans):
            if not settled(orphan):
                return len(orphans) - done
        return 0

    orphans = journal.orphans()
    waiting = len(journal.waiting)
    if not orphans:
        return waiting
    # This is not done in the pool of S3: an upload in parts waits for that.
    at_once = tools.options.requests_per_file
    with ThreadPoolExecutor(at_once, thread_name_prefix="recover") as pool:
        return waiting + sum(pool.map(left_of, _by_object(orphans)))


def _by_object(orphans: list[Orphan]) -> list[list[Orphan]]:
    """Return the files of each object, the newest first."""
    found = dict[tuple[str, str, str], list[Orphan]]()
    for each in sorted(orphans, key=lambda orphan: orphan.record.created_ns, reverse=True):
        place = (each.record.endpoint, each.bucket, each.key)
        found.setdefault(place, []).append(each)
    return list(found.values())


def _put_apart(journal: Journal, orphans: list[Orphan]) -> None:
    """Have what was appended before the newest of *orphans* was written stay apart from that, also
    if this mount is killed meanwhile. It may go behind what was appended, too."""
    newest, *others = orphans
    for orphan in others if not newest.record.appended else ():
        if orphan.record.appended and (staging := journal.resume(orphan)) is not None:
            staging.stay_apart()
            staging.keep()


def _recover(tools: Tools, orphan: Orphan) -> bool:
    """Recover one file; return whether nothing is left to do."""
    about = _about(orphan, tools.journal)
    try:
        staging = tools.journal.resume(orphan)
    except PosixError as exc:
        log.error("%s: not uploaded yet: %s", about, exc)
        return False
    if staging is None:
        return True  # a mount that knows nothing of `Journal.recovering` has it, or had it
    try:
        return _settled(tools, orphan, staging)
    except PosixError as exc:  # of the local disk
        log.error("%s: not dealt with yet: %s", about, exc)
        staging.keep()
        return False
    except Exception:  # the other files go on
        log.exception("%s: not uploaded", about)
        staging.keep()
        return True


def _settled(tools: Tools, orphan: Orphan, staging: Staging) -> bool:
    """Do the same with *orphan*, which is *staging*. Raises PosixError."""
    about = _about(orphan, tools.journal)
    try:
        _settle(tools, orphan, staging)
        return True
    except UploadFailed as exc:
        log.error("%s", exc)
        staging.keep()
        return not isinstance(exc.__cause__, _PASSING)
    except _PASSING as exc:
        log.warning("%s: not uploaded yet: %s", about, exc)
        staging.keep()
        return False
    except PosixError:
        raise
    except MimicError as exc:
        log.warning("%s: not uploaded: %s", about, exc)
        _keep(tools.journal, orphan)
        return True


def _settle(tools: Tools, orphan: Orphan, staging: Staging) -> None:
    s3, journal, record = tools.s3, tools.journal, staging.record
    if record.damaged or not record.endpoint:
        kept_at = journal.recover(orphan._replace(record=record))
        why = record.damaged or "its record names no endpoint"
        log.error("a staging file is damaged and was not uploaded: %s; it is in %s", why, kept_at)
        return
    _abort(s3, record)
    if not orphan.size and not record.closed:  # nobody has written anything
        staging.remove()
        return
    now = _current(s3, record)
    mine = not record.etag if now is None else _is_mine(s3, record, now)
    if now is not None and _is_there(s3, record, now, staging, mine=mine):
        staging.remove()
    elif mine:
        _upload(tools, record, now, staging)
    elif now is not None and record.appended:
        # It goes behind what others have put there, whose metadata stays.
        base = now._replace(etag=record.etag, size=record.base)
        _upload(tools, record._replace(meta={}), base, staging)
    else:
        _keep(journal, orphan)


def _upload(tools: Tools, record: Record, now: Entry | None, staging: Staging) -> None:
    content = Content(record.content_type, record.meta, record.headers)
    what = (record.bucket, record.key, now, content)
    file = File(tools, *what, absent=now is None, staging=staging)
    try:
        file.flush(NEVER)
        log.warning("uploaded what a dead mount had written of s3://%s/%s", file.bucket, file.key)
    finally:
        file.close()


def _current(s3: S3, record: Record) -> Entry | None:
    try:
        entry, _ = s3.head(record.bucket, record.key)
    except KeyNotFound:
        return None
    return entry


def _is_mine(s3: S3, record: Record, now: Entry) -> bool:
    """Whether *now* is the version that *record* stands on, or the last one that the dead mount
    sent: its ETag says so or, where that is no MD5 sum, its bytes do."""
    if now.etag == record.etag:
        return True
    if not record.sent or now.size != record.sent_size:
        return False
    if now.etag == record.sent or "-" in record.sent:  # nothing else is known of parts
        return now.etag == record.sent
    digest = hashlib.md5(usedforsecurity=False)
    for piece in _pieces(s3, record, now):
        digest.update(piece)
    return digest.hexdigest() == record.sent


def _is_there(s3: S3, record: Record, now: Entry, staging: Staging, *, mine: bool) -> bool:
    """Whether S3 has all of it, as the mount died between S3's answer and the next step. Where
    *now* is *mine* and the record has more to say of it, it has not: then it is replaced."""
    if record.unchanged and (now.etag, now.size) == (record.sent, record.sent_size):
        return True
    if record.partial or now.size != staging.stat().st_size:
        return False
    if mine and _says_more(record, now):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, now.size, _PIECE):
        digest.update(staging.read(start, min(_PIECE, now.size - start)))
    return digest.hexdigest() == now.etag or (
        not mine and _reads_the_same(s3, record, now, staging)
    )


def _reads_the_same(s3: S3, record: Record, now: Entry, staging: Staging) -> bool:
    """Compare the bytes, where the ETag is no MD5 of them: it was sent in parts, or is
    encrypted."""
    start = 0
    for piece in _pieces(s3, record, now):
        if piece != staging.read(start, len(piece)):
            return False
        start += len(piece)
    return True


def _pieces(s3: S3, record: Record, now: Entry) -> Iterator[bytearray]:
    """Yield the bytes of *now*. Raises ObjectChanged."""
    for start in range(0, now.size, _GOT):
        found = bytearray(min(_GOT, now.size - start))
        s3.read_into(record.bucket, record.key, now.etag, start, memoryview(found))
        yield found


def _says_more(record: Record, now: Entry) -> bool:
    """Whether *record* says something else of the file than S3 does: for example, a mode that was
    set after the bytes had been sent."""
    there = now.meta or {}
    said = {name.lower(): value for name, value in record.meta.items()}
    return any(said.get(name) != there.get(name) for name in {*said, *metadata.WRITTEN})


def _abort(s3: S3, record: Record) -> None:
    for upload in record.uploads:
        try:
            s3.abort_upload(record.bucket, record.key, upload)
        except KeyNotFound:
            continue  # it was finished, or aborted
    if is_zeros(record.zeros):
        s3.delete(record.bucket, record.zeros)


def _keep(journal: Journal, orphan: Orphan) -> None:
    kept_at = journal.recover(orphan)
    part = (
        " (only the bytes that were written; the .json beside it has their offsets)"
        if orphan.record.partial
        else ""
    )
    log.warning(
        "a mount died before it had uploaded s3://%s/%s, which somebody else has changed since;"
        " the %d bytes are in %s%s",
        orphan.bucket,
        orphan.key,
        orphan.size,
        kept_at,
        part,
    )


def _about(orphan: Orphan, journal: Journal) -> str:
    return f"s3://{orphan.bucket}/{orphan.key}, in {journal.directory}/{orphan.name}.data"
