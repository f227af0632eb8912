"""Bringing back earlier versions of objects, within S3: no byte comes here.

A restored object is a new version, so that earlier moments stay as they were; a bucket that keeps
no versions is refused. Only `undelete` removes delete markers. A journal has each step that is
done: an interrupted restore goes on there when somebody asks again for the same moment.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO
from urllib.parse import quote

from mimicfs.config.values import Target
from mimicfs.errors import ConfigError, MimicError, ObjectChanged, S3Error
from mimicfs.history.changes import by_key
from mimicfs.history.nullmarkers import NULL, NullMarkers
from mimicfs.s3.mimicking.shown import meta_of
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.content import (
    PARTS_MAX,
    STANDARD,
    Content,
    bare_etag,
    encryption_of,
    kept_class,
)
from mimicfs.s3.requests.past import versioning
from mimicfs.s3.requests.versions import Version

_AT_ONCE = 500  # steps that are made before their results are told
_PART = 512 << 20  # bytes of a part of an object that is too large for one CopyObject


class What(Enum):
    """The action for a key."""

    COPY = "restore"  # the version becomes the newest one, as a copy of itself
    UNMARK = "undelete"  # the delete markers above it are removed (nullmarkers.py)
    DELETE = "delete"  # there was no object: one gets a delete marker


class Step(NamedTuple):
    what: What
    key: str
    version: Version | None  # the version that comes back; None for a deletion
    markers: tuple[str, ...] = ()  # the version ids of delete markers that go
    newest: str = ""  # the version id of what is there now


class Done(NamedTuple):
    """The outcome of a *step*. *error* is "" if it was done."""

    step: Step
    error: str = ""


def plan(
    s3: S3, bucket: str, scope: str, moment_ns: int, *, keep_new: bool = False
) -> Iterator[Step]:
    """Yield the steps that bring everything in *scope* (changes.py) back to its state at
    *moment_ns*, in one pass over its versions. *keep_new*: objects that were not there then stay.
    """
    for key, versions in by_key(s3, bucket, scope):
        step = _step(key, versions, moment_ns)
        if step is not None and not (keep_new and step.what is What.DELETE):
            yield step


def _step(key: str, versions: Iterator[Version], moment_ns: int) -> Step | None:
    newest: Version | None = None
    for version in versions:
        newest = newest or version
        if version.mtime_ns <= moment_ns:
            return _back_to(key, version, newest)
    if newest is None or newest.deleted:
        return None
    return Step(What.DELETE, key, None)


def _back_to(key: str, then: Version, newest: Version) -> Step | None:
    if then is newest or (then.deleted and newest.deleted):
        return None
    if then.deleted:
        return Step(What.DELETE, key, None)
    return Step(What.COPY, key, then, newest=newest.version)


def undeleted(s3: S3, bucket: str, key: str) -> Iterator[Step]:
    """Yield the steps that bring back the deleted object *key*; for a key that ends in "/", or "",
    every deleted object below."""
    for each, versions in by_key(s3, bucket, key):
        if each != key and key and not key.endswith("/"):
            return
        markers: list[str] = []
        for version in versions:
            if not version.deleted:
                if markers:
                    yield Step(What.UNMARK, each, version, tuple(markers))
                break
            markers.append(version.version)


class Restoring:
    """Makes steps in *bucket* through *s3*. *journal* takes the steps that are done; None: there is
    none."""

    def __init__(self, s3: S3, bucket: str, journal: RestoreJournal | None = None) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._journal = journal
        self._null = NullMarkers(s3, bucket)

    def left(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Yield the *steps* that the journal does not have."""
        journal = self._journal
        yield from (each for each in steps if journal is None or not journal.has(each))

    def run(self, steps: Iterable[Step], told: Callable[[Done], None]) -> Counter[str]:
        """Make the *steps* that are left, 64 at once; *told* hears of each. Return how many were
        made of each kind, and how many "failed"."""
        counts: Counter[str] = Counter()
        left = self.left(steps)
        while some := list(islice(left, _AT_ONCE)):
            for done in self._s3.each(self._made, some):
                counts["failed" if done.error else done.step.what.value] += 1
                told(done)
        return counts

    def check_versions(self) -> None:
        """Raise ConfigError where the bucket keeps no versions: a copy would replace what is
        there."""
        kept = versioning(self._s3, self._bucket)
        if kept != "Enabled":
            raise ConfigError(
                f"s3://{self._bucket} keeps no versions ({kept or 'never did'}), so a restore"
                " would lose the present objects; switch versioning on"
            )

    def _made(self, step: Step) -> Done:
        try:
            made = self._make(step)
        except S3Error as exc:
            return Done(step, str(exc))
        if self._journal is not None and made:
            self._journal.add(step, made)
        return Done(step)

    def _make(self, step: Step) -> str:
        """Return the version id of the copy, if one was made for the journal."""
        if step.what is What.COPY:
            return _copy(self._s3, self._bucket, step)
        if step.what is What.UNMARK:
            self._unmark(step)
        else:
            self._s3.delete(self._bucket, step.key)
        return ""

    def _unmark(self, step: Step) -> None:
        if NULL in step.markers and not self._null.stay():
            return self._replace_marker(step)
        for marker in step.markers:  # the newest first: versions below stay hidden until the last
            if marker != NULL or self._null.is_there(step.key):
                self._s3.call("delete_object", self._bucket, step.key, VersionId=marker)
        return None

    def _replace_marker(self, step: Step) -> None:
        assert step.version is not None
        self._null.check_replaceable(step.version)
        try:
            _copy(self._s3, self._bucket, step, IfNoneMatch="*")
        except ObjectChanged as exc:
            text = "there is an object by now, which stays as it is"
            raise ObjectChanged(f"s3://{self._bucket}/{step.key}: {text}") from exc


