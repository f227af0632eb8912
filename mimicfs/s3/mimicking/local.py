"""The calls that the mirror answers: with the same answers and errors as S3, or not at all.

    ListObjectsV2   Bucket Prefix Delimiter StartAfter ContinuationToken MaxKeys
    ListObjects     Bucket Prefix Delimiter Marker MaxKeys
    ListObjectVersions  Bucket Prefix MaxKeys
    HeadObject      Bucket Key
    HeadBucket      Bucket
    ListBuckets     (nothing)

A call with any other parameter goes to S3, and so does any call that is odd, or not certain:
* a listing, unless everything that it can show was synced (a deep scope covers it);
* a key that a call of this program has changed in an unknown way, and listings with it;
* HeadObject, unless a HEAD of this version was seen, or the absence of the key is certain;
* a HeadObject of an absent key in a bucket with versions: its headers name a delete marker;
* a HeadObject of an absent key with empty, "." or ".." segments: servers clean paths;
* a key or prefix that is longer than a key can be;
* a Marker that is no known key and that no page of this client has ended with (pages.py);
* a list of buckets, if one is known only because a call named it;
* what S3 says and the mirror does not keep with an entry, until it was seen once: the owner that
  ListBuckets and ListObjects name (accounts.py), and what HeadBucket says;
* the first call of each kind after this client has changed who may read.
Not shown are the checksum algorithm and type that newer servers list with each object.

A page that was made here goes on with a token of ours: "mimicfs:" and the key behind which to go
on. If the mirror cannot go on, the token becomes a StartAfter for S3.

Threading: any; what was seen is kept in dicts of which each use is one atomic step.
"""

from __future__ import annotations

import base64
import binascii
import copy
from collections.abc import Mapping
from typing import NamedTuple

from botocore.exceptions import ClientError

from mimicfs.entry import KEY_MAX, LIST_MAX, OBJECT, Entry
from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking import answers
from mimicfs.s3.mimicking.accounts import Before, ListedAccount, NamedOwner
from mimicfs.s3.mimicking.answers import LocalAnswer
from mimicfs.s3.mimicking.operations import Effect, effect_of
from mimicfs.s3.mimicking.pages import ListingPlace, Places
from mimicfs.s3.mimicking.reads import VERSIONS
from mimicfs.s3.mimicking.shown import may_be_done
from mimicfs.s3.mimicking.soleversions import SoleVersions, VersionsBefore
from mimicfs.s3.transport.calls import Params

_TOKEN = "mimicfs:"
_WRITING = ("PutObject", "CopyObject", "CompleteMultipartUpload")
# The last character of those that take 1, 2, 3 and 4 bytes.
_LAST = ("\x7f", "\u07ff", "\uffff", "\U0010ffff")
_ALLOWED = {
    "ListObjectsV2": {
        "Bucket",
        "Prefix",
        "Delimiter",
        "StartAfter",
        "ContinuationToken",
        "MaxKeys",
    },
    "ListObjects": {"Bucket", "Prefix", "Delimiter", "Marker", "MaxKeys"},
    "ListObjectVersions": {"Bucket", "Prefix", "MaxKeys"},
    "HeadObject": {"Bucket", "Key"},
    "HeadBucket": {"Bucket"},
    "ListBuckets": set[str](),
}


class Refused(Exception):
    """S3 would refuse this, with *response*."""

    def __init__(self, code: str, response: LocalAnswer) -> None:
        super().__init__(code)
        self.code = code
        self.response = response


class _LocalPage(NamedTuple):
    """A page of a listing."""

    entries: list[Entry]
    prefixes: list[str]
    more: bool
    last: str  # the key or common prefix that it ends with


