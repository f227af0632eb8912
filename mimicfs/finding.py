"""A finding of a check (`mimicfs doctor`): a value."""

from __future__ import annotations

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Finding(NamedTuple):
    """*advice* is what to do about it; empty where there is nothing to do."""

    name: str  # what was checked: "clock", "store"
    result: str  # OK, WARN: works, and somebody should know; FAIL: will not work
    found: str
    advice: str = ""
