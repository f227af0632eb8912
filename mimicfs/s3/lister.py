"""LIST requests: signed and sent by botocore, parsed by listing.py (ten times as fast as by
botocore). Any thread may ask.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from mimicfs.config import S3Options
from mimicfs.errors import S3Error, S3Unavailable, Throttled
from mimicfs.s3.errors import from_code, ours
from mimicfs.s3.listing import Asked, Page, parse_page

_SIGNED_S = 600  # how long a signed address is good for
_RETRIED = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})


class Lister:
    """*signer_for* makes a botocore client that signs for a region (None: the configured
    one); *asker* is one that finds the region of a bucket; *count* counts requests."""

    def __init__(
        self,
        signer_for: Callable[[str | None], Any],
        asker: Any,
        options: S3Options,
        ca_bundle: str | None,
        count: Callable[[str], None],
    ) -> None:
        self._signer_for = signer_for
        self._asker = asker
        self._options = options
        self._count = count
        self._signer = signer_for(None)
        self._regional: dict[str, Any] = {}  # by bucket: a signer for its region
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
        asked = Asked(bucket, prefix, after)
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
            return parse_page(self._get(bucket, params, str(asked)), asked)

    def _get(self, bucket: str, params: dict[str, Any], about: str) -> bytes:
        for attempt in range(1, self._options.attempts + 1):
            last = attempt == self._options.attempts
            try:
                return self._get_once(bucket, params, about)
            except _Redirected:
                self._find_region(bucket)
            except (Throttled, S3Unavailable):
                if last:
                    raise
                time.sleep(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))
        raise S3Unavailable(f"{about}: redirected from region to region")

    def _get_once(self, bucket: str, params: dict[str, Any], about: str) -> bytes:
        signer = self._regional.get(bucket, self._signer)
        url = signer.generate_presigned_url("list_objects_v2", params, ExpiresIn=_SIGNED_S)
        self._count("LIST")
        with ours(about):
            answer = self._http.send(AWSRequest("GET", url).prepare())
            body: bytes = answer.content
        if answer.status_code == 200:
            return body
        raise self._refusal(answer.status_code, body, about)

    @staticmethod
    def _refusal(status: int, body: bytes, about: str) -> Exception:
        code, message = _error_of(body)
        if status in (301, 307) or code in _REDIRECTS:
            return _Redirected()
        error: S3Error = from_code(code, status, message, about)
        if status in _RETRIED and not isinstance(error, Throttled | S3Unavailable):
            return S3Unavailable(str(error), status=status, code=code)
        return error

    def _find_region(self, bucket: str) -> None:
        """Ask where *bucket* is (botocore follows the redirect), and sign for there."""
        with ours(f"s3://{bucket}"):
            answer = self._asker.head_bucket(Bucket=bucket)
        region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        if not region or region == self._regional.get(bucket, self._signer).meta.region_name:
            raise S3Unavailable(f"s3://{bucket}: in another region, which S3 does not name")
        self._regional[bucket] = self._signer_for(region)


class _Redirected(Exception):
    """The bucket is in another region."""


def _error_of(body: bytes) -> tuple[str, str]:
    """Return code and message of an error answer; ("", "") if it has none."""
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return "", ""
    found = {child.tag.rpartition("}")[2]: child.text or "" for child in root}
    return found.get("Code", ""), found.get("Message", "")
