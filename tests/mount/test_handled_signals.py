"""A signal that a program handles ends no call, as on a local disk; but Ctrl-C is heard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.mounts import wait_until
from support.proxy import Hold, Proxy
from support.waits import CALLS, Call, made, noted

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

# Starts a process for each call, and lets them call when it is told to. Each prints how its call
# has ended, and when its handler ran: where Python repeats a call after EINTR, it runs that first.
PROGRAM = """
import errno, json, os, signal, sys, time
root, calls = json.loads(sys.argv[1])
heard = []
def note(*_):
    heard.append(time.monotonic())
begin, told = os.pipe()
ready, done = os.pipe()
processes = {}
for number, (name, waits, before) in enumerate(calls):
    process = os.fork()
    if not process:
        os.close(told)
        os.chdir(f"{root}/{number}")
        exec(before)
        signal.signal(signal.SIGUSR1, note)
        os.write(done, b".")
        os.read(begin, 1)
        said = ""
        try:
            exec(waits)
        except OSError as exc:
            said = errno.errorcode[exc.errno]
        except KeyboardInterrupt:
            said = "KeyboardInterrupt"
        ended = json.dumps([name, said, heard[0] if heard else 0.0, time.monotonic()])
        os.write(1, f"{ended}\\n".encode())  # a line as a whole, also beside those of others
        os._exit(0)
    processes[name] = process
for _ in processes:
    os.read(ready, 1)
print(json.dumps(processes), flush=True)
sys.stdin.readline()
os.close(told)
for process in processes.values():
    os.waitpid(process, 0)
"""


CALLS_ONLY = {name: call for name, call in CALLS.items() if "SIGNAL" not in call.waits}


class Ended(NamedTuple):
    name: str
    error: str
    heard_s: float  # when the handler of SIGUSR1 has run; 0.0: it has not
    ended_s: float


def started(program: str, argument: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", program, argument]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* says."""
    assert process.stdout
    return process.stdout.readline().rstrip()


class Callers:
    """Processes that wait for S3, each in another call."""

    def __init__(self, pipes: subprocess.Popen[str]) -> None:
        self._pipes = pipes
        self.processes: dict[str, int] = json.loads(said(pipes))

    def begin(self) -> None:
        print(file=self._pipes.stdin, flush=True)

    def ended(self) -> Ended:
        """Return how the next call has ended."""
        return Ended(*json.loads(said(self._pipes)))


@contextmanager
def waiting(here: Path, proxy: Proxy, calls: dict[str, Call]) -> Iterator[tuple[Callers, Hold]]:
    asked = json.dumps([str(here), [(name, *call) for name, call in calls.items()]])
    with started(PROGRAM, asked) as pipes:
        callers = Callers(pipes)
        reached: set[int] = set()
        with proxy.rule(Hold(partial(noted, reached))) as hold:
            callers.begin()
            wait_until(lambda: len(reached) == len(calls))
            yield callers, hold


def test_a_signal_that_a_program_handles_ends_no_call(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    calls = CALLS_ONLY | {"last": CALLS["stat"]}
    here = made(mount_at, client, bucket, calls)
    with waiting(here, proxy, calls) as (callers, hold):
        last = callers.processes.pop("last")
        for process in callers.processes.values():
            os.kill(process, signal.SIGUSR1)
        os.kill(last, signal.SIGINT)
        # The kernel tells of signals one after the other: mimicfs knows of all of them.
        assert callers.ended()[:2] == ("last", "KeyboardInterrupt")
        released_s = time.monotonic()
        hold.release()
        ended = [callers.ended() for _ in callers.processes]
    assert {call.name: call.error for call in ended} == dict.fromkeys(callers.processes, "")
    assert [call.name for call in ended if call.heard_s < released_s] == []


# All others wait for the kernel alone, or are not cancelled once S3 is asked for a change.
HEAR_CTRL_C = {"stat", "ls", "open", "truncate", "fallocate", "copy_file_range", "fsync"}
HEAR_CTRL_C |= {"creat", "write", "mv of a directory", "touch .sync"}


def test_ctrl_c_ends_a_call_within_a_second_though_the_program_handles_it(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    here = made(mount_at, client, bucket, CALLS_ONLY)
    with waiting(here, proxy, CALLS_ONLY) as (callers, hold):
        sent_s = time.monotonic()
        for process in callers.processes.values():
            os.kill(process, signal.SIGINT)
        ended = [callers.ended() for _ in HEAR_CTRL_C]
        assert {call.name for call in ended} == HEAR_CTRL_C
        assert {call.error for call in ended} == {"KeyboardInterrupt"}
        assert max(call.ended_s for call in ended) - sent_s < 1
        hold.release()
        others = [callers.ended().name for _ in callers.processes.keys() - HEAR_CTRL_C]
    assert set(others) == callers.processes.keys() - HEAR_CTRL_C


LOCKS = """
import fcntl, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
file = open(sys.argv[1], "r+")
print("locks", flush=True)
fcntl.lockf(file, fcntl.LOCK_EX)
"""
UNLOCKS = f"""{LOCKS}
file.write("new")
file.flush()
print("locked", flush=True)
sys.stdin.readline()
fcntl.lockf(file, fcntl.LOCK_UN)
"""
WAITS = f"""{LOCKS}
print(time.monotonic(), flush=True)
"""


def test_no_signal_gives_up_a_lock_before_s3_has_what_was_written(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy, redis_port: int
) -> None:
    store = ("--store", f"redis://127.0.0.1:{redis_port}/0", "--namespace", bucket)
    words = (f"s3://{bucket}", *store, "-o", "locks=shared")
    here, there = (mount_at(*words, name=name).path for name in ("here", "there"))
    (here / "a").write_text("old")
    wait_until((there / "a").exists)
    with started(UNLOCKS, str(here / "a")) as unlocks:
        assert [said(unlocks) for _ in range(2)] == ["locks", "locked"]
        with (
            started(WAITS, str(there / "a")) as waits,
            proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold,
        ):
            assert said(waits) == "locks"
            print(file=unlocks.stdin, flush=True)
            assert hold.reached.wait(10)
            unlocks.send_signal(signal.SIGINT)
            waits.send_signal(signal.SIGUSR1)
            assert said(waits) == "heard"
            released_s = time.monotonic()
            hold.release()
            assert float(said(waits)) > released_s
