"""One file, changed at random in every way that there is, against the same bytes in memory.

After fsx (Apple 1991; ltp, xfstests), which has found bugs in every file system it was run on.
`FSX=10000,7` runs as many operations from that seed; a failure says which.
"""

import mmap
import os
import random

import pytest
from support.posix import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

pytestmark = pytest.mark.slow

LIMIT = 200_000  # bytes of the file
LONGEST = 40_000  # bytes of one change
SEED = random.SystemRandom().randrange(1 << 32)


class Exerciser:
    """Does the same to the file *path* and to `expected`."""

    def __init__(self, path, seed):
        self.path = path
        self.random = random.Random(seed)
        self.expected = bytearray()
        self.done = []
        self.descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
        self.uses = {
            self.write: 25,
            self.read: 25,
            self.truncate: 8,
            self.map_and_read: 8,
            self.map_and_write: 8,
            self.append: 5,
            self.allocate: 3,
            self.zero: 3,
            self.punch: 4,
            self.copy_range: 4,
            self.find_data: 2,
            self.sync: 2,
            self.reopen: 3,
            self.begin_anew: 1,
            self.rename: 1,
        }

    def run(self, count):
        names, weights = list(self.uses), list(self.uses.values())
        for step in range(count):
            use = self.random.choices(names, weights)[0]
            self.done.append([step, use.__name__])
            use()
            assert os.fstat(self.descriptor).st_size == len(self.expected)
        self.reopen()
        os.close(self.descriptor)

    def note(self, *numbers):
        self.done[-1] += numbers

    def place(self, most):
        offset = self.random.randrange(most + 1)
        return offset, self.random.randrange(1, LONGEST)

    def data(self, size):
        return self.random.randbytes(size)

    def put(self, offset, data):
        if data and offset > len(self.expected):
            self.expected.extend(bytes(offset - len(self.expected)))
        self.expected[offset : offset + len(data)] = data

    # What is done

    def write(self):
        offset, size = self.place(LIMIT - LONGEST)
        self.note(offset, size)
        data = self.data(size)
        assert os.pwrite(self.descriptor, data, offset) == size
        self.put(offset, data)

    def append(self):
        if len(self.expected) > LIMIT - LONGEST:
            return
        data = self.data(self.random.randrange(1, 5000))
        self.note(len(data))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, data)
        os.close(descriptor)
        self.expected += data

    def read(self):
        offset, size = self.place(len(self.expected))
        self.note(offset, size)
        self.same(os.pread(self.descriptor, size, offset), offset, size)

    def same(self, found, offset, size):
        expected = self.expected[offset : offset + size]
        assert len(found) == len(expected)
        if found != expected:
            wrong = [n for n, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
            pytest.fail(f"bytes {offset + wrong[0]} to {offset + wrong[-1]} are wrong")

    def truncate(self):
        size = self.random.randrange(LIMIT)
        self.note(size)
        if self.random.random() < 0.5:
            os.ftruncate(self.descriptor, size)
        else:
            os.truncate(self.path, size)
        del self.expected[size:]
        self.expected += bytes(size - len(self.expected))

    def mapped(self, prot):
        """Return a random part of the file, mapped, and where that is; None: it is empty."""
        if not self.expected:
            return None
        offset, size = self.place(len(self.expected) - 1)
        size = min(size, len(self.expected) - offset)
        self.note(offset, size)
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        length = offset + size - start
        return mmap.mmap(self.descriptor, length, prot=prot, offset=start), offset, size, start

    def map_and_read(self):
        if found := self.mapped(mmap.PROT_READ):
            memory, offset, size, start = found
            with memory:
                self.same(memory[offset - start : offset - start + size], offset, size)

    def map_and_write(self):
        if found := self.mapped(mmap.PROT_READ | mmap.PROT_WRITE):
            memory, offset, size, start = found
            data = self.data(size)
            with memory:
                memory[offset - start : offset - start + size] = data
                if self.random.random() < 0.5:
                    memory.flush()
            self.put(offset, data)

    def allocate(self):
        offset, size = self.place(LIMIT - LONGEST)
        mode = self.random.choice([0, KEEP_SIZE])
        self.note(mode, offset, size)
        fallocate(self.descriptor, mode, offset, size)
        if mode == 0:
            self.expected.extend(bytes(max(0, offset + size - len(self.expected))))

    def zero(self):
        offset, size = self.place(LIMIT - LONGEST)
        self.note(offset, size)
        fallocate(self.descriptor, ZERO_RANGE, offset, size)
        self.put(offset, bytes(size))

    def punch(self):
        offset, size = self.place(LIMIT - LONGEST)
        mode = self.random.choice([PUNCH_HOLE, ZERO_RANGE | KEEP_SIZE])
        self.note(mode, offset, size)
        fallocate(self.descriptor, mode, offset, size)
        self.put(offset, bytes(max(0, min(size, len(self.expected) - offset))))

    def copy_range(self):
        if not self.expected:
            return
        source, size = self.place(len(self.expected) - 1)
        target = self.random.randrange(LIMIT - LONGEST)
        size = min(size, len(self.expected) - source)
        if target < source + size and source < target + size:
            return  # EINVAL, in one file
        self.note(source, target, size)
        copied = os.copy_file_range(self.descriptor, self.descriptor, size, source, target)
        self.put(target, bytes(self.expected[source : source + copied]))

    def find_data(self):
        """Every byte that is not zero is in what SEEK_DATA finds."""
        place = 0
        while place < len(self.expected):
            try:
                start = os.lseek(self.descriptor, place, os.SEEK_DATA)
            except OSError:  # ENXIO: no more
                start = len(self.expected)
            assert not any(self.expected[place:start])
            if start < len(self.expected):
                start = os.lseek(self.descriptor, start, os.SEEK_HOLE)
            place = start

    def sync(self):
        os.fsync(self.descriptor)

    def reopen(self):
        """Close it and compare the whole, as it is read from S3."""
        os.close(self.descriptor)
        with open(self.path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.same(file.read(), 0, LIMIT)
        self.descriptor = os.open(self.path, os.O_RDWR)

    def begin_anew(self):
        with open(self.path, "wb"):
            self.expected.clear()

    def rename(self):
        new = self.path.with_name(f"{self.done[-1][0]}")
        self.path.rename(new)
        self.path = new


def exercise(path, shared, count, seed):
    exerciser = Exerciser(path, seed)
    try:
        exerciser.run(count)
    except BaseException:
        print(f"seed {seed}", *exerciser.done[-30:], sep="\n")
        raise
    assert shared.body(exerciser.path) == bytes(exerciser.expected)


@pytest.mark.parametrize("seed", [1, SEED], ids=["fixed", "random"])
def test_a_file_changed_at_random_has_the_right_bytes(here, shared, seed):
    count = 1000
    if asked := os.environ.get("FSX"):
        count, seed = map(int, asked.split(","))
    exercise(here / "file", shared, count, seed)
