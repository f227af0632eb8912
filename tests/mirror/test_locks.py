"""Locks that mounts share: what a row of locks means is what the kernel does, and no interleaving
of mounts, over any store, gives one lock to two. `--interleavings N` runs that many a store."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis as redis_library
from support import servers
from support.far import far
from support.mounts import wait_until

from mimicfs import member as member_module
from mimicfs.backends import EPOCH, Backend, NoteSwap, waiter
from mimicfs.backends.memory import Memory
from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.backends.sessions import StoreSession, beat, epoch
from mimicfs.entry import StoreSaid
from mimicfs.errors import Interrupted, MimicError, PosixError, StoreUnavailable
from mimicfs.locks import shared
from mimicfs.locks.lease import RECLAIM_S, UNSURE_S
from mimicfs.locks.rows import (
    END,
    Lock,
    LockRow,
    added,
    against,
    removed,
    row_of,
    text_of,
    uncovered,
)
from mimicfs.locks.shared import LOCKS, SharedLocks
from mimicfs.member import BEAT_S, Member
from mimicfs.mimicdb import Mirror
from mimicfs.posix import NEVER, Cancellation

_NAME = "b/file"
_SIZE = 8  # bytes that are locked
_LOCK = struct.Struct("hhqqixxxx")
_ALIVE_MS, _DEAD_MS = 3_600_000, -1


# Rows


def _kernel_says(file: Any, wanted: Lock, kind: int) -> bool:
    asked = _LOCK.pack(kind, os.SEEK_SET, wanted.start, wanted.end - wanted.start + 1, 0)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, asked)
    except BlockingIOError:
        return False
    return True


def test_ranges_are_split_and_joined_as_the_kernel_does(tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / "file"
    path.touch()
    for _ in range(40):
        held: tuple[Lock, ...] = ()
        files = [path.open("r+") for _ in range(3)]
        for _ in range(40):
            who = chance.randrange(3)
            start = chance.randrange(_SIZE)
            kind = chance.choice([fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK])
            end = start + chance.randrange(_SIZE)
            wanted = Lock(f"m:{who}", False, kind == fcntl.F_WRLCK, start, end, 0)
            granted = kind == fcntl.F_UNLCK or not against(held, wanted)
            assert _kernel_says(files[who], wanted, kind) == granted
            if granted:
                held = removed(held, wanted) if kind == fcntl.F_UNLCK else added(held, wanted)
            assert uncovered(held, held) == set()
        for file in files:
            file.close()


# Interleavings


class _Member:
    """A mount whose clock the test has. It is silent, or not; the store knows for how long."""

    def __init__(self, backend: Backend, number: int) -> None:
        self.id = f"m{number}"
        self.dead: frozenset[str] = frozenset()
        self.now_s = 0.0
        self._backend = backend
        self.away = False
        self.beat_s = 0.0
        self.say(_ALIVE_MS)

    @property
    def epoch(self) -> str:
        return epoch(self._backend)

    def say(self, lasts_ms: int) -> None:
        session = StoreSession(self.id, "here", 1, "1", "/m", 0, 0, {})
        beat(self._backend, session, lasts_ms)

    @property
    def sure(self) -> bool:
        return not self.away


class _Steps:
    """Lets one thread at a time go on, from one command to the store to the next."""

    def __init__(self, backend: Backend, also: tuple[str, ...] = ()) -> None:
        self._backend = backend
        self._at = {"note", "swap_note", "swap_note_told", "swap_notes", "said", *also}
        self._mine = threading.local()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        self.yields(name)
        return found

    def yields(self, name: str) -> None:
        turns = getattr(self._mine, "turns", None)
        if turns is not None and name in self._at:
            turns[1].release()  # the scheduler's
            turns[0].acquire()

    def run(self, work: Callable[[], None]) -> _Task:
        return _Task(self._mine, work)


class _Task:
    def __init__(self, mine: threading.local, work: Callable[[], None]) -> None:
        self._turns = (threading.Semaphore(0), threading.Semaphore(0))
        self.done = False
        self.failed: BaseException | None = None

        def run() -> None:
            mine.turns = self._turns
            self._turns[0].acquire()
            try:
                work()
            except BaseException as exc:
                self.failed = exc
            self.done = True
            self._turns[1].release()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        self._turns[0].release()
        self._turns[1].acquire()
        if self.failed is not None:
            raise self.failed


class _Mount:
    """A mount with two owners. *believed*: the locks that they were given."""

    def __init__(self, steps: _Steps, backend: Backend, number: int) -> None:
        self.member = _Member(backend, number)
        self.locks = SharedLocks(steps, self.member, lambda: self.member.now_s)  # type: ignore[arg-type]
        self.believed: tuple[Lock, ...] = ()

    def act(self, chance: random.Random) -> None:
        owner = self.locks.owner(chance.randrange(2))
        start, flock = chance.randrange(_SIZE), chance.random() < 0.2
        end = END if flock else start + chance.randrange(_SIZE)
        start = 0 if flock else start
        wanted = Lock(owner, flock, chance.random() < 0.6, start, end, 0)
        if chance.random() < 0.4:
            self.believed = removed(self.believed, wanted)
            self.locks.unlock(_NAME, owner, flock=flock, start=start, end=end)
            return
        if flock:
            self.believed = removed(self.believed, wanted)
        try:
            self.locks.lock(_NAME, wanted, NEVER, wait=False)
        except StoreUnavailable:
            assert self.member.away
        except PosixError:
            pass  # somebody else has it, or its owner has lost one
        else:
            self.believed = added(self.believed, wanted)

    def fall_silent(self) -> None:
        self.member.now_s += UNSURE_S
        self.member.away = True
        self.member.say(_DEAD_MS)

    def come_back(self) -> None:
        self.member.say(_ALIVE_MS)
        self.member.beat_s = self.member.now_s
        self.locks.beaten()
        self.member.away = self.member.now_s > self.member.beat_s

    @property
    def certain(self) -> tuple[Lock, ...]:
        """The locks that it relies on."""
        at = self.locks._files.get(_NAME)
        lost = at.lost if at is not None else set()
        return tuple(each for each in self.believed if each.owner not in lost)


def _run(seed: int, backend: Backend) -> None:
    chance, steps = random.Random(seed), _Steps(backend)
    mounts = [_Mount(steps, backend, number) for number in range(3)]
    tasks: dict[_Mount, list[_Task]] = {mount: [] for mount in mounts}
    for _ in range(chance.randint(20, 60)):
        mount, act = chance.choice(mounts), chance.random()
        if act < 0.3:
            tasks[mount].append(steps.run(lambda mount=mount: mount.act(chance)))  # type: ignore[misc]
        elif act < 0.4 and not mount.member.away:
            mount.fall_silent()
        elif act < 0.55 and mount.member.away:
            tasks[mount].append(steps.run(mount.come_back))
        elif tasks[mount]:
            _step(chance, tasks[mount])
        sure = [each for other in mounts if other.member.sure for each in other.certain]
        assert [(one, against(sure, one)) for one in sure if against(sure, one)] == [], seed
    for mount in mounts:
        while tasks[mount]:
            _step(chance, tasks[mount])
        mount.locks.close()
    backend.set_note(LOCKS, _NAME, None) if any(m.member.away for m in mounts) else None
    assert backend.note(LOCKS, _NAME) is None, seed


def _step(chance: random.Random, tasks: list[_Task]) -> None:
    task = tasks[0]  # those of one mount have their turn one after the other
    task.step()
    if task.done:
        tasks.remove(task)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    with servers.redis_cluster(tmp_path) as port:
        yield f"redis+cluster://127.0.0.1:{port}"


@pytest.fixture(params=["memory", "sqlite", "scripts", "transactions", "cluster"])
def backend(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Backend]:
    kind, namespace = request.param, f"locks-{os.getpid()}-{time.monotonic_ns()}"
    if kind in ("memory", "sqlite"):
        found = open_store("memory:" if kind == "memory" else f"sqlite:{tmp_path}/s.db")
    elif kind == "cluster":
        found = open_store(request.getfixturevalue(kind), namespace)
    else:
        found = RedisBackend(redis_library.Redis.from_url(redis_url), namespace)
        if kind == "transactions":
            found._steps = Transactions(found._client)
    found.set_note("", EPOCH, f"old {found.identity()}")  # a new one is settled after a while
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.usefixtures("caplog")  # it is said which locks were lost
def test_no_interleaving_gives_one_lock_to_two(
    backend: Backend, request: pytest.FixtureRequest
) -> None:
    for seed in range(request.config.getoption("--interleavings")):
        _run(seed, backend)


# The store loses something


class _Losing:
    """A store that is flushed, or becomes what it was before. The test has its clock, and says at
    which commands others have their turn."""

    def __init__(self, backend: Backend) -> None:
        self.steps = _Steps(backend, also=("notes", "set_note", "now_ms", "identity"))
        self.now_s = 1e9
        self.run = 0
        self._backend = backend
        self._copies: list[list[dict[str, str]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.steps, name)

    def now_ms(self) -> int:
        self.steps.yields("now_ms")
        return int(self.now_s * 1000)

    def identity(self) -> str:
        self.steps.yields("identity")
        return f"run{self.run}"

    def said(self) -> StoreSaid:
        return StoreSaid(self.identity(), self.steps.note("", EPOCH))

    def swap_note_told(self, *args: Any, tell: bool) -> tuple[bool, str | None, StoreSaid]:
        return *self.steps.swap_note(*args, tell=tell), self.said()

    def swap_notes(
        self, bucket: str, swaps: Sequence[NoteSwap], *, tell: Sequence[bool]
    ) -> list[tuple[bool, str | None]]:
        both = zip(swaps, tell, strict=True)
        return [self.steps.swap_note(bucket, *each, tell=tells) for each, tells in both]

    def copy(self) -> None:
        """What a replica has, or a snapshot."""
        self._copies.append([self._backend.notes(""), self._backend.notes(LOCKS)])

    def flush(self) -> None:
        self._become([{}, {}])

    def lose(self, chance: random.Random) -> None:
        """Be flushed, begin again, be replaced by a replica that lagged; or be copied."""
        what = chance.randrange(6)
        if what < 3:
            self.copy()
        elif what == 3:
            self.flush()
        else:
            self.run += 1
            if self._copies and what == 4:
                self._become(chance.choice(self._copies[-3:]))

    def _become(self, notes: list[dict[str, str]]) -> None:
        for bucket, texts in zip(("", LOCKS), notes, strict=True):
            now = self._backend.notes(bucket)
            for name in {*now, *texts}:
                to_be = now.get(name), texts.get(name)
                self._backend.swap_note(bucket, name, *to_be, tell=False)


class _Hurries(Cancellation):
    """Somebody who does not wait: he comes again later."""

    def wait(self, future: object, timeout_s: float | None = None) -> Any:
        raise Interrupted("later")


class _Living:
    """A mount with two owners and the beats of the real session."""

    def __init__(self, store: _Losing) -> None:
        self._store = store
        self.member = Member(store, lambda: None, lambda: None)  # type: ignore[arg-type]
        self.clock = lambda: store.now_s
        self.member._beat()
        self.locks = SharedLocks(store, self.member, self.clock)  # type: ignore[arg-type]
        self.locks.beaten()
        self.believed: tuple[Lock, ...] = ()
        self._due_s = 0.0

    @property
    def is_due(self) -> bool:
        return self._store.now_s >= self._due_s

    @is_due.setter
    def is_due(self, _: bool) -> None:
        self._due_s = self._store.now_s + BEAT_S

    def beat(self) -> None:
        self.member._beat()
        self.member.others()
        self.locks.beaten()
        self.member.away = not self.locks._lease._is_sure()

    def act(self, chance: random.Random) -> None:
        wanted = Lock(self.locks.owner(chance.randrange(2)), False, True, 0, 0, 0)
        self.member.away = not self.locks._lease._is_sure()
        if chance.random() < 0.4:
            self.believed = removed(self.believed, wanted)
            self.locks.unlock(_NAME, wanted.owner, flock=False)
            return
        try:
            self.locks.lock(_NAME, wanted, _Hurries(), wait=False)
        except (PosixError, Interrupted, StoreUnavailable):
            pass
        else:
            self.believed = added(self.believed, wanted)

    @property
    def reclaimed(self) -> bool:
        lease = self.locks._lease
        return bool(self.relied_on) and lease.was_ours(lease.number - 1)

    @property
    def relied_on(self) -> tuple[Lock, ...]:
        """The locks under which it would write now."""
        at, lease = self.locks._files.get(_NAME), self.locks._lease
        if at is None or not lease._is_sure() or at.lease != lease.number:
            return ()
        return tuple(each for each in self.believed if each.owner not in at.lost)


def _some_steps(chance: random.Random, tasks: list[_Task]) -> None:
    for _ in range(chance.choice([1, 1, 3, 20])):
        if tasks:
            _step(chance, tasks)


def _run_losing(seed: int, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often locks that had been reclaimed were relied on."""
    chance, store = random.Random(seed), _Losing(backend)
    store.flush()
    monkeypatch.setattr(member_module, "boot_s", lambda: store.now_s)
    mounts = [_Living(store) for _ in range(3)]
    store.now_s += RECLAIM_S
    tasks: dict[_Living, list[_Task]] = {mount: [] for mount in mounts}
    reclaimed = 0
    stopped: _Living | None = None
    for _ in range(chance.randint(50, 200)):
        act, mount = chance.random(), chance.choice(mounts)
        if act < 0.2:
            store.now_s += chance.choice([0.1, 0.5, 1.0])
        elif act < 0.23:
            store.lose(chance)
        elif act < 0.26:
            stopped = mount if stopped is None else None
        elif act < 0.4:
            tasks[mount].append(store.steps.run(lambda mount=mount: mount.act(chance)))  # type: ignore[misc]
        elif mount is not stopped:
            _some_steps(chance, tasks[mount])
        for each in mounts:
            if each.is_due:
                each.is_due = False
                tasks[each].insert(min(1, len(tasks[each])), store.steps.run(each.beat))
        relied = [each for other in mounts for each in other.relied_on]
        assert [(one, against(relied, one)) for one in relied if against(relied, one)] == [], seed
        reclaimed += any(other.reclaimed for other in mounts)
    for mount in mounts:
        while tasks[mount]:
            _step(chance, tasks[mount])
        mount.locks.close()
    return reclaimed


