"""LIST requests: signed and sent by botocore, parsed by listing.py and versions.py (ten times as
fast as by botocore). Any thread may ask.

It sends ListObjectsV2, and ListObjects to a server that knows no other: such a server refuses the
first, or answers it as if it were the second. Keys are asked for in the encoding of URLs, unless
the server refuses that and lists without.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.handlers import set_list_objects_encoding_type_url
from urllib3.exceptions import HTTPError

from mimicfs.config.values import S3Options
from mimicfs.entry import is_directory_bucket
from mimicfs.errors import (
    CredentialsError,
    InvalidRequest,
    KeyNotFound,
    MalformedListing,
    S3Error,
    S3Unavailable,
    Throttled,
    Unsupported,
)
from mimicfs.s3.requests.listing import (
    OF_VERSIONS,
    Asked,
    OldVersion,
    Page,
    parse_page,
)
from mimicfs.s3.requests.versions import Marker, VersionPage, parse_versions
from mimicfs.s3.transport.answers import error_of
from mimicfs.s3.transport.backoff import RETRIED, backoff_s
from mimicfs.s3.transport.credentials import EXPIRED, Credentials
from mimicfs.s3.transport.errors import from_code, ours, translated
from mimicfs.s3.transport.http import ANSWER_MAX
from mimicfs.s3.transport.traffic import Traffic

_SIGNED_S = 600  # how long a signed address is good for
_MOVED = frozenset({"PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"})
# Other mistakes have these codes, too; a <Region> says that it is the region.
_MISSIGNED = frozenset({"AuthorizationHeaderMalformed", "AuthorizationQueryParametersError"})

# How servers refuse a parameter (list-type=2, encoding-type) that they do not know.
_UNKNOWN_PARAMETER = frozenset({"NotImplemented", "InvalidArgument", "MethodNotAllowed"})
# The names of the requests for a listing, by Asked.version: in boto3, and in figures.
_OPERATIONS = {1: "list_objects", 2: "list_objects_v2", OF_VERSIONS: "list_object_versions"}
_KINDS = {1: "ListObjectsV2", 2: "ListObjectsV2", OF_VERSIONS: "ListObjectVersions"}


class Sends(Protocol):
    """Sends requests that botocore has prepared (http.py, or another client's own)."""

    def sent(self, request: Any) -> Any:
        """Return the answer: `status_code`, `headers`, `content`."""


class Learns(Protocol):
    """What is known of the server (capabilities.py)."""

    def __getitem__(self, name: str, /) -> str: ...

    def learned(self, name: str, value: str) -> None: ...


class Forgets(dict[str, str]):
    """The same, for as long as this lives."""

    def __init__(self) -> None:
        super().__init__({"list-v2": "yes", "encoding-type": "yes"})

    def learned(self, name: str, value: str) -> None:
        self[name] = value


class Lister:
    """*signer_for* makes a botocore client that signs for a region (None: the configured
    one); *asker* one that finds the region of a bucket; *credentials* are what they sign
    with, where they can be renewed; *count* counts requests, *traffic* what else is to be known
    of them; *wait* returns when a bucket may be asked; *capabilities*: of the server."""

    def __init__(
        self,
        signer_for: Callable[[str | None], Any],
        asker: Callable[[], Any],
        options: S3Options,
        transport: Sends,
        credentials: Credentials | None,
        count: Callable[[str], None],
        traffic: Traffic,
        wait: Callable[[str], None] = lambda bucket: None,
        capabilities: Learns | None = None,
    ) -> None:
        self._signer_for = signer_for
        self._asker = asker
        self._options = options
        self._transport = transport
        self._credentials = credentials
        self._count = count
        self._traffic = traffic
        self._wait = wait
        self._signer = signer_for(None)
        self._capabilities = Forgets() if capabilities is None else capabilities
        self._answered = False  # a page came: the server knows what it is asked by
        self._lock = threading.Lock()  # protects the two below
        self._regions: dict[str, str] = {}  # by bucket, if it is not the configured one
        self._signers: dict[str, Any] = {}  # by region

    def page(
        self, bucket: str, prefix: str, delimiter: str, after: str, token: str | None, limit: int
    ) -> Page:
        ordered = not is_directory_bucket(bucket)
        version = 2 if self._capabilities["list-v2"] == "yes" else 1
        after = after if ordered else ""
        asked = Asked(bucket, prefix, after, delimiter, version, ordered, self._encodes)
        with ours(str(asked)):
            try:
                return self._page(asked, token, limit)
            except OldVersion:
                self._capabilities.learned("list-v2", "no")
            return self._page(asked._replace(version=1), token, limit)

    def versions(
        self, bucket: str, prefix: str, after: Marker, limit: int, delimiter: str = ""
    ) -> VersionPage:
        """Return one page of a ListObjectVersions. It begins behind the version *after*, or, if
        that names no version, behind all versions of the key. Raises MalformedListing."""
        asked = Asked(bucket, prefix, after.key, delimiter, OF_VERSIONS, encoded=self._encodes)
        with ours(str(asked)):
            body, _ = self._get(asked, after.version or None, limit)
            return parse_versions(body, asked, after)

    def _page(self, asked: Asked, token: str | None, limit: int) -> Page:
        try:
            body, throttled = self._get(asked, token, limit)
        except (Unsupported, InvalidRequest) as exc:
            # a refusal of a later page, as of its token, is about something else
            if self._answered or token is not None or exc.code not in _UNKNOWN_PARAMETER:
                raise
            return self._page_otherwise(asked, limit, exc)
        page = parse_page(body, asked)
        self._answered = True
        return page._replace(throttled=throttled) if throttled else page

    def _page_otherwise(self, refused: Asked, limit: int, refusal: S3Error) -> Page:
        """Return the page, asked for without a parameter that the server may not know. Remember
        which that is if the server refuses the same question again: it may have had another reason.
        Raises *refusal*."""
        forms = [(version, encoded) for encoded in (True, False) for version in (2, 1)]
        for version, encoded in forms:
            asked = refused._replace(version=version, encoded=encoded)
            if version > refused.version or encoded > refused.encoded or asked == refused:
                continue
            try:
                page = parse_page(self._get(asked, None, limit)[0], asked)
            except (Unsupported, InvalidRequest):
                continue
            if not self._refuses(refused, limit):
                return page
            if version != refused.version:
                self._capabilities.learned("list-v2", "no")
            if encoded != refused.encoded:
                self._capabilities.learned("encoding-type", "no")
            self._answered = True
            return page
        raise refusal

    def _refuses(self, asked: Asked, limit: int) -> bool:
        try:
            self._get(asked, None, limit)
        except (Unsupported, InvalidRequest):
            return True
        return False

    @property
    def _encodes(self) -> bool:
        return self._capabilities["encoding-type"] == "yes"

    def _get(self, asked: Asked, token: str | None, limit: int) -> tuple[bytes, int]:
        """Return an answer, and how often S3 asked for patience before."""
        throttled, moved = 0, False
        for attempt in range(1, 2 + self._options.attempts):
            used = self._credentials.get_frozen_credentials() if self._credentials else None
            try:
                return self._get_once(asked, token, limit), throttled
            except _Redirected as exc:
                if moved:
                    text = f"{asked}: redirected from region to region"
                    raise S3Unavailable(text) from exc
                moved = True
                self._move(asked.bucket, exc.region)
            except (Throttled, S3Unavailable) as exc:
                if attempt - moved >= self._options.attempts:
                    raise
                throttled += isinstance(exc, Throttled)
                time.sleep(backoff_s(attempt - moved))
            except CredentialsError as exc:
                if exc.code not in EXPIRED or not self._credentials:
                    raise
                if not self._credentials.renew(used):
                    raise
        raise AssertionError("unreachable")

    def _get_once(self, asked: Asked, token: str | None, limit: int) -> bytes:
        bucket, about = asked.bucket, str(asked)
        signer = self._signers.get(self._regions.get(bucket, ""), self._signer)
        operation = _OPERATIONS[asked.version]
        params = _params(asked, token, limit)
        headers: dict[str, str] = {}
        if self._options.buckets.of(bucket).requester_pays:
            params["RequestPayer"] = "requester"
            headers = {"x-amz-request-payer": "requester"}  # signed with the address
        if self._options.bucket_owner:
            params["ExpectedBucketOwner"] = self._options.bucket_owner
            headers["x-amz-expected-bucket-owner"] = self._options.bucket_owner
        try:
            url = signer.generate_presigned_url(operation, params, ExpiresIn=_SIGNED_S)
        except KeyError as exc:  # of the session that botocore asks for (believing.py)
            text = f"{about}: CreateSession was answered without {exc.args[0]}"
            raise S3Unavailable(f"{text}, which confirms nothing") from exc
        self._wait(bucket)
        self._count("LIST")
        with self._traffic.observing(_KINDS[asked.version], about) as seen:
            try:
                answer = self._transport.sent(AWSRequest("GET", url, headers).prepare())
                seen.headers = answer.headers
                body: bytes = answer.content
            except (BotoCoreError, HTTPError) as exc:
                raise translated(exc, about) from None  # *exc* shows the signed address in a log
            if len(body) > ANSWER_MAX:
                raise MalformedListing(f"{about}: the answer has no end; check --endpoint-url")
            if answer.status_code // 100 != 2:
                raise self._refusal(answer, body, about)
            failed = _failed(body, about)
            if failed is not None:
                raise failed
        self._traffic.moved(len(body), 0)
        return body

    @staticmethod
    def _refusal(answer: Any, body: bytes, about: str) -> Exception:
        status = answer.status_code
        said = error_of(body)
        code, region = said.get("Code", ""), said.get("Region", "")
        if status in (301, 307) or code in _MOVED or (code in _MISSIGNED and region):
            return _Redirected(answer.headers.get("x-amz-bucket-region") or region)
        date = answer.headers.get("date", "")
        error: S3Error = from_code(code, status, said.get("Message", ""), about, date)
        if status in RETRIED and not isinstance(error, Throttled | S3Unavailable):
            return S3Unavailable(str(error), status=status, code=code)
        if isinstance(error, KeyNotFound):  # no key can be missing in a listing
            return MalformedListing(f"{error}; the answer is not from S3, check --endpoint-url")
        return error

    def _move(self, bucket: str, region: str) -> None:
        """Sign for *region* from now on; "": ask where *bucket* is (botocore follows the
        redirect)."""
        if not region:
            answer = self._asker().head_bucket(Bucket=bucket)
            region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
        if not region:
            raise S3Unavailable(f"s3://{bucket}: in another region, but S3 does not say which")
        with self._lock:
            if region not in self._signers:
                self._signers[region] = self._signer_for(region)
            self._regions[bucket] = region


def encoding_as_asked(client: Any) -> Any:
    """Return *client*, which asks for listings with encoded keys only if it is told to, from now
    on: there may be servers that refuse that, and botocore does it by itself."""
    for operation in ("ListObjects", "ListObjectsV2", "ListObjectVersions"):
        event = f"before-parameter-build.s3.{operation}"
        client.meta.events.unregister(event, set_list_objects_encoding_type_url)
    return client


def _failed(body: bytes, about: str) -> S3Error | None:
    """Return the error in the *body* of a success (S3 writes one there when it has begun to
    answer), if it may pass; None: there is none. (listing.py reports any other.)"""
    if not _IS_ERROR(body):
        return None
    said = error_of(body)
    error = from_code(said.get("Code", ""), 500, said.get("Message", ""), about)
    return error if isinstance(error, Throttled | S3Unavailable) else None


_IS_ERROR = re.compile(rb"\s*(?:<\?xml[^>]*>)?\s*<(?:\w+:)?Error[\s>]").match


def _params(asked: Asked, token: str | None, limit: int) -> dict[str, Any]:
    params: dict[str, Any] = {"Bucket": asked.bucket, "MaxKeys": limit}
    if asked.encoded:
        params["EncodingType"] = "url"
    if asked.prefix:
        params["Prefix"] = asked.prefix
    if asked.delimiter:
        params["Delimiter"] = asked.delimiter
    if asked.version == OF_VERSIONS:
        if asked.after:
            params["KeyMarker"] = asked.after
        if token is not None:
            params["VersionIdMarker"] = token
    elif asked.version == 1:
        if asked.after:
            params["Marker"] = asked.after
    elif token is not None:
        params["ContinuationToken"] = token
    elif asked.after:
        params["StartAfter"] = asked.after
    return params


class _Redirected(Exception):
    """The bucket is in another region; "" where the answer does not say which."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.region = region
