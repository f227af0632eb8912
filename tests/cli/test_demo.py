"""scripts/demo, as a reader of the README runs it: each step costs what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_each_step_of_the_demo_costs_what_it_says() -> None:
    words = [sys.executable, "scripts/demo_steps.py"]
    environment = os.environ | {"PYTHONPATH": "tests"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    failed = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert (failed, done.returncode) == ([], 0), done.stdout