@pytest.mark.slow
@pytest.mark.usefixtures("caplog")
def test_no_store_that_loses_what_it_had_gives_one_lock_to_two(
    backend: Backend, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = range(request.config.getoption("--interleavings"))
    assert sum(_run_losing(seed, backend, monkeypatch) for seed in runs) > 0


# Waiting


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SharedLocks]]:
    monkeypatch.setattr(waiter, "_GLANCE_S", 0.02)  # what is logged in memory wakes nobody
    backend = Memory()
    found = [SharedLocks(backend, _Member(backend, n), lambda: 0.0) for n in range(2)]  # type: ignore[arg-type]
    yield found
    for each in found:
        each.close()


def _wanted(locks: SharedLocks, owner: int, at: int, *, flock: bool = False) -> Lock:
    return Lock(locks.owner(owner), flock, True, at, at, 7)


def _waits(locks: SharedLocks) -> bool:
    return locks.figures()["waiting"] > 0


def test_whoever_waits_is_woken_by_the_log_or_interrupted_at_once(
    pair: list[SharedLocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "LOOK_S", 60.0)  # so it is not a look that finds it
    one, other = pair
    one.lock(_NAME, _wanted(one, 1, 0), NEVER, wait=True)
    cancellation = Cancellation()
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(other.lock, _NAME, _wanted(other, 1, 0), NEVER, wait=True)
        gives_up = pool.submit(other.lock, _NAME, _wanted(other, 2, 0), cancellation, wait=True)
        wait_until(lambda: other.figures()["waiting"] == 2)
        cancellation.cancel()
        with pytest.raises(Interrupted):
            gives_up.result(5)
        assert not waits.done()
        one.unlock(_NAME, one.owner(1), flock=False)
        waits.result(5)
    found = one.standing(_NAME, _wanted(one, 1, 0))
    assert found == _wanted(other, 1, 0)
    assert not _waits(other)


def test_whoever_is_woken_in_vain_looks_at_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "_GLANCE_S", 0.02)
    monkeypatch.setattr(shared, "LOOK_S", 60.0)
    store = _Counted(backend := Memory())
    one = SharedLocks(backend, _Member(backend, 0), lambda: 0.0)  # type: ignore[arg-type]
    other = SharedLocks(store, _Member(backend, 1), lambda: 0.0)  # type: ignore[arg-type]
    for at in (0, 5):
        one.lock(_NAME, _wanted(one, 1, at), NEVER, wait=False)
    with ThreadPoolExecutor(1) as pool:
        wanted = _wanted(other, 1, 0)._replace(end=9)
        waits = pool.submit(other.lock, _NAME, wanted, NEVER, wait=True)
        wait_until(lambda: store.asked.count("notes") == 4)  # who is alive, thrice; who waits
        store.asked.clear()
        one.unlock(_NAME, one.owner(1), flock=False, end=0)
        wait_until(lambda: "note" in store.asked)
        one.unlock(_NAME, one.owner(1), flock=False)
        waits.result(5)
    assert set(store.asked) <= {"note", "swap_note", "swap_note_told", "changes", "said"}
    for each in (one, other):
        each.close()


