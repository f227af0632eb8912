"""How values are shown to people."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(ns: int) -> str:
    """Return a time in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")


def printable(text: str) -> str:
    """Escape what a terminal may take as a command: a key may hold anything."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def one_line(exc: Exception) -> str:
    """Return what *exc* says, in one line."""
    return " ".join(str(exc).split("\n"))


def amount(size: float) -> str:
    """Return a number of bytes as people read it: 12 B, 3.4 MiB."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time as people read it: 12 s, 3 min, 5.0 h, 7.2 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 86400 else f"{seconds / 86400:.1f} days"
