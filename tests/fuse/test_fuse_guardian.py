"""What the guardian does when the process that it guards ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

# A process that has mounted nothing, guarded.
GUARDED = """
import sys
from mimicfs.fuse.guardian import Guardian
guardian = Guardian()
if sys.argv[1] == "watch":
    guardian.watch("0:4000000000")
print(guardian._pid, flush=True)
sys.stdin.read()
guardian.close()
print("closed", flush=True)
"""


def started(how: str) -> tuple[subprocess.Popen[str], int]:
    words = [sys.executable, "-c", GUARDED, how]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("how", ["watch", "not mounted"])
def test_it_ends_with_a_process_that_is_killed(how: str) -> None:
    process, guardian = started(how)
    fd = os.pidfd_open(guardian)
    process.kill()
    assert select.select([fd], [], [], 10)[0]
    os.close(fd)
    process.communicate()


def test_it_ends_when_it_is_told_to() -> None:
    process, guardian = started("watch")
    assert process.communicate("", timeout=10)[0] == "closed\n"
    with pytest.raises(ProcessLookupError):
        os.kill(guardian, 0)


def test_signals_to_a_whole_group_do_not_end_it() -> None:
    process, guardian = started("watch")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(guardian, number)
    assert process.communicate("", timeout=10)[0] == "closed\n"
