"""The facts about objects in the answers of S3 to a boto3 client, and in the parameters of its
calls.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import time
from typing import Any

from botocore.exceptions import ClientError

from mimicfs.entry import NS, SIZE_MAX, Entry, unquoted, whole_seconds_ns
from mimicfs.s3.transport.answers import date_of
from mimicfs.s3.transport.calls import Answer, Params


def whole_size(answer: Answer) -> str:
    """Return as text how many bytes the object has, by the answer to a HEAD or GET, even of a
    range; a text that is no number if the answer does not say it."""
    return answer.get("ContentRange", "").rpartition("/")[2] or str(answer.get("ContentLength"))


def entry_of(key: str, answer: Answer) -> Entry | None:
    """Return the entry of *key* in the answer to a HEAD or GET; None: it is no answer of S3."""
    said = whole_size(answer)
    if "LastModified" not in answer or not said.isdecimal() or int(said) > SIZE_MAX:
        return None
    size, mtime_ns = int(said), whole_seconds_ns(answer["LastModified"])
    storage_class = answer.get("StorageClass", "")
    return Entry(
        key,
        size,
        mtime_ns,
        unquoted(answer.get("ETag")),
        "" if storage_class == "STANDARD" else storage_class,
        {name.lower(): value for name, value in answer.get("Metadata", {}).items()},
    )


def shows_versions(operation: str, answer: Answer) -> bool:
    if operation == "PutBucketVersioning" or answer.get("VersionId"):
        return True
    if operation == "GetBucketVersioning":
        return "Status" in answer
    if operation == "ListObjectVersions" and answer.get("DeleteMarkers"):
        return True
    shown = (*answer.get("Versions", ()), *answer.get("Deleted", ()))
    if any(item.get("VersionId", "null") != "null" or item.get("DeleteMarker") for item in shown):
        return True
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return "x-amz-version-id" in headers or "x-amz-delete-marker" in headers


def may_be_done(exc: ClientError) -> bool:
    """Whether S3 may have done the request that it answered with *exc*."""
    status = status_of(exc)
    return not 400 <= status < 500 or status == 408


# Headers of S3's own answers. CloudFront's `x-amz-cf-id` is none of them.
# https://docs.aws.amazon.com/AmazonS3/latest/API/RESTCommonResponseHeaders.html
_OF_S3 = {"x-amz-request-id", "x-amz-id-2", "x-amz-delete-marker", "x-amz-version-id"}


def says_gone(exc: BaseException) -> bool:
    """Whether *exc* is S3's word that there is no such object. Any web server says 404, even a load
    balancer that has lost its backend; S3 names a code, or itself."""
    if not isinstance(exc, ClientError) or status_of(exc) != 404:
        return False
    if exc.response.get("Error", {}).get("Code") not in ("404", "", None):
        return True
    headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    names = {name.lower() for name in headers}
    if names & _OF_S3:
        return True
    if not exc.operation_name.startswith("Head"):  # its answer has no body to name a code in
        return False
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return "x-amzn-requestid" in names or kind in ("application/xml", "text/xml")


def status_of(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def meta_of(params: Params) -> dict[str, str]:
    return {name.lower(): value for name, value in params.get("Metadata", {}).items()}


def date_ns(answer: Answer) -> int:
    """Return the time at which S3 answered: its LastModified, give or take a second."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    at = date_of(date) if date else None
    return time.time_ns() // NS * NS if at is None else whole_seconds_ns(at)


def is_key(key: Any) -> bool:
    """Whether S3 can have an object *key*: any other key it refuses."""
    try:
        return isinstance(key, str) and bool(key.encode())
    except UnicodeEncodeError:
        return False
