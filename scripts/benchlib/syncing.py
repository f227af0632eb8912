"""`scripts/bench sync`: what a sync costs, by the command, against a server that answers a page
within a few ms: first, again without a change, again with 1 % changed, and of one directory of
10,000 among the rest.

A first sync that is timed finds a new store; the page cache of the machine is as it is.
"""

from __future__ import annotations

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
# By keys and latency in ms: the most seconds, and the most LISTs, that the project wants.
TARGETS = {
    ("first sync", 100_000, 20): (1.0, 110),
    ("again, unchanged", 1_000_000, 0): (8.0, None),
    ("one directory of 10,000", 100_000, 20): (0.3, 11),
    ("one directory of 10,000", 1_000_000, 20): (0.3, 11),
}


class Case(NamedTuple):
    """A bucket: its name in the table, its keys, and how the server makes them."""

    name: str
    keys: int
    fill: dict[str, object]


def cases(sizes: list[int]) -> Iterator[Case]:
    """Yield the buckets of *sizes*: keys in one directory, and in a tree of 10,000."""
    for size in sizes:
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
    print("| | target | s | LISTs | keys/s | CPU s | keys/s of CPU | MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in cases(sizes):
        with Server(0.0) as server:
            server.control("fill", bucket=BUCKET, **case.fill)
            for latency in latencies:
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
    options = ["--endpoint-url", server.endpoint, "--store", f"sqlite://{store}", "--fresh"]
    for step, url in steps(case).items():
        if "changed" in step and "un" not in step:
            server.control("change", bucket=BUCKET, every=300)
        server.control("reset")
        output = work / "sync.out"
        made = machine.run([mimicfs, "sync", *options, url], LIMIT_S, output, environment)
        if made.status or made.wall_s is None:
            print(f"bench: {step}: {output.read_text()}", file=sys.stderr)
            continue
        keys = int(output.read_text().split(": ")[1].split()[0])
        lists = server.control("stats")["requests"].get("LIST", 0)
        target = aim(step, case.keys, latency, made.wall_s, lists)
        print(
            f"| {case.name}, {latency:.0f} ms: {step} | {target} | {made.wall_s:.2f} | {lists} |"
            f" {keys / made.wall_s:,.0f} | {made.cpu_s:.2f} | {keys / made.cpu_s:,.0f} |"
            f" {made.rss_mib:.0f} |",
            flush=True,
        )


def aim(step: str, keys: int, latency: float, wall_s: float, lists: int) -> str:
    """Return what was wanted, and whether it was met."""
    wanted = TARGETS.get((step, keys, int(latency)))
    if wanted is None:
        return ""
    most_s, most_lists = wanted
    met = wall_s <= most_s and (most_lists is None or lists <= most_lists)
    text = f"<= {most_s:.1f} s" + (f", {most_lists} LISTs" if most_lists else "")
    return f"{text}: {'met' if met else '**missed**'}"
