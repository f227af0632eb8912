"""The faults that scripts/together makes one by one.

A proxy before S3 holds single requests, so that mounts and Redis can be killed at a known point of
a change.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.cluster import RedisCluster
from support.proxy import Drop, Hold, Proxy
from together_parts import Mount, Redis, wait_for
from together_work import BUCKET, MANY, Known, say

from mimicfs.backends.redis import RedisBackend
from mimicfs.entry import Entry, pages

HERE = "127.0.0.1"
_MANY = 50_000
_MODE = stat.S_IFREG | 0o640
_CHANGES = {  # by the kind of its request
    "PUT": "with open(path, 'w') as file: file.write('after')",
    "DELETE": "os.unlink(path)",
    "COPY": "os.rename(path, path + '.to')",
}
_CALLER = """
import errno, os, sys
path = sys.argv[1]
try:
    {}
    print("done")
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""


@dataclass
class Scene:
    """The mounts and the servers. *clocks*: the files from which the mounts have their time."""

    base: Path
    proxy: Proxy
    client: Any
    stores: list[Redis]
    url: str  # of the store
    mounts: list[Mount] = field(default_factory=list)
    clocks: list[Path] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    there: dict[str, bytes] = field(default_factory=dict)
    turn: int = 0
    late_s: float = 0.0  # until what a fault was about was right, by its own look

    def primary(self) -> Redis:
        wait_for(lambda: any(each.is_primary() for each in self.stores), 60)
        return next(each for each in self.stores if each.is_primary())

    def command(self, *words: str) -> int:
        """Run a command of mimicfs on the store; return its exit code."""
        program = [str(Path(sys.executable).parent / "mimicfs"), *words]
        env = {**os.environ, "HOME": str(self.base), "XDG_STATE_HOME": str(self.base / "state")}
        done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            say(f"  {' '.join(words[:2])}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.returncode


def _changed(scene: Scene, *, answers: bool, reaches: bool, then: Callable[[], object]) -> str:
    """Have the first mount write, unlink and rename; call *then* before, or after (*answers*), S3
    does what it is asked, if that *reaches* it. Return what the callers heard."""
    paths = {kind: f"at-{kind.lower()}/f{scene.turn}" for kind in _CHANGES}
    mine, other = scene.mounts[0].path, scene.mounts[1].path
    for name in paths.values():
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes(b"before")
        scene.known.begin(name, b"before")
    wait_for(lambda: all(_read(mine / name) == b"before" for name in paths.values()))
    changes = {
        paths["PUT"]: b"after",
        paths["DELETE"]: b"",
        paths["COPY"]: b"",
        f"{paths['COPY']}.to": b"before",
    }
    for name, content in changes.items():
        scene.known.begin(name, content)
    with ExitStack() as stack:
        rules = []
        for kind, name in paths.items():
            key = f"{name}.to" if kind == "COPY" else name

            def matches(request: Any, kind: str = kind, key: str = key) -> bool:
                return bool(request.kind == kind and request.key == key)

            rule = Hold(matches, answers=answers) if reaches else Drop(matches)
            rules.append(stack.enter_context(scene.proxy.rule(rule)))
        callers = {
            name: subprocess.Popen(
                [sys.executable, "-c", _CALLER.format(_CHANGES[kind]), str(mine / name)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind, name in paths.items()
        }
        for rule in rules:
            wait_for(rule.reached.is_set)
        then()
    heard = {name: caller.communicate(timeout=60)[0].strip() for name, caller in callers.items()}
    for name, words in heard.items():
        for each in (name, f"{name}.to"):
            if words == "done" and each in changes:
                scene.known.confirmed(each, changes[each])
    return ", ".join(heard.values())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def kill_mount(scene: Scene, *, answers: bool, late_s: float = 0.0) -> str:
    """*late_s*: so long after the end of the mount S3 does what it was asked after all."""
    mount = scene.mounts[0]

    def kill() -> None:
        mount.kill()
        time.sleep(late_s)

    heard = _changed(scene, answers=answers, reaches=answers or late_s > 0, then=kill)
    mount.again()
    return heard


def kill_mount_after(scene: Scene) -> str:
    mount = scene.mounts[0]
    name = f"at/after-{scene.turn}"
    (mount.path / "at").mkdir(exist_ok=True)
    scene.known.begin(name, b"after")
    (mount.path / name).write_bytes(b"after")
    scene.known.confirmed(name, b"after")
    mount.kill()
    mount.again()
    return "done"


def kill_redis(scene: Scene, *, answers: bool) -> str:
    [store] = scene.stores
    heard = _changed(scene, answers=answers, reaches=True, then=store.kill)
    time.sleep(2)
    store.start()
    wait_for(lambda: bool(store.client.ping()))
    return heard


def kill_redis_after(scene: Scene) -> str:
    heard = _changed(scene, answers=True, reaches=True, then=lambda: None)
    [store] = scene.stores
    store.kill()
    time.sleep(5)
    store.start()
    wait_for(lambda: bool(store.client.ping()))
    return heard


def flush(scene: Scene, *, answers: bool) -> str:
    [store] = scene.stores
    return _changed(scene, answers=answers, reaches=True, then=store.client.flushall)


def fill(scene: Scene) -> str:
    client = scene.primary().client
    heard = _changed(
        scene, answers=True, reaches=True, then=lambda: client.config_set("maxmemory", 1)
    )
    time.sleep(5)
    client.config_set("maxmemory", 0)
    return heard


def evict(scene: Scene) -> str:
    client = scene.primary().client
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    time.sleep(8)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 0)
    return ""


def evict_much(scene: Scene) -> str:
    """As `evict`, and keys are really evicted."""
    client = scene.primary().client
    before = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory-policy", "allkeys-random")
    client.config_set("maxmemory", before - 40_000)
    time.sleep(3)
    evicted = client.info("stats")["evicted_keys"]
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 0)
    return f"{evicted} keys evicted"


def stop_redis(scene: Scene, *, seconds: float) -> str:
    store = scene.primary()
    store.send(signal.SIGSTOP)
    time.sleep(seconds)
    store.send(signal.SIGCONT)
    return ""


def stop_mount(scene: Scene, *, seconds: float) -> str:
    with _stopped(scene.mounts[0]):
        time.sleep(seconds)
    return ""


@contextmanager
def _stopped(mount: Mount) -> Iterator[None]:
    mount.send(signal.SIGSTOP)
    try:
        yield
    finally:
        mount.send(signal.SIGCONT)


def trim(scene: Scene) -> str:
    client = scene.primary().client
    with _stopped(scene.mounts[0]):
        time.sleep(5)
        for key in client.scan_iter("*:log"):
            client.xtrim(key, maxlen=0)
    return ""


def many(scene: Scene) -> str:
    """The log gets 50,000 lines about as many names, all of which a stopped mount and its kernel
    show. Half of them have another mode by then, as a mount records it, and a hundred are other
    files."""
    path = scene.mounts[0].path / MANY
    wait_for(lambda: len(os.listdir(path)) == _MANY, 120)
    shown = _shown(path)
    backend = RedisBackend.from_url(scene.url)
    entries = {each.key.rpartition("/")[2]: each for each in _listed(backend)}
    with _stopped(scene.mounts[0]):
        before = backend.seq(BUCKET)
        for n, (key, entry) in enumerate(entries.items()):
            if n % 2:
                shown[key] = (shown[key][0], _MODE)
            backend.apply(BUCKET, [_with_mode(entry) if n % 2 else entry])
            if n % 500 == 0:
                size = 5000 + scene.turn
                (scene.mounts[1].path / MANY / key).write_bytes(b"." * size)
                shown[key] = (size, shown[key][1])
        lines = backend.seq(BUCKET) - before
    ended = time.monotonic()
    wait_for(lambda: _shown(path) == shown, 120)
    scene.late_s = time.monotonic() - ended
    backend.apply(BUCKET, list(entries.values())[1::2])  # as S3 has them
    backend.close()
    return f"{lines} lines, all sizes and modes right {scene.late_s:.1f} s after it"


def _with_mode(entry: Entry) -> Entry:
    """Return *entry* as a mount records it whose user has given it _MODE."""
    return entry._replace(meta={"mode": str(_MODE)}, mtime_ns=time.time_ns())


def _listed(backend: RedisBackend) -> Iterator[Entry]:
    found = pages(lambda after: backend.scan(BUCKET, f"{MANY}/", after))
    return (entry for page in found for entry in page if entry.size)


def fill_with_many(url: str) -> None:
    """Put as many files into the bench's S3 server at *url*."""
    said = f"bucket={BUCKET}&kind=flat&prefix={MANY}/&count={_MANY}"
    urllib.request.urlopen(f"{url}/__ctl__/fill?{said}", data=b"").close()


def _shown(path: Path) -> dict[str, tuple[int, int]]:
    """Return the size and mode of each file in *path*."""
    found = ((each.name, each.stat()) for each in os.scandir(path))
    return {name: (status.st_size, status.st_mode) for name, status in found}


def write_all(scene: Scene, n: int, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (scene.mounts[n].path / name).parent.mkdir(exist_ok=True, parents=True)
        scene.known.begin(name, content)
        (scene.mounts[n].path / name).write_bytes(content)
        scene.known.confirmed(name, content)


def endpoint(scene: Scene) -> list[str]:
    return ["--endpoint-url", scene.proxy.url]


def fail_over(scene: Scene) -> str:
    store = scene.primary()
    store.kill()
    wait_for(lambda: scene.primary() is not store, 60)
    store.start()
    return ""


def fail_over_lagged(scene: Scene, *, behind: bool = False) -> str:
    """A replica that lagged is promoted. *behind*: a mount stands still until the log of the new
    one is as long as the old one was."""
    store = scene.primary()
    replica = next(each for each in scene.stores if each is not store)
    wait_for(lambda: replica.client.info("replication").get("master_link_status") == "up", 60)
    # It drops the connection, whose buffers would bring it what it misses, and sees no other.
    replica.client.execute_command("CLIENT", "KILL", "TYPE", "master")
    replica.send(signal.SIGSTOP)
    time.sleep(3)
    with ExitStack() as stack:
        if behind:
            stack.enter_context(_stopped(scene.mounts[0]))
        place = _number(store)
        store.kill()
        replica.send(signal.SIGCONT)
        wait_for(replica.is_primary, 60)
        had = _number(replica)
        if behind:
            wait_for(lambda: _number(replica) >= place + 100, 60)
    store.start()
    return f"at line {place}; the replica had {had}"


def _number(store: Redis) -> int:
    return int(store.client.hget(f"mimicfs:{{{BUCKET}}}:meta", "seq") or 0)


def reshard(scene: Scene) -> str:
    """The keys of the bucket move to another node, and back: some are here and some there for two
    seconds each."""
    port = int(scene.url.rpartition(":")[2])
    tag = f"mimicfs:{{{BUCKET}}}"
    with RedisCluster(host=HERE, port=port) as cluster:
        for _ in range(2):
            _move_slot(cluster, tag)
            cluster.nodes_manager.initialize()
    return ""


def _move_slot(cluster: Any, tag: str) -> None:
    slot, here = cluster.keyslot(tag), cluster.get_node_from_key(tag)
    there = next(node for node in cluster.get_primaries() if node.port != here.port)
    nodes = [redis.Redis(host=HERE, port=each.port) for each in (here, there)]
    mine, its = (each.execute_command("CLUSTER MYID").decode() for each in nodes)
    nodes[1].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", mine)
    nodes[0].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", its)
    deadline = time.monotonic() + 2
    while keys := nodes[0].execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
        for key in keys:
            place = (HERE, there.port, "", 0, 5000, "KEYS", key)
            nodes[0].execute_command("MIGRATE", *place)
        if time.monotonic() < deadline:
            time.sleep(0.2)
    for each in (*nodes[::-1], redis.Redis(host=HERE, port=cluster.get_primaries()[-1].port)):
        each.execute_command("CLUSTER SETSLOT", slot, "NODE", its)


def set_clocks(scene: Scene) -> str:
    """The clocks of two mounts change by hours just after the store was flushed; the one that goes
    ahead is killed between S3 and the record; directories are seen for the first time."""
    [store] = scene.stores
    # Before the store is flushed: of what others put into S3 later, no mount is told.
    for n in range(5):
        scene.client.put_object(Bucket=BUCKET, Key=f"new-{scene.turn}-{n}/f", Body=b"f")
    store.client.flushall()
    wait_for(lambda: bool(store.client.hget("mimicfs:{/}:notes", "epoch")))
    time.sleep(3)  # all have noticed
    for clock, hours in zip(scene.clocks, (9, -7), strict=False):
        clock.write_text(str(hours * 3600))
    return kill_mount(scene, answers=True)
