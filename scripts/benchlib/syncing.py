"""`scripts/bench sync`: what a sync costs, by the command, against a server that answers a page
within a few ms: first, again without a change, again with 1 % changed, and of one directory of
10,000 among the rest.

A first sync finds a new store; the page cache of the machine is as it is. "whole" is the command
from its start to its end, "sync" what it reports itself: in a mount or a program that runs already,
that is all. CPU seconds and memory are of the whole.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchlib import machine
from benchlib.server import Server

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600.0
BUCKET = "sync"
HUGE = 3_000_000  # keys: of more, one bucket is measured, with one latency, pages made as asked


class Target(NamedTuple):
    """The project's target for a step: 0 is no matter."""

    whole_s: float = 0
    sync_s: float = 0
    lists: int = 0
    keys_per_cpu_s: int = 0
    mib: int = 0


# By step, keys and latency in ms.
TARGETS = {
    ("first sync", 100_000, 20): Target(whole_s=1.0, lists=110),
    ("first sync", 1_000_000, 0): Target(keys_per_cpu_s=100_000, mib=200),
    ("again, unchanged", 1_000_000, 0): Target(whole_s=8.0, mib=200),
    ("one directory of 10,000", 100_000, 20): Target(sync_s=0.3, lists=11),
    ("one directory of 10,000", 1_000_000, 20): Target(sync_s=0.3, lists=11),
}
UNITS = ("s whole", "s sync", "LISTs", "keys/s of CPU", "MiB")


class Case(NamedTuple):
    """A bucket: its name in the table, its keys, and how the server makes them."""

    name: str
    keys: int
    fill: dict[str, object]


def cases(sizes: list[int]) -> Iterator[Case]:
    """Yield the buckets of *sizes*: keys in one directory, and in a tree of 10,000."""
    for size in sizes:
        if size < HUGE:
            yield Case(f"{size:,} in one directory", size, {"kind": "flat", "count": size})
        tree = {"kind": "tree", "depth": 4, "fanout": 10, "files": size // 10_000}
        yield Case(f"{size:,} in 10,000 directories", size, tree)


def steps(case: Case) -> dict[str, str]:
    """Return what is measured of a case: the URL that is synced."""
    bucket = f"s3://{BUCKET}"
    found = {"first sync": bucket, "again, unchanged": bucket, "again, 1 % changed": bucket}
    if case.fill["kind"] == "tree":
        # One directory has 10,000 keys below it, whatever the size.
        depth = len(str(case.keys // 10_000)) - 1
        found["one directory of 10,000"] = f"{bucket}/{'d0/' * depth}" if depth else bucket
    return found


def run(work: Path, sizes: list[int], latencies: list[float]) -> int:
    """Measure all, and print the table."""
    print(f"`scripts/bench sync`: {machine.description(work)}\n")
    print("| | target | s whole | s sync | LISTs | CPU s | keys/s of CPU | MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in cases(sizes):
        with Server(0.0) as server:
            server.control("fill", bucket=BUCKET, **case.fill)
            for latency in latencies if case.keys < HUGE else latencies[:1]:
                measure(server, case, latency, work)
    print(f"\nload average at the end {machine.load_average():.1f}")
    return 0


def measure(server: Server, case: Case, latency: float, work: Path) -> None:
    """Measure each step over a new store."""
    store = work / "sync.db"
    for file in work.glob("sync.db*"):
        file.unlink()
    server.control("latency", ms=latency)
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_STATE_HOME": str(work),
    }
    mimicfs = str(ROOT / ".venv" / "bin" / "mimicfs")
    options = ["--endpoint-url", server.endpoint, "--store", f"sqlite://{store}", "--json"]
    for step, url in steps(case).items():
        if step == "again, 1 % changed":
            server.control("change", bucket=BUCKET, every=300)
        if case.keys < HUGE:
            server.control("render", bucket=BUCKET)
        server.control("reset")
        output = work / "sync.out"
        made = machine.run([mimicfs, "sync", *options, url], LIMIT_S, output, environment)
        if made.status or made.wall_s is None:
            print(f"bench: {step}: {output.read_text()}", file=sys.stderr)
            continue
        report = json.loads(output.read_text())
        lists = server.control("stats")["requests"].get("LIST", 0)
        per_cpu_s = int(report["keys"] / made.cpu_s)
        found = Target(
            made.wall_s, report["duration_ns"] / 1e9, lists, per_cpu_s, int(made.rss_mib)
        )
        aimed = aim((step, case.keys, int(latency)), found)
        print(
            f"| {case.name}, {latency:.0f} ms: {step} | {aimed}"
            f" | {found.whole_s:.2f} | {found.sync_s:.2f} | {lists:,} | {made.cpu_s:.2f} |"
            f" {per_cpu_s:,} | {found.mib} |",
            flush=True,
        )


def aim(where: tuple[str, int, int], found: Target) -> str:
    """Return what was wanted, and whether it was met."""
    wanted = TARGETS.get(where)
    if wanted is None:
        return ""
    said, met = [], True
    for name, unit, most, was in zip(Target._fields, UNITS, wanted, found, strict=True):
        if most and name == "keys_per_cpu_s":
            said.append(f">= {most:,} {unit}")
            met = met and was >= most
        elif most:
            said.append(f"<= {most:,} {unit}")
            met = met and was <= most
    return f"{', '.join(said)}: {'met' if met else '**missed**'}"
