"""The answer to each S3 request, for the bench's server. Knows nothing of sockets.

Signatures are not looked at. The etag of a body above `MD5_MAX` bytes is not its MD5 unless the
client sent one: hashing would compete with what is measured for the processor.

Threading: everything here runs on the one thread of the server.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

from benchlib import s3versions
from benchlib.s3objects import PAGES_MAX, Bucket, Object, Segment, http_date, iso_date

MD5_MAX = 1 << 20
XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
STORED_HEADERS = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-language",
    "content-encoding",
    "expires",
)
# Sub-resources that clients probe: what an ordinary bucket without any settings answers.
PROBES = {
    "location": f"<LocationConstraint {XMLNS}/>",
    "versioning": f"<VersioningConfiguration {XMLNS}/>",
    "acl": f"<AccessControlPolicy {XMLNS}><Owner><ID>bench</ID></Owner>"
    "<AccessControlList/></AccessControlPolicy>",
    "uploads": f"<ListMultipartUploadsResult {XMLNS}><IsTruncated>false</IsTruncated>"
    "</ListMultipartUploadsResult>",
    "tagging": f"<Tagging {XMLNS}><TagSet/></Tagging>",
}
VERSIONING = f"<VersioningConfiguration {XMLNS}><Status>Enabled</Status></VersioningConfiguration>"
ABSENT = (
    "lifecycle",
    "policy",
    "encryption",
    "object-lock",
    "cors",
    "website",
    "publicAccessBlock",
    "ownershipControls",
)


class Request(NamedTuple):
    """One request, complete. Header names are in lower case; *body* is empty for most."""

    method: str
    path: str  # decoded, with its leading slash
    query: dict[str, str]
    headers: dict[str, str]
    body: memoryview
    raw_query: str = ""


class Response(NamedTuple):
    """An answer. *size* is the length of the body, also where a HEAD does not send it."""

    status: int
    headers: dict[str, str]
    body: list[Segment]
    size: int


class Refused(Exception):
    """S3's error: its status and its code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Upload(NamedTuple):
    """A multipart upload that is under way."""

    key: str
    headers: dict[str, str]
    parts: dict[int, Object]


