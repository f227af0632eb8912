"""Which answers of a server are believed, call by call. mimicfs is liberal where nothing is lost by
it, and strict where it would delete something, or take for done what is not.

    call                       what is missing or odd       what follows
    LIST (listing.py)          no listing, or not all of    an error
                                 one; nothing at all
                               <Error> behind the names     an error
                               of another bucket or prefix  an error
                               no Name, no Prefix, or as    used
                                 they were sent, or longer
                               a Prefix that XML cannot     used
                                 have
                               another encoding             used
                               namespaces, white space      used
                               IsTruncated `True`, `1`      used
                               no IsTruncated, a token      not the last page
                               no IsTruncated, no token     an error
                               no token, not the last page  an error; of ListObjects: the last name
                               a token on the last page     not used
                               no names, and a token        asked on: this page says nothing
                               pages in a circle            an error (trail.py)
                               fewer names than KeyCount,   used, unless a name that the mirror
                                 or a name twice            knows is missing (sync/source.py)
                               no KeyCount                  used
                               no order, all on one page    sorted
                               no order, on several pages   an error; but for directory buckets
                               the last name of the page    left out
                                 before
                               names before that one        an error
                               names of another prefix      an error
                               names from deeper down, or   an error
                                 unasked-for prefixes
                               `d/` as an object, not as    a directory
                                 a prefix
                               several prefixes in one      used; an empty one is none
                                 element, or none
                               names that are not encoded   used
                               names that are not UTF-8     an error
                               an object without a name or  an error
                                 a size, or with two names
                               no LastModified, no date     used: the time is not known
                               year 1, 9999, other forms    used: the nearest that is known
                               no ETag, no quotes           used
                               ListObjectsV2 or encoding    asked without, and again: if it is
                                 refused                    refused again, remembered (lister.py)
                               ListObjects in its place     ListObjects is asked (lister.py)
    ListObjectVersions         no version id, no date       an error
    (versions.py)              deletions behind all else    put where their times are
                               pages that begin at `null`,  asked on behind the last one; each
                                 or with what was named     version is taken once
                               versions in a circle         an error
    HEAD, GET                  no Last-Modified             used: the time is not known
                               year 1, 9999, ISO 8601       used: the nearest that is known
                               no ETag and no time          an error: not S3's
                               W/"...", no quotes           used
                               a header that is not ASCII   used, as UTF-8 if it is that
                               gzip, and no length          asked without gzip (transport/wire.py)
                               404 or no ETag of what is    asked again, where the server ignores
                                 known                        conditions (hidden.py)
    HEAD                       no Content-Length, or 0 of   GET of one byte says it
                                 what has bytes by its ETag
    GET                        in chunks, of no length      used: the bytes are counted
                               of another range, or of      an error, of which nothing is learned
                                 one that cannot be
                               200 to a range               used if it is the whole object, as HEAD
                                                            says; else an error
                               a checksum that is none      not compared (checksums.py)
                               a refusal with a checksum    as the refusal (layers.py)
    PUT                        no ETag                      HEAD decides (client.py)
    COPY                       no result, no ETag           HEAD decides (copying.py)
                               no LastModified              used: the time of the answer
    CreateMultipartUpload      no UploadId                  an error
    CreateSession              no Credentials               an error
    UploadPart                 no ETag                      an error
    UploadPartCopy             no result, no ETag           the server copies no parts
    CompleteMultipartUpload    no ETag                      HEAD decides (client.py)
    DELETE                     200 for 204                  used
    DeleteObjects              an error without one of      an error: nothing is forgotten
                                 its keys
                               no DeleteResult              an error: nothing is forgotten
                               nothing at all               asked again, to name what is deleted
                               not all are named then       deleted one by one (deleting.py)
    any                        a Date that nobody can read  the time is taken from our clock
                               200 with <Error>, also       as the error (botocore); of LIST, asked
                                 behind white space         again if it may pass (lister.py)
                               HTML, unreadable XML         an error (transport/answers.py)
                               404, and nothing shows that  asked again by GET, where it was a
                                 it is S3's                 HEAD; else an error: nothing is gone
                               100 to 199, but for 101      waited for the answer (plain.py)
                               a header twice               used, if both say the same (plain.py)

An error names the fault of the server.

Threading: any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mimicfs.entry import in_utf8, unquoted
from mimicfs.errors import NotFromS3, S3Unavailable, Unsupported
from mimicfs.s3.transport.answers import date_of
from mimicfs.s3.transport.calls import Ask

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d+)")
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<size>\d+|\*)")
_EMPTY = "d41d8cd98f00b204e9800998ecf8427e"  # the ETag of no bytes
_OF_A_RANGE = frozenset({"Range", "ChecksumMode"})
# The fields without which an answer does not count: nobody could go on without them.
_NEEDED = {
    "CreateMultipartUpload": "UploadId",
    "CreateSession": "Credentials",
    "UploadPart": "ETag",
}


class Believer:
    """Asks by *ask*, and returns the answers as far as they can be believed."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        # False: a server that should only be quiet about successes says nothing at all
        self._quiet = True

    def __call__(self, operation: str, params: dict[str, Any]) -> Any:
        """Return the answer. Raises S3Unavailable, and what *ask* raises."""
        from botocore.exceptions import ClientError

        if not self._quiet:
            params = _aloud(params)
        try:
            answer = self._ask(operation, params)
        except ClientError as exc:
            must_be_s3s(operation, params, exc, self._ask)
            raise
        except SaysNothing as exc:
            if params == _aloud(params):
                raise _unsaid(params) from exc
            self._quiet = False
            return self(operation, params)
        return believed(operation, params, answer, self._ask)


