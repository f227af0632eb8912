"""The measurements of metadata: each workload is a sequence of steps on one mounted file system."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from benchlib import machine
from benchlib.peers import MountFailed, Peer
from benchlib.s3objects import flat_keys, synthetic_size, tree_keys
from benchlib.server import Server

LOOPS = str(Path(__file__).with_name("loops.py"))
AGAIN = 3  # times in each repetition: a kernel that reclaims pages meanwhile is noise
_EACH = {"stat": "name", "create": "file", "read": "file", "random": "read"}  # of the loops
LONG = {**os.environ, "LC_ALL": "C"}  # ls and find then sort and print bytes


@dataclass(frozen=True)
class Scale:
    """How large the data is."""

    small: int = 10_000  # files in one directory
    large: int = 100_000  # files in one directory
    depth: int = 4  # of a tree with fanout 10 and 10 files in each deepest directory
    big: int = 1 << 30  # bytes of the large file
    readers: int = 128 << 20  # bytes of each of the files that are read at once
    random: int = 20_000  # random reads of what is kept
    files: int = 2_000  # small files, of 4 KiB
    sample: int = 2_000  # paths of a stat loop

    @property
    def tree_entries(self) -> int:
        """How many lines `find` prints for the tree: its root, directories and files."""
        return sum([10**level for level in range(self.depth + 2)])


QUICK = Scale(2_000, 10_000, 3, 128 << 20, 16 << 20, 2_000, 200, 500)


@dataclass
class Measurement:
    """One step, once. *wall_s* None: it ran over its limit."""

    workload: str
    step: str
    peer: str
    repetition: int
    limit_s: float
    wall_s: float | None = None
    value: float | None = None  # where not the wall time is what counts
    unit: str = "s"
    requests: dict[str, int] = field(default_factory=dict)
    in_flight_max: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    cpu_s: float | None = None
    cpu_before_s: float = 0.0  # of the daemon, when the step began
    durable_s: float | None = None  # from the begin until S3 has what was written
    amount: float = 0.0  # how many *each* were worked on: what CPU seconds are divided by
    each: str = ""
    peak_mib: float | None = None
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    def of(self, amount: float, each: str) -> None:
        """So many were worked on: files, MiB, names."""
        self.amount, self.each = amount, each

    @property
    def cpu_us(self) -> float | None:
        """Microseconds of the daemon's CPU for each; None where that is not known."""
        if self.cpu_s is None or self.wall_s is None or not self.amount:
            return None
        return self.cpu_s / self.amount * 1e6


