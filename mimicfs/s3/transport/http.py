"""HTTP to S3, with limits of time: requests of `wire.py`, botocore and the lister go over these
connections.

A request has `read_timeout_s` for each piece that is sent or received. As a whole it has
`request_timeout_s`, and the time that its bytes take at a crawl. So an answer that comes a byte at
a time ends too; botocore itself limits only the pauses.

Nothing here follows a redirect: it is an answer like any other.

Threading: any number of threads. `_lock` protects the idle connections, and is held for a few
instructions.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import struct
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import URLLib3Session, get_cert_path

from mimicfs.baton import Baton
from mimicfs.config.values import S3Options
from mimicfs.s3.transport.advice import UNREADABLE
from mimicfs.s3.transport.answers import decoded, readable
from mimicfs.s3.transport.limits import Limits
from mimicfs.s3.transport.plain import LastAnswer, PlainAnswer, answer_from, joined, request_head
from mimicfs.s3.transport.proxies import Proxies

BROKEN = (OSError, http.client.HTTPException)
# The bytes of an answer that is not read in pieces. A page of a listing, 1,000 keys of 1,024 bytes,
# each written as %XX, has 4 MiB.
ANSWER_MAX = 16 << 20
# Bytes of a body that are handed to the network at once, and have `read_timeout_s` for that:
# large enough to cost little, small enough for eight uploads over a slow line.
_PIECE = 256 << 10
_SMALL = 64 << 10  # bytes of a body that are copied behind the head of its request
_LARGE = 64 << 10  # bytes that are awaited in one system call
_PAUSE_S = 1.0  # how long that call waits for more
_NO_BODY = frozenset({"GET", "HEAD", "DELETE"})
_IDLE = 64  # idle connections that are kept, at least
_CRAWL = 8 << 10  # bytes a second; a request that is slower over its whole body is given up


class Exchange:
    """A request that was sent, and its answer: to be read to the end, or closed."""

    def __init__(
        self, transport: Transport, host: str, connection: Connection, answer: Any
    ) -> None:
        self._transport = transport
        self._host = host
        self._connection = connection
        self._answer: http.client.HTTPResponse | PlainAnswer = answer
        self._closed = False
        self.status: int = answer.status
        self.headers = _joined(answer)

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* as far as there are bytes; 0 at the end. Raises OSError."""
        try:
            return self._answer.readinto(buffer)
        except http.client.HTTPException as exc:
            raise ConnectionError(f"the answer broke off: {exc!r}") from exc

    def rest(self, limit: int | None = None) -> bytes:
        """Return the rest of the body, up to *limit* bytes, and close. Raises BROKEN."""
        try:
            return self._answer.read(limit)
        finally:
            self.close()

    def close(self) -> None:
        """Keep the connection for the next request if the whole answer was read; else close it."""
        if self._closed:
            return
        self._closed = True
        done = self._answer.isclosed() or self._answer.length == 0  # None: in chunks
        self._answer.close()  # else the socket stays open until it is collected
        if done and not self._answer.will_close:
            self._transport.keep(self._host, self._connection)
        else:
            self._connection.close()


