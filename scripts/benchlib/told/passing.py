"""What stands between S3 and a mount: it notes when each message came, or doubles, shuffles,
delays and loses messages."""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_plus

SENDERS = 8
LOST, DOUBLED, DELAYED_S = 0.1, 0.2, 2.0


class Carrier:
    """Carries messages on: some twice, in another order, late, and a tenth not at all."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._held: list[tuple[float, bytes]] = []  # when each is to be sent
        self._lock = threading.Lock()
        self.taken = self.lost = self.sent = 0

    def take(self, body: bytes) -> None:
        with self._lock:
            self.taken += 1
            if self._chance.random() < LOST:
                self.lost += 1
                return
            for _ in range(1 + (self._chance.random() < DOUBLED)):
                self._held.append((time.monotonic() + self._chance.random() * DELAYED_S, body))

    @contextmanager
    def running(self, send: Callable[[bytes], None]) -> Iterator[None]:
        ended = threading.Event()

        def carry() -> None:
            while not ended.wait(0.05):
                now_s = time.monotonic()
                with self._lock:
                    due = [body for at, body in self._held if at <= now_s]
                self._chance.shuffle(due)
                with ThreadPoolExecutor(SENDERS) as pool:
                    list(pool.map(send, due))
                with self._lock:
                    self._held = [each for each in self._held if each[0] > now_s]
                    self.sent += len(due)

        thread = threading.Thread(target=carry, daemon=True)
        thread.start()
        yield
        ended.set()
        thread.join(60)

    @property
    def empty(self) -> bool:
        with self._lock:
            return not self._held


class Arrivals:
    """Stands before what *before* names, and notes when the last message about each key passed."""

    def __init__(self) -> None:
        self.at_s: dict[str, float] = {}
        handler = type("Handler", (_Passing,), {"arrivals": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def before(self, url: str) -> None:
        self.port = int(url.rstrip("/").rpartition(":")[2])

    def saw(self, body: bytes) -> None:
        now_s = time.perf_counter()
        for key in _KEY.findall(body.decode()):
            self.at_s[unquote_plus(key)] = now_s

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


_KEY = re.compile(r'key\\*": *\\*"([^"\\]+)')  # also in JSON within JSON


class _Passing(BaseHTTPRequestHandler):
    arrivals: Arrivals
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.arrivals.saw(body)
        line = http.client.HTTPConnection("127.0.0.1", self.arrivals.port)
        line.request("POST", self.path, body, dict(self.headers.items()))
        answer = line.getresponse()
        said = answer.read()
        line.close()
        self.arrivals.saw(said)
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        with suppress(ConnectionError):  # the mount has waited for long enough
            self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass
