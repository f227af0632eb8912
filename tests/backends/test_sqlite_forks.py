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


def test_children_go_on_although_threads_of_their_parent_use_the_store(tmp_path: Path) -> None:
    script = """
over, children = threading.Event(), []

def read():
    while not over.is_set():
        library.listing("b")

threads = [threading.Thread(target=read) for _ in range(3)]
for thread in threads:
    thread.start()
for n in range(8):
    if not (child := os.fork()):
        library.record("b", Entry(f"child {n}", 1))
        os._exit(f"child {n}" not in [entry.key for entry in library.listing("b")])
    children.append(child)
print({os.waitpid(child, 0)[1] for child in children})
over.set()
for thread in threads:
    thread.join()
print(len(library.listing("b")))
library.close()
"""
    assert said(script, tmp_path / "store.db") == "{0}\n9\n"


def test_a_child_keeps_what_it_writes_after_a_parent_with_threads_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    script = """
reading, over, (told, tell) = threading.Event(), threading.Event(), os.pipe()

def read():
    library.listing("b")
    reading.set()
    over.wait()

thread = threading.Thread(target=read)
thread.start()
reading.wait()
if os.fork():
    os.close(told)
    over.set()
    thread.join()
    library.close()
    os._exit(0)
os.close(tell)
library.record("b", Entry("early", 1))
os.read(told, 1)
again = MimicDB(SQLite(sys.argv[1]))
again.record("b", Entry("again", 1))
library.record("b", Entry("late", 1))
print(len(again.listing("b")), len(library.listing("b")))
again.close()
library.close()
"""
    assert said(script, path) == "4 4\n"
    store = SQLite(path)
    assert [entry.key for entry in store.scan("b")] == ["again", "early", "late", "parent"]
    store.close()


def test_a_child_has_a_copy_of_a_store_in_memory(tmp_path: Path) -> None:
    script = """
memory = MimicDB(SQLite())
memory.record("b", Entry("parent", 1))
held, over = threading.Event(), threading.Event()

def write():
    with memory.backend.together():
        memory.record("b", Entry("while a thread holds it", 1))
        held.set()

thread = threading.Thread(target=write)
thread.start()
held.wait()
if not (child := os.fork()):
    memory.record("b", Entry("child", 1))
    print(len(memory.listing("b")), flush=True)
    os._exit(0)
os.waitpid(child, 0)
thread.join()
print(len(memory.listing("b")))
memory.close()
library.close()
"""
    assert said(script, tmp_path / "store.db") == "3\n2\n"
