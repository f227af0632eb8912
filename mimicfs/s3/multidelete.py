"""The result of delete_keys, under the name where boto has it."""

from __future__ import annotations

from mimicfs.s3.versions import DeletedKey, Error, MultiDeleteResult

Deleted = DeletedKey

__all__ = ["Deleted", "DeletedKey", "Error", "MultiDeleteResult"]
