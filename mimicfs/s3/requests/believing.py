"""The belief in answers, call by call. Liberal where nothing is lost by it, strict where something
would be deleted, or taken for done that is not.

    call                       what is missing or odd       what follows
    HEAD, GET                  no Last-Modified             used: the time is not known
                               year 1, 9999, ISO 8601       used: the nearest that is known
                               no ETag and no time          an error: not S3's
                               W/"...", no quotes           used
                               a header that is not ASCII   used, as UTF-8 if it is that
                               gzip, and no length          asked without gzip (transport/wire.py)
    HEAD                       no Content-Length            GET of one byte says it
    GET                        in chunks, of no length      used: the bytes are counted
                               of another range, or of      an error, of which nothing is learned
                               one that cannot be
    PUT                        no ETag                      HEAD decides (client.py)
    COPY                       no result, no ETag           HEAD decides (copying.py)
                               no LastModified              used: the time of the answer
    CreateMultipartUpload      no UploadId                  an error
    UploadPart                 no ETag                      an error
    UploadPartCopy             no result, no ETag           the server copies no parts
    CompleteMultipartUpload    no ETag                      HEAD decides (client.py)
    DELETE                     200 for 204                  used
    DeleteObjects              no DeleteResult, or an       an error: nothing is forgotten
                               error without one of its keys
    any                        200 with <Error>             as the error (botocore)
                               HTML, unreadable XML         an error (transport/answers.py)

Of listings, listing.py decides. An error names the server's fault.

Threading: any thread; no state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from mimicfs.entry import in_utf8, unquoted
from mimicfs.errors import S3Unavailable

Ask = Callable[[str, dict[str, Any]], Any]

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d+)")
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<size>\d+|\*)")
# What an answer cannot be without: else nobody could go on.
_NEEDED = {"CreateMultipartUpload": "UploadId", "UploadPart": "ETag"}


def believed(
    operation: str, params: Mapping[str, Any], answer: dict[str, Any], ask: Ask
) -> dict[str, Any]:
    """Return *answer* as far as it can be believed; *ask* asks again. Raises S3Unavailable."""
    needed = _NEEDED.get(operation)
    if needed and not answer.get(needed):
        raise _fault(params, f"{operation} was answered without {needed}, which confirms nothing")
    if operation == "CopyObject":
        result = answer.get("CopyObjectResult") or {}
        return {**answer, "CopyObjectResult": {"LastModified": _time_of(answer), **result}}
    if operation == "HeadObject" and answer.get("ETag") and "ContentLength" not in answer:
        answer = {**answer, "ContentLength": _size(params, answer["ETag"], ask)}
    if operation == "GetObject":
        _check_range(params, answer)
    if operation in ("HeadObject", "GetObject"):
        return _of_object(answer)
    if operation == "DeleteObjects":
        asked = {each["Key"] for each in params.get("Delete", {}).get("Objects", ())}
        if not all(each.get("Key") in asked for each in answer.get("Errors", ())):
            text = (
                "the answer to DeleteObjects has an error about a key that was not in the request"
            )
            raise _fault(params, text)
    return answer


def must_be_a_delete_result(response_dict: dict[str, Any], **_: Any) -> None:
    """Keep botocore from taking for done what an answer to DeleteObjects does not say
    (its event before-parse)."""
    if response_dict["status_code"] < 300 and b"DeleteResult" not in response_dict["body"]:
        response_dict["body"] = b"<"  # no XML


def _check_range(params: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Raise S3Unavailable where *answer* is about bytes that were not asked for, or says of its
    range what cannot be. (An answer with the whole object is true in itself.)"""
    said, asked = answer.get("ContentRange"), _RANGE.fullmatch(params.get("Range", ""))
    if not said or (params.get("Range") and not asked) or "PartNumber" in params:
        return
    found = _CONTENT_RANGE.fullmatch(said)
    if found and asked:
        first, last = int(found["first"]), int(found["last"])
        fits = first == int(asked["first"]) and last <= int(asked["last"])
        there = found["size"] == "*" or last < int(found["size"])
        if fits and there and answer.get("ContentLength", last - first + 1) == last - first + 1:
            return
    answer["Body"].close()
    text = f"asked for {params.get('Range', 'all bytes')}, but the answer has {said}"
    raise _fault(params, f"{text} and {answer.get('ContentLength')} bytes")


def _of_object(answer: dict[str, Any]) -> dict[str, Any]:
    answer = {**_as_text(answer), "Metadata": _as_text(answer.get("Metadata", {}))}
    if "LastModified" in answer or not answer.get("ETag"):
        return answer
    return {**answer, "LastModified": _NEVER}


def _as_text(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return *said* with headers as they were meant. They are sent as UTF-8 again: else a copy
    would have other bytes."""
    return {name: in_utf8(it) if isinstance(it, str) else it for name, it in said.items()}


def _size(params: Mapping[str, Any], etag: str, ask: Ask) -> int:
    """Return the size of the version *etag*, as the answer to a GET of its first byte says it."""
    from botocore.exceptions import ClientError

    try:
        answer = ask("GetObject", {**params, "Range": "bytes=0-0"})
    except ClientError as exc:
        if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 416:
            return 0  # there is no first byte
        raise
    answer["Body"].close()
    said = answer.get("ContentRange", "").rpartition("/")[2] or str(answer.get("ContentLength"))
    if unquoted(answer.get("ETag")) != unquoted(etag) or not said.isdecimal():
        raise _fault(params, "the server does not say how long the object is")
    return int(said)


def _time_of(answer: Mapping[str, Any]) -> datetime:
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(said)
    except (ValueError, TypeError):
        return datetime.now(UTC)


def _fault(params: Mapping[str, Any], text: str) -> S3Unavailable:
    return S3Unavailable(f"s3://{params.get('Bucket', '')}/{params.get('Key', '')}: {text}")
