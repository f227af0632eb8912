"""The feed tells what changed, in order, once, and goes on where it was left."""

from __future__ import annotations

import itertools
import shutil
from contextlib import closing

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry, Scope
from mimicfs.errors import LogTrimmed
from mimicfs.feed import Feed, changes
from mimicfs.mimicdb import Mirror

_numbers = itertools.count()
ETAGS = ["0" * 31 + digit for digit in "0123456789"]


def entry(key, size=1, etag=ETAGS[0], **more):
    return Entry(key, size, 1_000_000_000, etag, **more)


@pytest.fixture(params=["sqlite", "redis"])
def opened(request, tmp_path):
    """Open one store again and again, as other processes do."""
    made = []
    namespace = f"feed-{next(_numbers)}-{tmp_path}"
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""

    def open_():
        store = RedisBackend.from_url(url, namespace) if url else SQLite(str(tmp_path / "s.db"))
        made.append(Mirror(store))
        return made[-1]

    yield open_
    for mimicdb in made:
        mimicdb.close()


@pytest.fixture
def feed_of(tmp_path):
    """Open the feed of a mirror, whose store is a file."""
    made = []

    def open_(mimicdb, prefix=""):
        path = tmp_path / "feed.db"
        made.append(Feed(mimicdb, "b", prefix, SQLite(str(path)), path))
        return made[-1]

    yield open_
    for feed in made:
        feed.close()


def news(feed, since=0):
    return [it for page in changes(feed, since, follow=False) for it in page]


def said(feed, since=0):
    return [(it.seq, it.change, it.source or it.key, it.by) for it in news(feed, since)]


def test_each_kind_of_change_is_told_with_who_made_it(opened, feed_of):
    here, there = opened(), opened()
    here.record("b", entry("old"))
    feed = feed_of(here)
    assert said(feed) == []
    here.record("b", entry("new", 5, ETAGS[1]))
    there.record("b", entry("old", 7, ETAGS[2]))
    there.repair("b", "found", entry("found", 0))
    assert said(feed) == [
        (1, "added", "new", "this"),
        (2, "changed", "old", "another"),
        (3, "added", "found", "S3"),
    ]
    here.forget("b", "new")
    [deleted] = news(feed, 3)
    found = (deleted.change, deleted.key, deleted.size, deleted.etag)
    assert found == ("deleted", "new", 5, ETAGS[1])


def test_what_is_learned_of_a_change_later_leaves_whose_it_is(opened, feed_of):
    here, there = opened(), opened()
    feed = feed_of(here)
    there.record("b", entry("theirs"))
    there.repair("b", "found", entry("found"))
    there.repair("b", "own", entry("own"))
    with here.backend.finding():
        for key in ("theirs", "found"):
            here.record("b", entry(key, head="{}"))
    here.record("b", entry("own", 5, ETAGS[1]))
    told = [("theirs", "another"), ("found", "S3"), ("own", "this")]
    assert [(it.key, it.by) for it in news(feed)] == told


def test_another_member_of_the_store_is_named(opened, feed_of):
    here, there = opened(), opened()
    there.join("/mnt/photos")
    feed = feed_of(here)
    there.record("b", entry("a"))
    assert news(feed)[0].by.endswith(":/mnt/photos")


def test_a_rename_is_one_move(opened, feed_of):
    mimicdb = opened()
    for key in ("d/one", "d/two"):
        mimicdb.record("b", entry(key, 9, ETAGS[3]))  # of the same bytes
    feed = feed_of(mimicdb)
    for name in ("one", "two"):
        mimicdb.record("b", entry(f"e/{name}", 9, ETAGS[3]))
    for name in ("one", "two"):
        mimicdb.forget("b", f"d/{name}")
    assert [(it.change, it.source, it.key) for it in news(feed)] == [
        ("moved", "d/one", "e/one"),
        ("moved", "d/two", "e/two"),
    ]


@pytest.mark.slow
def test_the_renames_of_a_large_directory_are_moves(opened, feed_of):
    """The new names come first, and the old ones go behind all of them."""
    mimicdb, count = opened(), 1200
    mimicdb.record_all("b", [entry(f"d/{n:04}", 9, f"{n:032x}") for n in range(count)])
    feed = feed_of(mimicdb)
    for n in range(count):
        mimicdb.record("b", entry(f"e/{n:04}", 9, f"{n:032x}"))
    for n in range(count):
        mimicdb.forget("b", f"d/{n:04}")
    assert {(it.change, it.source[2:] == it.key[2:]) for it in news(feed)} == {("moved", True)}
    assert feed.last() == count


def test_what_is_learned_of_an_object_is_no_change_of_it(opened, feed_of):
    mimicdb = opened()
    mimicdb.record("b", entry("a"))
    feed = feed_of(mimicdb)
    mimicdb.record("b", entry("a", meta={"mode": "33188"}, head="{}"))
    mimicdb.complete("b", Scope("", True, 1))
    assert said(feed) == []
    mimicdb.record("b", entry("a", meta={"mode": "33261"}))
    assert said(feed) == [(1, "changed", "a", "this")]