class Local:
    """Answers from *mimicdb*."""

    def __init__(self, mimicdb: Mirror, places: Places, account: ListedAccount) -> None:
        self._mimicdb = mimicdb
        self._account = account
        self._places = places
        # By bucket and operation: since a change of who may read, S3 must have answered it once.
        self._doubted: set[tuple[str, str]] = set()
        self._owner = NamedOwner(mimicdb, account)
        self._versions = SoleVersions(mimicdb, account, self._owner)
        self._buckets: dict[str, LocalAnswer] = {}  # the answer to a HEAD, by bucket
        self._answers = {
            "ListObjectsV2": self._list_v2,
            "ListObjects": self._list_v1,
            "ListObjectVersions": self._list_versions,
            "HeadObject": self._head_object,
            "HeadBucket": self._head_bucket,
            "ListBuckets": self._list_buckets,
        }

    def answer(self, operation: str, params: Params) -> LocalAnswer | None:
        """Return what S3 would answer; None: ask S3. Raises Refused."""
        allowed = _ALLOWED.get(operation)
        if allowed is None or not params.keys() <= allowed or not _plain(params):
            return None
        if self._doubted and (params.get("Bucket", ""), operation) in self._doubted:
            return None
        try:
            return self._answers[operation](params)
        except (MimicError, KeyError):  # nothing is certain
            return None

    def asks(self, operation: str, params: Params) -> Before | None:
        """Note what *operation*, for which S3 is about to be asked, may write. Return what `seen`
        must know of the time before. Raises StoreError."""
        bucket = params.get("Bucket")
        if isinstance(bucket, str) and operation in _WRITING:
            self._owner.writes(bucket)
        if isinstance(bucket, str) and operation == "ListObjects":
            return self._owner.before(bucket)
        return None

    def refused(self, operation: str, params: Params, exc: ClientError) -> None:
        """Take note that S3 has answered *operation* with *exc*. Raises StoreError."""
        if operation == "DeleteBucket" and exc.response["Error"].get("Code") == "BucketNotEmpty":
            self._not_empty(params["Bucket"])
        retried = exc.response.get("ResponseMetadata", {}).get("RetryAttempts", 1)
        if retried or may_be_done(exc):
            self.unsure(operation, params)
        elif operation in _WRITING:
            self._owner.refused(params["Bucket"])

    def unsure(self, operation: str, params: Params) -> None:
        """Note that nobody knows whether S3 has done *operation*, or what it has done."""
        bucket, effect = params.get("Bucket"), effect_of(operation)
        if not isinstance(bucket, str):
            return
        if effect in (Effect.ACCESS, Effect.BUCKET, Effect.UNKNOWN):
            self._doubted |= {(bucket, reading) for reading in _ALLOWED}
        if effect is Effect.BUCKET:
            self._doubted.add(("", "ListBuckets"))
            self._owner.gone(bucket)
            self._buckets.pop(bucket, None)

    def _not_empty(self, bucket: str) -> None:
        """Take note that S3 has something in *bucket*; if the mirror has nothing, S3 is asked."""
        if not self._mimicdb.listing(bucket, limit=1):
            self._mimicdb.uncover(bucket, "")

    def seen(
        self, operation: str, params: Params, answer: Params, before: Before | None = None
    ) -> None:
        """Note what S3 answered, where a listing does not say it."""
        bucket = params.get("Bucket", "")
        if effect_of(operation) in (Effect.ACCESS, Effect.UNKNOWN):
            self.unsure(operation, params)
        elif self._doubted:
            self._doubted -= {(bucket, operation)}
        if operation in _WRITING:
            self._owner.wrote(bucket, params["Key"])
        elif effect_of(operation) is Effect.BUCKET:
            self._owner.gone(bucket)
            self._buckets.pop(bucket, None)
            if operation == "CreateBucket":
                self._account.made()
        elif operation == "HeadBucket" and answer.get("BucketRegion"):
            metadata = answers.metadata(200, answers.headers_of(answer))
            self._buckets[bucket] = {**answer, "ResponseMetadata": metadata}
        elif before is not None:
            self._owner.named(params, answer, before)
        elif operation == "DeleteObjects" and params["Delete"].get("Quiet"):
            self._versions.doubt(bucket)

    def before_versions(self, bucket: str) -> VersionsBefore:
        """Return what `seen_versions` must know of the time before S3 is asked for a
        ListObjectVersions. Raises StoreError."""
        return self._versions.before(bucket)

    def seen_versions(self, params: Params, answer: Params, before: VersionsBefore) -> None:
        """Take note of *answer* to it. Raises StoreError."""
        whole = params.keys() <= {"Bucket", "MaxKeys"} and answer.get("IsTruncated") is False
        known = self._page({"Bucket": params["Bucket"]}, "") if whole else None
        if known is None or known.more:
            self._versions.doubt(params["Bucket"])
        else:
            self._versions.seen(params["Bucket"], answer, before, known.entries)

    def gone(self, bucket: str) -> None:
        """Forget *bucket*, which S3 does not have: a later one of that name is another bucket."""
        self._owner.gone(bucket)

    def keys(self, params: Params) -> LocalAnswer | None:
        """Return the answer to a ListObjects, without the owners."""
        doubted = (params["Bucket"], "ListObjects") in self._doubted
        try:
            return self._listed(params, None) if _plain(params) and not doubted else None
        except MimicError:
            return None

    # Buckets

    def _list_buckets(self, _params: Params) -> LocalAnswer | None:
        owner = self._account.owner()
        if not owner:
            return None
        found = self._mimicdb.buckets()
        if not all(bucket.created_ns for bucket in found):
            return None  # known only by a call: it may be somebody else's, or refuse us
        return answers.buckets(found, owner)

    def _head_bucket(self, params: Params) -> LocalAnswer | None:
        said = self._buckets.get(params["Bucket"])
        if said is None:
            return None
        self._mimicdb.bucket(params["Bucket"])  # it may be gone
        return copy.deepcopy(said)

    # Objects

    def _head_object(self, params: Params) -> LocalAnswer | None:
        bucket, key = params["Bucket"], params["Key"]
        if self._mimicdb.intents.is_unsure(bucket, key):
            return None
        entry = self._mimicdb.entry(bucket, key)
        if entry is not None and entry.kind == OBJECT:
            return answers.head_object(entry)
        if not key or _odd(key) or not self._knows(bucket, key):
            return None
        if self._mimicdb.note(bucket, VERSIONS) is not None:
            return None  # the headers of S3 say whether a delete marker hides it, and which
        raise Refused("404", answers.refusal("404", "Not Found", 404))

    def _knows(self, bucket: str, prefix: str) -> bool:
        """Whether every key that begins with *prefix* is known, and none is unsure."""
        if self._mimicdb.intents.any_unsure(bucket, prefix):
            return False
        directory = prefix[: prefix.rfind("/") + 1]
        return self._mimicdb.covered(bucket, directory, deep=True)

    # Listings

    def _list_v2(self, params: Params) -> LocalAnswer | None:
        delimiter, token = params.get("Delimiter", ""), params.get("ContinuationToken")
        after = params.get("StartAfter", "")
        if after and delimiter and token is None:
            return None  # servers do not agree on what that shows
        if token is not None:
            place = place_of(token)
            if place is None:
                return None
            after = place
        shown = self._page(params, after)
        if shown is None:
            return None
        answer = _listing(params, shown, None)
        answer["KeyCount"] = len(shown.entries) + len(shown.prefixes)
        for name in ("ContinuationToken", "StartAfter"):
            if params.get(name):
                answer[name] = params[name]
        if shown.more:
            answer["NextContinuationToken"] = _token(shown.last)
        return answer

    def _list_v1(self, params: Params) -> LocalAnswer | None:
        owners = self._owner.of(params["Bucket"])
        answer = self._listed(params, owners[0] if owners else None)
        return answer if owners or answer is None or "Contents" not in answer else None

    def _list_versions(self, params: Params) -> LocalAnswer | None:
        if not self._versions.may_answer(params["Bucket"]):
            return None
        shown = self._page(params, "")
        if shown is None or shown.more:
            return None
        return self._versions.answer(params, shown.entries)

    def _listed(self, params: Params, owner: Mapping[str, str] | None) -> LocalAnswer | None:
        delimiter, marker = params.get("Delimiter", ""), params.get("Marker", "")
        after = self._behind_marker(params, marker) if marker else ""
        if after is None:
            return None
        # A marker inside a group: servers do not agree on whether the group is shown.
        inside = delimiter and delimiter in after[len(params.get("Prefix", "")) :]
        if inside and not after.endswith(delimiter):
            return None
        shown = self._page(params, after)
        if shown is None:
            return None
        answer = _listing(params, shown, owner)
        answer["Marker"] = marker
        if shown.more:
            self._places.note(params, shown.last, ListingPlace(shown.last, ours=True))
            if delimiter:
                answer["NextMarker"] = shown.last
        return answer

    def _behind_marker(self, params: Params, marker: str) -> str | None:
        """Return the key for which *marker* stands: the one with which a page ended, or *marker*
        itself if the mirror has such a key; None: it may be anything."""
        place = self._places.find(params, marker)
        if place is not None:
            return place.last
        entry = self._mimicdb.entry(params["Bucket"], marker)
        return marker if entry is not None and entry.kind == OBJECT else None

    def _page(self, params: Params, after: str) -> _LocalPage | None:
        bucket, prefix = params["Bucket"], params.get("Prefix", "")
        delimiter, most = params.get("Delimiter", ""), params.get("MaxKeys", LIST_MAX)
        if not 0 < most <= LIST_MAX or not self._knows(bucket, prefix):
            return None
        if not delimiter:
            found = self._mimicdb.listing(bucket, prefix, after, most + 1)
            entries = found[:most]
            return _LocalPage(entries, [], len(found) > most, entries[-1].key if entries else "")
        return self._grouped(bucket, prefix, delimiter, after, most)

    def _grouped(
        self, bucket: str, prefix: str, delimiter: str, after: str, most: int
    ) -> _LocalPage:
        entries: list[Entry] = []
        prefixes: list[str] = []
        last = ""
        if delimiter in after[len(prefix) :] and after.startswith(prefix):
            after = behind(after)  # a group that was shown
        size = 16  # keys that are read behind the first one of a group are thrown away
        while True:
            page = self._mimicdb.listing(bucket, prefix, after, size)
            for entry in page:
                if len(entries) + len(prefixes) == most:
                    return _LocalPage(entries, prefixes, True, last)
                cut = entry.key.find(delimiter, len(prefix))
                if cut >= 0:
                    last = entry.key[: cut + len(delimiter)]
                    prefixes.append(last)
                    after, page = behind(last), []
                    break
                entries.append(entry)
                after = last = entry.key
            else:
                if len(page) < size:
                    return _LocalPage(entries, prefixes, False, last)
                size = min(2 * size, LIST_MAX)
                continue
            size = 4


