"""The measurements of data: reading and writing, large and small, with the bytes that S3 was asked
for and sent."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

from benchlib import machine
from benchlib.peers import JuiceFS, Local, Peer
from benchlib.s3objects import sized_keys
from benchlib.workloads import LOOPS, Bench, Measurement, Workload, known, write_files

READERS = 8
COLD = 64  # random reads that each may ask S3
DENSE = 1_024  # the same, so many that what is asked for may grow
COPIED = (20, 20)  # directories, and files in each
SIZE = 4096  # of small files and random reads
MIB = 1 << 20


def copied_prefixes() -> list[str]:
    """Return the directories that `cp -r` copies."""
    return [f"copied/{number:02}/" for number in range(COPIED[0])]


def prepare(bench: Bench, local: bool) -> None:
    """Fill the bucket `data` and, for the local file system, write the same files."""
    scale, control = bench.scale, bench.server.control
    keys = [f"big@{scale.big}", f"changed/big@{scale.big}", "new/.keep@1"]
    keys += [f"readers/{number}@{scale.readers}" for number in range(READERS)]
    for key in keys:
        control("fill", bucket="data", kind="key", key=key)
    small = [("small/", scale.files), *((prefix, COPIED[1]) for prefix in copied_prefixes())]
    for prefix, count in small:
        control("fill", bucket="data", kind="sized", prefix=prefix, count=count, size=SIZE)
    if local:
        base = bench.work / "local" / "data"
        write_files(base, keys, filled=True)
        for prefix, count in small:
            write_files(base, sized_keys(prefix, count, SIZE), filled=True)


def show(bench: Bench, made: Measurement | None) -> bool:
    """As Bench.show, with the bytes that went to and from S3."""
    if made is not None:
        moved = {"fetched": made.bytes_out, "sent": made.bytes_in}
        made.notes += [
            f"{size / MIB:,.0f} MiB {what}" for what, size in moved.items() if size > MIB
        ]
    return bench.show(made)


def read_big(bench: Bench, peer: Peer) -> None:
    """Read one large file from beginning to end."""
    size = bench.scale.big
    name = f"read {size >> 20:,} MiB"
    fresh(bench, peer)
    path = f"{peer.root}/big@{size}"
    command = [sys.executable, "-I", LOOPS, "readfile", path]

    def step(which: str) -> Measurement | None:
        return bench.step(name, which, peer, command, amount=size / MIB, each="MiB")

    if show(bench, step("cold")):
        show(bench, step("again"))
        if peer.remote:
            verify(bench, peer, path, f"/data/big@{size}", size)
    peer.unmount()
    peer.mount("data")
    show(bench, step("kept on disk, after a remount"))
    peer.unmount()


def read_many(bench: Bench, peer: Peer) -> None:
    """Read several large files at once, from beginning to end."""
    size = bench.scale.readers
    fresh(bench, peer)
    paths = [f"{peer.root}/readers/{number}@{size}" for number in range(READERS)]
    command = [sys.executable, "-I", LOOPS, "readfile", *paths]
    name = f"{READERS} readers of {size >> 20:,} MiB each"
    total = READERS * size / MIB
    show(bench, bench.step(name, "cold", peer, command, amount=total, each="MiB"))
    peer.unmount()


def read_randomly(bench: Bench, peer: Peer) -> None:
    """Read 4 KiB here and there in a large file: nothing of it is kept; then all, on disk."""
    size = bench.scale.big
    name = "random reads of 4 KiB"
    fresh(bench, peer)
    path = f"{peer.root}/big@{size}"
    measured = bench.loop(name, "cold", peer, "random", path, COLD, SIZE)
    if measured is not None:
        made, result = measured
        if result and peer.remote:
            made.notes.append(f"{result['done'] / result['s']:,.0f} a second")
            made.value, made.unit = made.bytes_out / (result["done"] * SIZE), "x what was asked"
        elif result:
            made.value, made.unit = result["done"] / result["s"], "a second"
        bench.show(made)
    peer.unmount()
    fresh(bench, peer)
    measured = bench.loop(name, f"cold, {DENSE:,}", peer, "random", path, DENSE, SIZE)
    if measured is not None:
        made, result = measured
        if result:
            made.value, made.unit = result["done"] / result["s"], "a second"
        show(bench, made)
    bench.quietly(peer, [sys.executable, "-I", LOOPS, "readfile", path])
    peer.unmount()
    peer.mount("data")
    for step in ("kept on disk", "again"):
        measured = bench.loop(name, step, peer, "random", path, bench.scale.random, SIZE)
        if measured is not None:
            made, result = measured
            if result:
                made.value, made.unit = result["done"] / result["s"], "a second"
            show(bench, made)
    peer.unmount()


def verify(bench: Bench, peer: Peer, path: str, key: str, size: int) -> None:
    """Note it when the file does not show the object's bytes."""
    offsets = (0, size // 3, size - 4096)
    true = [bench.server.read(key, offset, 4096) for offset in offsets]
    expected = [hashlib.md5(block, usedforsecurity=False).hexdigest() for block in true]
    bench.quietly(peer, [sys.executable, "-I", LOOPS, "pieces", path, *map(str, offsets)])
    if bench.output() != {"md5": expected}:
        bench.measurements[-1].notes.append("WRONG bytes")


def fresh(bench: Bench, peer: Peer) -> None:
    """Mount the bucket `data`, its metadata known where the peer can, no bytes of it cached."""
    if peer.remote:
        peer.wipe()
    known(bench, peer, "data", "")


def write_big(bench: Bench, peer: Peer) -> None:
    """Write one large file, with fsync."""
    size = bench.scale.big
    fresh(bench, peer)
    path = f"{peer.root}/new/big"
    count = f"count={size >> 20}"
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", count, "conv=fsync", "status=none"]
    name = f"write {size >> 20:,} MiB and fsync"
    made = bench.step(name, "to the return", peer, command, amount=size / MIB, each="MiB")
    if made is not None and peer.remote:
        settled(bench, made, peer, size, 2)
    show(bench, made)
    clean(bench, peer)
    peer.unmount()


def settled(bench: Bench, made: Measurement, peer: Peer, size: int, count: int) -> None:
    """Note how long after the command's begin S3 has all of it; the requests and the CPU seconds
    until then count, too."""
    begun = time.monotonic()
    deadline = begun + bench.limit_s
    bucket, prefix = peer.written_to
    while time.monotonic() < deadline:
        held = bench.server.control("count", bucket=bucket, prefix=prefix)
        if held["bytes"] >= size and held["keys"] >= count:
            break
        time.sleep(0.02)
    else:
        made.notes.append(f"only {held['keys']} objects, {held['bytes'] >> 20} MiB in S3")
    late_s = time.monotonic() - begun
    if made.wall_s is not None:
        made.durable_s = made.wall_s + late_s
    counted = bench.server.control("stats")
    made.requests, made.bytes_in = counted["requests"], counted["bytes_in"]
    if peer.pid is not None:
        made.cpu_s = machine.cpu_s(peer.pid) - made.cpu_before_s


def clean(bench: Bench, peer: Peer) -> None:
    """Remove what was written."""
    bench.server.control("clear", bucket="data", prefix="new/")
    bench.server.control("fill", bucket="data", kind="key", key="new/.keep@1")
    if isinstance(peer, Local | JuiceFS):
        for path in Path(f"{peer.root}/new").iterdir():
            path.unlink()


def create_files(bench: Bench, peer: Peer) -> None:
    """Create small files, with one thread and with 8: closed when S3 has them, where the file
    system can; and closed before."""
    name = f"create {bench.scale.files:,} files of 4 KiB"
    for threads in (8, 1):
        step = f"{threads} thread{'s' * (threads > 1)}"
        if peer.confirms:
            created(bench, peer, name, step, threads)
        with peer.writing_back() as can:
            if can:
                created(bench, peer, f"{name}, S3 has them later", step, threads)


def created(bench: Bench, peer: Peer, name: str, step: str, threads: int) -> None:
    """Create small files, mounted anew."""
    count = bench.scale.files
    fresh(bench, peer)
    directory = f"{peer.root}/new"
    measured = bench.loop(name, step, peer, "create", directory, count, 4096, threads)
    if measured is not None:
        made, result = measured
        if result:
            made.value, made.unit = result["done"] / result["s"], "files/s"
            if peer.remote:
                settled(bench, made, peer, 4096 * int(result["done"]), int(result["done"]))
        show(bench, made)
    clean(bench, peer)
    peer.unmount()


def read_files(bench: Bench, peer: Peer) -> None:
    """Read small files in order, with one thread and with 8."""
    count = bench.scale.files
    name = f"read {count:,} files of 4 KiB"
    for steps in (("cold, 1 thread", "again"), ("cold, 8 threads",)):
        fresh(bench, peer)
        directory = f"{peer.root}/small"
        for step in steps:
            threads = 8 if "8" in step else 1
            measured = bench.loop(name, step, peer, "read", directory, count, threads)
            if measured is None:
                break
            made, result = measured
            if result:
                made.value, made.unit = result["done"] / result["s"], "files/s"
                count = int(result["done"])  # again: only those that the limit let it read
            show(bench, made)
        peer.unmount()


def copy_out(bench: Bench, peer: Peer) -> None:
    """`cp -r` of directories of small files to local memory."""
    count = COPIED[0] * COPIED[1]
    fresh(bench, peer)
    target = Path(f"/dev/shm/bench-{os.getpid()}.copy")
    for step in ("cold", "again"):
        command = ["cp", "-r", f"{peer.root}/copied", str(target)]
        name = f"cp -r of {count} files in {COPIED[0]} directories"
        made = bench.step(name, step, peer, command, amount=count, each="file")
        copied = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        shutil.rmtree(target, ignore_errors=True)
        if made is not None and made.wall_s is not None and copied != count * SIZE:
            made.notes.append(f"WRONG: {copied} bytes, expected {count * SIZE}")
        if not show(bench, made):
            break
    peer.unmount()


def append(bench: Bench, peer: Peer) -> None:
    """Append to a large file, with fsync: how much of it is moved."""
    size = bench.scale.big
    fresh(bench, peer)
    key = f"changed/big@{size}"
    command = ["dd", "if=/dev/zero", f"of={peer.root}/{key}", "bs=1M", "count=1"]
    command += ["oflag=append", "conv=notrunc,fsync", "status=none"]
    made = bench.step(f"append 1 MiB to {size >> 20:,} MiB", "to the return", peer, command)
    if made is not None and made.wall_s is not None and peer.remote:
        made.notes.append(f"{made.wall_s:.1f} s")
        made.value, made.unit = (made.bytes_in + made.bytes_out) / MIB, "MiB moved"
    bench.show(made)
    peer.unmount()
    if peer.remote:
        bench.server.control("clear", bucket="data", prefix=key)
        bench.server.control("fill", bucket="data", kind="key", key=key)
    else:
        os.truncate(bench.work / "local" / "data" / key, size)


DATA: dict[str, Workload] = {
    "read": read_big,
    "readers": read_many,
    "random": read_randomly,
    "readsmall": read_files,
    "copyout": copy_out,
    "write": write_big,
    "create": create_files,
    "append": append,
}
