"""Two mounts on one Redis; the one that takes the messages is killed."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from support import servers
from support.clients import queue_of
from support.mounts import Mount, wait_until

from benchlib.told.changes import PATIENCE_S, put, shown
from benchlib.told.mounts import mounted, status
from benchlib.told.tellers import Moto, Sent, Server

TAKEOVER = """
| server | the other mount shows a change after | all changes | lost |
|---|---|---|---|"""


def takeover(work: Path, server: Moto, rounds: int) -> int:
    """Kill the mount that takes the messages, *rounds* times; return how many changes the other
    one never shows."""
    lost = 0
    (work / "redis").mkdir()
    for n in range(rounds):
        bucket = f"takeover-{n}"
        server.client.create_bucket(Bucket=bucket)
        sent = Sent(f"sqs:{queue_of(server.url, bucket)}", lambda: None)
        with servers.redis(work / "redis") as port, ExitStack() as stack:
            store = f"redis://127.0.0.1:{port}/0"
            opened = partial(mounted, work, server, bucket, sent.source, store=store)
            first = stack.enter_context(opened())
            second = stack.enter_context(opened())
            first_s, all_s, missing = killed(server, bucket, first, second)
        lost += missing
        print(f"| {server.name} | {first_s:.1f} s | {all_s:.1f} s | {missing} |", flush=True)
    return lost


def killed(server: Server, bucket: str, first: Mount, second: Mount) -> tuple[float, float, int]:
    """Kill *first* while somebody makes keys. Return how long after that *second* shows the first
    one that it had not shown, and all that were made in the next ten seconds; and how many it
    never shows."""
    wait_until(lambda: status(second)["events"]["state"] == "waiting", 60)
    keys: list[str] = []
    ended = threading.Event()

    def make() -> None:
        while not ended.wait(0.05):
            keys.append(f"{len(keys):06}")
            put(server.client, bucket, keys[-1])

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make)
        wait_until(lambda: len(keys) > 20 and shown(second.path / keys[10]))
        first.process.kill()
        killed_s = time.perf_counter()
        time.sleep(1)
        before = len(os.listdir(second.path))
        while len(os.listdir(second.path)) == before:
            time.sleep(0.05)
        first_s = time.perf_counter() - killed_s
        time.sleep(max(0.0, 10 - first_s))
        ended.set()
        made.result()
    with suppress(AssertionError):
        wait_until(lambda: all(shown(second.path / key) for key in keys), PATIENCE_S)
    all_s = time.perf_counter() - killed_s
    return first_s, all_s, sum(not shown(second.path / key) for key in keys)
