"""The place of a mount."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mimicfs.fuse.handed import Handed


class MountPlace(NamedTuple):
    """Where a mount is to be; *handed*: the descriptor that was named instead of a directory."""

    mountpoint: Path
    handed: Handed | None
