"""Numbers of bytes, as people write them. Pure."""

from __future__ import annotations

from mimicfs.errors import ConfigError

MIB = 1 << 20
SMALL = 64 << 10  # an object up to this is sent, or fetched, together with others


def parse_size(text: str) -> int:
    """Return how many bytes *text* means: 500, 64K, 512M, 20G, 1T (units of 1024). Raises
    ConfigError."""
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), 1
    if number and number[-1] in "KMGT":
        unit = 1 << 10 * ("KMGT".index(number[-1]) + 1)
        number = number[:-1]
    try:
        size = int(float(number) * unit)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise ConfigError(f"{text}: not a size; write 500M, 20G, or a number of bytes")
    return size