def test_a_wide_change_is_told_key_by_key(opened, feed_of):
    mimicdb = opened()
    mimicdb.record_all("b", [entry(f"{n:04}", 3) for n in range(0, 400, 2)])
    feed = feed_of(mimicdb)
    mimicdb.record_all("b", [entry(f"{n:04}") for n in range(1, 400, 2)])
    mimicdb.record("b", entry("0007", 2, ETAGS[4]))
    mimicdb.forget_all("b", [f"{n:04}" for n in range(0, 400, 2)])
    found = news(feed)
    assert [it.seq for it in found] == list(range(1, 401))
    assert {it.change for it in found if int(it.key) % 2} == {"added"}
    assert {it.change for it in found if not int(it.key) % 2} == {"deleted"}
    assert next(it.size for it in found if it.key == "0007") == 2


def test_a_feed_of_a_prefix_has_nothing_of_others(opened, feed_of):
    mimicdb = opened()
    feed = feed_of(mimicdb, "d/")
    mimicdb.record_all("b", [entry(f"{it}{n:03}") for it in ("c/", "d/", "e/") for n in range(50)])
    mimicdb.record("b", entry("d0"))
    found = news(feed)
    assert len(found) == 50
    assert {it.key[:2] for it in found} == {"d/"}


def test_it_goes_on_where_it_was_left_whoever_looks(opened, feed_of):
    mimicdb = opened()
    with closing(mimicdb):
        mimicdb.record("b", entry("before"))
        feed_of(mimicdb).close()
    mimicdb = opened()
    mimicdb.record("b", entry("meanwhile", 1, ETAGS[5]))
    first, second = feed_of(mimicdb), feed_of(mimicdb)
    assert said(first) == [(1, "added", "meanwhile", "this")]
    mimicdb.forget("b", "before")
    assert said(second, 1) == [(2, "deleted", "before", "this")]
    assert said(first) == [
        (1, "added", "meanwhile", "this"),
        (2, "deleted", "before", "this"),
    ]
    with pytest.raises(LogTrimmed, match="begin without --since"):
        news(first, 3)


def test_where_the_log_does_not_reach_back_all_is_compared(feed_of):
    lost = Mirror(Memory())
    for key in ("a/kept", "a/gone", "b/unknown"):
        lost.record("b", entry(key))
    feed_of(lost).close()
    mimicdb = Mirror(Memory())  # of another epoch: its log has other numbers
    feed = feed_of(mimicdb)
    mimicdb.record_all("b", [entry("a/kept"), entry("a/new", 2, ETAGS[6])])
    mimicdb.complete("b", Scope("a/", False, 1))
    for number in range(3):  # so that the place of the feed is in the log again
        mimicdb.record("b", entry(f"x{number}", 3, ETAGS[7]))
    feed._store.set_note("b", "place", "1000")
    assert [(it.change, it.key) for it in news(feed)][:2] == [
        ("deleted", "a/gone"),
        ("added", "a/new"),
    ]
    assert "b/unknown" not in [it.key for it in news(feed)]  # the mirror does not know
    feed._compared_s = float("-inf")
    mimicdb.complete("b", Scope("", True, 2))
    assert [(it.change, it.key) for it in news(feed)][-1] == ("deleted", "b/unknown")


def test_a_store_that_was_replaced_hides_no_change(feed_of, tmp_path):
    """Made again, or put back from a backup: its log has grown beyond the place of the feed."""

    def changed(name, *keys):
        with closing(Mirror(SQLite(str(tmp_path / name)))) as mimicdb:
            feed = feed_of(mimicdb)
            for key in keys:
                mimicdb.record("b", entry(key, 2, f"{ord(key):032x}"))
            found = [(it.change, it.key) for it in news(feed, feed.last())]
            feed.close()
        return found

    assert changed("first", "a", "b") == [("added", "a"), ("added", "b")]
    shutil.copy(tmp_path / "first", tmp_path / "backup")
    assert changed("first", "c", "d") == [("added", "c"), ("added", "d")]
    with closing(Mirror(SQLite(str(tmp_path / "backup")))) as backup:
        for key in ("e", "f", "g"):
            backup.record("b", entry(key, 2, f"{ord(key):032x}"))
        backup.complete("b", Scope("", True, 1))
        feed = feed_of(backup)
        assert sorted((it.change, it.key) for it in news(feed, 4)) == [
            *(("added", key) for key in "efg"),
            *(("deleted", key) for key in "cd"),
        ]
        feed.close()
    with closing(Mirror(SQLite(str(tmp_path / "anew")))) as anew:
        for key in "abefxyz":
            anew.record("b", entry(key, 2, f"{ord(key):032x}"))
        anew.complete("b", Scope("", True, 1))
        feed = feed_of(anew)
        assert sorted((it.change, it.key) for it in news(feed, 9)) == [
            *(("added", key) for key in "xyz"),
            ("deleted", "g"),
        ]


def test_news_that_is_no_longer_kept_is_refused(feed_of, monkeypatch):
    monkeypatch.setattr("mimicfs.feed._KEPT", 10)
    mimicdb = Mirror(Memory())
    feed = feed_of(mimicdb)
    for number in range(30):
        mimicdb.record("b", entry(f"{number}"))
        feed.look()
    assert [it.seq for it in news(feed, 20)] == list(range(21, 31))
    with pytest.raises(LogTrimmed, match="only 21 to 30"):
        news(feed, 5)


def test_the_library_yields_what_changes():
    from mimicfs import MimicDB

    mirror = MimicDB(Memory())
    found = mirror.changes("b/d/")
    mirror.record("b", entry("e"))
    mirror.record("b", entry("d/a", 4, ETAGS[8]))
    first = next(found)
    seen = (first.seq, first.change, first.key, first.size, first.by)
    assert seen == (1, "added", "d/a", 4, "this")
    found.close()
