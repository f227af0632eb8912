"""The import contracts of setup.cfg hold what they promise: a forbidden import anywhere fails."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # lint-imports takes 0.6 s

ROOT = Path(__file__).resolve().parents[1]
BOTO = "boto3, botocore and urllib3 are imported in named modules of s3 only"


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
        ("vfs/handles.py", "import boto3", f"{BOTO} BROKEN"),
        ("s3/acl.py", "import boto3", f"{BOTO} BROKEN"),
        ("s3/mimicking/pages.py", "import botocore", f"{BOTO} BROKEN"),
        ("s3/requests/rules.py", "import boto3", f"{BOTO} BROKEN"),
        ("s3/transport/backoff.py", "import urllib3", f"{BOTO} BROKEN"),
        ("vfs/tree.py", "import s3fs", "fsspec and s3fs are imported in fsspec.py only BROKEN"),
        (
            "fuse/server.py",
            "from mimicfs import human",
            "the kernel's protocol knows nothing of S3 BROKEN",
        ),
        ("vfs/tree.py", "import sqlite3", "sqlite3 is imported in its backend only BROKEN"),
        ("admin/figures.py", "import redis", "redis is imported in its backend only BROKEN"),
        ("entry.py", "import botocore", f"{BOTO} BROKEN"),
        ("index/find.py", "import pyarrow", "pyarrow is imported in index/parquet.py only BROKEN"),
        ("mount/daemon.py", "import click", "click and rich are imported in cli only BROKEN"),
        ("vfs/names.py", "from mimicfs.vfs import tree", "within vfs BROKEN"),
        ("s3/transport/http.py", "from mimicfs.s3.requests import client", "within s3 BROKEN"),
        ("config/values.py", "from mimicfs.config import settled", "within config BROKEN"),
        ("mount/serving.py", "from mimicfs.mount import starting", "within mount BROKEN"),
        ("s3/transport/plain.py", "from mimicfs.s3.transport import wire", "within s3.transport"),
        ("newcomer.py", "import errno", "mimicfs.newcomer"),
        ("__init__.py", "import boto3", f"{BOTO} BROKEN"),
        ("__main__.py", "import botocore", f"{BOTO} BROKEN"),
        ("s3/requests/client.py", "import boto3", f"{BOTO} BROKEN"),  # which has botocore
        ("fsspec.py", "import aiobotocore", f"{BOTO} BROKEN"),
        ("backends/memory.py", "import sqlite3", "sqlite3 is imported in its backend only BROKEN"),
        ("cli/__init__.py", "import rich", "click and rich are imported in cli only BROKEN"),
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


def test_each_room_has_an_order_in_which_a_new_module_must_be_placed(copy):
    rooms = [file.parent for file in (copy / "mimicfs").rglob("__init__.py")]
    newcomers = [room / "newcomer.py" for room in rooms]
    names = [".".join(file.with_suffix("").relative_to(copy).parts) for file in newcomers]
    for file in newcomers:
        file.touch()
    try:
        said = linted(copy)
        assert [name for name in names if f"{name}\n" not in said] == []
    finally:
        for file in newcomers:
            file.unlink()


def test_each_library_of_others_has_a_contract():
    """And no directory is without `__init__`: the contracts do not see what is in it."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = {
        library
        for section in setup
        if section.startswith("importlinter:contract:")
        for library in setup[section].get("forbidden_modules", "").split()
    }
    rooms = [file.parent for file in (ROOT / "mimicfs").rglob("*.py")]
    assert [room for room in rooms if not (room / "__init__.py").exists()] == []
    found = {library for file in (ROOT / "mimicfs").rglob("*.py") for library in imported(file)}
    assert found - named - sys.stdlib_module_names == {"mimicfs"}


def imported(file):
    """Yield the first part of the name of each module that *file* imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_the_kernels_protocol_imports_four_modules_of_ours():
    imported = {
        name
        for file in (ROOT / "mimicfs" / "fuse").glob("*.py")
        for name in re.findall(
            r"^ *(?:from|import) (mimicfs(?:\.\w+)?)", file.read_text(), re.MULTILINE
        )
    }
    assert imported == {
        "mimicfs.baton",
        "mimicfs.errors",
        "mimicfs.fuse",
        "mimicfs.posix",
        "mimicfs.signals",
    }


def test_two_modules_import_others_by_names_that_no_contract_sees():
    """The module of a command, and all modules of a mount before its files may change."""
    found = {
        str(file.relative_to(ROOT / "mimicfs"))
        for file in (ROOT / "mimicfs").rglob("*.py")
        if re.search(r"\bimport_module\b|\b__import__\b|\bexec\(", file.read_text())
    }
    assert found == {"cli/helping.py", "mount/process.py"}