def test_whoever_waits_in_the_same_mount_is_woken_though_the_store_did_not_answer(
    pair: list[SharedLocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "LOOK_S", 60.0)
    one, _ = pair
    store, swap = one._store, one._store.swap_note
    one.lock(_NAME, _wanted(one, 1, 0), NEVER, wait=False)

    def is_away_once(*_: object, **__: object) -> None:
        monkeypatch.setattr(store, "swap_note", swap)
        raise StoreUnavailable("away")

    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(one.lock, _NAME, _wanted(one, 2, 0), NEVER, wait=True)
        wait_until(lambda: len(row_of(store.note(LOCKS, _NAME)).waiting) == 1)
        monkeypatch.setattr(store, "swap_note", is_away_once)
        with pytest.raises(StoreUnavailable):
            one.unlock(_NAME, one.owner(1), flock=False)
        waits.result(5)


def test_whoever_waits_in_a_circle_is_told_also_across_mounts(pair: list[SharedLocks]) -> None:
    one, other = pair
    one.lock("b/x", _wanted(one, 1, 0), NEVER, wait=True)
    other.lock("b/y", _wanted(other, 1, 0), NEVER, wait=True)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(one.lock, "b/y", _wanted(one, 1, 0), NEVER, wait=True)
        wait_until(lambda: _waits(one))
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EDEADLK):
            other.lock("b/x", _wanted(other, 1, 0), NEVER, wait=True)
        other.unlock("b/y", other.owner(1), flock=False)
        waits.result(5)


