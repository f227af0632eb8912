"""Addresses at which we answer HTTP: none unless an option asks for one, and only loopback unless
that says so.

    127.0.0.1:9100     loopback
    unix:/run/x.sock   a socket, 0600
    public:HOST:PORT   any address; the service says what it demands of its clients

A client costs a bounded amount of memory and of time, whatever it sends (`Patient`), and only so
many are there at once.

Threading: a thread for each client.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import monotonic
from typing import Any

from mimicfs.errors import ConfigError
from mimicfs.private import check_parent

log = logging.getLogger(__name__)

PATIENCE_S = 10.0  # how long a client may take to begin, to send a request, or to take an answer
_IDLE_S = 60.0  # how long it may wait before the next request
_HEAD_MAX = 64 << 10  # bytes of a request without its body
_CLIENTS_MAX = 400  # at once; an RGW has 512 threads, and few of them tell at the same moment
_BACKLOG = 128  # clients that the kernel lets wait
_END_S = 2.0  # how long to wait for clients at the end
_WARNED_S = 60.0  # between two warnings
_TURNED_AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_FORMS = "{option} {text}: write 127.0.0.1:PORT, unix:/PATH or public:ADDRESS:PORT"
_NOT_LOOPBACK = (
    "{option} {text}: anybody who reaches this address can {harm};"
    " write 127.0.0.1:{port}, or, if you want that, public:{text}"
)


class Patient(BaseHTTPRequestHandler):
    """Reads requests, each within a time and a number of bytes."""

    server_version, sys_version = "mimicfs", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._incoming = _ClientInput(self.connection, self.begins)
        self.rfile = self._buffered = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        self._incoming.begin(begun=self.has_next())
        super().handle_one_request()
        self._incoming.end()

    def begins(self) -> None:
        """Note that the first bytes of a request have come. Not called for a request that came
        together with the one before it (`has_next`)."""

    def has_next(self) -> bool:
        """Whether bytes of the next request have come together with the last one."""
        with self._incoming.silent():
            return bool(self._buffered.peek(1))

    def read_body(self, size: int) -> bytes:
        """Return the *size* bytes behind the head, or fewer if the client goes."""
        self._incoming.allow(size)
        return self.rfile.read(size)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.connection.settimeout(PATIENCE_S)
        super().send_response(code, message)

    def address_string(self) -> str:
        return "-"


class _ClientInput(io.RawIOBase):
    """The input from a client. Raises TimeoutError if a request takes too long, or is too long."""

    def __init__(self, connection: socket.socket, begins: Callable[[], None]) -> None:
        self._connection = connection
        self._begins = begins
        self._idle_s = PATIENCE_S
        self.ended = False  # the client sends no more, and nobody waits for it
        self._silent = False  # for the moment nothing more is read
        self.begin()

    def begin(self, *, begun: bool = False) -> None:
        """Prepare for the next request, which may have *begun*."""
        wait_s = PATIENCE_S if begun else self._idle_s
        self._begun, self._until_s, self._left = begun, monotonic() + wait_s, _HEAD_MAX

    def end(self) -> None:
        """Note that a request was answered. (A client that never sent one gets less time.)"""
        self._idle_s = _IDLE_S

    def allow(self, size: int) -> None:
        self._left += size

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Within, nothing waits for the client: only bytes that were read before are there."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._silent:
            return None
        wait_s = self._until_s - monotonic()
        if wait_s <= 0 or self._left <= 0:
            raise TimeoutError("a request that does not end")
        self._connection.settimeout(wait_s)
        size = self._connection.recv_into(memoryview(buffer)[: self._left])
        if not self._begun:
            self._begun, self._until_s = True, monotonic() + PATIENCE_S
            if size:
                self._begins()
        self._left -= size
        self.ended = not size
        return size


def opened(
    option: str,
    address: str,
    handler: Callable[..., Patient],
    harm: str,
    turned_away: Callable[[], object] = lambda: None,
) -> socketserver.BaseServer:
    """Return a server that listens at *address*, the value of *option*, and answers with
    *handler* once `serve_forever` runs. *harm* says what anybody who reaches it could do.
    *turned_away* is called for each client for whom there is no room. Raises ConfigError."""
    try:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            check_parent(path)
            server: _Threads = _UnixServer(str(path), handler)
        else:
            server = _TCPServer(_parsed(option, address, harm), handler)
    except (OSError, OverflowError) as exc:
        text = getattr(exc, "strerror", None) or exc
        raise ConfigError(f"{option} {address}: {text}") from exc
    server.turned_away = turned_away
    server.about = f"{option} {address}"
    return server


def _parsed(option: str, address: str, harm: str) -> tuple[str, int]:
    """Return host and port. Raises ConfigError."""
    text = address.removeprefix("public:")
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise ConfigError(_FORMS.format(option=option, text=address))
    if text == address and not is_loopback(host):
        raise ConfigError(_NOT_LOOPBACK.format(option=option, text=text, port=port, harm=harm))
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether *host* is an address that only this machine reaches, or the name of one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Has a thread for each client, and no more clients than there is room for."""

    daemon_threads = True
    request_queue_size = _BACKLOG
    turned_away: Callable[[], object]
    about = ""

    def __init__(self, address: Any, handler: Any) -> None:
        self._served = threading.Condition()
        self._clients: set[socket.socket] = set()
        self._warned_s = float("-inf")
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._served:
            if there_is_room := len(self._clients) < _CLIENTS_MAX:
                self._clients.add(request)
        if there_is_room:
            super().process_request(request, client_address)
            return
        self.turned_away()
        if monotonic() - self._warned_s > _WARNED_S:
            self._warned_s = monotonic()
            log.warning("%s: more than %d clients; some are refused", self.about, _CLIENTS_MAX)
        with suppress(OSError):
            request.sendall(_TURNED_AWAY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._served:
            self._clients.discard(request)
            self._served.notify_all()

    def shutdown(self) -> None:
        with suppress(OSError):  # wakes the thread that waits for clients
            self.socket.shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def server_close(self) -> None:
        """Send all clients away."""
        super().server_close()
        with self._served:
            for each in self._clients:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._served.wait_for(lambda: not self._clients, _END_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client failed", exc_info=True)


class _TCPServer(_Threads):
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        host, _ = address
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)


class _UnixServer(_Threads):
    address_family = socket.AF_UNIX
    _made: os.stat_result | None = None  # the file of the socket, if it is ours

    def server_bind(self) -> None:
        os.fchmod(self.socket.fileno(), 0o600)  # bind(2) gives the file these permissions
        path = str(self.server_address)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
            raise OSError(errno.EADDRINUSE, "already in use")
        if Path(path).is_socket():  # of a mount that died
            os.unlink(path)
        super().server_bind()
        self._made = os.stat(path)

    def server_close(self) -> None:
        """Close it. Another server may listen at the path, before and after this one: its file
        stays."""
        super().server_close()
        made, self._made = self._made, None
        path = Path(str(self.server_address))
        with suppress(FileNotFoundError):
            if made is not None and os.path.samestat(made, path.stat()):
                path.unlink()
