"""`mimicfs sync` at a terminal asks before most of a scope is deleted from the mirror."""

import os
import pty
import subprocess

import pytest
from support.big import Big
from support.mounts import MIMICFS, succeed

pytestmark = pytest.mark.slow


def at_terminal(words, answer):
    """Run the command at a terminal and answer its question; return its exit code and what it
    said."""
    terminal, its_end = pty.openpty()
    command = subprocess.Popen([MIMICFS, *words], stdin=its_end, stdout=its_end, stderr=its_end)
    os.close(its_end)
    said = b""
    while True:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if answer and b"[y/N]" in said:
            os.write(terminal, answer)
            answer = b""
    os.close(terminal)
    return command.wait(20), said.decode()


def test_the_answer_decides(lists, tmp_path, state):
    big = Big(lists)
    try:
        big.fill(f"file-{n:04}" for n in range(1_500))
        words = ["sync", "--endpoint-url", lists.endpoint, "--store", f"sqlite://{tmp_path}/s.db"]
        words.append(f"s3://{big.bucket}")
        succeed(*words)
        lists.control("clear", bucket=big.bucket, prefix="file-0")
        code, said = at_terminal(words, b"n\n")
        assert (code, "1,000 of 1,500 known objects" in said) == (1, True)
        code, said = at_terminal(words, b"y\n")
        assert (code, "1000 deleted" in said) == (0, True)
    finally:
        big.close()
