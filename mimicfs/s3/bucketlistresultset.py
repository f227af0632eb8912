"""The results of listings, under the name where boto has them."""

from __future__ import annotations

from mimicfs.s3.resultset import BucketListResultSet

__all__ = ["BucketListResultSet"]
