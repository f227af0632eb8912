"""Times, sizes and names as people read them, wherever they are shown."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(ns: int) -> str:
    """Return a time in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")


def number_of(count: int, thing: str, more: str = "") -> str:
    """Return a count as people read it: 1 key, 2,000 keys. *more*: the plural, if it is no s."""
    return f"{count:,} {thing if count == 1 else more or f'{thing}s'}"


def amount(size: float) -> str:
    """Return a number of bytes as people read it: 12 B, 3.4 MiB."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def bytes_a_second(text: str) -> str:
    """Return a limit in bytes a second as people read it: 1.0 MiB/s, 08:00=1.0 MiB/s 18:00=off."""
    steps = [step.rpartition("=") for step in text.split()]
    return " ".join(
        f"{time}{equals}{f'{amount(float(rate))}/s' if rate.isdecimal() else rate}"
        for time, equals, rate in steps
    )


def printable(text: str) -> str:
    """Escape characters that a terminal may take as a command, or a browser as a change of the
    direction of writing: a key may hold anything."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def duration(seconds: float) -> str:
    """Return a time as people read it: 12 s, 3 min, 5.0 h, 7.2 days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 86400 else f"{seconds / 86400:.1f} days"


def ago(then_ns: int, now_ns: int) -> str:
    """Return how long ago something was: 12 s ago, 3 min ago."""
    return f"{duration(max(0, now_ns - then_ns) / 1e9)} ago"
