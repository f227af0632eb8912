"""The waits before a request that S3 throttled or lost is sent again."""

from __future__ import annotations

import random

RETRIED = frozenset({429, 500, 502, 503, 504})  # statuses


def backoff_s(attempt: int) -> float:
    """Return the seconds to wait after *attempt* (from 0) failed: twice as long each time, up
    to 5, with jitter so that clients which failed together do not return together."""
    return float(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))
