"""Stand-ins for servers that cannot run here: moto behind a proxy that has their quirks.

Each quirk is a class; `source` says where its server's behaviour is described. `PROVIDERS` has
those of each provider that are known; tests combine them as they like.
"""

from __future__ import annotations

import gzip
import http.client
import re
from typing import Any, NamedTuple

from support.proxy import Request, Rule

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Refusal(NamedTuple):
    status: int
    code: str
    message: str = ""


class Answer:
    """The parts of an answer that a quirk may change. *length*: what HEAD says; None: chunked."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        headers = response.getheaders()
        self.headers = {name.lower(): value for name, value in headers if name.lower() not in _HOP}
        self.body = response.read()
        self.length: int | None = int(response.getheader("Content-Length") or len(self.body))

    def write(self, handler: Any) -> None:
        headers = list(self.headers.items())
        if handler.command == "HEAD":
            length = [] if self.length is None else [("Content-Length", str(self.length))]
            handler.send(self.status, [*headers, *length], None)
        elif self.length is not None:
            handler.send(self.status, headers, self.body)
        else:
            handler.head(self.status, [*headers, ("Transfer-Encoding", "chunked")])
            for piece in filter(None, (self.body[:3], self.body[3:])):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n")


class Quirk:
    """A way in which a server differs from S3."""

    source = ""

    def refused(self, request: Request, method: str) -> Refusal | None:
        """Return why the server refuses *request*; its headers may be changed."""
        return None

    def change(self, request: Request, method: str, answer: Answer) -> None:
        """Change what moto answers to what the server would."""


class StandIn(Rule):
    """A server with *quirks*, as a rule of the proxy. *refused* counts its refusals by code."""

    def __init__(self, *quirks: Quirk) -> None:
        super().__init__(lambda request: True)
        self._quirks = quirks
        self.refused: dict[str, int] = {}

    def before(self, handler: Any) -> bool:
        request = Request(handler.command, handler.path, handler.headers)
        for quirk in self._quirks:
            refusal = quirk.refused(request, handler.command)
            if refusal is not None:
                self.refused[refusal.code] = self.refused.get(refusal.code, 0) + 1
                handler.body()
                text = f"<Code>{refusal.code}</Code><Message>{refusal.message}</Message>"
                body = f"<?xml version='1.0'?><Error>{text}</Error>".encode()
                body = body if refusal.code else b""
                handler.send(refusal.status, [("Content-Type", "application/xml")], body)
                return True
        return False

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        request = Request(handler.command, handler.path, handler.headers)
        answer = Answer(response)
        for quirk in self._quirks:
            quirk.change(request, handler.command, answer)
        answer.write(handler)
        return True


# What is refused


class Silent(Quirk):
    """Requests of *kind* are not done, and answered as if they were, with nothing that confirms
    it. "DELETES": of many."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def refused(self, request: Request, method: str) -> Refusal | None:
        many = method == "POST" and "delete" in request.query
        kind = "DELETES" if many else request.kind
        about = many or request.key or kind == "LIST"
        return Refusal(200, "") if kind == self._kind and about else None


class EqualParts(Quirk):
    source = "https://developers.cloudflare.com/r2/objects/multipart-objects/ (Limitations)"

    def __init__(self) -> None:
        self._sizes: dict[str, dict[int, int]] = {}  # by upload and number

    def refused(self, request: Request, method: str) -> Refusal | None:
        upload = request.query.get("uploadId", [""])[0]
        if method == "PUT" and upload:
            number = int(request.query["partNumber"][0])
            self._sizes.setdefault(upload, {})[number] = _part_size(request)
        sizes = [size for _, size in sorted(self._sizes.get(upload, {}).items())]
        unequal = len({*sizes[:-1]}) > 1 or (len(sizes) > 1 and sizes[-1] > sizes[0])
        if method == "POST" and upload and unequal:
            text = "All non-trailing parts must have the same length."
            return Refusal(400, "InvalidPart", text)
        return None


def _part_size(request: Request) -> int:
    copied = request.headers.get("x-amz-copy-source-range")
    if copied is None:
        return int(request.headers.get("Content-Length", 0))
    start, end = copied.removeprefix("bytes=").split("-")
    return int(end) - int(start) + 1


class SignedAcceptEncoding(Quirk):
    """Google's front end writes Accept-Encoding anew before the signature is looked at."""

    source = "https://github.com/aws/aws-sdk-go-v2/issues/1816"

    def refused(self, request: Request, method: str) -> Refusal | None:
        signed = re.search(r"SignedHeaders=([^,]+)", request.headers.get("Authorization", ""))
        if signed and "accept-encoding" in signed[1].split(";"):
            return Refusal(403, "SignatureDoesNotMatch", "Access denied.")
        return None


