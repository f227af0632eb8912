"""The bench's S3 server: HTTP/1.1 on loopback, a latency for each request, and its counters.

    python s3server.py [--port 0] [--latency MS]     prints its port; ends when stdin ends

A request is answered no sooner than the latency after its last byte came in (bandwidth is not
limited). Paths below /__ctl__/ steer it, without latency and uncounted:
    GET  /__ctl__/stats | /__ctl__/reset      counters since the last reset, as JSON
    POST /__ctl__/latency?ms=20
    POST /__ctl__/fill?bucket=b&kind=flat|tree|sized|key|lines&prefix=p/&...   synthetic objects
                                              (lines: the body has the keys, as JSON)
    POST /__ctl__/change?bucket=b&every=100   one key in so many has other content; as many are
                                              gone, and as many new
    POST /__ctl__/versions?bucket=b&each=10   each key has so many versions (s3versions.py)
    POST /__ctl__/render?bucket=b             prepare what its listings say
    POST /__ctl__/version?list=1              ListObjects only
    GET  /__ctl__/count?bucket=b&prefix=p/    keys there, and bytes that clients wrote
    POST /__ctl__/clear?bucket=b&prefix=p/    and the memory of what was written there

Why not a finished server: `rclone serve s3` lists a whole directory again for each page of
1,000 (1.1 s a page at 100,000 files), moto takes about 10 ms a request, and both would compete
with the file system under test for two cores.

Threading: one thread, one epoll loop.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import itertools
import json
import os
import select
import socket
import sys
import time
from collections import Counter, deque
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchlib.s3objects import (
    Bucket,
    Segment,
    Window,
    flat_keys,
    make_pattern,
    sized_keys,
    tree_keys,
)
from benchlib.s3operations import Operations, Request, Response, empty

HEAD_MAX = 65_536
TURN_MAX = 4 << 20  # bytes moved for one connection before the others get their turn
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Connection:
    """One client connection: at most one request at a time, as HTTP/1.1 without pipelining."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = bytearray()  # received, and not yet part of a request
        self.request: Request | None = None  # from its head on, until the answer is sent
        self.body = bytearray()
        self.got = 0  # bytes of the body that are there
        self.out: deque[Segment] = deque()
        self.waiting = False  # for EPOLLOUT


