"""What several tests of this room need."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.proxy import Proxy


@pytest.fixture
def tls(proxy: Proxy, tmp_path: Path, monkeypatch: Any) -> Iterator[str]:
    """The proxy's URL over TLS."""
    certificate = tmp_path / "certificate"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(certificate), "-out", str(tmp_path / "public")]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    with certificate.open("ab") as file:
        file.write((tmp_path / "public").read_bytes())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listening = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def relay() -> None:
        with suppress(OSError):  # closed
            while True:
                one = context.wrap_socket(listening.accept()[0], server_side=True)
                other = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])))
                opened.extend((one, other))
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    relaying = threading.Thread(target=relay, daemon=True)
    relaying.start()
    yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    relaying.join(10)  # it may be about to open another one
    listening.close()
    for each in opened:
        with suppress(OSError):  # closed by the other side
            each.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
        each.close()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # closed
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
