"""Plain HTTP/1.1 in few steps, for nearly every request to S3 and its answer.

http.client spends 160 calls on a request of 4 KiB and its answer, half of them in the parser of
e-mails. This module takes requests and answers that have a length and no surprises. It leaves all
others to http.client, with the same bytes: chunks, a header in several lines, an answer without a
length, bytes that are no answer. It passes over answers that only announce another one (100 to 199,
RFC 9110, 15.2). It refuses answers that http.client would believe though part of them is missing or
contradicts itself: headers that break off, a body that is cut short, a length that is no number or
two numbers. An answer that is longer than it says is the last one of its connection.

Threading: an answer belongs to one thread at a time.
"""

from __future__ import annotations

import http.client
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

_HEAD_MAX = 64 << 10  # bytes; http.client says what is wrong with a longer one
_LINES_MAX = 100  # likewise
_READ = 8 << 10  # bytes that are asked for at once until the headers are here
_PIECE = 1 << 20  # the bytes of a body for which room is made at once
_BEGIN = b"HTTP/1.1 "
_NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# None of these goes back over text that it has matched: a server cannot make them slow.
_REQUEST = re.compile(rf"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:{_NAME}: [\t -~]*\r\n)+")
_HEAD = re.compile(
    rf"HTTP/1\.1 (?P<status>[2-5]\d\d)(?: [^\r\n]*)?\r?\n"
    rf"(?P<lines>(?:{_NAME}:[^\r\n]*\r?\n)*)\r?\n"
)
_LINE = re.compile(rf"({_NAME}):([^\r\n]*)")
_END = re.compile(rb"\n\r?\n")
_REFUSAL = re.compile(rb"HTTP/1\.[01] ([345]\d\d)\b")
_INTERIM = re.compile(rb"HTTP/1\.1 1(?!01)\d\d\b")
# S3 gives each of these headers one value: a proxy that repeats it says nothing new.
_SAID_ONCE = frozenset({"etag", "last-modified", "content-type", "content-range", "date"})
_NUMBER = re.compile("[0-9]{1,18}")
_NO_BODY = frozenset({204, 304})
_LEFT_TO_HTTP_CLIENT = frozenset({"host", "expect", "transfer-encoding"})


