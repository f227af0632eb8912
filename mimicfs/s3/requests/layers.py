"""How the layers that a call of a boto3 client passes are stacked, and hooks of botocore that
change a request on its way. Pure; no state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mimicfs.s3.requests.checksums import md5_of
from mimicfs.s3.transport.calls import Ask

Layer = Callable[[Ask], Ask]


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
