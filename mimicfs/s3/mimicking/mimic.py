"""Mimicking: a boto3 client that asks S3 only what the mirror cannot answer, and teaches the
mirror whatever S3 says.

`mimic(client, mimicdb)` wraps `_make_api_call`, the one method that every call of a client
passes through: paginators, waiters, resources and s3transfer included. A call goes

    Force=True, forced(), a waiter  ->  S3
    what local.py can answer        ->  the mirror
    everything else                 ->  S3

and on its way back from S3 through learning.py, or, for a listing, into the mirror here: a
page says also what is not there. Pages that follow each other from the first to the last make
their prefix complete, as a sync does.

A client whose calls are awaited (aiobotocore) is mimicked by the same code; it asks the store
in the event loop, which memory and SQLite answer in microseconds.

Threading: as the client, any number of threads.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from mimicfs.entry import Bucket, Entry, Scope
from mimicfs.errors import LogTrimmed
from mimicfs.mimicdb import MimicDB
from mimicfs.s3.mimicking.conversation import Conversation, Params, hold, hold_async
from mimicfs.s3.mimicking.learning import Learner, note_size
from mimicfs.s3.mimicking.local import Local, Refused, behind, place_of

log = logging.getLogger(__name__)

# With these, a listing shows keys, each once and as they are.
_LEARNED = {
    "ListObjectsV2": {
        "Bucket",
        "Prefix",
        "StartAfter",
        "ContinuationToken",
        "MaxKeys",
        "FetchOwner",
    },
    "ListObjects": {"Bucket", "Prefix", "Marker", "MaxKeys"},
}
_FOLLOWED_MAX = 1000  # listings that are remembered between their pages

# Set while a waiter waits: what it waits for is not in the mirror.
_waiting: ContextVar[bool] = ContextVar("mimicfs_waiting", default=False)


class Forcing:
    """Whether all calls are to go to S3 now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the count
        self._count = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within, calls of every thread go to S3: those of s3transfer are not the caller's."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    def __bool__(self) -> bool:
        return self._count > 0 or _waiting.get()


def mimic(client: Any, mimicdb: MimicDB, forcing: Forcing | None = None) -> Any:
    """Make *client*, a boto3 S3 client, a mimicking one; return it. Each of its calls takes
    `Force=True` from now on. A client that mimics already is left as it is."""
    ask = client._make_api_call
    if hasattr(ask, "mimics"):
        return client
    mimicking = Mimic(client, mimicdb, Forcing() if forcing is None else forcing)

    def call(operation: str, params: Params) -> Any:
        answer = mimicking.answer(operation, params)
        return hold(mimicking.talk(operation, params), ask) if answer is None else answer

    async def call_async(operation: str, params: Params) -> Any:
        answer = mimicking.answer(operation, params)
        return (
            await hold_async(mimicking.talk(operation, params), ask) if answer is None else answer
        )

    awaited = inspect.iscoroutinefunction(inspect.unwrap(ask))
    client._make_api_call = call_async if awaited else call
    client._make_api_call.mimics = True
    client.meta.events.register("before-send.s3", note_size)
    client.get_waiter = _forced_waiters(client.get_waiter)
    return client


class _Followed(NamedTuple):
    """A listing of which the next page has not been asked for."""

    bucket: str
    prefix: str
    last: str
    started_ns: int | None  # None: its first page was not seen


