"""A bucket in Redis is dropped at one moment, however many steps its rows take to go, and whatever
others do meanwhile."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from redis.connection import AbstractConnection
from support import servers

from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.entry import Entry, Scope
from mimicfs.errors import LogTrimmed

pytestmark = pytest.mark.slow  # starts Redis servers and a cluster

OLD = [Entry(f"d/{n:03}", 1) for n in range(300)] + [Entry("e/x", 1)]
NEW = [Entry(f"d/{n:03}", 1) for n in range(150, 450)] + [Entry("f/y", 1)]
WHOLE = Scope("", True, 1, len(NEW))

_used: set[AbstractConnection] = set()
_names = (f"b{n}" for n in itertools.count())

Acts = dict[int, list[Callable[[], object]]]
Two = tuple[RedisBackend, RedisBackend]


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("redis")
    if request.param == "cluster":
        with servers.redis_cluster(place) as port:
            yield f"redis+cluster://127.0.0.1:{port}"
    else:
        with servers.redis(place) as port:
            yield f"redis://127.0.0.1:{port}"


@pytest.fixture(params=["scripts", "transactions"])
def two(url: str, request: pytest.FixtureRequest) -> Iterator[Two]:
    """Two programs that share a store; the second has scripts or transactions, the first the
    other."""
    stores = [open_store(url, "dropping") for _ in range(2)]
    one, other = (store for store in stores if isinstance(store, RedisBackend))
    changed = one if request.param == "scripts" else other
    changed._steps = Transactions(changed._client)
    yield one, other
    one.close()
    other.close()
    while _used:  # redis-py forgets a connection of a cluster whose transaction was refused
        _used.pop().disconnect()


@pytest.mark.parametrize("url", ["cluster"], indirect=True)
def test_a_closed_store_in_a_cluster_has_no_connection_left(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with before_packets(monkeypatch, {}):
        store = open_store(url, "closed")
        store.apply("b", [Entry("a", 1)])
        store.close()
    assert _used
    assert [each for each in _used if each._sock is not None] == []


both = pytest.mark.parametrize("url", ["server", "cluster"], indirect=True)


class _Killed(Exception):
    pass


class Lister:
    """A program that finds *bucket* made anew, and lists it in two pages."""

    def __init__(self, store: RedisBackend, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._since = 0

    def first(self) -> None:
        self._since = self._store.seq(self._bucket)
        self._store.apply(self._bucket, NEW[:200], since=self._since)

    def second(self) -> None:
        try:
            self._store.apply(self._bucket, NEW[200:], since=self._since)
        except LogTrimmed:  # dropped since: it begins anew
            self._store.apply(self._bucket, NEW)
        self._store.mark(self._bucket, WHOLE, self._store.seq(self._bucket))


@contextmanager
def before_packets(monkeypatch: pytest.MonkeyPatch, acts: Acts) -> Iterator[list[int]]:
    """Within, run *acts* before the packets of these numbers, or, if fewer are sent, after them;
    yield what has how many were sent."""
    send, sent, acting = AbstractConnection.send_packed_command, [0], [False]

    def late(connection: AbstractConnection, *args: object, **options: object) -> None:
        _used.add(connection)
        if not acting[0]:
            acting[0] = True
            sent[0] += 1
            try:
                for act in acts.get(sent[0], []):
                    act()
            finally:
                acting[0] = False
        send(connection, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", late)
        yield sent
    for at in sorted(acts):  # a connection may have been new when packets were counted
        for act in acts[at] if at > sent[0] else []:
            act()


def filled(store: RedisBackend) -> str:
    """Return a bucket that *store* knows whole."""
    bucket = next(_names)
    store.apply(bucket, OLD)
    store.mark(bucket, WHOLE)
    return bucket


def kinds(store: RedisBackend, bucket: str) -> set[str]:
    """The keys of *bucket*, without what all have in common."""
    found = store.client.scan_iter(f"{store._tag(bucket)}:*")
    return {key.decode().partition("}:")[2] for key in found}


def is_there(store: RedisBackend, bucket: str) -> bool:
    """Whether *bucket* is there; then it is as it was made anew, and else nothing is."""
    known, found = store.bucket(bucket), store.scan(bucket)
    listed = [each.name for each in store.buckets()]
    if known is None:
        assert (found, store.scopes(bucket), bucket in listed) == ([], [], False)
        assert kinds(store, bucket) == {"meta"}
        return False
    assert found == NEW
    assert (store.scopes(bucket), bucket in listed) == ([WHOLE], True)
    assert (known.objects, known.bytes) == (len(NEW), len(NEW))
    assert store.orphans(bucket) == []
    store.apply(bucket, [], [entry.key for entry in NEW])
    assert kinds(store, bucket) == {"meta", "log", "scopes"}
    return True


@both
def test_what_is_recorded_while_a_bucket_is_dropped_is_all_there_or_all_gone(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each two steps of the drop, another program lists the bucket, which was made anew."""
    dropper, other = two
    dropper.drop_bucket(filled(dropper))  # its connections are made
    bucket = filled(other)
    with before_packets(monkeypatch, {}) as sent:
        dropper.drop_bucket(bucket)
    assert not is_there(other, bucket)
    outcomes = set()
    for first, second in itertools.combinations_with_replacement(range(1, sent[0] + 1), 2):
        bucket = filled(other)
        lister, acts = Lister(other, bucket), Acts()
        acts.setdefault(first, []).append(lister.first)
        acts.setdefault(second, []).append(lister.second)
        with before_packets(monkeypatch, acts):
            dropper.drop_bucket(bucket)
        outcomes.add(is_there(dropper, bucket))
    assert outcomes == {True, False}