def _copy(s3: S3, bucket: str, step: Step, **condition: str) -> str:
    """Return the version id of the copy. *condition*: of the key, for what is no larger than
    `copy_max`."""
    version = step.version
    assert version is not None
    # botocore encodes the key, and leaves the version id as it is.
    named = quote(version.version, safe="")
    source = {"Bucket": bucket, "Key": step.key, "VersionId": named}
    if version.size > s3.copy_max:
        etag = _copy_in_parts(s3, bucket, version, source)
        return _newest_if(s3, bucket, step.key, etag)
    head = s3.call("head_object", bucket, step.key, VersionId=version.version)
    extra = {**_class_of(version), **encryption_of(head), **condition}
    answer = s3.call("copy_object", bucket, step.key, CopySource=source, **extra)
    if "VersionId" in answer:
        return str(answer["VersionId"])
    return _newest_if(s3, bucket, step.key, bare_etag(answer.get("CopyObjectResult", {})))


def _newest_if(s3: S3, bucket: str, key: str, etag: str) -> str:
    """Return the version id of the copy *key*, if that is the newest version and has *etag*. Some
    servers (Ceph) do not tell it in the answer to a copy."""
    head = s3.call("head_object", bucket, key)
    return str(head.get("VersionId", "")) if etag and bare_etag(head) == etag else ""


def _class_of(version: Version) -> dict[str, str]:
    """Return the storage class as a parameter; of an archive nothing: the copy could not be
    read."""
    plain = version.storage_class in ("", STANDARD)
    storage_class = STANDARD if plain else kept_class(version.storage_class)
    return {"StorageClass": storage_class} if storage_class else {}


def _copy_in_parts(s3: S3, bucket: str, version: Version, source: dict[str, str]) -> str:
    """Return the ETag of the copy."""
    key = version.key
    head = s3.call("head_object", bucket, key, VersionId=version.version)
    content = Content.of(head, meta_of(head))
    tags: dict[str, str] = {}
    if head.get("TagCount"):
        found = s3.call("get_object_tagging", bucket, key, VersionId=version.version)
        tags = {tag["Key"]: tag["Value"] for tag in found["TagSet"]}
    content = content._replace(headers={**content.headers, **_class_of(version)})
    upload = s3.start_upload(bucket, key, content.tagged(tags))
    size, part = version.size, max(_PART, -(-version.size // PARTS_MAX))
    try:
        etags = [
            s3.call(
                "upload_part_copy",
                bucket,
                key,
                UploadId=upload,
                PartNumber=number,
                CopySource=source,
                CopySourceRange=f"bytes={start}-{min(start + part, size) - 1}",
            )["CopyPartResult"]["ETag"]
            for number, start in enumerate(range(0, size, part), start=1)
        ]
        return s3.finish_upload(bucket, key, upload, etags, size).etag
    except BaseException as exc:
        try:
            s3.abort_upload(bucket, key, upload)
        except S3Error as left:
            exc.add_note(f"an unfinished upload stays in S3, at a cost: {left}")
        raise


class RestoreJournal:
    """The copies that a restore to a moment has made, a line each: a hash of the key, the version
    and the copy. S3 itself tells of what else is done. A copy counts as long as it is the newest
    version of its key.

    Threading: any thread; a line is written by one call."""

    def __init__(self, file: TextIO, known: set[str]) -> None:
        self._file = file
        self._known = known
        self._lock = threading.Lock()  # protects the file's buffer

    def has(self, step: Step) -> bool:
        return step.what is What.COPY and _line(step, step.newest) in self._known

    def add(self, step: Step, copy: str) -> None:
        with self._lock:
            self._file.write(_line(step, copy) + "\n")
            self._file.flush()


def _line(step: Step, copy: str) -> str:
    version = step.version.version if step.version is not None else ""
    text = "\n".join((step.key, version, copy))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def journalled(directory: Path, target: Target, moment_ns: int) -> Iterator[RestoreJournal]:
    """Within, there is the journal, in *directory* (0700), of the restore of *target* to
    *moment_ns*. Raises MimicError."""
    path = _path(directory, target, moment_ns)
    try:
        known = _known(path)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise MimicError(f"{path}: {exc.strerror}") from exc
    with open(fd, "a") as file:
        yield RestoreJournal(file, known)


def journal_so_far(directory: Path, target: Target, moment_ns: int) -> RestoreJournal:
    """Return the same journal, of which no file is made or changed. Raises MimicError."""
    path = _path(directory, target, moment_ns)
    try:
        return RestoreJournal(StringIO(), _known(path))
    except OSError as exc:
        raise MimicError(f"{path}: {exc.strerror}") from exc


def _path(directory: Path, target: Target, moment_ns: int) -> Path:
    name = hashlib.sha256(f"{target}\n{moment_ns}".encode("utf-8", "surrogatepass")).hexdigest()
    return directory / f"{name[:32]}.restored"


def _known(path: Path) -> set[str]:
    return set(path.read_text("ascii", "replace").split()) if path.exists() else set()
