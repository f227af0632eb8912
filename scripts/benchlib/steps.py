"""`scripts/bench steps`: what mimicfs does for one small file, counted, so that neither other work
on the machine nor the kernel's FUSE is in the figures: instructions of the process and allocations
of memory by Python (valgrind), system calls (strace), how often a thread gave up its core, and
SQLite's statements.

The VFS is called as its FUSE server calls it, against the S3 server of the bench, by one thread.
Run by `scripts/bench` with the Python that has mimicfs: steps.py ENDPOINT WORKDIR.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mimicfs.backends.open import open_store
from mimicfs.config.values import Buckets, FileOptions, S3Options, Target, VFSOptions
from mimicfs.errors import PosixError, Unlisted
from mimicfs.files.cache import BlockCache
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS

BUCKET, SIZE = "steps", 4096
FILES, LARGE = 400, 16 << 20
ROUNDS, WARM = 40, 10
CALLER = Caller(0, 0, 0, Cancellation())
Work = Callable[[int], object]


class Kernel:
    """Is told of changes, and forgets them."""

    def flush(self, _timeout_s: float) -> bool:
        return True

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Place:
    """A VFS over a store of its own, and the works on it."""

    def __init__(self, endpoint: str, work: Path, *, write_back: bool) -> None:
        self.name = f"{work.parent.name}-{work.name}"  # the server keeps what others made
        work.mkdir(mode=0o700)
        self.mirror = Mirror(open_store(f"sqlite:///{work}/store.sqlite", "", None))
        self.s3 = S3(S3Options(endpoint_url=endpoint), self.mirror)
        self.mirror.add_bucket(BUCKET, 0)
        syncer = Syncer(self.mirror, self.s3, Buckets())
        syncer.sync(BUCKET)
        staging = work / "staging"
        staging.mkdir(mode=0o700)
        cache = BlockCache(work / "blocks", endpoint, 1 << 30)
        self.fs = VFS(
            self.mirror,
            self.s3,
            syncer,
            Journal.open(staging),
            Kernel(),
            VFSOptions(Target(BUCKET)),
            FileOptions(staging, write_back=write_back),
            cache,
        )
        self.made = self._ask(self.fs.lookup, ROOT_INO, b"made").ino
        self.small = self._ask(self.fs.lookup, ROOT_INO, b"small").ino
        entries = self.mirror.backend.children(BUCKET, "small/", "", FILES)
        self.names = [entry.key.removeprefix("small/").encode() for entry in entries]
        large = self._ask(self.fs.lookup, ROOT_INO, f"large@{LARGE}".encode()).ino
        self.large = self.fs.open(CALLER, large, os.O_RDONLY).handle

    def close(self) -> None:
        self.fs.release(self.large)
        self.fs.close()
        self.s3.close()
        self.mirror.close()

    def _ask(self, what: Callable[..., Any], *args: object) -> Any:
        while True:
            try:
                return what(CALLER, *args)
            except Unlisted as unlisted:
                self.fs.learn(CALLER, unlisted)

    def create(self, number: int) -> None:
        name = f"{self.name}-{number}".encode()
        with suppress(PosixError):  # as the kernel asks: it is not there
            self._ask(self.fs.lookup, self.made, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        made = self.fs.create_at_once(CALLER, self.made, name, 0o644, flags)
        handle = (made or self.fs.create(CALLER, self.made, name, 0o644, flags))[1].handle
        data = memoryview(bytes(SIZE))
        if not self.fs.write_at_once(handle, 0, data):
            self.fs.write(CALLER, handle, 0, data, append=False)
        self.fs.flush(CALLER, handle)
        if not self.fs.release_at_once(handle):
            self.fs.release(handle)

    def read(self, number: int) -> None:
        ino = self._ask(self.fs.lookup, self.small, self.names[number % FILES]).ino
        opened = self.fs.open_at_once(CALLER, ino, os.O_RDONLY)
        opened = opened or self.fs.open(CALLER, ino, os.O_RDONLY)
        self._read(opened.handle, 0)
        if not self.fs.release_at_once(opened.handle):
            self.fs.release(opened.handle)

    def again(self, number: int) -> None:
        self.read(number % WARM)

    def random(self, number: int) -> None:
        self._read(self.large, number * 7919 * SIZE % LARGE)

    def _read(self, handle: int, start: int) -> None:
        data = self.fs.read_cached(handle, start, SIZE) or self.fs.read(CALLER, handle, start, SIZE)
        assert len(data) == SIZE

    def settle(self) -> None:
        """Wait until S3 has everything."""
        while any(self.fs.pending()):
            time.sleep(0.001)


def works(place: Place, behind: Place) -> Iterator[tuple[str, Work, Callable[[], object]]]:
    """Yield what is counted: its name, what is done, and what is waited for at the end."""
    ask, names = place.s3._wire.ask, place.names
    body = {"Body": bytes(SIZE), "ContentLength": SIZE, "IfNoneMatch": "*"}
    buffer = memoryview(bytearray(SIZE))

    def key(number: int) -> dict[str, str]:
        return {"Bucket": BUCKET, "Key": f"small/{names[number % FILES].decode()}"}

    def get(number: int) -> None:
        answer = ask("GetObject", {**key(number), "Range": f"bytes=0-{SIZE - 1}"})
        assert answer["Body"].readinto(buffer) == SIZE
        answer["Body"].close()

    yield "GetObject of 4 KiB", get, int
    yield "HeadObject", lambda n: ask("HeadObject", key(n)), int
    put = {"Bucket": BUCKET, "ContentType": "application/octet-stream", **body}
    yield "PutObject of 4 KiB", lambda n: ask("PutObject", {**put, "Key": f"{place.name}/{n}"}), int
    yield "a file of 4 KiB: created", place.create, place.settle
    yield "the same with --write-back, until in S3", behind.create, behind.settle
    yield "a file of 4 KiB: read for the first time", place.read, int
    yield "the same again", place.again, int
    for number in range(LARGE // SIZE):
        place.random(number)  # all of it is fetched
    yield "4 KiB of a file of which the cache has all: somewhere", place.random, int


def done(work: Work, settle: Callable[[], object], start: int) -> None:
    for number in range(start, start + ROUNDS):
        work(number)
    settle()


def profiled(do: Callable[[], None], work: Path) -> str:
    """Return what the valgrind that this process runs in says of *do*."""
    control = ["callgrind_control", str(os.getpid())]
    for said in ("--zero", "--instr=on"):
        subprocess.run([*control, said], check=True, capture_output=True)
    do()
    for said in ("--instr=off", "--dump"):
        subprocess.run([*control, said], check=True, capture_output=True)
    return max(work.glob("callgrind.*"), key=lambda path: path.stat().st_mtime_ns).read_text()


def instructions(do: Callable[[], None], work: Path) -> int:
    return int(re.findall(r"^(?:totals|summary): (\d+)", profiled(do, work), re.MULTILINE)[-1])


def allocations(do: Callable[[], None], work: Path) -> int:
    """Count the calls of Python's allocator. (It is not called for what has a free list, such as
    most tuples.)"""
    said, names, callee, total = profiled(do, work), dict[str, str](), "", 0
    for line in said.splitlines():
        if named := _FUNCTION.match(line):
            kind, number, name = named.groups()
            names[number] = name or names[number]
            callee = names[number] if kind == "cfn" else callee
        elif line.startswith("calls=") and callee in _ALLOCATES:
            total += int(line[len("calls=") :].split()[0])
    return total


_FUNCTION = re.compile(r"(c?fn)=\((\d+)\)(?: (.+))?")
_ALLOCATES = frozenset(f"_PyObject_{how}" for how in ("Malloc", "Calloc", "Realloc"))


def system_calls(do: Callable[[], None], work: Path) -> int:
    """Count all but futex(2), which depends on what else runs."""
    out = work / "strace"
    command = ["strace", "-c", "-f", "-o", str(out), "-p", str(os.getpid())]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    tracer.stderr.readline()  # attached
    do()
    tracer.send_signal(signal.SIGINT)
    tracer.communicate(timeout=30)
    rows = [line.split() for line in out.read_text().splitlines()]
    return sum(int(row[3]) for row in rows if row and row[0][0].isdigit() and row[-1] not in _LEFT)


_LEFT = ("total", "futex")


def switches(do: Callable[[], None], _work: Path) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF)
    do()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_nvcsw - before.ru_nvcsw + after.ru_nivcsw - before.ru_nivcsw


def statements(do: Callable[[], None], _work: Path) -> int:
    before = len(STATEMENTS)
    do()
    return len(STATEMENTS) - before


STATEMENTS: list[str] = []
COUNTS = {f.__name__: f for f in (instructions, allocations, system_calls, switches, statements)}
UNDER_VALGRIND = ("instructions", "allocations")


def count(kind: str, endpoint: str, work: Path) -> None:
    """Print, a line each, what is counted of each work."""
    if kind == "statements":
        connect = sqlite3.connect

        def traced(*args: Any, **options: Any) -> Any:
            db = connect(*args, **options)
            db.set_trace_callback(STATEMENTS.append)
            return db

        sqlite3.connect = traced  # type: ignore[assignment]
    place = Place(endpoint, work / "through", write_back=False)
    behind = Place(endpoint, work / "behind", write_back=True)
    for name, one, settle in works(place, behind):
        for number in range(WARM):
            one(number)
        settle()
        found = COUNTS[kind](partial(done, one, settle, WARM), work)
        print(json.dumps([name, found / ROUNDS]), flush=True)
    behind.close()
    place.close()


def main(endpoint: str, work: Path) -> None:
    missing = [name for name in ("valgrind", "strace") if shutil.which(name) is None]
    if missing:
        sys.exit(f"bench steps: not installed: {', '.join(missing)}")
    found: dict[str, dict[str, float]] = {}
    for kind in COUNTS:
        into = work / kind
        into.mkdir()
        valgrind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"]
        valgrind += [f"--callgrind-out-file={into}/callgrind.%p"]
        command = [sys.executable, __file__, endpoint, str(into), kind]
        command = valgrind + command if kind in UNDER_VALGRIND else command
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in out.splitlines():
            name, number = json.loads(line)
            found.setdefault(name, {})[kind] = number
    print(f"| | {' | '.join(kind.replace('_', ' ') for kind in COUNTS)} |")
    print("|---" * (len(COUNTS) + 1) + "|")
    for name, numbers in found.items():
        shown = (f"{n:,.0f}" if n >= 1000 else f"{n:.1f}" for n in numbers.values())
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        count(sys.argv[3], sys.argv[1], Path(sys.argv[2]))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
