"""The scopes of a bucket that remain when a part of it is not certain any more. Pure functions.

A deep scope above that part becomes what is still true of it: the directories on the way are known
themselves, and so are their other subdirectories with all below. A directory on the way that does
not show the next one is not known: whether that is there is not certain either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from mimicfs.entry import Scope

# How many names of a directory on the way are looked at. Subdirectories behind them no longer count
# as listed: a scope for each would cost more than to list them at their first look.
LEFT_MAX = 1000


def prefixes_of(directory: str) -> list[str]:
    """Return the prefixes of which a scope may cover *directory*, its own last."""
    cuts = [n + 1 for n, letter in enumerate(directory) if letter == "/"]
    return ["", *(directory[:cut] for cut in cuts)]


def uncovered(
    prefix: str,
    scopes: Callable[[Sequence[str]], Mapping[str, Scope]],
    names: Callable[[str], Sequence[str]],
    shows: Callable[[str], bool],
) -> dict[str, Scope | None]:
    """Return what becomes (None: it goes) of the scopes that are not at or below *prefix*, so that
    none of them covers it. *scopes* returns those that there are of some prefixes; *names* the keys
    of the first LEFT_MAX children of a directory; *shows* whether anything begins with a prefix."""
    way = prefixes_of(prefix)
    known = scopes(way[:-1])
    after: dict[str, Scope | None] = {}
    deep: Scope | None = None  # the newest that covers all below the directory
    for directory, step in pairwise(way):
        own = known.get(directory)
        if own is not None and own.deep:
            deep = own if deep is None else max(deep, own, key=_time)
        shown = shows(step)
        if own is not None and (own.deep or not shown):
            after[directory] = None
        if deep is None:
            continue
        if shown:
            listed_ns = deep.listed_ns if own is None else max(deep.listed_ns, own.listed_ns)
            after[directory] = Scope(directory, False, listed_ns)
        others = [each for each in names(directory) if each.endswith("/") and each != step]
        own_of = scopes(others)
        for each in others:
            if each not in own_of or own_of[each].listed_ns <= deep.listed_ns:
                after[each] = Scope(each, True, deep.listed_ns)
    return after


def _time(scope: Scope) -> int:
    return scope.listed_ns
