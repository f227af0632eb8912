"""A change of many keys is one range in the log. Other keys in that range are not taken as changed,
nor as absent."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from mimicfs.backends import Backend
from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import DirectorySeen, Entry, Scope
from mimicfs.errors import LogTrimmed
from mimicfs.mimicdb import Mirror


@pytest.fixture(params=["memory", "sqlite"])
def mimicdb(request: pytest.FixtureRequest, tmp_path: Path) -> Mirror:
    backend: Backend = Memory() if request.param == "memory" else SQLite(tmp_path / "store.db")
    return Mirror(backend)


def test_a_key_among_those_that_were_deleted_meanwhile_is_listed_again(mimicdb: Mirror) -> None:
    many = [Entry(f"d/{number:03}", 1, 0, "e") for number in range(101)]
    for entry in many:
        mimicdb.record("b", entry)
    since = mimicdb.seq("b")
    mimicdb.forget_all("b", [entry.key for entry in many])  # rm -r, while the page is on its way
    page = [*many[:50], Entry("d/050-other", 1, 0, "e"), *many[50:]]
    with pytest.raises(LogTrimmed, match="d/"):
        mimicdb.replace("b", "", page, after="", upto=None, since=since, deep=True)
    now = mimicdb.seq("b")  # it is asked for again, and shows what is there now
    left = [Entry("d/050-other", 1, 0, "e")]
    mimicdb.replace("b", "", left, after="", upto=None, since=now, deep=True)
    mimicdb.complete("b", Scope("", True, 0, 0))
    assert mimicdb.lookup("b", "d/", "050-other")[0] is not None
    assert mimicdb.lookup("b", "d/", "007") == (None, None)


def test_a_key_that_was_deleted_alone_meanwhile_is_left_alone(mimicdb: Mirror) -> None:
    mimicdb.record("b", Entry("a", 1, 0, "e"))
    since = mimicdb.seq("b")
    mimicdb.forget("b", "a")
    page = [Entry("a", 1, 0, "e"), Entry("b", 1, 0, "e")]
    difference = mimicdb.replace("b", "", page, after="", upto=None, since=since, deep=True)
    assert (difference.added, mimicdb.entry("b", "a")) == (["b"], None)


def test_what_was_changed_since_a_moment_ago_is_listed_again_with_a_number_of_now(
    mimicdb: Mirror,
) -> None:
    made = Entry("d/a", 1, 0, "e")
    mimicdb.record("b", made)
    seen = DirectorySeen(mimicdb.seq("b"), None, [made])
    mimicdb.forget("b", "d/a")
    again = Entry("d/a", 1, 9_000_000_000, "f")  # somebody else made it again; then S3 was asked
    merge = partial(mimicdb.replace, "b", "d/", [again], after="", upto=None, deep=False)
    with pytest.raises(LogTrimmed, match="a moment ago"):
        merge(since=seen.since, seen=seen)
    merge(since=mimicdb.seq("b"))
    assert mimicdb.entry("b", "d/a") == again
