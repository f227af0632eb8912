"""The lines of a change in the log of a bucket, and the keys that a log leaves alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mimicfs.entry import Change

# An `apply` of more changes than this writes one wide line into the log instead of one a key.
WIDE_CHANGE = 100


def left_alone(changes: Iterable[Change], keys: Sequence[str]) -> set[str]:
    """Return the *keys* that *changes* are about: `apply` with *since* leaves them alone."""
    low, high = min(keys, default=""), max(keys, default="")
    near = [change for change in changes if change.first <= high and change.last >= low]
    if not near:  # as nearly always
        return set()
    single = {change.first for change in near if change.first == change.last}
    wide = [(change.first, change.last) for change in near if change.first < change.last]
    return {
        key for key in keys if key in single or any(first <= key <= last for first, last in wide)
    }


def logged_as(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first and the last key of each line of the log for a change of *keys*."""
    return [(min(keys), max(keys))] if len(keys) > WIDE_CHANGE else [(key, key) for key in keys]
