"""A directory is as fresh as its listing, or as what was told since, if nothing of it was lost."""

from __future__ import annotations

import pytest

from mimicfs.backends.lease import Lease
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Scope
from mimicfs.errors import StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.sync.freshness import freshness, note_gap, note_swept, note_told


@pytest.fixture
def listed(mimicdb):
    """A mirror of a bucket of which d/ was listed at 1000, and all of it before that."""
    mimicdb.add_bucket("b", 0)
    mimicdb.complete("b", Scope("", True, 500))
    mimicdb.complete("b", Scope("d/", False, 1000))
    return mimicdb


def test_it_is_as_of_the_listing_or_of_what_was_told_after_it(listed):
    assert freshness(listed, "b", "d/") == (1000, "listed")
    note_told(listed, "b", "", 900)
    assert freshness(listed, "b", "d/") == (1000, "listed")
    assert freshness(listed, "b", "e/") == (900, "told")
    note_told(listed, "b", "", 2000)
    assert freshness(listed, "b", "d/") == (2000, "told")


def test_what_is_told_of_a_prefix_says_nothing_of_others(listed):
    listed.complete("b", Scope("e/", False, 1000))
    note_told(listed, "b", "d/", 2000)
    assert freshness(listed, "b", "d/") == (2000, "told")
    assert freshness(listed, "b", "d/x/") == (2000, "told")
    assert freshness(listed, "b", "e/") == (1000, "listed")


def test_what_was_told_counts_for_nothing_where_messages_were_lost_since(listed):
    note_told(listed, "b", "", 2000)
    note_gap(listed, "b")
    assert freshness(listed, "b", "d/") == (1000, "listed")


def test_a_listing_by_the_sweep_is_named_so(listed):
    note_swept(listed, "b", listed.scope("b", "d/"))
    assert freshness(listed, "b", "d/") == (1000, "swept")
    assert freshness(listed, "b", "e/") == (500, "listed")
    for number in range(64):
        note_swept(listed, "b", Scope("x/", False, number))
    assert freshness(listed, "b", "d/") == (1000, "listed")


def test_what_was_never_listed_is_not_fresh(mimicdb):
    assert freshness(mimicdb, "b", "") is None


def test_while_the_store_is_away_the_copy_tells_when_it_was_listed(listed, monkeypatch):
    def away(*_):
        raise StoreUnavailable("the store does not answer")

    note_told(listed, "b", "", 2000)
    monkeypatch.setattr(listed.backend, "notes", away)
    assert freshness(listed, "b", "d/") == (1000, "listed")


def test_what_another_mount_of_the_store_has_listed_since_it_was_copied_counts_here(
    listed, monkeypatch
):
    """The sweep after a gap is the consumer's: the others would never say "told" after it."""
    replica = Replica(listed.backend, SQLite(":memory:"), Lease())
    replica.lease.renew()
    here = Mirror(replica)
    here.bring("b", "d/")
    listed.set_note("b", "gap", "1500")
    note_told(listed, "b", "", 3000)
    assert freshness(here, "b", "d/") == (1000, "listed")
    listed.complete("b", Scope("d/", False, 2000))
    assert freshness(here, "b", "d/") == (3000, "told")
    monkeypatch.setattr(listed.backend, "close", lambda: None)  # others go on using it
    replica.close()
