"""Ctrl-C ends a long command wherever its main thread is. In processes that would hang."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

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
@pytest.mark.parametrize("case", [_LOCKED, _WAITING], ids=["locked", "waiting"])
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