_OF_THE_DEAD = Lock("gone:1", False, True, 0, 0, 7)  # of a session that the store does not list


def test_whoever_waits_behind_a_mount_that_is_dead_is_in_no_circle(pair: list[SharedLocks]) -> None:
    one, other = pair
    mine, theirs = _wanted(one, 1, 0), _wanted(other, 1, 0)
    one.lock("b/x", mine, NEVER, wait=True)
    other.lock("b/y", theirs, NEVER, wait=True)
    rows = {"b/x": LockRow((mine,), (_OF_THE_DEAD,)), "b/z": LockRow((_OF_THE_DEAD,), (theirs,))}
    for name, row in rows.items():
        one._store.set_note(LOCKS, name, text_of(row))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(one.lock, "b/y", mine, NEVER, wait=True)
        wait_until(lambda: _waits(one))
        other.unlock("b/y", theirs.owner, flock=False)
        waits.result(5)


def test_those_who_waited_in_a_mount_that_is_dead_are_forgotten(pair: list[SharedLocks]) -> None:
    one, _ = pair
    mine = _wanted(one, 1, 0)
    one.lock(_NAME, mine, NEVER, wait=True)
    for gone in (frozenset[str](), frozenset({"gone"})):  # before we were there, and since
        left = {_NAME: LockRow((mine,), (_OF_THE_DEAD,)), "b/x": LockRow((), (_OF_THE_DEAD,))}
        for name, row in left.items():
            one._store.set_note(LOCKS, name, text_of(row))
        one._member.dead = gone
        one.beaten()
        found = {name: row_of(text) for name, text in one._store.notes(LOCKS).items()}
        assert found == {_NAME: LockRow((mine,), ())}


