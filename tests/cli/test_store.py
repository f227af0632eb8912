"""`mimicfs store migrate`, between files. tests/backends/test_checking.py goes to Redis."""

from __future__ import annotations

import json
import sqlite3

import pytest
from click.testing import CliRunner

from mimicfs.backends.sqlite import SQLite
from mimicfs.cli import cli
from mimicfs.entry import Entry
from mimicfs.errors import ConfigError


def migrate(*words: str) -> str:
    words = ("store", "migrate", *words)
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False).output


@pytest.mark.parametrize(
    ("source", "target", "option"),
    [
        ("redis://:pw@h/0", "memory:", "SRC redis://***@h/0"),
        ("memory:", "unix:///s?db=1&password=pw", "DST unix:///s?db=1&password=***"),
    ],
)
def test_a_password_that_ps_shows_is_refused(state, source, target, option):
    text = "every user can see a password there (ps); put it into the environment or a file"
    with pytest.raises(ConfigError) as caught:
        migrate(source, target)
    assert str(caught.value) == f"{option}: {text}"


def test_a_source_that_is_not_there_is_refused_and_not_made(state, tmp_path):
    (tmp_path / "empty").touch()
    for name in ("typo.db", "no/typo.db", "empty"):
        url = f"sqlite://{tmp_path}/{name}"
        with pytest.raises(ConfigError) as caught:
            migrate(url, f"sqlite://{tmp_path}/new.db")
        assert str(caught.value) == f"{url}: no such store"
    assert [each.name for each in tmp_path.glob("*.db")] == []
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_source_without_buckets_is_refused(state, tmp_path):
    SQLite(f"{tmp_path}/old.db").close()
    with pytest.raises(ConfigError) as caught:
        migrate(f"sqlite://{tmp_path}/old.db", f"sqlite://{tmp_path}/new.db")
    assert str(caught.value) == "the old store has no buckets; there is nothing to copy"


def test_a_program_is_told_how_many_keys_were_copied(state, tmp_path):
    old = SQLite(f"{tmp_path}/old.db")
    old.add_bucket("b", 7)
    old.apply("b", [Entry("a", 1), Entry("c", 2)])
    old.close()
    said = migrate("--json", f"sqlite://{tmp_path}/old.db", f"sqlite://{tmp_path}/new.db")
    assert json.loads(said) == [{"bucket": "b", "keys": 2}]
    with sqlite3.connect(tmp_path / "new.db") as db:
        found = db.execute("SELECT key FROM entry ORDER BY key").fetchall()
    db.close()
    assert found == [("a",), ("c",)]
