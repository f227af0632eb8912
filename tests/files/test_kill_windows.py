"""kill -9 before each system call by which the journal changes something on the disk: what a
program was told is safe is there afterwards, as it was, and nothing is found that S3 has already.

A process that has everything imported forks once for each window; the fork counts the calls, and
kills itself before the one that is its own. The bytes, the calls and the kill are real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicfs.files.journal import Journal, Orphan

pytestmark = pytest.mark.slow

pytestmark = pytest.mark.slow

_FORKS = """
import fcntl, itertools, os, signal, sys
from pathlib import Path
from mimicfs.files.journal import Journal
from mimicfs.files.record import Record

CALLS = "fdatasync fsync ftruncate link mkdir open pwrite rename unlink write".split()

def counted(call, die_at, numbers):
    def counting(*args, **kwargs):
        if next(numbers) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counting

def run(directory, number):
    told = os.open(f"{directory}/told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    journal, write = Journal.open(Path(directory) / "journal"), os.write
    numbers = itertools.count()
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name), number, numbers))
    fcntl.flock = counted(fcntl.flock, number, numbers)
    def say(*words):
        write(told, (" ".join(words) + "\\n").encode())
    work(journal, say)
    os._exit(0)

WORK

for number in [ONLY] if ONLY else itertools.count():
    directory = f"{sys.argv[1]}/{number}"
    prepare(directory)
    pid = os.fork()
    if not pid:
        try:
            run(directory, number)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if status != signal.SIGKILL:
        sys.exit(status)
"""

# What the files of a mount with --write-back go through. "KEY BYTE SIZE" is what it is told is
# safe, "KEY" alone that something else is under way.
_MOUNT = """
def prepare(directory):
    os.makedirs(directory + "/journal", 0o700)

def record(key, **more):
    return Record("photos", key, endpoint="http://s3", **more)

def promised(say, staging, key, data, **more):
    staging.promise(record(key, **more))
    staging.sync()
    say(key, data[:1].decode(), str(len(data)))

def made(journal, say, key, data, **more):
    staging = journal.stage(small=len(data) < 60_000)
    staging.describe(record(key, **more))
    staging.write(0, data)
    promised(say, staging, key, data, **more)
    return staging

def work(journal, say):
    kept = [made(journal, say, "small", b"s" * 3000)]
    other = made(journal, say, "sent", b"t" * 3000)
    say("sent")
    other.settle()  # S3 has it
    other.remove()
    again = made(journal, say, "again", b"a" * 2000)
    say("again")
    again.write(0, b"A" * 2000)
    promised(say, again, "again", b"A" * 2000)
    large = made(journal, say, "large", b"l" * 100_000)
    say("large")
    large.write(0, b"L" * 100_000)
    promised(say, large, "large", b"L" * 100_000)
    moved = made(journal, say, "moved", b"m" * 1000)
    say("moved")
    moved.describe(record("new", closed=True))
    moved.sync()
    say("new", "m", "1000")
    part = journal.stage()
    part.describe(record("part", partial=True, base=200_000, etag="e"))
    part.truncate(200_000)
    part.write(100_000, b"p" * 5000)
    part.changed(100_000, 105_000)
    promised(say, part, "part", b"p" * 5000, partial=True, base=200_000, etag="e")
    gone = made(journal, say, "gone", b"g" * 100_000)
    say("gone")
    gone.settle()
    gone.remove()
    for staging in (*kept, other, again, large, moved, part, gone):
        staging.keep()
    journal.close()
"""

# A mount that takes over what another has left in a segment, and is killed as well.
_NEXT = """
import shutil

def prepare(directory):
    shutil.copytree(sys.argv[2], directory + "/journal", symlinks=True)

def work(journal, say):
    for orphan in journal.orphans():
        if orphan.key == "again":
            say("again")
            journal.recover(orphan)
"""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: nothing here is about what a disk syncs."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def _windows(work: str, *words: Path, only: int = 0) -> list[Path]:
    """Return the directories that are left by each window, or by *only* that one."""
    script = f"ONLY = {only}\n{_FORKS}".replace("WORK\n", work)
    subprocess.run([sys.executable, "-c", script, *map(str, words)], check=True, timeout=120)
    return sorted(words[0].iterdir(), key=lambda path: int(path.name))


def _told(path: Path) -> dict[str, tuple[str, int] | None]:
    """Return what is safe, by key; None: it may be as it was, or as it was to be."""
    found: dict[str, tuple[str, int] | None] = {}
    for line in path.read_text().splitlines():
        key, *said = line.split()
        found[key] = (said[0], int(said[1])) if said else None
    return found


def _bytes(journal: Journal, orphan: Orphan) -> bytes:
    staging = journal.resume(orphan)
    assert staging is not None
    assert staging.record.damaged == ""
    spans = list(staging.ranges()) if orphan.record.partial else [(0, orphan.size)]
    return b"".join(staging.read(start, (end or start) - start) for start, end in spans)


def _left(directory: Path) -> dict[str, list[bytes]]:
    journal = Journal.open(directory)
    found: dict[str, list[bytes]] = {}
    for orphan in journal.orphans():
        if orphan.record.closed:
            found.setdefault(orphan.key, []).append(_bytes(journal, orphan))
    assert not journal.waiting
    return found


def test_what_was_promised_is_there_whichever_system_call_was_the_last(base: Path) -> None:
    windows = _windows(_MOUNT, base)
    assert len(windows) > 80
    for window in windows:
        told, left = _told(window / "told"), _left(window / "journal")
        for key, said in told.items():
            if said is not None:
                letter, size = said
                assert left.get(key) == [letter.encode() * size], f"{window.name}: {key}"
        if "new" not in told and "moved" in told:  # it has one of its two names
            assert [left.get("moved"), left.get("new")].count([b"m" * 1000]) == 1, window.name
        for key, bodies in left.items():  # also what is none of those: nothing is half there
            assert len({bytes(set(body)) for body in bodies}) == 1, f"{window.name}: {key}"
            assert not (key == "sent" and "again" in told), f"{window.name}: S3 has {key}"
    assert sorted(left) == ["again", "large", "new", "part", "small"]


def test_what_was_promised_is_there_though_the_next_mount_is_killed_as_well(
    base: Path,
) -> None:
    first = _windows(_MOUNT, base / "first", only=60)[0] / "journal"
    told = _told(first.parent / "told")
    kept = base / "kept"
    shutil.copytree(first, kept, symlinks=True)
    before = _left(kept)
    for window in _windows(_NEXT, base / "next", first):
        left = _left(window / "journal")
        recovered = [
            path.read_bytes()
            for path in (window / "journal/recovered").glob("*")
            if path.suffix not in (".json", ".ranges")
        ]
        for key, bodies in before.items():
            there = left.get(key, []) == bodies or (key == "again" and bodies[0] in recovered)
            assert there, f"{window.name}: {key} of {sorted(told)}"
