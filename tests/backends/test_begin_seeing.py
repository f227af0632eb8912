"""The step in which an intent begins tells what the store has then, in each store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicfs.backends import Backend
from mimicfs.backends.open import open_store
from mimicfs.backends.pending import Begun
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.entry import KEPT, Entry


@pytest.fixture(params=["memory", "sqlite", "scripts", "transactions"])
def backend(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Backend]:
    kind = request.param
    url = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path}/s.db"}.get(kind, redis_url)
    found = open_store(url, os.urandom(8).hex())
    if kind == "transactions":
        assert isinstance(found, RedisBackend)
        found._steps = Transactions(found.client)
    yield found
    found.close()


def test_an_intent_begins_with_a_look_at_what_there_is(backend: Backend) -> None:
    backend.apply("b", [Entry(key, 1) for key in ("d/x", "d/y", "d/z/n")])
    backend.set_note("b", "n", "né")

    def begun(number: int, most: int = 5, note: str = "n") -> Begun:
        return backend.begin_seeing("b", "d/x", f"one:{number}-", 60_000, note, most)

    x, seq = Entry("d/x", 1), backend.seq("b")
    assert begun(1) == Begun(seq, x, None, False, False, "né")
    assert backend.begin("b", ["d/y"], "two:1", 60_000) == set()  # which may be a PUT
    backend.begin("b", ["d/z/"], "two:2-", 60_000)
    assert begun(2, note="none") == Begun(seq, x, None, True, False, None)
    assert backend.begin("b", ["d/y", "new"], "two:3-", 60_000) == {"d/y"}
    assert [begun(3, most).last for most in (-1, 0, 1, 2)] == [False, False, False, True]
    backend.apply("b", [Entry("d/", kind=KEPT)], ["d/x"])
    assert begun(4) == Begun(seq + 2, None, Entry("d/", kind=KEPT), True, True, "né")


def test_many_names_are_not_looked_at_when_an_intent_begins(backend: Backend) -> None:
    names = [f"d/{n:03}" for n in range(300)]
    backend.apply("b", [Entry(name, 1) for name in names])
    backend.begin("b", names, "two:1-", 60_000)
    asked = ("b", "d/000", "one:1-", 60_000, "")
    assert [backend.begin_seeing(*asked, it).last for it in (298, 299)] == [False, True]


def test_what_others_say_of_the_directory_meanwhile_is_behind_the_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = open_store("memory:", "")
    backend.apply("b", [Entry("d/x", 1)])
    get = backend.get

    def got(bucket: str, key: str) -> Entry | None:
        found = get(bucket, key)
        if key == "d/":
            backend.apply("b", [Entry("d/", kind=KEPT)])
        return found

    monkeypatch.setattr(backend, "get", got)
    begun = backend.begin_seeing("b", "d/x", "one:1-", 60_000, "", 5)
    assert (begun.above, begun.last) == (None, True)
    assert backend.apply("b", [Entry("d/", kind=KEPT)], since=begun.seq) == {"d/"}
