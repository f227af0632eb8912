"""The attributes that S3 keeps with an object, as extended attributes `user.mimicfs.*`: headers,
user metadata, tags, ACL, retention, storage class, the state of a restore, a link. To read one
costs a request at most. To set one is one change in S3, after the requests that keep everything
else from being lost.

They are not listed: `cp -a` would copy them to other files.

Threading: any thread. `_lock` protects what was asked last; S3 is asked without it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from operator import methodcaller
from typing import Any

from mimicfs import metadata
from mimicfs.config.tags import TAGS_MAX, wrong_with
from mimicfs.entry import Entry
from mimicfs.errors import PosixError, Unasked
from mimicfs.human import iso_time
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Content
from mimicfs.s3.transport.calls import Answer
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.stored import StoredAttributes, checked

PREFIX = "user.mimicfs."
_GOOD_S = 2.0  # the kernel asks twice, first for the length: the second answer is remembered
_REMEMBERED = 64  # answers
_TAG, _META = "tag.", "meta."
_HEADERS = {
    "content_type": "ContentType",
    "cache_control": "CacheControl",
    "content_disposition": "ContentDisposition",
    "content_encoding": "ContentEncoding",
    "content_language": "ContentLanguage",
    "expires": "Expires",
}
# the characters of the name of a header (RFC 9110)
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_DAYS = re.compile(r"[0-9]{1,10}")
_DAYS_MAX = (1 << 31) - 1
_URL_S = 3600  # how long a link is good for
_TIERS = {tier.lower(): tier for tier in ("Standard", "Bulk", "Expedited")}
_HEAD, _TAGS = "head_object", "get_object_tagging"


class ObjectAttributes:
    """The attributes of the objects behind nodes, as S3 has them."""

    def __init__(self, mimicdb: Mirror, s3: S3, stored: StoredAttributes) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._stored = stored
        self._lock = threading.Lock()  # protects the answers
        self._answers: OrderedDict[tuple[str, ...], tuple[Answer, Entry | None, float]]
        self._answers = OrderedDict()

    # Reading

    def get(self, bucket: str, entry: Entry, name: str, version: str = "") -> str | None:
        """Return the value of *name* of *entry* (its version with the id *version*, if that is
        given); None: there is none. Raises Unasked, S3Error."""
        version = version or self._s3.version_shown(entry)
        known, key = _known(bucket, entry, version).get(name), entry.key
        if known is not None:
            return known
        if name == "url":
            return self._s3.link(bucket, key, version, _URL_S)
        if name.startswith(_TAG):
            return _tags(self._asked(_TAGS, bucket, key, version)).get(name.removeprefix(_TAG))
        if name == "acl":
            return _acl(self._asked("get_object_acl", bucket, key, version))
        if name.startswith(_META) or name in _TOLD:
            return _said(name, self._asked(_HEAD, bucket, key, version))
        return None

    def _asked(self, operation: str, bucket: str, key: str, version: str) -> Answer:
        with self._lock:
            answer, entry, asked_s = self._answers.get(
                (operation, bucket, key, version), ({}, None, -_GOOD_S)
            )
        now = self._mimicdb.entry(bucket, key)
        if time.monotonic() - asked_s > _GOOD_S or not _same(entry, now):
            raise Unasked(bucket, key, operation, version)
        return answer

    def ask(self, missing: Unasked) -> None:
        """Ask S3 what `get` did not know. Raises S3Error."""
        bucket, key, version = missing.bucket, missing.key, missing.version
        extra = {"VersionId": version} if version else {}
        asked_s = time.monotonic()
        answer = self._s3.call(missing.operation, bucket, key, **extra)
        with self._lock:
            place = (missing.operation, bucket, key, version)
            self._answers[place] = (answer, self._mimicdb.entry(bucket, key), asked_s)
            self._answers.move_to_end(place)
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)

    def _forget(self, bucket: str, key: str) -> None:
        with self._lock:
            for place in [each for each in self._answers if each[1:3] == (bucket, key)]:
                del self._answers[place]

    # Setting

    def set(self, node: Node, name: str, value: bytes, flags: int) -> None:
        """Set *name* of the object *node*. Raises PosixError EPERM if it can only be read, EINVAL,
        EEXIST or ENODATA as *flags* say; S3Error."""
        text = _text(value, name)
        change: Callable[[Node, str, str | None, int], None] | None = self._change_of(name)
        if name == "storage_class":
            change = self._set_storage_class
        elif name == "restore":
            change = self._ask_for_restore
        self._changed(node, name, change, text, flags)

    def remove(self, node: Node, name: str) -> None:
        """Remove *name* of the object *node*. Raises PosixError EPERM, ENODATA; S3Error."""
        self._changed(node, name, self._change_of(name), None, os.XATTR_REPLACE)

    def _changed(
        self,
        node: Node,
        name: str,
        change: Callable[[Node, str, str | None, int], None] | None,
        text: str | None,
        flags: int,
    ) -> None:
        if change is None or node.is_directory:
            raise PosixError(errno.EPERM, f"{PREFIX}{name}: is read-only")
        if node.is_nameless:
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.component}")
        try:
            change(node, name, text, flags)
        finally:
            self._forget(node.bucket, node.key)

    def _change_of(self, name: str) -> Callable[[Node, str, str | None, int], None] | None:
        if name.startswith(_TAG):
            return self._change_tag
        if name.startswith(_META):
            return self._change_meta
        return self._change_header if name in _HEADERS else None

    def _change_header(self, node: Node, name: str, text: str | None, flags: int) -> None:
        header = _HEADERS[name]
        if name == "expires" and text is not None:
            text = _http_date(text)

        def change(content: Content) -> Content:
            if header == "ContentType":
                _check(flags, content.content_type)
                return content._replace(content_type=text or Content().content_type)
            _check(flags, content.headers.get(header))
            return content._replace(headers=_with(content.headers, header, text))

        self._stored.change_content(node, change)

    def _change_meta(self, node: Node, name: str, text: str | None, flags: int) -> None:
        own = name.removeprefix(_META).lower()
        if not _TOKEN.fullmatch(own):
            raise PosixError(errno.EINVAL, f"{PREFIX}{name!r}: that is not the name of a header")
        if not metadata.without_ours({own: ""}):
            raise PosixError(errno.EPERM, f"{PREFIX}{name}: is kept by mimicfs")

        def change(content: Content) -> Content:
            _check(flags, content.meta.get(own))
            return content._replace(meta=checked(_with(content.meta, own, text), node))

        self._stored.change_content(node, change)

    def _set_storage_class(self, node: Node, _name: str, text: str | None, flags: int) -> None:
        _check(flags, present=True)
        self._stored.change_content(
            node, lambda content: content._replace(headers=_with(content.headers, _CLASS, text))
        )

    def _change_tag(self, node: Node, name: str, text: str | None, flags: int) -> None:
        tag = name.removeprefix(_TAG)
        if text is not None and (wrong := wrong_with(tag, text)):
            raise PosixError(errno.EINVAL, wrong)
        tags = _tags(self._s3.call(_TAGS, node.bucket, node.key))
        _check(flags, tags.get(tag))
        tags = _with(tags, tag, text)
        if len(tags) > TAGS_MAX:
            raise PosixError(errno.ENOSPC, f"{len(tags)} tags, S3 takes {TAGS_MAX}")
        self._s3.kept.tag(node.bucket, node.key, tags)
        if node.file is not None:
            node.file.set_tags(tags)

    def _ask_for_restore(self, node: Node, _name: str, text: str | None, flags: int) -> None:
        _check(flags, present=True)
        days, _, tier = (text or "").partition(":")
        known = _TIERS.get((tier or "standard").lower())
        if not _DAYS.fullmatch(days) or not 1 <= int(days) <= _DAYS_MAX or known is None:
            raise PosixError(errno.EINVAL, f"{PREFIX}restore={text}: write DAYS or DAYS:TIER")
        asked = {"Days": int(days), "GlacierJobParameters": {"Tier": known}}
        self._s3.call("restore_object", node.bucket, node.key, RestoreRequest=asked)


_CLASS = "StorageClass"


def _known(bucket: str, entry: Entry, version: str) -> dict[str, str]:
    """Return the values for which S3 need not be asked, by the name of the attribute."""
    known = {
        "bucket": bucket,
        "key": entry.key,
        "etag": entry.etag,
        "size": str(entry.size),
        "storage_class": entry.storage_class or "STANDARD",
        "last_modified": iso_time(entry.mtime_ns),
    }
    return known | {"version": version} if version else known


def _said(name: str, answer: Answer) -> str | None:
    """Return what *answer*, to a HEAD, says of *name*; None if it says nothing."""
    if name.startswith(_META):
        meta = {each.lower(): value for each, value in answer.get("Metadata", {}).items()}
        return meta.get(name.removeprefix(_META).lower())
    return _TOLD[name](answer)


def _expires(answer: Answer) -> str | None:
    said, at = answer.get("ExpiresString"), answer.get("Expires")
    if said is None and isinstance(at, datetime):
        return format_datetime(at.astimezone(UTC), usegmt=True)
    return None if said is None else str(said)


def _acl(answer: Answer) -> str | None:
    told = {part: answer[part] for part in ("Owner", "Grants") if part in answer}
    return json.dumps(told) if told else None


def _retention(answer: Answer) -> str | None:
    until = answer.get("ObjectLockRetainUntilDate")
    if until is None:
        return None
    return f"{answer.get('ObjectLockMode')} until {until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


# The fields in the answer to a HEAD, by the name of the attribute.
_TOLD: Mapping[str, Callable[[Answer], str | None]] = {
    **{name: methodcaller("get", header) for name, header in _HEADERS.items()},
    "expires": _expires,
    "version": methodcaller("get", "VersionId"),
    "restore": S3.restore_state,
    "retention": _retention,
    "legal_hold": methodcaller("get", "ObjectLockLegalHoldStatus"),
}


def _tags(answer: Answer) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", ())}


def _with(said: Mapping[str, Any], name: str, text: str | None) -> dict[str, Any]:
    rest = {each: value for each, value in said.items() if each != name}
    return rest if text is None else {**rest, name: text}


def _check(flags: int, present: Any) -> None:
    if flags & os.XATTR_CREATE and present is not None:
        raise PosixError(errno.EEXIST)
    if flags & os.XATTR_REPLACE and present is None:
        raise PosixError(errno.ENODATA)


def _same(one: Entry | None, other: Entry | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.etag, one.size, one.mtime_ns) == (other.etag, other.size, other.mtime_ns)


def _text(value: bytes, name: str) -> str:
    """Return *value* as text that a header, or a tag, can carry as it is. (Spaces around it would
    be lost, and an empty header is no header.) Raises PosixError EINVAL."""
    try:
        text = value.decode("utf-8" if name.startswith(_TAG) else "ascii")
    except UnicodeDecodeError as exc:
        raise PosixError(errno.EINVAL, f"{value!r}: a header cannot contain that") from exc
    if not text.isprintable() or text != text.strip() or not (text or _may_be_empty(name)):
        raise PosixError(errno.EINVAL, f"{text!r}: a header cannot contain that")
    return text


def _may_be_empty(name: str) -> bool:
    return name.startswith((_TAG, _META))


def _http_date(text: str) -> str:
    try:
        at = _date(text)
        at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as exc:  # it is no time, or in no year from 1 to 9999
        raise PosixError(errno.EINVAL, f"{text}: no date") from exc
    return format_datetime(at, usegmt=True)


def _date(text: str) -> datetime:
    try:
        return parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return datetime.fromisoformat(text)