def request_head(host: str, method: str, target: str, headers: Mapping[str, Any]) -> bytes | None:
    """Return the bytes before the body; None: http.client has to say how they are, or why not."""
    lines = [f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n"]
    names = {name.lower() for name in headers}
    if names & _LEFT_TO_HTTP_CLIENT or ":" in "".join(names):
        return None
    if "accept-encoding" not in names:
        lines.append("Accept-Encoding: identity\r\n")
    for name, value in headers.items():
        if type(value) is not str:
            return None
        lines.append(f"{name}: {value}\r\n")
    text = "".join(lines)
    # The text has as many lines as were written: no value has a line feed in it.
    if _REQUEST.fullmatch(text) is None or text.count("\n") != len(lines) + 1:
        return None
    return f"{text}\r\n".encode()


class PlainAnswer:
    """An answer of a known length, as http.client.HTTPResponse shows it."""

    def __init__(
        self, raw: io.RawIOBase, status: int, headers: dict[str, str], length: int, come: bytes
    ) -> None:
        self._raw = raw
        self._come = memoryview(come)[:length]  # the part of the body that came with the headers
        self.status = status
        self.joined = headers  # names in lower case; repeated headers are joined by commas
        self.length = length  # of the bytes that were not read yet
        self.will_close = len(come) > length or "close" in headers.get("connection", "").lower()
        self._closed = False
        if not length:
            self.close()

    def read(self, limit: int | None = None) -> bytes:
        """Return up to *limit* bytes; without a limit, all. Raises IncompleteRead if fewer come."""
        wanted = self.length if limit is None else min(limit, self.length)
        found = bytearray()
        while len(found) < wanted:
            # In pieces: a server can claim any length, and room is made only for what comes.
            piece = memoryview(bytearray(min(wanted - len(found), _PIECE)))
            count = self.readinto(piece)
            found += piece[:count]
            if count < len(piece):
                raise http.client.IncompleteRead(bytes(found), wanted - len(found))
        return bytes(found)

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer*; with less only at the end, or where the answer breaks off."""
        if self._closed:
            return 0
        wanted = min(len(buffer), self.length)
        count = min(wanted, len(self._come))
        buffer[:count], self._come = self._come[:count], self._come[count:]
        while count < wanted and (more := self._raw.readinto(buffer[count:wanted])):
            count += more
        self.length -= count
        if count < wanted:
            self.will_close = True
            self.close()
        elif not self.length:
            self.close()
        return count

    def isclosed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._raw.close()


def answer_from(raw: io.RawIOBase, method: str) -> PlainAnswer | http.client.HTTPResponse:
    """Return the answer to *method* with which *raw* begins; *raw* belongs to the answer from now
    on. Raises OSError, HTTPException."""
    try:
        return _answer_from(raw, method)
    except BaseException:
        raw.close()  # else the socket stays open until it is collected
        raise


def _answer_from(raw: io.RawIOBase, method: str) -> PlainAnswer | http.client.HTTPResponse:
    data, end = _come_of(raw)
    while end and _INTERIM.match(data):
        data, end = _come_of(raw, data[end:])
    found = _HEAD.fullmatch(data[:end].decode("latin-1"))
    lines = _LINE.findall(found["lines"]) if found is not None else []
    if found is not None and len(lines) <= _LINES_MAX:
        status, headers = int(found["status"]), joined(lines)
        length = _length_of(method, status, headers)
        if length is not None:
            return PlainAnswer(raw, status, headers, length, data[end:])
    answer = LastAnswer(_ReplayedSocket(data, raw), method=method)  # type: ignore[arg-type]
    try:
        answer.begin()
    except BaseException:
        answer.close()
        raise
    return answer


def whole_answer(data: bytes, method: str) -> PlainAnswer | None:
    """Return *data* as the answer to *method*, with its body; None: there is more to come. Raises
    HTTPException if it is no answer, or if only http.client knows how it goes on."""
    end = _END.search(data)
    if end is None:
        if len(data) > _HEAD_MAX or not data.startswith(_BEGIN[: len(data)]):
            raise http.client.HTTPException("not a plain answer")
        return None
    found = _HEAD.fullmatch(data[: end.end()].decode("latin-1"))
    lines = _LINE.findall(found["lines"]) if found is not None else []
    if found is None or len(lines) > _LINES_MAX:
        raise http.client.HTTPException("not a plain answer")
    status, headers = int(found["status"]), joined(lines)
    length = _length_of(method, status, headers)
    if length is None or length > _PIECE:
        raise http.client.HTTPException("not a plain answer")
    if len(data) - end.end() < length:
        return None
    return PlainAnswer(io.RawIOBase(), status, headers, length, data[end.end() :])


def answer_in(data: bytes, method: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to *method* that is in *data*, also if it comes
    in chunks. Raises OSError or HTTPException if there is more to come, or if it is no answer."""
    answer = answer_from(_Joined(data, io.BytesIO()), method)  # type: ignore[arg-type]
    try:
        said = answer.read()
    finally:
        answer.close()
    headers = answer.joined if isinstance(answer, PlainAnswer) else joined(answer.getheaders())
    return answer.status, headers, said


def refusal(data: bytes) -> int:
    """Return the status with which *data* begins, if it refuses the request; else 0. (S3 refuses in
    chunks, of which `whole_answer` knows nothing.)"""
    found = _REFUSAL.match(data)
    return int(found[1]) if found is not None else 0


def _come_of(raw: io.RawIOBase, come: bytes = b"") -> tuple[bytes, int]:
    """Return the bytes that have come, beginning with *come*, and the place where the headers end;
    0: http.client has to say where."""
    data, looked = bytearray(come), 0
    while True:
        end = _END.search(data, looked)
        if end is not None:
            return bytes(data), end.end()
        if len(data) > _HEAD_MAX or not data.startswith(_BEGIN[: len(data)]):
            return bytes(data), 0
        piece = raw.read(_READ)
        if not piece:
            if data:
                raise ConnectionError("the answer broke off within its headers")
            return b"", 0
        looked = max(0, len(data) - 2)
        data += piece


def joined(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers in *lines*, their names in lower case."""
    headers: dict[str, str] = {}
    for given, written in lines:
        name, value = given.lower(), written.lstrip(" \t")
        if name in headers and not (name in _SAID_ONCE and headers[name] == value):
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _length_of(method: str, status: int, headers: Mapping[str, str]) -> int | None:
    """Return how many bytes follow; None: *headers* do not say so. Raises HTTPException."""
    if "transfer-encoding" in headers:
        return None
    if method == "HEAD" or status in _NO_BODY:
        return 0  # whatever the headers say of a body: none follows
    said = headers.get("content-length")
    if said is None:
        return None
    lengths = {each.strip(" \t") for each in said.split(",")}
    length = lengths.pop()
    if lengths or _NUMBER.fullmatch(length) is None:
        raise http.client.HTTPException(f"Content-Length: {said[:100]!r}")
    return int(length)


class LastAnswer(http.client.HTTPResponse):
    """An HTTPResponse that passes over all answers that only announce another one. http.client
    passes over status 100 alone: it would take the answer after another one for that of the next
    request."""

    def begin(self) -> None:
        super().begin()
        while self.status < 200:
            if self.status == http.client.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("the server speaks another protocol now")
            self.headers = None  # type: ignore[assignment]  # else they stay for the next answer
            super().begin()


class _ReplayedSocket:
    """Stands in an HTTPResponse for a socket from which *come* was read already."""

    def __init__(self, come: bytes, raw: io.RawIOBase) -> None:
        self._raw = _Joined(come, raw)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._raw)


class _Joined(io.RawIOBase):
    def __init__(self, come: bytes, raw: io.RawIOBase) -> None:
        self._come = come
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if not self._come:
            return self._raw.readinto(buffer)
        size = min(len(buffer), len(self._come))
        buffer[:size], self._come = self._come[:size], self._come[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()
