"""Orders of steps of programs and of others on one file, and what must hold of what comes out: no
bytes of two versions come together that nobody has put together, and none that were acknowledged
are gone."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress

from mimicfs.entry import Difference
from mimicfs.errors import MimicError
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from support.mounts import wait_until

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
SIZE = 6  # of the object when it is opened
_OTHERS = ("put", "learn", "sync")
_BY = {"second_writes_end": ["two"], "second_reads": ["two"], "append": ["append"]}
_BY |= {"store": ["two"], "write_page": ["two", "one"]}


class World:
    """One object, three handles of it (two write where they choose, and one appends), others who
    replace it, and what must hold of what comes out."""

    def __init__(self, fs, client, bucket, key, recovered, steps, beside=None):
        self.beside = beside  # another mount of the same store, by which others replace it
        self.fs, self.client, self.bucket, self.key = fs, client, bucket, key
        self.recovered = recovered
        self.letters = iter("BCDEFGHIJKLMNOPQRSTUVWXYZ")
        self.theirs = {"A": b"A" * SIZE}
        self.last, self.whole = "A", True
        self.ends = {"one": SIZE, "two": SIZE}
        self.kept: dict[str, bool] = {}  # letters that were acknowledged: whether S3 has them
        self.places: dict[str, tuple[int, int]] = {}  # of letters that were written where one chose
        self.seen: set[str] = set()
        self.page = b""  # of a mapping, which the kernel has not written yet
        client.put_object(Bucket=bucket, Key=key, Body=self.theirs["A"])
        fs._s3.head(bucket, key)
        self.ino = ino = fs.lookup(CALLER, ROOT_INO, key.encode()).ino
        flags = {"one": os.O_RDWR, "two": os.O_RDWR, "append": os.O_WRONLY | os.O_APPEND}
        # Not more than are used: with a second one the kernel may have pages of that version.
        ours = [step for step in steps if not step.startswith(_OTHERS)]
        used = {name for step in ours for name in _BY.get(step, ["one"])}
        self.handles = {name: fs.open(CALLER, ino, flags[name]).handle for name in used}

    # What others do

    def put(self, size):
        self.whole = True
        self.last = next(self.letters)
        body = self.theirs[self.last] = self.last.encode() * size
        if self.beside is None:
            self.client.put_object(Bucket=self.bucket, Key=self.key, Body=body)
        else:
            self.put_by_mount(body)
        self.kept = {letter: False for letter, stored in self.kept.items() if not stored}

    def put_by_mount(self, body):
        ino = self.beside.lookup(CALLER, ROOT_INO, self.key.encode()).ino
        handle = self.beside.open(CALLER, ino, os.O_WRONLY | os.O_TRUNC).handle
        self.beside.write(CALLER, handle, 0, memoryview(body), append=False)
        self.beside.fsync(CALLER, handle)
        self.beside.release(handle)

    def put_longer(self):
        self.put(2 * SIZE)

    def put_as_long(self):
        self.put(SIZE)

    def put_shorter(self):
        self.put(SIZE // 2)

    def learn(self):
        if self.beside is None:
            self.fs._s3.head(self.bucket, self.key)
        else:
            self.fs._kernel.changed(self.bucket, Difference([], [self.key], [], 0))

    # What programs do

    def write_start(self):
        self.forget()
        self.write("one", 0, 2)

    def write_end(self):
        self.write("one", self.ends["one"], 2)

    def write_over_end(self):
        self.forget()
        self.write("one", 2, self.ends["one"])

    def second_writes_end(self):
        self.write("two", self.ends["two"], 2)

    def write(self, name, place, size):
        letter = next(self.letters)
        data = memoryview(letter.encode() * size)
        self.fs.write(CALLER, self.handles[name], place, data, append=False)
        self.ends[name] = max(self.ends[name], place + size)
        self.written_over(place, place + size)
        self.kept[letter], self.places[letter] = False, (place, place + size)

    def extend(self):
        self.resize(self.ends["one"] + 2)
        self.ends["one"] += 2

    def cut(self):
        self.resize(2)
        self.ends["one"] = 2
        self.forget()
        self.whole = False

    def resize(self, size):
        self.fs.setattr(CALLER, self.ino, NewAttr(size=size), self.handles["one"])

    def punch_end(self):
        end = self.ends["one"]
        self.fs._handles.zero(self.handles["one"], end, 2, CALLER.cancellation)
        self.written_over(end, end + 2)

    def allocate(self):
        self.fs.fallocate(CALLER, self.handles["one"], 0, 0, self.ends["one"] + 2)

    def append(self):
        letter = next(self.letters)
        data = memoryview(letter.encode() * 2)
        self.fs.write(CALLER, self.handles["append"], SIZE, data, append=True)
        self.kept[letter] = False

    def second_reads(self):
        found = self.fs.read(CALLER, self.handles["two"], 0, 99)
        self.seen |= set(bytes(found).decode()) & set(self.theirs)
        assert len(self.seen) <= 1

    def store(self):
        """Store a byte through a mapping: the kernel has read the page before."""
        self.page = self.page or bytes(self.fs.read(CALLER, self.handles["two"], 0, 99))
        letter = next(self.letters)
        self.page = letter.encode() + self.page[1:]
        self.kept.pop(letter, None)

    def write_page(self):
        """The kernel writes a page of a mapping by any descriptor that can."""
        if self.page:
            self.forget()
            data = memoryview(self.page)
            self.fs.write(CALLER, self.handles["one"], 0, data, append=False)
            self.page = b""

    def close(self):
        for handle in self.handles.values():
            self.fs.flush(CALLER, handle)

    def sync(self):
        for handle in self.handles.values():
            self.fs.fsync(CALLER, handle)
        self.kept = dict.fromkeys(self.kept, True)

    # What must hold

    def forget(self):
        """What was written before may be overwritten."""
        self.kept = {}

    def written_over(self, start, end):
        for letter, place in self.places.items():
            if place[0] < end and start < place[1]:
                self.kept.pop(letter, None)

    def step(self, name):
        with suppress(MimicError):
            getattr(self, name)()

    def end(self):
        self.leave()
        wait_until(lambda: not self.fs._handles.queued())
        self.judge()

    def leave(self):
        for handle in self.handles.values():
            with suppress(MimicError):
                self.fs.flush(CALLER, handle)
            self.fs.release(handle)

    def judge(self):
        """See that it is so, now that nothing waits for S3."""
        answer = self.client.get_object(Bucket=self.bucket, Key=self.key)
        found = answer["Body"].read().decode(errors="replace")
        self.no_versions_are_mixed(found)
        self.nothing_acknowledged_is_gone(found)

    def no_versions_are_mixed(self, found):
        theirs = {letter for letter in self.theirs if letter in found}
        assert theirs <= {self.last}, found
        if theirs and self.whole and self.last != "A" and len(self.theirs[self.last]) != SIZE:
            # What others have put behind the end that anybody here knew is as they have put it.
            rest = self.theirs[self.last].decode()[SIZE:]
            assert found[SIZE : SIZE + len(rest)] == rest, found

    def nothing_acknowledged_is_gone(self, found):
        files = self.recovered.glob(f"{self.key}.*")
        about = (".json", ".ranges")
        aside = b"".join(path.read_bytes() for path in files if path.suffix not in about)
        for letter in self.kept:
            assert letter in found or letter.encode() in aside, (letter, found)


STEPS = [
    *("put_longer", "put_as_long", "put_shorter", "learn"),
    *("write_start", "write_end", "write_over_end", "second_writes_end"),
    *("extend", "cut", "punch_end", "allocate", "append", "second_reads", "sync"),
]


def orders(length, more=()):
    for steps in itertools.product([*STEPS, *more], repeat=length):
        if any(step.startswith("put") for step in steps[:-1]):
            yield steps


def usable(steps, more):
    """Whether *steps* have some of *more*, and what is stored in a page before it is written."""
    return not more or (more[-1] in steps and (len(more) == 1 or more[0] in steps))
