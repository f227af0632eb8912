"""LIST requests: signed and sent by botocore, parsed by listing.py (ten times as fast as by
botocore). Any thread may ask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from mimicfs.config import S3Options
from mimicfs.errors import MalformedListing, S3Error, S3Unavailable, Throttled
from mimicfs.s3.backoff import RETRIED, backoff_s
from mimicfs.s3.errors import from_code, ours, translated
from mimicfs.s3.listing import Asked, Page, parse_page
from mimicfs.s3.traffic import Traffic

_BODY_MAX = 16 << 20  # of a page: 1,000 keys of 1,024 bytes, each written as %XX, are 4 MiB
_SIGNED_S = 600  # how long a signed address is good for
_MOVED = frozenset({"PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"})
# Other mistakes have these codes too; that it is the region is said by a <Region>.
_MISSIGNED = frozenset({"AuthorizationHeaderMalformed", "AuthorizationQueryParametersError"})


class Lister:
    """*signer_for* makes a botocore client that signs for a region (None: the configured
    one); *asker* is one that finds the region of a bucket; *count* counts requests, *traffic*
    what else is to be known of them."""

    def __init__(
        self,
        signer_for: Callable[[str | None], Any],
        asker: Any,
        options: S3Options,
        ca_bundle: str | None,
        count: Callable[[str], None],
        traffic: Traffic,
    ) -> None:
        self._signer_for = signer_for
        self._asker = asker
        self._options = options
        self._count = count
        self._traffic = traffic
        self._signer = signer_for(None)
        self._lock = threading.Lock()  # protects the two below
        self._regions: dict[str, str] = {}  # by bucket, where it is not the configured one
        self._signers: dict[str, Any] = {}  # by region
        url = self._signer.meta.endpoint_url
        session: Any = URLLib3Session  # its stubs know neither a bundle nor two time limits
        self._http = session(
            verify=ca_bundle or True,
            proxies=get_environ_proxies(url),
            timeout=(options.connect_timeout_s, options.read_timeout_s),
            max_pool_connections=options.connections,
        )

    def close(self) -> None:
        self._http.close()

    def page(
        self, bucket: str, prefix: str, delimiter: str, after: str, token: str | None, limit: int
    ) -> Page:
        asked = Asked(bucket, prefix, after, delimiter)
        params: dict[str, Any] = {"Bucket": bucket, "MaxKeys": limit, "EncodingType": "url"}
        if prefix:
            params["Prefix"] = prefix
        if delimiter:
            params["Delimiter"] = delimiter
        if token is not None:
            params["ContinuationToken"] = token
        elif after:
            params["StartAfter"] = after
        with ours(str(asked)):
            try:
                return parse_page(self._get(bucket, params, str(asked)), asked)
            except _Redirected as exc:
                self._move(bucket, exc.region)
            try:
                return parse_page(self._get(bucket, params, str(asked)), asked)
            except _Redirected as exc:
                raise S3Unavailable(f"{asked}: redirected from region to region") from exc

    def _get(self, bucket: str, params: dict[str, Any], about: str) -> bytes:
        for attempt in range(1, self._options.attempts):
            try:
                return self._get_once(bucket, params, about)
            except (Throttled, S3Unavailable):
                time.sleep(backoff_s(attempt))
        return self._get_once(bucket, params, about)

    def _get_once(self, bucket: str, params: dict[str, Any], about: str) -> bytes:
        signer = self._signers.get(self._regions.get(bucket, ""), self._signer)
        url = signer.generate_presigned_url("list_objects_v2", params, ExpiresIn=_SIGNED_S)
        self._count("LIST")
        with self._traffic.observing("ListObjectsV2", about) as seen:
            try:
                request = AWSRequest("GET", url, stream_output=True)
                answer = self._http.send(request.prepare())
                seen.headers = answer.headers
                body = _body(answer.raw, about)
            except (BotoCoreError, HTTPError) as exc:
                raise translated(exc, about) from None  # *exc* shows the signed address in a log
            if answer.status_code != 200:
                raise self._refusal(answer, body, about)
        self._traffic.moved(len(body), 0)
        return body

    @staticmethod
    def _refusal(answer: Any, body: bytes, about: str) -> Exception:
        status = answer.status_code
        said = _error_of(body)
        code, region = said.get("Code", ""), said.get("Region", "")
        if status in (301, 307) or code in _MOVED or (code in _MISSIGNED and region):
            return _Redirected(answer.headers.get("x-amz-bucket-region") or region)
        error: S3Error = from_code(code, status, said.get("Message", ""), about)
        if status in RETRIED and not isinstance(error, Throttled | S3Unavailable):
            return S3Unavailable(str(error), status=status, code=code)
        return error

    def _move(self, bucket: str, region: str) -> None:
        """Sign for *region* from now on; "": ask where *bucket* is (botocore follows the
        redirect)."""
        if not region:
            answer = self._asker.head_bucket(Bucket=bucket)
            region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
        if not region:
            raise S3Unavailable(f"s3://{bucket}: in another region, which S3 does not name")
        with self._lock:
            if region not in self._signers:
                self._signers[region] = self._signer_for(region)
            self._regions[bucket] = region


def _body(raw: Any, about: str) -> bytes:
    """Return what an answer says, up to what a page can be. Raises MalformedListing."""
    body: bytes = raw.read(_BODY_MAX + 1, decode_content=True)
    if len(body) > _BODY_MAX:
        raw.close()
        raise MalformedListing(f"{about}: the answer has no end; check --endpoint-url")
    raw.read()  # its end, so that the connection can be used again
    return body


class _Redirected(Exception):
    """The bucket is in another region; "" where the answer does not say which."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.region = region


def _error_of(body: bytes) -> dict[str, str]:
    """Return what an error answer says: Code, Message, Region ...; empty if it is none."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return {}
    return {child.tag.rpartition("}")[2]: child.text or "" for child in root}
