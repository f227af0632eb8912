"""The size of the body that a client's call sends: known only when it is on its way.

The size that a caller gives, or that a file has, is not what is sent in the end. botocore says
that in another function, so it is noted beside the call, in its context.

Threading: any thread, and any task; each notes what its own call sends.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any

UNKNOWN = -1
_SENDING = ("PutObject", "UploadPart")

_sizes: ContextVar[list[int]] = ContextVar("mimicfs_sent")


def noting() -> tuple[list[int], Token[list[int]]]:
    """Return a list of the sizes that are noted in this context until `no_more`; UNKNOWN is one
    that the request does not name."""
    sizes: list[int] = []
    return sizes, _sizes.set(sizes)


def no_more(token: Token[list[int]]) -> None:
    """End what `noting` began."""
    _sizes.reset(token)


def note_requests(client: Any) -> None:
    """Have the requests of *client*, a boto3 S3 client, noted: those of which the size matters."""
    for operation in _SENDING:
        client.meta.events.register(f"before-send.s3.{operation}", _note_headers)


def _note_headers(request: Any, **_: Any) -> None:
    size = request.headers.get("X-Amz-Decoded-Content-Length")
    if size is None:
        size = request.headers.get("Content-Length")
    chunked = "Transfer-Encoding" in request.headers
    note(int(size) if size is not None else UNKNOWN if chunked else 0)


def note(size: int) -> None:
    """Note that the call in this context sends a body of *size* bytes."""
    sizes = _sizes.get(None)
    if sizes is not None:
        sizes.append(size)
