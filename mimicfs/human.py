"""Times and sizes as people read them, wherever they are shown."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(ns: int) -> str:
    """Return a time in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")


def number_of(count: int, thing: str) -> str:
    """Return a count as people read it: 1 key, 2,000 keys."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def amount(size: float) -> str:
    """Return a number of bytes as people read it: 12 B, 3.4 MiB."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
