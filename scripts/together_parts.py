"""What scripts/together kills, stops and starts again: networks, servers of Redis, mounts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from support import servers

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, timeout=30)


class Network:
    """So many namespaces around a bridge, whose address is *host*."""

    def __init__(self, spaces: int) -> None:
        self._spaces = spaces
        self.name = f"mt{os.getpid() % 10000}"
        self.host = "10.213.77.1"

    @contextmanager
    def made(self) -> Iterator[None]:
        try:
            run("ip", "link", "add", self.name, "type", "bridge")
            run("ip", "address", "add", f"{self.host}/24", "dev", self.name)
            run("ip", "link", "set", self.name, "up")
            for n in range(self._spaces):
                self._make(f"{self.name}-{n}", f"{self.name}v{n}", f"10.213.77.{10 + n}")
            yield
        finally:
            for n in range(self._spaces):
                subprocess.run(["ip", "netns", "delete", f"{self.name}-{n}"], check=False)
            subprocess.run(["ip", "link", "delete", self.name], check=False)

    def _make(self, space: str, end: str, address: str) -> None:
        run("ip", "netns", "add", space)
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", end, "master", self.name, "up")
        inside = ("ip", "-n", space)
        run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")

    def cut(self, n: int, how: str) -> None:
        """Take the cable of a namespace out ("down"), or put it back ("up")."""
        run("ip", "link", "set", f"{self.name}v{n}", how)

    def within(self, n: int) -> list[str]:
        """Return the words before a command that is to run in a namespace. (`ip netns exec` would
        also hide its mounts.)"""
        return ["nsenter", f"--net=/run/netns/{self.name}-{n}"]


class Process:
    """A program that may be killed, stopped and started again. *lives* counts its starts."""

    def __init__(self, words: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.words, self.log, self._env = words, log, env
        self.lives = 0
        self.start()

    def start(self) -> None:
        self.lives += 1
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                self.words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._env
            )

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait(20)

    def alive(self) -> bool:
        return self.process.poll() is None


class Redis(Process):
    """A server with a configuration file, in which the sentinel notes whose replica it is. (One
    that learned it from its arguments would start again as the replica of its own replica.)"""

    def __init__(
        self,
        base: Path,
        host: str,
        primary: int | None,
        *options: str,
        env: dict[str, str] | None = None,
    ) -> None:
        self.port = servers.free_port()
        directory = base / f"redis-{self.port}"
        directory.mkdir()
        lines = [f"port {self.port}", f"bind {host}", "protected-mode no", f"dir {directory}"]
        lines += ['save ""', "appendonly yes", "repl-diskless-sync-delay 0"]
        lines += [f"replicaof {host} {primary}"] if primary else []
        lines += options
        config = directory / "redis.conf"
        config.write_text("\n".join(lines) + "\n")
        words = [servers.command("redis-server"), str(config)]
        super().__init__(words, directory / "log", env and {**os.environ, **env})
        self.client = redis.Redis(host=host, port=self.port, socket_timeout=5)
        wait_for(lambda: bool(self.client.ping()))

    def is_primary(self) -> bool:
        try:
            return self.client.info("replication")["role"] == "master"
        except redis.RedisError:
            return False


class Mount(Process):
    def __init__(
        self,
        base: Path,
        n: int,
        words: list[str],
        within: list[str],
        env: dict[str, str] | None = None,
    ) -> None:
        # Read-only where nothing is mounted: what is written there would be taken for confirmed.
        above, home = base / f"at-{n}", base / f"home-{n}"
        self.path = above / "mnt"
        self.path.mkdir(parents=True)
        run("mount", "--bind", above, above)
        run("mount", "-o", "remount,bind,ro", above)
        env = {**os.environ, **KEYS, **(env or {}), "HOME": str(home)}
        env["XDG_STATE_HOME"] = str(home / "state")
        program = [str(Path(sys.executable).parent / "mimicfs"), "mount", "-f"]
        program += ["--cache-dir", str(home / "cache"), "--log-level", "info"]
        super().__init__([*within, *program, *words, str(self.path)], base / f"mount-{n}.log", env)
        wait_for(self.answers, 60)

    def answers(self) -> bool:
        try:
            return self.path.stat().st_ino == 1 and os.path.ismount(self.path)
        except OSError:
            return False

    def again(self) -> None:
        """Mount anew after a kill."""
        unmount(self.path)
        for _ in range(10):
            self.start()
            if wait_for(lambda: self.answers() or not self.alive(), 90) and self.alive():
                return
            time.sleep(1)  # its store may be away
        raise RuntimeError(f"{self.path} cannot be mounted again: see {self.log}")

    def close(self) -> None:
        self.send(signal.SIGCONT)
        unmount(self.path)
        self.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()
        subprocess.run(["umount", "-l", str(self.path.parent)], check=False)


def unmount(path: Path) -> None:
    """Unmount what is mounted at *path*; a mount's guardian may have done so."""
    words = ["fusermount3", "-u", "-z", str(path)]
    subprocess.run(words, stderr=subprocess.DEVNULL, check=False)


def wait_for(done: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if done():
                return True
        except redis.RedisError:
            pass
        time.sleep(0.05)
    raise RuntimeError("waited in vain")
