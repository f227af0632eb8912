"""The results of deletions and of listings of versions, as boto has them."""

from __future__ import annotations

from typing import Any, NamedTuple

from mimicfs.s3.boto2 import listed_time


class DeletedKey(NamedTuple):
    """A key that delete_keys deleted."""

    key: str
    version_id: str | None = None
    delete_marker: bool = False
    delete_marker_version_id: str | None = None

    @classmethod
    def of(cls, item: Any) -> DeletedKey:
        return cls(
            item["Key"],
            item.get("VersionId"),
            bool(item.get("DeleteMarker")),
            item.get("DeleteMarkerVersionId"),
        )


class Error(NamedTuple):
    """A key that delete_keys could not delete."""

    key: str
    version_id: str | None
    code: str
    message: str

    @classmethod
    def of(cls, item: Any) -> Error:
        return cls(
            item.get("Key", ""),
            item.get("VersionId"),
            item.get("Code", ""),
            item.get("Message", ""),
        )


class MultiDeleteResult:
    """The result of delete_keys: *deleted* and *errors*."""

    def __init__(self, bucket: Any = None) -> None:
        self.bucket = bucket
        self.deleted: list[DeletedKey] = []
        self.errors: list[Error] = []


class DeleteMarker:
    """A place in a listing of versions at which the key was deleted."""

    def __init__(self, bucket: Any = None, name: str | None = None) -> None:
        self.bucket = bucket
        self.name = name
        self.version_id: str | None = None
        self.is_latest = False
        self.last_modified: str | None = None

    @classmethod
    def of(cls, bucket: Any, item: Any) -> DeleteMarker:
        marker = cls(bucket, item["Key"])
        marker.version_id = item.get("VersionId")
        marker.is_latest = bool(item.get("IsLatest"))
        if item.get("LastModified"):
            marker.last_modified = listed_time(item["LastModified"])
        return marker
