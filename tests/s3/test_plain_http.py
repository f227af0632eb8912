"""Our few steps of HTTP send and understand what http.client does, byte by byte."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing, contextmanager, suppress

import pytest
from botocore.exceptions import ConnectionClosedError, SSLError

from mimicfs.config.values import S3Options
from mimicfs.errors import Interrupted
from mimicfs.s3.transport.http import BROKEN, Connection, Transport
from mimicfs.s3.transport.limits import Limits
from mimicfs.s3.transport.plain import PlainAnswer, answer_from, request_head

# What is answered, whether in the few steps, and what follows: status, body or error, and whether
# the connection is at an end.
OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = [
    (OK + b'Content-Length: 5\r\nETag: "e"\r\n\r\nbytes', True, 200, b"bytes", False),
    (OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nbytes", True, 200, b"bytes", False),
    (OK + b"Content-Length:5\r\nX:\t a  b \t\r\n\r\nbytes", True, 200, b"bytes", False),
    (OK + b"content-length: 5\r\nConnection: Close\r\n\r\nbytes", True, 200, b"bytes", True),
    (OK + b"Connection: keep-alive\r\nContent-Length: 0\r\n\r\n", True, 200, b"", False),
    (
        OK + b"x-amz-meta-a: 1\r\nX-Amz-Meta-A: 2\r\nContent-Length: 1\r\n\r\nb",
        True,
        200,
        b"b",
        False,
    ),
    (OK + b"x-amz-meta-a: \xe4\r\nContent-Length: 1\r\n\r\nb", True, 200, b"b", False),
    (b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", True, 204, b"", False),
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", True, 404, b"no", False),
    (b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", True, 404, b"no", False),
    # What http.client is left to make sense of.
    (
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nbytes\r\n0\r\n\r\n",
        False,
        200,
        b"bytes",
        False,
    ),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nbytes", True, 200, b"bytes", False),
    (OK + b"ETag: e\r\n\r\nbytes", False, 200, b"bytes", True),
    (OK + b"Content-Length: 5\r\nX: a\r\n b\r\n\r\nbytes", False, 200, b"bytes", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nbytes", False, 200, b"bytes", True),
    (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nb",
        True,
        200,
        b"b",
        False,
    ),
    (b"no HTTP at all\r\n\r\n", False, 0, http.client.BadStatusLine, True),
    (b"", False, 0, http.client.RemoteDisconnected, True),
    (
        OK + b"Content-Length: 5\r\n" + b"x: y\r\n" * 101 + b"\r\n",
        False,
        0,
        http.client.HTTPException,
        True,
    ),
    (OK + b"x: " + b"y" * 70_000 + b"\r\n\r\n", False, 0, http.client.LineTooLong, True),
]


class Sock:
    """A socket from which *data* comes, *piece* bytes at a time; it keeps what is sent."""

    def __init__(self, data: bytes = b"", piece: int = 1 << 16) -> None:
        self.raw, self.sent = Pieces(data, piece), b""

    def makefile(self, _mode: str, *_args: int) -> io.BufferedReader:
        return io.BufferedReader(self.raw)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None: ...


class Pieces(io.RawIOBase):
    def __init__(self, data: bytes, piece: int) -> None:
        self._data, self._piece = memoryview(data), piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = min(len(buffer), len(self._data), self._piece)
        buffer[:size], self._data = self._data[:size], self._data[size:]
        return size


def seen(make, read):
    """Return of an answer: status, headers, body or the class of an error, if it is the last."""
    try:
        answer = make()
    except BROKEN as exc:
        return type(exc), [], b"", None
    if isinstance(answer, PlainAnswer):
        headers = sorted(answer.joined.items())
    else:
        names = {name.lower() for name, _ in answer.getheaders()}
        headers = sorted((name, ", ".join(answer.headers.get_all(name))) for name in names)
    try:
        body = read(answer)
    except BROKEN as exc:
        body = type(exc)
    return answer.status, headers, body, bool(answer.will_close)


def filled(answer):
    buffer, count = memoryview(bytearray(64)), 0
    while got := answer.readinto(buffer[count:]):
        count += got
    return bytes(buffer[:count])


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize(("data", "plainly", "status", "body", "closes"), ANSWERS)
def test_an_answer_is_what_http_client_makes_of_it(data, plainly, status, body, closes, piece):
    def theirs():
        answer = http.client.HTTPResponse(Sock(data, piece), method="GET")
        answer.begin()
        return answer

    def ours():
        answer = answer_from(Pieces(data, piece), "GET")
        assert isinstance(answer, PlainAnswer) == plainly
        return answer

    piece = piece if len(data) < 10_000 else max(piece, 1000)
    for read in (lambda answer: answer.read(), filled, lambda answer: answer.read(3)):
        assert seen(ours, read) == seen(theirs, read)
    if status:
        found = seen(ours, lambda answer: answer.read())
        assert (found[0], found[2], found[3]) == (status, body, closes)
    else:
        assert issubclass(seen(ours, filled)[0], body)


def test_an_answer_to_a_head_has_no_body_and_leaves_the_connection():
    answer = answer_from(Pieces(OK + b"Content-Length: 4096\r\n\r\n", 99), "HEAD")
    assert (answer.isclosed(), answer.read(), answer.will_close) == (True, b"", False)


@pytest.mark.parametrize(
    ("method", "target", "headers", "plainly"),
    [
        ("GET", "/b/k?x=1", {"Range": "bytes=0-1", "Accept-Encoding": "gzip"}, True),
        ("HEAD", "/b/%C3%A4", {}, True),
        ("PUT", "/b/k", {"Content-Length": "5", "x-amz-meta-a": "b c"}, True),
        ("GET", "/b/k", {"Host": "elsewhere"}, False),
        ("PUT", "/b/k", {"Content-Length": "5", "Expect": "100-continue"}, False),
        ("GET", "/b/k", {"x": b"bytes"}, False),
        ("GET", "/b/k", {"x": "1\r\nInjected: 2"}, False),
        ("GET", "/b/k", {"x\nInjected": "2"}, False),
        ("GET", "/b/k", {"x: y": "1"}, False),
        ("GET", "/b/k", {"x": "\0"}, False),
        ("GET", "/b/k", {"": "1"}, False),
        ("GET", "/b/k ey", {}, False),
        ("GET", "/b/k\r\nInjected: 2", {}, False),
        ("GET", "/b/k", {"x": "\xe4"}, False),
    ],
)
def test_a_request_is_sent_as_http_client_would(method, target, headers, plainly):
    connection = http.client.HTTPConnection("127.0.0.1", 8080)
    head = request_head("127.0.0.1:8080", method, target, headers)
    assert (head is not None) == plainly
    if head is not None:
        connection.sock = sock = Sock()
        body = io.BytesIO(b"bytes") if method == "PUT" else None
        connection.request(method, target, body, headers)
        assert sock.sent == head + (b"bytes" if body else b"")


@pytest.mark.parametrize("length", ["-3", "x", "1, 2"])
def test_no_length_of_an_answer_to_a_head_is_looked_at(length):
    answer = answer_from(Pieces(OK + f"Content-Length: {length}\r\n\r\n".encode(), 99), "HEAD")
    assert (answer.isclosed(), answer.joined, answer.will_close) == (
        True,
        {"content-length": length},
        False,
    )


@contextmanager
def serving(*scripts, certificate=None):
    """A server that answers as *scripts* say: the n-th connection, each request of it with the next
    piece; it is closed after the last; over TLS with a *certificate*. Yields a Transport, its URL,
    and what was asked."""
    asked = []

    def answer(plain, pieces):
        with tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
            for piece in pieces:
                said = b""
                while b"\r\n\r\n" not in said:
                    if not (more := connection.recv(1 << 16)):
                        return
                    said += more
                asked.append(said)
                connection.sendall(piece)

    def serve():
        for pieces in scripts:
            with suppress(ConnectionError, ssl.SSLError):  # given up by those who asked
                answer(listener.accept()[0], pieces)

    tls, scheme = None, "http"
    if certificate:
        tls, scheme = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "https"
        tls.load_cert_chain(certificate)
    options = S3Options(connect_timeout_s=5, read_timeout_s=5, request_timeout_s=10)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Transport(options, certificate)) as transport:
            yield transport, f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", asked
        for _ in scripts:  # what was not asked for is over, too
            with suppress(OSError):
                socket.create_connection(listener.getsockname()).close()
        thread.join(10)


def got(transport, url):
    found = transport.exchange("GET", url, "/", {}, None)
    return found.status, found.rest()


class Counted:
    """A socket that counts how often bytes are received."""

    def __init__(self, sock):
        self._sock, self.received = sock, 0

    def recv_into(self, *arguments):
        self.received += 1
        return self._sock.recv_into(*arguments)

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_a_large_piece_takes_one_system_call_however_it_comes():
    body, options = bytes(range(256)) * 4096, S3Options()

    def serve():
        for place in range(0, len(body), 50_000):
            server.sendall(body[place : place + 50_000])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(*listener.getsockname(), options, Limits(options))
        connection.connect()
        counted = connection.sock = Counted(connection.sock)
        server, _ = listener.accept()
        server.sendall(OK + b"Content-Length: 1048576\r\n\r\n")
        answer = connection.answer_to("GET", "/", {}, None)
        thread, before = threading.Thread(target=serve), counted.received
        thread.start()
        buffer = memoryview(bytearray(len(body)))
        assert answer.readinto(buffer) == len(body)
        thread.join()
        server.close()
        connection.close()
    assert (buffer == body, counted.received - before) == (True, 1)


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n"


def test_a_connection_is_used_again_after_each_kind_of_answer():
    whole = [
        OK + b"Content-Length: 2\r\n\r\nab",
        OK + CHUNKED,
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nd",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + OK + CHUNKED,
        b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103\r\nX: a\r\n b\r\n\r\n" + OK + CHUNKED,
        OK + b"Content-Length: 1\r\nConnection: close\r\n\r\ne",
    ]
    with serving(whole) as (transport, url, asked):
        found = [got(transport, url) for _ in whole]
    assert found == [
        *((200, b"ab"), (200, b"c"), (404, b"no"), (204, b""), (200, b"d")),
        *((200, b"c"), (200, b"c"), (200, b"e")),
    ]
    assert len(asked) == 8


GOOD = OK + b"Content-Length: 4\r\n\r\ngood"


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\n",
        OK + b"Content-Length: 0\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n",
        OK + b"Content-Length: 0\r\nX: a\r\n b\r\n",
        OK + b"Content-Length: 9\r\n\r\nbytes",
        OK + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\nbytesbyte",
        OK + b"Content-Length: 5, 9\r\n\r\nbytesbyte",
        OK + b"Content-Length: -5\r\n\r\nbytes",
        OK + b"Content-Length: 0_5\r\n\r\nbytes",
        OK + b"Content-Length: \r\n\r\nbytes",
        OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\nbytes",
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nbytes",
        OK + b"Content-Length: 999999999999999999\r\n\r\nbytes",
        OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nbytes",
        OK + b"X: " + b" " * 60_000 + b"\r.\r\nContent-Length: 5\r\n",
        OK + b"x: y\r\n" * 20_000,
        OK + b"x: " + b"y" * 200_000,
    ],
    ids=range(20),
)
def test_what_is_not_whole_is_an_error_and_the_end_of_its_connection(hostile):
    with serving([hostile], [GOOD]) as (transport, url, asked):
        before = time.process_time()
        with pytest.raises((*BROKEN, ConnectionClosedError)):
            got(transport, url)
        assert time.process_time() - before < 2  # no pattern goes over it again and again
        assert got(transport, url) == (200, b"good")
    assert len(asked) == 2


@pytest.mark.parametrize(
    "longer",
    [OK + b"Content-Length: 5\r\n\r\nbytes" + GOOD, b"HTTP/1.1 204 No Content\r\n\r\n" + GOOD],
)
def test_what_follows_an_answer_unasked_is_not_the_next_one(longer):
    with serving([longer, GOOD], [OK + b"Content-Length: 5\r\n\r\nright"]) as (transport, url, _):
        assert got(transport, url)[1] in (b"bytes", b"")
        assert got(transport, url) == (200, b"right")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The file of a certificate of 127.0.0.1, and its key."""
    found = tmp_path_factory.mktemp("tls") / "both.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    words += ["-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    made = subprocess.run([*words, "-keyout", "-"], check=True, capture_output=True, timeout=30)
    found.write_bytes(made.stdout)
    return str(found)


