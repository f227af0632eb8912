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