@pytest.mark.usefixtures("caplog")
def test_a_lock_that_was_taken_is_an_error_until_it_is_given_up() -> None:
    backend = Memory()
    one, other = (_Mount(_Steps(backend), backend, n) for n in range(2))
    told = threading.Event()
    one.locks.when_lost = lambda _: told.set()
    mine, theirs = (_wanted(each.locks, 1, 0) for each in (one, other))
    one.locks.lock(_NAME, mine, NEVER, wait=False)
    one.fall_silent()
    with pytest.raises(StoreUnavailable):
        one.locks.check(_NAME)
    other.locks.lock(_NAME, theirs, NEVER, wait=False)
    one.come_back()
    assert told.wait(5)
    for refused in (
        lambda: one.locks.check(_NAME),
        lambda: one.locks.lock(_NAME, mine._replace(start=5, end=5), NEVER, wait=False),
    ):
        with pytest.raises(MimicError, check=lambda exc: exc.errno == errno.EIO):
            refused()
    one.locks.unlock(_NAME, mine.owner, flock=False)
    one.locks.lock(_NAME, mine._replace(start=5, end=5), NEVER, wait=False)
    assert backend.notes(LOCKS).keys() == {_NAME}


def test_a_lock_that_nobody_has_taken_is_still_there() -> None:
    backend = Memory()
    one, other = (_Mount(_Steps(backend), backend, n) for n in range(2))
    mine, theirs = (_wanted(each.locks, 1, 0) for each in (one, other))
    one.locks.lock(_NAME, mine, NEVER, wait=False)
    one.fall_silent()
    one.come_back()
    one.locks.check(_NAME)
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EAGAIN):
        other.locks.lock(_NAME, theirs, NEVER, wait=False)


