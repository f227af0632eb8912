"""Answers that say the same in another form: quirks (standins.py) of what XML and HTTP leave to the
server."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.proxy import Request
from support.standins import Answer, Quirk

_TAG = re.compile(rb"<(/?)([A-Za-z]\w*)")
_TEXT = re.compile(rb"<(Key|ETag|Size|LastModified|Code|UploadId|IsTruncated)>([^<]+)</\1>")


class Dressed(Quirk):
    """Each body of XML is written as *dress* writes it."""

    def __init__(self, dress: Callable[[bytes], bytes]) -> None:
        self._dress = dress

    def change(self, request: Request, method: str, answer: Answer) -> None:
        if answer.body.lstrip().startswith((b"<?xml", b"<")) and answer.length is not None:
            answer.body = self._dress(answer.body)
            answer.length = len(answer.body)


class Headed(Quirk):
    """The head of each answer is as *change* makes it."""

    def __init__(self, change: Callable[[Request, Answer], None]) -> None:
        self._change = change

    def change(self, request: Request, method: str, answer: Answer) -> None:
        self._change(request, answer)


def _declared(body: bytes) -> tuple[bytes, bytes]:
    """Return the declaration of *body*, and the rest."""
    head, end, rest = body.partition(b"?>")
    return (head + end, rest) if end else (b"", body)


def without_declaration(body: bytes) -> bytes:
    return _declared(body)[1].lstrip()


def without_namespace(body: bytes) -> bytes:
    return re.sub(rb' xmlns(:\w+)?="[^"]*"', b"", body)


def another_namespace(body: bytes) -> bytes:
    head, rest = _declared(without_namespace(body))
    rest = _TAG.sub(rb"<\1ns2:\2", rest)
    return head + re.sub(rb"<ns2:\w+", rb'\g<0> xmlns:ns2="http://a.server/doc/1"', rest, count=1)


def with_a_mark(body: bytes) -> bytes:
    return b"\xef\xbb\xbf" + body.lstrip()


def spread(body: bytes) -> bytes:
    return re.sub(rb">\s*<(?!/)", b">\r\n  <", body)


def in_cdata(body: bytes) -> bytes:
    return _TEXT.sub(
        lambda found: (
            b"<%s><![CDATA[%s]]></%s>" % (found[1], found[2].replace(b"&quot;", b'"'), found[1])
        ),
        body,
    )


def with_comments(body: bytes) -> bytes:
    return re.sub(rb"<(Key|Size|ETag|Contents|Deleted)>", rb"<!-- <Error> --><\1>", body)


def in_references(body: bytes) -> bytes:
    return _TEXT.sub(
        lambda found: (
            b"<%s>&#x%x;%s</%s>" % (found[1], found[2][0], found[2][1:], found[1])
            if found[2][:1] != b"&"
            else found[0]
        ),
        body,
    )


def with_more(body: bytes) -> bytes:
    """With elements that S3 may have one day."""
    more = b'<New a="b"><Key>new</Key><Error><Code>None</Code></Error></New>'
    head, rest = _declared(body)
    return head + re.sub(rb"<(Contents|Deleted)>|(</\w+>)\s*$", more + rb"\g<0>", rest)


def with_spaces(body: bytes) -> bytes:
    text = re.compile(rb"<(ETag|Size|LastModified|IsTruncated|StorageClass)>([^<]+)<")
    return text.sub(rb"<\1>\n   \2\n  <", body)


def in_latin_1(body: bytes) -> bytes:
    return b"<?xml version='1.0' encoding='ISO-8859-1'?>" + without_declaration(body)


def in_utf_16(body: bytes) -> bytes:
    text = without_declaration(body).decode()
    return ("<?xml version='1.0' encoding='UTF-16'?>" + text).encode("utf-16")


def created(request: Request, answer: Answer) -> None:
    if request.kind in ("PUT", "COPY", "POST") and answer.status == 200:
        answer.status = 201


def nameless(request: Request, answer: Answer) -> None:
    for name in [name for name in answer.headers if name.startswith("x-amz-")]:
        if "meta" not in name:
            del answer.headers[name]


def closing(request: Request, answer: Answer) -> None:
    answer.headers["connection"] = "close"


def untyped(request: Request, answer: Answer) -> None:
    if "prefix" in request.query or answer.status >= 300:
        answer.headers["content-type"] = "application/octet-stream"


DRESSES = (
    without_declaration,
    without_namespace,
    another_namespace,
    with_a_mark,
    spread,
    in_cdata,
    with_comments,
    in_references,
    with_more,
    with_spaces,
    in_latin_1,
    in_utf_16,
)
HEADS = (created, nameless, closing, untyped)
