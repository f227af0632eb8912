"""The promises of backends/__init__.py, kept by every backend."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.mounts import wait_until

from mimicfs.backends.default import Redis
from mimicfs.backends.memory import Memory
from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend, layout
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.backends.sqlite import SQLite, waiting
from mimicfs.entry import Entry, Scope
from mimicfs.errors import (
    ConfigError,
    StoreCorrupt,
    StoreTooNew,
    StoreUnavailable,
)

_numbers = itertools.count()
KINDS = ["memory", "sqlite", "sqlite file", "redis"]
SHARED = ["sqlite file", "redis"]


def opened(kind, tmp_path, request, namespace):
    if kind == "memory":
        return Memory()
    if kind == "sqlite":
        return SQLite(namespace=namespace)
    if kind == "sqlite file":
        return SQLite(str(tmp_path / "store.db"), namespace=namespace)
    return RedisBackend.from_url(request.getfixturevalue("redis_url"), namespace)


@pytest.fixture
def namespace():
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(params=KINDS)
def backend(request, tmp_path, namespace):
    backend = opened(request.param, tmp_path, request, namespace)
    yield backend
    backend.close()


@pytest.fixture(params=SHARED)
def pair(request, tmp_path, namespace):
    """Two openings of one store, as two processes have them."""
    both = [opened(request.param, tmp_path, request, namespace) for _ in range(2)]
    yield both
    for backend in both:
        backend.close()


def keys(entries):
    return [entry.key for entry in entries]


def fill(backend, *names):
    backend.apply("b", [Entry(name, 1) for name in names])


# All together


@pytest.mark.slow
def test_all_backends_do_the_same(request, tmp_path, namespace):
    backends = [opened(kind, tmp_path, request, namespace) for kind in KINDS]
    backends.append(opened("redis", tmp_path, request, f"{namespace}-t"))
    backends[-1]._steps = Transactions(backends[-1]._client)
    dice = random.Random(1)
    names = ["a", "b", "a/", "a/b", "a//b", "/a", "a/b/c", "a-", "a/b/", "c/d/e", "c/", "x\0y", "é"]

    def same(ask):
        answers = [ask(backend) for backend in backends]
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    for _ in range(120):
        puts = [
            Entry(key, dice.randrange(9), dice.randrange(99), "e",
                  meta=dice.choice([None, {"m": "1"}]),
                  kind=dice.choice([0, 0, 1, 2]) if key.endswith("/") else 0)
            for key in dice.sample(names, dice.randrange(4))
        ]  # fmt: skip
        deletes = dice.sample(names, dice.randrange(3))
        since = None if dice.random() < 0.5 else max(0, backends[0].seq("b") - dice.randrange(6))
        same(lambda backend: backend.apply("b", puts, deletes, since))  # noqa: B023
        for directory in ["", "a/", "a//", "c/", "/", "c/d/"]:
            direct = [
                n for n in names if n.startswith(directory) and "/" not in n[len(directory) : -1]
            ]
            after, limit = dice.choice(["", *direct]), dice.choice([1, 2, 100])
            same(lambda backend: backend.children("b", directory, after, limit))  # noqa: B023
            same(lambda backend: backend.scan("b", directory, after, limit))  # noqa: B023
            for name in ["a", "b", "", "c"]:
                same(lambda backend: backend.lookup("b", directory, name))  # noqa: B023
        same(lambda backend: backend.buckets())
        same(lambda backend: [c[:3] for c in backend.changes("b", max(0, backend.seq("b") - 5))])
    for backend in backends:
        backend.close()


def test_another_opening_sees_each_change_and_whose_it_is(pair):
    one, other = pair
    waiter = other.waiter()
    waiter.wait({"b": 0}, 0)
    fill(one, "a", "d/b")
    assert list(waiter.wait({"b": 0}, 10)) == ["b"]
    waiter.close()
    assert [(c.first, c.origin == one.origin) for c in other.changes("b", 0)] == [
        ("a", True),
        ("d/b", True),
    ]
    assert one.origin != other.origin
    other.apply("b", [Entry("c")], ["a"])
    assert keys(one.scan("b")) == ["c", "d/b"]


# SQLite


@pytest.mark.slow
@pytest.mark.parametrize("looks_s", [(60,), (0.01,) * 500], ids=["word of it", "no word of it"])
def test_a_commit_is_heard_of(tmp_path, monkeypatch, looks_s):
    """mimicfs says that it has committed, and whoever waits for that looks once. Another program
    says nothing; then it is looked for."""
    monkeypatch.setattr(waiting, "_LOOKS_S", looks_s)
    path = str(tmp_path / "store.db")
    one, other = SQLite(path), SQLite(path)
    program = sqlite3.connect(path, isolation_level=None)
    waiter = other.waiter()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(waiter.wait, {"b": 0}, 0).result()
        for number in range(20):
            woken = threads.submit(waiter.wait, {"b": 0}, 60)
            if looks_s == (60,):
                fill(one, f"{number}")
            else:
                program.execute("UPDATE bucket SET seq=seq+1")
            assert woken.result(30) == ["b"]
    waiter.close()
    for each in (one, other, program):
        each.close()


def test_whoever_commits_many_times_looks_at_that_a_hundred_times_a_second(tmp_path):
    store, looks = SQLite(str(tmp_path / "store.db")), 0
    waiter, done = store.waiter(), threading.Event()

    def follow():
        nonlocal looks
        while not done.is_set():
            looks += bool(waiter.wait({"b": 0}, 0.1))

    with ThreadPoolExecutor(1) as threads:
        followed, begun_s = threads.submit(follow), time.monotonic()
        for number in range(400):
            fill(store, f"{number}")
        done.set()
        followed.result(10)
        took_s = time.monotonic() - begun_s
    waiter.close()
    store.close()
    assert 1 <= looks <= 2 + took_s / 0.01


_WAITS = """
import logging, sys
from mimicfs.backends.sqlite import SQLite
logging.basicConfig(format="%(message)s")
waiter = SQLite(sys.argv[1]).waiter()
waiter.wait({"b": 0}, 0)
print("waits", flush=True)
print(waiter.wait({"b": 0}, 60), waiter.wait({"b": 0}, 0.1))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="its limit of inotify is root's to set")
@pytest.mark.parametrize(("most", "said"), [(0, 1), (1, 0)])
def test_without_inotify_commits_are_looked_for_and_that_is_said_once(tmp_path, most, said):
    path = str(tmp_path / "store.db")
    store = SQLite(path)
    limited = f'echo {most} > /proc/sys/user/max_inotify_instances && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", limited, "sh"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*words, sys.executable, "-c", _WAITS, path], **pipes) as process:
        assert process.stdout.readline() == "waits\n"
        fill(store, "a")
        answer, errors = process.communicate(timeout=60)
    assert answer == "['b'] []\n"
    assert errors.count("looked for 20 times a second") == errors.count("\n") == said
    store.close()


