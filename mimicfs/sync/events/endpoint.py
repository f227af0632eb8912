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
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any

from mimicfs.errors import ConfigError
from mimicfs.listening import opened
from mimicfs.sync.events.messages import MESSAGE_MAX
from mimicfs.sync.events.source import Delivery, EventSource

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0  # how long a client may take to send, and a message to be applied
_BATCH_MAX = 100
_CLIENTS_MAX = 100  # that are read from at once, or wait; each has a message of up to 1 MiB
_DIGITS_MAX = 9  # of a Content-Length
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


class Endpoint(EventSource):
    """Listens at *address* (listening.py). Raises ConfigError."""

    def __init__(self, address: str, token: str = "") -> None:
        if address.startswith("public:") and not token:
            raise ConfigError(_NO_TOKEN.format(address))
        self.name = f"http at {address}"
        self._lock = threading.Lock()  # protects `lost`
        self._posted: queue.SimpleQueue[_Posted | None] = queue.SimpleQueue()
        self._server = opened("--events", address, _handler(self, token), _HARM)
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

    def retention_s(self) -> float:
        """A server need not keep what nobody takes."""
        return 0.0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        with suppress(queue.Empty):
            while True:
                posted = self._posted.get_nowait()
                if posted is not None:
                    posted.end(False)
        self._posted.put(None)

    def accept(self, body: bytes) -> int:
        """Return the status that answers a POST of *body*."""
        posted = _Posted(body)
        self._posted.put(posted)
        posted.done.wait(_PATIENCE_S)
        return 200 if posted.applied else self.refused()

    def refused(self) -> int:
        """Count a message that a server may not send again; return the status that says so."""
        with self._lock:
            self.lost += 1
        return 503


def _handler(endpoint: Endpoint, token: str) -> type[BaseHTTPRequestHandler]:
    clients = threading.BoundedSemaphore(_CLIENTS_MAX)

    class EventHandler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "mimicfs", ""

        def do_POST(self) -> None:
            if not clients.acquire(blocking=False):
                self._answer(endpoint.refused())
                return
            try:
                self._answer(self._refusal() or endpoint.accept(self.rfile.read(self._size())))
            finally:
                clients.release()

        def _answer(self, status: int) -> None:
            # What was not read of a body must not be taken for the next request.
            self.close_connection = self.close_connection or status != 200
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
            return 413 if len(size) > _DIGITS_MAX or int(size) > MESSAGE_MAX else 0

        def _size(self) -> int:
            return int(self.headers["Content-Length"])

        def address_string(self) -> str:
            return "-"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            log.debug("events: " + format, *args)

    return EventHandler
