"""Messages by HTTP POST: the webhooks of Ceph RGW, MinIO and RustFS.

Each POST holds one message and is answered once that is in the mirror (200), or must come again
(503): these servers keep what is not answered with 200, if they are told to. What a client sends
is a hint about a key and never believed, so a lie costs a request to S3, and no more; still,
nothing listens beyond loopback without a token (`Authorization: Bearer TOKEN`, as MinIO's
auth_token).

Threading: a thread for each POST, which waits for the consumer.
"""

from __future__ import annotations

import hmac
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any

from mimicfs.errors import ConfigError
from mimicfs.listening import opened
from mimicfs.sync.events.messages import MESSAGE_MAX
from mimicfs.sync.events.source import Delivery, Source

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0  # how long a client may take to send, and a message to be applied
_WAITING_MAX = 1000  # messages; more are refused, and come again
_BATCH_MAX = 100
_HARM = "make us ask S3 about any key"
_NO_TOKEN = "--events {}: give a token in MIMICFS_EVENTS_TOKEN or events-token"


class _Posted:
    """One message that a client waits for."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.done = threading.Event()
        self.applied = False

    def end(self, applied: bool) -> None:
        self.applied = applied
        self.done.set()


class Endpoint(Source):
    """Listens at *address* (listening.py). Raises ConfigError."""

    def __init__(self, address: str, token: str = "") -> None:
        if address.startswith("public:") and not token:
            raise ConfigError(_NO_TOKEN.format(address))
        self.name = f"http at {address}"
        self._posted: queue.Queue[_Posted | None] = queue.Queue(_WAITING_MAX)
        self._server = opened("--events", address, _handler(self._accept, token), _HARM)
        where: Any = self._server.server_address  # a path, or host and port
        self.port: int = 0 if isinstance(where, str) else where[1]
        threading.Thread(target=self._server.serve_forever, name="events", daemon=True).start()

    def receive(self, wait_s: float) -> list[Delivery]:
        found: list[Delivery] = []
        until = monotonic() + wait_s
        while len(found) < _BATCH_MAX:
            wait = 0.0 if found else max(0.0, until - monotonic())
            try:
                posted = self._posted.get(block=wait > 0, timeout=wait or None)
            except queue.Empty:
                break
            if posted is None:
                break
            found.append(Delivery(posted.body, posted))
        return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            each.receipt.end(True)

    def retry(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            each.receipt.end(False)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        try:
            self._posted.put_nowait(None)
        except queue.Full:
            log.debug("%s: closed with messages waiting", self.name)

    def _accept(self, body: bytes) -> int:
        """Return the status that answers a POST of *body*."""
        posted = _Posted(body)
        try:
            self._posted.put_nowait(posted)
        except queue.Full:
            return 503
        posted.done.wait(_PATIENCE_S)
        return 200 if posted.applied else 503


def _handler(accept: Callable[[bytes], int], token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "mimicfs", ""

        def do_POST(self) -> None:
            status = self._refusal() or accept(self.rfile.read(self._size()))
            self.close_connection = self.close_connection or status not in (200, 503)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            """MinIO looks in this way whether anybody is there."""
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _refusal(self) -> int:
            if token:
                given = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if not hmac.compare_digest(given.encode(), token.encode()):
                    return 401
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal():
                return 411
            return 413 if int(size) > MESSAGE_MAX else 0

        def _size(self) -> int:
            return int(self.headers["Content-Length"])

        def address_string(self) -> str:
            return "-"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            log.debug("events: " + format, *args)

    return Handler
