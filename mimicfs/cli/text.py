"""Values in the form in which people read and write them."""

from __future__ import annotations

from datetime import datetime

from mimicfs.entry import clamped_ns
from mimicfs.errors import ConfigError
from mimicfs.human import printable


def one_line(exc: Exception) -> str:
    """Return the text of *exc*, which may name keys, in one line."""
    return printable(" ".join(str(exc).split("\n")))


def human_size(size: int) -> str:
    """Return a size as `du -h` writes it: rounded up, units of 1024."""
    if size < 1024:
        return str(size)
    units = "KMGTPE"
    power = min((size.bit_length() - 1) // 10, len(units))
    tenths = -(-size * 10 // (1 << (10 * power)))
    if tenths >= 10_240 and power < len(units):
        power, tenths = power + 1, 10
    letter = units[power - 1]
    return (
        f"{tenths // 10}.{tenths % 10}{letter}" if tenths < 100 else f"{-(-tenths // 10)}{letter}"
    )


def number_text(number: float) -> str:
    """Return a number as people write it, with all its digits: 1234567, 0.5."""
    return str(int(number)) if number == int(number) else repr(number)


def parse_time(option: str, text: str) -> int:
    """Return the ns of an ISO 8601 date or time; it is in UTC if it names no zone. Raises
    ConfigError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f"{option} {text}: write a date or a time, as 2024-12-31T18:00") from exc
    return clamped_ns(at)
