"""The import contracts of setup.cfg hold what they promise: a forbidden import anywhere fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # lint-imports takes 0.6 s

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and of the contracts."""
    place = tmp_path_factory.mktemp("contracts")
    shutil.copytree(ROOT / "mimicfs", place / "mimicfs", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "setup.cfg", place)
    return place


def linted(place):
    """Return what lint-imports says, or "" if all contracts hold."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode else ""


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        (
            "vfs/handles.py",
            "import boto3",
            "boto3, botocore and urllib3 are imported in s3 only BROKEN",
        ),
        (
            "s3/acl.py",
            "import boto3",
            "boto3, botocore and urllib3 are imported in s3 only BROKEN",
        ),
        ("vfs/tree.py", "import s3fs", "fsspec and s3fs are imported in fsspec.py only BROKEN"),
        (
            "fuse/server.py",
            "from mimicfs import human",
            "the kernel's protocol knows nothing of S3 BROKEN",
        ),
        ("vfs/tree.py", "import sqlite3", "sqlite3 is imported in its backend only BROKEN"),
        ("admin/figures.py", "import redis", "redis is imported in its backend only BROKEN"),
        (
            "entry.py",
            "import botocore",
            "boto3, botocore and urllib3 are imported in s3 only BROKEN",
        ),
        ("index/find.py", "import pyarrow", "pyarrow is imported in index/parquet.py only BROKEN"),
        ("mount/daemon.py", "import click", "click and rich are imported in cli only BROKEN"),
        ("vfs/names.py", "from mimicfs.vfs import tree", "within vfs BROKEN"),
        ("s3/transport/http.py", "from mimicfs.s3.requests import client", "within s3 BROKEN"),
        ("newcomer.py", "import errno", "mimicfs.newcomer"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(copy, module, line, contract):
    file = copy / "mimicfs" / module
    before = file.read_text() if file.exists() else None
    try:
        file.write_text(f"{before or ''}\n{line}\n")
        assert contract in linted(copy)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)


def test_the_contracts_hold(copy):
    assert linted(copy) == ""
