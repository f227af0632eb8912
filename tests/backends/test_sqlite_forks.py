"""A process that is forked uses a SQLite store by connections of its own, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mimicfs.backends.sqlite import SQLite

pytestmark = pytest.mark.slow

_BEFORE = """
import os, sys, threading
from mimicfs import MimicDB
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry
from mimicfs.errors import StoreError

library = MimicDB(SQLite(sys.argv[1]))
library.add_bucket("b", 1)
library.record("b", Entry("parent", 1))
library.listing("b")
"""


def said(script: str, path: Path) -> str:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _BEFORE + script, str(path)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        text=True,
    )
    return found.stdout


def test_what_a_child_writes_is_there_also_if_its_parent_ends_first(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    script = """
before, (told, tell) = library.member.id, os.pipe()
if os.fork():
    os.close(told)
    library.close()
    os._exit(0)
os.close(tell)
os.read(told, 1)
library.record("b", Entry("child", 1))
print(len(library.listing("b")), library.member.id == before)
library.close()
"""
    assert said(script, path) == "2 False\n"
    store = SQLite(path)
    assert [entry.key for entry in store.scan("b")] == ["child", "parent"]
    store.close()


def test_a_child_whose_parent_had_threads_that_use_the_store_is_refused(tmp_path: Path) -> None:
    script = """
reading, over = threading.Event(), threading.Event()

def read():
    library.listing("b")
    reading.set()
    over.wait()

thread = threading.Thread(target=read)
thread.start()
reading.wait()
if not (child := os.fork()):
    for call in (library.listing, library.drop_bucket):
        try:
            call("b")
        except StoreError as exc:
            print(str(exc).rpartition(": ")[2], flush=True)
    os._exit(0)
os.waitpid(child, 0)
over.set()
thread.join()
print(len(library.listing("b")))
library.close()
"""
    refused = (
        "opened before this process was forked, while other threads used it; open the store again"
        " in the new process\n"
    )
    assert said(script, tmp_path / "store.db") == refused + refused + "1\n"
