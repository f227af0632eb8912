"""The base of the boto-shaped classes: how they ask, their errors, headers and times.

They follow boto 2.49 in their names, the order of arguments, and the values that they return and
raise. They stand on a mimicking boto3 client. A call that is left out raises NotImplementedError,
which names boto3's way.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from http.client import responses
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError, ParamValidationError

from mimicfs.entry import NS
from mimicfs.exception import (
    BotoServerError,
    S3CopyError,
    S3CreateError,
    S3DataError,
    S3PermissionsError,
    S3ResponseError,
)

Headers = Mapping[str, str]
# Called with the number of bytes that have gone, and the number of all bytes.
Callback = Callable[[int, int], Any]

# HTTP headers that a caller may give, each with boto3's name for it.
_PARAMS = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-md5": "ContentMD5",
    "content-type": "ContentType",
    "expires": "Expires",
    "if-match": "IfMatch",
    "if-none-match": "IfNoneMatch",
    "if-modified-since": "IfModifiedSince",
    "if-unmodified-since": "IfUnmodifiedSince",
    "range": "Range",
    "x-amz-acl": "ACL",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "SSEKMSKeyId",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
    "x-amz-server-side-encryption-customer-key": "SSECustomerKey",
    "x-amz-server-side-encryption-customer-key-md5": "SSECustomerKeyMD5",
    "x-amz-copy-source-server-side-encryption-customer-algorithm": "CopySourceSSECustomerAlgorithm",
    "x-amz-copy-source-server-side-encryption-customer-key": "CopySourceSSECustomerKey",
    "x-amz-copy-source-server-side-encryption-customer-key-md5": "CopySourceSSECustomerKeyMD5",
    "x-amz-storage-class": "StorageClass",
    "x-amz-tagging": "Tagging",
    "x-amz-website-redirect-location": "WebsiteRedirectLocation",
    "x-amz-request-payer": "RequestPayer",
}
STEP = 8192  # bytes: boto moves, and counts, in buffers of this size
META = "x-amz-meta-"
# The regions that AWS had when it began to write a dot before the region. The hosts of S3 and of
# websites in them have a hyphen there (AWS General Reference, "Amazon S3 endpoints and quotas").
OLD_REGIONS = frozenset(
    {
        "us-east-1",
        "us-west-1",
        "us-west-2",
        "us-gov-west-1",
        "eu-west-1",
        "sa-east-1",
        "ap-northeast-1",
        "ap-southeast-1",
        "ap-southeast-2",
    }
)


class Provider:
    """The names for which boto asks a storage provider."""

    name = "aws"
    metadata_prefix = META
    header_prefix = "x-amz-"
    storage_response_error = S3ResponseError
    storage_create_error = S3CreateError
    storage_copy_error = S3CopyError
    storage_data_error = S3DataError
    storage_permissions_error = S3PermissionsError


PROVIDER = Provider()
# Headers that boto sends as such and S3 does not keep.
_NOMETADATA = frozenset({"x-robots-tag", "transfer-encoding"})
_SAFE = "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~ "
# Headers that boto takes from the metadata.
STANDARD = {
    name: _PARAMS[name]
    for name in (
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
    )
}


def ask(
    client: Any,
    operation: str,
    force: bool | None = None,
    error: type[BotoServerError] = S3ResponseError,
    **params: Any,
) -> Any:
    """Return the answer of *client*. Raises *error*."""
    if force:
        params["Force"] = True
    try:
        return getattr(client, operation)(**params)
    except ClientError as exc:
        raise refused(exc, error) from exc
    except ParamValidationError as exc:  # a name that S3 would refuse
        message = escape(" ".join(str(exc).split()))
        code = "InvalidBucketName" if "Invalid bucket name" in message else "InvalidArgument"
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        raise error(400, responses[400], body) from exc


def refused(exc: ClientError, error: type[BotoServerError]) -> BotoServerError:
    """Return *exc* as an error of boto. (The answer to a HEAD has no body, and no code but the
    status.)"""
    said, about = exc.response.get("Error", {}), exc.response.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0))
    code = str(said.get("Code", ""))
    if code.isdecimal():
        return error(status, responses.get(status, code), "")
    fields = {
        **{name: str(value) for name, value in said.items()},
        "RequestId": str(about.get("RequestId", "")),
    }
    xml = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{xml}</Error>'
    return error(status, responses.get(status, code), body)


def params_of(headers: Headers | None) -> dict[str, Any]:
    """Return *headers* as parameters of boto3. Raises NotImplementedError."""
    found: dict[str, Any] = {}
    for name, value in (headers or {}).items():
        lower = name.lower()
        if lower.startswith(META):
            found.setdefault("Metadata", {})[lower.removeprefix(META)] = in_ascii(value)
        elif lower in _PARAMS:
            found[_PARAMS[lower]] = in_ascii(value)
        elif lower not in ("content-length", "expect", "user-agent", "date", "host"):
            text = f"the header {name}: pass it to the boto3 client, connection.client"
            raise NotImplementedError(text)
    for key in ("SSECustomerKey", "CopySourceSSECustomerKey"):
        if key in found and f"{key}MD5" not in found:  # boto3 encodes it, and adds the MD5
            found[key] = base64.b64decode(found[key])
    return found


def response_params(headers: Headers | None) -> dict[str, Any]:
    """Return the headers with which S3 must answer ("response-content-type" ...) as parameters of
    boto3."""
    return {
        f"Response{name.lower().removeprefix('response-').title().replace('-', '')}": value
        for name, value in (headers or {}).items()
    }


def metadata_params(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return *metadata* as parameters of boto3. A name that is a header of HTTP goes there."""
    found: dict[str, Any] = {"Metadata": {}}
    for name, value in metadata.items():
        member = STANDARD.get(name.lower())
        if member is not None:
            found[member] = in_ascii(value)
        elif name.lower() not in _NOMETADATA:
            found["Metadata"][name.lower()] = in_ascii(value)
    return found


def in_ascii(value: Any) -> Any:
    """Return *value* as a header carries it: text beyond ASCII is percent-encoded, as in boto."""
    return quote(value, safe=_SAFE) if isinstance(value, str) and not value.isascii() else value


def left_out(name: str, instead: str) -> Callable[..., Any]:
    """Return a method that says how boto3 does what *name* did."""

    def method(_self: Any, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError(f"{name}: use connection.client.{instead}")

    method.__name__ = name
    method.__doc__ = f"Left out; boto3's way is `connection.client.{instead}`."
    method.instead = instead  # type: ignore[attr-defined]
    return method


def listed_time(at: datetime) -> str:
    """Return a time as a listing has it: 2026-11-23T22:15:00.000Z."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def mirrored_time(ns: int) -> str:
    """Return a time of the mirror, ns since 1970, as a listing has it."""
    seconds, rest = divmod(ns, NS)
    return listed_time(datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000))


def header_time(at: datetime) -> str:
    """Return a time as a HEAD has it: Mon, 23 Nov 2026 22:15:00 GMT."""
    return format_datetime(at.astimezone(UTC).replace(microsecond=0), usegmt=True)


def text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
