"""Where boto has what listings return."""

from __future__ import annotations

from mimicfs.s3.resultset import BucketListResultSet

__all__ = ["BucketListResultSet"]
