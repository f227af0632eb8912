"""Small disks, and damage to what is on one."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: str, mode: str = "700") -> Iterator[Path]:
    """Within, *path* is a file system of *size* ("2m") in memory. Only root can mount one: without
    root, the test is skipped, but in CI."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("only root can mount a small disk")
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "tmpfs", str(path)]
    subprocess.run(words, check=True, timeout=10)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=10)


def mutated(old: bytes, chance: random.Random) -> bytes:
    """Return *old* with one bit flipped, cut short, or with something put into it."""
    place = chance.randrange(len(old))
    match chance.randrange(3):
        case 0:
            flipped = old[place] ^ 1 << chance.randrange(8)
            return old[:place] + bytes([flipped]) + old[place + 1 :]
        case 1:
            return old[:place]
        case _:
            return old[:place] + chance.randbytes(chance.randrange(1, 40)) + old[place:]
