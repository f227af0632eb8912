"""Real servers for tests and the demo: started on free loopback ports, ended by their handle."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

START_S = 60.0  # seconds; of a busy machine, a quiet one takes one


class Missing(Exception):
    """A server is not installed."""


def free_port() -> int:
    """Return a free port, as `free_ports`."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of *count* free ports that follow each other, which this process keeps until
    its end. They are below those that the kernel gives to clients: one of these may have the next
    one at any time."""
    while True:
        first = random.randrange(20_000, 32_000)
        with ExitStack() as stack:
            try:
                kept = [stack.enter_context(_kept(port)) for port in range(first, first + count)]
            except OSError:
                continue
            for each in kept:
                each.detach()
        return first


def _kept(port: int) -> socket.socket:
    """Return what keeps the free *port* from all others who ask here, and from nobody else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0mimicfs-test-port-{port}")
    except OSError:
        name.close()
        raise
    return name


def command(name: str) -> str:
    """Return the path of a program, preferably of this virtual environment."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed; scripts/test installs it")
    return found


@contextmanager
def running(
    arguments: Sequence[str], port: int, log: Path, host: str = "127.0.0.1"
) -> Iterator[None]:
    """Within, the program runs and accepts connections on *port*."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        _wait_for((host, port), process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(place: tuple[str, int], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(place, 1).close()
        except OSError:
            if process.poll() is not None:
                _fail(log)
            time.sleep(0.02)
        else:
            return
    _fail(log)


def _fail(log: Path) -> NoReturn:
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def moto(directory: Path, program: str = "moto_server.py") -> Iterator[str]:
    """Yield the URL of moto's S3 server, empty."""
    port = free_port()
    command("moto_server")  # or Missing
    path = Path(__file__).with_name(program)
    arguments = [sys.executable, str(path), "-H", "127.0.0.1", "-p", str(port)]
    with running(arguments, port, directory / "moto.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def rclone(directory: Path) -> Iterator[str]:
    """Yield the URL of `rclone serve s3` over an empty directory."""
    port = free_port()
    data = directory / "rclone"
    data.mkdir()
    arguments = [command("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(data)]
    # Its own cache of directories would hide what was written a moment ago; with 0 it spins.
    arguments += ["--dir-cache-time", "1ms", "--config", os.devnull]
    with running(arguments, port, directory / "rclone.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def named(name: str, directory: Path) -> Iterator[str]:
    """Yield the URL of the server that `scripts/servers` knows as *name*. Its keys are those of
    the environment from then on."""
    program, port = Path(__file__).parents[2] / "scripts/servers", free_ports(8)
    arguments = [str(program), "start", name, str(directory), str(port)]
    try:
        started = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
        url, key, secret = started.stdout.split()[-3:]
        os.environ |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        yield url
    finally:
        subprocess.run([str(program), "stop", str(directory)], check=True)


@contextmanager
def bench(directory: Path) -> Iterator[str]:
    """Yield the URL of the server that benches use: it takes every key, and 10,000 in no time."""
    program = Path(__file__).parents[2] / "scripts/benchlib/s3server.py"
    with open(directory / "bench.log", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    with process:  # it ends with its standard input
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def redis(directory: Path, *options: str) -> Iterator[int]:
    """Yield the port of a redis-server; by default it writes nothing to disk."""
    port = free_port()
    with redis_at(directory, port, *options):
        yield port


@contextmanager
def redis_at(directory: Path, port: int, *options: str) -> Iterator[None]:
    arguments = [command("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    arguments += ["--save", "", "--appendonly", "no", "--dir", str(directory), *options]
    with running(arguments, port, directory / f"redis-{port}.log"):
        yield


@contextmanager
def sentinel(directory: Path, primary: int, host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the URL of the store whose primary a sentinel names, at first the one at the port
    *primary*; two seconds after it died, a replica of it."""
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"bind {host}\nprotected-mode no\nsentinel monitor mirror {host} {primary} 1\n"
        "sentinel down-after-milliseconds mirror 2000\nsentinel failover-timeout mirror 6000\n"
    )
    words = [command("redis-server"), str(config), "--sentinel", "--port", str(port)]
    with running(words, port, directory / "sentinel.log", host):
        yield f"redis+sentinel://{host}:{port}/mirror"


@contextmanager
def redis_cluster(directory: Path) -> Iterator[int]:
    """Yield the port of one of three nodes that share all slots."""
    import redis as client

    with ExitStack() as stack:
        first_port = free_ports(6)
        ports = range(first_port, first_port + 3)  # each has a second one, 3 above
        for port in ports:
            options = ("--cluster-enabled", "yes", "--cluster-config-file", f"{port}.conf")
            more = ("--cluster-port", str(port + 3))
            stack.enter_context(redis_at(directory, port, *options, *more))
        nodes = [stack.enter_context(client.Redis(port=port)) for port in ports]
        for n, node in enumerate(nodes):
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            node.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            if n:
                node.execute_command("CLUSTER MEET", "127.0.0.1", first_port, first_port + 3)
        deadline = time.monotonic() + START_S
        while not all(_is_whole(node) for node in nodes):
            if time.monotonic() > deadline:
                raise RuntimeError("the nodes of the cluster did not find each other")
            time.sleep(0.05)
        yield first_port


def _is_whole(node: Any) -> bool:
    info = node.execute_command("CLUSTER INFO")
    said = (
        info
        if isinstance(info, dict)
        else dict(line.split(":") for line in info.decode().split("\r\n") if ":" in line)
    )
    return said["cluster_state"] == "ok" and said["cluster_known_nodes"] == "3"
