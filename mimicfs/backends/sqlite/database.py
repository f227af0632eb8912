"""The file of a store: how it is opened, and who reads and writes it.

Threading: a file is read by a connection for each thread, which ends with the thread, and written
by one connection under a lock; WAL lets them go on beside each other, and beside other processes. A
database in memory has one connection, under the lock.

SQLite's connections do not outlive a fork: the child would hold none of their locks, and write into
a log that others remove. So a child closes those of all threads of its parent, and has new ones.
That it can close them, no thread is in the middle of a call of SQLite when a process forks: each
call is made within the lock of its connection, and a fork waits for all of them.

A file that is moved, replaced or deleted while it is in use is no longer anybody else's store: a
program that opens its path gets another one. So before a thread connects, before each change, and
at each beat of the session, we look whether the path still leads to the file; while it does not,
nothing is answered.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mimicfs.backends.sqlite import runs, schema
from mimicfs.errors import (
    ConfigError,
    StoreCorrupt,
    StoreError,
    StoreReplaced,
    StoreUnavailable,
)
from mimicfs.private import check_file, make_directory

log = logging.getLogger(__name__)

_ENDING_S = 1.0  # a thread that ends waits so long for a fork
_WRITER_S = 0.1  # whoever only asks who has committed waits so long for the writer
# The parameters of sqlite3.connect, in its order.
_CONNECT = (
    "database",
    "timeout",
    "detect_types",
    "isolation_level",
    "check_same_thread",
    "factory",
    "cached_statements",
    "uri",
)


# Held while a connection is opened, or that of a thread is closed; taken after Database.lock.
_connecting = threading.RLock()


class OfThread(threading.local):
    """What each thread that reads has to itself."""

    def __init__(self) -> None:
        # A connection, and the lock within which it is used, taken after all others here.
        self.reads: tuple[sqlite3.Connection, threading.RLock] | None = None
        self.ends: _EndOfThread | None = None  # what closes it
        self.keeps = False  # `version` is asked for once
        self.version = 0  # as it was asked for last; 0: it is to be asked


class _EndOfThread:
    """Closes *db*, one of *connections*, when the thread ends that has this."""

    def __init__(
        self, db: sqlite3.Connection, connections: dict[sqlite3.Connection, threading.RLock]
    ) -> None:
        self._db, self._connections = db, connections
        self._pid, self._connecting = os.getpid(), _connecting

    def __del__(self) -> None:
        if self._pid != os.getpid():  # threads end in a child, too, which it does not have
            return
        held = self._connecting.acquire(timeout=_ENDING_S)
        self._connections.pop(self._db, None)
        self._db.close()
        if held:
            self._connecting.release()


class OneState:
    """Within, the thread asks once for the version."""

    __slots__ = ("_local",)

    def __init__(self, local: OfThread) -> None:
        self._local = local

    def __enter__(self) -> None:
        self._local.keeps, self._local.version = True, 0

    def __exit__(self, *_: object) -> None:
        self._local.keeps = False


class Database:
    """The database that sqlite3.connect opens with *args* and *kwargs*; without, in memory.
    Raises StoreTooNew, StoreCorrupt, StoreUnavailable. Any other failure is sqlite3.Error, of which
    `error` makes one of ours."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(_CONNECT, args, strict=False)) | kwargs
        path = given.pop("database", ":memory:")
        self._waits = "timeout" in given
        self._kwargs = given | {"check_same_thread": False, "isolation_level": None}
        self._path = str(path)
        self.in_memory = self._path in ("", ":memory:")
        # Threads connect later, and the program may be in another directory by then.
        self._args = (path if self.in_memory or given.get("uri") else os.path.abspath(path),)
        self.lock = threading.RLock()  # the writer's
        self.commits = 0  # of this object; of `lock`
        self._taught: sqlite3.Connection | None = None  # the writer that `wrote` has prepared
        self._before = 0  # added to versions: more than the parent of a fork was told
        self.local = OfThread()
        # Each, and the lock within which it is used; of `_connecting`.
        self._connections: dict[sqlite3.Connection, threading.RLock] = {}
        self._file: tuple[int, int] | None = None  # device and inode; None: in memory, or a URI
        self._gone = False  # the path did not lead to it at the last look, or:
        self._forked = False  # this process was, since it was opened
        self._held: list[threading.RLock] = []  # by the thread that forks
        try:
            self._open()
        except sqlite3.Error as exc:
            self.close()
            raise self.error(exc) from exc
        except BaseException:
            self.close()
            raise

    def _found_log(self) -> str | None:
        """Return the path of the write-ahead log, which commits are written to; None: there is none
        (in memory)."""
        if not self._kwargs.get("uri"):
            return None if self.in_memory else f"{os.fsdecode(self._args[0])}-wal"
        _, _, file = self._writer.execute("PRAGMA database_list").fetchone()
        return f"{file}-wal" if file else None

    def _open(self) -> None:
        path = None if self.in_memory or self._kwargs.get("uri") else Path(self._path)
        found = _created(path) if path is not None else None
        self._writer = self._connect(self.lock)
        self.log_path = self._found_log()
        left, lost = runs.was_left(self.log_path), False
        with self.writing() as db:
            schema.check(db, self._path)
            if not self.in_memory:
                lost = runs.begin(db, left=left)
        if lost:
            log.warning(
                "%s: the machine stopped while it was in use, and its last changes may be lost:"
                " mimicfs asks S3 about its contents again",
                self._path,
            )
        if path is not None and found is not None:
            _check_private(path, found)
            self._file = found.st_dev, found.st_ino
        _opened.add(self)

    def look(self) -> None:
        """Raise StoreReplaced if the path does not lead to this file any more."""
        if self._forked:
            self._open_again()
        if self._file is None:
            return
        try:
            found = os.stat(self._args[0])
        except OSError:  # gone, or not to be reached
            self._gone = True
        else:
            self._gone = (found.st_dev, found.st_ino) != self._file
        if self._gone:
            raise StoreReplaced(
                f"{self._path}: the store was moved, replaced or deleted while it was in use; put"
                " it back, or unmount and mount again"
            )

    def _connect(self, lock: threading.RLock) -> sqlite3.Connection:
        with _connecting:
            db: sqlite3.Connection = sqlite3.connect(*self._args, **self._kwargs)
            self._connections[db] = lock
            self._prepare(db)
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        if not self._waits:
            db.execute("PRAGMA busy_timeout=10000")
        if not self.in_memory:
            db.execute("PRAGMA journal_mode=WAL")
            # The last commits may be lost in a power cut; runs.py finds that out.
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA mmap_size=1073741824")
            db.execute("PRAGMA journal_size_limit=67108864")

    def error(self, exc: sqlite3.Error) -> StoreError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return StoreCorrupt(
                f"{self._path}: {exc}; move the file away and sync again; S3 has everything"
            )
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailable(f"{self._path}: no space left on its disk")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnavailable(f"{self._path}: locked by another process for over 10 s")
        return StoreUnavailable(f"{self._path}: {exc}; check the path and its permissions")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one statement, or for several inside BEGIN."""
        if self.in_memory:
            with self.lock:
                yield self._writer
            return
        db, lock = self._reader()
        with lock:
            yield db

    def _reader(self) -> tuple[sqlite3.Connection, threading.RLock]:
        """Return what this thread reads with."""
        local = self.local
        if self._gone:
            self.look()
        return local.reads or self._connect_reader(local)

    def _connect_reader(self, local: OfThread) -> tuple[sqlite3.Connection, threading.RLock]:
        self.look()
        lock = threading.RLock()
        db = self._connect(lock)
        local.reads, local.ends = (db, lock), _EndOfThread(db, self._connections)
        return db, lock

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The writer, in a transaction that is committed or, after an error, rolled back."""
        with self.lock:
            if self._forked:
                self._open_again()
            db = self._writer
            if db.in_transaction:  # a step of a larger change
                yield db
                return
            self.look()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
                self.commits += 1
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._say_committed()

    def wrote(
        self,
        sql: str,
        values: Sequence[object],
        teach: Callable[[sqlite3.Connection], None] | None = None,
    ) -> bool:
        """Write by one statement, which is a transaction of its own; return whether it has written.
        If not, because of a constraint or within a larger change, nothing has happened. *teach* is
        called once for each connection that does this."""
        with self.lock:
            if self._forked:
                self._open_again()
            db = self._writer
            if db.in_transaction:
                return False
            self.look()
            if teach is not None and self._taught is not db:
                teach(db)
                self._taught = db
            try:
                db.execute(sql, values)
            except sqlite3.IntegrityError:
                return False
            self.commits += 1
        self._say_committed()
        return True

    def _say_committed(self) -> None:
        """Wake the threads and processes that wait for commits (waiting.py). If that fails, they
        find out by themselves, a little later."""
        if self.log_path is not None:
            with suppress(OSError):
                os.utime(self.log_path)

    def rows(self, sql: str, *values: object) -> list[Any]:
        if self.in_memory:
            with self.lock:
                return self._writer.execute(sql, values).fetchall()
        db, lock = self._reader()
        with lock:
            return db.execute(sql, values).fetchall()

    def value(self, sql: str, *values: object) -> Any:
        """Return the one value that *sql* selects; None if it selects no row."""
        rows = self.rows(sql, *values)
        (value,) = rows[0] if rows else (None,)
        return value

    def version(self) -> int:
        """Return a number that changes with each commit of others. It is that of the reader of
        this thread, so the commits of this process count, too."""
        local = self.local
        if not (local.keeps and local.version):
            db, lock = self._reader()
            with lock:
                told: int = db.execute("PRAGMA data_version").fetchone()[0]
            local.version = told + self._before
        return local.version

    def others(self) -> int:
        """Return a number that changes with each commit of others, and not with ours; -1: a thread
        of ours is writing, and may be waiting for others that write."""
        if not self.lock.acquire(timeout=_WRITER_S):
            return -1
        try:
            if self._forked:
                self._open_again()
            told: int = self._writer.execute("PRAGMA data_version").fetchone()[0]
            return told
        finally:
            self.lock.release()

    def close(self) -> None:
        with self.lock:
            for db in list(self._connections):
                db.close()
            self._connections.clear()

    def hold(self) -> None:
        """Wait until no other thread is in the middle of a call, and keep it so: this process is
        going to be forked. The caller has `lock` and `_connecting`."""
        self._held = list(self._connections.values())
        for lock in self._held:
            lock.acquire()

    def let_go(self) -> None:
        """Let others go on after `hold`."""
        while self._held:
            self._held.pop().release()

    def forked(self) -> None:
        """Take note that this process was forked from the one that has opened the file."""
        self.lock, self.local, self._held = threading.RLock(), OfThread(), []
        if self.log_path is None:  # in memory, of which the process has a copy
            self._connections = {self._writer: self.lock}
            return
        self._before += 1 << 40
        self._forked = self._gone = True
        self.close()

    def _open_again(self) -> None:
        with self.lock:
            if self._forked:
                self._writer = self._connect(self.lock)
                self._forked = self._gone = False


