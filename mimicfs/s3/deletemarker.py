"""DeleteMarker, under the name where boto has it."""

from __future__ import annotations

from mimicfs.s3.versions import DeleteMarker

__all__ = ["DeleteMarker"]
