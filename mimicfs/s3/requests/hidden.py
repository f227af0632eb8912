"""Objects that a server hides while it replaces them: `rclone serve s3` answers a HEAD or GET of
them with 404 then, or without an ETag.

Where the server does not look at conditions, it is asked again then about an object that the mirror
knows, for as long as a small upload takes; what it says after that is believed. No other server is
asked again.

Threading: any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mimicfs.entry import OBJECT, unquoted
from mimicfs.errors import StoreError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.shown import says_gone
from mimicfs.s3.requests.layers import Layer
from mimicfs.s3.transport.calls import Ask

_WAITS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
# which have a version that is never replaced, or have said what they want to see
_OTHER = frozenset({"VersionId", "PartNumber", "IfNoneMatch"})


def seen_again(mimicdb: Mirror, hides: Callable[[str], bool]) -> Layer:
    """Return a layer that asks again about what *mimicdb* knows in buckets whose server *hides*
    objects, as far as one knows."""

    def layer(ask: Ask) -> Ask:
        def call(operation: str, params: dict[str, Any]) -> Any:
            place = _place_of(operation, params)
            if place is None or not hides(place[0]):
                return ask(operation, params)
            for wait_s in _WAITS_S:
                asked = dict(params)  # botocore rewrites some of them in place
                try:
                    answer = ask(operation, asked)
                except Exception as exc:
                    if not says_gone(exc) or not _is_known(mimicdb, *place):
                        raise
                else:
                    if unquoted(answer.get("ETag")) or not _may_have_etag(mimicdb, *place):
                        return answer
                    if "Body" in answer:
                        answer["Body"].close()
                time.sleep(wait_s)
            return ask(operation, params)

        return call

    return layer


def _place_of(operation: str, params: dict[str, Any]) -> tuple[str, str] | None:
    """Return the bucket and the key of the object that is shown; None: none is."""
    if operation not in ("HeadObject", "GetObject") or not params.keys().isdisjoint(_OTHER):
        return None
    return params["Bucket"], params["Key"]


def _is_known(mimicdb: Mirror, bucket: str, key: str) -> bool:
    with suppress(StoreError):
        entry = mimicdb.entry(bucket, key)
        return entry is not None and entry.kind == OBJECT
    return False


def _may_have_etag(mimicdb: Mirror, bucket: str, key: str) -> bool:
    """Whether the object had an ETag, or is being written: some servers give none at all."""
    with suppress(StoreError):
        entry = mimicdb.entry(bucket, key)
        return bool(entry.etag if entry is not None else mimicdb.intents.unsettled(bucket, key))
    return False
