"""Listings of the versions of a bucket that has none: each object is its own and only version.

That is known once S3 has listed all of them so, as the mirror has the objects, and as long as all
changes since then are our own: the answers to these would have shown versions (reads.py). Any other
object that comes into the mirror may be one of several versions, which only S3 can list. Others may
also have made versions and delete markers that no listing of objects shows: after each listing by
S3, as in a sync, S3 is asked for the versions, too.

Beside the bucket, the store notes the number of the change up to which that holds, when S3 was last
asked for objects before it, the fields of such an answer, and a hash of each access key that got
one: S3 may refuse others.

Threading: any thread; each change is one note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mimicfs.entry import LIST_MAX, Entry, unquoted
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking import answers
from mimicfs.s3.mimicking.accounts import ListedAccount, NamedOwner
from mimicfs.s3.mimicking.answers import LocalAnswer
from mimicfs.s3.mimicking.reads import VERSIONS
from mimicfs.s3.transport.calls import Params

_NOTE = "sole-versions"
_KEYS_MAX = 32  # access keys that are remembered
_LINES_MAX = 100  # of the log, read more than once

_ANSWER = {"ResponseMetadata", "Name", "MaxKeys", "IsTruncated", "Versions"}
_BESIDE = {"Prefix": "", "KeyMarker": "", "VersionIdMarker": "", "EncodingType": "url"}
_ITEM = {"Key", "LastModified", "ETag", "Size", "StorageClass", "VersionId", "IsLatest"}
_CHECKSUMS = {"ChecksumAlgorithm", "ChecksumType"}  # no listing of the mirror has them


class VersionsBefore(NamedTuple):
    """The mirror before S3 was asked for versions."""

    seq: int  # of the last change of the bucket
    listed_ns: int  # when its newest listing of objects began


class _NotedVersions(NamedTuple):
    seq: int
    beside: Sequence[str]  # the members of _BESIDE that an answer has
    owners: Sequence[Mapping[str, str] | None]  # the one owner of each version; empty: not seen yet
    keys: Sequence[str]  # hashes
    listed_ns: int = 0  # as in VersionsBefore


class SoleVersions:
    """The notes in *mimicdb* for the client of *account*."""

    def __init__(self, mimicdb: Mirror, account: ListedAccount, owner: NamedOwner) -> None:
        self._mimicdb = mimicdb
        self._account = account
        self._owner = owner

    def before(self, bucket: str) -> VersionsBefore:
        """Return the state of the mirror before S3 is asked for versions."""
        return VersionsBefore(self._mimicdb.seq(bucket), self._listed_ns(bucket))

    def seen(
        self, bucket: str, answer: Params, before: VersionsBefore, known: Sequence[Entry]
    ) -> None:
        """Learn *answer*, which S3 gave to a question for all versions; *before* is the state of
        the mirror before that. The mirror has *known*, and nothing else."""
        found = answer.get("Versions", ())
        owners = [item.get("Owner") for item in found]
        beside = answer.keys() - _ANSWER
        as_usual = all(_BESIDE.get(name) == answer[name] for name in beside)
        one_owner = not owners or owners.count(owners[0]) == len(owners)
        if not (as_usual and one_owner and _are_sole(found) and _are_same(found, known)):
            self.doubt(bucket)  # otherwise a version that S3 has just shown might vanish again
            return
        noted, keys = self._noted(bucket), list[str]()
        if noted is not None:
            keys, owners = [*noted.keys], owners or [*noted.owners]
        keys += [key for key in [self._account.key()] if key not in keys]
        keys, listed_ns = keys[-_KEYS_MAX:], before.listed_ns
        noted = _NotedVersions(before.seq, sorted(beside), owners[:1], keys, listed_ns)
        self._mimicdb.set_note(bucket, _NOTE, json.dumps(noted))

    def doubt(self, bucket: str) -> None:
        """Note that it is no longer certain that *bucket* has no versions."""
        if self._noted(bucket) is not None:
            self._mimicdb.set_note(bucket, _NOTE, None)

    def may_answer(self, bucket: str) -> bool:
        """Whether `answer` may know the answer of S3."""
        noted = self._noted(bucket)
        return noted is not None and self._account.key() in noted.keys

    def answer(self, params: Params, known: Sequence[Entry]) -> LocalAnswer | None:
        """Return the answer of S3 to *params*, from *known*, which was read from the mirror before;
        None: ask S3."""
        bucket = params["Bucket"]
        noted = self._noted(bucket)
        if noted is None or self._mimicdb.note(bucket, VERSIONS) is not None:
            return None
        if known and list(self._owner_of(bucket, noted)) != list(noted.owners):
            return None
        if not self._only_ours(bucket, noted) or self._listed_ns(bucket) != noted.listed_ns:
            return None
        beside = {name: _BESIDE[name] for name in noted.beside}
        return {
            "ResponseMetadata": answers.metadata(200),
            "Name": bucket,
            "MaxKeys": params.get("MaxKeys", LIST_MAX),
            "IsTruncated": False,
            **beside,
            **({"Prefix": params["Prefix"]} if params.get("Prefix") else {}),
            **({"Versions": _versions(known, noted.owners[0])} if known else {}),
        }

    def _owner_of(self, bucket: str, noted: _NotedVersions) -> Sequence[Mapping[str, str] | None]:
        """Return the owner of each version, if it is known."""
        if not noted.owners or noted.owners[0] is None:
            return [None]  # S3 names no owner with them
        return self._owner.of(bucket)

    def _only_ours(self, bucket: str, noted: _NotedVersions) -> bool:
        """Whether we ourselves have made all changes since. Raises LogTrimmed."""
        ours, last = self._mimicdb.intents.made_since(bucket, noted.seq)
        if ours and last > noted.seq + _LINES_MAX:  # unless somebody doubts it meanwhile
            later = json.dumps(noted._replace(seq=last))
            self._mimicdb.swap_note(bucket, _NOTE, json.dumps(noted), later)
        return ours

    def _listed_ns(self, bucket: str) -> int:
        """Return when the newest listing of objects in *bucket* began, or in a part of it."""
        scopes = self._mimicdb.scopes(bucket)
        return max((scope.listed_ns for scope in scopes), default=0)

    def _noted(self, bucket: str) -> _NotedVersions | None:
        text = self._mimicdb.note(bucket, _NOTE)
        return None if text is None else _NotedVersions(*json.loads(text))


def _are_sole(found: Sequence[Any]) -> bool:
    """Whether each of the versions *found* is the only one of its object."""
    return all(
        (item.get("VersionId"), item.get("IsLatest")) == ("null", True)
        and item.keys() - _CHECKSUMS - {"Owner"} == _ITEM
        for item in found
    )


def _are_same(found: Sequence[Any], known: Sequence[Entry]) -> bool:
    """Whether the versions *found* are the objects *known*: objects that appeared behind our back
    are shown once S3 has shown them."""
    return [
        (item["Key"], item["Size"], unquoted(item["ETag"]), item["StorageClass"]) for item in found
    ] == [(each.key, each.size, each.etag, each.storage_class or "STANDARD") for each in known]


def _versions(known: Sequence[Entry], owner: Mapping[str, str] | None) -> list[LocalAnswer]:
    found = answers.contents(known, owner)
    for item in found:
        item |= {"VersionId": "null", "IsLatest": True}
    return found
