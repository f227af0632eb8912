"""Ctrl-C ends a long command wherever its main thread is. In processes that would hang."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress

import pytest
from support.mounts import MIMICFS

_LOCKED = """
with make() as stop:
    with stop.cancellation._lock:  # as in the middle of Cancellation.wait
        signal.raise_signal(signal.SIGINT)
    wait(stop.cancellation)
"""
_WAITING = """
def interrupt():
    while not stop.cancellation._wake:
        time.sleep(0.01)
    time.sleep(0.1)  # now it waits for good
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

with make() as stop:
    threading.Thread(target=interrupt).start()
    wait(stop.cancellation)
"""
_UNHEEDED = """
with make() as stop:
    signal.raise_signal(signal.SIGINT)
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
_HEAD = """
import signal, sys, threading, time
from concurrent.futures import Future
from mimicfs.cli.progress import Interruptible
from mimicfs.cli.syncing import _Bar
from mimicfs.errors import Interrupted

def wait(cancellation):
    try:
        cancellation.wait(Future())
    except Interrupted:
        print("interrupted", flush=True)

make = {"warmup": Interruptible, "sync": _Bar}[sys.argv[1]]
"""


@pytest.mark.parametrize("command", ["warmup", "sync"])
@pytest.mark.parametrize(
    "case", [_LOCKED, _WAITING, _UNHEEDED], ids=["locked", "waiting", "unheeded"]
)
def test_ctrl_c_ends_a_wait(command, case):
    words = [sys.executable, "-c", _HEAD + case, command]
    result = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("ls", "s3://b"), ("sync", "s3://b")], ids=["ls", "sync"])
def test_ctrl_c_ends_a_command_that_a_silent_s3_does_not_answer(words, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = [MIMICFS, *words, "--endpoint-url", url]
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        env = os.environ | keys | {"XDG_STATE_HOME": str(tmp_path)}
        program = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        try:
            with closing(server.accept()[0]) as asked:
                assert asked.recv(4) == b"GET "
                program.send_signal(signal.SIGINT)
                program.communicate(timeout=10)  # S3 has 30 seconds
        finally:
            program.kill()
            program.wait()
    assert program.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_a_command_at_once_gives_the_cursor_back(number, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        words = [MIMICFS, "sync", "--endpoint-url", f"http://127.0.0.1:{server.getsockname()[1]}"]
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        env = os.environ | keys | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
        ours, theirs = pty.openpty()
        program = subprocess.Popen([*words, "s3://b"], env=env, stderr=theirs, stdout=theirs)
        os.close(theirs)
        try:
            with closing(server.accept()[0]) as asked:
                assert asked.recv(4) == b"GET "
                program.send_signal(number)
                assert program.wait(10) == 128 + number
            shown = b""
            with suppress(OSError):  # EIO: nobody has the other end any more
                while piece := os.read(ours, 4096):
                    shown += piece
        finally:
            program.kill()
            program.wait()
            os.close(ours)
    assert b"\x1b[?25l" in shown and shown.endswith(b"\x1b[?25h")


def test_a_process_that_survives_its_terminal_is_not_ended_with_it():
    """As by nohup."""
    code = "from mimicfs.signals import of_end; print(*map(int, of_end()))"
    for before, ends in [("", "15 1"), ("trap '' HUP; ", "15")]:
        words = ["sh", "-c", f"{before}exec {sys.executable} -c '{code}'"]
        assert subprocess.check_output(words, text=True) == f"{ends}\n"