class SaysNothing(Exception):
    """The answer to DeleteObjects is empty."""


def _aloud(params: dict[str, Any]) -> dict[str, Any]:
    """Return *params* of DeleteObjects, changed so that the answer names each deleted key."""
    if not params.get("Delete", {}).get("Quiet"):
        return params
    return {**params, "Delete": {**params["Delete"], "Quiet": False}}


def believed(
    operation: str, params: Mapping[str, Any], answer: dict[str, Any], ask: Ask
) -> dict[str, Any]:
    """Return *answer* as far as it can be believed; *ask* asks again. Raises S3Unavailable."""
    needed = _NEEDED.get(operation)
    if operation == "HeadObject" and _has_bytes(answer):
        answer = {name: value for name, value in answer.items() if name != "ContentLength"}
    if needed and not answer.get(needed):
        raise _fault(params, f"{operation} was answered without {needed}, which confirms nothing")
    if operation == "CopyObject":
        result = answer.get("CopyObjectResult") or {}
        return {**answer, "CopyObjectResult": {"LastModified": _time_of(answer), **result}}
    if operation == "HeadObject" and answer.get("ETag") and "ContentLength" not in answer:
        answer = {**answer, "ContentLength": _size(params, answer["ETag"], ask)}
    if operation == "GetObject":
        _check_range(params, answer)
        if "Range" in params and not answer.get("ContentRange"):
            _check_whole(params, answer, ask)
    if operation in ("HeadObject", "GetObject"):
        return _of_object(answer)
    if operation == "DeleteObjects":
        asked = {each["Key"] for each in params.get("Delete", {}).get("Objects", ())}
        refused = {each.get("Key") for each in answer.get("Errors", ())}
        if not refused <= asked:
            text = (
                "the answer to DeleteObjects has an error about a key that was not in the request"
            )
            raise _fault(params, text)
        quiet = params.get("Delete", {}).get("Quiet", False)
        deleted = {each.get("Key") for each in answer.get("Deleted", ())}
        if not quiet and not asked <= deleted | refused:
            raise _unsaid(params)
    return answer