class Operations:
    """The S3 operations over the buckets. `handle` answers one request."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.version = 2  # of ListObjects: 1 stands for a server that knows no other
        self._uploads: dict[str, Upload] = {}
        self._numbers = itertools.count(1)

    def handle(self, request: Request) -> Response:
        """Return the answer to *request*; an error of S3's is an answer too."""
        bucket, _, key = request.path[1:].partition("/")
        try:
            if not bucket:
                return self._list_buckets()
            if not key:
                return self._bucket(request, bucket)
            return self._object(request, self._known(bucket), key)
        except Refused as refused:
            resource = f"<Resource>{escape(request.path)}</Resource>"
            about = f"<Code>{refused.code}</Code><Message>{refused.code}</Message>{resource}"
            return xml(f"<Error>{about}</Error>", refused.status, head=request.method == "HEAD")

    # Buckets

    def _known(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise Refused(404, "NoSuchBucket")
        return self.buckets[name]

    def _list_buckets(self) -> Response:
        rows = "".join(
            f"<Bucket><Name>{b.name}</Name><CreationDate>{iso_date(int(b.created_s))}</CreationDate></Bucket>"
            for b in sorted(self.buckets.values(), key=lambda b: b.name)
        )
        return xml(
            f"<ListAllMyBucketsResult {XMLNS}><Owner><ID>bench</ID><DisplayName>bench</DisplayName>"
            f"</Owner><Buckets>{rows}</Buckets></ListAllMyBucketsResult>"
        )

    def _bucket(self, request: Request, name: str) -> Response:
        method, query = request.method, request.query
        if method == "PUT":
            if not (set(query) & (set(PROBES) | set(ABSENT))):
                self.buckets.setdefault(name, Bucket(name))
            return empty(200)
        bucket = self._known(name)
        if method == "HEAD":
            return empty(200, {"x-amz-bucket-region": "us-east-1"})
        if method == "DELETE":
            if bucket.keys:
                raise Refused(409, "BucketNotEmpty")
            del self.buckets[name]
            return empty(204)
        if method == "POST" and "delete" in query:
            return self._delete_many(bucket, request)
        probes = {**PROBES, "versioning": VERSIONING} if bucket.versions else PROBES
        for probe, answer in probes.items():
            if probe in query:
                return xml(answer)
        if any(name in query for name in ABSENT):
            raise Refused(404, "NoSuchConfiguration")
        if method != "GET":
            raise Refused(501, "NotImplemented")
        versions = "versions" in query
        return xml(s3versions.page(bucket, query)) if versions else self._list(bucket, request)

    def _list(self, bucket: Bucket, request: Request) -> Response:
        # Not what is signed anew for each request.
        asked = "&".join(f"{k}={v}" for k, v in request.query.items() if k[:6] != "X-Amz-")
        page = bucket.pages.get(asked)
        if page is None:
            query = request.query if self.version == 2 else request.query | {"list-type": "1"}
            page = list_page(bucket, query)
            if len(bucket.pages) >= PAGES_MAX:
                bucket.pages.clear()
            bucket.pages[asked] = page
        return Response(200, {"Content-Type": "application/xml"}, [memoryview(page)], len(page))

    def _delete_many(self, bucket: Bucket, request: Request) -> Response:
        text = bytes(payload(request)).decode()
        keys = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", text, re.DOTALL)]
        for key in keys:
            bucket.delete(key)
        quiet = re.search(r"<Quiet>\s*true", text)
        rows = (
            "" if quiet else "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        )
        return xml(f"<DeleteResult {XMLNS}>{rows}</DeleteResult>")

    # Objects

    def _object(self, request: Request, bucket: Bucket, key: str) -> Response:
        method, query = request.method, request.query
        if "acl" in query or "tagging" in query:
            return (
                xml(PROBES["acl" if "acl" in query else "tagging"])
                if method == "GET"
                else empty(200)
            )
        if "uploads" in query or "uploadId" in query:
            return self._multipart(request, bucket, key)
        if method in ("GET", "HEAD"):
            return read(bucket, key, request)
        if method == "PUT":
            return self._put(request, bucket, key)
        if method == "DELETE":
            found = bucket.get(key)
            wanted = request.headers.get("if-match")
            if wanted and (found is None or not same_etag(wanted, found.etag)):
                raise Refused(412, "PreconditionFailed")
            bucket.delete(key)
            return empty(204)
        raise Refused(501, "NotImplemented")

    def _put(self, request: Request, bucket: Bucket, key: str) -> Response:
        check_write(bucket.get(key), request.headers)
        if "x-amz-copy-source" in request.headers:
            return self._copy(request, bucket, key)
        made = stored(request, self._etag)
        bucket.put(key, made)
        return empty(200, {"ETag": f'"{made.etag}"'})

    def _copy(self, request: Request, bucket: Bucket, key: str) -> Response:
        source = self._source(request)
        replace = request.headers.get("x-amz-metadata-directive", "").upper() == "REPLACE"
        headers = kept_headers(request.headers) if replace else source.headers
        made = Object(source.size, source.etag, time.time(), headers, source.parts, source.start)
        bucket.put(key, made)
        return copied("CopyObjectResult", made)

    def _source(self, request: Request) -> Object:
        path = unquote(request.headers["x-amz-copy-source"].partition("?")[0]).lstrip("/")
        name, _, key = path.partition("/")
        source = self._known(name).get(key)
        if source is None:
            raise Refused(404, "NoSuchKey")
        wanted = request.headers.get("x-amz-copy-source-if-match")
        if wanted and not same_etag(wanted, source.etag):
            raise Refused(412, "PreconditionFailed")
        return source

    def _etag(self, request: Request, body: memoryview) -> str:
        """Return the bare etag of a body: its MD5 where that is known or cheap."""
        if (
            "content-md5" in request.headers
            and "x-amz-decoded-content-length" not in request.headers
        ):
            return base64.b64decode(request.headers["content-md5"]).hex()
        if len(body) <= MD5_MAX:
            return hashlib.md5(body, usedforsecurity=False).hexdigest()
        return f"{next(self._numbers):032x}-1"

    # Multipart uploads

    def _multipart(self, request: Request, bucket: Bucket, key: str) -> Response:
        method, query = request.method, request.query
        if method == "POST" and "uploads" in query:
            name = f"upload-{next(self._numbers)}"
            self._uploads[name] = Upload(key, kept_headers(request.headers), {})
            ids = (
                f"<Bucket>{bucket.name}</Bucket><Key>{escape(key)}</Key><UploadId>{name}</UploadId>"
            )
            return xml(
                f"<InitiateMultipartUploadResult {XMLNS}>{ids}</InitiateMultipartUploadResult>"
            )
        upload = self._uploads.get(query.get("uploadId", ""))
        if upload is None or upload.key != key:
            raise Refused(404, "NoSuchUpload")
        if method == "PUT":
            return self._part(request, upload, int(query["partNumber"]))
        if method == "DELETE":
            del self._uploads[query["uploadId"]]
            return empty(204)
        if method == "GET":
            return self._list_parts(bucket, query["uploadId"], upload)
        check_write(bucket.get(key), request.headers)
        return self._complete(request, bucket, upload)

    def _part(self, request: Request, upload: Upload, number: int) -> Response:
        if "x-amz-copy-source" not in request.headers:
            made = stored(request, self._etag)
            upload.parts[number] = made
            return empty(200, {"ETag": f'"{made.etag}"'})
        source = self._source(request)
        first, size = 0, source.size
        if "x-amz-copy-source-range" in request.headers:
            first, size = byte_range(request.headers["x-amz-copy-source-range"], source.size)
        parts = [part for part in source.body(first, size) if isinstance(part, memoryview)]
        made = Object(
            size, f"{next(self._numbers):032x}", time.time(), {}, None, source.start + first
        )
        if source.parts is not None:
            made.parts = parts
        upload.parts[number] = made
        return copied("CopyPartResult", made)

    def _list_parts(self, bucket: Bucket, name: str, upload: Upload) -> Response:
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><LastModified>{iso_date(int(part.mtime_s))}</LastModified>"
            f"<ETag>&quot;{part.etag}&quot;</ETag><Size>{part.size}</Size></Part>"
            for number, part in sorted(upload.parts.items())
        )
        return xml(
            f"<ListPartsResult {XMLNS}><Bucket>{bucket.name}</Bucket>"
            f"<Key>{escape(upload.key)}</Key><UploadId>{name}</UploadId><IsTruncated>false</IsTruncated>{rows}</ListPartsResult>"
        )

    def _complete(self, request: Request, bucket: Bucket, upload: Upload) -> Response:
        numbers = [int(n) for n in re.findall(rb"<PartNumber>\s*(\d+)", bytes(payload(request)))]
        if not numbers or numbers != sorted(set(numbers)) or not set(numbers) <= set(upload.parts):
            raise Refused(400, "InvalidPart")
        chosen = [upload.parts[number] for number in numbers]
        joined = hashlib.md5("".join(part.etag for part in chosen).encode(), usedforsecurity=False)
        made = Object(
            sum(part.size for part in chosen),
            f"{joined.hexdigest()}-{len(chosen)}",
            time.time(),
            upload.headers,
            [piece for part in chosen for piece in part.parts or []],
        )
        if any(part.parts is None for part in chosen):  # copied from synthetic objects
            made.parts, made.start = None, chosen[0].start
        bucket.put(upload.key, made)
        del self._uploads[request.query["uploadId"]]
        names = f"<Bucket>{bucket.name}</Bucket><Key>{escape(upload.key)}</Key>{etag_xml(made)}"
        return xml(
            f"<CompleteMultipartUploadResult {XMLNS}>{names}</CompleteMultipartUploadResult>"
        )


def list_page(bucket: Bucket, query: dict[str, str]) -> bytes:
    """Return the body of one page of ListObjectsV2, or of ListObjects (version 1)."""
    second = query.get("list-type") == "2"
    encode = query.get("encoding-type") == "url"
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = (
        query.get("continuation-token", "") or query.get("start-after", "")
        if second
        else query.get("marker", "")
    )
    limit = max(0, min(1_000, int(query.get("max-keys") or 1_000)))
    page = bucket.list(prefix, delimiter, after, limit, encode)
    truncated = page.truncated and limit > 0
    fields = [
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult {XMLNS}>',
        f"<Name>{bucket.name}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>",
        f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>",
    ]
    if delimiter:
        fields.append(f"<Delimiter>{escape(delimiter)}</Delimiter>")
    if encode:
        fields.append("<EncodingType>url</EncodingType>")
    if second:
        fields.append(f"<KeyCount>{len(page.contents) + len(page.prefixes)}</KeyCount>")
    else:
        fields.append(f"<Marker>{escape(after)}</Marker>")
    if truncated:
        tag = "NextContinuationToken" if second else "NextMarker"
        fields.append(f"<{tag}>{escape(page.last)}</{tag}>")
    return "".join([*fields, *page.contents, *page.prefixes, "</ListBucketResult>"]).encode()


def read(bucket: Bucket, key: str, request: Request) -> Response:
    """Answer a GET or HEAD of an object."""
    name = request.query.get("versionId")
    found = bucket.get(key) if name is None else s3versions.version(bucket, key, name)
    if found is None:
        raise Refused(404, "NoSuchKey")
    wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
    if wanted and not same_etag(wanted, found.etag):
        raise Refused(412, "PreconditionFailed")
    if unwanted and same_etag(unwanted, found.etag):
        return empty(304, {"ETag": f'"{found.etag}"'})
    headers = {
        "Content-Type": "binary/octet-stream",
        "ETag": f'"{found.etag}"',
        "Last-Modified": http_date(found.mtime_s),
        "Accept-Ranges": "bytes",
        **found.headers,
    }
    first, size, status = 0, found.size, 200
    if "range" in request.headers:
        first, size = byte_range(request.headers["range"], found.size)
        headers["Content-Range"] = f"bytes {first}-{first + size - 1}/{found.size}"
        status = 206
    body = [] if request.method == "HEAD" else found.body(first, size)
    return Response(status, headers, body, size)


def byte_range(value: str, total: int) -> tuple[int, int]:
    """Return the first byte and the length that a Range header asks of *total* bytes."""
    matched = re.fullmatch(r"bytes=(\d*)-(\d*)", value)
    if matched is None or matched.group() == "bytes=-":
        raise Refused(400, "InvalidArgument")
    first, last = matched.groups()
    if not first:
        size = min(int(last), total)
        return total - size, size
    if int(first) >= total:
        raise Refused(416, "InvalidRange")
    return int(first), min(int(last or total), total - 1) - int(first) + 1


def check_write(found: Object | None, headers: dict[str, str]) -> None:
    """Refuse a write whose If-Match or If-None-Match does not hold."""
    wanted = headers.get("if-match")
    if wanted and found is None:
        raise Refused(404, "NoSuchKey")
    if wanted and found is not None and not same_etag(wanted, found.etag):
        raise Refused(412, "PreconditionFailed")
    if headers.get("if-none-match") == "*" and found is not None:
        raise Refused(412, "PreconditionFailed")


def same_etag(header: str, etag: str) -> bool:
    """Return whether an If-Match value names *etag*, quoted or bare."""
    return header.strip() == "*" or etag in [part.strip().strip('"') for part in header.split(",")]


def stored(request: Request, etag: Callable[[Request, memoryview], str]) -> Object:
    """Return the object that a PUT makes of its body."""
    body = payload(request)
    return Object(
        len(body), etag(request, body), time.time(), kept_headers(request.headers), [body]
    )


def kept_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers that S3 keeps with an object."""
    kept = {n: v for n, v in headers.items() if n in STORED_HEADERS or n.startswith("x-amz-meta-")}
    encodings = [part.strip() for part in kept.pop("content-encoding", "").split(",")]
    if real := ",".join(part for part in encodings if part not in ("", "aws-chunked")):
        kept["content-encoding"] = real
    return {"Content-Type" if n == "content-type" else n: v for n, v in kept.items()}


def payload(request: Request) -> memoryview:
    """Return the body without the `aws-chunked` framing that SDKs put around streams."""
    streaming = request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
    if not streaming and "aws-chunked" not in request.headers.get("content-encoding", ""):
        return request.body
    source, pieces, position = request.body, list[memoryview](), 0
    while True:
        line_end = position + bytes(source[position : position + 256]).index(b"\r\n")
        size = int(bytes(source[position:line_end]).partition(b";")[0], 16)
        if size == 0:
            return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        pieces.append(source[line_end + 2 : line_end + 2 + size])
        position = line_end + 4 + size


def unescape(text: str) -> str:
    """Return XML text with its entities resolved."""
    text = re.sub(r"&#x([0-9a-fA-F]+);", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), text)
    for entity, plain in (
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", '"'),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ):
        text = text.replace(entity, plain)
    return text


def copied(tag: str, made: Object) -> Response:
    """Answer a copy of an object or of a part."""
    date = iso_date(int(made.mtime_s))
    return xml(f"<{tag} {XMLNS}><LastModified>{date}</LastModified>{etag_xml(made)}</{tag}>")


def etag_xml(made: Object) -> str:
    """Return the element that shows an etag, in quotes as S3 does."""
    return f"<ETag>&quot;{made.etag}&quot;</ETag>"


def xml(text: str, status: int = 200, head: bool = False) -> Response:
    """Answer with an XML document (without its body for a HEAD)."""
    body = b"" if head else b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode()
    return Response(status, {"Content-Type": "application/xml"}, [memoryview(body)], len(body))


def empty(status: int, headers: dict[str, str] | None = None) -> Response:
    """Answer without a body."""
    return Response(status, headers or {}, [], 0)
