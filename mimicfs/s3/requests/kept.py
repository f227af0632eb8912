"""The content that is stored with an object besides its bytes, and must not be lost when the object
is written again: content type and headers, user metadata, tags, storage class, and the ACL if there
is one.

Uploaded bytes get what the options of their bucket, and its rules by pattern (config/rules.py),
say. A copied object has its own content already: for it the rules hold only at a new name, in place
of those of the old name.

S3 keeps none of it when an object is overwritten, and a copy keeps no ACL. So S3 is asked before it
would be lost: by one HEAD; for the tags, if the HEAD counts some; for the ACL, if the bucket has
ACLs at all (asked once for each bucket: most have none since 2023). What S3 has answered, and what
this process has written itself, counts for two seconds: others may change it, and no ETag shows it.

Threading: any thread. `_asking` protects what is known of buckets, `_lock` what is remembered of
objects.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from mimicfs import metadata
from mimicfs.config.values import Buckets
from mimicfs.entry import Entry, name_of
from mimicfs.errors import NOTHING_SAID, AccessDenied, KeyNotFound, MimicError, S3Error
from mimicfs.merging import SAME_TIME_NS
from mimicfs.s3.requests.content import (
    STANDARD,
    Content,
    as_shown,
    encryption_of,
    over,
    tagging_of,
)

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

LATELY_S = 2.0  # for so long it counts; the times of two sights of one version may differ so much
_REMEMBERED = 4096  # objects
_GRANTS = {
    "FULL_CONTROL": "GrantFullControl",
    "READ": "GrantRead",
    "READ_ACP": "GrantReadACP",
    "WRITE_ACP": "GrantWriteACP",
}
_KINDS = (("ID", "id"), ("URI", "uri"), ("EmailAddress", "emailAddress"))
# How S3 stores the bytes: by rules, or by the object itself.
_STORED = frozenset({"StorageClass", "ServerSideEncryption", "SSEKMSKeyId"})
_ENFORCED = "BucketOwnerEnforced"
_BROKEN = 500  # the status of some servers (moto) when they are asked for the ACL of some objects


class StoredContent(NamedTuple):
    """What is stored with a version of an object, as S3 has said at *at_s* (time.monotonic)."""

    content: Content
    at_s: float


class _KnownContent(NamedTuple):
    heard: StoredContent
    stored_ns: int  # when S3 has stored it, as S3 says


class Kept:
    """The content that is stored with the objects of *s3*, or is to be by the rules of
    *buckets*."""

    def __init__(self, s3: S3, buckets: Buckets) -> None:
        self._s3 = s3
        self._buckets = buckets
        self.lately_s = LATELY_S
        # held while a bucket is asked: one question serves all callers
        self._asking = threading.Lock()
        self._lock = threading.Lock()  # protects what is known
        self._known: OrderedDict[tuple[str, str, str], _KnownContent] = (
            OrderedDict()
        )  # the newest last
        self._acls: dict[str, bool] = {}  # by bucket: whether its objects have ACLs

    def of(self, bucket: str, key: str) -> tuple[Entry, Content]:
        """Return the entry of *key* as S3 has it now, and all content stored with it. Raises
        KeyNotFound."""
        at_s = time.monotonic()
        entry, content, tags = self._s3.head_counting(bucket, key)
        if tags:
            content = content.tagged(self.tags(bucket, key))
        lately = self.heard(bucket, entry)
        if lately is not None:
            grants, certain, at_s = _grants_in(lately.content), True, lately.at_s
        else:
            grants, certain = self._asked_grants(bucket, entry.key)
        content = content._replace(headers={**content.headers, **grants})
        if certain:
            self.written(bucket, entry, content, at_s)
        return entry, content

    def content_of(self, bucket: str, key: str) -> Content:
        """Return the content that S3 has stored with *key* now. Raises KeyNotFound."""
        _, content = self.of(bucket, key)
        return content

    def remembered(self, bucket: str, entry: Entry) -> Content | None:
        """Return the content that this process knows to be stored with the version *entry*."""
        heard = self.heard(bucket, entry)
        return heard.content if heard is not None else None

    def heard(self, bucket: str, entry: Entry) -> StoredContent | None:
        """Return the same, and when it was heard, if that was lately. A version that has another
        time, or other metadata, was copied onto itself since."""
        with self._lock:
            known = self._known.get((bucket, entry.key, entry.etag)) if entry.etag else None
        if known is None or not self.is_recent(known.heard.at_s):
            return None
        if abs(known.stored_ns - entry.mtime_ns) > SAME_TIME_NS:
            return None
        meta = {name.lower(): value for name, value in known.heard.content.meta.items()}
        return known.heard if entry.meta in (None, meta) else None

    def is_recent(self, at_s: float) -> bool:
        """Whether what was heard at *at_s* still counts."""
        return time.monotonic() - at_s < self.lately_s

    def written(
        self, bucket: str, entry: Entry, content: Content, at_s: float | None = None
    ) -> None:
        """Note that S3 has stored *content* with the version *entry*, as was heard at *at_s*
        (None: now)."""
        if entry.etag:
            shown = content._replace(headers=as_shown(content.headers))
            heard = StoredContent(shown, time.monotonic() if at_s is None else at_s)
            with self._lock:
                self._known[bucket, entry.key, entry.etag] = _KnownContent(heard, entry.mtime_ns)
                self._known.move_to_end((bucket, entry.key, entry.etag))
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)

    # By rules

    def usual(self, bucket: str, key: str) -> Content:
        """Return the content of a new object *key* whose writer says nothing about it."""
        said = self._buckets.of(bucket).stored(key)
        headers = {
            "CacheControl": said.cache_control,
            "Tagging": tagging_of(dict(said.tags)),
            "StorageClass": said.storage_class,
            "ServerSideEncryption": said.sse,
            "SSEKMSKeyId": said.kms_key_id,
        }
        return Content(
            said.content_type or _guessed(key),
            {},
            {name: value for name, value in headers.items() if value},
        )

    def completed(self, bucket: str, key: str, content: Content) -> Content:
        """Return *content*, for an upload of *key*, completed by the rules. Its own fields stay; a
        type that was guessed from the name is none of them."""
        usual = self.usual(bucket, key)
        guessed = content.content_type in (Content().content_type, _guessed(key))
        return content._replace(
            content_type=usual.content_type if guessed else content.content_type,
            headers=over(usual.headers, content.headers),
        )

    def successor(
        self,
        content: Content,
        old: tuple[str, str],
        new: tuple[str, str],
        replaced: Content | None = None,
    ) -> Content:
        """Return the content for an object that was *old*, (bucket, key), and becomes *new*; the
        object there was stored with *replaced*.

        Fields that it has by the rules, or the guess, of its old name change to those of the new
        name; but a storage class other than STANDARD stays. Fields that it does not have, it takes
        over from the object that it replaces, except mode, owner and times.
        """
        before, after = self.usual(*old), self.usual(*new)
        _, old_key = old
        content = _without(content, before, _guessed(old_key))
        if replaced is not None:
            meta = {**metadata.without_ours(replaced.meta), **content.meta}
            headers = over(replaced.headers, content.headers)
            content = Content(content.content_type or replaced.content_type, meta, headers)
        content_type = content.content_type
        if content_type in ("", Content().content_type):
            content_type = after.content_type
        headers = {name: value for name, value in after.headers.items() if name not in _STORED}
        headers |= content.headers
        if "Tagging" in before.headers:
            # otherwise the copy takes along the tags of its source
            headers.setdefault("Tagging", "")
        headers = over(headers, _stored_anew(content, before, after))
        return content._replace(content_type=content_type, headers=headers)

    # Of one object

    def tags(self, bucket: str, key: str) -> dict[str, str]:
        """Return the tags of an object; none if they may not be read. Raises S3Error if S3 does not
        say, as they would be lost otherwise."""
        try:
            return self._read_tags(bucket, key)
        except NOTHING_SAID:
            raise
        except S3Error as exc:
            log.warning("rewritten without its tags: s3://%s/%s: %s", bucket, key, exc)
            return {}

    def _read_tags(self, bucket: str, key: str) -> dict[str, str]:
        found = self._s3.call("get_object_tagging", bucket, key).get("TagSet", [])
        return {tag["Key"]: tag["Value"] for tag in found}

    def tag(self, bucket: str, key: str, tags: Mapping[str, str]) -> None:
        """Give *tags* to an object. Raises S3Error."""
        if tags:
            said = {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}
            self._s3.call("put_object_tagging", bucket, key, Tagging=said)
        else:
            self._s3.call("delete_object_tagging", bucket, key)
        with self._lock:
            for known in [each for each in self._known if each[:2] == (bucket, key)]:
                del self._known[known]

    def make_tagged(self, bucket: str, entry: Entry, tagging: str, capability: str) -> None:
        """Tag the version *entry*, which was to be stored with *tagging*, if the server has left
        the tags out. *capability* is the word for whether it takes them.

        S3 has stored the object, so a failure to put its tags is a warning, and no error."""
        wanted = dict(parse_qsl(tagging, keep_blank_values=True))
        known = self._s3.capabilities[capability]
        if not wanted or known == "yes":
            return
        try:
            if known == "no":
                self.tag(bucket, entry.key, wanted)
            else:
                self._try_tags(bucket, entry, wanted, capability)
        except KeyNotFound as exc:
            log.info("deleted since it was stored: %s", exc)
        except S3Error as exc:
            log.warning("stored, maybe without its tags: s3://%s/%s: %s", bucket, entry.key, exc)

    def _try_tags(self, bucket: str, entry: Entry, wanted: dict[str, str], capability: str) -> None:
        """Tag the version *entry*, unless it has the *wanted* tags; and learn from the tags that
        were read whether the server takes them."""
        found: dict[str, str] | None = None
        try:
            found = self._read_tags(bucket, entry.key)
        except AccessDenied as exc:
            log.debug("%s", exc)  # they may still be stored
        now, _ = self._s3.head(bucket, entry.key)
        if now.etag != entry.etag:
            log.info("s3://%s/%s: replaced since it was stored; not tagged", bucket, entry.key)
            return
        if found != wanted:
            self.tag(bucket, entry.key, wanted)
        if found is not None:
            self._s3.capabilities.learned(capability, "yes" if found == wanted else "no")

    def grants(self, bucket: str, entry: Entry) -> dict[str, str]:
        """Return the ACL of the version *entry* as parameters of a write; {} if it is the usual
        one, or cannot be read. Raises S3Error if S3 does not say."""
        known = self.remembered(bucket, entry)
        if known is not None:
            return _grants_in(known)
        grants, _ = self._asked_grants(bucket, entry.key)
        return grants

    def _asked_grants(self, bucket: str, key: str) -> tuple[dict[str, str], bool]:
        """Return the ACL of *key* as S3 has it now, in the same way, and whether it is certain."""
        if not self._has_acls(bucket):
            return {}, True
        try:
            return _as_parameters(self._s3.call("get_object_acl", bucket, key)), True
        except S3Error as exc:
            broken = exc.status == _BROKEN
            if isinstance(exc, NOTHING_SAID) and not broken:
                raise
            log.info(
                "s3://%s: a rewritten object loses its ACL, which cannot be read: %s",
                bucket,
                exc,
            )
            if not broken:
                self._acls[bucket] = False
            return {}, not broken

    def _has_acls(self, bucket: str) -> bool:
        with self._asking:
            if bucket not in self._acls:
                known = not self._is_enforced(bucket) and self._knows_acls(bucket)
                self._acls[bucket] = known
            return self._acls[bucket]

    def _is_enforced(self, bucket: str) -> bool:
        """Whether ACLs are off: the owner of the bucket owns each object."""
        try:
            answer = self._s3.call("get_bucket_ownership_controls", bucket)
        except MimicError as exc:
            log.debug("%s", exc)
            return False
        rules = answer.get("OwnershipControls", {}).get("Rules", [])
        return any(rule.get("ObjectOwnership") == _ENFORCED for rule in rules)

    def _knows_acls(self, bucket: str) -> bool:
        """Whether the server knows ACLs. The question is about the bucket: for an object, a server
        that does not look at `?acl` would answer with all of it. Raises S3Error if the server does
        not say."""
        try:
            return bool(self._s3.call("get_bucket_acl", bucket).get("Grants"))
        except AccessDenied:
            return True  # those of the objects may still be readable
        except NOTHING_SAID:
            raise
        except MimicError as exc:
            log.debug("%s", exc)
            return False


def _grants_in(content: Content) -> dict[str, str]:
    """Return the parameters of *content* that are an ACL."""
    found = (name for name in _GRANTS.values() if name in content.headers)
    return {name: content.headers[name] for name in found}


def _as_parameters(acl: Mapping[str, Any]) -> dict[str, str]:
    grants, owner = acl.get("Grants", []), acl.get("Owner", {}).get("ID", "")
    if [_said(grant) for grant in grants] in ([], [("FULL_CONTROL", "id", owner)]):
        return {}
    found: dict[str, list[str]] = {}
    for permission, kind, who in map(_said, grants):
        if permission in _GRANTS and who:
            found.setdefault(_GRANTS[permission], []).append(f'{kind}="{who}"')
    return {name: ", ".join(who) for name, who in found.items()}


def _said(grant: Mapping[str, Any]) -> tuple[str, str, str]:
    grantee = grant.get("Grantee", {})
    for name, kind in _KINDS:
        if grantee.get(name):
            return grant.get("Permission", ""), kind, grantee[name]
    return grant.get("Permission", ""), "id", ""


def _guessed(key: str) -> str:
    return metadata.content_type(name_of(key))


def _without(content: Content, usual: Content, guess: str) -> Content:
    """Return *content* without the fields that it would get anyway: the *usual* ones, and the type
    that was a *guess*. If the type is left out, it is ""."""
    guesses = (usual.content_type, guess, Content().content_type)
    own = {
        name: value
        for name, value in content.headers.items()
        if name in _STORED
        or name not in usual.headers
        or not _same(name, value, usual.headers[name])
    }
    content_type = "" if content.content_type in guesses else content.content_type
    return content._replace(content_type=content_type, headers=own)


def stored_of(content: Content) -> dict[str, Any]:
    """Return how S3 is to store the bytes of *content*: class and encryption."""
    return {name: value for name, value in content.headers.items() if name in _STORED}


def _stored_anew(content: Content, before: Content, after: Content) -> dict[str, Any]:
    """Return the storage class and the encryption for an object with *content* at its new name,
    whose usual ones are *after*: it takes those if it had the usual ones of its old name."""
    found = stored_of(after)
    if {each.headers.get("StorageClass", STANDARD) for each in (content, before)} != {STANDARD}:
        found.pop("StorageClass", None)
    if encryption_of(content.headers) != encryption_of(before.headers):
        found = {name: value for name, value in found.items() if name == "StorageClass"}
    return found


def _same(name: str, one: str, other: str) -> bool:
    if name == "Tagging":  # in any order
        return sorted(parse_qsl(one, True)) == sorted(parse_qsl(other, True))
    return one == other
