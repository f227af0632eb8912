"""A walk through the mount finds each key of a bucket, whatever it is, once, by a name that leads
back to it. Over the mirror alone: nothing is asked of S3."""

from __future__ import annotations

import itertools
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_vfs_machine import Kernel

from mimicfs.backends.memory import Memory
from mimicfs.config.values import FileOptions, S3Options, Target, VFSOptions
from mimicfs.entry import Entry, Scope
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS

# Few, so that they come together: what is escaped, what looks so, and prefixes of each other.
COMPONENTS = [
    *["", ".", "..", "a", "b", "é", "\0", "\n", ".sync"],
    *["a%file", "%empty", "%dot", "%object", "a%name", "a%nul", "caf%E9%raw", "%"],
    *["k" * 1019, "k" * 1020 + "%", "\0" * 400, "n" * 600 + "%file"],
]
keys = st.builds(
    lambda components, end: "/".join(components) + end,
    st.lists(st.one_of(st.sampled_from(COMPONENTS), st.text("ab%\0", max_size=3)), max_size=4),
    st.sampled_from(["", "/"]),
).filter(lambda key: 0 < len(key.encode()) <= 1024)
_numbers = itertools.count()

pytestmark = pytest.mark.slow  # each example is a mirror


@pytest.fixture
def shown(tmp_path):
    """A function that shows a bucket of given keys: it returns the file system."""
    mimicdb = Mirror(Memory())
    s3 = S3(S3Options(endpoint_url="http://127.0.0.1:9", attempts=1), mimicdb)
    journal = Journal.open(tmp_path / "staging")

    def show(found):
        bucket = f"keys-{next(_numbers)}"
        mimicdb.add_bucket(bucket, 1)
        for key in found:
            mimicdb.record(bucket, Entry(key, 1, 1, "e", meta={}))
        mimicdb.complete(bucket, Scope("", True, 1))
        parts = (mimicdb, s3, Syncer(mimicdb, s3), journal, Kernel())
        return VFS(*parts, VFSOptions(Target(bucket)), FileOptions(journal.directory))

    yield show
    s3.close()


def walk(fs, caller, ino=ROOT_INO):
    """Yield the key of each file, found by its name."""
    names = set()
    cookie = 0
    while page := fs.readdir(caller, ino, cookie, 4000, 152, hold=False):
        for entry in page:
            assert entry.name not in names
            assert 0 < len(entry.name) <= 1024
            names.add(entry.name)
            attr = fs.lookup(caller, ino, entry.name)
            assert attr == entry.attr
            if stat.S_ISDIR(attr.mode):
                yield from walk(fs, caller, attr.ino)
            else:
                yield fs.getxattr(caller, attr.ino, b"user.mimicfs.key").decode()
        cookie = page[-1].cookie


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(found=st.sets(keys, max_size=8))
def test_a_walk_finds_each_key_once(shown, found):
    fs = shown(found)
    caller = Caller(os.getuid(), os.getgid(), 0, Cancellation())
    assert sorted(walk(fs, caller)) == sorted(found)
