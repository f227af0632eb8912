"""The results of listings, in a module of boto's name."""

from __future__ import annotations

from mimicfs.s3.resultset import BucketListResultSet

__all__ = ["BucketListResultSet"]