class _Counted:
    """A store that counts what it is asked."""

    def __init__(self, backend: Backend) -> None:
        self.asked: list[str] = []
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)

        def ask(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            return found(*args, **kwargs)

        return ask


def test_a_beat_asks_nothing_of_the_locks_unless_they_may_be_lost() -> None:
    store = _Counted(backend := Memory())
    one = _Mount(store, backend, 0)  # type: ignore[arg-type]
    for n in range(3):
        one.locks.lock(f"b/{n}", _wanted(one.locks, 1, 0), NEVER, wait=False)
    one.come_back()
    store.asked.clear()
    one.member.now_s += UNSURE_S - 0.1
    one.come_back()
    one.member.now_s += UNSURE_S - 0.1
    one.locks.check("b/none")  # the lease goes on
    one.come_back()
    assert store.asked == []
    one.fall_silent()
    one.come_back()
    assert store.asked == ["swap_notes"]
    store.asked.clear()
    backend.set_note("", EPOCH, None)
    one.come_back()
    looked = [name for name in store.asked if name in ("swap_notes", "notes")]
    assert looked == ["swap_notes"] + ["notes"] * 2
    store.asked.clear()
    one.come_back()
    assert store.asked == []


@pytest.mark.usefixtures("caplog")
def test_however_much_is_locked_beats_go_on_after_an_outage_and_whoever_uses_a_file_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "_SPENDS_S", 0.0)  # each beat looks at one file
    monkeypatch.setattr(shared, "_TOGETHER", 1)
    store, other = _Counted(backend := Memory()), _Mount(_Steps(backend), backend, 1)
    one = _Mount(store, backend, 0)  # type: ignore[arg-type]
    for n in range(5):
        one.locks.lock(f"b/{n}", _wanted(one.locks, 1, 0), NEVER, wait=False)
    one.come_back()
    one.fall_silent()
    for n in (3, 4):
        other.locks.lock(f"b/{n}", _wanted(other.locks, 1, 0), NEVER, wait=False)
    store.asked.clear()
    one.come_back()
    assert store.asked == ["swap_notes"]
    one.locks.check("b/2")
    with pytest.raises(PosixError, match="its lock is lost"):
        one.locks.check("b/3")
    assert one.locks.figures()["lost"] == 1
    for _ in range(4):
        one.come_back()
    assert one.locks.figures()["lost"] == 2
    store.asked.clear()
    one.come_back()
    assert store.asked == []


