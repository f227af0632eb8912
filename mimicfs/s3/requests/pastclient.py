"""A boto3 client that lists and reads what there was at a moment, and changes nothing.

Listings are answered from a mirror of the moment. A call that names no version of an object gets
the one of then, also in a presigned address. S3 answers every other call that reads, as it is now.

Threading: as the client, any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from mimicfs.entry import LIST_MAX
from mimicfs.errors import KeyNotFound, S3Error
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking import answers
from mimicfs.s3.mimicking.accounts import ListedAccount
from mimicfs.s3.mimicking.forms import check
from mimicfs.s3.mimicking.local import Local, place_of
from mimicfs.s3.mimicking.pages import Places
from mimicfs.s3.requests.past import READ_BY_VERSION, BorrowedPast, version_in

_LISTING = ("ListObjectsV2", "ListObjects")
_READING = ("Get", "Head", "List", "CreateSession")
# Parameters that a listing may have, and that do not change what is found of the past. (Owners are
# not found.)
_NO_MATTER = frozenset(
    {
        "EncodingType",  # it changes the answer at the end
        "ExpectedBucketOwner",
        "FetchOwner",
        "OptionalObjectAttributes",
        "RequestPayer",
    }
)


class PastCalls:
    """The calls of *client*, answered as of *moment_ns* from the mirror *past*. *look* lists
    everything in a bucket that begins with a prefix, so that the mirror knows it."""

    def __init__(
        self,
        client: Any,
        past: Mirror,
        moment_ns: int,
        look: Callable[[BorrowedPast, str, str], None],
    ) -> None:
        self.listed = BorrowedPast(client, moment_ns)
        self._client = client
        self._exceptions = client.exceptions
        self._past = past
        self._look = look
        self._local = Local(past, Places(), ListedAccount(past, client))
        self._ask = client._make_api_call
        client._make_api_call = self._call
        client.meta.events.register("provide-client-params.s3", self._pin)

    def _call(self, operation: str, params: dict[str, Any]) -> Any:
        if operation not in _LISTING:
            return self._ask(operation, params)
        check(self._client, operation, params)
        asked = {name: value for name, value in params.items() if name not in _NO_MATTER}
        most, encoding = asked.get("MaxKeys"), params.get("EncodingType", "url")
        if encoding != "url" or (isinstance(most, int) and most < 0):
            text = f"MaxKeys={most}, EncodingType={encoding}"
            raise self._error(operation, "InvalidArgument", text, 400)
        token = asked.get("ContinuationToken")
        if isinstance(token, str) and place_of(token) is None:
            text = "this ContinuationToken is not of a listing of the past"
            raise self._error(operation, "InvalidArgument", text, 400)
        if isinstance(most, int):
            asked["MaxKeys"] = min(max(1, most), LIST_MAX)
        try:
            self._look(self.listed, asked["Bucket"], asked.get("Prefix") or "")
        except S3Error as exc:
            raise self._error(operation, exc.code, str(exc), exc.status) from exc
        version_1 = operation == "ListObjects"
        answer = self._local.keys(asked) if version_1 else self._local.answer(operation, asked)
        if answer is None:
            text = f"with {', '.join(sorted(asked))}, the past cannot be listed"
            raise self._error(operation, "NotImplemented", text, 501)
        if most == 0:
            answer = _empty(answer)
        return _encoded(answer) if "EncodingType" in params else answer

    def _pin(self, params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
        """Return *params* with the version that there was."""
        if not model.name.startswith(_READING):
            text = "the past cannot be changed"
            raise self._error(model.name, "MethodNotAllowed", text, 405)
        if model.name in _LISTING:  # calls are answered here (_call): this is for an address
            raise NotImplementedError(f"{model.name}: no address of S3 lists a moment of the past")
        if model.name not in READ_BY_VERSION or "VersionId" in params or "Key" not in params:
            return params
        bucket, key = params["Bucket"], params["Key"]
        try:
            version = version_in(self._past, bucket, key) or self._version_of(bucket, key)
        except KeyNotFound as exc:
            raise self._absent(model.name, key) from exc
        return {**params, "VersionId": version}

    def _version_of(self, bucket: str, key: str) -> str:
        """Return the version that *key* had, if the mirror does not show it. Raises KeyNotFound,
        also if a listing has shown the mirror all keys: both tell the same."""
        if self._past.covered(bucket, key[: key.rfind("/") + 1], deep=True):
            raise KeyNotFound(f"s3://{bucket}/{key}: the object did not exist then", status=404)
        return self.listed.version_of(bucket, key)

    def _absent(self, operation: str, key: str) -> Exception:
        if operation == "HeadObject":
            return self._error(operation, "404", "Not Found", 404)
        return self._error(operation, "NoSuchKey", f"{key}: the key did not exist then", 404)

    def _error(self, operation: str, code: str, text: str, status: int | None) -> Exception:
        error: Exception = self._exceptions.from_code(code)(
            answers.refusal(code, text, status or 0), operation
        )
        return error


_SHOWN = ("Contents", "CommonPrefixes", "NextContinuationToken", "NextMarker")
_NAMES = ("Prefix", "Delimiter", "StartAfter", "Marker", "NextMarker")


def _empty(answer: answers.LocalAnswer) -> answers.LocalAnswer:
    """Return *answer* as S3 gives it for MaxKeys=0: without keys, and without a next page."""
    left = {name: value for name, value in answer.items() if name not in _SHOWN}
    counted = {"KeyCount": 0} if "KeyCount" in left else {}
    return {**left, **counted, "MaxKeys": 0, "IsTruncated": False}


def _encoded(answer: answers.LocalAnswer) -> answers.LocalAnswer:
    """Return *answer* with each name encoded, as botocore leaves it where the caller has asked for
    EncodingType=url. (S3 writes a space as "+"; every decoder knows "%20".)"""
    quoted: answers.LocalAnswer = {name: quote(answer[name]) for name in _NAMES if name in answer}
    for part, name in (("Contents", "Key"), ("CommonPrefixes", "Prefix")):
        if part in answer:
            quoted[part] = [{**item, name: quote(item[name])} for item in answer[part]]
    return {**answer, **quoted}
