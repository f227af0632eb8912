"""Refreshes of thousands of keys, listed by ranges at once, seen through a mount."""

import errno
import os
import threading

import pytest
from support.mounts import Mount, run, succeed, wait_until

pytestmark = pytest.mark.slow

BUCKET = "large"
DIRECTORIES = [f"d{n:02}" for n in range(30)]
STEADY = [f"f{n:03}" for n in range(300)]


def volatile(generation):
    """The keys of 100 more names in each directory, half of them others each time."""
    numbers = range(generation * 50, generation * 50 + 100)
    return [f"{directory}/v{n:03}" for directory in DIRECTORIES for n in numbers]


@pytest.fixture
def large(lists, state, tmp_path):
    """A mounted bucket of 12,000 keys, all known; and the arguments of a command on its mirror."""
    keys = [f"{directory}/{name}" for directory in DIRECTORIES for name in STEADY]
    lists.control("fill", body=[*keys, *volatile(0)], bucket=BUCKET, kind="lines")
    common = ["--endpoint-url", lists.endpoint, "--store", f"sqlite://{tmp_path}/store.db"]
    mount = Mount(tmp_path / "mnt", [*common, f"s3://{BUCKET}"], tmp_path / "mount.log")
    try:
        (mount.path / ".sync").touch()
        yield mount.path, common
    finally:
        mount.close()
        lists.control("clear", bucket=BUCKET)


def change(lists, generation):
    """Others replace the names of the generation before by those of *generation*."""
    for directory in DIRECTORIES:
        lists.control("clear", bucket=BUCKET, prefix=f"{directory}/v")
    lists.control("fill", body=volatile(generation), bucket=BUCKET, kind="lines")


def seen(path):
    return sorted(f"{name}/{each}" for name in os.listdir(path) for each in os.listdir(path / name))


class Reader(threading.Thread):
    """Looks for what is there all the time, by listing and by name."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.ended = threading.Event()
        self.missed = []
        self.rounds = 0

    def run(self):
        while not self.ended.is_set():
            for directory in DIRECTORIES:
                names = set(os.listdir(self.path / directory))
                self.missed += [f"{directory}/{name}" for name in STEADY if name not in names]
                for name in STEADY[::23]:
                    if not os.path.exists(self.path / directory / name):
                        self.missed.append(f"stat {directory}/{name}")
            self.missed += [name for name in DIRECTORIES if name not in os.listdir(self.path)]
            self.rounds += 1


def test_a_reader_misses_nothing_that_is_there_all_the_time(large, lists):
    path, common = large
    reader = Reader(path)
    reader.start()
    try:
        for generation in range(1, 6):
            change(lists, generation)
            (path / ".sync").touch()
        wait_until(lambda: reader.rounds >= 2)
    finally:
        reader.ended.set()
        reader.join()
    assert reader.missed == []
    steady = [f"{directory}/{name}" for directory in DIRECTORIES for name in STEADY]
    assert seen(path) == sorted([*steady, *volatile(5)])

    # Findings of another process are shown as well: its ranges are in the change log.
    change(lists, 6)
    assert "12,000 keys" in succeed("sync", *common, f"s3://{BUCKET}")
    wait_until(lambda: seen(path) == sorted([*steady, *volatile(6)]))


def test_a_refresh_that_would_delete_most_is_refused_and_says_why(large, lists):
    path, common = large
    for directory in DIRECTORIES[:20]:
        lists.control("clear", bucket=BUCKET, prefix=f"{directory}/")
    with pytest.raises(OSError, match="canceled") as refused:
        os.utime(path / ".sync")
    assert refused.value.errno == errno.ECANCELED
    told = (path / ".sync").read_text()
    assert "8,000 of the 12,000 known objects; nothing was deleted" in told
    assert f"mimicfs sync --yes s3://{BUCKET}/" in told
    assert len(seen(path)) == 12_000
    result = run("sync", *common, f"s3://{BUCKET}")
    assert (result.returncode, "nothing was deleted" in result.stderr) == (1, True)
    assert "8000 deleted" in succeed("sync", *common, "--yes", f"s3://{BUCKET}")
    wait_until(lambda: os.listdir(path) == DIRECTORIES[20:])
