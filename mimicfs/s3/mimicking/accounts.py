"""The accounts that listings name: the owner of the objects of a bucket, and the account whose list
of buckets the mirror has, since S3 answers a ListBuckets differently to each account.

Beside the list, the store notes the owner that S3 named with it, and a hash of each access key to
which S3 named that owner. A client with one of these keys is answered from the mirror, whichever
program asked S3; a client with any other key asks S3 once.

Beside a bucket, it notes the owner that S3 named with its objects, and which access keys write
objects of that owner. If the owner of the bucket does not own everything in it, each account owns
what it writes: from the first write with another key on, S3 answers until it has listed one such
object. That write is noted before S3 is asked for it, and once more when S3 has confirmed it.

Threading: any; each change is one note.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from mimicfs.mimicdb import Mirror
from mimicfs.s3.transport.calls import Params

_NOTE = "owner"  # the note beside the list of buckets
_OWNERS = "object-owner"  # that beside a bucket
_KEYS_MAX = 32  # access keys that are remembered: those of roles change every hour


class _Noted(NamedTuple):
    owner: Mapping[str, str]
    keys: list[str]  # hashes


class _Owners(NamedTuple):
    # one owner, which may be None; empty: not named yet
    owner: tuple[Mapping[str, str] | None, ...] = ()
    several: bool = False  # there are others
    # Access keys, by their hashes, that have written objects:
    writers: tuple[str, ...] = ()  # of that owner
    unsure: tuple[str, ...] = ()  # of an unknown owner, until S3 lists an object
    writing: tuple[str, ...] = ()  # the same, none of whose writes S3 has confirmed yet
    # how often the first write of a program was confirmed: no two notes are equal
    confirmed: int = 0


class Before(NamedTuple):
    """The knowledge of a bucket before S3 was asked for a listing: the answer says nothing about
    later writes."""

    text: str | None  # the note
    key: str | None  # the newest of ours, of an unsure owner


class ListedAccount:
    """The account whose buckets *mimicdb* lists, and whether *client* may get that list."""

    def __init__(self, mimicdb: Mirror, client: Any) -> None:
        self._mimicdb = mimicdb
        self._client = client

    def owner(self) -> Mapping[str, str] | None:
        """Return the owner that S3 names to this client with the list in the mirror; None: S3 has
        not named one."""
        noted = self._noted()
        if noted is None or not noted.owner or self.key() not in noted.keys:
            return None
        return noted.owner

    def claim(self, owner: Mapping[str, str]) -> None:
        """Note that the list in the mirror is about to become that of *owner*, whom S3 has named to
        this client."""
        noted = self._noted()
        if noted is not None and noted.owner != owner:
            self._mimicdb.set_note("", _NOTE, None)

    def claimed(self, owner: Mapping[str, str]) -> None:
        """Note that the list in the mirror is that of *owner* now."""
        noted, key = self._noted(), self.key()
        keys = noted.keys if noted is not None and noted.owner == owner else []
        if key not in keys:
            text = json.dumps({"owner": owner, "keys": [*keys, key][-_KEYS_MAX:]})
            self._mimicdb.set_note("", _NOTE, text)

    def made(self) -> None:
        """Note that this client has made a bucket. If the list may be somebody else's, S3 is asked
        next."""
        if self.owner() is None:
            self._mimicdb.set_note("", _NOTE, None)

    def _noted(self) -> _Noted | None:
        text = self._mimicdb.note("", _NOTE)
        return None if text is None else _Noted(**json.loads(text))

    def key(self) -> str:
        """Return a hash of the client's current access key. (To ask for a newer key may take
        requests.)"""
        credentials = self._client._request_signer._credentials
        known = vars(credentials) if credentials is not None else {}
        key = known.get("_access_key") or known.get("access_key") or ""
        return hashlib.sha256(str(key).encode()).hexdigest()[:16]


class NamedOwner:
    """The owner that ListObjects names for the objects of a bucket of *mimicdb*. Objects that the
    client of *account* writes may have another owner than those there: S3 is asked once."""

    def __init__(self, mimicdb: Mirror, account: ListedAccount) -> None:
        self._mimicdb = mimicdb
        self._account = account
        self._wrote: dict[str, str] = {}  # by bucket: our newest key whose owner is unsure
        self._sure: set[str] = set()  # buckets in which our objects have the owner of the others

    def of(self, bucket: str) -> Sequence[Mapping[str, str] | None]:
        """Return (owner,) with the owner of all objects of *bucket*, which is None if S3 names none
        with them; () if that is not known, or there may be several."""
        noted = _read(self._mimicdb.note(bucket, _OWNERS))
        return () if noted.several or noted.unsure or noted.writing else noted.owner

    def writes(self, bucket: str) -> None:
        """Note that this client is going to write an object into *bucket*: it may not live to say
        so later. (S3 may not have a bucket that the mirror does not know.)"""
        if not self._is_noted(bucket) and self._mimicdb.known_bucket(bucket) is not None:
            self._change(bucket, self._with_writing)

    def wrote(self, bucket: str, key: str) -> None:
        """Note that the client has written *key*."""
        if not self._is_noted(bucket):
            self._change(bucket, self._with_writing)
            if bucket not in self._sure:
                self._change(bucket, self._with_writer)
        if bucket not in self._sure:
            self._wrote[bucket] = key

    def refused(self, bucket: str) -> None:
        """Note that S3 has not written what this client was going to write."""
        if not self._is_noted(bucket):
            self._change(bucket, self._without_writing)

    def gone(self, bucket: str) -> None:
        """Forget the writers of *bucket*, which was made or removed: it is another bucket now."""
        self._sure.discard(bucket)
        self._wrote.pop(bucket, None)

    def before(self, bucket: str) -> Before:
        """Return what is known of a bucket before S3 is asked for a ListObjects."""
        return Before(self._mimicdb.note(bucket, _OWNERS), self._wrote.get(bucket))

    def named(self, params: Params, answer: Params, before: Before) -> None:
        """Take note of *answer* to a ListObjects, asked with *params* after *before*."""
        bucket, items = params["Bucket"], answer.get("Contents", ())
        owners = [item.get("Owner") for item in items]
        if not owners:
            return
        one = owners.count(owners[0]) == len(owners)
        everything = params.keys() == {"Bucket"} and not answer.get("IsTruncated")
        ours = before.key is not None and before.key in [item.get("Key") for item in items]

        def change(noted: _Owners) -> _Owners:
            whole = everything and noted == _read(before.text)
            another = noted.owner not in ((), (owners[0],))
            if not one or (not whole and (noted.several or another)):
                return _Owners(several=True, confirmed=noted.confirmed)
            known = noted.unsure if whole else (self._account.key(),) if ours else ()
            writers = () if another else noted.writers
            return noted._replace(
                owner=(owners[0],),
                several=False,
                writers=(*writers, *(key for key in known if key not in writers))[-_KEYS_MAX:],
                unsure=tuple(key for key in noted.unsure if key not in known),
                # Keys that still write are noted once more: nothing tells which of them never
                # wrote.
                writing=() if whole else noted.writing,
            )

        self._change(bucket, change)

    def _is_noted(self, bucket: str) -> bool:
        return bucket in self._sure or bucket in self._wrote

    def _with_writing(self, noted: _Owners) -> _Owners:
        key = self._account.key()
        if noted.several or key in (*noted.writers, *noted.unsure, *noted.writing):
            return noted
        return _bounded(noted._replace(writing=(*noted.writing, key)))

    def _without_writing(self, noted: _Owners) -> _Owners:
        key = self._account.key()
        return noted._replace(writing=tuple(each for each in noted.writing if each != key))

    def _with_writer(self, noted: _Owners) -> _Owners:
        """Note our key again: nobody has listed what we wrote, and an answer from before the
        confirmation may lack it."""
        key = self._account.key()
        others = self._without_writing(noted)._replace(
            writers=tuple(each for each in noted.writers if each != key),
            unsure=tuple(each for each in noted.unsure if each != key),
            confirmed=noted.confirmed + 1,
        )
        return others if noted.several else _bounded(others._replace(unsure=(*others.unsure, key)))

    def _change(self, bucket: str, change: Callable[[_Owners], _Owners]) -> None:
        swapped, text = False, self._mimicdb.note(bucket, _OWNERS)
        while not swapped:
            noted = _read(text)
            changed = change(noted)
            if changed == noted:
                break
            swapped, text = self._mimicdb.swap_note(bucket, _OWNERS, text, json.dumps(changed))
        if self._account.key() in changed.writers:
            self._sure.add(bucket)


@contextmanager
def owners_kept(mimicdb: Mirror, bucket: str) -> Iterator[None]:
    """Within, *bucket* is forgotten and becomes known again. It is the same bucket, so its owners
    are noted again; if somebody has noted anything meanwhile, there may be several."""
    text = mimicdb.note(bucket, _OWNERS)
    yield
    if text is None:
        return
    swapped, _ = mimicdb.swap_note(bucket, _OWNERS, None, text)
    if not swapped:
        mimicdb.set_note(bucket, _OWNERS, json.dumps(_Owners(several=True)))


def _bounded(noted: _Owners) -> _Owners:
    """Return *noted*; if it has too many keys of unsure owners, return that there are several."""
    if len(noted.unsure) + len(noted.writing) <= _KEYS_MAX:
        return noted
    return _Owners(several=True, confirmed=noted.confirmed)


def _read(text: str | None) -> _Owners:
    if text is None:
        return _Owners()
    found = _Owners(*json.loads(text))
    return found._replace(
        owner=tuple(found.owner),
        writers=tuple(found.writers),
        unsure=tuple(found.unsure),
        writing=tuple(found.writing),
    )