@pytest.mark.usefixtures("caplog")
def test_locks_that_the_store_lost_are_noticed_at_the_next_beat() -> None:
    backend = Memory()
    one = _Mount(_Steps(backend), backend, 0)
    for n in range(2):
        one.locks.lock(f"b/{n}", _wanted(one.locks, 1, 0), NEVER, wait=False)
    backend.set_note(LOCKS, "b/0", None)
    backend.set_note("", EPOCH, None)
    one.come_back()
    assert one.locks.figures() == {"held": 2, "waiting": 0, "lost": 1}


def test_what_a_store_that_lost_something_has_again_is_given_up(pair: list[SharedLocks]) -> None:
    one, other = pair
    one.lock(_NAME, _wanted(one, 1, 0), NEVER, wait=False)
    row = one._store.note(LOCKS, _NAME)
    one.unlock(_NAME, one.owner(1), flock=False)
    one._store.set_note(LOCKS, _NAME, row)  # a replica that lagged
    one._store.set_note("", EPOCH, None)
    one.beaten()
    other.lock(_NAME, _wanted(other, 1, 0), NEVER, wait=False)


@pytest.mark.usefixtures("caplog")
def test_a_lock_that_a_new_epoch_has_still_is_no_lost_one_though_it_is_renewed_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "_SPENDS_S", 0.0)  # each beat looks at one file
    monkeypatch.setattr(shared, "_TOGETHER", 1)
    store = _Losing(Memory())
    monkeypatch.setattr(member_module, "boot_s", lambda: store.now_s)
    one, other = _Living(store), _Living(store)
    store.now_s += RECLAIM_S
    for each in (one, other):
        each.beat()
    for n in range(9):
        one.locks.lock(f"b/{n}", _wanted(one.locks, 1, 0), NEVER, wait=False)
    store.run += 1  # begins again, and has lost nothing
    for _ in range(math.ceil(RECLAIM_S / BEAT_S) + 1):
        one.beat()
        other.beat()
        store.now_s += BEAT_S
    other.locks.lock("b/8", _wanted(other.locks, 1, 5), NEVER, wait=False)  # changes the row
    one.beat()
    one.locks.check("b/8")
    assert one.locks.figures() == {"held": 9, "waiting": 0, "lost": 0}


@pytest.mark.slow
@pytest.mark.usefixtures("caplog")
def test_a_thousand_locks_are_reclaimed_in_time_from_a_redis_that_is_far_away(
    tmp_path: Path,
) -> None:
    with servers.redis(tmp_path) as port, far(port) as way:
        mirrors = [Mirror(open_store(f"redis://127.0.0.1:{way.port}")) for _ in range(2)]
        for each in mirrors:
            each.join("/mnt")
        one, other = (each.locks() for each in mirrors)
        wanted = [(f"b/{n}", _wanted(one, 1, 0)) for n in range(1_000)]
        for name, lock in wanted:
            one.lock(name, lock, NEVER, wait=False)
        way.delay_s = 0.005
        with redis_library.Redis(port=port) as redis:
            redis.flushall()
            wait_until(lambda: redis.hlen("mimicfs:{/locks}:notes") == len(wanted))
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EAGAIN):
            other.lock("b/999", _wanted(other, 1, 0), NEVER, wait=False)
        assert one.figures() == {"held": 1_000, "waiting": 0, "lost": 0}
        for locks, mirror in zip((one, other), mirrors, strict=True):
            way.delay_s = 0.0
            locks.close()
            mirror.close()


def test_what_is_owed_stays_so_where_the_store_is_away_again(
    pair: list[SharedLocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    one, other = pair
    one.lock(_NAME, _wanted(one, 1, 0), NEVER, wait=False)
    with monkeypatch.context() as patch:
        for call in ("note", "swap_note"):
            patch.setattr(one._store, call, is_away)
        with pytest.raises(StoreUnavailable):
            one.unlock(_NAME, one.owner(1), flock=False)
        with pytest.raises(StoreUnavailable):
            one.beaten()
    one.beaten()
    other.lock(_NAME, _wanted(other, 1, 0), NEVER, wait=False)
