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
import threading
import time

import pytest
from support.mounts import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
]


@pytest.fixture(params=["redis", "sqlite"])
def shared_store(request, tmp_path):
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite://{tmp_path}/shared.db"


@pytest.fixture
def mounts(mount_at, bucket, shared_store, tmp_path):
    return [
        mount_at(
            f"s3://{bucket}",
            *("-o", "locks=shared", "--cache-dir", str(tmp_path / f"cache-{name}")),
            name=name,
            store=shared_store,
        )
        for name in ("one", "two")
    ]


@pytest.fixture
def two(mounts):
    return [mount.path for mount in mounts]


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
        subprocess.Popen([sys.executable, "-c", _ADD, path / "db", name, "8"])
        for path, name in zip(two, ("one", "two"), strict=True)
    ]
    assert [each.wait(200) for each in who] == [0, 0]
    for path in two:
        db = sqlite3.connect(path / "db")
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")] == list(range(17))
        db.close()
