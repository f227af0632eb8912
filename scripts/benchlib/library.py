"""`scripts/bench library`: what a call costs through a mimicked client, by store, beside a plain
boto3 client and the core called directly; and what a key costs in a store. Prints one table.

Run by `scripts/bench` with the Python that has mimicfs: library.py ENDPOINT WORKDIR.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from mimicfs import MimicDB
from mimicfs.backends import Backend
from mimicfs.backends.memory import Memory
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry

BUCKET = "library"
CONFIG = Config(s3={"addressing_style": "path"})
KEYS = 3000
# By call: the most microseconds through SQLite and memory that the project wants.
TARGETS = {"head_object": 15.0, "list of 1,000": 1200.0}
BYTES_KEYS = 100_000


def calls(client: Any) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Return what is measured: how often, and what."""
    return {
        "head_object": (200, lambda: client.head_object(Bucket=BUCKET, Key="p/00000")),
        "list of 1": (100, lambda: client.list_objects_v2(Bucket=BUCKET, Prefix="p/00000")),
        "list of 100": (30, lambda: client.list_objects_v2(Bucket=BUCKET, Prefix="p/000")),
        "list of 1,000": (10, lambda: client.list_objects_v2(Bucket=BUCKET, Prefix="p/")),
        "list_buckets": (100, client.list_buckets),
    }


def core(mimicdb: MimicDB) -> dict[str, tuple[int, Callable[[], Any]]]:
    """The same of MimicDB itself."""
    return {
        "head_object": (500, lambda: mimicdb.entry(BUCKET, "p/00000")),
        "list of 1": (200, lambda: mimicdb.listing(BUCKET, "p/00000")),
        "list of 100": (50, lambda: mimicdb.listing(BUCKET, "p/000")),
        "list of 1,000": (20, lambda: mimicdb.listing(BUCKET, "p/", "", 1000)),
        "list_buckets": (200, mimicdb.buckets),
    }


# Calls that go to S3 in any case: reads that the mirror has no answer for, and a write.
PASSING: dict[str, dict[str, Any]] = {
    "GetObjectTagging": {"Bucket": BUCKET, "Key": "p/00001"},
    "GetObject": {"Bucket": BUCKET, "Key": "p/00001"},
    "PutObject": {"Bucket": BUCKET, "Key": "p/00001", "Body": b"x"},
}


def added(mimicdb: MimicDB, plain: Any, endpoint: str) -> dict[str, float]:
    """Return what mimicking adds to calls that go to S3: here, to one that answers at once what
    *plain* was answered."""
    known = {name: asked(plain, name) for name in PASSING}
    client: Any = boto3.client("s3", endpoint_url=endpoint, config=CONFIG)
    client._make_api_call = lambda operation, _params: known[operation]
    mimicdb.mimic(client)
    return measured({name: (200, partial(asked, client, name)) for name in PASSING})


def asked(client: Any, name: str) -> Any:
    """Make the call of PASSING of this *name*."""
    return client._make_api_call(name, dict(PASSING[name]))


def measured(what: Mapping[str, tuple[int, Callable[[], Any]]]) -> dict[str, float]:
    """Return microseconds of each call: the best of five rounds."""
    return {
        name: min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6
        for name, (number, call) in what.items()
    }


def prepared(backend: Backend, endpoint: str) -> tuple[MimicDB, Any]:
    """Return a MimicDB that knows the bucket, and a client that mimics into it."""
    mimicdb = MimicDB(backend)
    client = mimicdb.client(endpoint_url=endpoint, config=CONFIG)
    client.list_buckets()
    mimicdb.sync(BUCKET, client=client)
    client.head_object(Bucket=BUCKET, Key="p/00000")
    return mimicdb, client


@contextmanager
def redis_server(work: Path) -> Iterator[int | None]:
    """Yield the port of a redis-server of our own; None where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(work),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.01)
        yield port
    finally:
        server.terminate()
        server.wait()


def entries(names: int) -> list[Entry]:
    """Return 100,000 keys in directories of *names* names, with etags as S3 gives them."""
    return [
        Entry(f"data/{n // names:06}/file-{n:07}.dat", n, 1_700_000_000_000_000_000, f"{n:032x}")
        for n in range(BYTES_KEYS)
    ]


def fill(backend: Backend, names: int) -> None:
    found = entries(names)
    for start in range(0, len(found), 1000):
        backend.apply("b", found[start : start + 1000])


def bytes_of_sqlite(work: Path) -> float:
    path = work / "bytes.sqlite"
    backend = SQLite(str(path))
    fill(backend, 100)
    backend.close()
    return path.stat().st_size / BYTES_KEYS


def bytes_of_redis(port: int, names: int) -> float:
    import redis

    plain = redis.Redis(port=port)
    plain.flushall()
    before = plain.info("memory")["used_memory"]
    backend = RedisBackend.from_url(f"redis://127.0.0.1:{port}/0")
    fill(backend, names)
    used = plain.info("memory")["used_memory"] - before
    backend.close()
    return used / BYTES_KEYS


def main() -> None:
    endpoint, work = sys.argv[1], Path(sys.argv[2])
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    plain: Any = boto3.client("s3", endpoint_url=endpoint, config=CONFIG)
    plain.create_bucket(Bucket=BUCKET)
    for n in range(1000):
        plain.put_object(Bucket=BUCKET, Key=f"p/{n:05}", Body=b"x")
    columns: dict[str, dict[str, float]] = {}
    sizes: dict[str, float] = {}
    passing: dict[str, dict[str, float]] = {}
    with redis_server(work) as port:
        stores: dict[str, Callable[[], Backend]] = {
            "memory": Memory,
            "SQLite": lambda: SQLite(str(work / "library.sqlite")),
        }
        if port is not None:
            stores["Redis"] = lambda: RedisBackend.from_url(f"redis://127.0.0.1:{port}/0")
        for name, make in stores.items():
            mimicdb, client = prepared(make(), endpoint)
            columns[f"mimicked, {name}"] = measured(calls(client))
            columns[f"core, {name}"] = measured(core(mimicdb))
            passing[name] = added(mimicdb, plain, endpoint)
            mimicdb.close()
        few = {name: (5, call) for name, (_, call) in calls(plain).items()}
        columns["plain boto3"] = measured(few)
        asking = {name: (20, partial(asked, plain, name)) for name in PASSING}
        passing["the whole call of plain boto3"] = measured(asking)
        sizes["SQLite, on disk"] = bytes_of_sqlite(work)
        if port is not None:
            sizes["Redis, directories of 100"] = bytes_of_redis(port, 100)
            sizes["Redis, directories of 1,000"] = bytes_of_redis(port, 1000)
    print(f"| us a call | target | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    for call in calls(plain):
        figures = " | ".join(f"{column[call]:,.1f}" for column in columns.values())
        goal = f"<= {TARGETS[call]:,.0f}" if call in TARGETS else ""
        print(f"| {call} | {goal} | {figures} |")
    print()
    print(f"| us added to what goes to S3 | {' | '.join(passing)} |")
    print("|---" * (len(passing) + 1) + "|")
    for call in PASSING:
        figures = " | ".join(f"{column[call]:,.1f}" for column in passing.values())
        print(f"| {call} | {figures} |")
    print()
    goals = [130, 90, 150]
    for (store, size), aim in zip(sizes.items(), goals, strict=False):
        print(f"{store}: {size:.0f} bytes a key (target {aim})")


if __name__ == "__main__":
    main()
