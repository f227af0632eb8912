"""The usual change in few steps: it leaves the file as the steps one after the other do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

import pytest

from mimicfs.backends.pending import IntentStep
from mimicfs.backends.sqlite import SQLite, briefly
from mimicfs.entry import KEPT, Entry

HOUR_MS = 3_600_000
NEW = Entry("d/new", 5, 7, "e1", "", {"mtime": "1.000000000"})
OLD = Entry("d/old", 3, 6, "e0")
Case = Callable[[SQLite], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLite]:
    with closing(made(path)) as store:
        yield store


def made(path: Path) -> SQLite:
    store = SQLite(str(path))
    store.apply("b", [OLD])
    store.seq("b")  # the number of the bucket is known from now on
    return store


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of the store, without what differs from one run to the next."""
    with closing(sqlite3.connect(path)) as db:
        pending = db.execute("SELECT key, substr(row, 22, 4) FROM pending ORDER BY key")
        log = db.execute("SELECT bucket, seq, first, last FROM log")
        return {"pending": pending.fetchall(), "log": log.fetchall()} | {
            table: db.execute(f"SELECT * FROM {table}").fetchall() for table in ("bucket", "entry")
        }


def ended(store: SQLite, *puts: Entry, token: str = "m:1") -> set[str]:
    return store.apply("b", puts, (), None, IntentStep(token))


def traced(store: SQLite, work: Case) -> list[str]:
    """Return the statements of *work*; those of a trigger show the one that has fired it."""
    store.begin("b", ["before"], "m:0", HOUR_MS)
    ended(store, Entry("before"), token="m:0")  # the connection has the trigger
    found: list[str] = []
    store._db._writer.set_trace_callback(found.append)
    work(store)
    store._db._writer.set_trace_callback(None)
    return [each.partition(" VALUES")[0] for each, _ in groupby(found)]


def alone(store: SQLite) -> None:
    store.begin("b", ["d/new"], "m:1", HOUR_MS)
    assert ended(store, NEW) == set()


def together(store: SQLite) -> None:
    store.begin("b", ["d/new", "d/old"], "m:1", HOUR_MS)
    assert ended(store, NEW, OLD._replace(size=9)) == set()


def a_part(store: SQLite) -> None:
    store.begin("b", ["d/new", "d/old", "x"], "m:1", HOUR_MS)
    assert ended(store, NEW, OLD._replace(size=9)) == set()


def twice(store: SQLite) -> None:
    store.begin("b", ["d/new", "d/new"], "m:1", HOUR_MS)
    assert ended(store, NEW._replace(size=1), NEW) == set()


def two_at_once(store: SQLite) -> None:
    store.begin("b", ["d/new"], "m:1", HOUR_MS)
    store.begin("b", ["d/new"], "m:2", HOUR_MS)
    assert ended(store, NEW) == {"d/new"}


def one_of_two(store: SQLite) -> None:
    store.begin("b", ["d/new", "d/old"], "m:1", HOUR_MS)
    store.begin("b", ["d/old"], "m:11", HOUR_MS)
    assert ended(store, NEW, OLD._replace(size=9)) == {"d/old"}


def another_token(store: SQLite) -> None:
    store.begin("b", ["d/new"], "m:12", HOUR_MS)
    assert ended(store, NEW) == {"d/new"}


def learned_meanwhile(store: SQLite) -> None:
    store.begin("b", ["d/new"], "m:1", HOUR_MS)
    store.apply("b", [NEW._replace(etag="others")])
    assert ended(store, NEW) == {"d/new"}


def after_its_deadline(store: SQLite) -> None:
    store.begin("b", ["d/new"], "m:1", -1)
    store.reap("b", lambda _: True)
    assert ended(store, NEW) == {"d/new"}


def dropped(store: SQLite) -> None:
    store.begin("b", ["d/new"], "m:1", HOUR_MS)
    store.drop_bucket("b")
    store.begin("b", ["d/new"], "m:2", HOUR_MS)
    assert ended(store, NEW, token="m:2") == set()