class Counters:
    """The requests since the last reset."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.in_flight = self.in_flight_max = self.bytes_in = self.bytes_out = 0

    def reset(self) -> None:
        self.requests.clear()
        self.in_flight_max, self.bytes_in, self.bytes_out = self.in_flight, 0, 0

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests), "in_flight_max": self.in_flight_max,
            "bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "cpu_s": time.process_time(),
        }  # fmt: skip


class Server:
    """The loop: sockets, delayed answers, counters."""

    def __init__(self, port: int, latency_s: float) -> None:
        self._operations = Operations()
        self._pattern = make_pattern()
        self._latency_s = latency_s
        self._counters = Counters()
        self._due: list[tuple[float, int, Connection]] = []  # a heap of answers to come
        self._order = itertools.count()
        self._connections: dict[int, Connection] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)

    def run(self) -> None:
        """Serve until stdin ends: the server never outlives the bench that started it."""
        stdin = sys.stdin.fileno()
        self._epoll.register(stdin, select.EPOLLIN)
        while True:
            for descriptor, events in self._epoll.poll(self._pause_s()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == stdin:
                    if not os.read(stdin, 4096):
                        return
                else:
                    self._event(self._connections[descriptor], events)
            while self._due and self._due[0][0] <= time.monotonic():
                connection = heapq.heappop(self._due)[2]
                if connection.request is not None:
                    self._answer(connection, connection.request)

    def _pause_s(self) -> float | None:
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[sock.fileno()] = Connection(sock)
        self._epoll.register(sock, select.EPOLLIN)

    def _event(self, connection: Connection, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._send(connection)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._receive(connection)
        except BlockingIOError:
            pass  # nothing more to do before the next event
        except (ConnectionError, EOFError):
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection.request is not None:
            self._counters.in_flight -= 1
            connection.request = None
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    # Receiving

    def _receive(self, connection: Connection) -> None:
        if connection.got < len(connection.body):
            self._receive_body(connection)
            return
        data = connection.sock.recv(HEAD_MAX)
        if not data:
            raise EOFError
        connection.inbox += data
        if connection.request is None:
            self._begin(connection)

    def _receive_body(self, connection: Connection) -> None:
        turn_end = connection.got + TURN_MAX
        with memoryview(connection.body) as body:
            while connection.got < min(len(body), turn_end):
                count = connection.sock.recv_into(body[connection.got :])
                if not count:
                    raise EOFError
                connection.got += count
        if connection.got == len(connection.body):
            self._complete(connection)

    def _begin(self, connection: Connection) -> None:
        """Take a request's head from the inbox, if it is complete."""
        inbox = connection.inbox
        end = inbox.find(b"\r\n\r\n")
        if end < 0:
            return
        request = parse_head(bytes(inbox[:end]).decode("latin-1"))
        del inbox[: end + 4]
        size = int(request.headers.get("content-length", "0"))
        connection.request = request
        self._counters.in_flight += 1
        connection.body = bytearray(size)
        connection.got = min(size, len(inbox))
        connection.body[: connection.got] = inbox[: connection.got]
        del inbox[: connection.got]
        if connection.got == size:
            self._complete(connection)
        elif request.headers.get("expect", "").lower() == "100-continue":
            connection.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _complete(self, connection: Connection) -> None:
        """The request is there: answer it when its latency has passed."""
        assert connection.request is not None
        request = connection.request._replace(body=memoryview(connection.body))
        connection.request = request
        connection.body, connection.got = bytearray(), 0
        if request.path.startswith("/__ctl__/"):
            self._reply(connection, request, self._control(request))
            return
        counters = self._counters
        counters.requests[kind(request)] += 1
        counters.bytes_in += len(request.body)
        counters.in_flight_max = max(counters.in_flight_max, counters.in_flight)
        if self._latency_s:
            due = time.monotonic() + self._latency_s
            heapq.heappush(self._due, (due, next(self._order), connection))
        else:
            self._answer(connection, request)

    # Answering

    def _answer(self, connection: Connection, request: Request) -> None:
        try:
            response = self._operations.handle(request)
        except Exception as error:  # noqa: BLE001 - a bug here must not look like a hang of the file system
            print(
                f"s3server: {request.method} {request.path}: {error!r}", file=sys.stderr, flush=True
            )
            response = empty(500)
        self._counters.bytes_out += response.size if response.body else 0
        try:
            self._reply(connection, request, response)
        except BlockingIOError:
            pass
        except ConnectionError:
            self._close(connection)

    def _reply(self, connection: Connection, request: Request, response: Response) -> None:
        lines = [f"HTTP/1.1 {response.status} {REASONS[response.status]}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        lines.append(f"Content-Length: {response.size}\r\n\r\n")
        head = "\r\n".join(lines).encode("latin-1")
        body = response.body
        if body and isinstance(body[0], memoryview) and len(body[0]) < HEAD_MAX:
            head, body = head + bytes(body[0]), body[1:]
        connection.out.append(memoryview(head))
        connection.out.extend(body)
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        sock, out, turn = connection.sock, connection.out, TURN_MAX
        try:
            while out and turn > 0:
                segment = out[0]
                if isinstance(segment, Window):
                    count = os.sendfile(
                        sock.fileno(), self._pattern, segment.offset, min(segment.size, turn)
                    )
                    left = segment.size - count
                    out[0] = Window(segment.offset + count, left)
                else:
                    count = sock.send(segment[:turn])
                    left = len(segment) - count
                    out[0] = segment[count:]
                turn -= count
                if not left:
                    out.popleft()
        except BlockingIOError:
            pass  # the client reads slower than we send: go on when there is room
        if out:
            self._watch(connection, True)
            return
        self._watch(connection, False)
        connection.request = None
        self._counters.in_flight -= 1
        if connection.inbox:
            self._begin(connection)

    def _watch(self, connection: Connection, waiting: bool) -> None:
        if connection.waiting != waiting:
            connection.waiting = waiting
            self._epoll.modify(connection.sock, select.EPOLLOUT if waiting else select.EPOLLIN)

    # Control

    def _control(self, request: Request) -> Response:
        command, query = request.path.removeprefix("/__ctl__/"), request.query
        if command == "latency":
            self._latency_s = float(query["ms"]) / 1000
        elif command == "version":
            self._operations.version = int(query["list"])
        elif command == "render":
            self._operations.buckets[query["bucket"]].render()
        elif command == "versions":
            self._operations.buckets[query["bucket"]].versions = int(query["each"])
        elif command == "change":
            self._operations.buckets[query["bucket"]].change(int(query["every"]))
        elif command == "fill":
            name = query["bucket"]
            keys = (
                make_keys(query) if query["kind"] != "lines" else json.loads(request.body.tobytes())
            )
            self._operations.buckets.setdefault(name, Bucket(name)).fill(keys)
        elif command == "clear":
            self._operations.buckets[query["bucket"]].clear(query.get("prefix", ""))
        elif command == "count":
            keys, size = self._operations.buckets[query["bucket"]].count(query.get("prefix", ""))
            return json_response({"keys": keys, "bytes": size})
        elif command not in ("stats", "reset"):
            return empty(404)
        answer = json_response(self._counters.as_json())
        if command == "reset":
            self._counters.reset()
        return answer


def json_response(value: dict[str, Any]) -> Response:
    """Answer with JSON."""
    body = json.dumps(value).encode()
    return Response(200, {"Content-Type": "application/json"}, [memoryview(body)], len(body))


def make_keys(query: dict[str, str]) -> list[str]:
    """Return the synthetic keys that a `fill` asks for."""
    prefix, which = query.get("prefix", ""), query["kind"]
    if which == "flat":
        return flat_keys(prefix, int(query["count"]))
    if which == "tree":
        return tree_keys(prefix, int(query["depth"]), int(query["fanout"]), int(query["files"]))
    if which == "sized":
        return sized_keys(prefix, int(query["count"]), int(query["size"]))
    return [query["key"]]


def parse_head(text: str) -> Request:
    """Return a request without its body."""
    first, *lines = text.split("\r\n")
    method, target, _ = first.split(" ", 2)
    path, _, raw_query = target.partition("?")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    query = dict(parse_qsl(raw_query, keep_blank_values=True)) if raw_query else {}
    return Request(method, unquote(path), query, headers, memoryview(b""), raw_query)


def kind(request: Request) -> str:
    """Return what a request is counted as."""
    method, query = request.method, request.query
    bucket, _, key = request.path[1:].partition("/")
    if "uploads" in query or "uploadId" in query:
        part = "PART" if "x-amz-copy-source" not in request.headers else "PARTCOPY"
        name = {"PUT": part, "DELETE": "ABORT", "GET": "LISTPARTS"}.get(method)
        return name or ("MPU" if "uploads" in query else "COMPLETE")
    if key:
        return "COPY" if "x-amz-copy-source" in request.headers else method
    if method == "GET" and bucket and not (set(query) & {"location", "versioning", "acl"}):
        return "LIST"
    if method == "POST":
        return "DELETEMANY"
    return f"{method} bucket" if bucket else "BUCKETS"


def main() -> None:
    """Print the port, then serve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, metavar="MS")
    arguments = parser.parse_args()
    server = Server(arguments.port, arguments.latency / 1000)
    gc.disable()  # nothing here makes cycles, and a collection over a million keys takes a second
    print(server.port, flush=True)
    server.run()


if __name__ == "__main__":
    main()
