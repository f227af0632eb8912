"""The errors of the boto-shaped classes, by boto's names and with its attributes.

Exception
  BotoClientError               reason
    StorageDataError            S3DataError: what arrived is not what was sent
    StoragePermissionsError     S3PermissionsError
  BotoServerError               status, reason, body; error_code, message, request_id
    StorageResponseError        S3ResponseError: S3 refused
    StorageCreateError          S3CreateError: a bucket could not be made; bucket
    StorageCopyError            S3CopyError
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree


class BotoClientError(Exception):
    """Something is wrong on this side."""

    def __init__(self, reason: str, *args: Any) -> None:
        super().__init__(reason, *args)
        self.reason = reason

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.reason}"


class BotoServerError(Exception):
    """S3 answered *status* (int) *reason*, with *body*: its XML, or "". `error_code`, `message`,
    `request_id`, `resource` and `bucket` are what the XML says, or None."""

    def __init__(self, status: int, reason: str, body: str | None = None, *args: Any) -> None:
        super().__init__(status, reason, body, *args)
        self.status = status
        self.reason = reason
        self.body = body or ""
        said = _said(self.body)
        self.error_code = said.get("Code")
        self.message = self.error_message = said.get("Message", "")
        self.request_id = said.get("RequestId")
        self.resource = said.get("Resource")
        self.bucket = said.get("BucketName")

    @property
    def code(self) -> str | None:
        """S3's error code; the same as `error_code`."""
        return self.error_code

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.status} {self.reason}\n{self.body}"

    def __repr__(self) -> str:
        return str(self)


class StorageResponseError(BotoServerError): ...


class S3ResponseError(StorageResponseError): ...


class StorageCreateError(BotoServerError): ...


class S3CreateError(StorageCreateError): ...


class StorageCopyError(BotoServerError): ...


class S3CopyError(StorageCopyError): ...


class StorageDataError(BotoClientError): ...


class S3DataError(StorageDataError): ...


class StoragePermissionsError(BotoClientError): ...


class S3PermissionsError(StoragePermissionsError): ...


def _said(body: str) -> dict[str, str]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return {}
    return {child.tag.rpartition("}")[2]: child.text or "" for child in root}
