"""An examination of an S3 server, and of the credentials: for `mimicfs doctor`.

Asked past the mirror, which stays as it is. Without leave to write, only what can be asked by
reading is; with it, keys that begin with `.mimicfs-doctor-` are made and deleted again.

Threading: none; one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
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
from mimicfs.s3.requests.kept import stored_of
from mimicfs.s3.requests.ownkeys import own_name
from mimicfs.s3.requests.sending import wants_equal_parts
from mimicfs.s3.transport.errors import ours

_SKEW_WARN_S, _SKEW_MAX_S = 60.0, 900.0  # S3 refuses what was signed 15 minutes away
_NOBODYS = '"00000000000000000000000000000000"'  # the ETag of no object
_LOOPBACK = ("localhost", "127.0.0.1", "::1", None)
_BODY = b"mimicfs doctor\n"
_ACTIONS = {
    "list": "s3:ListBucket",
    "head": "s3:GetObject",
    "get": "s3:GetObject",
    "put": "s3:PutObject",
    "delete": "s3:DeleteObject",
}


class Examination:
    """Of what *s3* reaches with *options*: of *bucket* below *prefix*, if one is named."""

    def __init__(self, s3: S3, options: S3Options, bucket: str = "", prefix: str = "") -> None:
        self.s3 = s3
        self._options = options
        self._bucket = bucket
        self._prefix = prefix
        self._client = s3.plain_client()
        self._date: tuple[str, float] | None = None  # S3's clock, and when it was told

    def findings(self, write: bool) -> Iterator[Finding]:
        """Yield what is found, one after the other. Raises nothing of S3's."""
        yield self._encryption()
        yield from self._account()
        if self._bucket:
            listed = yield from self._reading()
            if write and listed:
                yield from Scratch(self, self._bucket, self._prefix).findings()
        yield Finding("downloads", OK, f"compared with {', '.join(checksums.verified())}")
        yield from self._capabilities()
        skew = self._clock()
        if skew is not None:
            yield skew

    def ask(self, operation: str, **params: Any) -> Any:
        """Return the answer to a request past the mirror. Raises S3Error."""
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
        """Return what *attempt* says is found, or the error that it raises: a failure, or where
        *otherwise* says what follows from it, a warning."""
        try:
            return Finding(name, OK, attempt())
        except NOTHING_SAID as exc:
            return _failure(name, exc)
        except (KeyError, MimicError) as exc:
            found = _failure(name, exc)
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
        """Yield what a mount has learned of this server, or was told."""
        known = self.s3.capabilities.known().items()
        said = [f"{name}={value} ({how})" for name, (value, how) in known if how != "usual"]
        text = ", ".join(said) or "like S3, as far as it was used"
        yield Finding("server", OK, text, "correct it with --server-can" if said else "")

    def _clock(self) -> Finding | None:
        if self._date is None:
            return None
        there = parsedate_to_datetime(self._date[0]).timestamp()
        skew_s = self._date[1] - there - 0.5  # S3 tells whole seconds
        found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} S3's"
        if abs(skew_s) < _SKEW_WARN_S:
            return Finding("clock", OK, found)
        result = FAIL if abs(skew_s) >= _SKEW_MAX_S else WARN
        advice = "set the clock (timedatectl set-ntp true); S3 refuses requests 15 minutes away"
        return Finding("clock", result, found, advice)

    def _note_date(self, answer: Any) -> None:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date and self._date is None:
            self._date = (date, time.time())

    def _reading(self) -> Any:
        """Yield what listing and reading find; return whether listing works."""
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
            return f"ListObjectsV2 shows {'keys' if page.get('Contents') else 'no key'}"

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
            return Finding("encoding-type", OK, "keys with any character are listed safely")
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
            return _failure("conditional reads", exc)
        except S3Error as exc:
            return Finding(
                "conditional reads", WARN, str(exc), "mimicfs checks the ETag of each answer"
            )
        text = "the server ignores If-Match of a GET"
        return Finding("conditional reads", WARN, text, "mimicfs checks the ETag of each answer")


