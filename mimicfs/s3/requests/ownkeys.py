"""The keys that mimicfs makes in a bucket and deletes again, beside those of its users: to try what
a server does, to check its events, and to upload a file with holes.

    .mimicfs-RANDOM             conditions are tried with it (conditions.py, history/nullmarkers.py)
    .mimicfs-check-RANDOM       `mimicfs events check`
    .mimicfs-doctor-RANDOM...   `mimicfs doctor --write` (examine.py), with suffixes
    .mimicfs-zeros-RANDOM       zeros, from which holes are copied (files/zeros.py)

A mount shows none of them. The first kind is not even in the mirror (entry.py), unless it was left
behind.

Pure but for the random numbers.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal

from mimicfs.entry import KEY_MAX, OWN, name_of

_OWN = re.compile(
    r"\.mimicfs-([0-9a-f]{32}|(zeros|check)-[0-9a-f]{16}|doctor-[0-9a-f]{16}[^/]*)", re.DOTALL
)
_ZEROS = re.compile(r"\.mimicfs-zeros-[0-9a-f]{16}")


def own_name(kind: Literal["", "check", "doctor", "zeros"] = "") -> str:
    """Return a new name, which nobody else has."""
    return f"{OWN}{kind}-{secrets.token_hex(8)}" if kind else OWN + secrets.token_hex(16)


def own_key_beside(key: str) -> str:
    """Return a new key beside *key*: an account that may write that one may write this one."""
    name = own_name()
    beside = key[: key.rfind("/") + 1] + name
    return beside if len(beside.encode()) <= KEY_MAX else name


def is_own(key: str) -> bool:
    """Whether mimicfs made *key*, or the marker of a directory of that name."""
    return OWN in key and _OWN.fullmatch(name_of(key.rstrip("/"))) is not None


def is_zeros(key: str) -> bool:
    """Whether *key* is of an object of zeros."""
    return _ZEROS.fullmatch(name_of(key)) is not None
