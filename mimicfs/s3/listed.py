"""The part of a boto-shaped Bucket that lists keys, versions and unfinished uploads: one page, or
all of them page by page.

Threading: as its connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from mimicfs.s3.boto2 import Headers, ask, params_of
from mimicfs.s3.key import Key
from mimicfs.s3.mimicking.mimic import mimicking_of
from mimicfs.s3.multipart import MultiPartUpload
from mimicfs.s3.prefix import Prefix
from mimicfs.s3.resultset import BucketListResultSet, ResultSet
from mimicfs.s3.versions import DeleteMarker

_COMMON = frozenset({"prefix", "delimiter", "encoding_type"})
_LIST_PARAMS = _COMMON | {"marker", "max_keys", "maxkeys"}
_VERSION_PARAMS = _COMMON | {"key_marker", "version_id_marker", "max_keys"}
_UPLOAD_PARAMS = _COMMON | {"key_marker", "upload_id_marker", "max_uploads"}


class Listed:
    """The listings of a bucket. They come in the order of S3: that of the bytes of keys in
    UTF-8."""

    def __init__(self, connection: Any, name: str, key_class: type[Key]) -> None:
        self.connection = connection
        self.name = name
        self.key_class = key_class

    def ask(self, operation: str, force: bool | None = None, **params: Any) -> Any:
        """Return the answer of S3, or of the mirror, to boto3's *operation* on this bucket, with
        the other parameters of boto3."""
        return ask(self.connection.client, operation, force, Bucket=self.name, **params)

    # Listings

    def list(
        self,
        prefix: str = "",
        delimiter: str = "",
        marker: str = "",
        headers: Headers | None = None,
        encoding_type: str | None = None,
        force: bool | None = None,
    ) -> BucketListResultSet[Any]:
        """Return all Keys that begin with *prefix* and come behind *marker*, page by page as they
        are read; with *delimiter*, a Prefix stands for the keys that have it behind *prefix*."""

        def pages() -> Iterator[ResultSet]:
            place = marker
            while True:
                page = self.get_all_keys(
                    headers, prefix=prefix, delimiter=delimiter, marker=place, force=force
                )
                yield page
                if not page.is_truncated:
                    return
                place = page.next_marker or page[-1].name

        return BucketListResultSet(pages)

    def get_all_keys(
        self, headers: Headers | None = None, force: bool | None = None, **params: Any
    ) -> ResultSet:
        """Return a page: Keys, then Prefixes. The parameters are *prefix*, *delimiter*, *marker*,
        *max_keys* (S3's 1,000)."""
        _check("get_all_keys", params, _LIST_PARAMS)
        most = params.get("max_keys", params.get("maxkeys"))
        asked = {
            "Prefix": params.get("prefix") or "",
            "Delimiter": params.get("delimiter") or "",
            "Marker": params.get("marker") or "",
        } | ({"MaxKeys": int(most)} if most is not None else {})
        answer = None
        if not force and not headers:
            mimicking = mimicking_of(self.connection.client)
            answer = mimicking.keys({"Bucket": self.name, **asked})
        if answer is None:
            plain = {name: value for name, value in asked.items() if value != ""}
            answer = self.ask("list_objects", force, **plain, **params_of(headers))
        return self._page(answer)

    def _page(self, answer: Any) -> ResultSet:
        page = ResultSet()
        for item in answer.get("Contents", ()):
            key = self.key_class(self, item["Key"])
            key.take_listed(item)
            page.append(key)
        page += [Prefix(self, item["Prefix"]) for item in answer.get("CommonPrefixes", ())]
        page.is_truncated = answer["IsTruncated"]
        page.next_marker = answer.get("NextMarker")
        return page

    # Versions

    def list_versions(
        self,
        prefix: str = "",
        delimiter: str = "",
        key_marker: str = "",
        version_id_marker: str = "",
        headers: Headers | None = None,
        encoding_type: str | None = None,
    ) -> BucketListResultSet[Any]:
        """Return all versions of keys (Key), and DeleteMarkers, page by page as they are read: in
        the order of names, the newest first."""

        def pages() -> Iterator[ResultSet]:
            key, version = key_marker, version_id_marker
            while True:
                page = self.get_all_versions(
                    headers,
                    prefix=prefix,
                    delimiter=delimiter,
                    key_marker=key,
                    version_id_marker=version,
                )
                yield page
                if not page.is_truncated:
                    return
                key, version = page.next_key_marker or "", page.next_version_id_marker or ""

        return BucketListResultSet(pages)

    def get_all_versions(self, headers: Headers | None = None, **params: Any) -> ResultSet:
        """Return a page of versions. The parameters are *prefix*, *delimiter*, *key_marker*,
        *version_id_marker*, *max_keys*."""
        asked = _asked("get_all_versions", params, _VERSION_PARAMS)
        answer = self.ask("list_object_versions", **asked, **params_of(headers))
        page = ResultSet()
        for item in answer.get("Versions", ()):
            key = self.key_class(self, item["Key"])
            key.take_listed(item)
            page.append(key)
        page += [DeleteMarker.of(self, item) for item in answer.get("DeleteMarkers", ())]
        page.sort(key=lambda item: item.name)  # of one name, the newest version stays first
        page += [Prefix(self, item["Prefix"]) for item in answer.get("CommonPrefixes", ())]
        page.is_truncated = answer["IsTruncated"]
        page.next_key_marker = answer.get("NextKeyMarker")
        page.next_version_id_marker = answer.get("NextVersionIdMarker")
        return page

    # Unfinished uploads

    def get_all_multipart_uploads(self, headers: Headers | None = None, **params: Any) -> ResultSet:
        """Return a page of unfinished uploads. The parameters are *max_uploads*, *key_marker*,
        *upload_id_marker*, *prefix*, *delimiter*."""
        asked = _asked("get_all_multipart_uploads", params, _UPLOAD_PARAMS)
        answer = self.ask("list_multipart_uploads", **asked, **params_of(headers))
        page = ResultSet(MultiPartUpload.of(self, item) for item in answer.get("Uploads", ()))
        page += [Prefix(self, item["Prefix"]) for item in answer.get("CommonPrefixes", ())]
        page.is_truncated = answer.get("IsTruncated", False)
        page.next_key_marker = answer.get("NextKeyMarker")
        page.next_upload_id_marker = answer.get("NextUploadIdMarker")
        return page

    def list_multipart_uploads(
        self,
        key_marker: str = "",
        upload_id_marker: str = "",
        headers: Headers | None = None,
        encoding_type: str | None = None,
    ) -> BucketListResultSet[MultiPartUpload]:
        """Return all unfinished uploads, page by page as they are read."""

        def pages() -> Iterator[ResultSet]:
            key, upload = key_marker, upload_id_marker
            while True:
                page = self.get_all_multipart_uploads(
                    headers, key_marker=key, upload_id_marker=upload
                )
                yield page
                if not page.is_truncated:
                    return
                key, upload = page.next_key_marker or "", page.next_upload_id_marker or ""

        return BucketListResultSet(pages)


def _asked(method: str, params: Mapping[str, Any], known: Set[str]) -> dict[str, Any]:
    """Return *params*, of boto's *method*, in the form of boto3: KeyMarker for key_marker. (Keys
    come decoded in any case.) Raises TypeError."""
    _check(method, params, known)
    return {
        name.title().replace("_", ""): value
        for name, value in params.items()
        if value and name != "encoding_type"
    }


def _check(method: str, params: Mapping[str, Any], known: Set[str]) -> None:
    """Raise TypeError, as Python does, if *method* lacks one of *params*."""
    if unknown := params.keys() - known:
        raise TypeError(f"{method} has no parameter {min(unknown)}")
