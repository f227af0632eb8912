"""The keys that mimicfs makes in a bucket and deletes again, beside those of its users: to try what
a server does, to check its events, and to upload a file with holes.

    .mimicfs-RANDOM             conditions are tried with it (conditions.py, history/nullmarkers.py)
    .mimicfs-RANDOM/, .../a     directories are (vfs/markers.py, deleting.py)
    .mimicfs-check-RANDOM       `mimicfs events check`
    .mimicfs-doctor-RANDOM...   `mimicfs doctor --write` (examine.py), with suffixes
    .mimicfs-zeros-RANDOM       zeros, from which holes are copied (files/zeros.py)

A mount shows none of them. Objects of the first kind are not even in the mirror (entry.py), unless
they were left behind.

Pure but for the random numbers.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal

from mimicfs.entry import DAY_S, KEY_MAX, OWN, TRIAL_MAX_S, name_of

_SUFFIX = "-sum|-many-[12]|-copy|-parts|-small|-sizes|-d|-odd-[^/]*"  # as scratch.py makes them
_NAME = (
    rf"\.mimicfs-([0-9a-f]{{32}}|(zeros|check)-[0-9a-f]{{16}}|doctor-[0-9a-f]{{16}}({_SUFFIX})?)"
)
_OWN = re.compile(_NAME, re.DOTALL)
_IN_DIRECTORY = re.compile(r"\.mimicfs-([0-9a-f]{32}/a?|doctor-[0-9a-f]{16}-d/x?)")
_TRIED = re.compile(r"\.mimicfs-[0-9a-f]{32}(/a?)?")
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


def needed_s(key: str) -> float | None:
    """Return how long after it was made somebody may still need the object *key*, which mimicfs has
    certainly made; None: it has not. What a capability is found by must not vanish meanwhile: the
    result is remembered. `doctor` and `events check` only say that something failed."""
    if OWN not in key:
        return None
    name = key[key.rfind("/", 0, key.rfind("/")) + 1 :]  # its last two parts
    if not _IN_DIRECTORY.fullmatch(name):
        name = name_of(key)
        if not _OWN.fullmatch(name):
            return None
    if is_zeros(name):
        return DAY_S  # longer than any file takes to upload
    return TRIAL_MAX_S if _TRIED.fullmatch(name) else 0.0


def is_zeros(key: str) -> bool:
    """Whether *key* is of an object of zeros."""
    return _ZEROS.fullmatch(name_of(key)) is not None
