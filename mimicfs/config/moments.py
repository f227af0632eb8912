"""A moment, as people write it: a date, a time, or how long ago. Pure functions."""

from __future__ import annotations

import re
from datetime import datetime

from mimicfs.entry import NS, PERIODS_S, clamped_ns
from mimicfs.errors import ConfigError

_AGO = r"-((?:\d+[smhdw])+)"
_FORMS = "write 2026-11-01T18:00 (UTC), 2026-11-01T18:00+01:00, -2h, -1d12h or yesterday"


def parse_moment(text: str, now_ns: int) -> int:
    """Return the ns of the moment that *text* means: a date or time of ISO 8601, in UTC if it names
    no zone; `-2h`, so long before *now_ns*; `yesterday`, 24 hours before; `now`. Raises
    ConfigError, also for a moment in the future."""
    word = text.strip()
    if word == "now":
        return now_ns
    word = "-24h" if word == "yesterday" else word
    ago = re.fullmatch(_AGO, word)
    try:
        moment_ns = (
            now_ns - _seconds(ago[1]) * NS if ago else clamped_ns(datetime.fromisoformat(word))
        )
        if moment_ns < 0:
            raise ValueError("before 1970")
    except (ValueError, OverflowError) as exc:
        raise ConfigError(f"{text}: not a moment; {_FORMS}") from exc
    if moment_ns > now_ns:
        raise ConfigError(f"{text}: is in the future")
    return moment_ns


def _seconds(text: str) -> int:
    return sum(int(number) * PERIODS_S[unit] for number, unit in re.findall(r"(\d+)(\D)", text))
