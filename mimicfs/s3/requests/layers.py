"""How the layers that a call of a boto3 client passes are stacked, a layer that answers by itself
what was answered already, and hooks of botocore that change a request on its way. The only state
belongs to one thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mimicfs.s3.requests.checksums import md5_of
from mimicfs.s3.transport.calls import Ask

Layer = Callable[[Ask], Ask]

_VERSION = ("Bucket", "Key", "IfMatch")  # what says which version of an object is asked for


def through(layers: Sequence[Layer], ask: Ask) -> Ask:
    """Return *ask* below *layers*, of which the first is on top."""
    for layer in reversed(layers):
        ask = layer(ask)
    return ask


def with_params(change: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Layer:
    """Return a layer that hands each call's parameters on as *change* returns them."""
    return lambda ask: lambda operation, params: ask(operation, change(operation, params))


def taught(client: Any) -> Any:
    """Return *client*, taught what botocore does not know by itself, or not when it is told to sign
    by version 4."""
    from mimicfs.s3.transport.everywhere import sign_everywhere
    from mimicfs.s3.transport.express import sign_with_sessions
    from mimicfs.s3.transport.filters import know_filters_of_ceph
    from mimicfs.s3.transport.regional import presign_as_called

    sign_everywhere(client.meta.events)
    presign_as_called(client.meta.events)
    sign_with_sessions(client)
    know_filters_of_ceph(client)
    return client


class GivenRefusals:
    """Refusals of S3 that have come already, otherwise than by a call: the call that asks for the
    same object in the same thread gets it, and asks nobody."""

    def __init__(self) -> None:
        self._mine = _Mine()

    @contextmanager
    def given(self, asked: Mapping[str, Any], refusal: Exception) -> Iterator[None]:
        """Within, *refusal* is what S3 says to a GetObject of *asked*, once."""
        self._mine.refusal = (asked, refusal)
        try:
            yield
        finally:
            self._mine.refusal = None

    def layer(self, ask: Ask) -> Ask:
        def call(operation: str, params: dict[str, Any]) -> Any:
            found = self._mine.refusal
            if found is None or operation != "GetObject":
                return ask(operation, params)
            asked, refusal = found
            if any(params.get(name) != asked[name] for name in _VERSION):
                return ask(operation, params)
            self._mine.refusal = None
            raise refusal

        return call


class _Mine(threading.local):
    refusal: tuple[Mapping[str, Any], Exception] | None = None


def do_not_ask_first(request: Any, **_: Any) -> None:
    """Send bodies at once. With `Expect: 100-continue`, botocore waits for leave to go on: up to a
    second for servers that never give it, and a round trip for S3."""
    if "Expect" in request.headers:
        del request.headers["Expect"]


def leave_sums_to_us(context: dict[str, Any], **_: Any) -> None:
    """Keep botocore from comparing the checksum of a body with what checksums.py compares, too. It
    would take the body of a refusal that has such a header for an object, and end in an
    AttributeError; and what has not the form of a checksum for a wrong one."""
    context.get("checksum", {}).pop("response_algorithms", None)


def with_md5(request: Any, **_: Any) -> None:
    """Add an MD5 to the CRC-32 that botocore sends, which some servers do not know."""
    if request.body and "Content-MD5" not in request.headers:
        request.headers["Content-MD5"] = md5_of(request.body)
