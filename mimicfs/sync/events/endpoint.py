"""Messages by HTTP POST: the webhooks of Ceph RGW, MinIO and RustFS.

Each POST holds one message. It is answered with 200 once the mirror has it, or with 503 if it must
come again: these servers keep a message that is not answered with 200, if they are told to. A
message is a hint about a key and never believed, so a lie costs only a request to S3. Still,
nothing listens beyond loopback without a token (`Authorization: Bearer TOKEN`, as MinIO's
auth_token).

A message that breaks off or takes too long is lost, like one for which there is no room, unless the
server keeps it. It may have been the only one about its change.

Each message that waits for the consumer has a client that waits for the answer. The number of
clients is bounded, and few of them may have a large message. A client that has waited for too long
takes its message along.

Threading: a thread for each client, which waits for the consumer.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from mimicfs.entry import in_utf8
from mimicfs.errors import ConfigError
from mimicfs.listening import PATIENCE_S, Patient, opened
from mimicfs.sync.events.messages import MESSAGE_MAX
from mimicfs.sync.events.source import Delivery, EventSource

log = logging.getLogger(__name__)

_BATCH_MAX = 100
_SMALL = 64 << 10  # bytes; a record has about 1 KiB
_LARGE_MAX = 16  # larger messages at once
_DIGITS_MAX = 9  # of a Content-Length
_HARM = "make us ask S3 about any key"
_NO_TOKEN = "--events {}: give a token in MIMICFS_EVENTS_TOKEN or events-token"


class _Posted:
    """One message, for which a client waits."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.done = threading.Event()
        self.applied = False

    def end(self, applied: bool) -> None:
        self.applied = applied
        self.done.set()


class _WaitingMessages:
    """The messages for which clients wait, in order. Any thread may call."""

    def __init__(self) -> None:
        self._posted: dict[_Posted, None] = {}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, posted: _Posted) -> None:
        with self._changed:
            if self._closed:
                posted.end(False)
            else:
                self._posted[posted] = None
                self._changed.notify()

    def give_up(self, posted: _Posted) -> None:
        with self._changed:
            self._posted.pop(posted, None)

    def take(self, most: int, wait_s: float) -> tuple[list[_Posted], int]:
        """Return up to *most* messages, and when (ns) these were all, if they are."""
        with self._changed:
            self._changed.wait_for(lambda: self._posted or self._closed, wait_s)
            looked_ns = time.time_ns()
            found = list(self._posted)[:most]
            for each in found:
                del self._posted[each]
        return found, looked_ns

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for each in self._posted:
                each.end(False)
            self._posted.clear()
            self._changed.notify()