class Mimic:
    """The calls of *client*."""

    def __init__(self, client: Any, mimicdb: MimicDB, forcing: Forcing) -> None:
        self._exceptions = client.exceptions
        self._learner = Learner(mimicdb, heads=True)
        self._mimicdb = mimicdb
        self._forcing = forcing
        self._local = Local(mimicdb)
        self._lock = threading.Lock()  # protects the table below
        self._followed: OrderedDict[str, _Followed] = OrderedDict()  # by the token that goes on

    def answer(self, operation: str, params: Params) -> Any:
        """Return the mirror's answer; None: ask S3. Raises ClientError, as S3 would."""
        if self._forcing or params.get("Force"):
            return None
        if "Force" in params:
            params = _without_force(params)
        try:
            return self._local.answer(operation, params)
        except Refused as exc:
            error = self._exceptions.from_code(exc.code)
            raise error(exc.response, operation) from None

    def talk(self, operation: str, params: Params) -> Conversation[Any]:
        """Ask S3, learn, and return its answer."""
        params = _without_force(params)
        if operation == "ListBuckets" and not params:
            return (yield from self._list_buckets())
        if operation in _LEARNED:
            return (yield from self._list(operation, params))
        answer = yield from self._learner.talk(operation, params)
        self._local.seen(operation, params, answer)
        return answer

    def _list_buckets(self) -> Conversation[Any]:
        answer = yield "ListBuckets", {}
        self._local.seen("ListBuckets", {}, answer)
        if not answer.get("ContinuationToken"):
            self._mimicdb.replace_buckets(
                [Bucket(item["Name"], _ns(item["CreationDate"])) for item in answer["Buckets"]]
            )
        return answer

    # Listings

    def _list(self, operation: str, params: Params) -> Conversation[Any]:
        asked = dict(params)  # botocore rewrites some of them in place
        since = self._mimicdb.seq(asked["Bucket"]) if isinstance(asked.get("Bucket"), str) else 0
        started_ns = time.time_ns()
        try:
            answer = yield operation, _for_s3(params)
        except ClientError as exc:
            if exc.response.get("Error", {}).get("Code") == "NoSuchBucket":
                self._mimicdb.drop_bucket(asked["Bucket"])
            raise
        if params.get("ContinuationToken") != answer.get("ContinuationToken"):
            answer["ContinuationToken"] = params["ContinuationToken"]  # ours, as it was asked
            answer.pop("StartAfter", None)
        self._local.seen(operation, asked, answer)
        if asked.keys() <= _LEARNED[operation]:
            self._learn_page(asked, answer, since, started_ns)
        return answer

    def _learn_page(
        self, asked: Params, answer: Mapping[str, Any], since: int, started_ns: int
    ) -> None:
        """Merge a page into the mirror, if it is known behind which key it begins."""
        place = self._begins(asked, started_ns)
        entries = [_entry(item) for item in answer.get("Contents", ())]
        keys = [entry.key for entry in entries]
        truncated = answer["IsTruncated"]
        if place is None or keys != sorted(set(keys)) or (keys and keys[0] <= place.last):
            return  # a directory bucket lists in no order
        if truncated and not keys:
            return
        upto = keys[-1] if truncated else None
        try:
            self._mimicdb.replace(
                *(place.bucket, place.prefix, entries),
                after=place.last,
                upto=upto,
                since=since,
                deep=True,
            )
        except LogTrimmed as exc:
            log.debug("a page was not learned: %s", exc)
            return
        if truncated:
            self._goes_on(answer, place._replace(last=keys[-1]))
        elif place.started_ns is not None and (not place.prefix or place.prefix.endswith("/")):
            duration_ns = time.time_ns() - place.started_ns
            scope = Scope(place.prefix, True, place.started_ns, duration_ns)
            self._mimicdb.complete(place.bucket, scope)

    def _begins(self, asked: Params, started_ns: int) -> _Followed | None:
        """Return where the page begins."""
        bucket, prefix = asked["Bucket"], asked.get("Prefix", "")
        token = asked.get("ContinuationToken")
        if token is not None:
            own = place_of(token)
            if own is not None:
                return _Followed(bucket, prefix, own, None)
            with self._lock:
                found = self._followed.pop(token, None)
            same = found is not None and (found.bucket, found.prefix) == (bucket, prefix)
            return found if same else None
        after = asked.get("StartAfter") or asked.get("Marker") or ""
        with self._lock:
            found = self._followed.pop(f"{bucket}/{prefix}\0{after}", None) if after else None
        return found or _Followed(bucket, prefix, after, None if after else started_ns)

    def _goes_on(self, answer: Mapping[str, Any], place: _Followed) -> None:
        token = answer.get("NextContinuationToken")
        with self._lock:
            # A ListObjects goes on with the last key as its Marker.
            self._followed[token or f"{place.bucket}/{place.prefix}\0{place.last}"] = place
            while len(self._followed) > _FOLLOWED_MAX:
                self._followed.popitem(last=False)


def _without_force(params: Params) -> Params:
    return {name: value for name, value in params.items() if name != "Force"}


def _for_s3(params: Params) -> Params:
    """Return *params* without a token of ours, which S3 would refuse."""
    place = place_of(params.get("ContinuationToken") or "")
    if place is None:
        return params
    delimiter = params.get("Delimiter")
    if delimiter and delimiter in place[len(params.get("Prefix", "")) :]:
        place = behind(place)
    plain = {name: value for name, value in params.items() if name != "ContinuationToken"}
    return plain | {"StartAfter": place}


def _forced_waiters(get_waiter: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return *get_waiter*, of waiters that ask S3."""

    def get_forced(waiter_name: str) -> Any:
        waiter = get_waiter(waiter_name)
        wait = waiter.wait

        def wait_for_s3(**kwargs: Any) -> Any:
            with _waiting_for_s3():
                return wait(**kwargs)

        async def wait_for_s3_async(**kwargs: Any) -> Any:
            with _waiting_for_s3():
                return await wait(**kwargs)

        waiter.wait = wait_for_s3_async if inspect.iscoroutinefunction(wait) else wait_for_s3
        return waiter

    return get_forced


@contextmanager
def _waiting_for_s3() -> Iterator[None]:
    token = _waiting.set(True)
    try:
        yield
    finally:
        _waiting.reset(token)


def _entry(item: Mapping[str, Any]) -> Entry:
    storage_class = item.get("StorageClass", "")
    return Entry(
        item["Key"],
        item["Size"],
        _ns(item["LastModified"]),
        item.get("ETag", "").strip('"'),
        "" if storage_class == "STANDARD" else storage_class,
    )


def _ns(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000
