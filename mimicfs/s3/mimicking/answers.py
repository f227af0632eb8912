"""Answers in the form of boto3's, made from what the mirror has.

The entry keeps as text (`Entry.head`) what a HEAD tells of an object and a listing does not, in the
words of S3. `ResponseMetadata` of an answer that is made here has the status, and for a HEAD its
headers; there is no request, so the id is "mimicfs".

Pure functions; any thread may call them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from functools import cache, lru_cache
from typing import Any

from mimicfs.entry import NS, BucketEntry, Entry

LocalAnswer = dict[str, Any]

_REQUEST = "mimicfs"  # programs log the ids of their requests

# The forms of a time in a header of S3, and in the body of a listing.
_HEADER, _BODY = "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00.000Z"

# Headers that are about the exchange and not the object.
_OF_EXCHANGE = frozenset(
    {
        "date",
        "connection",
        "keep-alive",
        "x-amz-request-id",
        "x-amz-id-2",
        "x-amzn-requestid",
    }
)


def head_text(answer: Mapping[str, Any]) -> str:
    """Return *answer*, to a HeadObject, as text for Entry.head: JSON of its members, its headers,
    and those members that are times, in seconds."""
    times = {name: at.timestamp() for name, at in answer.items() if isinstance(at, datetime)}
    other = times.keys() | {"ResponseMetadata"}
    said = {name: value for name, value in answer.items() if name not in other}
    return json.dumps([said, headers_of(answer), times], separators=(",", ":"))


def headers_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of *answer* that are about the object."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {name: value for name, value in headers.items() if name not in _OF_EXCHANGE}


def settled(answer: Mapping[str, Any]) -> bool:
    """Whether *answer*, to a HeadObject, stays true until somebody changes something. (A restore
    ends, and a replication is done, without another call.)"""
    replication = answer.get("ReplicationStatus", "COMPLETED")
    return "Restore" not in answer and replication in ("COMPLETED", "COMPLETE", "REPLICA")


def head_object(entry: Entry) -> LocalAnswer | None:
    """Return the answer to a HeadObject; None if a part of it is not known."""
    if entry.head is None:
        return None
    answer: LocalAnswer
    answer, headers, times = json.loads(entry.head)
    if not settled(answer):  # an older version of mimicfs kept it
        return None
    for name, at in times.items():
        answer[name] = datetime.fromtimestamp(at, UTC).replace(tzinfo=_zone(_HEADER))
    answer["ResponseMetadata"] = metadata(200, headers)
    return answer


def metadata(status: int, headers: dict[str, str] | None = None) -> LocalAnswer:
    return {
        "RequestId": _REQUEST,
        "HostId": _REQUEST,
        "HTTPStatusCode": status,
        "HTTPHeaders": headers or {},
        "RetryAttempts": 0,
    }


def contents(entries: Iterable[Entry], owner: Mapping[str, str] | None = None) -> list[LocalAnswer]:
    """Return objects in the form of a listing; with *owner*, in that of a ListObjects."""
    found: list[LocalAnswer] = [
        {
            "Key": key,
            "LastModified": _time(mtime_ns),
            "ETag": f'"{etag}"',
            "Size": size,
            "StorageClass": storage_class or "STANDARD",
        }
        for key, size, mtime_ns, etag, storage_class, _, _, _ in entries
    ]
    if owner is not None:
        for item in found:
            item["Owner"] = dict(owner)
    return found


def buckets(found: Iterable[BucketEntry], owner: Mapping[str, str]) -> LocalAnswer:
    """Return the answer to a ListBuckets."""
    listed = [{"Name": bucket.name, "CreationDate": _time(bucket.created_ns)} for bucket in found]
    return {"ResponseMetadata": metadata(200), "Buckets": listed, "Owner": dict(owner)}


def refusal(code: str, message: str, status: int, **more: str) -> LocalAnswer:
    """Return the response of a ClientError."""
    return {
        "Error": {"Code": code, "Message": message, **more},
        "ResponseMetadata": metadata(status),
    }


@lru_cache(maxsize=4096)
def _time(ns: int) -> datetime:
    seconds, rest = divmod(ns, NS)
    at = datetime.fromtimestamp(seconds, UTC)
    return at.replace(microsecond=rest // 1000, tzinfo=_zone(_BODY))


@cache
def _zone(text: str) -> tzinfo | None:
    """Return the zone in which botocore gives a time that S3 writes as *text*: programs compare
    zones, and print them. The zone is one of dateutil, and depends on that of the machine."""
    from botocore.utils import parse_timestamp

    at: datetime = parse_timestamp(text)
    return at.tzinfo
