"""The objects with which mimicfs tries a server are not in the mirror, whoever shows them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mimicfs.entry import Entry
from mimicfs.mimicdb import Mirror

HEX = "0123456789abcdef0123456789abcdef"
DAY_NS = 86_400 * 10**9


def _listed(mimicdb: Mirror, probe: Entry) -> None:
    listed = [Entry("d/a", 1, etag="a"), probe]
    since = mimicdb.seq("photos")
    listed.sort(key=lambda entry: entry.key)
    mimicdb.replace("photos", "", listed, after="", upto=None, since=since, deep=True)


def _recorded(mimicdb: Mirror, probe: Entry) -> None:
    mimicdb.record_all("photos", [Entry("d/a", 1, etag="a"), probe])


def _learned(mimicdb: Mirror, probe: Entry) -> None:
    mimicdb.learned("photos", [Entry("d/a", 1, etag="a"), probe], mimicdb.seq("photos"))


@pytest.mark.parametrize("show", [_listed, _recorded, _learned])
@pytest.mark.parametrize(
    ("name", "age_ns", "known"),
    [
        (f".mimicfs-{HEX}", 0, False),
        (f".mimicfs-{HEX}", 2 * DAY_NS, True),  # somebody died, and has left it
        (f".mimicfs-{HEX}0", 0, True),
        (f"x.mimicfs-{HEX}", 0, True),
    ],
)
def test_a_probe_is_in_the_mirror_only_if_it_was_left_behind(
    mimicdb: Mirror,
    show: Callable[[Mirror, Entry], None],
    name: str,
    age_ns: int,
    known: bool,
) -> None:
    show(mimicdb, Entry(f"d/{name}", 0, time.time_ns() - age_ns, "p"))
    assert (mimicdb.entry("photos", f"d/{name}") is not None) == known
    assert mimicdb.entry("photos", "d/a") is not None