class Scratch:
    """The checks that must write: in keys of their own, which are removed again."""

    def __init__(self, examination: Examination, bucket: str, prefix: str) -> None:
        self._tried = examination.tried
        self._ask = examination.ask
        self._s3 = examination.s3
        self._bucket = bucket
        self._base = prefix + own_name("doctor")
        self._made: list[str] = []
        self._etag = ""
        self._kept = False  # user metadata comes back
        self._part_min = 5 << 20  # bytes of a part that is not too small

    def findings(self) -> Iterator[Finding]:
        put = self._tried("put", self._put)
        yield put
        if put.result != OK:
            return
        try:
            yield self._tried("metadata", self._metadata, "mount with -o metadata=no")
            yield self._etag_form()
            yield from self._conditions()
            yield self._tried("checksums", self._checksum, "signatures protect the bodies")
            yield self._tried("many deletions", self._many, "keys are deleted one by one")
            yield self._tried("copy", self._copy, "mv and cp -r within the mount will fail")
            yield self._tried("copies of parts", self._part, "changed files are sent as a whole")
            yield self._tried("multipart minimum", self._minimum, "files above 32 MiB will fail")
            yield self._tried("parts of any size", self._any_size, "files above 32 MiB may fail")
            yield self._marker()
        finally:
            yield self._tried("delete", self._remove)

    def _params(self, suffix: str = "") -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._base + suffix}

    def _making(self, suffix: str = "") -> dict[str, Any]:
        params = self._params(suffix)
        if params["Key"] not in self._made:
            self._made.append(params["Key"])
        return params | stored_of(self._s3.kept.usual(self._bucket, params["Key"]))

    def _put(self) -> str:
        answer = self._ask("put_object", **self._making(), Body=_BODY, Metadata={"mode": "33188"})
        self._etag = answer.get("ETag", "")
        size = self._ask("head_object", **self._params()).get("ContentLength")
        if size != len(_BODY):
            raise S3Error(f"{len(_BODY)} bytes were written, but HEAD says {size}")
        return f"s3://{self._bucket}/{self._base} was written"

    def _metadata(self) -> str:
        said = self._ask("head_object", **self._params())
        if said.get("Metadata", {}).get("mode") != "33188":
            raise S3Error("user metadata does not come back: modes, owners and times are not kept")
        self._kept = True
        return "user metadata comes back"

    def _etag_form(self) -> Finding:
        bare = unquoted(self._etag)
        if not bare:
            return Finding("etag", FAIL, "the answer to a PUT has no ETag", "use another server")
        is_md5 = len(bare) == 32 and all(letter in "0123456789abcdef" for letter in bare)
        form = "an MD5, as S3's" if is_md5 else "opaque"
        quoted = "" if self._etag.startswith('"') else ", without quotes"
        return Finding("etag", OK, f"{form}{quoted}: {bare}")

    def _conditions(self) -> Iterator[Finding]:
        """Yield whether conditions hold, as it is tried before the first write that has one."""
        names = ("If-None-Match", "If-Match")
        try:
            found = self._s3.conditions.tried(self._bucket, self._base)
        except AccessDenied as exc:
            for name in names:
                advice = "allow s3:PutObject and s3:DeleteObject with conditions"
                yield Finding(f"conditional writes ({name})", FAIL, str(exc), advice)
            return
        except S3Error as exc:
            for name in names:
                yield _failure(f"conditional writes ({name})", exc)
            return
        before = "mimicfs checks just before, and may {} a simultaneous change"
        said = ("quoted" if found.absent else "", found.match)
        for name, form in zip(names, said, strict=True):
            yield _honoured(f"conditional writes ({name})", form, before.format("overwrite"))
        yield _honoured("conditional deletions", found.delete, before.format("delete"))

    def _checksum(self) -> str:
        try:
            self._sent_with("crc32")
        except (InvalidRequest, Unsupported) as exc:
            self._sent_with("md5")
            return f"CRC-32 is refused ({exc.code}), Content-MD5 is taken, and sent instead"
        said = self._ask("head_object", **self._params("-sum"), ChecksumMode="ENABLED")
        kept = said.get("ChecksumCRC32")
        return "CRC32 is checked and kept" if kept else "CRC32 is accepted, but not kept"

    def _sent_with(self, kind: str) -> None:
        sums = checksums.sent(kind, _BODY)
        self._ask("put_object", **self._making("-sum"), Body=_BODY, **sums)

    def _many(self) -> str:
        """Two keys, of versions that are known: what is found out by it is remembered."""
        made = [self._making(f"-many-{n}") for n in (1, 2)]
        tags = [self._ask("put_object", **each, Body=_BODY).get("ETag") for each in made]
        etags = {each["Key"]: unquoted(tag) for each, tag in zip(made, tags, strict=True)}
        refused = self._s3.delete_many(self._bucket, list(etags), etags)
        for key, why in refused:
            raise S3Error(f"{key}: {why}")
        if self._s3.capabilities["delete-many"] == "no":
            return "the server has no DeleteObjects: keys are deleted one by one"
        if self._s3.capabilities["delete-etags"] == "yes":
            return "DeleteObjects works, and looks at ETags"
        return "DeleteObjects works, and looks at no ETags: a HEAD does, or single deletions do"

    def _copy(self) -> str:
        self._ask("copy_object", **self._making("-copy"), CopySource=self._params())
        said = self._ask("head_object", **self._params("-copy"))
        if said.get("ContentLength") != len(_BODY):
            raise S3Error(f"a copy of {len(_BODY)} bytes has {said.get('ContentLength')}")
        if self._kept and said.get("Metadata") != {"mode": "33188"}:
            raise S3Error("a copy loses the user metadata")
        return f"CopyObject keeps content{' and metadata' if self._kept else ''}"

    def _part(self) -> str:
        where = self._params("-parts")
        begun = self._ask("create_multipart_upload", **self._making("-parts"))
        upload = {**where, "UploadId": begun["UploadId"]}
        try:
            source = {"CopySource": self._params(), "CopySourceRange": "bytes=0-6"}
            part = self._ask("upload_part_copy", **upload, PartNumber=1, **source)
            etag = part.get("CopyPartResult", {}).get("ETag")
            if not etag:
                self._s3.copies_parts = False
                raise Unsupported("the server does not know UploadPartCopy")
            parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
            self._ask("complete_multipart_upload", **upload, MultipartUpload=parts)
        except BaseException:
            self._ask("abort_multipart_upload", **upload)
            raise
        said = self._ask("head_object", **where)
        if said.get("ContentLength") != 7:
            raise S3Error(
                f"a part of 7 bytes was copied, but HEAD says {said.get('ContentLength')}"
            )
        return f"UploadPartCopy works; the ETag is {said.get('ETag', '')}"

    def _minimum(self) -> str:
        """Two parts of one byte: S3 refuses the first, which is below 5 MiB."""
        try:
            self._in_parts("-small", (1, 1))
        except S3Error as exc:
            if exc.code == "EntityTooSmall":
                return "5 MiB, as S3"
            raise
        self._part_min = 1
        return "none"

    def _any_size(self) -> str:
        """Three parts, of which the second is a byte longer than the first; if that is refused,
        parts of one size. (10 MiB are sent where S3's minimum holds.)"""
        part, capabilities = self._part_min, self._s3.capabilities
        try:
            self._in_parts("-sizes", (part, part + 1, 1))
        except S3Error as exc:
            if not wants_equal_parts(exc):
                raise
            self._in_parts("-sizes", (part, part, 1))
            capabilities.learned("equal-parts", "yes")
            return "parts must be of one size, and are"
        if capabilities["equal-parts"] == "yes":
            capabilities.learned("equal-parts", "no")
        return "parts of different sizes make one object"

    def _in_parts(self, suffix: str, sizes: tuple[int, ...]) -> None:
        """Upload parts of so many bytes as one object."""
        begun = self._ask("create_multipart_upload", **self._making(suffix))
        upload = {**self._params(suffix), "UploadId": begun["UploadId"]}
        try:
            parts = []
            for number, size in enumerate(sizes, 1):
                part = {**upload, "PartNumber": number, "Body": bytes(size)}
                parts.append(
                    {"PartNumber": number, "ETag": self._ask("upload_part", **part)["ETag"]}
                )
            self._ask("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self._ask("abort_multipart_upload", **upload)
            raise

    def _marker(self) -> Finding:
        """mkdir puts an object `d/`; some servers make a directory of that, or a file `d`."""
        name = "directory markers"
        try:
            self._ask("put_object", **self._making("-d/"), Body=b"")
            self._ask("head_object", **self._params("-d/"))
            said = self._ask("list_objects_v2", Bucket=self._bucket, Prefix=f"{self._base}-d/")
        except NOTHING_SAID as exc:
            return _failure(name, exc)
        except S3Error as exc:
            return Finding(name, WARN, str(exc), "mount with -o no_markers")
        if [item["Key"] for item in said.get("Contents", [])] == [f"{self._base}-d/"]:
            return Finding(name, OK, "`d/` is an object like any other")
        try:
            self._ask("head_object", **self._params("-d"))
        except S3Error:
            return Finding(name, WARN, "`d/` is not kept as it is", "mount with -o no_markers")
        self._s3.capabilities.learned("markers", "no")
        return Finding(name, WARN, "`d/` is a file `d`", "the mirror alone remembers directories")

    def _remove(self) -> str:
        failed: S3Error | None = None
        for key in self._made:
            try:
                self._ask("delete_object", Bucket=self._bucket, Key=key)
            except S3Error as exc:
                failed = exc
        if failed is not None:
            raise failed
        left = self._ask("list_objects_v2", Bucket=self._bucket, Prefix=self._base)
        if left.get("Contents"):
            keys = ", ".join(item["Key"] for item in left["Contents"])
            raise S3Error(f"still there after it was deleted: {keys}; delete it by hand")
        return "what was written is deleted again"


def _honoured(name: str, form: str, otherwise: str) -> Finding:
    if form:
        return Finding(name, OK, "honoured" + (", without quotes" if form == "bare" else ""))
    return Finding(name, WARN, "ignored by the server, or not known to it", otherwise)


def _failure(name: str, exc: KeyError | MimicError) -> Finding:
    if isinstance(exc, KeyError):
        return Finding(name, FAIL, f"the server's answer has no {exc.args[0]}")
    if isinstance(exc, AccessDenied):
        action = _ACTIONS.get(name)
        advice = f"allow {action} in the policy of the user or bucket" if action else ""
        return Finding(name, FAIL, str(exc), advice)
    text, _, advice = str(exc).partition("; ")
    return Finding(name, FAIL, text, advice)
