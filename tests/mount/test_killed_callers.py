"""Nobody waits who wants to go: a killed caller ends within a second (F13)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Drop, Proxy
from support.waits import CALLS, WRITTEN, made, noted

from mimicfs.fuse.killed import Signal, _signal

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


# Starts a process for each call, lets them call when it is told to, kills them when it is told to,
# and prints whose are still there a second later.
PROGRAM = """
import json, os, resource, sys, time
root, SIGNAL, calls = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
begin, told = os.pipe()
ready, done = os.pipe()
names = {}
for number, (name, waits, before) in enumerate(calls):
    process = os.fork()
    if not process:
        os.close(told)
        os.chdir(f"{root}/{number}")
        exec(before)
        os.write(done, b".")
        os.read(begin, 1)
        exec(waits)
        os._exit(0)
    names[process] = name
for _ in names:
    os.read(ready, 1)
print(flush=True)
sys.stdin.readline()
os.close(told)
sys.stdin.readline()
deadline = time.monotonic() + 1
for process in names:
    os.kill(process, SIGNAL)
while names and time.monotonic() < deadline:
    if ended := os.waitpid(-1, os.WNOHANG)[0]:
        del names[ended]
    else:
        time.sleep(0.01)
print(list(names.values()), flush=True)
"""


# A process that waits for a page hears only SIGKILL, and one that waits until the kernel has
# written pages hears nothing: no request says which process that is.
@pytest.mark.parametrize(
    ("ending", "stay"),
    [
        (signal.SIGKILL, ["msync"]),
        (signal.SIGTERM, ["msync"]),
        (signal.SIGQUIT, ["read", "page fault", "msync"]),
    ],
)
def test_a_killed_caller_ends_within_a_second(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy, ending: int, stay: list[str]
) -> None:
    here = made(mount_at, client, bucket)
    calls = [(name, *call) for name, call in CALLS.items()]
    words = [sys.executable, "-c", PROGRAM, json.dumps([str(here), ending, calls])]
    pipes = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with pipes(words) as callers:
        assert callers.stdin and callers.stdout
        assert callers.stdout.readline() == "\n"
        reached: set[int] = set()
        with proxy.rule(Drop(partial(noted, reached))):
            print(file=callers.stdin, flush=True)
            wait_until(lambda: len(reached) == len(CALLS))
            print(file=callers.stdin, flush=True)
            assert callers.stdout.readline() == f"{stay}\n"
    for number, call in enumerate(CALLS.values()):
        if call.before == WRITTEN:  # what it had written is not lost
            wait_until(partial(is_text, client, bucket, f"{number}/known/a"))


def test_a_caller_that_is_not_seen_in_proc_was_not_killed(server: str) -> None:
    """It is hidden from us (hidepid), or its number is of another PID namespace."""
    beyond = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    assert [_signal(beyond), _signal(os.getpid())] == [Signal.UNSEEN, Signal.OTHER]


def test_a_signal_that_the_process_keeps_back_did_not_kill_it(server: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGQUIT])
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGQUIT)
        assert _signal(threading.get_native_id()) is Signal.OTHER
        signal.sigwait([signal.SIGQUIT])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGQUIT])


def is_text(client: Any, bucket: str, key: str) -> bool:
    body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body == b"Text"