def test_who_knows_our_changes_is_woken_by_those_of_others_only(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "_GATHERINGS", 10**9)
    ours, theirs = (SQLite(str(tmp_path / "store.db")) for _ in range(2))
    waiter = ours.waiter()
    waiter.ours_later = True
    waiter.wait({"b": 0}, 0)
    looks = []
    others = ours._db.others
    monkeypatch.setattr(ours._db, "others", lambda: looks.append(others()) or looks[-1])
    fill(ours, "a")
    with ThreadPoolExecutor() as pool:
        gathered = pool.submit(waiter._gather)
        wait_until(lambda: len(looks) > 5)
        assert not gathered.done()
        fill(theirs, "b")
        gathered.result(60)
    assert waiter.wait({"b": 0}, 60) == ["b"]
    waiter.close()
    ours.close()
    theirs.close()


def test_who_waits_for_commits_does_not_wait_for_a_thread_that_cannot_write(tmp_path):
    store = SQLite(str(tmp_path / "store.db"))
    waiter = store.waiter()
    waiter.ours_later = True
    waiter.wait({"b": 0}, 0)
    fill(store, "a")
    with ThreadPoolExecutor() as pool:
        with store._db.lock:  # as who waits for another process to commit has it
            pool.submit(waiter._gather).result(20)
            assert pool.submit(store._db.others).result(20) == -1
    assert store._db.others() > 0
    waiter.close()
    store.close()


def test_a_commit_touches_no_file_but_its_own_log(tmp_path, monkeypatch):
    """The path of a database is any bytes, and one in memory has no log."""
    monkeypatch.chdir(tmp_path)
    beside = tmp_path / "-wal"
    beside.touch()
    os.utime(beside, (1, 1))
    (tmp_path / "caf\udce9").mkdir()
    for path, uri in (("caf\udce9/store.db", False), ("file:x?mode=memory&cache=shared", True)):
        store = SQLite(path, uri=uri)
        fill(store, "a")
        waiter = store.waiter()
        waiter.wait({"b": 0}, 0)
        waiter.close()
        store.close()
    assert beside.stat().st_mtime == 1


