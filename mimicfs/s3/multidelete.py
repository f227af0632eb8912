"""Where boto has what delete_keys returns."""

from __future__ import annotations

from mimicfs.s3.versions import DeletedKey, Error, MultiDeleteResult

Deleted = DeletedKey

__all__ = ["Deleted", "DeletedKey", "Error", "MultiDeleteResult"]
