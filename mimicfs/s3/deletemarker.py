"""DeleteMarker, in a module of boto's name."""

from __future__ import annotations

from mimicfs.s3.versions import DeleteMarker

__all__ = ["DeleteMarker"]
