"""The promises of a backend, as tests: run them against your own.

    from mimicfs.testing import BackendPromises

    class TestMine(BackendPromises):
        def open(self):
            return Mine()

pytest collects the class; each test opens a store of its own, which must be empty, and closes
it. The backends of mimicfs promise just this (backends/__init__.py says it in words).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mimicfs.backends import Backend
from mimicfs.backends.loglines import WIDE_CHANGE
from mimicfs.backends.pending import IntentStep
from mimicfs.entry import KEPT, LISTED, BucketEntry, Entry, Scope, Total
from mimicfs.errors import LogTrimmed


class BackendPromises:
    """The tests. Say in `open` what they are of."""

    def open(self) -> Backend:
        """Return a new, empty store."""
        raise NotImplementedError("return a new, empty store of yours")

    @contextmanager
    def opened(self) -> Iterator[Backend]:
        backend = self.open()
        try:
            yield backend
        finally:
            backend.close()

    # Entries

    def test_what_is_put_is_got_with_every_field(self) -> None:
        with self.opened() as backend:
            entry = Entry(
                "d/é \x01\n", 1 << 45, 1_700_000_000_123_456_789, "abc-12", "GLACIER", {"a": "ü"}
            )
            entry = entry._replace(head='[{"ContentType":"ü"}]')
            backend.apply("b", [entry, Entry("bare")])
            assert backend.get("b", entry.key) == entry
            assert backend.get("b", "bare") == Entry("bare")
            assert backend.get("b", "d/") is None
            assert backend.get("other", entry.key) is None

    def test_children_are_the_direct_ones_in_s3s_order(self) -> None:
        with self.opened() as backend:
            _fill(
                backend,
                "a",
                "a-",
                "a/b",
                "a/c/d",
                "a//e",
                "/lead",
                "b/",
                "b/x",
                "c" * 1024,
                "e\u0301",
                "é",
            )
            top = backend.children("b", "")
            assert _keys(top) == ["/", "a", "a-", "a/", "b/", "c" * 1024, "e\u0301", "é"]
            assert top[3] == Entry("a/", kind=LISTED)
            assert top[4] == Entry("b/", 1)
            assert _keys(backend.children("b", "a/")) == ["a//", "a/b", "a/c/"]
            assert _keys(backend.children("b", "b/")) == ["b/x"]
            assert _keys(backend.children("b", "/")) == ["/lead"]
            assert backend.children("b", "x/") == []

    def test_children_come_in_pages_that_go_on_behind_any_name(self) -> None:
        with self.opened() as backend:
            names = [f"d/{n:03}" for n in range(50)] + [f"d/{n:03}/x" for n in range(0, 50, 7)]
            _fill(backend, *names)
            whole = _keys(backend.children("b", "d/", limit=1000))
            assert len(whole) == 58
            found, after = [], ""
            while page := _keys(backend.children("b", "d/", after, 7)):
                found += page
                after = page[-1]
            assert found == whole
            assert _keys(backend.children("b", "d/", "d/005x", 2)) == ["d/006", "d/007"]

    def test_a_directory_may_be_large(self) -> None:
        names = [f"d/{n:04}" for n in range(2500)]
        with self.opened() as backend:
            _fill(backend, *names[::2])
            _fill(backend, *names[1::2])
            found: list[str] = []
            while page := _keys(backend.children("b", "d/", found[-1] if found else "", 999)):
                found += page
            assert found == names
            assert _keys(backend.scan("b", "d/23")) == names[2300:2400]
            backend.apply("b", [], names[5:])
            assert _keys(backend.children("b", "d/")) == names[:5]
            backend.apply("b", [], names[:5])
            assert not backend.has_below("b", "d/")

    def test_directories_without_an_object_are_children_too(self) -> None:
        with self.opened() as backend:
            backend.apply("b", [Entry("kept/", kind=KEPT), Entry("listed/", kind=LISTED)])
            assert [entry.kind for entry in backend.children("b", "")] == [KEPT, LISTED]
            assert backend.has_below("b", "kept/")
            backend.apply("b", [], ["kept/"])
            assert not backend.has_below("b", "kept/")

    def test_a_directory_goes_with_its_last_key(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a/b/c/d")
            backend.apply("b", [], ["a/b/c/d"])
            assert backend.children("b", "") == []
            assert not backend.has_below("b", "")

    def test_lookup_finds_the_object_and_the_directory(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a", "d/x", "both", "both/x", "m/", "e//f")
            assert backend.lookup("b", "", "a") == (Entry("a", 1), None)
            assert backend.lookup("b", "", "d") == (None, Entry("d/", kind=LISTED))
            assert backend.lookup("b", "", "both") == (
                Entry("both", 1),
                Entry("both/", kind=LISTED),
            )
            assert backend.lookup("b", "", "m") == (None, Entry("m/", 1))
            assert backend.lookup("b", "e/", "") == (None, Entry("e//", kind=LISTED))
            assert backend.lookup("b", "", "missing") == (None, None)

    def test_an_absence_is_certain_as_long_as_a_scope_covers_it(self) -> None:
        with self.opened() as backend:
            _fill(backend, "d/a")
            assert backend.lookup_certain("b", "d/", "a") == ((Entry("d/a", 1), None), True)
            assert backend.lookup_certain("b", "d/", "x") == ((None, None), False)
            backend.mark("b", Scope("", True, 1))
            assert backend.lookup_certain("b", "d/", "x") == ((None, None), True)
            assert backend.lookup_certain("b", "d/", "x") == ((None, None), True)
            backend.unmark("b", "")
            assert backend.lookup_certain("b", "d/", "x") == ((None, None), False)
            backend.mark("b", Scope("d/", False, 2))
            assert backend.lookup_certain("b", "d/", "x") == ((None, None), True)
            assert backend.lookup_certain("b", "", "x") == ((None, None), False)

    def test_scan_is_flat_and_in_pages(self) -> None:
        with self.opened() as backend:
            names = sorted(["a", "a-", "a/", "a/b", "a//", "a//c", "b/c/d", "b/c/e", "b/f", "z"])
            _fill(backend, *names)
            assert _keys(backend.scan("b")) == names
            assert _keys(backend.scan("b", "a/")) == ["a/", "a//", "a//c", "a/b"]
            assert _keys(backend.scan("b", "b/c")) == ["b/c/d", "b/c/e"]
            found, after = [], ""
            while page := _keys(backend.scan("b", "", after, 3)):
                found += page
                after = page[-1]
            assert found == names

    def test_a_total_counts_files_below_and_no_empty_marker(self) -> None:
        with self.opened() as backend:
            names = ["a", "d/\0x", "d/b", "d/c/e/f", "d0", "d/x/\0"]
            backend.apply("b", [Entry(name, 10) for name in names])
            backend.apply("b", [Entry("d/"), Entry("d/m/", 3), Entry("d/k/", kind=KEPT)])
            assert backend.total("b", "d/") == Total(5, 43)
            assert backend.total("b") == Total(7, 63)
            assert backend.total("b", "d/c/") == Total(1, 10)
            assert backend.total("b", "missing/") == backend.total("none") == Total()

    # Changes

    def test_numbers_have_no_gaps_and_deletions_have_numbers(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a", "b")
            backend.apply("b", [Entry("c")], ["a", "never there"])
            assert backend.seq("b") == 5
            assert [(c.seq, c.first, c.last) for c in backend.changes("b", 0)] == [
                (1, "a", "a"),
                (2, "b", "b"),
                (3, "c", "c"),
                (4, "a", "a"),
                (5, "never there", "never there"),
            ]
            assert [c.seq for c in backend.changes("b", 3, limit=1)] == [4]
            assert {c.origin for c in backend.changes("b", 0)} == {backend.origin}
            assert backend.changes("b", 5) == []

    def test_many_changes_are_one_wide_line(self) -> None:
        with self.opened() as backend:
            names = [f"{n:04}" for n in range(WIDE_CHANGE + 1)]
            _fill(backend, *names)
            (change,) = backend.changes("b", 0)
            assert (change.seq, change.first, change.last) == (1, names[0], names[-1])

    def test_what_changed_since_is_left_alone(self) -> None:
        with self.opened() as backend:
            _fill(backend, "kept", "put later", "deleted later")
            since = backend.seq("b")
            backend.apply("b", [Entry("put later", 2)], ["deleted later", "never there"])
            puts = [Entry(name, 9) for name in ("deleted later", "never there", "new", "put later")]
            left = backend.apply("b", puts, ["kept"], since)
            assert left == {"deleted later", "never there", "put later"}
            assert _keys(backend.scan("b")) == ["new", "put later"]
            assert backend.get("b", "put later") == Entry("put later", 2)

    def test_a_wide_line_guards_all_between_its_ends(self) -> None:
        with self.opened() as backend:
            since = backend.seq("b")
            _fill(backend, *[f"d/{n:04}" for n in range(WIDE_CHANGE + 1)])
            left = backend.apply("b", [Entry("d/0005x"), Entry("e")], ["d/0007"], since)
            assert left == {"d/0005x", "d/0007"}
            assert backend.get("b", "e") is not None

    def test_a_number_of_the_future_is_refused(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a")
            for ask in (
                lambda: backend.changes("b", 7),
                lambda: backend.apply("b", [Entry("x")], [], 7),
            ):
                with _refused(LogTrimmed):
                    ask()
            assert backend.get("b", "x") is None

    def test_a_key_that_is_put_and_deleted_is_put(self) -> None:
        with self.opened() as backend:
            backend.apply("b", [Entry("a", 1)], ["a"])
            assert backend.get("b", "a") == Entry("a", 1)
            assert backend.seq("b") == 1

    def test_totals_count_objects_only(self) -> None:
        with self.opened() as backend:
            backend.apply("b", [Entry("a", 10), Entry("x\0y", 5), Entry("d/", kind=KEPT)])
            backend.apply("b", [Entry("a", 3)])
            assert _totals(backend)[:2] == (2, 8)
            backend.apply("b", [], ["x\0y", "d/", "missing"])
            assert _totals(backend)[:2] == (1, 3)

    # Buckets and scopes

    def test_buckets_are_known_in_order_and_their_list_has_a_log(self) -> None:
        with self.opened() as backend:
            backend.add_bucket("b", 7)
            backend.add_bucket("a", 5)
            backend.add_bucket("b", 8)
            assert backend.buckets() == [BucketEntry("a", 5), BucketEntry("b", 8)]
            assert [change.first for change in backend.changes("", 0)] == ["b", "a"]
            assert backend.drop_bucket("a")
            assert backend.bucket("a") is None
            assert [change.first for change in backend.changes("", 2)] == ["a"]

    def test_a_time_of_creation_stays_where_a_bucket_is_added_without_one(self) -> None:
        with self.opened() as backend:
            backend.add_bucket("b", 5)
            backend.add_bucket("b", 0)
            assert backend.buckets() == [BucketEntry("b", 5)]

    def test_a_bucket_that_is_not_known_is_dropped_in_the_log(self) -> None:
        with self.opened() as backend:
            assert backend.drop_bucket("a")
            assert backend.drop_bucket("a")
            assert [change.first for change in backend.changes("", 0)] == ["a", "a"]
            assert backend.buckets() == []

    def test_a_bucket_that_was_made_since_is_not_dropped(self) -> None:
        with self.opened() as backend:
            backend.add_bucket("old", 5)
            since = backend.seq("")
            _fill(backend, "x")
            assert not backend.drop_bucket("b", since)
            assert backend.get("b", "x") == Entry("x", 1)
            assert backend.drop_bucket("old", since)
            assert [bucket.name for bucket in backend.buckets()] == ["b"]
            assert [change.first for change in backend.changes("", since)] == ["b", "old"]
            with _refused(LogTrimmed):
                backend.drop_bucket("b", 7)
            assert backend.get("b", "x") == Entry("x", 1)

    def test_a_bucket_that_comes_again_is_empty_and_goes_on_counting(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a", "d/b")
            backend.mark("b", Scope("", True, 1), backend.seq("b") - 1)
            before = backend.seq("b")
            backend.drop_bucket("b")
            assert backend.scan("b") == []
            assert backend.scope("b", "") is None
            backend.add_bucket("b", 1)
            assert _totals(backend)[:2] == (0, 0)
            assert backend.seq("b") > before
            with _refused(LogTrimmed):
                backend.changes("b", before)

    def test_what_was_listed_before_a_bucket_was_dropped_does_not_count(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a")
            since = backend.seq("b")
            backend.drop_bucket("b")
            backend.add_bucket("b", 1)
            with _refused(LogTrimmed):
                backend.mark("b", Scope("", True, 1), since)
            assert not backend.covered("b", "")

    def test_scopes_are_told_the_oldest_first(self) -> None:
        with self.opened() as backend:
            for prefix, listed_ns in (("a/", 20), ("b/", 10), ("c/", 30)):
                backend.mark("b", Scope(prefix, False, listed_ns))
            prefixes = [scope.prefix for scope in backend.scopes("b")]
            assert prefixes in ([], ["b/", "a/", "c/"])  # a store that cannot tell has none

    def test_the_newest_scope_above_covers_a_directory(self) -> None:
        with self.opened() as backend:
            assert backend.cover("b", "a/") is None
            backend.mark("b", Scope("a/", False, 5))
            assert _covered_ns(backend, "a/") == 5
            assert backend.cover("b", "a/b/") is None
            assert backend.cover("b", "") is None
            assert backend.covered("b", "a/")
            assert not backend.covered("b", "a/", deep=True)
            assert not backend.covered("b", "a/b/")
            backend.mark("b", Scope("", True, 3, 1, 2, 3, 4, 5))
            assert backend.cover("b", "a/b/") == Scope("", True, 3, 1, 2, 3, 4, 5)
            assert backend.scope("b", "a/") is None  # the deep one has replaced it
            assert backend.covered("b", "a/b/c/", deep=True)
            backend.mark("b", Scope("a/b/", False, 9))
            assert _covered_ns(backend, "a/b/") == 9
            assert backend.covered("b", "a/b/", deep=True)
            backend.unmark("b", "")
            assert not backend.covered("b", "a/b/")

    def test_of_a_deep_scope_what_is_not_doubted_is_left(self) -> None:
        with self.opened() as backend:
            _fill(backend, "a", "d/e/x", "d/f/g/x", "d/x", "h/i/x")
            backend.mark("b", Scope("", True, 3, 1, 2))
            backend.mark("b", Scope("h/", False, 5))
            backend.unmark("b", "d/e/")
            every = ("", "d/", "d/e/", "d/e/e/", "d/f/", "d/f/g/", "h/", "h/i/", "new/")
            covered = [each for each in every if backend.covered("b", each)]
            assert covered == ["", "d/", "d/f/", "d/f/g/", "h/"]
            assert not any(backend.covered("b", each, deep=True) for each in ("", "d/", "d/e/"))
            assert backend.covered("b", "d/f/", deep=True)
            assert [_covered_ns(backend, each) for each in ("", "d/f/g/", "h/")] == [3, 3, 5]
            backend.unmark("b", "d/")
            assert [each for each in every if backend.covered("b", each)] == ["", "h/"]

    def test_where_it_is_not_certain_what_is_below_a_name_nor_is_that_there_is_none(self) -> None:
        with self.opened() as backend:
            _fill(backend, "d/x", "e/y")
            backend.mark("b", Scope("", True, 3))
            backend.unmark("b", "d/new/sub/")
            assert [each for each in ("", "d/", "d/new/", "e/") if backend.covered("b", each)] == [
                "",
                "e/",
            ]
            backend.mark("b", Scope("d/", False, 4))
            backend.unmark("b", "d/new/")
            assert not backend.covered("b", "d/")

    def test_a_stride_passes_as_many_entries_as_asked(self) -> None:
        with self.opened() as backend:
            assert backend.stride("b", "", "", 3) == ("", 0)
            names = sorted(["a", "d/", *(f"d/{n:04}" for n in range(1500)), "d/x/y", "e"])
            _fill(backend, *names)
            assert backend.stride("b", "", "", 1) == ("a", 1)
            assert backend.stride("b", "", "a", 1200) == (names[1200], 1200)
            assert backend.stride("b", "", "", 9999) == ("e", 1504)
            assert backend.stride("b", "d/", "", 2) == ("d/0000", 2)
            assert backend.stride("b", "d/", "d/0009a", 5) == ("d/0014", 5)
            assert backend.stride("b", "d/", "d/1499", 9) == ("d/x/y", 1)
            assert backend.stride("b", "d/", "d/x/y", 9) == ("", 0)

    def test_a_note_is_kept_or_there_are_none(self) -> None:
        with self.opened() as backend:
            assert backend.note("b", "n") is None
            backend.set_note("b", "n", "old")
            backend.set_note("b", "n", "né")
            assert backend.note("b", "n") in ("né", None)
            backend.set_note_of("b", "d/", "né")
            assert backend.notes_of("b", ["", "d/"]) in ([None, "né"], [None, None])
            backend.set_note("b", "n", None)
            assert backend.note("b", "n") is None

    def test_of_two_who_swap_a_note_one_succeeds(self) -> None:
        with self.opened() as backend:
            if not backend.intents:
                return
            assert backend.swap_note("/b", "n", "none", "old", tell=True) == (False, None)
            assert backend.swap_note("/b", "n", None, "né", tell=False) == (True, "né")
            assert backend.swap_note("/b", "n", None, "too late", tell=True) == (False, "né")
            assert (backend.note("/b", "n"), backend.seq("/b")) == ("né", 0)
            assert backend.swap_note("/b", "n", "né", "", tell=True) == (True, "")
            assert backend.swap_note("/b", "n", "", None, tell=True) == (True, None)
            assert backend.notes("/b") == {}
            assert [(line.seq, line.first) for line in backend.changes("/b", 0)] == [
                (1, "n"),
                (2, "n"),
            ]
            assert backend.buckets() == []

    def test_directories_are_shown_as_often_as_they_are_asked_for(self) -> None:
        with self.opened() as backend:
            _fill(backend, "d/x", "e/y")
            backend.set_note_of("b", "e/", "noted")
            found = backend.directories("b", ["d/", "e/", "d/"], 10)
            keys = [[row.key for row in each.rows] for each in found]
            assert keys == [["d/x"], ["e/y"], ["d/x"]]
            assert [each.note for each in found] in ([None, "noted", None], [None] * 3)

    def test_an_intent_that_is_done_is_over(self) -> None:
        with self.opened() as backend:
            if not backend.intents:
                return
            backend.begin("b", ["d/x", "y"], "one:1", 60_000)
            begun = [(each.key, each.pending) for each in backend.unsettled("b")]
            assert begun == [("d/x", True), ("y", True)]
            assert backend.apply("b", [Entry("d/x", 1)], step=IntentStep("one:1")) == set()
            assert backend.end("b", ["y"], "one:1", unsure=False) == set()
            assert backend.unsettled("b") == []
            assert backend.get("b", "d/x") == Entry("d/x", 1)

    def test_where_two_intents_overlap_only_what_was_asked_since_counts(self) -> None:
        with self.opened() as backend:
            if not backend.intents:
                return
            backend.begin("b", ["x"], "one:1", 60_000)
            backend.begin("b", ["x"], "two:1", 60_000)
            assert backend.apply("b", [Entry("x", 1)], step=IntentStep("one:1")) == {"x"}
            (before,) = backend.unsettled("b", "x")
            assert backend.apply("b", deletes=["x"], step=IntentStep("two:1")) == {"x"}
            assert backend.apply("b", [Entry("x", 2)], step=IntentStep(expected=before[1])) == {"x"}
            assert backend.get("b", "x") is None
            (now,) = backend.unsettled("b", "x")
            assert backend.apply("b", [Entry("x", 3)], step=IntentStep(expected=now[1])) == set()
            assert backend.get("b", "x") == Entry("x", 3)
            assert backend.unsettled("b") == []

    def test_intents_of_the_dead_and_those_that_are_late_are_ended(self) -> None:
        with self.opened() as backend:
            if not backend.intents:
                return
            backend.begin("b", ["dead"], "dead:1", 60_000)
            backend.begin("b", ["late"], "alive:1", -1)
            backend.begin("b", ["open"], "alive:2", 60_000)
            backend.begin("b", ["both"], "dead:2", 60_000)
            backend.begin("b", ["both"], "alive:3", 60_000)
            keys = backend.reap("b", lambda token: token.startswith("alive:"))
            assert keys == {"both", "dead", "late"}
            assert backend.reap("b", lambda token: token.startswith("alive:")) == set()
            found = [(each.key, each.pending) for each in backend.unsettled("b")]
            wanted = [("both", True), ("dead", False), ("late", False), ("open", True)]
            assert found == wanted

    def test_threads_lose_nothing(self) -> None:
        with self.opened() as backend:

            def write(part: int) -> None:
                for n in range(25):
                    backend.apply("b", [Entry(f"{part}/{n}", 1)])
                    backend.children("b", f"{part}/")

            threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert _totals(backend) == (200, 200, 200)
            assert len(backend.changes("b", 0)) == 200


def _totals(backend: Backend) -> tuple[int, ...]:
    """Return objects, bytes and the number of the latest change of the bucket."""
    bucket = backend.bucket("b")
    assert bucket is not None
    return bucket[2:]


def _covered_ns(backend: Backend, directory: str) -> int:
    scope = backend.cover("b", directory)
    assert scope is not None
    return scope.listed_ns


def _keys(entries: Sequence[Entry]) -> list[str]:
    return [entry.key for entry in entries]


def _fill(backend: Backend, *names: str) -> None:
    backend.apply("b", [Entry(name, 1) for name in names])


@contextmanager
def _refused(error: type[Exception]) -> Iterator[None]:
    """Within, *error* is raised."""
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")
