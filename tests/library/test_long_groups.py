"""A listing with a delimiter moves past each group, however long the keys of the group are."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry, Scope
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.accounts import ListedAccount
from mimicfs.s3.mimicking.local import Local, behind
from mimicfs.s3.mimicking.pages import Places

LETTERS = ["a", "é", "€", "\U0001f600"]  # of 1, 2, 3 and 4 bytes


def padded(letter: str, size: int) -> str:
    """Return *size* bytes, as many as can be of them *letter*."""
    width = len(letter.encode())
    return letter * (size // width) + "b" * (size % width)


def last_of(group: str) -> str:
    """Return the last key of at most 1,024 bytes that begins with *group*, letter by letter."""
    lasts = ["\U0010ffff", "\uffff", "\u07ff", "\x7f"]
    fitting = True
    while fitting:
        fitting = False
        for letter in lasts:
            if len((group + letter).encode()) <= 1024:
                group, fitting = group + letter, True
                break
    return group


@pytest.mark.parametrize("letter", LETTERS, ids=["1", "2", "3", "4"])
def test_behind_a_group_of_any_length_is_its_last_possible_key(letter):
    for size in range(1, 1025):
        group = padded(letter, size)
        assert len(behind(group).encode()) == 1024
        assert behind(group) == last_of(group)
        assert behind(group) < group[:-1] + chr(ord(group[-1]) + 1)


@pytest.mark.parametrize("delimiter", ["/", "ab", "€", "\U0001f600//"])
def test_a_listing_shows_each_long_group_once(delimiter):
    width = len(delimiter.encode())
    groups = [padded("c", size - width) + delimiter for size in range(1010, 1025)]
    keys = [group + tail for group in groups for tail in ("", "\x01", "\x7f", "\u07ff", "\uffff")]
    keys = [key for key in keys if len(key.encode()) <= 1024] + ["a", "x"]
    mirror = Mirror(Memory())
    mirror.add_bucket("b", 0)
    for key in keys:
        mirror.record("b", Entry(key))
    mirror.complete("b", Scope("", True, 0, 0))
    local = Local(mirror, Places(), cast("ListedAccount", None))
    expected = [("keys", "a"), *(("groups", group) for group in sorted(groups)), ("keys", "x")]
    for most in (1, 2, 1000):
        assert walked(local, {"Bucket": "b", "Delimiter": delimiter, "MaxKeys": most}) == expected


def walked(local: Local, asked: dict[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    marker: dict[str, str] = {}
    for _ in range(30):
        answer = local.keys(asked | marker)
        assert answer is not None
        page = [("keys", item["Key"]) for item in answer.get("Contents", [])]
        page += [("groups", item["Prefix"]) for item in answer.get("CommonPrefixes", [])]
        found += sorted(page, key=lambda each: each[1])
        if not answer["IsTruncated"]:
            return found
        marker = {"Marker": answer["NextMarker"]}
    raise AssertionError(f"no end: {found}")
