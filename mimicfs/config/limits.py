"""Limits of speed by the time of day, and prices of requests. Pure.

10M                        10 MiB a second
08:00=1M 18:00=off         from 8:00 to 18:00 1 MiB a second, else as fast as it goes
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mimicfs.config.sizes import parse_size
from mimicfs.errors import ConfigError

CHANGEABLE = ("download-limit", "upload-limit", "request-rate", "max-requests-per-day")
_OFF = ("off", "0", "no")
# Below these limits, one request, or the least piece of one, would hold up others for long: a mount
# would look dead.
_BYTES_LEAST = 4 << 10  # a second
_REQUESTS_LEAST = 0.1  # a second
_AT = r"([01]?\d|2[0-3]):([0-5]\d)=(\S+)"
_CURRENCY = "USD"
FREE = frozenset({"DELETE"})
PUT_CLASS = frozenset({"PUT", "POST", "COPY", "LIST"})


class LimitStep(NamedTuple):
    """The bytes a second from this minute of the day on; 0: any number."""

    minute: int
    bytes_per_s: int


Limit = tuple[LimitStep, ...]  # in order of time; the last one holds until the first


def parse_limit(text: str) -> Limit:
    """Return the limit that *text* means. Raises ConfigError."""
    words = text.split()
    if len(words) == 1 and "=" not in text:
        rate = _rate(text, text)
        return (LimitStep(0, rate),) if rate else ()
    steps = []
    for word in words:
        found = re.fullmatch(_AT, word)
        if found is None:
            raise ConfigError(f"{text}: not a limit; write 10M, off, or 08:00=1M 18:00=off")
        steps.append(LimitStep(int(found[1]) * 60 + int(found[2]), _rate(found[3], text)))
    return tuple(sorted(steps))


def _rate(word: str, text: str) -> int:
    if word.lower() in _OFF:
        return 0
    try:
        rate = parse_size(word)
    except ConfigError as exc:
        raise ConfigError(f"{text}: not a limit; write 10M, off, or 08:00=1M 18:00=off") from exc
    if 0 < rate < _BYTES_LEAST:
        raise ConfigError(
            f"{text}: too slow; the minimum is 4K (bytes per second); off is no limit"
        )
    return rate


def parse_request_rate(text: str) -> float:
    """Return the requests a second that *text* says; 0: any number. Raises ConfigError."""
    rate = _number(text)
    if 0 < rate < _REQUESTS_LEAST:
        raise ConfigError(
            f"{text}: too slow; the minimum is 0.1 (a request in 10 s); 0 is no limit"
        )
    return rate


def parse_per_day(text: str) -> int:
    """Return the requests a day that *text* says; 0: any number. Raises ConfigError."""
    number = _number(text)
    if number != int(number):
        raise ConfigError(f"{text}: not a whole number of requests; 0 or off is no limit")
    return int(number)


def _number(text: str) -> float:
    try:
        number = 0.0 if text.lower() in _OFF else float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{text}: not a number; 0 or off is no limit")
    return number


def limit_at(limit: Limit, minute: int) -> int:
    """Return how many bytes a second *limit* allows at *minute* of the day; 0: any number."""
    before = [step for step in limit if step.minute <= minute] or list(limit)
    return before[-1].bytes_per_s if before else 0


def limit_text(limit: Limit) -> str:
    """Return *limit* in the form in which it is written."""
    if not limit:
        return "off"
    if limit[0].minute == 0 and len(limit) == 1:
        return str(limit[0].bytes_per_s)
    return " ".join(
        f"{step.minute // 60:02}:{step.minute % 60:02}={step.bytes_per_s or 'off'}"
        for step in limit
    )


class Prices(NamedTuple):
    """The prices of S3: for a thousand requests of each class, and for a GiB that leaves S3."""

    put: float = 0.0  # PUT, COPY, POST, LIST
    get: float = 0.0  # GET and all others; DELETE is free
    out: float = 0.0
    currency: str = _CURRENCY

    def of(self, requests: dict[str, int], bytes_in: int = 0) -> float:
        """Return the cost of *requests*, by kind, and of the bytes that came in."""
        classes = by_class(requests)
        asked = classes["put"] * self.put + classes["get"] * self.get
        return asked / 1000 + bytes_in / (1 << 30) * self.out


def by_class(requests: dict[str, int]) -> dict[str, int]:
    """Return how many of *requests*, by kind, are of each price class."""
    found = {"put": 0, "get": 0, "free": 0}
    for kind, count in requests.items():
        found["free" if kind in FREE else "put" if kind in PUT_CLASS else "get"] += count
    return found


def parse_prices(text: str) -> Prices | None:
    """Return the prices in *text*, "put=0.005 get=0.0004 out=0.09 currency=USD"; None: none
    are given. Raises ConfigError."""
    said = dict(word.partition("=")[::2] for word in text.split())
    if not said:
        return None
    currency = said.pop("currency", _CURRENCY)
    try:
        numbers = {name: float(value) for name, value in said.items()}
        prices = Prices(**numbers, currency=currency)
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"{text}: not a list of prices; write put=0.005 get=0.0004 (for 1,000) out=0.09 (a GiB)"
        ) from exc
    if any(not 0 <= number < float("inf") for number in numbers.values()):
        raise ConfigError(f"{text}: a price is a number, 0 or more")
    return prices
