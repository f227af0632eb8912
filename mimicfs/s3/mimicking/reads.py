"""Reads of objects, by programs and by mimicking itself. What S3 shows of a key goes into the
mirror.

Threading: as the client, any number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mimicfs.entry import OBJECT, Entry
from mimicfs.errors import S3Error, StoreError
from mimicfs.merging import same_version, still_said
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.answers import head_text, settled
from mimicfs.s3.mimicking.conversation import Conversation
from mimicfs.s3.mimicking.rememberedheads import RememberedHeads
from mimicfs.s3.mimicking.shown import (
    entry_of,
    says_gone,
    shows_versions,
    status_of,
)
from mimicfs.s3.transport.calls import Answer, Params
from mimicfs.s3.transport.errors import EarlierRefusal

log = logging.getLogger(__name__)

# The note beside a bucket that has, or had, versions.
VERSIONS = "versions"
# S3 has not answered a question beside a call: that does not change the result of the call.
UNTOLD = (ClientError, BotoCoreError, S3Error)
_PLAIN_HEAD = frozenset({"Bucket", "Key"})  # with other parameters S3 says more or less
# with one of these, however empty, S3 says something else
_OTHER = frozenset({"VersionId", "PartNumber"})
_Learning = Callable[[], AbstractContextManager[None]]


class Reads:
    """Reads that *mimicdb* learns from; with *heads*, also all that a HEAD says, so that it can be
    said again. *hooked* says whether a hook of the program may make another question or another
    answer of an operation: nothing is learned from that."""

    def __init__(
        self, mimicdb: Mirror, heads: RememberedHeads | None, hooked: Callable[[str], bool]
    ) -> None:
        self._mimicdb = mimicdb
        self._heads = heads
        self._hooked = hooked

    def read(
        self, operation: str, params: dict[str, Any], learning: _Learning | None = None
    ) -> Conversation[Any]:
        """Ask S3 to show an object, and learn within *learning* what it showed; without one, so
        that reads go on while the store is away."""
        bucket, key = params.get("Bucket"), params.get("Key")
        other = not params.keys().isdisjoint(_OTHER) or self._hooked(operation)
        if not bucket or not key or other:  # an older version, a part, or something else
            return (yield operation, params)
        learning = learning or partial(going_on, operation, params)
        said = operation == "HeadObject" and params.keys() <= _PLAIN_HEAD
        heads = self._heads if said else None
        since: int | None = None
        noted: str | None = None
        with learning():
            noted = heads.noted(bucket) if heads is not None else None
            since = self._mimicdb.seq(bucket)
        if since is None:
            return (yield operation, params)
        try:
            answer = yield operation, params
        except ClientError as exc:
            if isinstance(exc, EarlierRefusal):
                since = exc.since
            if since is not None and not self._hooked(operation):
                with learning():
                    yield from self._refused(params, exc, since)
            raise
        if self._hooked(operation):  # a hook has changed the question
            return answer
        with _body_of(answer), learning():
            self.note_versions(operation, params, answer)
            entry = entry_of(key, answer)
            if entry is not None and heads is not None:
                self._remember(heads, bucket, entry, answer, since, noted)
            elif entry is not None:
                # A caller that asks by HEAD wants to know, and looks into the mirror.
                waits = operation == "GetObject"
                self._seen(bucket, entry, since, heads_stay=settled(answer), may_wait=waits)
        return answer

    def number_before(self, bucket: str) -> int | None:
        """Return the number of the latest change of *bucket* before S3 is asked to show objects;
        None: the store is away."""
        with going_on("GetObject", {"Bucket": bucket}):
            return self._mimicdb.seq(bucket)
        return None

    def has_shown(
        self, bucket: str, key: str, answer: Answer, since: int | None, *, writes: bool
    ) -> bool:
        """Learn what `read` would learn from *answer*, to a GetObject that was sent after number
        *since*. Unless it *writes*: return False if the mirror must be changed for that."""
        if since is None:
            return True
        with going_on("GetObject", {"Bucket": bucket, "Key": key}):
            self.note_versions("GetObject", {"Bucket": bucket}, answer)
            entry, stay = entry_of(key, answer), settled(answer)
            return entry is None or self._seen(
                bucket, entry, since, heads_stay=stay, may_wait=True, writes=writes
            )
        return True

    def head(self, params: Params) -> Conversation[bool]:
        """Ask S3 what is there now; the answer is learned like any other. Return whether S3
        told."""
        if self._hooked("HeadObject"):
            return False
        try:
            where = {"Bucket": params["Bucket"], "Key": params["Key"]}
            yield from self.read("HeadObject", where, nullcontext)
        except UNTOLD as exc:  # a 404 was learned, any other error is no news
            log.debug("HEAD s3://%s/%s: %s", params["Bucket"], params["Key"], exc)
            told = says_gone(exc)
            return told and not self._hooked("HeadObject")
        return not self._hooked("HeadObject")

    def note_versions(self, operation: str, params: Params, answer: Answer) -> None:
        """Note that the bucket has versions, or will have some, if *answer* shows that."""
        bucket = params.get("Bucket")
        if not isinstance(bucket, str) or not shows_versions(operation, answer):
            return
        if self._mimicdb.note(bucket, VERSIONS) is None:
            self._mimicdb.set_note(bucket, VERSIONS, "seen")

    def _remember(
        self,
        heads: RememberedHeads,
        bucket: str,
        entry: Entry,
        answer: Answer,
        since: int,
        noted: str | None,
    ) -> None:
        """Learn *entry*, which a HEAD has shown with *answer*; before that, there was *noted*."""
        stays = settled(answer)
        if stays and heads.may_keep(noted):
            entry = entry._replace(head=head_text(answer))
        self._seen(bucket, entry, since, heads_stay=stays, may_wait=False)
        if entry.head is not None:
            heads.kept(bucket, entry.key, noted)

    def _seen(
        self,
        bucket: str,
        entry: Entry,
        since: int,
        *,
        heads_stay: bool,
        may_wait: bool,
        writes: bool = True,
    ) -> bool:
        """Learn *entry*, now or, if it *may_wait*, later. Unless it *writes*: return False if the
        mirror must be changed now."""
        known, news = self._mimicdb.entry(bucket, entry.key), True
        if known is not None and same_version(known, entry):
            head = entry.head or still_said(known, entry) if heads_stay else None
            entry = entry._replace(mtime_ns=known.mtime_ns, head=head)
            # that there is no metadata changes nothing that is seen
            news = bool(entry.meta) and entry.meta != known.meta
            if not news and (
                entry == known or (may_wait and self._mimicdb.later.takes(bucket, known, entry))
            ):
                return True
        if not writes:
            return False
        if news:
            self._mimicdb.repair(bucket, entry.key, entry, since)
        else:
            self._mimicdb.record(bucket, entry, since)
        return True

    def _refused(self, params: Params, exc: ClientError, since: int) -> Conversation[None]:
        """Learn from a refused read."""
        status = status_of(exc)
        if says_gone(exc):
            self.note_versions("HeadObject", params, exc.response)
            known = self._mimicdb.entry(params["Bucket"], params["Key"])
            if known is not None and known.kind == OBJECT:
                self._mimicdb.repair(params["Bucket"], params["Key"], None, since)
        # 416: it is shorter than the caller thought who asked for the range
        elif status in (412, 416):
            yield from self.head(params)


# These are no generators, which take four calls more: each GET of a small file passes three of
# these.


class going_on:  # noqa: N801  reads as a statement
    """Within, a reader learns. While the store is away, reads go on."""

    __slots__ = ("_operation", "_params")

    def __init__(self, operation: str, params: Params) -> None:
        self._operation = operation
        self._params = params

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> bool:
        if not isinstance(exc, StoreError):
            return False
        log.debug(
            "the mirror could not learn from the answer to %s of s3://%s/%s: %s",
            self._operation,
            self._params.get("Bucket", ""),
            self._params.get("Key", ""),
            exc,
        )
        return True


class _body_of:  # noqa: N801  reads as a statement
    """Within, an error means that nobody will read the body: its connection is closed."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if exc is not None and "Body" in self._answer:
            self._answer["Body"].close()