@pytest.mark.parametrize("length", [5, 9000])  # with the headers, and behind what is read at once
def test_what_follows_an_answer_over_tls_is_not_the_next_one(certificate, length):
    body = b"b" * length
    longer = OK + b"Content-Length: %d\r\n\r\n" % length + body + GOOD
    right = OK + b"Content-Length: 5\r\n\r\nright"
    with serving([longer, GOOD], [right, right], certificate=certificate) as (
        transport,
        url,
        asked,
    ):
        assert got(transport, url) == (200, body)
        assert [got(transport, url) for _ in range(2)] == [(200, b"right")] * 2
    assert len(asked) == 3  # the second connection is used again


@pytest.mark.parametrize("name", ["localhost", "localhost.", "LOCALHOST."])
def test_a_dot_behind_the_name_of_a_server_is_not_in_its_certificate(
    certificate, name, monkeypatch
):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *a, **k: real("127.0.0.1", *a, **k))
    with serving([GOOD], certificate=certificate) as (transport, url, _):
        assert got(transport, url.replace("127.0.0.1", name)) == (200, b"good")


def test_a_certificate_of_another_name_is_refused(certificate, monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *more, **how: real("127.0.0.1", *more, **how)
    )
    with serving([GOOD], certificate=certificate) as (transport, url, _), pytest.raises(SSLError):
        got(transport, url.replace("127.0.0.1", "another.test."))


