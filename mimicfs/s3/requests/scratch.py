"""The checks of `mimicfs doctor --write`: what a server does with the objects that are written.

Threading: none; one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_plus

from mimicfs.entry import unquoted
from mimicfs.errors import (
    NOTHING_SAID,
    AccessDenied,
    InvalidRequest,
    KeyNotFound,
    MimicError,
    S3Error,
    Unsupported,
)
from mimicfs.finding import FAIL, OK, WARN, Finding
from mimicfs.s3.mimicking.shown import meta_of
from mimicfs.s3.requests import checksums
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.kept import stored_of
from mimicfs.s3.requests.ownkeys import own_name
from mimicfs.s3.requests.sending import wants_equal_parts

_BODY = b"mimicfs doctor\n"
_ACTIONS = {
    "list": "s3:ListBucket",
    "head": "s3:GetObject",
    "get": "s3:GetObject",
    "put": "s3:PutObject",
    "delete": "s3:DeleteObject",
}


class Scratch:
    """The checks that must write. They use keys of their own, which are removed again."""

    def __init__(
        self,
        tried: Callable[..., Finding],
        ask: Callable[..., Any],
        s3: S3,
        bucket: str,
        prefix: str,
    ) -> None:
        self._tried = tried
        self._ask = ask
        self._s3 = s3
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
            yield self._names()
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
        if meta_of(said).get("mode") != "33188":
            raise S3Error("user metadata does not come back: modes, owners and times are not kept")
        self._kept = True
        return "user metadata comes back"

    def _etag_form(self) -> Finding:
        bare = unquoted(self._etag)
        if not bare:
            return Finding("etag", FAIL, "the answer to a PUT has no ETag", "use another server")
        is_md5 = bare == hashlib.md5(_BODY, usedforsecurity=False).hexdigest()
        form = "the MD5, as S3's" if is_md5 else "opaque"
        quoted = "" if self._etag.startswith('"') else ", without quotes"
        return Finding("etag", OK, f"{form}{quoted}: {bare}")

    def _conditions(self) -> Iterator[Finding]:
        """Yield whether conditions hold, by the trial that comes before the first conditional
        write."""
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
                yield failed(f"conditional writes ({name})", exc)
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
        kept = "and kept" if said.get("ChecksumCRC32") else "but not kept"
        if self._refuses_wrong("crc32"):
            return f"CRC-32 is checked, {kept}"
        if self._refuses_wrong("md5"):
            advice = "Content-MD5 is: --server-can checksum=md5"
            return f"CRC-32 is accepted, {kept}, and not checked; {advice}"
        return f"CRC-32 is accepted, {kept}, and neither it nor Content-MD5 is checked"

    def _sent_with(self, kind: str, body: bytes = _BODY) -> None:
        """Send what has the checksum of *body*."""
        sums = checksums.sent(kind, body)
        self._ask("put_object", **self._making("-sum"), Body=_BODY, **sums)

    def _refuses_wrong(self, kind: str) -> bool:
        try:
            self._sent_with(kind, b"another body")
        except S3Error as exc:
            if exc.status != 400:  # BadDigest
                raise
            return True
        return False

    def _names(self) -> Finding:
        """A name with letters that servers change: is it listed as it was written?"""
        name, suffix = "odd names", "-odd-\x01\x7f\xe9 +%25"
        try:
            self._ask("put_object", **self._making(suffix), Body=b"")
            said = self._ask(
                "list_objects_v2",
                Bucket=self._bucket,
                Prefix=f"{self._base}-odd-",
                EncodingType="url",
            )
        except NOTHING_SAID as exc:
            return failed(name, exc)
        except S3Error as exc:
            return Finding(name, WARN, str(exc), "avoid names with control characters")
        encoded = said.get("EncodingType") == "url"
        keys = [
            unquote_plus(it["Key"]) if encoded else it["Key"] for it in said.get("Contents", ())
        ]
        self._made += [key for key in keys if key not in self._made]
        if keys == [self._base + suffix]:
            return Finding(name, OK, "a name with control characters comes back as it is")
        found = f"a name with control characters is listed as {[key[-10:] for key in keys]}"
        return Finding(name, WARN, found, "avoid such names")

    def _many(self) -> str:
        """Two keys of known versions: the capabilities that this shows are remembered."""
        made = [self._making(f"-many-{n}") for n in (1, 2)]
        tags = [self._ask("put_object", **each, Body=_BODY).get("ETag") for each in made]
        etags = {each["Key"]: unquoted(tag) for each, tag in zip(made, tags, strict=True)}
        refused = self._s3.delete_many(self._bucket, list(etags), etags)
        if refused:
            (key, why), *_ = refused
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
        if self._kept and meta_of(said) != {"mode": "33188"}:
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
            return failed(name, exc)
        except S3Error as exc:
            return Finding(name, WARN, str(exc), "mount with -o no_markers")
        if [item["Key"] for item in said.get("Contents", [])] == [f"{self._base}-d/"]:
            return self._tried(name, self._emptied)
        try:
            self._ask("head_object", **self._params("-d"))
        except S3Error:
            return Finding(name, WARN, "`d/` is not kept as it is", "mount with -o no_markers")
        self._s3.capabilities.learned("markers", "no")
        return Finding(name, WARN, "`d/` is a file `d`", "the mirror alone remembers directories")

    def _emptied(self) -> str:
        """To JuiceFS `d/` is a directory: DeleteObjects leaves it behind, and says that it is
        deleted."""
        self._ask("put_object", **self._making("-d/x"), Body=b"")
        self._s3.delete_many(self._bucket, [f"{self._base}-d/x", f"{self._base}-d/"])
        try:
            self._ask("head_object", **self._params("-d/"))
        except KeyNotFound:
            return "`d/` is an object like any other"
        self._s3.capabilities.learned("delete-many", "no")
        return "DeleteObjects leaves `d/` behind: keys are deleted one by one"

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


def failed(name: str, exc: KeyError | MimicError) -> Finding:
    if isinstance(exc, KeyError):
        return Finding(name, FAIL, f"the server's answer has no {exc.args[0]}")
    if isinstance(exc, AccessDenied):
        action = _ACTIONS.get(name)
        advice = f"allow {action} in the policy of the user or bucket" if action else ""
        return Finding(name, FAIL, str(exc), advice)
    text, _, advice = str(exc).partition("; ")
    return Finding(name, FAIL, text, advice)
