"""Where log lines go, and what they look like there."""

import os
import socket
import stat
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # each command is a process

PROGRAM = """
import logging, os, sys
from pathlib import Path
from mimicfs.admin import logs
found = os.fstat(2)
if sys.argv[1] == "journal":
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
logs.set_up("info", Path(sys.argv[2]) if len(sys.argv) > 2 else None)
log = logging.getLogger("mimicfs")
log.debug("not shown")
log.info("a\\nb\\x1b[2J")
logging.getLogger("botocore").info("not shown")
for source in ("credentials", "tokens"):  # whoever asks is told as well, in a line
    logging.getLogger(f"botocore.{source}").warning("failed in the mandatory period: not shown")
try:
    1 // 0
except ZeroDivisionError:
    log.exception("failed")
if sys.argv[1] == "rotate":
    os.rename(sys.argv[2], sys.argv[2] + ".1")
    log.warning("after")
"""


def logged(kind, *file):
    words = [sys.executable, "-c", PROGRAM, kind, *map(str, file)]
    result = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    return result.stderr.splitlines()


def test_on_a_terminal_a_line_has_its_time_and_level():
    first, second, *rest = logged("terminal")
    assert first[:2] == "20" and first.endswith(" INFO a\\nb\\x1b[2J")
    assert second.endswith(" ERROR failed")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ZeroDivisionError: integer division or modulo by zero"


def test_the_journal_is_given_priorities_and_keeps_the_time_itself():
    lines = logged("journal")
    assert lines[0] == "<6>a\\nb\\x1b[2J"
    assert lines[1] == "<3>failed"
    assert all(line.startswith("<3>") for line in lines[1:])


def test_a_log_file_is_for_us_alone_also_when_it_was_moved_away(tmp_path):
    path = tmp_path / "own.log"
    assert logged("rotate", path) == []
    assert "ERROR failed" in (tmp_path / "own.log.1").read_text()
    assert path.read_text().endswith(" WARNING after\n")
    assert [stat.S_IMODE(os.stat(each).st_mode) for each in tmp_path.iterdir()] == [0o600, 0o600]


def test_syslog_is_told_who_logs_and_how_urgent_it_is(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        logged("syslog", f"syslog:{tmp_path}/log")
        said = server.recv(1000).decode()
    assert said.startswith("<30>mimicfs[")  # daemon.info
    assert said.endswith("]: INFO a\\nb\\x1b[2J")
