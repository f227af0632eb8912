"""The times in the XML of answers, in whatever form.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import parsedate_to_datetime

from mimicfs.entry import NS, TIME_MAX_NS, clamped_ns

_IN_SECONDS = re.compile(r"\d{9,11}(\.\d+)?").fullmatch


def time_ns(text: str) -> int:
    """Return the ns of a time as XML writes it, or HTTP, or in seconds since 1970; 0: it is not
    known, as of an object without a time."""
    try:
        return clamped_ns(datetime.fromisoformat(text.upper()))
    except ValueError:
        return _odd_time_ns(text)


def _odd_time_ns(text: str) -> int:
    if _IN_SECONDS(text):
        return min(int(text.partition(".")[0]) * NS, TIME_MAX_NS)
    try:
        return clamped_ns(parsedate_to_datetime(text))
    except ValueError:
        return 0