def test_an_answer_to_a_request_that_was_cut_leaves_no_socket_open():
    options = S3Options()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection("127.0.0.1", 80, options, Limits(options))
        connection.sock = ours
        theirs.sendall(OK + b"Content-Length: 5\r\n\r\nbytes")
        theirs.shutdown(socket.SHUT_RD)  # what is sent there is a broken pipe
        with pytest.raises(ConnectionError, match="broke while the request") as failed:
            connection.answer_to("PUT", "/b/k", {"Content-Length": "5"}, b"bytes")
        connection.close()
        assert (failed.type, ours.fileno()) == (ConnectionError, -1)


def test_a_refusal_in_the_middle_of_a_body_is_its_answer_and_no_connection_is_kept():
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    headers = {"Content-Length": str(64 << 20)}
    with serving([refusal], [GOOD]) as (transport, url, asked):
        try:
            found = transport.exchange("PUT", url, "/", headers, bytes(64 << 20))
            said = (found.status, found.rest())
        except ConnectionClosedError:  # the reset overtook what was said
            said = (403, b"no")
        assert said == (403, b"no")
        assert got(transport, url) == (200, b"good")
    assert len(asked) == 2


def test_a_body_that_is_shorter_than_was_said_is_sent_as_no_request():
    with serving([b""], [GOOD]) as (transport, url, _):
        with pytest.raises(ConnectionClosedError) as failed:
            transport.exchange("PUT", url, "/", {"Content-Length": "9"}, b"bytes")
        assert str(failed.value.__cause__) == "4 bytes of the body are missing"
        assert got(transport, url) == (200, b"good")


class GivenUp(io.BytesIO):
    """A body that is given up as soon as *sent* bytes of it were read."""

    sent = 5

    def read(self, size=-1):
        if self.tell() >= self.sent:
            raise Interrupted("given up")
        return super().read(size)


def test_a_request_that_was_sent_whole_is_waited_for_though_its_body_is_given_up():
    options = S3Options()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection("127.0.0.1", 80, options, Limits(options))
        connection.sock = ours
        theirs.sendall(OK + b'ETag: "e"\r\nContent-Length: 0\r\n\r\n')
        answer = connection.answer_to("PUT", "/b/k", {"Content-Length": "5"}, GivenUp(b"bytes"))
        assert (answer.status, connection.body_failed) == (200, False)
        with pytest.raises(Interrupted):  # not whole: the server never has it
            connection.answer_to("PUT", "/b/k", {"Content-Length": "9"}, GivenUp(b"bytes"))
        assert connection.body_failed
