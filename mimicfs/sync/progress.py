"""The progress of a sync, and its findings."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from mimicfs.entry import NS, Difference


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a sync. `as_dict` has the fields, and what follows from them."""

    bucket: str
    prefix: str
    started_ns: int
    keys: int = 0  # listed so far
    pages: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    held: int = 0  # deletions that are held back until the guard lets them
    ranges: int = 0  # that are being listed now
    expected: int | None = None  # keys, from what the mirror had before; None: not known
    resumed: bool = False  # it goes on where an interrupted sync ended
    at_ns: int = 0  # the time of these figures

    @property
    def keys_per_s(self) -> float:
        """How many keys were listed a second, since the sync began."""
        return self.keys * NS / max(1, (self.at_ns or self.started_ns) - self.started_ns)

    @property
    def left_s(self) -> float | None:
        """About how much longer it takes; None: not known."""
        if not self.expected or not self.keys:
            return None
        return max(0, self.expected - self.keys) / self.keys_per_s

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        return {**asdict(self), "keys_per_s": self.keys_per_s, "left_s": self.left_s}

    def further(self, difference: Difference, keys: int, held: int, ranges: int) -> Progress:
        """Return the progress after one more page."""
        return replace(
            self,
            keys=self.keys + keys,
            pages=self.pages + 1,
            added=self.added + len(difference.added),
            changed=self.changed + len(difference.changed),
            deleted=self.deleted + len(difference.deleted),
            unchanged=self.unchanged + difference.unchanged,
            held=held,
            ranges=ranges,
            at_ns=time.time_ns(),
        )


class Report(NamedTuple):
    """The findings of a sync of *prefix* of *bucket*: *keys* were listed, in *pages* (a LIST each).
    *added*, *changed*, *deleted* and *unchanged* are keys of the mirror; times are ns. *error* is
    empty, or says why the sync ended early."""

    bucket: str
    prefix: str
    started_ns: int
    duration_ns: int
    keys: int
    pages: int
    added: int
    changed: int
    deleted: int
    unchanged: int
    error: str = ""
    resumed: bool = False  # the keys and changes are those since the interruption


def report_of(so_far: Progress, error: str = "") -> Report:
    """Return the report of a sync that has ended at *so_far*."""
    return Report(
        so_far.bucket,
        so_far.prefix,
        so_far.started_ns,
        time.time_ns() - so_far.started_ns,
        so_far.keys,
        so_far.pages,
        so_far.added,
        so_far.changed,
        so_far.deleted,
        so_far.unchanged,
        error,
        so_far.resumed,
    )
