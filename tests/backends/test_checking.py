"""`mimicfs store`: what is wrong in a store is found, and a mirror moves from one to another."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from support.mounts import run, succeed

from mimicfs.backends import Backend
from mimicfs.backends.checking import check
from mimicfs.backends.migrating import migrate
from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.layout import packed
from mimicfs.backends.sessions import StoreSession, beat, epoch
from mimicfs.entry import KEPT, LISTED, BucketEntry, Entry, Scope
from mimicfs.errors import ConfigError
from mimicfs.mimicdb import Mirror

_numbers = itertools.count()
_KEYS = [f"d{n % 7}/e{n % 3}/{n:04}" for n in range(1500)]


@pytest.fixture
def urls(redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {"sqlite": f"sqlite:{tmp_path}/s.db", "redis": redis_url}


@pytest.fixture
def stores(urls: dict[str, str]) -> Iterator[Callable[[str], Backend]]:
    """Open a store of a kind; each of a test has another namespace."""
    namespace = f"check-{os.getpid()}-{next(_numbers)}"
    with ExitStack() as stack:

        def opened(kind: str) -> Backend:
            found = open_store(urls[kind], namespace)
            stack.callback(found.close)
            return found

        yield opened


def _filled(store: Backend) -> list[Entry]:
    entries = [Entry(key, 3, 5, "e", "", {"mode": "33188"}) for key in _KEYS]
    entries += [Entry("listed/", kind=LISTED), Entry("kept/", kind=KEPT), Entry("a\nb", 1)]
    store.add_bucket("b", 7)
    for some in (entries[:900], entries[900:]):
        store.apply("b", some)
    store.mark("b", Scope("d1/", True, 9, 1, 2, 3, 4))
    store.mark("b", Scope("", False, 8))
    store.mark("", Scope("", False, 6))
    store.set_note("b", "versions", "seen")
    return sorted(entries)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_store_that_was_only_used_is_sound(stores: Callable[[str], Backend], kind: str) -> None:
    store = stores(kind)
    _filled(store)
    store.apply("b", [Entry("d1/e1/0001", 9)], ["a\nb", *_KEYS[40:400]])
    (found,) = check(store)
    assert (found.name, found.objects, found.scopes, found.wrong) == ("b", 1140, 2, [])


def test_what_is_wrong_in_sqlite_is_named(stores: Callable[[str], Backend], tmp_path: Path) -> None:
    store = stores("sqlite")
    _filled(store)
    store.apply("b", [Entry("d1/strange/", kind=LISTED)])
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("DELETE FROM entry WHERE key='d0/e0/0000'")
        db.execute("INSERT INTO note VALUES(99, 'n', 't')")
    db.close()
    b, rest = check(store)
    assert b.wrong == [
        "'d1/strange/' is marked as listed, but its contents are not known",
        "1,501 objects with 4,501 bytes are counted, 1,500 with 4,498 are there",
    ]
    assert rest.wrong == ["'1 rows of note' is in the store, but belongs to no bucket"]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_note_beside_a_bucket_that_is_not_known_is_not_lost(
    stores: Callable[[str], Backend], kind: str
) -> None:
    store = stores(kind)
    _filled(store)
    store.set_note("unknown", "versions", "seen")
    assert [(each.name, each.wrong) for each in check(store)] == [("b", [])]
    assert store.note("unknown", "versions") == "seen"


def test_a_listing_that_ends_while_a_store_is_looked_at_is_no_fault(
    stores: Callable[[str], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores("sqlite")
    _filled(store)
    scopes = store.scopes

    def late(bucket: str) -> list[Scope]:  # after the entries were read, as others do
        store.apply("b", [Entry("listed/x", 1)], ["listed/"])
        store.mark("b", Scope("", True, 10))
        return scopes(bucket)

    monkeypatch.setattr(store, "scopes", late)
    (found,) = check(store)
    assert (found.changed, found.wrong) == (True, [])


def test_what_is_wrong_in_redis_is_named(stores: Callable[[str], Backend], redis_url: str) -> None:
    store = stores("redis")
    _filled(store)
    client = redis.Redis.from_url(redis_url)
    assert isinstance(store, RedisBackend)
    tag = store._tag("b")
    client.hset(f"{tag}:d:nowhere/", "x", packed(Entry("nowhere/x")))
    client.hdel(f"{tag}:d:", "d2/")
    client.delete(f"{tag}:d:d3/e1/")
    (found,) = check(store)
    counted, lost = found.wrong
    assert counted.startswith("1,501 objects with 4,501 bytes are counted, ")
    assert lost == "'d2/', 'nowhere/', 'd3/e1/' is in the store, but no directory contains it"


@pytest.mark.parametrize(
    ("key", "field", "said"),
    [
        ("k", "x", "the row 'wrong' of an unfinished change is not of mimicfs"),
        ("scopes", "y/", "the scope b'wrong' in Redis is not of mimicfs"),
        ("d:d1/", "z", "the record of 'd1/z' in Redis is not of mimicfs"),
    ],
)
def test_what_cannot_be_read_is_wrong_in_its_bucket_and_the_others_are_looked_at(
    stores: Callable[[str], Backend], redis_url: str, key: str, field: str, said: str
) -> None:
    store = stores("redis")
    _filled(store)
    store.apply("c", [Entry("a", 1)])
    assert isinstance(store, RedisBackend)
    client = redis.Redis.from_url(redis_url)
    client.hset(f"{store._tag('b')}:{key}", field, "wrong")
    broken, other = check(store)
    assert broken.wrong == [f"the rest was not looked at: {said}"]
    assert (other.name, other.objects, other.wrong) == ("c", 1, [])


@pytest.mark.parametrize("way", [("sqlite", "redis"), ("redis", "sqlite")])
def test_a_mirror_moves_to_another_store_with_all_that_is_known(
    stores: Callable[[str], Backend], way: tuple[str, str]
) -> None:
    old, new = map(stores, way)
    entries = _filled(old)
    reader = StoreSession("r", "host", 1, "1", "/mnt", 0, 0, {"read_only": 1, "events": "sqs:1"})
    beat(old, reader, 60_000)
    old.set_note("b", "told ", "1")  # it goes on in the old store alone
    old.set_note("", "listing/1", '["b", "", 1]')
    old.begin("b", ["d1/open"], "dead:1", 1000)
    first, pages = epoch(old), itertools.count()

    def learn(_: int) -> None:  # as a mount that reads does meanwhile
        if next(pages) == 0:
            old.apply("b", [Entry("a", 2), entries[5]._replace(size=8)], ["d6/e0/1476"])

    assert migrate(old, new, learn) == {"b": 1502}
    wanted = {entry.key: entry for entry in entries} | {"a": Entry("a", 2)}
    wanted[entries[5].key] = entries[5]._replace(size=8)
    del wanted["d6/e0/1476"]
    mirror = Mirror(new)
    assert new.scan("b", "", "", 2000) == [wanted[key] for key in sorted(wanted)]
    assert new.buckets() == [BucketEntry("b", 7, 1501, 4505, new.seq("b"))]
    assert (new.scopes("b"), new.scope("", "")) == (old.scopes("b"), old.scope("", ""))
    assert new.notes("b") == {"versions": "seen"}
    assert new.note("", "listing/1") is None
    assert epoch(new) != first and mirror.member.others() == []
    assert [(row.key, row.pending) for row in new.unsettled("b")] == [("d1/open", False)]
    assert [each.wrong for each in check(new)] == [[]]
    with pytest.raises(ConfigError, match="already has a mirror"):
        migrate(old, new, lambda _: None)


@pytest.mark.parametrize("way", [("sqlite", "redis"), ("redis", "sqlite")])
def test_what_a_damaged_store_has_listed_counts_as_not_listed_in_the_new_one(
    stores: Callable[[str], Backend],
    tmp_path: Path,
    way: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, new = map(stores, way)
    _filled(old)
    if isinstance(old, RedisBackend):
        old.client.hdel(f"{old._tag('b')}:d:", "a\nb")
    else:
        with sqlite3.connect(tmp_path / "s.db") as db:
            db.execute("DELETE FROM entry WHERE key='a\nb'")
        db.close()
    assert migrate(old, new, lambda _: None) == {"b": 1502}
    assert (new.scopes("b"), new.covered("b", "d1/")) == ([], False)
    assert "1501 objects with 4501 bytes are counted in the old store, 1500" in caplog.text


def test_a_mirror_that_somebody_may_change_does_not_move(
    stores: Callable[[str], Backend],
) -> None:
    old = stores("sqlite")
    beat(old, StoreSession("w", "host", 1, "1", "/mnt", 0, 0, {}), 60_000)
    with pytest.raises(ConfigError, match="host:/mnt uses the store and may write"):
        migrate(old, stores("redis"), lambda _: None)


@pytest.mark.slow
def test_the_commands_check_and_move(urls: dict[str, str], tmp_path: Path, state: Path) -> None:
    name = f"cli-{os.getpid()}-{next(_numbers)}"
    store = open_store(urls["sqlite"], name)
    _filled(store)
    words = ["--namespace", name]
    said = succeed("store", "migrate", *words, urls["sqlite"], urls["redis"])
    assert said == "s3://b: 1,503 keys\n"
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("DELETE FROM entry WHERE key='a\nb'")
    db.close()
    result = run("store", "check", *words, "--store", urls["sqlite"], "--json")
    assert result.returncode == 1
    (found,) = json.loads(result.stdout)
    assert found["objects"] == 1500 and len(found["wrong"]) == 1
    beat(store, StoreSession("w", "far\n", 7, "1.0", "/mnt", 5, 0, {"lag_s": 0.5}), 600_000)
    shown = succeed("status", "--all", *words, "--store", urls["sqlite"])
    assert shown.startswith(f"{urls['sqlite']}\n  far\\n:/mnt\n    version 1.0, pid 7, since 1970-")
    (told,) = json.loads(succeed("status", "--all", *words, "--store", urls["sqlite"], "--json"))
    assert (told["host"], told["alive"], told["mountpoint"]) == ("far\n", True, "/mnt")
    store.close()
