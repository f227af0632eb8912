"""The messages about buckets: one parser for every source.

A message comes in one of these forms; each may hold several records:

    S3, Ceph, MinIO    {"Records": [{"eventName": ..., "s3": {"bucket": ..., "object": ...}}]}
    through SNS        {"Type": "Notification", "Message": "<one of these forms>"}
    EventBridge        {"detail-type": "Object Created", "detail": {"bucket": ..., ...}}
    MinIO into Redis   [{"Event": [<record>], "EventTime": ...}], formerly [TIME, [<record>]]
    a test of S3       {"Event": "s3:TestEvent", ...}: no records. S3 sends one when a rule is put

A record is a hint that a key changed, and never a fact: it may be late, doubled, or out of order,
and whoever can reach the source can write one. So it names the key to ask S3 about. Its fields
about the object (ETag, time) serve only to leave out a question whose answer is known. Its
sequencer only tells a message that came twice: Ceph's is the memory of a clock, lowest byte first,
and has no order; and whoever can forge a record can forge the highest one.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html,
.../ev-events.html, https://docs.ceph.com/en/latest/radosgw/notifications/, and MinIO's
internal/event. Pure functions; any thread may call them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from mimicfs.entry import KEY_MAX, clamped_ns, unquoted

MESSAGE_MAX = 1 << 20  # bytes; SQS and SNS have at most 1 MiB
_DEPTH_MAX = 4  # SNS within SQS within EventBridge is 3
_FAULTS_MAX = 10  # that are named
_SEQUENCER_MAX = 64
_SHOWN_MAX = 80  # characters of what a message says, in a fault
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")

# The state in which a change of this kind leaves the object. EventBridge's words stand beside S3's.
_CREATED = ("ObjectCreated", "Object Created", "ObjectSynced")
_REMOVED = ("ObjectRemoved", "Object Deleted", "LifecycleExpiration", "ObjectLifecycle:Expiration")
_HEAD_CHANGED = (  # the object stays; what a HEAD says of it changes
    "ObjectRestore",
    "Object Restore",
    "LifecycleTransition",
    "ObjectLifecycle:Transition",
    "IntelligentTiering",
    "Object Storage Class Changed",
    "Object Access Tier Changed",
    "ObjectTagging",
    "Object Tags",
    "ObjectAcl",
    "Object ACL Updated",
    "ObjectRetention",
)
# Nothing has changed. Our own HEAD is an access, and must not be the reason of another one.
_NOTHING = ("ObjectAccessed", "BucketCreated", "BucketRemoved", "Scanner")
_MARKER = ":DeleteMarkerCreated"
# How a source writes a key; one that is not here may do either. S3 and MinIO encode it as forms
# do, Ceph sends it as it is.
_ENCODING = ("aws:", "minio:")
_AS_IT_IS = ("ceph:",)


class _Unreadable(Exception):
    """A message, or a record in it, is none of the forms above."""


class Told(NamedTuple):
    """One record: *key* of *bucket* changed, or may have."""

    bucket: str
    key: str
    removed: bool = False  # a deletion, a delete marker, or the deletion of a version
    etag: str = ""  # bare; "" where the record has none
    time_ns: int = 0  # when it happened, by the clock of S3; 0: not said
    sequencer: str = ""  # another for each change of the key; "" where the record has none
    version_id: str = ""  # of the version that was made, or deleted for good
    head_only: bool = False  # data and ETag stay: a restore, tags, another storage class
    name: str = ""  # of the kind of change, as the source calls it
    versioned: bool = False  # the bucket has versions


class RulesPut(NamedTuple):
    """The notification configuration of *bucket* was put at *time_ns* (0: not said)."""

    bucket: str
    time_ns: int = 0


_RecordReader = Callable[[], "list[Told] | list[RulesPut]"]  # reads it


class Message(NamedTuple):
    """The contents of one message. *faults*: why it, or a record in it, cannot be understood; then
    it is to be put aside for a person, and what could be understood still holds."""

    told: list[Told]
    faults: list[str]
    put: list[RulesPut]


def parse(message: bytes | str) -> Message:
    """Return the contents of *message*; a test message has none. A record of an unknown kind counts
    as a change: S3 is asked, and nothing is believed."""
    if len(message) > MESSAGE_MAX:
        return Message([], [f"a message of {len(message)} bytes"], [])
    found = Message([], [], [])
    faults: list[str] = found.faults
    unnamed = 0
    for told in _each(message):
        if isinstance(told, Told):
            found.told.append(told)
        elif isinstance(told, RulesPut):
            found.put.append(told)
        elif len(faults) < _FAULTS_MAX:
            faults.append(str(told))
        else:
            unnamed += 1
    if unnamed:
        faults.append(f"and {unnamed} more")
    return found


def _each(message: bytes | str) -> Iterator[Told | RulesPut | _Unreadable]:
    try:
        for record in _records(_loaded(message), 0):
            try:
                yield from record()
            except _Unreadable as exc:
                yield exc
    except _Unreadable as exc:
        yield exc


def _loaded(message: bytes | str) -> Any:
    try:
        return json.loads(message)
    except (ValueError, RecursionError) as exc:
        raise _Unreadable("not JSON") from exc


def _records(said: Any, depth: int) -> Iterator[_RecordReader]:
    if depth > _DEPTH_MAX:
        raise _Unreadable("envelopes within envelopes")
    if isinstance(said, list):  # MinIO's redis target in the format "access"
        for each in said:
            try:
                yield from _records_of_log(each, depth)
            except _Unreadable as exc:
                yield partial(_unreadable, exc)
    elif not isinstance(said, dict):
        raise _Unreadable("neither an object nor a list")
    elif "Records" in said:
        for record in _list(said["Records"]):
            yield partial(_record, record)
    elif "detail" in said and "detail-type" in said:
        yield partial(_from_event_bridge, said)
    elif isinstance(said.get("Message"), str) and "Type" in said:
        yield from _from_sns(said, depth)
    elif said.get("Event") == "s3:TestEvent":
        yield partial(_test, said)
    else:
        raise _Unreadable("not an S3 event in any known form")


def _records_of_log(each: Any, depth: int) -> Iterator[_RecordReader]:
    if isinstance(each, str):  # the time, in the older form
        return
    if isinstance(each, dict) and "Event" not in each:  # a batch of one of the other forms
        yield from _records(each, depth + 1)
        return
    records = each["Event"] if isinstance(each, dict) else each
    yield from _records({"Records": records}, depth + 1)


def _from_sns(said: dict[str, Any], depth: int) -> Iterator[_RecordReader]:
    if said["Type"] == "Notification":
        yield from _records(_loaded(said["Message"]), depth + 1)
    elif said["Type"] != "UnsubscribeConfirmation":
        # We open no address that a message names.
        kind = ascii(said["Type"])[:_SHOWN_MAX]
        raise _Unreadable(f"SNS waits for an answer ({kind}); confirm it by hand")


def _test(said: dict[str, Any]) -> list[RulesPut]:
    bucket = said.get("Bucket")
    return [RulesPut(bucket, _ns(said.get("Time")))] if isinstance(bucket, str) else []


def _unreadable(exc: _Unreadable) -> list[Told]:
    raise exc


def _record(record: Any) -> list[Told]:
    name = _text(_dict(record), "eventName").removeprefix("s3:")
    if name.startswith(_NOTHING):
        return []
    about = _dict(record.get("s3"), "s3")
    object_ = _dict(about.get("object"), "s3.object")
    etag, version = object_.get("eTag", object_.get("etag")), object_.get("versionId")
    told = _told(name, about, object_, etag, version, record.get("eventTime"))
    keys = _keys(_text(record, "eventSource"), _text(object_, "key"))
    return [told._replace(key=_checked(key)) for key in keys]


def _keys(source: str, key: str) -> list[str]:
    """Return the keys that *key* may mean, as *source* has written it."""
    if source.startswith(_AS_IT_IS):
        return [key]
    try:
        decoded = _decoded(key)
    except _Unreadable:
        if source.startswith(_ENCODING):
            raise
        return [key]
    return [decoded] if decoded == key or source.startswith(_ENCODING) else [decoded, key]


def _from_event_bridge(said: dict[str, Any]) -> list[Told]:
    about = _dict(said["detail"], "detail")
    object_ = _dict(about.get("object"), "detail.object")
    name = _text(said, "detail-type")
    if str(about.get("deletion-type", "")).startswith("Delete Marker"):
        name += _MARKER
    version = object_.get("version-id")
    told = _told(name, about, object_, object_.get("etag"), version, said.get("time"))
    return [told._replace(key=_checked(_text(object_, "key")))]  # as it is, not encoded


def _told(
    name: str, about: dict[str, Any], object_: dict[str, Any], etag: Any, version: Any, time: Any
) -> Told:
    """Return the contents of a record, except its key."""
    bucket = _text(_dict(about.get("bucket"), "bucket"), "name")
    if not _BUCKET.fullmatch(bucket):
        raise _Unreadable("the name of the bucket is missing")
    sequencer = object_.get("sequencer")
    return Told(
        bucket,
        "",
        name.startswith(_REMOVED),
        unquoted(etag) if isinstance(etag, str) and name.startswith(_CREATED) else "",
        _ns(time),
        sequencer if isinstance(sequencer, str) and len(sequencer) <= _SEQUENCER_MAX else "",
        _version(name, version),
        name.startswith(_HEAD_CHANGED),
        name,
        isinstance(version, str) and version not in ("", "null"),
    )


def _version(name: str, version: Any) -> str:
    if not isinstance(version, str) or version == "null" or name.endswith(_MARKER):
        return ""  # the version of a delete marker is none of the object
    return version


def _checked(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:  # JSON can say one half of a surrogate pair
        raise _Unreadable("a key that is not UTF-8") from exc
    if not 0 < size <= KEY_MAX:
        raise _Unreadable("no key")
    return key


def _decoded(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as exc:
        raise _Unreadable("a key that is not UTF-8") from exc


def _ns(time: Any) -> int:
    try:
        return max(0, clamped_ns(datetime.fromisoformat(time)))
    except (TypeError, ValueError):
        return 0


def _dict(value: Any, name: str = "a record") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unreadable(f"{name} is missing, or not an object")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Unreadable("Records is not a list")
    return value


def _text(where: dict[str, Any], name: str) -> str:
    value = where.get(name, "")
    if not isinstance(value, str):
        raise _Unreadable(f"{name} is not a text")
    return value