_opened: weakref.WeakSet[Database] = weakref.WeakSet()  # those that are open


class _LockedToFork(threading.local):
    """The files whose locks a thread that forks has: nobody reads or writes."""

    def __init__(self) -> None:
        self.files: list[Database] = []


_locked = _LockedToFork()


def _before_fork() -> None:
    for database in sorted(_opened, key=id):  # two threads that fork take them in one order
        database.lock.acquire()
        _locked.files.append(database)
    _connecting.acquire()
    for database in _locked.files:
        database.hold()


def _in_parent() -> None:
    for database in _locked.files:
        database.let_go()
    _connecting.release()
    while _locked.files:
        _locked.files.pop().lock.release()


def _in_child() -> None:
    while _locked.files:
        _locked.files.pop().forked()
    _connecting.release()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


def _created(path: Path) -> os.stat_result:
    """Make the file of the store, readable by its owner only, if there is none; return what it
    is. SQLite gives the files beside it (-wal, -shm) the same permissions."""
    try:
        make_directory(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
    except OSError as exc:
        text = "a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
        raise StoreUnavailable(f"{path}: {text}; name another file with --store") from exc
    try:
        found = os.fstat(fd)
        if not found.st_mode & 0o777:  # as a umask of 0777 makes it: nobody could open it again
            os.fchmod(fd, 0o600)
            found = os.fstat(fd)
        return found
    finally:
        os.close(fd)


def _check_private(path: Path, found: os.stat_result) -> None:
    try:
        check_file(path, found)
    except ConfigError as exc:
        raise StoreUnavailable(str(exc)) from exc
