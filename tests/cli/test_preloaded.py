"""A command in a fork of a preloaded process (support/preloaded.py) is as one that was started."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import preloaded
from support.preloaded import MIMICFS

pytestmark = pytest.mark.slow  # an interpreter or two start


def seen_of(process: Any, url: str) -> dict[str, Any]:
    """The kernel's account of *process*."""
    at = Path(f"/proc/{process.pid}")
    status = at.joinpath("status").read_text()
    names = ("Umask", "PPid", "Uid", "Groups", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs")
    stat = at.joinpath("stat").read_text().rpartition(")")[2].split()
    descriptors = {fd: os.readlink(at / "fd" / fd) for fd in ("0", "1", "2")}
    return {
        **{name: re.findall(rf"^{name}:[ \t]*(.*)$", status, re.MULTILINE) for name in names},
        "group and session": stat[2:4],
        "name": at.joinpath("comm").read_text(),
        "words": at.joinpath("cmdline").read_text().rstrip("\0").replace(url, "URL").split("\0"),
        "cwd": os.readlink(at / "cwd"),
        "descriptors": {fd: re.sub(r"\d+", "N", where) for fd, where in descriptors.items()},
        "limits": at.joinpath("limits").read_text(),
    }


def interrupted(start: Any, base: Path) -> tuple[dict[str, Any], list[Any]]:
    """Start a command, interrupt it while it waits for an answer; return what was seen of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        words = [str(MIMICFS), "ls", "s3://bucket", "--store", f"sqlite://{base}/store.db"]
        process = start(
            [*words, "--endpoint-url", url], cwd=base, umask=0o027, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            with server.accept()[0]:
                seen = seen_of(process, url)
                process.send_signal(signal.SIGINT)
                server.close()
            said = process.communicate(timeout=30)
    return seen, [process.returncode, *said]


def test_a_fork_is_as_a_start(tmp_path: Path, state: Path) -> None:
    started, forked = (interrupted(each, tmp_path) for each in (subprocess.Popen, preloaded.Popen))
    assert forked == started
    seen, ended = started
    assert ended == [130, "", "\n"]
    assert (seen["cwd"], seen["Umask"]) == (str(tmp_path), ["0027"])


def test_a_command_has_the_limits_that_its_test_has_set(tmp_path: Path, state: Path) -> None:
    """And not those of the process that was preloaded earlier."""
    preloaded._preloaded()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        seen, _ = interrupted(preloaded.Popen, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert re.search(rf"^Max open files +{soft - 1} ", seen["limits"], re.MULTILINE)


def test_a_command_has_the_priority_of_the_thread_that_starts_it(
    tmp_path: Path, state: Path
) -> None:
    preloaded._preloaded()
    usual = os.getpriority(os.PRIO_PROCESS, 0)

    def started() -> int:
        os.setpriority(os.PRIO_PROCESS, 0, usual + 1)  # of this thread only, which ends
        words = [str(MIMICFS), "ls", "--bad"]
        with preloaded.Popen(words, stderr=subprocess.PIPE) as process:
            priority = os.getpriority(os.PRIO_PROCESS, process.pid)
            process.communicate(timeout=30)
        return priority

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(started).result(30) == usual + 1


def test_no_command_gets_the_answer_for_one_that_was_interrupted() -> None:
    class Door(socket.socket):
        interrupted = False

        def recv(self, *given: Any) -> bytes:
            if not Door.interrupted:
                Door.interrupted = True
                raise KeyboardInterrupt
            return super().recv(*given)

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking = object.__new__(preloaded._Preloaded)
    asking._door, asking._lock = Door(fileno=ours.detach()), threading.Lock()
    with theirs, asking._door:
        theirs.send(b"4711")
        with pytest.raises(KeyboardInterrupt):
            asking.fork(b"{}", [])
        assert asking.fork(b"{}", []) == 0  # it is started really


def test_what_an_interpreter_reads_at_its_start_is_not_forked(state: Path) -> None:
    """Errors are in the encoding that the environment names: a fork would have that of ours."""
    words = [str(MIMICFS), "ls", "--bad"]
    for environ in ({"PYTHONIOENCODING": "utf-16"}, {}):
        said = []
        for start in (subprocess.Popen, preloaded.Popen):
            with start(words, stderr=subprocess.PIPE, env={**os.environ, **environ}) as process:
                said.append(process.communicate(timeout=30)[1])
        assert said[1] == said[0] != b""