class Transport:
    """Connections to S3, within the limits of *options*."""

    def __init__(
        self, options: S3Options, ca_bundle: str | None, limits: Limits | None = None
    ) -> None:
        self._options = options
        self._limits = limits or Limits(options)
        self.baton = Baton()  # of the threads that wait for answers
        self._ca_bundle = ca_bundle
        self.proxies = Proxies()
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()  # protects what is below, and the making of contexts
        self._proxied: Any = None
        self._idle: dict[str, list[Connection]] = {}  # by scheme and host
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections = [each for idle in self._idle.values() for each in idle]
            self._idle.clear()
        if self._proxied is not None:
            self._proxied.close()
        for connection in connections:
            connection.close()

    def exchange(
        self, method: str, url: str, target: str, headers: dict[str, Any], body: Any
    ) -> Exchange:
        """Send the request for *target* to the host of *url*; return its answer when its
        headers are here. Raises botocore's errors of the network, and any error of *body*."""
        host = url[: url.find("/", 8)] if "/" in url[8:] else url
        connection = self._connected(host)
        try:
            answer = connection.answer_to(method, target, headers, body)
        except BaseException as exc:  # also errors of the body, while it is read
            connection.close()
            if isinstance(exc, BROKEN) and not connection.body_failed:
                raise network_error(exc, host) from exc
            raise
        return Exchange(self, host, connection, answer)

    def sent(self, request: Any) -> Any:
        """Return the answer to a request that botocore has prepared, also through a proxy. Its body
        is as it came."""
        found = self._exchanged(request)
        if found is None:
            return self._through_proxy().send(request)
        return _answer(request, found.status, found.headers, _all_of(found, request))

    def _through_proxy(self) -> Any:
        with self._lock:
            if self._proxied is None:
                session: Any = URLLib3Session  # its stubs know neither a bundle nor two limits
                self._proxied = session(
                    verify=self._ca_bundle or True,
                    proxies=self.proxies.by_scheme,
                    timeout=(self._options.connect_timeout_s, self._options.read_timeout_s),
                    max_pool_connections=self._options.connections,
                )
            return self._proxied

    def before_send(self, request: Any, event_name: str = "", **_: Any) -> AWSResponse | None:
        """Return the answer to a request that botocore has prepared (its event of this name), with
        a body that botocore can read; None: the request must be sent otherwise."""
        found = self._exchanged(request)
        if found is None:
            return None
        kind, status = found.headers.get("content-type", ""), found.status
        body = readable(status, _all_of(found, request), kind)
        if event_name.endswith(".HeadBucket") and status in (301, 302, 307):
            # When a redirect does not name the region, botocore makes this request to find it. If a
            # redirect that does not name it answers this one too, botocore asks once more, and so
            # on (RecursionError).
            status = status if "x-amz-bucket-region" in found.headers else 400
        return _answer(request, status, found.headers, body)

    def _exchanged(self, request: Any) -> Exchange | None:
        """Send a request that botocore has prepared; None: it must be sent otherwise, because it
        goes to a proxy or in chunks, or because its answer is read in pieces."""
        chunked = "Transfer-Encoding" in request.headers
        if request.stream_output or chunked or self.proxies.serve(request.url):
            return None
        parts = urlsplit(request.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return self.exchange(
            request.method, request.url, target, dict(request.headers.items()), request.body
        )

    # Connections

    def idle(self, host: str) -> Connection | None:
        """Return a connection to *host* ("https://HOST:PORT") that nobody uses, if there is one.
        The caller keeps it again (`keep`), or closes it."""
        while (idle := self._taken(host)) is not None:
            if not _given_up(idle):
                return idle
            idle.close()
        return None

    def _connected(self, host: str) -> Connection:
        """Return a connection to *host*, an idle one or a new one."""
        idle = self.idle(host)
        if idle is not None:
            return idle
        scheme, _, place = host.partition("://")
        connection = self._new(scheme == "https", place)
        connection.baton = self.baton
        try:
            connection.connect()
        except BROKEN as exc:
            connection.close()
            raise _unreached(exc, host) from exc
        return connection

    def _taken(self, host: str) -> Connection | None:
        with self._lock:
            idle = self._idle.get(host)
            return idle.pop() if idle else None

    def keep(self, host: str, connection: Connection) -> None:
        with self._lock:
            idle = self._idle.setdefault(host, [])
            if len(idle) < max(_IDLE, self._options.connections) and not self._closed:
                idle.append(connection)
                return
        connection.close()

    def _new(self, secure: bool, place: str) -> Connection:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port
        if secure:
            context = self._trusted(host)
            return _SecureConnection(host, port, self._options, self._limits, context=context)
        return Connection(host, port, self._options, self._limits)

    def _trusted(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                cafile = self._ca_bundle or get_cert_path(True)
                try:
                    self._tls = ssl.create_default_context(cafile=cafile)
                except OSError as exc:  # it is not there, or holds no certificates
                    told = f"{UNREADABLE} {cafile}: {exc.strerror or exc}"
                    raise SSLError(endpoint_url=f"https://{host}", error=OSError(told)) from exc
            return self._tls


def _all_of(found: Exchange, request: Any) -> bytes:
    """Return the body of the answer to *request*; of a body that is longer than ANSWER_MAX, one
    byte more than that."""
    try:
        return decoded(found.headers, found.rest(ANSWER_MAX + 1), ANSWER_MAX + 1)
    except BROKEN as exc:
        parts = urlsplit(request.url)
        raise network_error(exc, f"{parts.scheme}://{parts.netloc}") from exc


def _answer(request: Any, status: int, headers: dict[str, str], body: bytes) -> AWSResponse:
    return AWSResponse(request.url, status, headers, _WholeBody(body))  # type: ignore[arg-type]


class _WholeBody:
    """The body of an AWSResponse."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> list[bytes]:
        return [self._data]


def network_error(exc: BaseException, host: str) -> HTTPClientError:
    """Return botocore's error for *exc*, which broke an exchange with *host*."""
    if isinstance(exc, TimeoutError):
        return ReadTimeoutError(endpoint_url=host, error=exc)
    return ConnectionClosedError(endpoint_url=host, error=exc)


def _unreached(exc: BaseException, host: str) -> Exception:
    if isinstance(exc, ssl.SSLError):
        return SSLError(endpoint_url=host, error=exc)
    if isinstance(exc, TimeoutError):
        return ConnectTimeoutError(endpoint_url=host, error=exc)
    return EndpointConnectionError(endpoint_url=host, error=exc)


def _given_up(connection: Connection) -> bool:
    """Whether the server has closed an idle connection (or has sent something unasked)."""
    sock: socket.socket = connection.sock
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True  # TLS has read it already: the kernel's socket does not show it
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _joined(answer: http.client.HTTPResponse | PlainAnswer) -> dict[str, str]:
    """Return the headers, their names in lower case."""
    if isinstance(answer, PlainAnswer):
        return answer.joined
    return joined(answer.getheaders())


class Connection(http.client.HTTPConnection):
    """One connection, and the time at which the request on it is given up (`_ends`)."""

    def __init__(
        self, host: str, port: int | None, options: S3Options, limits: Limits, **tls: Any
    ) -> None:
        super().__init__(host, port, timeout=options.connect_timeout_s, blocksize=_PIECE, **tls)
        self.response_class = self._response  # type: ignore[assignment]
        usual = self.port == self.default_port
        self._named = self.host if usual else f"{self.host}:{self.port}"
        self._options = options
        self.limits = limits
        self._ends = 0.0
        self.sent = 0  # bytes of the body
        self.body_failed = False  # the body itself has raised the error
        self.baton = Baton()  # of the thread that waits for an answer

    def answer_to(
        self, method: str, target: str, headers: dict[str, Any], body: Any
    ) -> http.client.HTTPResponse | PlainAnswer:
        """Return the answer when its headers are here. Raises BROKEN, and any error of *body*."""
        self._ends = time.monotonic() + self._options.request_timeout_s
        self.sock.settimeout(self._options.read_timeout_s)
        cut = False
        head = self._head(method, target, headers, body)
        try:
            if head is None:
                self.request(method, target, self._pieces(body), headers)
            else:
                self._send_plainly(head, self._pieces(body), int(headers.get("Content-Length", 0)))
        except (BrokenPipeError, ConnectionResetError):
            if self.body_failed:
                raise
            cut = True  # S3 may have refused the request in the middle, and have said why
        self._ends += self.sent / _CRAWL
        answer: http.client.HTTPResponse | PlainAnswer
        if head is None:
            answer = self.getresponse()
        else:
            answer = answer_from(_Incoming(self.sock, self), method)
        if cut and answer.status < 300:
            answer.close()  # else the socket stays open until it is collected
            raise ConnectionError("the connection broke while the request was sent")
        self._ends += (answer.length or 0) / _CRAWL
        return answer

    def _head(self, method: str, target: str, headers: dict[str, Any], body: Any) -> bytes | None:
        """Return the bytes before the body; None: http.client knows how to make them."""
        length = headers.get("Content-Length", "0" if not body and method in _NO_BODY else "")
        if type(length) is not str or not length.isdecimal() or ":" in self.host:
            return None
        return request_head(self._named, method, target, headers)

    def _send_plainly(self, head: bytes, body: Any, length: int) -> None:
        """Send *head* and *length* bytes of *body*. A small body goes out together with the head:
        that is one system call, and wakes the server once.

        *body* is never read past *length*. The server has everything by then, and a body that
        raises because it was given up would end the request as if the server had not got it. The
        caller must wait for the outcome.
        """
        piece = body.read(min(length, _PIECE)) if length and body else b""
        if len(piece) <= _SMALL:
            self.sock.sendall(head + piece)
        else:
            self.sock.sendall(head)
            self.sock.sendall(piece)
        length -= len(piece)
        while length and piece:
            piece = body.read(min(length, _PIECE))
            self.sock.sendall(piece)
            length -= len(piece)
        if length:
            raise ConnectionError(f"{length} bytes of the body are missing")

    def _pieces(self, body: Any) -> Any:
        """Return *body* as an object that is sent piece by piece and counts its bytes."""
        self.sent = 0
        if not body:
            return body
        return _Outgoing(io.BytesIO(body) if isinstance(body, bytes | bytearray) else body, self)

    def _response(self, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:
        return LastAnswer(_Slowed(sock, self), **options)  # type: ignore[arg-type]

    def limit_s(self) -> float:
        """Return how long the next bytes may take. Raises TimeoutError."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        return min(left, self._options.read_timeout_s)

    def waited(self, took_s: float) -> None:
        """Give the request *took_s* more: a limit of ours held the bytes back, not the server."""
        self._ends += took_s


def _timeval(seconds: float) -> bytes:
    """Return *seconds* as the kernel's struct timeval."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6) or 1)


class _SecureConnection(Connection, http.client.HTTPSConnection):
    def connect(self) -> None:
        """As HTTPSConnection does; but check the certificate for the name without a dot at its end,
        which DNS knows and no certificate has."""
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host.rstrip("."))


class _Outgoing:
    """A body as http.client reads it. Tells an error of the body from a broken connection."""

    def __init__(self, body: Any, connection: Connection) -> None:
        self._body = body
        self._connection = connection

    def read(self, size: int) -> bytes:
        upload = self._connection.limits.upload
        try:
            data: bytes = self._body.read(min(size, upload.piece()))
        except BaseException:
            self._connection.body_failed = True
            raise
        self._connection.sent += len(data)
        self._connection.waited(upload.wait(len(data)))
        return data


class _Slowed:
    """Stands for a socket in an HTTPResponse: reads keep the limits of the connection."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self._sock = sock
        self._connection = connection

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._sock, self._connection))


class _Incoming(io.RawIOBase):
    """The bytes that come from a socket.

    A large piece is awaited in one system call, as long as something comes: the thread does without
    the interpreter's lock all the while, where it would ask for it after each 64 KiB or so.
    """

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self._sock = sock
        self._connection = connection
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open until it is closed
        self._at_once = not isinstance(sock, ssl.SSLSocket)  # whether a large piece may be

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        download = self._connection.limits.download
        if download.limit:
            buffer = memoryview(buffer)[: download.piece()]
        elif self._at_once and len(buffer) >= _LARGE:
            return self._fill(buffer)
        count = self._receive(buffer, self._connection.limit_s())
        if count:
            self._connection.waited(download.wait(count))
        return count

    def _receive(self, buffer: Any, limit_s: float) -> int:
        if self._sock.gettimeout() != limit_s:  # each change is a system call
            self._sock.settimeout(limit_s)
        with self._connection.baton.resting():
            return self._sock.recv_into(buffer)

    def _fill(self, buffer: Any) -> int:
        """Fill *buffer*; with less at the end, or where nothing came for a while. (The kernel
        counts the pauses together.)"""
        limit_s = self._connection.limit_s()
        pause_s = min(_PAUSE_S, limit_s / 4)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(pause_s))
        self._sock.settimeout(None)
        try:
            return self._sock.recv_into(buffer, 0, socket.MSG_WAITALL)
        except BlockingIOError:  # nothing came at all
            return self._receive(buffer, limit_s - pause_s)

    def close(self) -> None:
        self._raw.close()
        super().close()
