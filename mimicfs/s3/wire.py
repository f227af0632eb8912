"""The way of a file's bytes to S3 and back: GetObject, PutObject and UploadPart over the
connections of http.client, signed by ourselves.

botocore spends 1.9 ms of CPU on such a call, most of it on what is the same for each; this takes
a third of that, and a body goes into the caller's buffer without a copy in between (the figures
are in docs/performance.md). It answers as botocore does, and asks again as often, with backoff
and jitter, what S3 throttles or loses. Whatever is out of the ordinary is asked of botocore
instead: parameters that are not plain headers, a proxy, another region, a refusal that may be
about how the request was signed.

Threading: any number of threads. `_lock` protects the idle connections and what is known of
buckets, and is held for a few instructions.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit
from xml.etree import ElementTree

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
)
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from mimicfs import __version__
from mimicfs.config import MIB, S3Options
from mimicfs.s3.backoff import RETRIED, backoff_s
from mimicfs.s3.signing import Signer

_METHODS = {"GetObject": "GET", "PutObject": "PUT", "UploadPart": "PUT"}
# Refusals that say all there is to say; of others, botocore may know more (regions, retries).
_PLAIN = frozenset({404, 412, 416})
_ERROR_MAX = 64 << 10  # bytes of an error answer that are looked at
_UNRESERVED = "/-._~"  # of a key, what a signed path has as it is (as botocore)
_BROKEN = (OSError, http.client.HTTPException)


class _Place(NamedTuple):
    """Where the objects of a bucket are, and for which region requests are signed."""

    secure: bool
    host: str  # with its port
    path: str  # ends with "/"
    region: str  # "": requests are not signed

    @property
    def named(self) -> str:
        """What http.client says as Host: the port, where it is not the usual one."""
        return self.host.removesuffix(":443" if self.secure else ":80")

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}{self.path}"


class Wire:
    """Answers *client*'s calls. *credentials* returns what to sign with; *count* is told the
    method of each request, *note* the size of what it sends."""

    def __init__(
        self,
        client: Any,
        credentials: Callable[[], Any],
        options: S3Options,
        ca_bundle: str | None,
        count: Callable[[str], None],
        note: Callable[[int], None],
    ) -> None:
        self._client = client
        self._otherwise: Callable[[str, dict[str, Any]], Any] = client._make_api_call
        self._credentials = credentials
        self._options = options
        self._ca_bundle = ca_bundle
        self._count = count
        self._note = note
        s3_config = client.meta.config.s3 or {}
        self._signer = Signer(whole=s3_config.get("payload_signing_enabled") is not False)
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()  # protects all below
        self._closed = False
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}  # by host
        self._places: dict[str, _Place | None] = {}  # by bucket; None: left to botocore
        self._locations = {name: _locations(client, name) for name in _METHODS}

    def ask(self, operation: str, params: dict[str, Any]) -> Any:
        """As `_make_api_call`: return the answer, or raise ClientError or BotoCoreError."""
        for attempt in range(self._options.attempts):
            request = self._prepared(operation, params)  # signed anew: the clock goes on
            if request is None:
                break
            if attempt:
                time.sleep(backoff_s(attempt - 1))
            try:
                return self._sent(operation, request)
            except _Again as exc:
                failed: Exception = exc.error
            except _ForBotocore:
                request.rewind()
                break
            request.rewind()
        else:
            raise failed
        return self._otherwise(operation, params)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections = [each for idle in self._idle.values() for each in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()

    # Requests

    def _prepared(self, operation: str, params: dict[str, Any]) -> _Request | None:
        """Return the signed request; None: it is not one for here."""
        locations = self._locations.get(operation)
        if locations is None or not params["Key"]:
            return None
        place = self._place(params["Bucket"])
        said = _said(params, locations)
        if place is None or said is None:
            return None
        headers, query = said
        path = quote(params["Key"], safe=_UNRESERVED)
        body = params.get("Body", b"")
        start = 0 if isinstance(body, bytes) else body.tell()
        method, path = _METHODS[operation], place.path + path
        if place.region:
            headers = self._signer.signed(
                *(self._credentials(), place.region, method, place.named),
                *(path, query, headers, body),
            )
        return _Request(place, method, path + (f"?{query}" if query else ""), headers, body, start)

    def _sent(self, operation: str, request: _Request) -> dict[str, Any]:
        """Return the answer to *request*. Raises ClientError, _Again, _ForBotocore."""
        idle = self._taken(request.place)
        if idle is not None:
            try:
                return self._exchanged(operation, request, idle)
            except _BROKEN:  # S3 had given the connection up
                request.rewind()
        try:
            connection = self._connected(request.place)
        except _BROKEN as exc:
            url = request.place.url
            raise _Again(EndpointConnectionError(endpoint_url=url, error=exc)) from exc
        try:
            return self._exchanged(operation, request, connection)
        except _BROKEN as exc:
            url = request.place.url
            raise _Again(ConnectionClosedError(endpoint_url=url, error=exc)) from exc

    def _exchanged(
        self, operation: str, request: _Request, connection: http.client.HTTPConnection
    ) -> dict[str, Any]:
        self._count(request.method)
        self._note(int(request.headers.get("Content-Length", 0)))
        try:
            connection.request(request.method, request.target, request.body, request.headers)
            found = connection.getresponse()
        except BaseException:  # also what the body raises when it is read
            connection.close()
            raise
        headers = {name.lower(): value for name, value in found.getheaders()}
        if found.status not in (200, 206):
            with closing(connection):
                said = found.read(_ERROR_MAX)
            raise self._refused(request.place, _refusal(operation, found.status, headers, said))
        answer = _answer(found.status, headers)
        body = _Body(self, request.place.host, connection, found)
        if operation == "GetObject":
            return {**answer, "Body": body}
        if body.rest():  # S3 says nothing but headers
            raise _ForBotocore
        return answer

    def _refused(self, place: _Place, error: ClientError) -> Exception:
        """Return what is to be made of a refusal."""
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response["Error"]["Code"]
        if status in RETRIED or code == "RequestTimeout":
            return _Again(error)
        if status in _PLAIN:
            return error
        if status in (301, 307, 400):
            self._leave_alone(place)
        return _ForBotocore()

    # Where to

    def _place(self, bucket: str) -> _Place | None:
        if bucket not in self._places:
            place = self._found(bucket)
            with self._lock:
                self._places[bucket] = place
        return self._places[bucket]

    def _found(self, bucket: str) -> _Place | None:
        """Return where botocore would ask, by its own rules; None where it takes more than
        this has (proxies, access points that sign for all regions, directory buckets)."""
        try:
            url = self._client.generate_presigned_url("head_bucket", {"Bucket": bucket})
        except BotoCoreError:
            return None  # who asks is told why
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        signed = query.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"]
        if get_environ_proxies(url) or signed != self._options.sign:
            return None
        scope = query["X-Amz-Credential"][0].split("/") if signed else []
        if signed and (len(scope) < 5 or scope[-2] != "s3"):
            return None
        path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
        return _Place(parts.scheme == "https", parts.netloc, path, scope[-3] if signed else "")

    def _leave_alone(self, place: _Place) -> None:
        """A bucket may be in another region: botocore finds it, and remembers where."""
        with self._lock:
            for bucket, known in self._places.items():
                if known == place:
                    self._places[bucket] = None

    # Connections

    def _taken(self, place: _Place) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(place.host)
            return idle.pop() if idle else None

    def put_back(self, host: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            idle = self._idle.setdefault(host, [])
            if len(idle) < self._options.connections and not self._closed:
                idle.append(connection)
                return
        connection.close()

    def _connected(self, place: _Place) -> http.client.HTTPConnection:
        """Return a new connection. Its time limits are those of the options."""
        limit = self._options.connect_timeout_s
        parts = urlsplit(f"//{place.host}")
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if place.secure:
            connection = http.client.HTTPSConnection(
                host, port, timeout=limit, blocksize=MIB, context=self._trusted()
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=limit, blocksize=MIB)
        connection.connect()
        connection.sock.settimeout(self._options.read_timeout_s)
        return connection

    def _trusted(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                cafile = self._ca_bundle or get_cert_path(True)
                self._tls = ssl.create_default_context(cafile=cafile)
            return self._tls


class _Again(Exception):
    """A request failed in a way that may pass; *error* if it does not."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _ForBotocore(Exception):
    """A request was refused, and botocore may know what to do about it."""


