"""Mimicking: what S3 answers to a boto3 client is written to the mirror before it is returned.

`mimic(client, mimicdb)` wraps `_make_api_call`, the one method that every call of a client
passes through: paginators, waiters, resources and s3transfer included.

What is learned: puts, copies, finished multipart uploads, deletions, HEAD, GET, and the
making and removing of buckets. A 404 or 412, and an answer that shows another version than
the mirror has, repair the mirror and are announced. Listings are not learned here: sync.py
merges them, since one page says also what is not there.

The mirror cannot be written although S3 has done what was asked: StoreError is raised, and
says so; the next sync gives the mirror back what it missed.

Threading: as the client, any number of threads. Answers may come in another order than
requests: what was asked before a change of the key became known is not believed (the
sequence number read before the request, MimicDB.record).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from mimicfs.entry import Entry
from mimicfs.errors import StoreError
from mimicfs.mimicdb import MimicDB, same_version

log = logging.getLogger(__name__)

_NS = 1_000_000_000
_Params = Mapping[str, Any]
_Answer = Mapping[str, Any]

# The size of the body that the call in this context has sent.
_sent: ContextVar[list[int]] = ContextVar("mimicfs_sent")


def mimic(client: Any, mimicdb: MimicDB) -> Any:
    """Make *client*, a boto3 S3 client, write into *mimicdb* what S3 answers; return it."""
    learner = _Learner(client, mimicdb)
    plain = client._make_api_call

    def call(operation: str, params: _Params) -> Any:
        return learner.call(plain, operation, params)

    client._make_api_call = call
    client.meta.events.register("before-send.s3", _note_size)
    return client


def _note_size(request: Any, **_: Any) -> None:
    size = request.headers.get("X-Amz-Decoded-Content-Length")
    if size is None:
        size = request.headers.get("Content-Length", 0)
    sizes = _sent.get(None)
    if sizes is not None:
        sizes.append(int(size))


class _Upload:
    """What is known of a multipart upload: sizes by part number, and its metadata."""

    def __init__(self, params: _Params) -> None:
        self.params = params
        self.sizes: dict[int, int] = {}


class _Learner:
    def __init__(self, client: Any, mimicdb: MimicDB) -> None:
        self._client = client
        self._mimicdb = mimicdb
        self._lock = threading.Lock()  # protects the uploads
        self._uploads: dict[str, _Upload] = {}
        self._learn: dict[str, Callable[[_Params, _Answer, int], None]] = {
            "PutObject": self._put,
            "CopyObject": self._copy,
            "CreateMultipartUpload": self._start,
            "UploadPart": self._part,
            "UploadPartCopy": self._part_copy,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
            "DeleteObject": self._delete,
            "DeleteObjects": self._delete_many,
            "CreateBucket": lambda params, _answer, _sent: self._mimicdb.add_bucket(
                params["Bucket"], time.time_ns()
            ),
            "DeleteBucket": lambda params, _answer, _sent: self._mimicdb.drop_bucket(
                params["Bucket"]
            ),
        }

    def call(self, plain: Callable[[str, _Params], Any], operation: str, params: _Params) -> Any:
        if operation in ("HeadObject", "GetObject"):
            return self._read(plain, operation, params)
        learn = self._learn.get(operation)
        if learn is None:
            return plain(operation, params)
        asked = dict(params)  # botocore rewrites some of them in place
        sizes: list[int] = []
        token = _sent.set(sizes)
        try:
            answer = plain(operation, params)
        finally:
            _sent.reset(token)
        with _told(operation, params):
            learn(asked, answer, sizes[-1] if sizes else 0)
        return answer

    # Writes

    def _put(self, params: _Params, answer: _Answer, sent: int) -> None:
        self._record(params, sent, answer.get("ETag", ""), _date_ns(answer), _meta(params))

    def _copy(self, params: _Params, answer: _Answer, _sent_size: int) -> None:
        result = answer["CopyObjectResult"]
        source = self._source(params)
        if source is None:
            self._head(params)
            return
        replaced = params.get("MetadataDirective") == "REPLACE"
        meta: Mapping[str, str] | None = _meta(params) if replaced else source.meta
        self._record(
            params, source.size, result.get("ETag", ""), _time_ns(result["LastModified"]), meta
        )

    def _source(self, params: _Params) -> Entry | None:
        """Return the copied version, if the mirror has just that."""
        source, etag = params["CopySource"], params.get("CopySourceIfMatch", "").strip('"')
        if not isinstance(source, Mapping) or source.get("VersionId") or not etag:
            return None
        entry = self._mimicdb.entry(source["Bucket"], source["Key"])
        return entry if entry is not None and entry.etag == etag else None

    def _start(self, params: _Params, answer: _Answer, _sent_size: int) -> None:
        with self._lock:
            self._uploads[answer["UploadId"]] = _Upload(params)

    def _part(self, params: _Params, _answer: _Answer, sent: int) -> None:
        self._note_part(params, sent)

    def _part_copy(self, params: _Params, _answer: _Answer, _sent_size: int) -> None:
        span = params.get("CopySourceRange", "")
        if span.startswith("bytes="):
            first, _, last = span.removeprefix("bytes=").partition("-")
            self._note_part(params, int(last) - int(first) + 1)

    def _note_part(self, params: _Params, size: int) -> None:
        with self._lock:
            upload = self._uploads.get(params["UploadId"])
            if upload is not None:
                upload.sizes[params["PartNumber"]] = size

    def _complete(self, params: _Params, answer: _Answer, _sent_size: int) -> None:
        with self._lock:
            upload = self._uploads.pop(params["UploadId"], None)
        numbers = [part["PartNumber"] for part in params["MultipartUpload"]["Parts"]]
        if upload is None or any(number not in upload.sizes for number in numbers):
            self._head(params)  # begun or copied elsewhere: only S3 knows the size
            return
        size = sum(upload.sizes[number] for number in numbers)
        started = {**upload.params, "Bucket": params["Bucket"], "Key": params["Key"]}
        self._record(started, size, answer.get("ETag", ""), _date_ns(answer), _meta(started))

    def _abort(self, params: _Params, _answer: _Answer, _sent_size: int) -> None:
        with self._lock:
            self._uploads.pop(params["UploadId"], None)

    def _delete(self, params: _Params, _answer: _Answer, _sent_size: int) -> None:
        if params.get("VersionId"):
            self._head(params)  # an older version may have become the current one
        else:
            self._mimicdb.forget(params["Bucket"], params["Key"])

    def _delete_many(self, params: _Params, answer: _Answer, _sent_size: int) -> None:
        refused = {error["Key"] for error in answer.get("Errors", ())}
        objects = params["Delete"]["Objects"]
        gone = [
            item["Key"]
            for item in objects
            if item["Key"] not in refused and not item.get("VersionId")
        ]
        self._mimicdb.backend.apply(params["Bucket"], (), gone)

    def _record(
        self, params: _Params, size: int, etag: str, mtime_ns: int, meta: Mapping[str, str] | None
    ) -> None:
        storage_class = params.get("StorageClass", "")
        storage_class = "" if storage_class == "STANDARD" else storage_class
        entry = Entry(params["Key"], size, mtime_ns, etag.strip('"'), storage_class, meta)
        self._mimicdb.record(params["Bucket"], entry)

    # Reads

    def _read(self, plain: Callable[[str, _Params], Any], operation: str, params: _Params) -> Any:
        bucket, key = params.get("Bucket"), params.get("Key")
        if not bucket or not key or params.get("VersionId") or params.get("PartNumber"):
            return plain(operation, params)
        since = self._mimicdb.seq(bucket)
        try:
            answer = plain(operation, params)
        except ClientError as exc:
            with _told(operation, params):
                self._refused(params, exc, since)
            raise
        with _told(operation, params):
            self._seen(bucket, _entry(key, answer), since)
        return answer

    def _seen(self, bucket: str, entry: Entry, since: int) -> None:
        known = self._mimicdb.entry(bucket, entry.key)
        if known is None or not same_version(known, entry):
            self._mimicdb.repair(bucket, entry.key, entry, since)
            return
        entry = entry._replace(mtime_ns=known.mtime_ns)
        if entry.meta != known.meta and entry.meta:
            self._mimicdb.repair(bucket, entry.key, entry, since)
        elif entry != known:  # that there is no metadata changes nothing that is seen
            self._mimicdb.record(bucket, entry, since)

    def _refused(self, params: _Params, exc: ClientError, since: int) -> None:
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 404:
            if self._mimicdb.entry(params["Bucket"], params["Key"]) is not None:
                self._mimicdb.repair(params["Bucket"], params["Key"], None, since)
        elif status == 412:
            self._head(params)

    def _head(self, params: _Params) -> None:
        """Ask S3 what is there now; the answer is learned like any other."""
        try:
            self._client.head_object(Bucket=params["Bucket"], Key=params["Key"])
        except ClientError as exc:  # a 404 was learned; another refusal leaves things unknown
            log.debug("HEAD s3://%s/%s: %s", params["Bucket"], params["Key"], exc)


@contextmanager
def _told(operation: str, params: _Params) -> Iterator[None]:
    try:
        yield
    except StoreError as exc:
        about = f"s3://{params.get('Bucket')}/{params.get('Key', '')}"
        raise type(exc)(
            f"S3 has answered {operation} of {about}, but the mirror could not be told: {exc};"
            " sync when the store is back"
        ) from exc


def _entry(key: str, answer: _Answer) -> Entry:
    size = answer["ContentLength"]
    if answer.get("ContentRange"):
        size = int(answer["ContentRange"].rpartition("/")[2])
    storage_class = answer.get("StorageClass", "")
    return Entry(
        key,
        size,
        _time_ns(answer["LastModified"]),
        answer.get("ETag", "").strip('"'),
        "" if storage_class == "STANDARD" else storage_class,
        {name.lower(): value for name, value in answer.get("Metadata", {}).items()},
    )


def _meta(params: _Params) -> dict[str, str]:
    return {name.lower(): value for name, value in params.get("Metadata", {}).items()}


def _time_ns(at: Any) -> int:
    return int(at.timestamp()) * _NS


def _date_ns(answer: _Answer) -> int:
    """Return the time at which S3 answered: its LastModified, give or take a second."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if not date:
        return time.time_ns() // _NS * _NS
    return _time_ns(parsedate_to_datetime(date))
