"""Several threads that change one name get what ext4 would say, and nothing else (F7, F8)."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_STEPS = ["write", "append", "unlink", "replace", "truncate", "chmod", "utime", "read", "change"]
_ROUNDS = 30  # of each thread; --rounds N for more


class Threads:
    """Four threads that do at random what programs do with a file named `x`."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.x = directory / "x"
        self.seed = seed
        self.wrong: Counter[str] = Counter()

    def run(self, rounds: int) -> None:
        threads = [
            threading.Thread(target=self._many, args=(random.Random(self.seed + n), n, rounds))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _many(self, chance: random.Random, number: int, rounds: int) -> None:
        mine = self.x.with_name(f"mine-{number}")
        steps: list[tuple[Callable[[], object], set[int]]] = [
            (lambda: self.x.write_bytes(b"w" * chance.choice((1, 5000, 200_000))), set()),
            (lambda: self._append(chance), set()),
            (self.x.unlink, {errno.ENOENT}),
            (lambda: self._replace(mine), set()),
            (lambda: os.truncate(self.x, chance.randrange(9000)), {errno.ENOENT}),
            (lambda: os.chmod(self.x, chance.choice((0o600, 0o644))), {errno.ENOENT}),
            (lambda: os.utime(self.x, (1e9, 1e9)), {errno.ENOENT}),
            (self.x.read_bytes, {errno.ENOENT}),
            (lambda: self._change(chance), {errno.ENOENT}),
        ]
        for _ in range(rounds):
            step = chance.randrange(len(steps))
            work, allowed = steps[step]
            try:
                work()
            except OSError as exc:
                if exc.errno not in allowed:
                    self.wrong[f"{_STEPS[step]}: {errno.errorcode[exc.errno or 0]}"] += 1

    def _append(self, chance: random.Random) -> None:
        with open(self.x, "ab", buffering=0) as file:
            file.write(b"a" * chance.randrange(1, 100))

    def _replace(self, mine: Path) -> None:
        mine.write_bytes(b"new")
        mine.rename(self.x)

    def _change(self, chance: random.Random) -> None:
        with open(self.x, "r+b", buffering=0) as file:
            file.write(b"change")
            if chance.random() < 0.3:
                os.fchmod(file.fileno(), 0o640)
            if chance.random() < 0.3:
                os.fsync(file.fileno())
            file.write(b"again")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("words", [(), ("--write-back",)], ids=["through", "write-back"])
def test_threads_that_change_one_name_get_only_what_ext4_would_say(
    mount_at, bucket, words, tmp_path, request
):
    root = mount_at(f"s3://{bucket}", *words).path
    threads = Threads(root, seed=7)
    threads.run(request.config.getoption("rounds") or _ROUNDS)
    assert threads.wrong == {}
    said = (tmp_path / "mount.log").read_text()
    assert "recovered" not in said
    assert "Traceback" not in said


def test_a_change_of_metadata_of_an_open_file_leaves_it_writable(mount, client, bucket):
    for how in ("utime", "chmod", "setxattr", "futime"):
        path = mount / how
        path.write_bytes(b"a" * 80_000)
        file = os.open(path, os.O_RDWR)
        assert os.pread(file, 4, 0) == b"aaaa"
        if how == "utime":
            os.utime(path, (1e9, 1e9))
        elif how == "chmod":
            path.chmod(0o600)
        elif how == "setxattr":
            os.setxattr(path, "user.a", b"1")
        else:
            os.utime(file, (1e9, 1e9))
        assert os.pwrite(file, b"b" * 4096, 0) == 4096
        os.close(file)
        stored = client.get_object(Bucket=bucket, Key=how)["Body"].read()
        assert stored == b"b" * 4096 + b"a" * (80_000 - 4096)
