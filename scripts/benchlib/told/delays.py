"""How long each kind of change takes to be shown by a mount whose kernel holds the old state."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from support.mounts import Mount

from benchlib import machine
from benchlib.told.changes import (
    DIRECTORIES,
    KINDS,
    PATIENCE_S,
    Change,
    Seen,
    in_threads,
    put,
    seen_after_s,
    shown,
)
from benchlib.told.mounts import asked, mounted, settle, since
from benchlib.told.passing import Arrivals
from benchlib.told.tellers import WRITERS, Server

WORKERS = 4  # clients that change something and wait until it is shown
TARGET_S = 1.0
DELAYS = """
| server | change | changes | a second | ms from its message: p50 | p99 | most | ms from the call: \
p50 | p99 | most | requests | load |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def delays(work: Path, server: Server, count: int, kind: str) -> int:
    """Print a row for each change in a bucket of *kind*; return how many miss the target."""
    bucket = f"delays-{kind}"
    server.client.create_bucket(Bucket=bucket)
    if kind == "versioned":
        server.client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    put(server.client, bucket, "source")
    missed = 0
    with closing(Arrivals()) as arrivals:
        sent = server.direct(bucket, arrivals)
        with mounted(work, server, bucket, sent.source) as mount:
            sent.begin()
            for name, (before, change, seen) in KINDS[kind].items():
                keys = [f"{name.replace(' ', '-')}/{n:06}" for n in range(count)]
                for each in before:
                    in_threads(partial(each, server.client, bucket), keys)
                settle(mount)
                for key in keys:
                    shown(mount.path / key)  # the kernel holds what was before
                one = partial(timed, server.client, bucket, mount, change, seen)
                missed += measured(server, name, mount, arrivals, keys, one, WORKERS)
            keys = [f"many/{n % DIRECTORIES}/{n:06}" for n in range(count * 5)]
            one = partial(begun, server, bucket, time.monotonic())
            name = f"put, {server.pace:.0f} a second"
            missed += measured(server, name, mount, arrivals, keys, one, WRITERS)
    return missed


def timed(
    client: Any, bucket: str, mount: Mount, change: Change, seen: Seen, key: str
) -> tuple[float, float]:
    """Return when the change began, and when it was seen."""
    began_s = time.perf_counter()
    change(client, bucket, key)
    return began_s, began_s + seen_after_s(seen, mount.path / key, began_s)


def begun(server: Server, bucket: str, started_s: float, key: str) -> tuple[float, float]:
    """Make *key* when its time has come."""
    due_s = started_s + int(key.rpartition("/")[2]) / server.pace
    time.sleep(max(0.0, due_s - time.monotonic()))
    began_s = time.perf_counter()
    put(server.client, bucket, key)
    return began_s, 0.0


def measured(
    server: Server,
    name: str,
    mount: Mount,
    arrivals: Arrivals,
    keys: list[str],
    one: Callable[[str], tuple[float, float]],
    threads: int,
) -> int:
    """Print a row; 1: it misses the target. Changes that *one* has not seen are looked for in the
    order of the calls."""
    requests, told, started_s = asked(mount), [], time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for key, made in [(key, pool.submit(one, key)) for key in keys]:
            began_s, seen_s = made.result()
            seen_s = seen_s or began_s + seen_after_s(shown, mount.path / key, began_s)
            told.append((began_s, arrivals.at_s.get(key, seen_s), seen_s))
    rate = len(keys) / (time.perf_counter() - started_s)
    from_call, from_arrival = (sorted(each[2] - each[n] for each in told) for n in (0, 1))
    never = sum(each >= PATIENCE_S for each in from_call)
    note = f"; {never} never" if never else ""
    print(f"| {server.name} | {name} | {len(keys):,} | {rate:.0f} | {percentiles(from_arrival)} |"
          f" {percentiles(from_call)} | {since(requests, asked(mount))}{note} |"
          f" {machine.load_average():.1f} |", flush=True)  # fmt: skip
    return int(from_arrival[int(len(told) * 0.99)] > TARGET_S or never > 0)


def percentiles(took_s: list[float]) -> str:
    ms = [each * 1000 for each in took_s]
    return f"{ms[len(ms) // 2]:.0f} | {ms[int(len(ms) * 0.99)]:.0f} | {ms[-1]:.0f}"
