"""What is wrong in a mount after messages were doubled, shuffled, delayed and lost; before a sweep,
and after it."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from support.mounts import Mount, wait_until

from benchlib.told.changes import DIRECTORIES, Change, changed, copy, delete, in_threads, put
from benchlib.told.mounts import asked, mounted, settle, since, status
from benchlib.told.passing import Carrier
from benchlib.told.tellers import Server

CHANGED_S = 40.0  # that somebody changes keys, at most
SWEPT_S = 120  # more than that takes, until the last message has come
LOSSES = """
| server | changes | messages | lost | sent, some twice | wrong before a sweep | wrong after it | \
requests |
|---|---|---|---|---|---|---|---|"""


def losses(work: Path, server: Server, count: int, chance: random.Random) -> int:
    """Print what a tenth of lost messages leaves; return how much is wrong after a sweep."""
    bucket, carrier = "losses", Carrier(chance)
    server.client.create_bucket(Bucket=bucket)
    put(server.client, bucket, "source")
    keys = [f"{n % DIRECTORIES}/{n:06}" for n in range(count)]
    in_threads(partial(put, server.client, bucket), keys[: count // 2], server.writers)
    kinds = (put, changed, copy, delete)
    changes = [(key, chance.choice(kinds)) for key in keys * 2]
    chance.shuffle(changes)
    with (
        server.through(bucket, carrier) as sent,
        mounted(work, server, bucket, sent.source, "--reconcile", f"{SWEPT_S}s") as mount,
    ):
        sent.begin()
        requests, until_s = asked(mount), time.monotonic() + CHANGED_S

        def change(each: tuple[str, Change]) -> bool:
            if time.monotonic() > until_s:
                return False
            each[1](server.client, bucket, each[0])
            return True

        made = sum(in_threads(change, changes, server.writers))
        for n in range(count // 20):  # through the mount, and S3 tells of it, too
            (mount.path / f"{n % DIRECTORIES}/own-{n}").write_bytes(b"own")
        wait_until(lambda: carrier.empty, 120)
        settle(mount)
        before, changed_ns = wrong(server, bucket, mount), time.time_ns()
        wait_until(lambda: swept_ns(mount, bucket) > changed_ns, SWEPT_S + 60)
        left = wrong(server, bucket, mount)
        cost = since(requests, asked(mount))
    print(f"| {server.name} | {made:,} | {carrier.taken:,} | {carrier.lost:,} |"
          f" {carrier.sent:,} | {before:,} | {left:,} | {cost} |", flush=True)  # fmt: skip
    return left


def swept_ns(mount: Mount, bucket: str) -> int:
    time.sleep(1)
    return int(status(mount)["reconcile"]["swept_until_ns"].get(bucket, 0))


def wrong(server: Server, bucket: str, mount: Mount) -> int:
    there, here = truth(server, bucket), looked_at(mount)
    return sum(there.get(key) != here.get(key) for key in there.keys() | here.keys())


def truth(server: Server, bucket: str) -> dict[str, tuple[int, str]]:
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = [each for page in pages for each in page.get("Contents", ())]
    return {each["Key"]: (each["Size"], each["ETag"].strip('"')) for each in found}


def looked_at(mount: Mount) -> dict[str, tuple[int, str]]:
    """Return what programs see: each file with its size and ETag."""
    found = {}
    for directory, _, names in os.walk(mount.path):
        for name in names:
            path = Path(directory, name)
            with suppress(FileNotFoundError):  # a ghost of a moment
                etag = os.getxattr(path, "user.mimicfs.etag").decode().strip('"')
                found[str(path.relative_to(mount.path))] = (path.lstat().st_size, etag)
    return found
