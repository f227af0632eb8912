"""A server that is far away: TCP behind a delay, which counts the round trips of its clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 1 << 16


class Far:
    """The way to the server at *port* of this machine. *delay_s*: there, and the same back."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._upstream = port
        self._lock = threading.Lock()  # protects the two below
        self._trips = 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def trips(self) -> int:
        """Return how many round trips there were since the last call: what a client sends after it
        has heard something begins another one."""
        with self._lock:
            trips, self._trips = self._trips, 0
        return trips

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)  # it may be about to open others
        with self._lock:
            ended = [self._listener, *self._sockets]
        for each in ended:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._upstream))
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets += [near, far]
                heard = threading.Event()
                heard.set()
                for way in ((near, far, heard, True), (far, near, heard, False)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(
        self, source: socket.socket, target: socket.socket, heard: threading.Event, asks: bool
    ) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                if not asks:
                    heard.set()
                elif heard.is_set():
                    heard.clear()
                    with self._lock:
                        self._trips += 1
                if self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def far(port: int, delay_s: float = 0.0) -> Iterator[Far]:
    """Within, the server at *port* is far away, too."""
    way = Far(port, delay_s)
    try:
        yield way
    finally:
        way.close()
