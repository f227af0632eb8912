"""scripts/setup.sh, which installs what scripts/test, demo and others need."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # it looks again every five seconds

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{place}/state";
Dir::State::status "{place}/state/status";
Dir::Cache "{place}/cache";
"""


@pytest.mark.timeout(60)
def test_an_apt_that_somebody_else_runs_is_waited_for(tmp_path):
    if shutil.which("apt-get") is None:
        pytest.skip("this system has no apt")
    lists = tmp_path / "state" / "lists"
    (lists / "partial").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "state" / "status").touch()
    settings = tmp_path / "apt.conf"
    settings.write_text(SETTINGS.format(place=tmp_path))
    with open(lists / "lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            ["bash", "-c", ". scripts/setup.sh; locked apt-get update -q"],
            cwd=ROOT,
            env={**os.environ, "APT_CONFIG": str(settings)},
            stderr=subprocess.PIPE,
            text=True,
        )
        said = waiting.stderr.readline()
    assert "Could not get lock" in said
    assert waiting.communicate()[1].count("Could not get lock") <= 1
    assert waiting.returncode == 0
