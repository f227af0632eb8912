"""Mounts that change the same keys at S3 at the same time leave the mirror as S3 is.

A seeded scheduler moves the real code of mounts over one real store in steps: a request
reaches S3, its answer arrives, a mount is killed, somebody else writes, a page is listed. S3 is a
dict. `--interleavings N` runs that many a store instead of 25.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis as redis_library
from botocore.exceptions import ClientError
from support import servers

from mimicfs.backends import Backend
from mimicfs.backends.memory import Memory
from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.entry import Entry
from mimicfs.intent import StoreIntent
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.conversation import hold
from mimicfs.s3.mimicking.learning import Learner

_KEYS = ("d/a", "d/b")
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count()


class _S3:
    """Objects as their etags; a size of one."""

    def __init__(self) -> None:
        self.objects: dict[str, str] = {}
        self._versions = itertools.count(1)

    def ask(self, operation: str, params: dict[str, Any]) -> Any:
        key = params.get("Key", "")
        if operation == "PutObject":
            self.objects[key] = f"v{next(self._versions)}"
            return {"ETag": self.objects[key], "Size": 1}
        if operation == "DeleteObject":
            self.objects.pop(key, None)
            return {}
        if operation == "DeleteObjects":
            for item in params["Delete"]["Objects"]:
                self.objects.pop(item["Key"], None)
            return {}
        assert operation == "HeadObject"
        if key not in self.objects:
            told = {"HTTPStatusCode": 404, "HTTPHeaders": {"x-amz-request-id": "1"}}
            response: Any = {"Error": {"Code": "404"}, "ResponseMetadata": told}
            return ClientError(response, operation)
        return {"ETag": self.objects[key], "ContentLength": 1, "LastModified": _AT}


class _Dead:
    are_kept = True

    def end(self, intent: StoreIntent, *, unsure: bool) -> None:
        pass

    def expect(self, intent: StoreIntent) -> None:
        pass

    def look_soon(self) -> None:
        pass


class _Call:
    """A call of a mount, which is where its last request is: to be asked, or answered."""

    def __init__(self, chance: random.Random, backend: Backend) -> None:
        self._mirror = Mirror(backend)
        self._conversation = _conversation(chance, Learner(self._mirror, heads=False))
        self.request: Any = next(self._conversation)
        self.answer: Any = None

    def kill(self) -> None:
        """End where it is; the store hears of nothing."""
        self._mirror.intents = _Dead()  # type: ignore[assignment]
        self._conversation.close()

    def step(self, s3: _S3) -> bool:
        """Go one step on; return whether there is more."""
        if self.request is not None:
            self.answer, self.request = s3.ask(*self.request), None
            return True
        try:
            if isinstance(self.answer, Exception):
                self.request = self._conversation.throw(self.answer)
            else:
                self.request = self._conversation.send(self.answer)
        except StopIteration:
            return False
        return True


def _conversation(chance: random.Random, learner: Learner) -> Any:
    operation = chance.choice(["PutObject", "PutObject", "DeleteObject", "DeleteObjects"])
    if operation == "DeleteObjects":
        objects = {"Objects": [{"Key": key} for key in _KEYS]}
        return learner.talk(operation, {"Bucket": "b", "Delete": objects})
    return learner.talk(operation, {"Bucket": "b", "Key": chance.choice(_KEYS)})


def _finish(chance: random.Random, calls: list[_Call], s3: _S3) -> None:
    while calls:
        call = chance.choice(calls)
        if not call.step(s3):
            calls.remove(call)


def _run(seed: int, backend: Backend) -> bool:
    """Return whether the mirror is as S3 is in the end."""
    chance, s3 = random.Random(seed), _S3()
    backend.drop_bucket("b")
    mirror = Mirror(backend)
    calls: list[_Call] = []
    page: tuple[int, list[Entry]] | None = None
    outside = False
    for _ in range(chance.randint(8, 25)):
        act = chance.random()
        if act < 0.3:
            calls.append(_Call(chance, backend))
        elif act < 0.35 and calls:
            calls.pop(chance.randrange(len(calls))).kill()
        elif act < 0.38:
            s3.ask("PutObject", {"Key": chance.choice(_KEYS)})
            outside = True
        elif act < 0.44 and page is None:
            since = mirror.seq("b")
            entries = [Entry(key, 1, 0, etag) for key, etag in sorted(s3.objects.items())]
            page = (since, entries)
        elif act < 0.5 and page is not None:
            mirror.replace("b", "", page[1], after="", upto=None, since=page[0], deep=True)
            page = None
        elif calls:
            call = chance.choice(calls)
            if not call.step(s3):
                calls.remove(call)
    _finish(chance, calls, s3)
    if backend.intents:
        _settle(backend, Learner(mirror, heads=False), s3)
    if outside:  # nobody has told us: a listing does
        entries = [Entry(key, 1, 0, etag) for key, etag in sorted(s3.objects.items())]
        since = mirror.seq("b")
        mirror.replace("b", "", entries, after="", upto=None, since=since, deep=True)
    found = {entry.key: entry.etag for entry in backend.scan("b")}
    return found == s3.objects


def _settle(backend: Backend, learner: Learner, s3: _S3) -> None:
    backend.reap("b", lambda _: False)  # those that were killed are dead
    for row in backend.unsettled("b"):
        hold(learner.resolve("b", [row.key]), lambda *request: _raised(s3.ask(*request)))
    assert backend.unsettled("b") == []


def _raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    with servers.redis_cluster(tmp_path) as port:
        yield f"redis+cluster://127.0.0.1:{port}"


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[str]:
    with servers.redis(tmp_path) as primary, servers.sentinel(tmp_path, primary) as url:
        yield url


_KINDS = ["memory", "sqlite", "scripts", "transactions", "cluster", "sentinel"]


@pytest.fixture(params=_KINDS)
def backend(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Backend]:
    kind = request.param
    if kind in ("memory", "sqlite"):
        found = open_store("memory:" if kind == "memory" else f"sqlite:{tmp_path}/s.db")
    elif kind in ("cluster", "sentinel"):
        found = open_store(request.getfixturevalue(kind), f"i-{os.getpid()}-{next(_numbers)}")
    else:
        client = redis_library.Redis.from_url(redis_url)
        found = RedisBackend(client, f"i-{os.getpid()}-{next(_numbers)}")
        if kind == "transactions":
            found._steps = Transactions(client)
    found.private = True  # the mounts are of this process: no sessions, whose threads would act
    yield found
    found.close()


@pytest.mark.slow
def test_every_interleaving_ends_with_the_mirror_as_s3_is(
    backend: Backend, request: pytest.FixtureRequest
) -> None:
    seeds = range(request.config.getoption("--interleavings"))
    assert [seed for seed in seeds if not _run(seed, backend)] == []


def test_without_intents_interleavings_end_with_another_mirror() -> None:
    backend = Memory()
    backend.intents = False
    assert sum(not _run(seed, backend) for seed in range(150)) > 5
