"""An examination of an S3 server, and of the credentials: for `mimicfs doctor`.

It asks past the mirror, which stays as it is. Without leave to write, it only reads; with it, it
makes and deletes keys that begin with `.mimicfs-doctor-`.

Threading: none; one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from botocore.exceptions import ClientError

from mimicfs.config.values import S3Options, redacted
from mimicfs.entry import unquoted
from mimicfs.errors import (
    NOTHING_SAID,
    AccessDenied,
    InvalidRequest,
    MimicError,
    ObjectChanged,
    S3Error,
    Unsupported,
)
from mimicfs.finding import FAIL, OK, WARN, Finding
from mimicfs.s3.requests import checksums
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.scratch import Scratch, failed
from mimicfs.s3.transport.answers import date_of
from mimicfs.s3.transport.errors import ours

_SKEW_WARN_S, _SKEW_MAX_S = 60.0, 900.0  # S3 refuses a request that was signed 15 minutes away
_NOBODYS = '"00000000000000000000000000000000"'  # the ETag of no object
_LOOPBACK = ("localhost", "127.0.0.1", "::1", None)


class Examination:
    """Examines what *s3* reaches with *options*: *bucket* below *prefix*, if one is named."""

    def __init__(self, s3: S3, options: S3Options, bucket: str = "", prefix: str = "") -> None:
        self.s3 = s3
        self._options = options
        self._bucket = bucket
        self._prefix = prefix
        self._client = s3.plain_client()
        self._date: tuple[datetime, float] | None = None  # S3's clock, and when it was told

    def findings(self, write: bool) -> Iterator[Finding]:
        """Yield the findings, one after the other. Raises no error of S3."""
        yield self._encryption()
        yield from self._account()
        if self._bucket:
            listed = yield from self._reading()
            if write and listed:
                yield from Scratch(
                    self.tried, self.ask, self.s3, self._bucket, self._prefix
                ).findings()
        yield Finding("downloads", OK, f"compared with {', '.join(checksums.verified())}")
        yield from self._capabilities()
        skew = self._clock()
        if skew is not None:
            yield skew

    def ask(self, operation: str, **params: Any) -> Any:
        """Return the answer to a request past the mirror. Raises S3Error."""
        try:
            return self._asked(operation, params)
        except (InvalidRequest, Unsupported):
            if operation != "list_objects_v2":
                raise
        page = self.s3.list_page(params["Bucket"], params["Prefix"])  # in the form that it knows
        return {"Contents": [{"Key": each.key, "ETag": each.etag} for each in page.entries]}

    def _asked(self, operation: str, params: dict[str, Any]) -> Any:
        about = f"s3://{params.get('Bucket', '')}/{params.get('Key', '')}"
        with ours(about):
            try:
                answer = getattr(self._client, operation)(**params)
            except ClientError as exc:
                self._note_date(exc.response)
                raise
        self._note_date(answer)
        return answer

    def tried(self, name: str, attempt: Callable[[], str], otherwise: str = "") -> Finding:
        """Return the finding of *attempt*. If it raises an error, that is a failure; or a warning,
        if *otherwise* says what follows from it."""
        try:
            return Finding(name, OK, attempt())
        except NOTHING_SAID as exc:
            return failed(name, exc)
        except (KeyError, MimicError) as exc:
            found = failed(name, exc)
            return Finding(name, WARN, found.found, otherwise) if otherwise else found

    # Parts

    def _encryption(self) -> Finding:
        url = self._options.endpoint_url
        if url is None or urlsplit(url).scheme == "https":
            return Finding("encryption", OK, "https, with certificates verified")
        if urlsplit(url).hostname in _LOOPBACK:
            return Finding("encryption", OK, f"{redacted(url)}: plain http, within this machine")
        text = f"{redacted(url)}: others on the network can read and change the data"
        return Finding("encryption", WARN, text, "use an https:// endpoint")

    def _account(self) -> Iterator[Finding]:
        def check() -> str:
            self.s3.check_credentials()
            return "found" if self._options.sign else "none are used (--no-sign-request)"

        credentials = self.tried("credentials", check)
        yield credentials
        if credentials.result != OK:
            return
        exposed = self.s3.exposed_credentials()
        if exposed is not None:
            text = f"{exposed}: other users can read it"
            yield Finding("credentials file", WARN, text, f"chmod 600 {exposed}")
        try:
            count = len(self.ask("list_buckets").get("Buckets", []))
            yield Finding("list buckets", OK, f"{count} buckets")
        except AccessDenied:
            text = "not allowed; mount single buckets"
            yield Finding("list buckets", WARN, text, "or allow s3:ListAllMyBuckets")
        except S3Error as exc:
            text, _, advice = str(exc).partition("; ")
            yield Finding("list buckets", FAIL, text, advice)

    def _capabilities(self) -> Iterator[Finding]:
        """Yield the capabilities of this server that a mount has learned, or was told."""
        known = self.s3.capabilities.known().items()
        said = [f"{name}={value} ({how})" for name, (value, how) in known if how != "usual"]
        text = ", ".join(said) or "like S3, as far as it was used"
        yield Finding("server", OK, text, "correct it with --server-can" if said else "")

    def _clock(self) -> Finding | None:
        if self._date is None:
            return None
        theirs, ours_s = self._date
        skew_s = ours_s - theirs.timestamp() - 0.5  # S3 tells whole seconds
        found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} S3's"
        if abs(skew_s) < _SKEW_WARN_S:
            return Finding("clock", OK, found)
        result = FAIL if abs(skew_s) >= _SKEW_MAX_S else WARN
        advice = "set the clock (timedatectl set-ntp true); S3 refuses requests 15 minutes away"
        return Finding("clock", result, found, advice)

    def _note_date(self, answer: Any) -> None:
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        date = date_of(said)
        if date is not None and self._date is None:
            self._date = (date, time.time())

    def _reading(self) -> Any:
        """Yield the findings of listing and reading; return whether listing works."""
        page: dict[str, Any] = {}

        def listing() -> str:
            page.update(
                self.ask(
                    "list_objects_v2",
                    Bucket=self._bucket,
                    Prefix=self._prefix,
                    MaxKeys=2,
                    EncodingType="url",
                )
            )
            known = self.s3.capabilities["list-v2"] == "yes"
            shown = "keys" if page.get("Contents") else "no key"
            return f"{'ListObjectsV2' if known else 'ListObjects'} shows {shown}"

        found = self.tried("list", listing)
        yield found
        if found.result != OK:
            return False
        yield self._encoded(page)
        encoded = page.get("EncodingType") == "url"  # which botocore decodes only unasked
        for item in page.get("Contents", [])[:1]:
            key = unquote_plus(item["Key"]) if encoded else item["Key"]
            yield from self._of_object({**item, "Key": key})
        return True

    def _encoded(self, page: dict[str, Any]) -> Finding:
        if page.get("EncodingType") == "url":
            return Finding("encoding-type", OK, "keys are encoded in listings")
        text = "the server ignores encoding-type=url"
        advice = "keys with control characters cannot be listed; avoid them"
        return Finding("encoding-type", WARN, text, advice)

    def _of_object(self, item: dict[str, Any]) -> Iterator[Finding]:
        where = {"Bucket": self._bucket, "Key": item["Key"]}
        etag = item.get("ETag", "")

        def head() -> str:
            said = self.ask("head_object", **where)
            if unquoted(said.get("ETag")) != unquoted(etag):
                raise S3Error(f"HEAD says ETag {said.get('ETag')}, the listing {etag}; sync again")
            return f"{item['Key']}: its ETag is the same as in the listing"

        def get() -> str:
            self.ask("get_object", **where)["Body"].close()
            return f"{item['Key']} can be read"

        yield self.tried("head", head)
        yield self.tried("get", get)
        yield self._conditional_get(where, etag)

    def _conditional_get(self, where: dict[str, Any], etag: str) -> Finding:
        """Check that a read is pinned to a version by If-Match; without that, only the answer's
        ETag pins it."""
        if not etag:
            advice = "versions cannot be distinguished; use another server"
            return Finding("etag", FAIL, "objects have no ETag", advice)
        try:
            self.ask("get_object", **where, IfMatch=_NOBODYS)["Body"].close()
        except ObjectChanged:
            return Finding("conditional reads", OK, "If-Match is honoured")
        except NOTHING_SAID as exc:
            return failed("conditional reads", exc)
        except S3Error as exc:
            return Finding(
                "conditional reads", WARN, str(exc), "mimicfs checks the ETag of each answer"
            )
        text = "the server ignores If-Match of a GET"
        return Finding("conditional reads", WARN, text, "mimicfs checks the ETag of each answer")
