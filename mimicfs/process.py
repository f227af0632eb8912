"""The MimicDB of this process: the one that was made last, as MimicDB's documentation has it.

The only state at module level. Nothing in the mount reads it; the boto-shaped classes and
`mimicfs.mimic` do, where they are not given a MimicDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimicfs.errors import ConfigError

if TYPE_CHECKING:
    from mimicfs.library import MimicDB

_current: list[MimicDB] = []


def use(mimicdb: MimicDB) -> None:
    """Make *mimicdb* the one of this process."""
    _current[:] = [mimicdb]


def current() -> MimicDB:
    """Return the MimicDB of this process. Raises ConfigError if none was made."""
    if not _current:
        raise ConfigError("no MimicDB yet: call MimicDB() first, or pass one as mimicdb=")
    return _current[0]