@both
def test_what_was_listed_before_a_bucket_was_dropped_does_not_count_as_listed(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is marked at each step of the drop; and dropped, and made anew, at each step of that."""
    dropper, other = two

    def marks() -> None:
        with suppress(LogTrimmed):
            other.mark(bucket, WHOLE, since)

    def drops() -> None:
        dropper.drop_bucket(bucket)
        dropper.add_bucket(bucket, 1)

    for outer, inner in ((drops, marks), (marks, drops)):
        bucket, since = filled(other), 0
        with before_packets(monkeypatch, {}) as sent:
            outer()
        for at in range(1, sent[0] + 1):
            bucket = filled(other)
            since = other.seq(bucket)
            with before_packets(monkeypatch, {at: [inner]}):
                outer()
            assert (other.scan(bucket), other.scopes(bucket)) == ([], [])
            other.mark(bucket, WHOLE, other.seq(bucket))
            assert dropper.scopes(bucket) == [WHOLE]


@pytest.mark.parametrize("url", ["server"], indirect=True)
def test_a_directory_is_marked_without_a_look_at_all_that_are_listed(two: Two) -> None:
    def looks() -> int:
        calls: int = two[0].client.info("commandstats")["cmdstat_hkeys"]["calls"]
        return calls

    for store in two:
        bucket = filled(store)
        before = looks()
        store.mark(bucket, Scope("d/", False, 2), store.seq(bucket))
        store.mark(bucket, Scope("e/", False, 2))
        assert looks() == before


@both
def test_what_a_killed_program_has_dropped_in_part_is_gone_and_its_keys_go_with_the_next_drop(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropper, other = two
    bucket = filled(other)

    def dies() -> None:
        if other.bucket(bucket) is None:
            raise _Killed

    with pytest.raises(_Killed):
        with before_packets(monkeypatch, {at: [dies] for at in range(1, 100)}):
            dropper.drop_bucket(bucket)
    assert len(kinds(other, bucket)) > 3
    for store in two:
        assert (store.bucket(bucket), store.scan(bucket), store.scopes(bucket)) == (None, [], [])
    Lister(other, bucket).second()
    assert dropper.drop_bucket(bucket)
    assert not is_there(other, bucket)


@both
def test_what_is_recorded_in_a_redis_that_was_flushed_while_a_bucket_is_dropped_stays_whole(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows have the keys of those that are just being deleted."""
    dropper, other = two

    def flushes() -> None:
        other.client.flushall()
        other.apply(bucket, NEW)

    bucket = filled(other)
    with before_packets(monkeypatch, {}) as sent:
        dropper.drop_bucket(bucket)
    for at in range(1, sent[0] + 1):
        bucket = filled(other)
        with before_packets(monkeypatch, {at: [flushes]}):
            dropper.drop_bucket(bucket)
        assert other.scan(bucket) == (NEW if other.bucket(bucket) else [])


@both
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_who_reads_or_writes_meanwhile_finds_the_old_or_the_new(
    two: Two, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Another program drops the bucket, makes it anew and lists it before packet *at*."""
    store, dropper = two

    def children() -> list[Entry]:
        return store.children(bucket, "d/", "", 1000)

    def lookup() -> bool:
        return store.lookup(bucket, "d/", "400")[0] is not None

    def writes() -> bool:
        return store.apply(bucket, [Entry("g", 1)]) == set()

    def begins() -> Entry | None:
        return store.begin_seeing(bucket, "d/400", "t", 1000, "note", 1).entry

    possible: dict[Callable[[], object], list[object]] = {
        children: [OLD[:-1], NEW[:-1]],
        lookup: [False, True],
        writes: [True],
        begins: [None, Entry("d/400", 1)],
    }
    for asks, answers in possible.items():
        bucket = filled(store)
        lister = Lister(dropper, bucket)
        drop = functools.partial(dropper.drop_bucket, bucket)
        with before_packets(monkeypatch, {at: [drop, lister.second]}) as sent:
            assert asks() in answers
        new = [*NEW, Entry("g", 1)] if store.get(bucket, "g") else NEW
        if sent[0] >= at:
            assert store.scan(bucket) == new
            assert store.bucket(bucket) == dropper.bucket(bucket)
            known = store.bucket(bucket)
            assert known is not None
            assert known.objects == len(new)
            assert store.orphans(bucket) == []
