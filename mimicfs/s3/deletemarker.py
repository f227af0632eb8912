"""Where boto has DeleteMarker."""

from __future__ import annotations

from mimicfs.s3.versions import DeleteMarker

__all__ = ["DeleteMarker"]