class NoDeleteObjects(Quirk):
    source = "https://github.com/minio/mc/issues/4778 (GCS)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if method == "POST" and "delete" in request.query:
            text = "A header or query you provided requested a function that is not implemented."
            return Refusal(400, "NotImplemented", text)
        return None


class NoCopyParts(Quirk):
    source = "https://cloud.google.com/storage/docs/migrating (no Upload Part - Copy)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if "uploadId" in request.query and "x-amz-copy-source" in request.headers:
            return Refusal(501, "NotImplemented")
        return None


class NoChecksums(Quirk):
    source = "https://github.com/stonith404/pingvin-share/issues/798 (B2); OVH: roadmap issue 781"

    def refused(self, request: Request, method: str) -> Refusal | None:
        for name in request.headers:
            known = ("x-amz-checksum-", "x-amz-sdk-checksum-algorithm")
            if name.lower().startswith(known) and method != "GET":
                text = f"Unsupported header '{name.lower()}' received for this API call."
                return Refusal(400, "InvalidArgument", text)
        return None


class WantsMD5(Quirk):
    """Object Lock, of servers that know no other checksum."""

    source = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock-managing.html"

    def refused(self, request: Request, method: str) -> Refusal | None:
        stores = method == "PUT" and request.key and "x-amz-copy-source" not in request.headers
        if stores and "Content-MD5" not in request.headers:
            text = "Content-MD5 HTTP header is required for Put Object requests with Object Lock"
            return Refusal(400, "InvalidRequest", text)
        return None


class WantsMD5OfDeletions(Quirk):
    source = "Swift 2.30 s3api: DeleteObjects (docs/servers.md); COS: tencentcloud.com, 436/8289"

    def refused(self, request: Request, method: str) -> Refusal | None:
        deletes = method == "POST" and "delete" in request.query
        if deletes and "Content-MD5" not in request.headers:
            return Refusal(400, "InvalidRequest", "Missing required header: Content-MD5")
        return None


class NoConditions(Quirk):
    source = "https://github.com/tobi/walgit/issues/67 (OSS)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if method in ("PUT", "POST", "DELETE") and (
            "If-Match" in request.headers or "If-None-Match" in request.headers
        ):
            text = "A header you provided implies functionality that is not implemented"
            return Refusal(501, "NotImplemented", text)
        return None


class IgnoresConditions(Quirk):
    source = "rclone serve s3, juicefs gateway (docs/servers.md); COS: gaul/undocumented-s3-apis#4"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if method in ("PUT", "POST", "DELETE"):
            del request.headers["If-Match"], request.headers["If-None-Match"]
            del request.headers["x-amz-copy-source-if-match"]
        return None


class BareConditions(Quirk):
    """An If-Match in quotes is refused, whatever it says; deletions and copies look at none."""

    source = "Ceph RGW 16.2, tried"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if request.kind in ("DELETE", "COPY"):
            del request.headers["If-Match"], request.headers["x-amz-copy-source-if-match"]
        elif request.kind == "PUT" and request.headers.get("If-Match", "").startswith('"'):
            return Refusal(412, "PreconditionFailed")
        return None


class RefusesRightOnes(Quirk):
    """Each condition is refused, the right ones too: of an object in parts, say."""

    source = "Swift 2.30 s3api: UploadPartCopy of an object in parts (docs/servers.md)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        names = ("If-Match", "If-None-Match", "x-amz-copy-source-if-match")
        if method in ("PUT", "DELETE") and any(name in request.headers for name in names):
            return Refusal(412, "PreconditionFailed")
        return None


class NoTagsOfCopies(Quirk):
    """A copy with other metadata than its source has no tags, whatever is asked for."""

    source = "Ceph RGW 16.2: CopyObject (docs/servers.md)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if request.headers.get("x-amz-metadata-directive") == "REPLACE":
            del request.headers["x-amz-tagging"]
            request.headers["x-amz-tagging-directive"] = "REPLACE"
        return None


class NoTagsOfUploads(Quirk):
    """An object that was uploaded in parts has no tags."""

    source = "Ceph RGW 16.2: CreateMultipartUpload (docs/servers.md)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if "uploads" in request.query:
            del request.headers["x-amz-tagging"]
        return None


class NoMarkersCopied(Quirk):
    source = "JuiceFS 1.4 gateway: CopyObject of a directory (docs/servers.md)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if request.kind == "COPY" and request.key.endswith("/"):
            return Refusal(500, "InternalError")
        return None