class _Request(NamedTuple):
    place: _Place
    method: str
    target: str
    headers: dict[str, str]
    body: Any  # bytes, or a file
    start: int  # the place of the file where what is sent begins

    def rewind(self) -> None:
        if not isinstance(self.body, bytes):
            self.body.seek(self.start)


class _Body:
    """The body of an answer to a GET, as botocore's: to be read or closed."""

    def __init__(
        self,
        wire: Wire,
        host: str,
        connection: http.client.HTTPConnection,
        answer: http.client.HTTPResponse,
    ) -> None:
        self._wire = wire
        self._host = host
        self._connection = connection
        self._answer = answer
        self._closed = False

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* as far as bytes are here; 0 at the end. Raises OSError."""
        try:
            return self._answer.readinto(buffer)
        except http.client.HTTPException as exc:
            raise ConnectionError(f"the answer broke off: {exc!r}") from exc

    def rest(self) -> bytes:
        """Return what is left, as far as anybody looks at it, and close."""
        try:
            return self._answer.read(_ERROR_MAX)
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back if all was read, else close it."""
        if self._closed:
            return
        self._closed = True
        done = self._answer.isclosed() or not self._answer.length
        if done and not self._answer.will_close:
            self._answer.close()
            self._wire.put_back(self._host, self._connection)
        else:
            self._connection.close()


