"""Mimicking: a boto3 client that asks S3 only what the mirror cannot answer, and teaches the mirror
all answers of S3.

`mimic(client, mimicdb)` wraps `_make_api_call`, the one method that every call of a client
passes through: paginators, waiters, resources and s3transfer included. A call goes

    Force=True, forced(), a waiter  ->  S3
    before s3transfer's parts       ->  S3
    what a program's hooks change   ->  S3
    what botocore refuses           ->  botocore
    what local.py can answer        ->  the mirror
    everything else                 ->  S3

and on its way back from S3 through learning.py, or, for a listing, through pages.py: a page
says also what is not there. Pages that follow each other from the first to the last make
their prefix complete, as a sync does. While the store is away, S3 answers what reads.

A client whose calls are awaited (aiobotocore) is mimicked by the same code; it asks the store
in the event loop, which memory and SQLite answer in microseconds.

Threading: as the client, any number of threads.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mimicfs.entry import EPOCH, BucketEntry, clamped_ns
from mimicfs.errors import LogTrimmed, S3Error, StoreError
from mimicfs.intent import Resolve
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.accounts import ListedAccount
from mimicfs.s3.mimicking.conversation import Conversation, hold, hold_async
from mimicfs.s3.mimicking.forms import is_refused
from mimicfs.s3.mimicking.hooks import Hooks
from mimicfs.s3.mimicking.learning import Learner
from mimicfs.s3.mimicking.local import Local, Refused, behind, place_of
from mimicfs.s3.mimicking.pages import LEARNED, Pages, Places
from mimicfs.s3.mimicking.reads import going_on
from mimicfs.s3.mimicking.sent import note_requests
from mimicfs.s3.mimicking.soleversions import VersionsBefore
from mimicfs.s3.mimicking.transfers import parts_from
from mimicfs.s3.transport.calls import CallParams

log = logging.getLogger(__name__)

_RESOLVE_S = 60  # how long a thread waits for a busy loop at most

# Set while a waiter waits: the mirror does not have what it waits for.
_waiting: ContextVar[bool] = ContextVar("mimicfs_waiting", default=False)


class Forcing:
    """Whether all calls go to S3 now."""

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


def mimic(client: Any, mimicdb: Mirror, forcing: Forcing | None = None) -> Any:
    """Make *client*, a boto3 S3 client, a mimicking one; return it. Each of its calls takes
    `Force=True` from now on. A client that mimics already is left as it is."""
    ask = client._make_api_call
    if hasattr(ask, "mimics"):
        return client
    awaited = inspect.iscoroutinefunction(inspect.unwrap(ask))
    if "_make_api_call" not in vars(client):
        ask = _late(client)
    mimicking = Mimic(client, mimicdb, Forcing() if forcing is None else forcing)
    ask = (mimicking.watched_async if awaited else mimicking.watched)(ask)

    def call(operation: str, params: CallParams) -> Any:
        answer = mimicking.answer(operation, params)
        return hold(mimicking.talk(operation, params), ask) if answer is None else answer

    async def call_async(operation: str, params: CallParams) -> Any:
        mimicking.loop = asyncio.get_running_loop()
        answer = mimicking.answer(operation, params)
        return (
            await hold_async(mimicking.talk(operation, params), ask) if answer is None else answer
        )

    mimicdb.intents.resolve = mimicking.resolve_awaited(ask) if awaited else mimicking.resolve(ask)
    client._make_api_call = call_async if awaited else call
    client._make_api_call.mimics = mimicking
    note_requests(client)
    client.get_waiter = _forced_waiters(client.get_waiter)
    # boto3 transfers files with the CRT's own client only if that has the credentials of *client*.
    client._get_credentials = lambda: None
    return client


def _late(client: Any) -> Callable[[str, CallParams], Any]:
    """Return the call of the class of *client*, as it is at that time: tracers of programs replace
    it."""

    def ask(operation: str, params: CallParams) -> Any:
        return type(client)._make_api_call(client, operation, params)

    return ask


def mimicking_of(client: Any) -> Mimic:
    """Return the Mimic of *client*."""
    found: Mimic = client._make_api_call.mimics
    return found


class Mimic:
    """The calls of *client*."""

    def __init__(self, client: Any, mimicdb: Mirror, forcing: Forcing) -> None:
        self._client = client
        self._exceptions = client.exceptions
        self._hooks = Hooks(client)
        self._learner = Learner(mimicdb, heads=True, hooked=self._hooks.change)
        self.loop: asyncio.AbstractEventLoop | None = None  # that of the last call
        self._mimicdb = mimicdb
        self._forcing = forcing
        self._places = Places()
        self._pages = Pages(mimicdb, self._places)
        self._account = ListedAccount(mimicdb, client)
        self._local = Local(mimicdb, self._places, self._account)

    def watched(self, ask: Callable[[str, CallParams], Any]) -> Callable[[str, CallParams], Any]:
        """Return *ask*, which asks S3, with an eye on the hooks of the program."""

        def watch(operation: str, params: CallParams) -> Any:
            if not self._hooks.watched(operation):
                return ask(operation, params)
            with self._hooks.watch(operation):
                return ask(operation, params)

        return watch

    def watched_async(
        self, ask: Callable[[str, CallParams], Awaitable[Any]]
    ) -> Callable[[str, CallParams], Awaitable[Any]]:
        """Return the same, where the answers are awaited."""

        async def watch(operation: str, params: CallParams) -> Any:
            if not self._hooks.watched(operation):
                return await ask(operation, params)
            with self._hooks.watch(operation):
                return await ask(operation, params)

        return watch

    def answer(self, operation: str, params: CallParams) -> Any:
        """Return the mirror's answer; None: ask S3. Raises ClientError, as S3 would."""
        if self._forcing or params.get("Force") or self._hooks.may_change(operation):
            return None
        if "Force" in params:
            params = _without_force(params)
        most = parts_from() if operation == "HeadObject" else None
        try:
            answer = self._local.answer(operation, params)
            if most is not None and answer is not None and answer["ContentLength"] >= most:
                return None
            return answer
        except Refused as exc:
            if most is not None:
                return None
            error = self._exceptions.from_code(exc.code)
            raise error(exc.response, operation) from None

    def resolve(self, ask: Callable[[str, CallParams], Any]) -> Resolve:
        """Return a function that asks S3, with *ask*, for a contended key."""
        return lambda bucket, key: hold(self._learner.resolve(bucket, [key]), ask)

    def resolve_awaited(self, ask: Callable[[str, CallParams], Awaitable[Any]]) -> Resolve:
        """Return the same, in the loop of the client's last call, as long as that runs."""

        def resolve(bucket: str, key: str) -> None:
            if self.loop is not None and self.loop.is_running():
                asking = hold_async(self._learner.resolve(bucket, [key]), ask)
                try:
                    asyncio.run_coroutine_threadsafe(asking, self.loop).result(_RESOLVE_S)
                except (TimeoutError, CancelledError) as exc:  # S3 is asked again later
                    log.debug("HEAD s3://%s/%s: %r", bucket, key, exc)

        return resolve

    def talk(self, operation: str, params: CallParams) -> Conversation[Any]:
        """Ask S3, learn, and return its answer."""
        params = _without_force(params)
        if not self._hooks.change(operation) and is_refused(self._client, operation, params):
            return (yield operation, params)
        if operation == "ListBuckets" and not params and not self._hooks.change(operation):
            return (yield from self._list_buckets())
        if operation in LEARNED:
            return (yield from self._list(operation, params))
        asked = dict(params)  # botocore rewrites some of them in place
        since = self._seq(operation, "") if operation == "HeadBucket" else None
        before = self._before_versions(operation, asked)
        self._local.asks(operation, asked)
        try:
            answer = yield from self._learner.talk(operation, params)
        except ClientError as exc:
            with going_on(operation, asked):
                if self._hooks.change(operation):
                    self._local.unsure(operation, asked)
                else:
                    self._local.refused(operation, asked, exc)
            yield from self._perhaps_gone(operation, asked, exc, since)
            raise
        except BaseException:
            self._local.unsure(operation, asked)
            raise
        self._answered(operation, asked, answer, before)
        if operation == "CreateBucket":
            yield from self._made(params["Bucket"])
        return answer

    def _answered(
        self, operation: str, asked: CallParams, answer: CallParams, before: VersionsBefore | None
    ) -> None:
        if self._hooks.change(operation):
            self._local.unsure(operation, asked)
            return
        self._local.seen(operation, asked, answer)
        if before is not None:
            with going_on(operation, asked):
                self._local.seen_versions(asked, answer, before)

    def _before_versions(self, operation: str, asked: CallParams) -> VersionsBefore | None:
        """Return what must be known of the time before S3 is asked for versions; None: it is not
        known, or the store is away."""
        bucket = asked.get("Bucket")
        if operation == "ListObjectVersions" and isinstance(bucket, str):
            with going_on(operation, asked):
                return self._local.before_versions(bucket)
        return None

    def keys(self, params: CallParams) -> Any:
        """Return the mirror's answer to a ListObjects, without the owners; None: ask S3."""
        changed = self._forcing or self._hooks.may_change("ListObjects")
        return None if changed else self._local.keys(params)

    def _list_buckets(self) -> Conversation[Any]:
        since = self._seq("ListBuckets", "")
        answer = yield "ListBuckets", {}
        if since is not None:
            with going_on("ListBuckets", {}):
                self._buckets_seen(answer, since)
        return answer

    def _buckets_seen(self, answer: CallParams, since: int) -> None:
        if self._hooks.change("ListBuckets"):  # nobody knows who was asked, and for whom
            self._account.claim({})
            return
        self._local.seen("ListBuckets", {}, answer)
        if not answer.get("ContinuationToken"):
            items = answer.get("Buckets", ())
            shown = {name for item in items for name in item}
            # Other fields are not kept: then the mirror answers nobody.
            owner = answer.get("Owner", {}) if shown <= {"Name", "CreationDate"} else {}
            listed = [
                BucketEntry(item["Name"], clamped_ns(item.get("CreationDate", EPOCH)))
                for item in items
            ]
            self._account.claim(owner)
            try:
                self._mimicdb.replace_buckets(listed, since)
            except LogTrimmed as exc:
                log.debug("the list of buckets was not learned: %s", exc)
            else:
                self._account.claimed(owner)

    def _perhaps_gone(
        self, operation: str, asked: CallParams, exc: ClientError, since: int | None = None
    ) -> Conversation[None]:
        """Forget the bucket that was asked about, if *exc* says that S3 has none of that name.
        *since*: the number of the list of buckets before S3 was asked; None: S3 is asked again,
        because others may have made the bucket meanwhile."""
        bucket = asked.get("Bucket")
        if not isinstance(bucket, str) or not _names_no_bucket(operation, asked, exc):
            return
        if self._hooks.change(operation) or self._hooks.change("HeadBucket"):
            return  # S3 may have been asked about another bucket
        try:
            if since is None:
                since = self._mimicdb.seq("")
                if (yield from self._is_there(bucket)):
                    return
            if self._mimicdb.drop_bucket(bucket, since):
                self._local.gone(bucket)
        except StoreError as lost:  # the answer of S3 is more important to the caller
            log.warning("s3://%s is gone, but the mirror could not record it: %s", bucket, lost)

    def _is_there(self, bucket: str) -> Conversation[bool]:
        """Whether S3 has *bucket*, or may have it."""
        asked = {"Bucket": bucket}
        try:
            yield "HeadBucket", dict(asked)
        except ClientError as exc:
            return not _names_no_bucket("HeadBucket", asked, exc)
        except BotoCoreError as exc:
            log.debug("HEAD s3://%s: %s", bucket, exc)
        return True

    # Listings

    def _list(self, operation: str, params: CallParams) -> Conversation[Any]:
        asked = dict(params)  # botocore rewrites some of them in place
        bucket = asked.get("Bucket")
        since = self._seq(operation, bucket) if isinstance(bucket, str) else 0
        before = None
        with going_on(operation, asked):
            before = self._local.asks(operation, asked)
        started_ns = time.time_ns()
        for_s3 = self._for_s3(params)
        plain = dict(for_s3)
        try:
            answer = yield operation, for_s3
        except ClientError as exc:
            yield from self._perhaps_gone(operation, asked, exc)
            raise
        if plain.get("Marker") != asked.get("Marker"):
            answer["Marker"] = asked["Marker"]
        if plain.get("ContinuationToken") != asked.get("ContinuationToken"):
            answer["ContinuationToken"] = asked["ContinuationToken"]  # ours, as it was asked
            answer.pop("StartAfter", None)
        if since is not None and not self._hooks.change(operation):
            with going_on(operation, asked):
                self._local.seen(operation, asked, answer, before)
                self._pages.learn(operation, plain, answer, since, started_ns)
        return answer

    def _seq(self, operation: str, bucket: str) -> int | None:
        """Return the number of the last change of *bucket* before S3 is asked; None: the store is
        away, and nothing can be learned."""
        with going_on(operation, {"Bucket": bucket}):
            return self._mimicdb.seq(bucket)
        return None

    def _for_s3(self, params: CallParams) -> CallParams:
        """Return *params* without a token or a group of ours, which S3 might not take."""
        delimiter = params.get("Delimiter")
        marker = params.get("Marker")
        if marker and delimiter:
            place = self._places.find(params, marker)
            inside = delimiter in marker[len(params.get("Prefix", "")) :]
            if place is not None and place.ours and inside:
                return params | {"Marker": behind(marker)}
        last = place_of(params.get("ContinuationToken") or "")
        if last is None:
            return params
        if delimiter and delimiter in last[len(params.get("Prefix", "")) :]:
            last = behind(last)
        plain = {name: value for name, value in params.items() if name != "ContinuationToken"}
        return plain | {"StartAfter": last}

    def _made(self, bucket: str) -> Conversation[None]:
        """Note that a bucket was made. It may have been there before, which us-east-1 does not say;
        its contents, mostly nothing, are known from now on."""
        if self._hooks.change("CreateBucket") or self._hooks.change("ListObjectsV2"):
            return  # this may be another bucket; and a Stubber has no answer for us
        try:
            yield from self._list("ListObjectsV2", {"Bucket": bucket})
        except (ClientError, BotoCoreError, S3Error) as exc:
            log.debug("LIST s3://%s: %s", bucket, exc)


def _names_no_bucket(operation: str, asked: CallParams, exc: ClientError) -> bool:
    """Whether *exc* says that there is no bucket of the name that was asked for."""
    error = exc.response.get("Error", {})
    if operation == "HeadBucket":  # its answer has no body
        return error.get("Code") == "404"
    if "CopySource" in asked:  # it may be about the other bucket
        return error.get("Code") == "NoSuchBucket" and error.get("BucketName") == asked["Bucket"]
    return bool(error.get("Code") == "NoSuchBucket")


def _without_force(params: CallParams) -> CallParams:
    if "Force" not in params:
        return params
    return {name: value for name, value in params.items() if name != "Force"}


def _forced_waiters(get_waiter: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return *get_waiter*, changed so that its waiters ask S3."""

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