def test_kill_9_leaves_whole_batches(tmp_path):
    path = tmp_path / "store.db"
    program = (
        "import sys; from mimicfs.backends.sqlite import SQLite; from mimicfs.entry import Entry\n"
        f"store = SQLite({str(path)!r})\n"
        "for n in range(10**9):\n"
        "    store.apply('b', [Entry(f'{n:06}/{i}', 1) for i in range(50)])\n"
        "    if n == 5: print('going', flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"going\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    store = SQLite(str(path))
    bucket = store.bucket("b")
    assert bucket.objects % 50 == 0
    assert bucket.objects == bucket.bytes == len(store.scan("b", limit=10**9)) == bucket.seq
    store.close()


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    path = str(tmp_path / "store.db")
    SQLite(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 4")
    db.close()
    with pytest.raises(StoreTooNew, match=r"store\.db: written by a newer mimicfs"):
        SQLite(path)


def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path):
    text, foreign = tmp_path / "text.db", tmp_path / "foreign.db"
    text.write_text("just some text, long enough to be no database header\n" * 20)
    with pytest.raises(StoreCorrupt, match=r"text\.db"):
        SQLite(str(text))
    assert text.read_text().startswith("just some text")
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine(x)")
    db.close()
    with pytest.raises(StoreCorrupt, match="not a mimicfs store"):
        SQLite(str(foreign))


def test_the_file_is_ours_alone(tmp_path):
    path = tmp_path / "sub/store.db"
    SQLite(str(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_namespaces_are_apart(tmp_path):
    one, other = (SQLite(str(tmp_path / "s.db"), namespace=name) for name in ("one", "other"))
    fill(one, "a")
    assert other.buckets() == []
    assert other.get("b", "a") is None
    one.close()
    other.close()


# Redis


def test_redis_that_is_not_there_or_refuses_says_so_without_the_password(tmp_path):
    from support import servers

    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9: no answer") as raised:
        RedisBackend.from_url("redis://:hunter2@127.0.0.1:9/0")
    assert "hunter2" not in str(raised.value)
    with servers.redis(tmp_path, "--requirepass", "hunter2") as port:
        url = f"redis://127.0.0.1:{port}/0"
        for password in (None, "wrong"):
            with pytest.raises(StoreUnavailable, match="MIMICFS_STORE_PASSWORD") as raised:
                RedisBackend.from_url(url, password=password)
            assert "hunter2" not in str(raised.value)
        store = RedisBackend.from_url(url, password="hunter2")
        fill(store, "a")
        store.close()


def test_redis_that_may_evict_is_never_complete(tmp_path, caplog):
    from support import servers

    options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]
    with servers.redis(tmp_path, *options) as port:
        store = Redis(host="127.0.0.1", port=port, namespace="x")
        store.mark("b", Scope("", True, 1))
        assert store.cover("b", "") is None
        assert "allkeys-lru" in caplog.text
        store.close()


def test_a_newer_redis_store_is_refused(redis_url, namespace):
    store = RedisBackend.from_url(redis_url, namespace)
    store._client.set(f"mimicfs:{namespace}:version", layout.VERSION + 1)
    with pytest.raises(StoreTooNew):
        RedisBackend.from_url(redis_url, namespace)
    store.close()


def test_only_keys_of_the_namespace_are_touched(redis_url, namespace):
    store = RedisBackend.from_url(redis_url, namespace)
    fill(store, "a", "d/b")
    store.drop_bucket("b")
    left = list(store._client.scan_iter(f"mimicfs:{namespace}:*"))
    assert f"mimicfs:{namespace}:{{b}}:d:d/".encode() not in left
    store.close()


# URLs


def test_a_store_is_opened_by_its_url(tmp_path):
    store = open_store(f"sqlite://{tmp_path}/x.db")
    assert isinstance(store, SQLite)
    store.close()
    assert isinstance(open_store("memory:"), Memory)
    assert (tmp_path / "x.db").exists()


def test_a_mistyped_directory_of_a_store_is_named_and_not_made(tmp_path):
    with pytest.raises(ConfigError) as caught:
        open_store(f"sqlite://{tmp_path}/tpyo/dir/x.db")
    assert str(caught.value) == (
        f"sqlite://{tmp_path}/tpyo/dir/x.db: there is no directory {tmp_path}/tpyo;"
        f" correct the path, or mkdir -p {tmp_path}/tpyo/dir"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["", "sqlite:", "postgres://x", "/tmp/x.db"])
def test_what_names_no_store_is_refused(url):
    with pytest.raises(ConfigError):
        open_store(url)


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path):
    path = str(tmp_path / "store.db")
    store = SQLite(path)
    store.apply("b", [Entry("k", 1, 2, "etag", "GLACIER", {"a": "b"})])
    store.close()
    with sqlite3.connect(path) as db:  # as version 1 made it
        db.execute("ALTER TABLE entry DROP COLUMN head")
        db.execute("ALTER TABLE scope DROP COLUMN names")
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = SQLite(path)
    assert store.get("b", "k") == Entry("k", 1, 2, "etag", "GLACIER", {"a": "b"})
    store.apply("b", [Entry("k", 1, head="[]")])
    assert store.get("b", "k").head == "[]"
    store.close()


def test_a_store_can_be_entered_at_a_namespace(pair):
    one, other = pair
    one.enter("photos")
    one.apply("b", [Entry("k")])
    assert other.get("b", "k") is None
    other.enter("photos")
    assert other.get("b", "k") == Entry("k")