def kept(store: SQLite) -> None:
    store.begin("b", ["d/"], "m:1", HOUR_MS)
    assert ended(store, Entry("d/", kind=KEPT, meta={})) == set()


def over_a_directory(store: SQLite) -> None:
    store.apply("b", [Entry("d/", kind=KEPT, meta={})])
    store.begin("b", ["d/"], "m:1", HOUR_MS)
    assert ended(store, Entry("d/", 0, 8, "e8")) == set()


def within_a_larger_change(store: SQLite) -> None:
    with store.together():
        store.begin("b", ["d/new"], "m:1", HOUR_MS)
        assert ended(store, NEW) == set()


CASES: tuple[Case, ...] = (
    alone,
    together,
    a_part,
    twice,
    two_at_once,
    one_of_two,
    another_token,
    learned_meanwhile,
)
CASES += (after_its_deadline, dropped, kept, over_a_directory, within_a_larger_change)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_change_leaves_what_the_steps_one_after_the_other_leave(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for way in ("brief", "long"):
        if way == "long":
            monkeypatch.setattr(briefly, "_ROWS", 0)
        with closing(made(tmp_path / way)) as store:
            case(store)
    assert tables(tmp_path / "brief") == tables(tmp_path / "long")


def test_an_object_that_nobody_else_changes_takes_two_statements(store: SQLite, path: Path) -> None:
    assert traced(store, alone) == ["INSERT INTO pending", "INSERT INTO temp.stored"]
    found = tables(path)
    assert found["pending"] == []
    assert found["bucket"][-1][-4:] == (0, 3, 8, 3)
    assert found["log"][-1] == (found["bucket"][-1][0], 3, "d/new", None)
    assert [change.origin for change in store.changes("b", 0)] == [store.origin] * 3
    assert store.get("b", "d/new") == NEW


def test_objects_that_were_begun_together_take_as_many(store: SQLite) -> None:
    assert traced(store, together) == ["INSERT INTO pending", "INSERT INTO temp.stored"]


def test_a_change_that_others_meet_changes_nothing_by_the_brief_way(store: SQLite) -> None:
    store.begin("b", ["d/new", "d/old"], "m:1", HOUR_MS)
    store.begin("b", ["d/old"], "m:2", HOUR_MS)
    number, before = store._ids["b"], store.seq("b")
    assert not briefly.stored(store._db, number, [NEW, OLD._replace(size=9)], "m:1", 4)
    assert (store.get("b", "d/new"), store.get("b", "d/old")) == (None, OLD)
    assert store.seq("b") == before
    assert [row.key for row in store.unsettled("b")] == ["d/new", "d/old"]


def test_the_log_is_trimmed_though_all_changes_are_brief(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicfs.backends.sqlite._LOG_MAX", 10)
    monkeypatch.setattr("mimicfs.backends.sqlite._TRIM_EVERY", 5)
    with closing(made(path)) as store:
        for n in range(40):
            store.begin("b", ["d/new"], f"m:{n}", HOUR_MS)
            ended(store, NEW, token=f"m:{n}")
        assert 10 <= len(store.changes("b", store.seq("b") - 10)) <= len(tables(path)["log"]) <= 17


def test_a_forked_process_has_a_trigger_of_its_own(store: SQLite) -> None:
    alone(store)
    store._db.forked()
    store.begin("b", ["x"], "m:3", HOUR_MS)
    assert ended(store, NEW._replace(key="x"), token="m:3") == set()
    assert store.get("b", "x") == NEW._replace(key="x")


def test_a_connection_that_was_taught_half_is_taught_the_rest(store: SQLite) -> None:
    db = store._db._writer
    briefly._teach(db)
    db.execute("DROP TRIGGER store")
    briefly._teach(db)
    taught = "SELECT type, name FROM sqlite_temp_master ORDER BY name"
    assert db.execute(taught).fetchall() == [("trigger", "store"), ("view", "stored")]
