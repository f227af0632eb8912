"""scripts/together --each: three mounts of one store while a single fault is made, and what must be
true after it.

Machines with wrong clocks are played by together_clock.c. (Under libfaketime each time.sleep of
Python 3.11 fails.)
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import together_single as single
from support import servers
from support.clients import plain
from support.proxy import Proxy
from together_parts import KEYS, Mount, Redis
from together_single import HERE, Scene, endpoint, write_all
from together_work import BUCKET, Messenger, Witness, Worker, lost, say, wrong

HEALED_S = 10.0  # what docs/sharing.md promises
_MOUNTS = 3
_PATIENCE_S = 60.0
_REST_S = 0.05  # the calls of a worker are to meet a fault, and not to load the machine


def _redis(scene_base: Path, stack: ExitStack, *options: str) -> tuple[list[Redis], str]:
    store = Redis(scene_base, HERE, None, *options)
    stack.callback(store.kill)
    return [store], f"redis://{HERE}:{store.port}"


def _by_clock(file: Path) -> dict[str, str]:
    """Return the environment of a program whose clock is wrong by the seconds in *file*."""
    library = file.with_suffix(".so")
    code = Path(__file__).with_name("together_clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, code], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFF": str(file)}


def _sentinel(base: Path, stack: ExitStack) -> tuple[list[Redis], str]:
    [first], _ = _redis(base, stack)
    second = Redis(base, HERE, first.port)
    stack.callback(second.kill)
    return [first, second], stack.enter_context(servers.sentinel(base, first.port))


def _cluster(base: Path, stack: ExitStack) -> tuple[list[Redis], str]:
    return [], f"redis+cluster://{HERE}:{stack.enter_context(servers.redis_cluster(base))}"


_PLACES: dict[str, Callable[[Path, ExitStack], tuple[list[Redis], str]]] = {
    "redis": _redis,
    "forgetful": lambda base, stack: _redis(base, stack, "appendonly no"),
    "sentinel": _sentinel,
    "cluster": _cluster,
    "clocks": _redis,
    "many": _redis,
}
CASES: dict[str, tuple[str, Callable[[Scene], str]]] = {
    "mount killed before S3": ("redis", partial(single.kill_mount, answers=False)),
    "mount killed before S3, which does it after all": (
        "redis",
        partial(single.kill_mount, answers=False, late_s=9),
    ),
    "mount killed between S3 and the record": ("redis", partial(single.kill_mount, answers=True)),
    "mount killed after the record": ("redis", single.kill_mount_after),
    "redis with AOF killed before S3": ("redis", partial(single.kill_redis, answers=False)),
    "redis with AOF killed between S3 and the record": (
        "redis",
        partial(single.kill_redis, answers=True),
    ),
    "redis with AOF killed after the record": ("redis", single.kill_redis_after),
    "redis without AOF killed before S3": ("forgetful", partial(single.kill_redis, answers=False)),
    "redis without AOF killed between S3 and the record": (
        "forgetful",
        partial(single.kill_redis, answers=True),
    ),
    "redis without AOF killed after the record": ("forgetful", single.kill_redis_after),
    "flushall before S3": ("redis", partial(single.flush, answers=False)),
    "flushall between S3 and the record": ("redis", partial(single.flush, answers=True)),
    "maxmemory": ("redis", single.fill),
    "eviction switched on": ("redis", single.evict),
    "eviction of keys": ("redis", single.evict_much),
    "redis stopped for 5 s": ("redis", partial(single.stop_redis, seconds=5)),
    "redis stopped for 30 s": ("redis", partial(single.stop_redis, seconds=30)),
    "redis stopped for 90 s": ("redis", partial(single.stop_redis, seconds=90)),
    "mount stopped for 150 s": ("redis", partial(single.stop_mount, seconds=150)),
    "xtrim behind a stopped mount": ("redis", single.trim),
    "50000 changes behind a stopped mount": ("many", single.many),
    "failover": ("sentinel", single.fail_over),
    "failover to a replica that lagged": ("sentinel", single.fail_over_lagged),
    "failover to a replica that lagged and has as many new changes": (
        "sentinel",
        partial(single.fail_over_lagged, behind=True),
    ),
    "resharding": ("cluster", single.reshard),
    "clocks of mounts that differ and change": ("clocks", single.set_clocks),
}


@contextmanager
def _scene(base: Path, kind: str) -> Iterator[Scene]:
    base.mkdir()
    with ExitStack() as stack:
        os.environ |= KEYS
        serve = servers.bench if kind == "many" else servers.moto
        url = stack.enter_context(serve(base))
        proxy = Proxy(url)
        stack.callback(proxy.close)
        client = plain(url)
        client.create_bucket(Bucket=BUCKET)
        if kind == "many":
            single.fill_with_many(url)
        stores, store = _PLACES[kind](base, stack)
        scene = Scene(base, proxy, client, stores, store)
        if kind == "clocks":
            for n, hours in enumerate((5, -5)):
                scene.clocks.append(base / f"clock-{n}")
                scene.clocks[-1].write_text(str(hours * 3600))
        words = [f"s3://{BUCKET}", *endpoint(scene), "--store", store]
        for n in range(_MOUNTS):
            env = _by_clock(scene.clocks[n]) if n < len(scene.clocks) else None
            scene.mounts.append(Mount(base, n, words, [], env))
            stack.callback(scene.mounts[-1].close)
        scene.there = {f"old/{n % 3}/f{n}": f"old {n}".encode() * 9 for n in range(15)}
        write_all(scene, 1, scene.there)
        yield scene


def one_by_one(base: Path, names: list[str], seed: int) -> int:
    """Make the faults *names*; return 1 if anything was wrong."""
    failed: list[str] = []
    for kind in dict.fromkeys(CASES[name][0] for name in names):
        with _scene(base / kind, kind) as scene:
            for name in names:
                if CASES[name][0] == kind:
                    scene.turn += 1
                    failed += [] if _made(scene, name, seed) else [name]
            checks = ["verify", f"s3://{BUCKET}", *endpoint(scene)], ["store", "check"]
            for words in checks:
                if scene.command(*words, "--store", scene.url):
                    failed.append(f"{' '.join(words[:2])} after {kind}")
    say(f"{len(names)} faults; wrong after: {failed or 'none'}")
    return int(bool(failed))


def _made(scene: Scene, name: str, seed: int) -> bool:
    over, mounts = threading.Event(), scene.mounts
    workers = [
        Worker(n, mount, scene.known, over, seed + scene.turn, _REST_S)
        for n, mount in enumerate(mounts)
    ]
    witnesses = [Witness(mount, scene.there, over) for mount in mounts]
    messengers = [
        Messenger(f"{scene.turn}-{n}", mounts[n], mounts[(n + 1) % _MOUNTS], over)
        for n in range(_MOUNTS)
    ]
    threads = [*workers, *witnesses, *messengers]
    for thread in threads:
        thread.start()
    time.sleep(2)
    _, fault = CASES[name]
    scene.late_s = 0.0
    began = time.monotonic()
    heard = fault(scene)
    ended = time.monotonic() - scene.late_s
    time.sleep(1)
    over.set()
    for thread in threads:
        thread.join(60)
    hung = sum(thread.is_alive() for thread in threads)
    done = sum(each.did["done"] for each in workers)
    late_s = [late for each in messengers for late in each.late_s]
    beside = (
        f"news seen after {max(late_s, default=0.0):.2f} s at most ({len(late_s)}) |"
        f" call {max(each.longest_s for each in workers):.1f} s,"
        f" read {max(each.longest_s for each in witnesses):.1f} s at most |"
        f" {done} calls done, {hung} hang"
    )
    said = f"{name} | took {ended - began:.1f} s | {heard or '-'}"
    bad = [it for each in witnesses for it in each.wrong]
    return _judged(scene, ended, (said, beside), bad) and not hung


def _judged(scene: Scene, ended: float, said: tuple[str, str], bad: list[str]) -> bool:
    """Say whether all is right after a fault that was over at *ended*; *bad* was seen before."""
    scene.known.may_be.update({key: {text} for key, text in scene.there.items()})
    looks: list[str] = []
    while True:
        looked_s = time.monotonic() - ended  # what a look finds right was right when it began
        found = wrong(scene.client, scene.mounts, scene.known.may_be)
        looks.append(f"{looked_s:.1f} s: {len(found)} wrong {found[:2]}")
        if not found or looked_s > _PATIENCE_S:
            break
        time.sleep(0.1)
    bad = [*found, *lost(scene.client, scene.known), *bad]
    # Calls that a busy machine has not ended earlier are no fault of the first look.
    fine = not bad and (looked_s <= HEALED_S or len(looks) == 1) and scene.late_s <= HEALED_S
    verdict, (what, beside) = "right" if fine else "WRONG", said
    healed = f"all views right at look {len(looks)}, {looked_s:.1f} s after it"
    say(f"{verdict} | {what} | {healed} | {beside}, {len(bad)} wrong")
    for text in () if fine else (*(f"look {it}" for it in looks), *bad[:20]):
        say(f"  WRONG {text}")
    return fine
