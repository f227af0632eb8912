"""What of an answer is believed, call by call. Liberal where nothing is lost by it, strict where
something would be deleted, or taken for done that is not.

    call                       what is missing or odd       what follows
    HEAD, GET                  no Last-Modified             used: the time is not known
                               no ETag and no time          an error: not S3's
    PUT                        no ETag                      HEAD decides (client.py)
    COPY                       no result, no ETag           HEAD decides (copying.py)
                               no LastModified              used: the time of the answer
    CreateMultipartUpload      no UploadId                  an error
    UploadPart                 no ETag                      an error
    UploadPartCopy             no result, no ETag           the server copies no parts
    CompleteMultipartUpload    no ETag                      HEAD decides (client.py)
    DELETE                     200 for 204                  used
    DeleteObjects              no DeleteResult, or an       an error: nothing is forgotten
                               error without its key
    any                        200 with <Error>             as the error (botocore)
                               HTML, unreadable XML         an error (transport/answers.py)

Of listings, listing.py decides. An error names the server's fault.

Threading: any thread; no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from mimicfs.errors import S3Unavailable

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
# What an answer cannot be without: else nobody could go on.
_NEEDED = {"CreateMultipartUpload": "UploadId", "UploadPart": "ETag"}


def believed(operation: str, params: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return *answer* as far as it can be believed. Raises S3Unavailable."""
    needed = _NEEDED.get(operation)
    if needed and not answer.get(needed):
        raise _fault(params, f"{operation} was answered without {needed}: that confirms nothing")
    if operation == "CopyObject":
        result = answer.get("CopyObjectResult") or {}
        return {**answer, "CopyObjectResult": {"LastModified": _time_of(answer), **result}}
    if operation in ("HeadObject", "GetObject"):
        return _of_object(answer)
    if operation == "DeleteObjects" and not all(
        each.get("Key") for each in answer.get("Errors", ())
    ):
        raise _fault(params, "DeleteObjects was answered with an error that names no key")
    return answer


def must_be_a_delete_result(response_dict: dict[str, Any], **_: Any) -> None:
    """Keep botocore from taking for done what an answer to DeleteObjects does not say
    (its event before-parse)."""
    if response_dict["status_code"] < 300 and b"DeleteResult" not in response_dict["body"]:
        response_dict["body"] = b"<"  # no XML


def _of_object(answer: dict[str, Any]) -> dict[str, Any]:
    if "LastModified" in answer or not answer.get("ETag"):
        return answer
    return {**answer, "LastModified": _NEVER}


def _time_of(answer: Mapping[str, Any]) -> datetime:
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(said)
    except (ValueError, TypeError):
        return datetime.now(UTC)


def _fault(params: Mapping[str, Any], text: str) -> S3Unavailable:
    return S3Unavailable(f"s3://{params.get('Bucket', '')}/{params.get('Key', '')}: {text}")
