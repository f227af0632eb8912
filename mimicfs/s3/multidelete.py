"""The result of delete_keys, in a module of boto's name."""

from __future__ import annotations

from mimicfs.s3.versions import DeletedKey, Error, MultiDeleteResult

Deleted = DeletedKey

__all__ = ["Deleted", "DeletedKey", "Error", "MultiDeleteResult"]
