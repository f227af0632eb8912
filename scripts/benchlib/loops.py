"""The inner loops of the bench, each run as a process of its own; the last line is JSON.

    loops.py stat FILE PASSES LIMIT_S        lstat of every path in FILE (one a line), over and over
    loops.py create DIR COUNT SIZE THREADS LIMIT_S
    loops.py read DIR COUNT THREADS LIMIT_S  the first COUNT files of DIR by name
    loops.py readfile FILE ...               files from beginning to end, 1 MiB a call, all at once
    loops.py random FILE COUNT SIZE LIMIT_S  COUNT reads of SIZE anywhere
    loops.py pieces FILE OFFSET ...          the MD5 of 4 KiB at each offset, space-separated

Imports little: what is measured is the file system, not the start of Python.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from random import Random
from time import perf_counter, perf_counter_ns


def stat(names: list[str], limit_s: float) -> dict[str, float]:
    """Return median and 99th percentile, in us, of one lstat each, and how many were done."""
    lstat, clock, times, missing = os.lstat, perf_counter_ns, list[int](), 0
    deadline = clock() + int(limit_s * 1e9)
    for name in names:
        begun = clock()
        try:
            lstat(name)
        except FileNotFoundError:
            missing += 1
        ended = clock()
        times.append(ended - begun)
        if ended > deadline:
            break
    times.sort()
    count = len(times)
    return {
        "p50_us": times[count // 2] / 1000,
        "p99_us": times[count * 99 // 100] / 1000,
        "done": count,
        "missing": missing,
    }


def spread(
    names: list[str], threads: int, limit_s: float, work: Callable[[str], None]
) -> dict[str, float]:
    """Return how many of *names* were worked on by *threads* threads, and in how many seconds."""
    begun = perf_counter()
    done = [0] * threads

    def share(index: int) -> None:
        for name in names[index::threads]:
            if perf_counter() - begun > limit_s:
                return
            work(name)
            done[index] += 1

    workers = [threading.Thread(target=share, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"done": sum(done), "s": perf_counter() - begun}


def create(directory: str, count: int, size: int, threads: int, limit_s: float) -> dict[str, float]:
    """Create files and close them."""
    body = os.urandom(size)

    def work(name: str) -> None:
        with open(name, "xb", buffering=0) as file:
            file.write(body)

    names = [f"{directory}/new-{index:05d}" for index in range(count)]
    return spread(names, threads, limit_s, work)


def read(directory: str, count: int, threads: int, limit_s: float) -> dict[str, float]:
    """Read whole files, in the order of their names."""

    def work(name: str) -> None:
        with open(name, "rb", buffering=0) as file:
            if not file.readall():
                raise OSError(f"{name}: empty")

    names = sorted(os.listdir(directory))[:count]
    return spread([f"{directory}/{name}" for name in names], threads, limit_s, work)


def read_file(path: str) -> int:
    """Read one file into one buffer, over and over; return its size."""
    buffer, total = bytearray(1 << 20), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total


def read_at_once(paths: list[str]) -> dict[str, float]:
    """Read each file in a thread of its own."""
    sizes: list[int] = []
    readers = [threading.Thread(target=lambda p=path: sizes.append(read_file(p))) for path in paths]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return {"done": sum(sizes), "files": len(sizes)}


def read_randomly(path: str, count: int, size: int, limit_s: float) -> dict[str, float]:
    """Read *size* bytes at *count* places, which are the same in each run."""
    places = Random(1)
    begun, done = perf_counter(), 0
    with open(path, "rb", buffering=0) as file:
        blocks = os.fstat(file.fileno()).st_size // size
        while done < count and perf_counter() - begun < limit_s:
            if len(os.pread(file.fileno(), size, places.randrange(blocks) * size)) != size:
                raise OSError(f"{path}: a short read")
            done += 1
    return {"done": done, "s": perf_counter() - begun}


def pieces(path: str, offsets: list[int]) -> dict[str, list[str]]:
    """Return the MD5 of 4 KiB at each of *offsets*."""
    from hashlib import md5

    with open(path, "rb", buffering=0) as file:
        blocks = [os.pread(file.fileno(), 4096, offset) for offset in offsets]
    return {"md5": [md5(block, usedforsecurity=False).hexdigest() for block in blocks]}


def main(command: str, *arguments: str) -> None:
    """Run one loop and print its result."""
    result: dict[str, float] | dict[str, list[str]]
    if command == "stat":
        with open(arguments[0], encoding="utf-8") as file:
            names = file.read().splitlines()
        result = stat(names * int(arguments[1]), float(arguments[2]))
    elif command == "create":
        result = create(
            arguments[0],
            int(arguments[1]),
            int(arguments[2]),
            int(arguments[3]),
            float(arguments[4]),
        )
    elif command == "read":
        result = read(arguments[0], int(arguments[1]), int(arguments[2]), float(arguments[3]))
    elif command == "pieces":
        result = pieces(arguments[0], [int(offset) for offset in arguments[1:]])
    elif command == "random":
        path, count, size, limit_s = arguments
        result = read_randomly(path, int(count), int(size), float(limit_s))
    else:
        result = read_at_once(list(arguments))
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
