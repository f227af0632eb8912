"""Whatever programs do to one file through two mounts of one store, each in a process of its own,
and in whatever order: as vfs/test_moved_bases.py, with the kernel between.

`--orders N` looks at more of them.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import struct
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import pytest
from support.clients import plain
from support.mounts import mounted, wait_until
from support.orders import SIZE, World, orders

from mimicfs.errors import PosixError

pytestmark = pytest.mark.slow

_PUNCH = 3  # FALLOC_FL_PUNCH_HOLE and KEEP_SIZE, linux/falloc.h


@contextmanager
def errnos():
    """Within, errors of the kernel are as those of a VFS."""
    try:
        yield
    except OSError as exc:
        raise PosixError(exc.errno, str(exc)) from exc


class Programs:
    """The calls of a VFS, as programs make them in the mount at *path*."""

    def __init__(self, path):
        self.path = path
        self._s3 = SimpleNamespace(head=lambda *_: None)
        self._kernel = SimpleNamespace(changed=lambda *_: None)
        self._handles = SimpleNamespace(zero=self.zero, queued=list)

    def lookup(self, caller, parent, name):
        return SimpleNamespace(ino=name.decode())

    def open(self, caller, name, flags):
        with errnos():
            return SimpleNamespace(handle=os.open(self.path / name, flags))

    def write(self, caller, fd, place, data, *, append):
        with errnos():
            return os.write(fd, data) if append else os.pwrite(fd, data, place)

    def read(self, caller, fd, place, size):
        with errnos():
            return os.pread(fd, size, place)

    def fsync(self, caller, fd):
        with errnos():
            os.fsync(fd)

    def flush(self, caller, fd):
        with errnos():
            os.close(os.dup(fd))

    def release(self, fd):
        with suppress(OSError):  # what close says was said by `flush`
            os.close(fd)

    def setattr(self, caller, name, new, fd):
        with errnos():
            os.ftruncate(fd, new.size)

    def fallocate(self, caller, fd, mode, place, size):
        with errnos():
            os.posix_fallocate(fd, place, size)

    def zero(self, fd, start, end, cancellation):
        libc = ctypes.CDLL(None, use_errno=True)
        place = (ctypes.c_int64(start), ctypes.c_int64(end - start))
        if libc.fallocate(fd, _PUNCH, *place):
            code = ctypes.get_errno()
            raise PosixError(code, os.strerror(code))


class TwoMounts(World):
    """The others write through a mount, too. *locks*: they lock what they write, and so does a
    program that says so; what is open for writing shows what others have put there."""

    def __init__(self, path, other, *about, locks):
        self.locks, self.other, self.locked = locks, other, False
        super().__init__(Programs(path), *about, beside=Programs(other))

    def put(self, size):
        letter = next(self.letters)
        with errnos():
            self.store_in_other(letter.encode() * size)
        self.whole, self.last = True, letter
        self.theirs[letter] = letter.encode() * size
        self.kept = {each: False for each, stored in self.kept.items() if not stored}

    def store_in_other(self, body):
        fd = os.open(self.other / self.key, os.O_WRONLY)
        try:
            if self.locks and not lock(fd, fcntl.F_WRLCK):
                raise BlockingIOError(11, "locked")
            os.ftruncate(fd, 0)
            os.pwrite(fd, body, 0)
            os.fsync(fd)
        finally:
            os.close(fd)

    def learn(self):
        """Look until the other one is seen; it may be that it never is, in a descriptor."""
        os.stat(self.fs.path / self.key)

    def lock(self):
        if lock(self.handles["one"], fcntl.F_WRLCK):
            self.ends["one"] = os.fstat(self.handles["one"]).st_size
            self.whole = False  # the program knows what others have put there
            self.locked = True

    def unlock(self):
        if lock(self.handles["one"], fcntl.F_UNLCK) and self.locked:
            self.kept = dict.fromkeys(self.kept, True)  # S3 has it before the lock is given up
        self.locked = False

    def second_reads(self):
        if self.locks:
            self.seen = set()
        super().second_reads()

    def write(self, name, place, size):
        if os.fstat(self.handles[name]).st_size > place:
            self.forget()  # it is shown what it writes over, also what was appended here
        super().write(name, place, size)


def lock(fd, kind):
    """Whether *fd* has a lock of *kind* on the whole file."""
    try:
        asked = struct.pack("hhqqixxxx", kind, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, asked)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise PosixError(exc.errno, str(exc)) from exc
    return True


@pytest.fixture(scope="module", params=["", "locks=shared"])
def mounts(moto, redis_port, tmp_path_factory, request):
    """Two mounts of one bucket and one Redis, and the options that they have."""
    name = f"orders{len(request.param)}"
    plain(moto).create_bucket(Bucket=name)
    words = ("--store", f"redis://127.0.0.1:{redis_port}/0", "--namespace", name)
    words += ("-o", request.param) if request.param else ()
    with ExitStack() as stack:
        bases = [tmp_path_factory.mktemp(each) for each in ("one", "other")]
        two = [
            stack.enter_context(mounted(base, moto, f"s3://{name}", *words, sync=False))
            for base in bases
        ]
        yield [*(each.path for each in two), bases[0] / "state/mimicfs/staging", request.param]


def test_no_order_of_steps_through_two_mounts_mixes_versions_or_loses_bytes(mounts, moto, request):
    one, other, staging, options = mounts
    client, bucket = plain(moto), f"orders{len(options)}"
    count = request.config.getoption("orders") // 3  # each costs as much as ten without a kernel
    chosen = random.Random(count)
    more = ["lock", "lock", "unlock"] if options else []
    wanted = [random_order(chosen, more) for _ in range(count)]
    failed = []
    for number, steps in enumerate(wanted):
        key = f"k{number}"
        (other / key).write_bytes(b"A" * SIZE)
        wait_until(lambda: size_of(one / key) == SIZE)  # noqa: B023
        about = (client, bucket, key, staging / "recovered", steps)
        world = TwoMounts(one, other, *about, locks=bool(options))
        try:
            for step in steps:
                world.step(step)
            world.end()
        except AssertionError as exc:
            failed.append((key, steps, str(exc).splitlines()[0]))
    assert failed == []


def size_of(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


_ORDERS = list(orders(3))


def random_order(chosen, more):
    """Return three or four steps, at the last but one of which others have been there."""
    steps = [*chosen.choice(_ORDERS), *chosen.choice(_ORDERS)[: chosen.randrange(2)]]
    for each in more:
        if chosen.random() < 0.4:
            steps.insert(chosen.randrange(len(steps)), each)
    return tuple(steps)