class Bench:
    """One run: the server, the peers' directory, and what was measured so far."""

    def __init__(
        self,
        server: Server,
        work: Path,
        scale: Scale,
        limit_s: float,
        report: Callable[[Measurement], None],
    ) -> None:
        self.server, self.work, self.scale, self.limit_s = server, work, scale, limit_s
        self.repetition = 0
        self.measurements: list[Measurement] = []
        self._report = report
        self._output = Path(f"/dev/shm/bench-{os.getpid()}.out")
        self._hopeless: set[tuple[str, str, str]] = set()  # ran over their limit before

    def step(
        self,
        workload: str,
        name: str,
        peer: Peer,
        command: list[str],
        *,
        lines: int | None = None,
        limit_s: float | None = None,
        own: bool = False,
        amount: float = 0.0,
        each: str = "",
    ) -> Measurement | None:
        """Measure *command*; None when this step is not worth (another) try.

        *lines* is how many it must print, names where nothing else is said to be worked on.
        *own*: the command itself is the daemon to account.
        """
        limit_s = limit_s or self.limit_s
        if (workload, name, peer.name) in self._hopeless:
            return None
        pid = None if own else peer.pid
        if pid is not None:
            machine.settle(pid)
            machine.reset_peak(pid)
        before_s = machine.cpu_s(pid) if pid is not None else 0.0
        self.server.control("reset")
        done = machine.run(
            command, limit_s, self._output, peer.environment if own else LONG, peer.kill
        )
        made = Measurement(workload, name, peer.name, self.repetition, limit_s, done.wall_s)
        counted = self.server.control("stats")
        if peer.remote:
            made.requests, made.in_flight_max = counted["requests"], counted["in_flight_max"]
            made.bytes_in, made.bytes_out = counted["bytes_in"], counted["bytes_out"]
        if own:
            made.cpu_s, made.peak_mib = done.cpu_s, done.rss_mib
        elif pid is not None:
            made.cpu_before_s = before_s
            made.cpu_s, made.peak_mib = machine.cpu_s(pid) - before_s, machine.peak_mib(pid)
        made.of(amount or lines or 0, each or ("name" if lines else ""))
        self._check(made, done, lines)
        self.measurements.append(made)
        return made

    def _check(self, made: Measurement, done: machine.Finished, lines: int | None) -> None:
        if done.wall_s is None:
            self._hopeless.add((made.workload, made.step, made.peer))
        elif done.status != 0:
            made.notes.append(f"exit status {done.status}")
        elif lines is not None and (printed := self._output.read_bytes().count(b"\n")) != lines:
            made.notes.append(f"WRONG: {printed} lines, expected {lines}")

    def loop(
        self, workload: str, name: str, peer: Peer, *arguments: object, limit_s: float = 30.0
    ) -> tuple[Measurement, dict[str, Any]] | None:
        """Measure one of `loops.py`, which keeps its own time limit; return its JSON as well."""
        command = [sys.executable, "-I", LOOPS, *map(str, arguments), str(limit_s)]
        made = self.step(workload, name, peer, command, limit_s=limit_s + 30)
        if made is None or made.wall_s is None or made.notes:
            return None if made is None else (made, {})
        result = self.output()
        made.of(result["done"], _EACH.get(str(arguments[0]), ""))
        return made, result

    def quietly(self, peer: Peer, command: list[str]) -> int:
        """Run *command* unmeasured; return its exit status."""
        environment = {**LONG, **peer.environment}
        return machine.run(command, self.limit_s, self._output, environment, peer.kill).status

    def output(self) -> Any:
        """Return what the last command printed, as JSON; None when it printed none."""
        text = self._output.read_text()
        return json.loads(text) if text else None

    def show(self, made: Measurement | None) -> bool:
        """Report a measurement; return whether the steps that build on it make sense."""
        if made is not None:
            self._report(made)
        return made is not None and made.wall_s is not None

    def close(self) -> None:
        """Remove the file for outputs."""
        self._output.unlink(missing_ok=True)


def prepare(bench: Bench, local: bool) -> None:
    """Fill the buckets of metadata and, for the local file system, write the same trees."""
    scale, control = bench.scale, bench.server.control
    control("fill", bucket="flat10k", kind="flat", prefix="dir/", count=scale.small)
    control("fill", bucket="flat100k", kind="flat", prefix="dir/", count=scale.large)
    control(
        "fill", bucket="tree", kind="tree", prefix="dir/", depth=scale.depth, fanout=10, files=10
    )
    for bucket in ("flat10k", "flat100k", "tree"):  # for a mount of a moment
        control("versions", bucket=bucket, each=1)
    if not local:
        return
    base = bench.work / "local"
    write_files(base / "flat10k", flat_keys("dir/", scale.small))
    write_files(base / "flat100k", flat_keys("dir/", scale.large))
    write_files(base / "tree", tree_keys("dir/", scale.depth, 10, 10))


def write_files(base: Path, keys: list[str], filled: bool = False) -> None:
    """Write a file of the right size for each key: sparse, or *filled* with random bytes."""
    made = ""
    for key in keys:
        directory = os.path.dirname(key)
        if directory != made or not made:
            (base / directory).mkdir(parents=True, exist_ok=True)
            made = directory
        size = synthetic_size(key, crc32(key.encode()))
        with open(base / key, "wb") as file:
            while filled and size:
                size -= file.write(os.urandom(min(size, 1 << 20)))
            file.truncate(size or None)


# Metadata


