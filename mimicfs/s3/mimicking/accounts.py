"""The accounts that listings name: that whose list of buckets the mirror has, since S3 answers a
ListBuckets to each account in its own way, and the owner of the objects of a bucket.

Beside the list, the store notes the owner that S3 named with it, and a hash of each access key to
which S3 named that owner. A client with one of these keys is answered from the mirror, whichever
program asked S3; a client with any other key asks S3 once.

Threading: any; each change is one note.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mimicfs.mimicdb import Mirror
from mimicfs.s3.transport.calls import Params

_NOTE = "owner"  # the note beside the list of buckets
_OWNERS = "owners"  # that beside a bucket
_SEVERAL = "[]"
_KEYS_MAX = 32  # access keys that are remembered: those of roles change every hour


class _Noted(NamedTuple):
    owner: Mapping[str, str]
    keys: list[str]  # hashes


class ListedAccount:
    """The account whose buckets are listed in *mimicdb*, as *client* may ask for them."""

    def __init__(self, mimicdb: Mirror, client: Any) -> None:
        self._mimicdb = mimicdb
        self._client = client

    def owner(self) -> Mapping[str, str] | None:
        """Return the owner that S3 names to this client with the list of the mirror; None: S3 has
        not named one."""
        noted = self._noted()
        if noted is None or not noted.owner or self._key() not in noted.keys:
            return None
        return noted.owner

    def claim(self, owner: Mapping[str, str]) -> None:
        """The list of the mirror is to become that of *owner*, whom S3 has named to this client."""
        noted = self._noted()
        if noted is not None and noted.owner != owner:
            self._mimicdb.set_note("", _NOTE, None)

    def claimed(self, owner: Mapping[str, str]) -> None:
        """It is that of *owner*."""
        noted, key = self._noted(), self._key()
        keys = noted.keys if noted is not None and noted.owner == owner else []
        if key not in keys:
            text = json.dumps({"owner": owner, "keys": [*keys, key][-_KEYS_MAX:]})
            self._mimicdb.set_note("", _NOTE, text)

    def made(self) -> None:
        """This client has made a bucket. If the list may be somebody else's, S3 is asked next."""
        if self.owner() is None:
            self._mimicdb.set_note("", _NOTE, None)

    def _noted(self) -> _Noted | None:
        text = self._mimicdb.note("", _NOTE)
        return None if text is None else _Noted(**json.loads(text))

    def _key(self) -> str:
        """Return a hash of the client's access key, as it is now: to ask for a newer one may take
        requests."""
        credentials = self._client._request_signer._credentials
        known = vars(credentials) if credentials is not None else {}
        key = known.get("_access_key") or known.get("access_key") or ""
        return hashlib.sha256(str(key).encode()).hexdigest()[:16]


class NamedOwner:
    """The owner that ListObjects names of the objects of a bucket of *mimicdb*."""

    def __init__(self, mimicdb: Mirror) -> None:
        self._mimicdb = mimicdb

    def of(self, bucket: str) -> list[Mapping[str, str] | None]:
        """Return the owner of all objects of *bucket*, None if S3 names none with them; nothing if
        that is not known, or there are several."""
        noted: list[Mapping[str, str] | None] = json.loads(
            self._mimicdb.note(bucket, _OWNERS) or _SEVERAL
        )
        return noted

    def named(self, params: Params, answer: Params) -> None:
        """S3 has given *answer* to a ListObjects."""
        owners = [item.get("Owner") for item in answer.get("Contents", ())]
        if not owners:
            return
        one = owners.count(owners[0]) == len(owners)
        text = json.dumps(owners[:1]) if one else _SEVERAL
        noted = self._mimicdb.note(params["Bucket"], _OWNERS)
        whole = params.keys() == {"Bucket"} and not answer.get("IsTruncated")
        if noted not in (None, text) and not whole:
            text = _SEVERAL
        if noted != text:
            self._mimicdb.set_note(params["Bucket"], _OWNERS, text)
