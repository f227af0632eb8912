"""A small S3 server in this process that keeps versions by AWS' rules, also while these are
suspended, which moto does not. The test holds its clock.

A version that is not kept as one has the version id "null", of which a key has one at most: where a
bucket does not keep versions (yet, or any more), a PUT replaces it, and so does the marker of a
DELETE (https://docs.aws.amazon.com/AmazonS3/latest/userguide/VersionSuspendedBehavior.html).

Threading: any number of connections; each request is answered under one lock.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

BORN_S = 1_793_491_200  # 2026-11-01T00:00:00Z
NULL = "null"
_Row = tuple[str, str, str]  # of a listing: where the next page goes on, and the element


class Kept(NamedTuple):
    version: str
    at_s: int
    body: bytes | None  # None: a delete marker


class Versioned:
    """One bucket. *page_max*: how much a page of a listing has at most."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = ""  # or "Enabled", "Suspended"
        self.now_s = BORN_S
        self.page_max = 1000
        self.names_copies = True  # the answer to a copy says its version id
        self.looks_at_copies = True  # at the If-None-Match of one, as AWS; Ceph does not
        self.before_copies: Callable[[], None] = lambda: None  # what others do meanwhile
        self.keys: dict[str, list[Kept]] = {}  # the newest first
        self._numbers = itertools.count(1)

    def put(self, key: str, body: bytes) -> str:
        return self._add(key, body)

    def delete(self, key: str) -> str:
        """Return the version id of the marker; "" where the bucket never had versions."""
        if self.status:
            return self._add(key, None)
        self._forget(key, NULL)
        return ""

    def delete_version(self, key: str, version: str) -> None:
        self._forget(key, version)

    def get(self, key: str, version: str = "") -> Kept | None:
        """Return *version*, or the newest one."""
        kept = self.keys.get(key, [])
        return next((each for each in kept if version in ("", each.version)), None)

    def present(self) -> dict[str, bytes]:
        newest = {key: kept[0].body for key, kept in self.keys.items()}
        return {key: body for key, body in newest.items() if body is not None}

    def _add(self, key: str, body: bytes | None) -> str:
        version = f"v{next(self._numbers):03}/+=%2F" if self.status == "Enabled" else NULL
        self._forget(key, version)
        self.keys.setdefault(key, []).insert(0, Kept(version, self.now_s, body))
        return version

    def _forget(self, key: str, version: str) -> None:
        kept = [each for each in self.keys.pop(key, []) if each.version != version]
        if kept:
            self.keys[key] = kept

    def page(self, query: dict[str, str]) -> str:
        """Return the answer to a ListObjectVersions."""
        limit = min(self.page_max, int(query.get("max-keys", "1000")))
        rows = self._rows(query)
        page = list(itertools.islice(rows, limit))
        more = next(rows, None) is not None
        following = ""
        if more:
            key, version, _ = page[-1]
            following = f"<NextKeyMarker>{quote(key)}</NextKeyMarker>"
            following += f"<NextVersionIdMarker>{version}</NextVersionIdMarker>" if version else ""
        return (
            f"<ListVersionsResult><Name>{self.name}</Name><EncodingType>url</EncodingType>"
            f"<Prefix>{quote(query.get('prefix', ''))}</Prefix>{following}"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{''.join(element for _, _, element in page)}</ListVersionsResult>"
        )

    def _rows(self, query: dict[str, str]) -> Iterator[_Row]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after, after_version = query.get("key-marker", ""), query.get("version-id-marker", "")
        group = after if delimiter and delimiter in after[len(prefix) :] else ""
        for key in sorted(self.keys):
            if not key.startswith(prefix) or key < after or (group and key.startswith(group)):
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                group = key[: cut + len(delimiter)]
                name = f"<Prefix>{quote(group)}</Prefix>"
                yield group, "", f"<CommonPrefixes>{name}</CommonPrefixes>"
                continue
            kept = self.keys[key]
            if key == after:
                ids = [each.version for each in kept]
                kept = kept[ids.index(after_version) + 1 :] if after_version else []
            for each in kept:
                yield key, each.version, _element(key, each, each is self.keys[key][0])