class Endpoint(EventSource):
    """Listens at *address* (listening.py). *kept_s* is how long the server keeps a message that was
    not taken, and sends it again. Raises ConfigError."""

    def __init__(self, address: str, token: str = "", kept_s: float = 0.0) -> None:
        if address.startswith("public:") and not token:
            raise ConfigError(_NO_TOKEN.format(address))
        self.name = f"http at {address}"
        self._lock = threading.Lock()  # protects `lost`, `owed`, and the next one
        self._arriving: dict[int, int] = {}  # by thread: when (ns) the message began that it reads
        self.complete = not kept_s  # a server sends the messages that it keeps when it likes
        self._waiting = _WaitingMessages()
        self._kept_s = kept_s
        self._server = opened("--events", address, _handler(self, token), _HARM, self.refused)
        where: Any = self._server.server_address  # a path, or host and port
        self.port: int = 0 if isinstance(where, str) else where[1]
        threading.Thread(target=self._server.serve_forever, name="events", daemon=True).start()

    def receive(self, wait_s: float) -> list[Delivery]:
        found, self.looked_ns = self._waiting.take(_BATCH_MAX, wait_s)
        return [Delivery(it.body, it) for it in found]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            each.receipt.end(True)

    def retry(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            each.receipt.end(False)

    def retention_s(self) -> float:
        """Return how long the server keeps a message that nobody takes: most keep none unless they
        are told to."""
        return self._kept_s

    def given_until_ns(self) -> int:
        with self._lock:
            return min([self.looked_ns, *self._arriving.values()])

    def arrives(self) -> None:
        """Note that a message is on its way, in this thread, that the consumer does not have
        yet."""
        with self._lock:
            self._arriving[threading.get_ident()] = time.time_ns()

    def arrived(self) -> None:
        with self._lock:
            self._arriving.pop(threading.get_ident(), None)

    def close(self) -> None:
        self._server.shutdown()
        self._waiting.close()
        self._server.server_close()

    def accept(self, body: bytes) -> int:
        """Return the status that answers a POST of *body*."""
        posted = _Posted(body)
        self._waiting.put(posted)
        if not posted.done.wait(PATIENCE_S):
            self._waiting.give_up(posted)
        return 200 if posted.applied else self.refused()

    def broke_off(self, *, of_server: bool) -> None:
        """Note that the head of a message did not end. Unless it is certainly *of_server*, this
        starts no sweep: that costs requests, and anybody may have sent the head."""
        if of_server:
            self.refused()
            return
        with self._lock:
            self.owed += 1

    def refused(self) -> int:
        """Count a message that a server sends again at some time, or never; return the status that
        says so."""
        with self._lock:
            if self._kept_s:
                self.owed += 1
            else:
                self.lost += 1
        return 503


def _handler(endpoint: Endpoint, token: str) -> type[Patient]:
    class ThisEndpoint(EventHandler):
        pass

    ThisEndpoint.endpoint, ThisEndpoint.token = endpoint, token
    ThisEndpoint.large = threading.BoundedSemaphore(_LARGE_MAX)
    return ThisEndpoint


class EventHandler(Patient):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint
    token: str
    large: threading.Semaphore  # for messages that are read at once

    def handle_one_request(self) -> None:
        self._has_begun, self._has_head = self.has_next(), False
        self.raw_requestline = b""
        try:
            super().handle_one_request()
        finally:
            may_be_one = b"POST ".startswith(self.raw_requestline[:5])
            if self._has_begun and may_be_one and not self._has_head:
                self.endpoint.broke_off(of_server=not self.token)
            if not self.goes_on():
                self.endpoint.arrived()

    def parse_request(self) -> bool:
        self._has_begun = bool(self.raw_requestline)
        if not super().parse_request():
            return False
        # http.client takes the end of the connection for the end of a head
        if self._incoming.ended:
            self.send_error(400, "The head does not end")
            return False
        return True

    def begins(self) -> None:
        self._has_begun = True
        self.endpoint.arrives()

    def finish(self) -> None:
        self.endpoint.arrived()  # whatever else has failed
        super().finish()

    def goes_on(self) -> bool:
        """Whether the next message has come with the one before: it has been arriving since
        then."""
        return not self.close_connection and self.has_next()

    def do_POST(self) -> None:  # noqa: N802  http.server's name
        self._has_head = True
        status = self._refusal()
        if status not in (0, 401):  # it is of a server, and may not come in another form
            self.endpoint.refused()
        if not status:
            status = self._taken(int(self.headers["Content-Length"]))
        self._answer(status)

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer MinIO, which looks in this way whether anybody is there."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        self._answer(200)

    def _answer(self, status: int) -> None:
        # The unread rest of a body must not be taken for the next request.
        self.close_connection = self.close_connection or status != 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _refusal(self) -> int:
        if self.token:
            given = in_utf8(self.headers.get("Authorization", "")).removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return 401
        sizes = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not sizes:
            return 411
        # nobody knows where the next request begins
        if len(sizes) != 1 or not sizes[0].isdecimal():
            return 400
        return 413 if len(sizes[0]) > _DIGITS_MAX or int(sizes[0]) > MESSAGE_MAX else 0

    def _taken(self, size: int) -> int:
        if size <= _SMALL:
            return self._read_and_taken(size)
        if not self.large.acquire(timeout=PATIENCE_S):
            return self.endpoint.refused()
        try:
            return self._read_and_taken(size)
        finally:
            self.large.release()

    def _read_and_taken(self, size: int) -> int:
        body = b""
        try:
            body = self.read_body(size)
        finally:
            if len(body) < size:
                self.endpoint.refused()
        return self.endpoint.accept(body) if len(body) == size else 400

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        log.debug("events: " + format, *args)