def must_be_s3s(operation: str, params: Mapping[str, Any], refusal: ClientError, ask: Ask) -> None:
    """Raise NotFromS3 if *refusal* is a 404 that is not from S3. If a HEAD leaves that open, a GET
    asks; raises the error of that."""
    from botocore.exceptions import ClientError

    from mimicfs.s3.mimicking.shown import says_gone, status_of

    if status_of(refusal) != 404 or says_gone(refusal) or operation == "HeadBucket":
        return
    if operation == "HeadObject":
        try:
            ask("GetObject", {**params, "Range": "bytes=0-0"})["Body"].close()
        except ClientError as exc:
            if says_gone(exc):
                raise
    text = "404, but the answer is not from S3; check --endpoint-url"
    raise NotFromS3(_about(params, text)) from refusal


def must_be_a_delete_result(response_dict: dict[str, Any], **_: Any) -> None:
    """Keep botocore from taking for done what an answer to DeleteObjects does not say (in its event
    before-parse). Raises SaysNothing."""
    body = response_dict["body"].replace(b"\0", b"")  # from UTF-16, the ASCII in it
    if response_dict["status_code"] >= 300 or b"DeleteResult" in body:
        return
    if not response_dict["body"]:
        raise SaysNothing
    response_dict["body"] = b"<"  # no XML


def _check_range(params: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Raise S3Unavailable if *answer* is about bytes that were not asked for, or names an
    impossible range. (An answer with the whole object is true in itself.)"""
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


def _check_whole(params: Mapping[str, Any], answer: Mapping[str, Any], ask: Ask) -> None:
    """Raise S3Unavailable if *answer*, to a request for a range, does not say which range it has,
    and is not the whole object either."""
    head = {name: value for name, value in params.items() if name not in _OF_A_RANGE}
    now = ask("HeadObject", head)
    lengths = {answer.get("ContentLength"), now.get("ContentLength")}
    if len(lengths) > 1 or unquoted(now.get("ETag")) != unquoted(answer.get("ETag")):
        answer["Body"].close()
        text = f"asked for {params['Range']}, but the answer does not say of which bytes it is"
        raise _fault(params, text)


def _has_bytes(answer: Mapping[str, Any]) -> bool:
    """Whether *answer* to a HEAD says 0 bytes of an object that is not empty by its ETag. (Some
    servers give the length 0 of the missing body with every HEAD.)"""
    etag = unquoted(answer.get("ETag"))
    return answer.get("ContentLength") == 0 and etag not in ("", _EMPTY)


def _of_object(answer: dict[str, Any]) -> dict[str, Any]:
    answer = {**_as_text(answer), "Metadata": _as_text(answer.get("Metadata", {}))}
    if "LastModified" in answer or not answer.get("ETag"):
        return answer
    return {**answer, "LastModified": _NEVER}


def _as_text(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return *said* with headers as they were meant. They are sent as UTF-8 again: otherwise a copy
    would have other bytes."""
    return {name: in_utf8(it) if isinstance(it, str) else it for name, it in said.items()}


def _size(params: Mapping[str, Any], etag: str, ask: Ask) -> int:
    """Return the size of the version *etag*, as the answer to a GET of its first byte says it."""
    from botocore.exceptions import ClientError

    from mimicfs.s3.mimicking.shown import whole_size

    try:
        answer = ask("GetObject", {**params, "Range": "bytes=0-0"})
    except ClientError as exc:
        if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 416:
            return 0  # there is no first byte
        raise
    answer["Body"].close()
    said = whole_size(answer)
    if unquoted(answer.get("ETag")) != unquoted(etag) or not said.isdecimal():
        raise _fault(params, "the server does not say how long the object is")
    return int(said)


def _time_of(answer: Mapping[str, Any]) -> datetime:
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    return date_of(said) or datetime.now(UTC)


def _unsaid(params: Mapping[str, Any]) -> Unsupported:
    return Unsupported(f"s3://{params['Bucket']}: DeleteObjects does not say what it has deleted")


def _fault(params: Mapping[str, Any], text: str) -> S3Unavailable:
    return S3Unavailable(_about(params, text))


def _about(params: Mapping[str, Any], text: str) -> str:
    return f"s3://{params.get('Bucket', '')}/{params.get('Key', '')}: {text}"