class NoListV2(Quirk):
    source = "https://github.com/ClickHouse/ClickHouse/issues/39139 (GCS of then)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if request.kind == "LIST" and "list-type" in request.query:
            return Refusal(400, "InvalidArgument")
        return None


class NoEncodingType(Quirk):
    """Keys of listings are not encoded, and whoever asks for that is refused."""

    source = "https://github.com/versity/versitygw/issues/1984 (how S3 refuses an unknown encoding)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if request.kind == "LIST" and "encoding-type" in request.query:
            return Refusal(400, "InvalidArgument", "Invalid Encoding Method specified in Request")
        return None


class NoTagsNoAcls(Quirk):
    source = "https://developers.cloudflare.com/r2/api/s3/api/ (unimplemented)"

    def refused(self, request: Request, method: str) -> Refusal | None:
        if request.query.keys() & {"tagging", "acl", "ownershipControls", "versioning"}:
            return Refusal(501, "NotImplemented")
        return None


# What is answered otherwise


class Decompresses(Quirk):
    """An object that is stored with Content-Encoding: gzip goes as it is to those only who ask for
    gzip."""

    source = "https://cloud.google.com/storage/docs/transcoding"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        asked = "gzip" in request.headers.get("Accept-Encoding", "")
        if method not in ("GET", "HEAD") or asked or answer.status not in (200, 206):
            return
        if answer.headers.pop("content-encoding", "") == "gzip":
            answer.length = None
            answer.headers.pop("content-range", None)
            answer.headers["etag"] = f"W/{answer.headers['etag']}"
            answer.status, answer.body = 200, gzip.decompress(answer.body) if answer.body else b""


class Compresses(Quirk):
    """A proxy before the server compresses what may be compressed."""

    source = "https://nginx.org/en/docs/http/ngx_http_gzip_module.html"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        asked = "gzip" in request.headers.get("Accept-Encoding", "")
        whole = method in ("GET", "HEAD") and request.key and answer.status == 200
        if asked and whole and "content-encoding" not in answer.headers:
            answer.headers["content-encoding"] = "gzip"
            answer.headers["etag"] = f"W/{answer.headers['etag']}"
            answer.length, answer.body = None, gzip.compress(answer.body)


class WeakETags(Quirk):
    source = "https://nginx.org/en/docs/http/ngx_http_gzip_module.html"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if method in ("GET", "HEAD") and "etag" in answer.headers:
            answer.headers["etag"] = "W/" + answer.headers["etag"].removeprefix("W/")


class BareETags(Quirk):
    source = "Ceph RGW 16.2: CopyObject (docs/servers.md)"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if "etag" in answer.headers:
            answer.headers["etag"] = answer.headers["etag"].replace('"', "")
        answer.body = _in_xml(answer, rb"<ETag>[^<]*</ETag>", _bare)


def _bare(tag: bytes) -> bytes:
    return tag.replace(b'"', b"").replace(b"&quot;", b"").replace(b"&#34;", b"")


def _in_xml(answer: Answer, pattern: bytes, change: Any) -> bytes:
    body: bytes = answer.body
    if body.lstrip().startswith(b"<?xml") or body.startswith(b"<"):
        body = re.sub(pattern, lambda found: change(found[0]), body)
        if answer.length is not None:
            answer.length = len(body)
    return body


class ChunkedBodies(Quirk):
    source = "https://www.rfc-editor.org/rfc/rfc9112#section-7.1"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if method == "GET":
            answer.length = None


class NoLengthOfHead(Quirk):
    source = "https://www.rfc-editor.org/rfc/rfc9110#section-8.6"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if method == "HEAD":
            answer.length = None


class PutIs204(Quirk):
    source = "https://www.rfc-editor.org/rfc/rfc9110#section-9.3.4"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if request.kind == "PUT" and request.key and "uploadId" not in request.query:
            answer.status = 204 if answer.status == 200 else answer.status
            answer.headers.pop("etag", None)


class DeleteIs200(Quirk):
    source = "https://www.rfc-editor.org/rfc/rfc9110#section-9.3.5"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if method == "DELETE" and answer.status == 204:
            answer.status = 200


class NoTimes(Quirk):
    source = "what SDKs take"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        answer.headers.pop("last-modified", None)
        answer.body = _in_xml(answer, rb"<LastModified>[^<]*</LastModified>", lambda _: b"")