def ls(bench: Bench, peer: Peer, bucket: str, count: int) -> None:
    """`ls -l` of one directory."""
    name = f"ls -l of {count:,} files"
    command = ["ls", "-l", f"{peer.root if peer.remote else bench.work / 'local' / bucket}/dir"]
    lines = count + 1
    if peer.remote:
        peer.wipe()
        peer.mount(bucket)
        if bench.show(bench.step(name, "never seen", peer, command, lines=lines)):
            bench.show(bench.step(name, "never seen, again", peer, command, lines=lines))
        peer.unmount()
    known(bench, peer, bucket, name)
    if bench.show(bench.step(name, "known, fresh mount", peer, command, lines=lines)):
        for _ in range(AGAIN):
            bench.show(bench.step(name, "again", peer, command, lines=lines))
        machine.drop_caches(2)
        bench.show(bench.step(name, "asked of the daemon again", peer, command, lines=lines))
    peer.unmount()


def known(bench: Bench, peer: Peer, bucket: str, workload: str) -> None:
    """Mount *bucket* with its metadata known as well as this peer can, the kernel knowing none.

    mimicfs: synced, then mounted, which is the state after any later remount as well. rclone:
    mounted, then refreshed. s3fs: remounted with its caches kept. ext4: caches dropped.
    """
    command = peer.refresh(bucket)
    if command is None:
        peer.mount(bucket)
    elif peer.refresh_mounted:
        peer.mount(bucket)
        first_sync(bench, peer, workload, command)
    else:
        peer.wipe()
        first_sync(bench, peer, workload, command)
        peer.mount(bucket)


def first_sync(bench: Bench, peer: Peer, workload: str, command: list[str]) -> None:
    """Run the refresh, as a measured step where *workload* is not empty."""
    own = not peer.refresh_mounted
    if workload:
        bench.show(bench.step(f"sync, {workload}", "first", peer, command, own=own))
    else:
        bench.quietly(peer, command)


def ls_small(bench: Bench, peer: Peer) -> None:
    """`ls -l` of 10,000 files."""
    ls(bench, peer, "flat10k", bench.scale.small)


def ls_large(bench: Bench, peer: Peer) -> None:
    """`ls -l` of 100,000 files."""
    ls(bench, peer, "flat100k", bench.scale.large)


def resync(bench: Bench, peer: Peer) -> None:
    """Refresh a synced bucket in which nothing changed, and in which one object is new."""
    bucket, workload = "flat100k", f"refresh of {bench.scale.large:,} known files"
    command = peer.refresh(bucket)
    if command is None:
        return
    if not peer.refresh_mounted:
        peer.wipe()
        bench.quietly(peer, command)
        bench.show(bench.step(workload, "by command, unmounted", peer, command, own=True))
    peer.mount(bucket)
    if peer.refresh_mounted:
        bench.quietly(peer, command)
    through = peer.touch_refresh() or command
    bench.show(bench.step(workload, "mounted, nothing changed", peer, through))
    bench.server.control("fill", bucket=bucket, kind="key", key="dir/added@1")
    bench.show(bench.step(workload, "mounted, one object added", peer, through))
    if bench.quietly(peer, ["test", "-e", f"{peer.root}/dir/added@1"]) != 0:
        bench.measurements[-1].notes.append("WRONG: the new object is not shown")
    bench.server.control("clear", bucket=bucket, prefix="dir/added")
    peer.unmount()


def find(bench: Bench, peer: Peer) -> None:
    """`find` and `du -s` over a tree."""
    scale = bench.scale
    files = 10 ** (scale.depth + 1)
    name = f"find over {files:,} files in {scale.tree_entries - files:,} directories"
    known(bench, peer, "tree", name)
    tree = f"{peer.root}/dir"
    if bench.show(
        bench.step(name, "known, fresh mount", peer, ["find", tree], lines=scale.tree_entries)
    ):
        bench.show(bench.step(name, "again", peer, ["find", tree], lines=scale.tree_entries))
        # Only the second pass finds every directory's access time stale, and asks for it.
        for _ in range(AGAIN):
            bench.show(bench.step(name, "later", peer, ["find", tree], lines=scale.tree_entries))
        machine.drop_caches(2)
        du = ["du", "-s", tree]
        for step in ("asked of the daemon", "again"):
            names = scale.tree_entries  # it prints one line for all of them
            bench.show(bench.step("du -s of the same", step, peer, du, lines=1, amount=names))
    peer.unmount()