def _locations(client: Any, operation: str) -> dict[str, tuple[str, str, str]]:
    """Return where the parameters of *operation* go, by the service model: (location, name,
    type)."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    return {
        name: (
            member.serialization.get("location", ""),
            member.serialization.get("name", name),
            member.type_name,
        )
        for name, member in shape.members.items()
    }


def _said(
    params: dict[str, Any], locations: dict[str, tuple[str, str, str]]
) -> tuple[dict[str, str], str] | None:
    """Return the headers and the query that *params* make; None: only botocore knows how."""
    headers: dict[str, str] = {"User-Agent": f"mimicfs/{__version__}"}
    query: list[str] = []
    for name, value in params.items():
        location, header, kind = locations.get(name, ("", "", ""))
        if location == "header" and kind in ("string", "integer", "long"):
            headers[header] = str(value)
        elif location == "headers":
            headers |= {header + key: text for key, text in value.items()}
        elif location == "querystring" and kind in ("string", "integer"):
            query.append(f"{header}={quote(str(value), safe='-._~')}")
        elif name not in ("Bucket", "Key", "Body"):
            return None
    if not all(_is_plain(text) for text in headers.values()):
        return None
    return headers, "&".join(sorted(query))


def _is_plain(text: str) -> bool:
    """Whether a header can carry *text* as it is: no line breaks, nothing beside ASCII, and
    no blanks that a signature takes for fewer."""
    return text.isascii() and text.isprintable() and "  " not in text and text == text.strip()


def _answer(status: int, headers: dict[str, str]) -> dict[str, Any]:
    """Return what botocore makes of the headers of a success."""
    told: dict[str, Any] = {
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": headers,
            "RequestId": headers.get("x-amz-request-id", ""),
        },
        "Metadata": {
            name.removeprefix("x-amz-meta-"): value
            for name, value in headers.items()
            if name.startswith("x-amz-meta-")
        },
    }
    for name, key in _TOLD.items():
        if name in headers:
            told[key] = headers[name]
    length = headers.get("content-length", "")
    if length.isdecimal():
        told["ContentLength"] = int(length)
    with suppress(KeyError, ValueError):  # no answer of S3: who asked finds out
        told["LastModified"] = parsedate_to_datetime(headers["last-modified"])
    return told


_TOLD = {
    "etag": "ETag",
    "content-range": "ContentRange",
    "content-type": "ContentType",
    "x-amz-storage-class": "StorageClass",
    "x-amz-version-id": "VersionId",
    "x-amz-restore": "Restore",
}


def _refusal(operation: str, status: int, headers: dict[str, str], said: bytes) -> ClientError:
    """Return the error that botocore would raise."""
    try:
        root = ElementTree.fromstring(said)
        error = {child.tag.rpartition("}")[2]: child.text or "" for child in root}
    except ElementTree.ParseError:
        error = {}
    answer: Any = {
        "Error": {"Code": str(status), "Message": "", **error},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": headers,
            "RequestId": headers.get("x-amz-request-id", ""),
        },
    }
    return ClientError(answer, operation)
