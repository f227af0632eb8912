"""The header Expires of an object, stored again as it was written.

Web servers write `0` and `-1`. botocore would make a date of them, and refuse a value that it
cannot read: then nobody could change the object any more.

Threading: no state; any thread.
"""

from __future__ import annotations

from typing import Any

OPERATIONS = ("PutObject", "CopyObject", "CreateMultipartUpload")  # they store headers
_NOTE = "mimicfs_expires"  # in the context of a call


def keep_expires(events: Any) -> None:
    """Have the client of *events* send the text of Expires as it is."""
    for operation in OPERATIONS:
        events.register(f"provide-client-params.s3.{operation}", _set_aside)
        events.register(f"before-call.s3.{operation}", _put_back)


def _set_aside(params: dict[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any] | None:
    """Return *params* without Expires, as a copy: the caller may ask again with the same ones."""
    if not isinstance(params.get("Expires"), str):
        return None
    context[_NOTE] = params["Expires"]
    return {name: value for name, value in params.items() if name != "Expires"}


def _put_back(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if _NOTE in context:
        params["headers"]["Expires"] = context[_NOTE]
