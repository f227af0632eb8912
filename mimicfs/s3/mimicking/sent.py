"""What the call of a client sends, which is known only when it is on its way: the size of its body,
and whether it is the question that botocore made.

The size that a caller gives, or that a file has, is not always the size that is sent; and a hook of
the program may have changed everything else. Other functions of botocore know that, so it is noted
beside the call, in its context.

Threading: any thread, and any task; each notes what its own call sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mimicfs.s3.mimicking.operations import Effect, effect_of

UNKNOWN = -1
_SENDING = ("PutObject", "UploadPart")
_UNCHANGING = (Effect.NONE, Effect.UPLOAD)
# Headers of a question to S3, and those that signing and checksums add.
_ASKING = ("x-amz-", "if-", "range")
_SIGNING: tuple[str, ...] = (
    "x-amz-date",
    "x-amz-content-sha256",
    "x-amz-security-token",
    "x-amz-checksum-",
)
_SIGNING += ("x-amz-trailer", "x-amz-decoded-content-length", "x-amz-sdk-", "x-amz-s3session-token")
_SIGNED_QUERY = ("X-Amz-", "AWSAccessKeyId", "Signature", "Expires")

_Question = tuple[Any, ...]


class Sent:
    """The requests of one call, the newest last: a call is sent again if S3 did not answer."""

    def __init__(self) -> None:
        self.sizes: list[int] = []  # UNKNOWN if a request does not name it
        self.doubtful = False  # S3 may have done one of the earlier requests
        self.unheard = False  # S3 has not answered one of them, and may do it yet
        # Where `note_questions` was called:
        self.made: _Question | None = None  # as botocore made it
        self.redirected = False  # to the region of the bucket: the request was made anew
        self.asked: list[tuple[_Question | None, Any]] = []  # as made, and botocore's request,
        # which hooks may still change
        self.gone = 0  # how many of them no hook has answered
        self.answer: Any = None  # the newest, which hooks may change
        self.parsed: Any = None  # a copy of what botocore has read from it
        self.context: Any = None  # botocore's, of the call
        self.watched = False  # by `watching`: the call is on its way

    def __bool__(self) -> bool:
        return bool(self.sizes or self.asked)

    @property
    def size(self) -> int:
        return self.sizes[-1] if self.sizes else 0

    def urls(self) -> list[str]:
        """Return the URLs to which they went."""
        return [str(request.url) for _, request in self.asked]

    def as_made(self) -> bool:
        """Whether they asked the question that botocore had made."""
        return all(made == _asked_by(request) for made, request in self.asked)


_current: ContextVar[Sent] = ContextVar("mimicfs_sent")


def noting() -> tuple[Sent, Token[Sent]]:
    """Begin to note in this context, until `no_more`; return the notes."""
    sent = Sent()
    return sent, _current.set(sent)


def no_more(token: Token[Sent]) -> None:
    """End what `noting` began."""
    _current.reset(token)


@contextmanager
def watching() -> Iterator[Sent]:
    """Within, note what the call sends, even if nobody else has begun to, and apart from the call
    within which a hook, or botocore, makes it."""
    sent = _current.get(None)
    if sent is not None and not sent.watched:
        sent.watched = True
        yield sent
        return
    sent, token = noting()
    sent.watched = True
    try:
        yield sent
    finally:
        no_more(token)


def note_requests(client: Any) -> None:
    """Have the requests of *client*, a boto3 S3 client, noted: those whose size matters, and those
    that change something, for which it matters whether one was sent."""
    client.meta.events.register_first("before-send.s3", _note_headers)
    client.meta.events.register_first("needs-retry.s3", _note_outcome)


def note_questions(client: Any) -> None:
    """Have the question of each request of *client* noted, before and after hooks get it."""
    client.meta.events.register_last("before-call", _note_made)
    client.meta.events.register_last("needs-retry", _note_redirected)
    client.meta.events.register_first("before-send.s3", _note_request)
    client.meta.events.register_first("response-received.s3", _note_answer)
    endpoint = client._endpoint
    send = endpoint._send  # requests that no hook has answered, awaited ones, too

    def noted(request: Any) -> Any:
        sent = _current.get(None)
        if sent is not None:
            sent.gone += 1
        return send(request)

    endpoint._send = noted


def _note_headers(request: Any, event_name: str, **_: Any) -> None:
    operation = event_name.rpartition(".")[2]
    if operation not in _SENDING and effect_of(operation) in _UNCHANGING:
        return
    size = request.headers.get("X-Amz-Decoded-Content-Length")
    if size is None:
        size = request.headers.get("Content-Length")
    chunked = "Transfer-Encoding" in request.headers
    note(int(size) if size is not None else UNKNOWN if chunked else 0)


def _note_outcome(response: Any, **_: Any) -> None:
    status = 0 if response is None else response[0].status_code
    if not status or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        doubt(status)


def doubt(status: int) -> None:
    """Note that the result of a request of the call in this context is not known. *status*: with
    which it was answered; 0: it was not."""
    sent = _current.get(None)
    if sent is not None:
        sent.doubtful = True
        sent.unheard |= is_unheard(status)


def is_unheard(status: int) -> bool:
    """Whether S3 itself has not answered the request with the answer *status*; 0: nobody has."""
    return status in (0, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)


def note(size: int) -> None:
    """Note that the call in this context sends a body of *size* bytes."""
    sent = _current.get(None)
    if sent is not None:
        sent.sizes.append(size)


def _note_made(params: Any, **_: Any) -> None:
    sent = _current.get(None)
    if sent is not None:
        sent.made = _question(params["method"], params["url"], params["headers"])


def _note_redirected(request_dict: Any, **_: Any) -> None:
    sent = _current.get(None)
    redirected = request_dict["context"].get("s3_redirect", {}).get("redirected", False)
    if sent is not None and redirected and not sent.redirected:
        sent.redirected = True
        _note_made(request_dict)


def _note_request(request: Any, **_: Any) -> None:
    sent = _current.get(None)
    if sent is not None:
        sent.asked.append((sent.made, request))


def _note_answer(parsed_response: Any, context: Any, **_: Any) -> None:
    sent = _current.get(None)
    if sent is not None:
        sent.answer, sent.parsed, sent.context = parsed_response, _copied(parsed_response), context


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _asked_by(request: Any) -> _Question:
    headers = request.headers.items()
    texts = {name: value.decode() if isinstance(value, bytes) else value for name, value in headers}
    return _question(request.method, request.url, texts)


def _question(method: str, url: str, said: Mapping[str, Any]) -> _Question:
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    headers = {name.lower(): str(value) for name, value in said.items()}
    return (
        method,
        parts.scheme,
        parts.netloc,
        parts.path,
        sorted((name, text) for name, text in query if not name.startswith(_SIGNED_QUERY)),
        sorted(
            (name, text)
            for name, text in headers.items()
            if name.startswith(_ASKING) and not name.startswith(_SIGNING)
        ),
    )
