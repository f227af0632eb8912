"""Locks of files that two mounts of one store share (-o locks=shared): flock, fcntl, and the
programs that rely on them."""

import errno
import fcntl
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import redis as redis_library
from support import servers
from support.clients import plain
from support.mounts import mounted, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mounts(moto, redis_port, tmp_path_factory):
    """Two mounts of one bucket and one Redis, each with a state of its own."""
    plain(moto).create_bucket(Bucket="locks")
    store = f"redis://127.0.0.1:{redis_port}/0"
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                mounted(
                    tmp_path_factory.mktemp(name),
                    moto,
                    "s3://locks",
                    *("--store", store, "--namespace", "locks", "-o", "locks=shared"),
                    sync=False,
                )
            )
            for name in ("one", "two")
        ]


@pytest.fixture
def two(mounts, request):
    """A new directory, in each of the mounts."""
    found = [mount.path / request.node.name for mount in mounts]
    found[0].mkdir()
    wait_until(found[1].exists)
    return found


def _lock(file, kind, start=0, length=0, command=fcntl.F_OFD_SETLK):
    """Ask for a lock of whoever opened *file*, as fcntl(2) has them. Return whether it was got."""
    asked = struct.pack("hhqqixxxx", kind, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(file, command, asked)
    except BlockingIOError:
        return False
    return True


def test_locks_of_one_mount_stand_against_those_of_the_other(two):
    (two[0] / "a").write_text("x" * 100)
    wait_until((two[1] / "a").exists)
    with open(two[0] / "a", "r+") as one, open(two[1] / "a", "r+") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

        # Of ranges, split and joined; they know nothing of flock.
        assert _lock(one, fcntl.F_WRLCK, 0, 30)
        assert _lock(one, fcntl.F_UNLCK, 10, 10)
        assert [_lock(other, fcntl.F_RDLCK, at, 10) for at in (0, 10, 20)] == [False, True, False]
        assert _lock(one, fcntl.F_RDLCK, 20, 10)
        assert [_lock(other, fcntl.F_RDLCK, at, 10) for at in (20, 25, 5)] == [True, True, False]
        found = fcntl.fcntl(other, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        assert struct.unpack("hhqqi4x", found) == (fcntl.F_WRLCK, 0, 0, 10, 0)
    # Closed, all is free: also at once.
    with open(two[0] / "a", "r+") as one, open(two[1] / "a", "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert _lock(other, fcntl.F_WRLCK)
    with open(two[1] / "a", "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Waiting

_WAIT = """
import fcntl, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
file = open(sys.argv[1], "r+")
print("asks", flush=True)
fcntl.lockf(file, fcntl.LOCK_EX)
print(file.read(), flush=True)
"""


def _waiting(path):
    program = subprocess.Popen([sys.executable, "-c", _WAIT, path], stdout=subprocess.PIPE)
    assert program.stdout.readline() == b"asks\n"
    wait_until(lambda: "S" in _state(program))
    return program


def _state(program):
    return Path(f"/proc/{program.pid}/stat").read_text().rpartition(") ")[2].split()[0]


def test_whoever_waits_hears_signals_can_be_killed_and_sees_what_was_written(two):
    (two[0] / "a").write_text("old")
    wait_until((two[1] / "a").exists)
    with open(two[0] / "a", "r+") as one:
        fcntl.lockf(one, fcntl.LOCK_EX)
        programs = [_waiting(two[1] / "a"), _waiting(two[1] / "a"), _waiting(two[0] / "a")]
        programs[0].send_signal(signal.SIGUSR1)
        assert programs[0].stdout.readline() == b"heard\n"
        programs[1].kill()
        programs[1].communicate(timeout=5)
        one.write("new")
    said = {each.communicate(timeout=15)[0] for each in programs if each.returncode is None}
    assert said == {b"new\n"}


# Programs

_ADD = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=120)
db.execute("SELECT count(*) FROM t").fetchone()  # the connection stays, as in a server
for n in range(int(sys.argv[3])):
    db.execute("BEGIN IMMEDIATE")
    last, = db.execute("SELECT max(n) FROM t").fetchone()
    db.execute("INSERT INTO t VALUES(?, ?)", (last + 1, sys.argv[2]))
    db.commit()
"""


def test_sqlite_loses_nothing_where_two_mounts_write_one_file(two):
    with sqlite3.connect(two[0] / "db") as db:
        db.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, who TEXT)")
        db.execute("INSERT INTO t VALUES(0, 'first')")
    db.close()
    wait_until((two[1] / "db").exists)
    who = [
        subprocess.Popen([sys.executable, "-c", _ADD, path / "db", name, "5"])
        for path, name in zip(two, ("one", "two"), strict=True)
    ]
    assert [each.wait(200) for each in who] == [0, 0]
    for path in two:
        db = sqlite3.connect(path / "db")
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")] == list(range(11))
        db.close()


def _count_up(path, times):
    """Return a shell that adds one to the file "n" so often, each time under flock(1)."""
    step = "echo $(($(cat n) + 1)) > n"
    script = f"for i in $(seq {times}); do flock lock sh -c '{step}' || exit 1; done"
    return subprocess.Popen(["sh", "-c", script], cwd=path)


def test_jobs_under_flock_on_two_machines_exclude_each_other(two):
    (two[0] / "n").write_text("0")
    wait_until((two[1] / "n").exists)
    jobs = [_count_up(path, 10) for path in (*two, two[0])]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert [(path / "n").read_text() for path in two] == ["30\n", "30\n"]


def test_git_commits_from_two_machines_in_turn(two):
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "gc.auto=0"]
    subprocess.run([*git, "init", "-q", "r"], cwd=two[0], check=True, timeout=60)
    wait_until((two[1] / "r/.git/HEAD").exists)
    commit = ["flock", "lock", *git, "-C", "r", "commit", "-q", "--allow-empty", "-m", "x"]
    jobs = [subprocess.Popen(commit, cwd=path) for path in (*two, two[0])]
    assert [job.wait(60) for job in jobs] == [0] * 3
    for path in two:
        log = subprocess.check_output([*git, "-C", "r", "log", "--format=%s"], cwd=path)
        assert log == b"x\n" * 3
        subprocess.run([*git, "-C", "r", "fsck"], cwd=path, timeout=60, check=True)


# Where a mount, or the store, is not there


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_lock_that_cannot_be_said_in_the_store_is_refused(mount_at, bucket, tmp_path):
    port = servers.free_port()
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        running.enter_context(servers.redis_at(tmp_path, port, "--appendonly", "yes"))
        store = f"redis://127.0.0.1:{port}"
        path = mount_at(f"s3://{bucket}", "-o", "locks=shared", store=store).path
        (path / "a").write_text("kept")
        with open(path / "a", "r+") as held, open(path / "a", "r+") as other:
            fcntl.flock(held, fcntl.LOCK_EX)
            running.close()
            with pytest.raises(OSError, check=lambda exc: exc.errno == errno.ENOLCK):
                fcntl.flock(other, fcntl.LOCK_SH)
            assert held.read() == "kept"
            held.seek(0)
            held.write("more")
            held.flush()
            with pytest.raises(OSError, check=lambda exc: exc.errno == errno.EIO):
                os.fsync(held)
            stack.enter_context(servers.redis_at(tmp_path, port, "--appendonly", "yes"))
            wait_until(lambda: _synced(held))
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert (path / "a").read_text() == "more"


@pytest.fixture
def redis_of_ours(tmp_path):
    with servers.redis(tmp_path) as port:
        yield port


@pytest.fixture
def theirs(moto, redis_of_ours, tmp_path):
    """Two mounts of one bucket on a Redis of their own."""
    plain(moto).create_bucket(Bucket="lost")
    store = f"redis://127.0.0.1:{redis_of_ours}/0"
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            options = ("--store", store, "-o", "locks=shared")
            one = mounted(tmp_path / name, moto, "s3://lost", *options, sync=False)
            found.append(stack.enter_context(one).path)
        (found[0] / "a").write_text("old")
        wait_until((found[1] / "a").exists)
        yield found


def test_a_redis_that_is_flushed_takes_no_lock_and_gives_none_to_two(theirs, redis_of_ours):
    with open(theirs[0] / "a", "r+") as held, open(theirs[1] / "a", "r+") as other:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert _lock(held, fcntl.F_WRLCK, 0, 1)
        with closing(redis_library.Redis(port=redis_of_ours)) as client:
            client.flushall()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert [_lock(other, fcntl.F_WRLCK, at, 1) for at in (0, 1)] == [False, True]
        held.write("new")
        held.flush()
        os.fsync(held)
        fcntl.flock(held, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert other.read() == "new"


def _synced(file):
    try:
        os.fsync(file)
    except OSError:
        return False
    return True