def place_of(token: str) -> str | None:
    """Return the key behind which a token of ours goes on; None if it is not ours."""
    if not token.startswith(_TOKEN):
        return None
    try:
        last = base64.urlsafe_b64decode(token.removeprefix(_TOKEN)).decode()
    except (binascii.Error, ValueError):
        return None
    return last if last and _token(last) == token else None


def behind(group: str) -> str:
    """Return the last key that can begin with *group*: it is as long as a key can be."""
    fours, left = divmod(KEY_MAX - len(group.encode()), 4)
    return group + _LAST[3] * fours + (_LAST[left - 1] if left else "")


def _token(last: str) -> str:
    return _TOKEN + base64.urlsafe_b64encode(last.encode()).decode()


def _plain(params: Params) -> bool:
    """Whether every parameter has the right type, and S3 does not refuse it."""
    return all(
        type(value) is int
        if name == "MaxKeys"
        else isinstance(value, str) and (name == "ContinuationToken" or _short(value))
        for name, value in params.items()
    ) and bool(params.get("Bucket", "none"))


def _short(text: str) -> bool:
    """Whether S3 takes *text* as a key or a part of one."""
    if text.isascii():
        return len(text) <= KEY_MAX
    try:
        return len(text.encode()) <= KEY_MAX
    except UnicodeEncodeError:
        return False


def _odd(key: str) -> bool:
    """Whether a server may take *key* for a path, and show what is at the end of it."""
    return not {"", ".", ".."}.isdisjoint(key.removesuffix("/").split("/"))


def _listing(params: Params, shown: _LocalPage, owner: Mapping[str, str] | None) -> LocalAnswer:
    answer: LocalAnswer = {
        "ResponseMetadata": answers.metadata(200),
        "IsTruncated": shown.more,
        "Name": params["Bucket"],
        "Prefix": params.get("Prefix", ""),
        "MaxKeys": params.get("MaxKeys", LIST_MAX),
        "EncodingType": "url",
    }
    if params.get("Delimiter"):
        answer["Delimiter"] = params["Delimiter"]
    if shown.entries:
        answer["Contents"] = answers.contents(shown.entries, owner)
    if shown.prefixes:
        answer["CommonPrefixes"] = [{"Prefix": prefix} for prefix in shown.prefixes]
    return answer
