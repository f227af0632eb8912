"""Rules by pattern: the settings with which objects are stored, by their keys. Pure; no state.

    [[buckets.photos.rules]]
    keys = ["*.jpg", "raw/**"]
    storage-class = "STANDARD_IA"
    tags = { team = "web" }

A pattern without "/" is about the last component of a key, in any directory; a pattern with "/" is
about the whole key. "*", "?" and "[a-z]" match within a component; "**" matches any number of
components.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mimicfs.entry import name_of

ANY_DEPTH = "**"


class Stored(NamedTuple):
    """The settings with which an object is stored, unless its writer says otherwise; "": the rules
    say nothing."""

    storage_class: str = ""
    sse: str = ""
    kms_key_id: str = ""
    content_type: str = ""
    cache_control: str = ""
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A rule for keys that match one of *patterns*. *said* has its settings, by the names of
    Stored; *origin* is the place where the rule was written."""

    patterns: tuple[str, ...]
    said: Mapping[str, Any]
    origin: str

    def matches(self, key: str) -> bool:
        return any(matches(key, pattern) for pattern in self.patterns)

    def without(self, names: Iterable[str]) -> KeyRule:
        """Return this rule without the settings *names*."""
        gone = frozenset(names)
        left = {name: value for name, value in self.said.items() if name not in gone}
        return KeyRule(self.patterns, left, self.origin)


def matches(key: str, pattern: str) -> bool:
    """Whether *key* matches *pattern*."""
    if "/" not in pattern:
        return fnmatch.fnmatchcase(name_of(key), pattern)
    pattern = pattern.removeprefix("/")
    if pattern.endswith("/"):
        pattern += ANY_DEPTH
    return _below(tuple(key.split("/")), tuple(pattern.split("/")))


def _below(components: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether *components* match *patterns*. "**" may stand for no component, unless it is the last
    pattern: a directory is not below itself."""
    end = len(patterns)
    reached = {0}  # how many of the patterns have matched so far, in each way
    for component in components:
        _skip(reached, patterns)
        there = [at for at in reached if at < end]
        reached = {at for at in there if patterns[at] == ANY_DEPTH}
        if end - 1 in reached:
            reached.add(end)
        reached |= {
            at + 1
            for at in there
            if patterns[at] != ANY_DEPTH and fnmatch.fnmatchcase(component, patterns[at])
        }
    return end in reached


def _skip(reached: set[int], patterns: tuple[str, ...]) -> None:
    """Add to *reached* the places behind each "**" that stands for no component."""
    for at in range(len(patterns) - 1):
        if at in reached and patterns[at] == ANY_DEPTH:
            reached.add(at + 1)