def start(bench: Bench, peer: Peer) -> None:
    """Mount until it answers, and what the names that the kernel knows then take of memory."""
    known(bench, peer, "flat100k", "")
    peer.unmount()
    for _ in range(AGAIN):
        begun = time.perf_counter()
        peer.mount("flat100k")
        took_s = time.perf_counter() - begun
        made = Measurement("mount", "until it answers", peer.name, bench.repetition, 60.0, took_s)
        if peer.pid is not None:
            made.cpu_s, made.peak_mib = machine.cpu_s(peer.pid), machine.peak_mib(peer.pid)
        bench.measurements.append(made)
        bench.show(made)
        if _ < AGAIN - 1:
            peer.unmount()
    if peer.pid is not None:
        names_held(bench, peer)
    peer.unmount()


def names_held(bench: Bench, peer: Peer) -> None:
    """How much memory of the daemon each name takes, and how much it keeps without them."""
    assert peer.pid is not None
    machine.settle(peer.pid)
    empty_mib = machine.held_mib(peer.pid)
    bench.quietly(peer, ["ls", "-l", f"{peer.root}/dir"])
    machine.settle(peer.pid)
    full_mib = machine.held_mib(peer.pid)
    machine.drop_caches(2)
    machine.settle(peer.pid)
    left_mib = machine.held_mib(peer.pid)
    for step, mib in (("held", full_mib), ("after they are forgotten", left_mib)):
        made = Measurement("memory of a name", step, peer.name, bench.repetition, 60.0, 0.0)
        made.value, made.unit = (mib - empty_mib) * 2**20 / bench.scale.large, "bytes"
        bench.measurements.append(made)
        bench.show(made)


def stat(bench: Bench, peer: Peer) -> None:
    """lstat of existing and of missing names in a known directory."""
    known(bench, peer, "flat10k", "")
    directory = f"{peer.root}/dir"
    bench.quietly(peer, ["ls", "-l", directory])
    chosen = random.Random(1).sample(flat_keys("", bench.scale.small), bench.scale.sample)
    present, absent = bench.work / "present", bench.work / "absent"
    present.write_text("".join(f"{directory}/{name}\n" for name in chosen))
    absent.write_text("".join(f"{directory}/{name}.missing\n" for name in chosen))
    name = "stat of a known name"
    # Each several times: whether daemon and client share a core, or wake each other's, is the
    # scheduler's choice, and makes a factor of 3.
    for _ in range(AGAIN):
        machine.drop_caches(2)
        bench.show(stat_loop(bench, peer, name, "asked of the daemon", present, 1))
        bench.show(stat_loop(bench, peer, name, "kernel-cached", present, 20))
    name = "stat of a missing name"
    bench.show(stat_loop(bench, peer, name, "first", absent, 1))
    bench.show(stat_loop(bench, peer, name, "again", absent, 5))
    peer.unmount()


def stat_loop(
    bench: Bench, peer: Peer, name: str, step: str, paths: Path, passes: int
) -> Measurement | None:
    """lstat every path of the file *paths*, *passes* times; the median counts."""
    measured = bench.loop(name, step, peer, "stat", paths, passes, limit_s=10)
    if measured is None:
        return None
    made, result = measured
    made.value, made.unit = result.get("p50_us"), "us"
    expected = result.get("done") if "missing" in name else 0
    if result.get("missing") != expected:
        made.notes.append(f"WRONG: {result.get('missing')} missing, expected {expected}")
    return made


Workload = Callable[[Bench, Peer], None]
METADATA: dict[str, Workload] = {
    "ls10k": ls_small,
    "ls100k": ls_large,
    "resync": resync,
    "find": find,
    "stat": stat,
    "start": start,
}


def run_one(bench: Bench, peer: Peer, workload: Workload) -> None:
    """Run one workload; a file system that fails is noted, and never left mounted."""
    try:
        workload(bench, peer)
    except (MountFailed, OSError) as error:
        notes = [str(error).replace("\n", " ")]
        made = Measurement(workload.__name__, "failed", peer.name, bench.repetition, 0, notes=notes)
        bench.measurements.append(made)
        bench.show(made)
    finally:
        peer.unmount()
