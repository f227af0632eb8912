"""The import paths that documents name stay where they are, whatever room the code lies in."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The imports of MimicDB's own documentation, with `mimicdb` for `mimicfs`.
MIMICDB = {
    ("mimicfs", "MimicDB"),
    ("mimicfs.backends", "Backend"),
    ("mimicfs.backends.default", "Redis"),
    ("mimicfs.backends.memory", "Memory"),
    ("mimicfs.backends.sqlite", "SQLite"),
    ("mimicfs.s3.bucket", "Bucket"),
    ("mimicfs.s3.connection", "S3Connection"),
    ("mimicfs.s3.key", "Key"),
}
_FROM = re.compile(r"^\s*from (mimicfs[\w.]*) import ([\w, ]+)", re.MULTILINE)
_MODULE = re.compile(r"`(mimicfs(?:\.[a-z0-9_]+)+)`")


def documented():
    """Return (module, name) of each import in README and docs/library.md."""
    found = set()
    for path in (ROOT / "README.md", ROOT / "docs" / "library.md"):
        text = path.read_text()
        for module, names in _FROM.findall(text):
            found |= {(module, name.strip()) for name in names.split(",")}
        for path_ in _MODULE.findall(text):
            module, _, name = path_.rpartition(".")
            found.add((module, name))
    return found


@pytest.mark.parametrize(("module", "name"), sorted(MIMICDB | documented()))
def test_what_a_document_imports_is_there(module, name):
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


def test_the_documents_name_what_programs_need():
    assert {("mimicfs", "MimicDB"), ("mimicfs.s3.connection", "S3Connection")} <= documented()