def _element(key: str, kept: Kept, latest: bool) -> str:
    at = datetime.fromtimestamp(kept.at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    said = (
        f"<Key>{quote(key)}</Key><VersionId>{kept.version}</VersionId>"
        f"<IsLatest>{str(latest).lower()}</IsLatest><LastModified>{at}</LastModified>"
    )
    if kept.body is None:
        return f"<DeleteMarker>{said}</DeleteMarker>"
    said += f"<ETag>&quot;{md5(kept.body).hexdigest()}&quot;</ETag><Size>{len(kept.body)}</Size>"
    return f"<Version>{said}<StorageClass>STANDARD</StorageClass></Version>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: Any) -> None: ...

    def _answer(self) -> None:
        asked = urlsplit(self.path)
        name, _, key = unquote(asked.path)[1:].partition("/")
        query = parse_qs(asked.query, keep_blank_values=True)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            bucket = self.server.buckets[name]
            only = {word: values[0] for word, values in query.items()}
            code, headers, body = (self._object if key else self._bucket)(bucket, key, only)
        self.send_response(code)
        for word, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(word, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer  # noqa: N815 - http.server's names

    def _bucket(self, bucket: Versioned, _: str, query: dict[str, str]) -> Any:
        if "versions" in query:
            return 200, {}, bucket.page(query).encode()
        if "versioning" in query:
            said = f"<Status>{bucket.status}</Status>" if bucket.status else ""
            root = "VersioningConfiguration"
            return 200, {}, f"<{root}>{said}</{root}>".encode()
        return (200 if self.command == "HEAD" else 501), {}, b""

    def _object(self, bucket: Versioned, key: str, query: dict[str, str]) -> Any:
        version = query.get("versionId", "")
        if self.command == "DELETE":
            if version:
                bucket.delete_version(key, version)
            else:
                bucket.delete(key)
            return 204, {}, b""
        if self.command == "PUT":
            return self._written(bucket, key)
        kept = bucket.get(key, version)
        if kept is None or kept.body is None:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        etag = f'"{md5(kept.body).hexdigest()}"'
        headers = {"ETag": etag, "x-amz-version-id": kept.version}
        if "Range" not in self.headers:
            return 200, headers, kept.body
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        said = f"bytes {first}-{last}/{len(kept.body)}"
        return 206, {**headers, "Content-Range": said}, kept.body[first : last + 1]

    def _written(self, bucket: Versioned, key: str) -> Any:
        if "x-amz-copy-source" not in self.headers:
            return 200, {"ETag": f'"{md5(b"").hexdigest()}"'} | _named(bucket.put(key, b"")), b""
        bucket.before_copies()
        if self.headers.get("If-None-Match") and bucket.looks_at_copies and key in bucket.present():
            return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        return self._copied(bucket, key)

    def _copied(self, bucket: Versioned, key: str) -> Any:
        source, _, version = self.headers["x-amz-copy-source"].partition("?versionId=")
        kept = bucket.get(unquote(source).lstrip("/").partition("/")[2], unquote(version))
        assert kept is not None and kept.body is not None
        made = bucket.put(key, kept.body)
        body = f"<CopyObjectResult><ETag>&quot;{md5(kept.body).hexdigest()}&quot;</ETag>"
        headers = _named(made) if bucket.names_copies else {}
        return 200, headers, f"{body}</CopyObjectResult>".encode()


def _named(version: str) -> dict[str, str]:
    return {"x-amz-version-id": version}


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.buckets: dict[str, Versioned] = {}


class VersioningServer:
    def __init__(self, server: _Server) -> None:
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}"

    def create(self, name: str) -> Versioned:
        """Return a new bucket, which never had versions."""
        self._server.buckets[name] = Versioned(name)
        return self._server.buckets[name]


@contextmanager
def versioning_server() -> Iterator[VersioningServer]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield VersioningServer(server)
    server.shutdown()
    server.server_close()
    thread.join()
