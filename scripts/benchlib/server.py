"""The S3 server of a bench, as its parent sees it: started, steered, counted and ended."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode


class Server:
    """A running `s3server.py`. Use as a context manager; not thread-safe."""

    def __init__(self, latency_ms: float) -> None:
        self.latency_ms = latency_ms
        command = [sys.executable, str(Path(__file__).with_name("s3server.py"))]
        self._process = subprocess.Popen(
            [*command, "--latency", str(latency_ms)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the server ends with its standard input
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def control(self, command: str, body: object = None, **query: object) -> dict[str, Any]:
        """Send one control command, with *body* as JSON, and return its JSON answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request("POST", f"/__ctl__/{command}?{urlencode(query)}", data)
            answer: dict[str, Any] = json.load(connection.getresponse())
        finally:
            connection.close()
        return answer

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Return *size* bytes of an object (`/bucket/key`), straight from the server."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            last = offset + size - 1
            connection.request("GET", path, headers={"Range": f"bytes={offset}-{last}"})
            return connection.getresponse().read()
        finally:
            connection.close()
