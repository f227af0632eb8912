"""A proxy that stands before an S3 server: it counts requests by kind, and holds or spoils
those that a test names.

HTTP/1.1, a thread for each connection. Bodies are passed on as they are, by Content-Length
or in chunks; botocore is told to send on (100 Continue) by the proxy itself.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PIECE = 1 << 18
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


class Request:
    """A rule's view of a request: its kind ("GET", "LIST" ...), bucket and key."""

    def __init__(self, method: str, target: str, headers: Any) -> None:
        self.headers = headers
        parts = urlsplit(target)
        self.path = parts.path
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.bucket, _, self.key = parts.path.lstrip("/").partition("/")
        self.kind = self._kind(method, headers)

    def _kind(self, method: str, headers: Any) -> str:
        if "x-amz-copy-source" in headers:
            return "COPY"
        if (
            method == "GET"
            and not self.key
            and not self.query.keys() & {"location", "ownershipControls", "acl"}
        ):
            return "LIST" if self.bucket else "LIST_BUCKETS"
        return method


class Rule:
    """The fate of requests for which *matches* is true."""

    def __init__(self, matches: Callable[[Request], bool]) -> None:
        self.matches = matches
        self.seen = 0
        self.reached = threading.Event()  # a request came

    def applies(self, request: Request) -> bool:
        return self.matches(request)

    def before(self, handler: Any) -> bool:
        """Whether the server is not to see the request of *handler*, whose body was not read."""
        return False

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        """Whether the answer of the server is not to be passed on."""
        return False

    def end(self) -> None:
        """The rule holds no longer."""


class Hold(Rule):
    """Requests wait, before the server sees them, until `release`; with *answers*, after it has
    answered, and `reached` says that."""

    def __init__(self, matches: Callable[[Request], bool], *, answers: bool = False) -> None:
        super().__init__(matches)
        self.answers = answers
        self._go = threading.Event()

    def release(self) -> None:
        self._go.set()

    end = release

    def wait(self) -> None:
        self._go.wait(30)


class Drop(Hold):
    """Requests wait until `release`, and never reach the server."""


class Fail(Rule):
    """Requests are answered with *status* and never reach the server."""

    def __init__(
        self, matches: Callable[[Request], bool], status: int, code: str, **headers: str
    ) -> None:
        super().__init__(matches)
        self.headers = [("Content-Type", "application/xml"), *headers.items()]
        self.status = status
        self.body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()


class Cut(Rule):
    """Answers end, and the connection with them, after *keep* bytes of the body."""

    def __init__(self, matches: Callable[[Request], bool], keep: int, times: int) -> None:
        super().__init__(matches)
        self.keep = keep
        self.times = times


class Lose(Rule):
    """The first *times* requests reach the server, and their answers nobody."""

    def __init__(self, matches: Callable[[Request], bool], times: int = 1) -> None:
        super().__init__(matches)
        self.times = times


class LoseOne(Lose):
    """The answer to the first request is lost, all others are refused."""

    def before(self, handler: Any) -> bool:
        if self.seen == 1:
            return False
        handler.body()
        error = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
        handler.send(403, [("Content-Type", "application/xml")], error)
        return True


class Ignore(Rule):
    """The server does not look at the header *name*."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda request: name in request.headers)
        self._name = name

    def before(self, handler: Any) -> bool:
        del handler.headers[self._name]
        return False


class Replace(Rule):
    """Answers have *body* instead of their own."""

    def __init__(self, matches: Callable[[Request], bool], body: bytes) -> None:
        super().__init__(matches)
        self.body = body


class Spoil(Rule):
    """Answers have other bytes than their own, as many."""


class Proxy:
    """The proxy before the server at *upstream*."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.latency_s = 0.0
        self._lock = threading.Lock()  # protects the two below
        self._counts: Counter[str] = Counter()
        self._rules: list[Rule] = []
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        # A daemon: else a fixture that fails before it closes this keeps the tests from ending.
        self._thread = threading.Thread(target=serve, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def counted(self) -> dict[str, int]:
        """Return how many requests of each kind came since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)

    @contextmanager
    def rule(self, rule: Any) -> Iterator[Any]:
        """Within, *rule* holds."""
        with self._lock:
            self._rules.append(rule)
        try:
            yield rule
        finally:
            with self._lock:
                self._rules.remove(rule)
            rule.end()

    def came(self, request: Request) -> Rule | None:
        """Count *request*, and return the rule that applies to it."""
        with self._lock:
            self._counts[request.kind] += 1
            for rule in self._rules:
                if rule.applies(request):
                    rule.seen += 1
                    if not (isinstance(rule, Hold) and rule.answers):
                        rule.reached.set()
                    return rule
        return None


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def setup(self) -> None:
        super().setup()
        upstream = self.proxy.upstream
        self.server_side = http.client.HTTPConnection(upstream.hostname or "", upstream.port)

    def finish(self) -> None:
        self.server_side.close()
        super().finish()

    def answer(self) -> None:
        request = Request(self.command, self.path, self.headers)
        rule = self.proxy.came(request)
        if self.proxy.latency_s:
            time.sleep(self.proxy.latency_s)
        if isinstance(rule, Hold) and not rule.answers:
            rule.wait()
        if isinstance(rule, Drop):
            self.close_connection = True
            return
        if rule is not None and rule.before(self):
            return
        try:
            body = self.body()
        except ConnectionError:  # the server would wait for the rest, and hold what it locks
            self.close_connection = True
            return
        if isinstance(rule, Fail):
            self.send(rule.status, rule.headers, rule.body)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        self.server_side.request(self.command, self.path, body, headers)
        response = self.server_side.getresponse()
        if isinstance(rule, Hold) and rule.answers:
            rule.reached.set()
            rule.wait()
        if isinstance(rule, Lose) and rule.seen <= rule.times:
            response.read()
            self.close_connection = True
            return
        try:
            self._pass_on(response, rule)
        except (BrokenPipeError, ConnectionResetError):  # the client wants the rest no more
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def body(self) -> bytes | None:
        """Return what was sent. Raises ConnectionError if the client left in the middle."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        length = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(length) if length else None
        if data is not None and len(data) < length:
            raise ConnectionError(f"{len(data)} of {length} bytes")
        return data

    def _pass_on(self, response: http.client.HTTPResponse, rule: Rule | None) -> None:
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP]
        if rule is not None and rule.after(self, response):
            return
        if isinstance(rule, Replace):
            response.read()
            self.send(response.status, [], rule.body)
            return
        length = response.getheader("Content-Length")
        if length is None or self.command == "HEAD":
            data = response.read()
            kept = [(k, v) for k, v in headers if k.lower() != "content-length"]
            if self.command == "HEAD" and length is not None:
                kept.append(("Content-Length", length))
                self.send(response.status, kept, None)
            else:
                self.send(response.status, kept, data)
            return
        self.head(response.status, headers)
        left = int(length)
        if isinstance(rule, Cut) and rule.seen <= rule.times and rule.keep < left:
            self.wfile.write(response.read(rule.keep))
            self.close_connection = True
            self.server_side.close()
            return
        while left and (piece := response.read(min(_PIECE, left))):
            if isinstance(rule, Spoil):
                piece = bytes(len(piece))
            self.wfile.write(piece)
            left -= len(piece)
        response.read()  # ends it, also where there was no byte to read

    def send(self, status: int, headers: list[tuple[str, str]], body: bytes | None) -> None:
        if body is not None:
            headers = [*headers, ("Content-Length", str(len(body)))]
        self.head(status, headers)
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
