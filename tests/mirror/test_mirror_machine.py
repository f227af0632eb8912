"""The mirror against a model: S3 as a dict, with writers that we do not see, and listings that
are on their way while things change. The mirror must be right in all that it claims to know."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import KEPT, LISTED, OBJECT, Entry, Scope
from mimicfs.errors import Unlisted
from mimicfs.mimicdb import Mirror

pytestmark = pytest.mark.slow

BUCKET = "b"
KEYS = ["a", "a/", "a/b", "a//b", "a-", "b", "c/d/e", "c/d/f", "c/g", "/x"]
DIRECTORIES = ["", "a/", "a//", "c/", "c/d/", "/"]
keys = st.sampled_from(KEYS)
directories = st.sampled_from(DIRECTORIES)


class MirrorMachine(RuleBasedStateMachine):
    """`s3` is the truth. A key is `stale` while a writer that we do not see has changed it and
    nothing has told the mirror yet."""

    def backend(self):
        return Memory()

    @initialize()
    def start(self):
        self.mirror = Mirror(self.backend())
        self.mirror.add_bucket(BUCKET, 1)
        self.s3: dict[str, Entry] = {}
        self.stale: set[str] = set()
        self.kept: set[str] = set()
        self.pages: list = []  # on their way: (directory, deep, after, upto, entries, since)
        self.told: dict[str, Entry | None] = {}  # what listeners believe, by key
        self.number = 0
        self.mirror.subscribe(self.hear)

    def teardown(self):
        self.mirror.close()

    def hear(self, bucket, difference):
        assert bucket == BUCKET
        for key in difference.added + difference.changed:
            assert self.mirror.entry(BUCKET, key) is not None
        for key in difference.deleted:
            assert self.mirror.entry(BUCKET, key) is None

    def made(self, key):
        self.number += 1
        return Entry(key, self.number, self.number * 10**10, f"e{self.number}")

    # Writers

    @rule(key=keys)
    def we_put(self, key):
        entry = self.s3[key] = self.made(key)
        self.mirror.record(BUCKET, entry)
        self.stale.discard(key)
        self.kept.discard(key)

    @rule(key=keys)
    def we_delete(self, key):
        self.s3.pop(key, None)
        self.mirror.forget(BUCKET, key)
        self.stale.discard(key)
        self.kept.discard(key)

    @rule(key=keys)
    def somebody_puts(self, key):
        self.s3[key] = self.made(key)
        self.stale.add(key)

    @rule(key=keys)
    def somebody_deletes(self, key):
        if self.s3.pop(key, None):
            self.stale.add(key)

    @rule(key=keys)
    def we_look(self, key):
        since = self.mirror.seq(BUCKET)
        entry = self.s3.get(key)
        if self.mirror.entry(BUCKET, key) != entry and key not in self.kept:
            self.mirror.repair(BUCKET, key, entry, since)
            self.stale.discard(key)

    @rule(directory=st.sampled_from(DIRECTORIES[1:]))
    def we_keep(self, directory):
        empty = not any(key.startswith(directory) for key in self.s3)
        if empty and self.mirror.entry(BUCKET, directory) is None:
            self.mirror.keep(BUCKET, directory)
            self.kept.add(directory)

    # Listings: asked for, and merged later

    def shown(self, directory, deep):
        if deep:
            return sorted(entry for key, entry in self.s3.items() if key.startswith(directory))
        found = {}
        for key, entry in self.s3.items():
            if key.startswith(directory):
                head, slash, _ = key[len(directory) :].partition("/")
                name = directory + head + slash
                found[name] = Entry(name, kind=LISTED) if slash else entry
        return sorted(found.values(), key=lambda entry: entry.key)

    @rule(directory=directories, deep=st.booleans(), cut=st.none() | st.integers(0, 5))
    def a_page_is_asked_for(self, directory, deep, cut):
        since = self.mirror.seq(BUCKET)
        entries = self.shown(directory, deep)
        upto = None
        if cut is not None and cut < len(entries):
            upto = entries[cut].key
            entries = entries[: cut + 1]
        changed = dict(self.s3)
        self.pages.append((directory, deep, upto, entries, since, changed))

    @precondition(lambda self: self.pages)
    @rule()
    def it_is_merged(self):
        directory, deep, upto, entries, since, then = self.pages.pop(0)
        self.mirror.replace(BUCKET, directory, entries, after="", upto=upto, since=since, deep=deep)
        if upto is None and not self.pages and then == self.s3:
            self.mirror.complete(BUCKET, Scope(directory, deep, 1))
            for key in list(self.stale):
                direct = "/" not in key[len(directory) :]
                if key.startswith(directory) and (deep or direct):
                    self.stale.discard(key)

    # What must hold

    def sure(self, key):
        """Whether the mirror is bound to be right about *key*."""
        return key not in self.stale and key not in self.kept

    @invariant()
    def what_is_known_is_true(self):
        for key in KEYS:
            found = self.mirror.entry(BUCKET, key)
            if found is not None and found.kind == OBJECT and self.sure(key):
                assert found == self.s3.get(key), key

    @invariant()
    def absence_is_only_claimed_where_it_is_true(self):
        for key in KEYS:
            directory, _, name = key.rpartition("/")
            directory = directory + "/" if "/" in key else ""
            if not name or not self.sure(key):
                continue
            try:
                entry, _ = self.mirror.lookup(BUCKET, directory, name)
                absent = entry is None and self.mirror.cover(BUCKET, directory) is not None
            except Unlisted:
                continue
            if absent:
                assert key not in self.s3, key

    @invariant()
    def children_and_listing_agree_with_the_entries(self):
        known = self.mirror.listing(BUCKET)
        assert [entry.key for entry in known] == sorted(entry.key for entry in known)
        scanned = self.mirror.backend.scan(BUCKET)
        for directory in DIRECTORIES:
            found = self.mirror.backend.children(BUCKET, directory)
            names = {
                directory + head + slash
                for entry in scanned
                if entry.key.startswith(directory) and entry.key != directory
                for head, slash, _ in [entry.key[len(directory) :].partition("/")]
            }
            assert [entry.key for entry in found] == sorted(names)

    @invariant()
    def totals_are_those_of_the_objects(self):
        found = self.mirror.backend.bucket(BUCKET)
        known = self.mirror.listing(BUCKET)
        assert (found.objects, found.bytes) == (len(known), sum(entry.size for entry in known))

    @invariant()
    def kept_directories_stay(self):
        for directory in self.kept:
            found = self.mirror.entry(BUCKET, directory)
            assert found is not None
            assert found.kind in (KEPT, OBJECT)


class MirrorInAFile(MirrorMachine):
    def backend(self):
        self.directory = tempfile.TemporaryDirectory()
        return SQLite(str(Path(self.directory.name) / "mirror.db"))

    def teardown(self):
        super().teardown()
        self.directory.cleanup()


TestMirror = pytest.mark.slow(MirrorMachine.TestCase)
TestMirror.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestMirrorInAFile = pytest.mark.slow(MirrorInAFile.TestCase)
TestMirrorInAFile.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
