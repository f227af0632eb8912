"""The bodies of answers, and their dates, as far as anybody can read them.

That is the XML that S3 and other servers write, and nothing that a parser chokes on: XML that is
nested a thousand deep, is in UTF-32 or in an unknown encoding, or declares entities.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from xml.parsers import expat

_DEEP = 32  # S3's own answers are at most six deep
_NO_XML = b"<"  # every parser refuses this as XML, in the ordinary way


class _UnreadableBody(Exception):
    """The body is no XML of S3's."""


def decoded(headers: Mapping[str, str], body: bytes, limit: int) -> bytes:
    """Return up to *limit* bytes of *body* as the server wrote it: a proxy on the way may compress
    it though it was asked not to, and a busy server sends white space first."""
    if "gzip" in headers.get("content-encoding", "") and body.startswith(b"\x1f\x8b"):
        try:
            body = zlib.decompressobj(wbits=31).decompress(body, limit)
        except zlib.error:
            return body
    if len(body) >= limit:  # it may not end: the caller says so
        return body
    return body.lstrip(b" \t\r\n") if body[:1].isspace() else body


def date_of(text: str) -> datetime | None:
    """Return the time that *text*, a header, has in the form of HTTP; None: nobody can read it."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return at.replace(tzinfo=at.tzinfo or UTC)


def error_of(body: bytes) -> dict[str, str]:
    """Return the fields of an error answer: Code, Message, Region ...; empty if it is none."""
    return _outline(body) or {}


def readable(status: int, body: bytes, kind: str) -> bytes:
    """Return *body*, of the answer with *status*; if botocore would choke on it, return bytes that
    botocore refuses in the ordinary way. *kind* is the Content-Type."""
    if status < 300 and _is_page(body):
        return _NO_XML
    looks = "xml" in kind.lower() or body[:64].lstrip(b"\xef\xbb\xbf \r\n\t\0")[:1] == b"<"
    if not body or not (looks or status >= 300) or _outline(body) is not None:
        return body
    return b"" if status >= 300 else _NO_XML


def _is_page(body: bytes) -> bool:
    """Whether *body* is a page for people, of a login or of a proxy. Its Content-Type does not
    decide: Swift says text/html of an answer to DeleteObjects."""
    start = body[:64].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return start.startswith((b"<html", b"<!doctype html"))


def _outline(body: bytes) -> dict[str, str] | None:
    """Return the texts of the elements just below the root; None: it is no XML of S3's."""
    found: dict[str, str] = {}
    open_tags: list[str] = []

    def start(tag: str, _attributes: object) -> None:
        open_tags.append(tag.rpartition(":")[2])
        if len(open_tags) > _DEEP:
            raise _UnreadableBody

    def end(_tag: str) -> None:
        open_tags.pop()

    def text(data: str) -> None:
        if len(open_tags) == 2:
            found[open_tags[1]] = found.get(open_tags[1], "") + data

    def entity(*_: object) -> None:
        raise _UnreadableBody

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = text, entity
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError, _UnreadableBody):
        return None
    return found
