"""Addresses at which we answer HTTP: none unless asked for, loopback unless that is said.

    127.0.0.1:9100     loopback
    unix:/run/x.sock   a socket, 0600
    public:HOST:PORT   any address; what is served there says what it asks of its clients

Threading: a thread for each request.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import socketserver
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from mimicfs.errors import ConfigError
from mimicfs.private import check_parent

log = logging.getLogger(__name__)

_FORMS = "{option} {text}: write 127.0.0.1:PORT, unix:/PATH or public:ADDRESS:PORT"
_NOT_LOOPBACK = (
    "{option} {text}: anybody who reaches this address could {harm};"
    " write 127.0.0.1:{port}, or, if that is meant, public:{text}"
)


def opened(
    option: str, address: str, handler: Callable[..., BaseHTTPRequestHandler], harm: str
) -> socketserver.BaseServer:
    """Return a server that listens at *address*, the value of *option*, and answers with
    *handler* once `serve_forever` runs. *harm*: what anybody could do who reaches it. Raises
    ConfigError."""
    try:
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            check_parent(path)
            return _UnixServer(str(path), handler)
        return _TCPServer(_parsed(option, address, harm), handler)
    except (OSError, OverflowError) as exc:
        text = getattr(exc, "strerror", None) or exc
        raise ConfigError(f"{option} {address}: {text}") from exc


def _parsed(option: str, address: str, harm: str) -> tuple[str, int]:
    """Return host and port. Raises ConfigError."""
    text = address.removeprefix("public:")
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise ConfigError(_FORMS.format(option=option, text=address))
    if text == address and not _is_loopback(host):
        raise ConfigError(_NOT_LOOPBACK.format(option=option, text=text, port=port, harm=harm))
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _TCPServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client failed", exc_info=True)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def server_bind(self) -> None:
        os.fchmod(self.socket.fileno(), 0o600)  # bind(2) gives the file these permissions
        path = str(self.server_address)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
            raise OSError(98, "already in use")
        if Path(path).is_socket():  # of a mount that died
            os.unlink(path)
        super().server_bind()

    def server_close(self) -> None:
        super().server_close()
        Path(str(self.server_address)).unlink(missing_ok=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client failed", exc_info=True)
