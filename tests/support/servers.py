"""Real servers for tests and the demo: started on free loopback ports, ended by their handle."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

START_S = 30.0


class Missing(Exception):
    """A server is not installed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(name: str) -> str:
    """Return the path of a program, preferably of this virtual environment."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed; scripts/test installs it")
    return found


@contextmanager
def running(arguments: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Within, the program runs and accepts connections on *port*."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        _wait_for(port, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
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
def moto(directory: Path) -> Iterator[str]:
    """Yield the URL of moto's S3 server, empty."""
    port = free_port()
    arguments = [command("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
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
def redis(directory: Path, *options: str) -> Iterator[int]:
    """Yield the port of an empty redis-server that writes nothing to disk."""
    port = free_port()
    arguments = [command("redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    arguments += ["--save", "", "--appendonly", "no", "--dir", str(directory), *options]
    with running(arguments, port, directory / f"redis-{port}.log"):
        yield port
