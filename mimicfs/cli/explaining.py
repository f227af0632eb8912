"""The explanation of a key: the settings with which its object is stored, and the place each comes
from. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mimicfs import metadata
from mimicfs.config.settled import Settled, plain, shown
from mimicfs.config.written import in_toml, plain_of_rule
from mimicfs.entry import name_of


class Said(NamedTuple):
    """A value, as itself and in TOML, and the place it comes from."""

    value: Any
    shown: str
    origin: str


def explained(settled: Settled, bucket: str, key: str) -> dict[str, list[Said]]:
    """Return, by the name of the setting, the value that holds for *key*, and behind it the values
    that it overrides."""
    found: dict[str, list[Said]] = {}
    for name, said in _from_weakest(settled, bucket, key):
        if said.value not in ("", {}) or name in found:
            found.setdefault(name, []).insert(0, said)
    return found


def _from_weakest(settled: Settled, bucket: str, key: str) -> Iterator[tuple[str, Said]]:
    guess = metadata.content_type(name_of(key))
    yield "content-type", Said(guess, in_toml(guess), "guessed from the name")
    for name, given in settled.of_bucket(bucket).items():
        yield name, Said(plain(name, given), shown(name, given), given.origin)
    for rule in settled.rules_of(bucket):
        if rule.matches(key):
            origin = f"{rule.origin}: keys = {', '.join(map(in_toml, rule.patterns))}"
            for name, value in rule.said.items():
                said = plain_of_rule(value)
                yield name.replace("_", "-"), Said(said, in_toml(said), origin)