class OddTimes(Quirk):
    source = "seen in the field: the year 1, and +00:00 for Z"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if "last-modified" in answer.headers:
            answer.headers["last-modified"] = "2026-01-02T03:04:05+00:00"
        time = b"<LastModified>0001-01-01T00:00:00+00:00</LastModified>"
        answer.body = _in_xml(answer, rb"<LastModified>[^<]*</LastModified>", lambda _: time)


class TokenOnTheLastPage(Quirk):
    source = "what SDKs take"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        last = b"<IsTruncated>false</IsTruncated>"
        token = b"<NextContinuationToken>more</NextContinuationToken>"
        answer.body = _in_xml(answer, last, lambda found: found + token)


class PlainPrefix(Quirk):
    source = "Ceph RGW 16.2, tried"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        said = request.query.get("prefix", [""])[0].encode()
        said = re.sub(
            rb"[\x00-\x1f]", lambda found: b"&#x%x;" % found[0][0], said.replace(b"&", b"&amp;")
        )
        prefix = b"<Prefix>" + said + b"</Prefix>"
        answer.body = _in_xml(answer, rb"<Prefix>[^<]*</Prefix>(?!</Comm)", lambda _: prefix)


class SwiftsTypes(Quirk):
    source = "Swift 2.30 s3api: DeleteObjects is answered as text/html (docs/servers.md)"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if method == "POST":
            answer.headers["content-type"] = "text/html; charset=UTF-8"


class QuietIsSilent(Quirk):
    """Where DeleteObjects is to be quiet, and nothing failed, it is answered with no body."""

    source = "https://www.alibabacloud.com/help/doc-detail/31983.htm (OSS); baidubce/bce-sdk-go#3"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        deletes = method == "POST" and "delete" in request.query and answer.status == 200
        if deletes and not re.search(rb"<(Deleted|Error)>", answer.body):
            answer.body, answer.length = b"", 0


class NamesNoDeleted(Quirk):
    """DeleteObjects never names what it has deleted."""

    source = "https://github.com/AutoMQ/automq/pull/1028 (Baidu's BOS)"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if method == "POST" and "delete" in request.query:
            answer.body = _in_xml(answer, rb"(?s)<Deleted>.*?</Deleted>", lambda _: b"")


class LoudHeaders(Quirk):
    source = "https://www.rfc-editor.org/rfc/rfc9110#section-5.1 (names in any case)"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        answer.headers = {name.upper(): value for name, value in answer.headers.items()}


class DoubledNames(Quirk):
    """A name may be shown twice by a server that is written to while it lists."""

    source = "what SDKs take"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        answer.body = _in_xml(answer, rb"<Contents>.*?</Contents>", lambda found: found * 2)


class NamesBackwards(Quirk):
    """The last page is in another order."""

    source = "what SDKs take"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        items = re.findall(rb"(?s)<Contents>.*?</Contents>", answer.body)
        if len(items) > 1 and b"<IsTruncated>false" in answer.body:
            answer.body = _in_xml(
                answer, rb"(?s)<Contents>.*?</Contents>", lambda _: b"%s" % items.pop()
            )


class NoCopyResult(Quirk):
    source = "an answer to COPY without what it should say"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if request.kind == "COPY" and "uploadId" not in request.query and answer.status == 200:
            answer.body, answer.length = b"", 0


class OddSuccess(Quirk):
    source = "https://www.rfc-editor.org/rfc/rfc9110#section-15.3 (2xx is a success)"

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if request.kind in ("PUT", "DELETE", "HEAD") and answer.status in (200, 204):
            answer.status = 202


QUIRKS: tuple[type[Quirk], ...] = tuple(each for each in Quirk.__subclasses__() if each.source)
PROVIDERS: dict[str, tuple[type[Quirk], ...]] = {
    "r2": (EqualParts, Decompresses, NoTagsNoAcls, SignedAcceptEncoding),
    "gcs": (SignedAcceptEncoding, Decompresses, NoDeleteObjects, NoCopyParts, IgnoresConditions),
    "gcs of then": (SignedAcceptEncoding, Decompresses, NoDeleteObjects, NoCopyParts, NoListV2),
    "b2": (NoChecksums, NoConditions),
    "oss": (NoConditions, NoChecksums, QuietIsSilent),
    "bos": (NamesNoDeleted, QuietIsSilent),
    "cos": (IgnoresConditions, WantsMD5OfDeletions),
    "ovh": (NoChecksums,),
    "minio behind nginx": (Compresses,),
    "ceph": (PlainPrefix, BareETags, BareConditions, NoTagsOfCopies, NoTagsOfUploads),
    "juicefs": (IgnoresConditions, NoMarkersCopied),
    "swift": (SwiftsTypes, RefusesRightOnes, WantsMD5OfDeletions),
}
