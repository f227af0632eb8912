"""Counts the requests to S3, and logs the slow ones with the ids that S3's support asks for
(x-amz-request-id, x-amz-id-2).

Threading: any thread; `_lock` is a leaf, held for a few instructions, once for each request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from mimicfs.s3.transport.calls import Ask

log = logging.getLogger(__name__)

_IDS = {"x-amz-request-id": "request id", "x-amz-id-2": "id 2"}
_SENT = frozenset({"PutObject", "UploadPart"})


class Traffic:
    """Counts calls, and logs a warning for each that took *slow_s* seconds or more, its retries
    included; 0: for none."""

    def __init__(self, slow_s: float) -> None:
        self._slow_s = slow_s
        self._lock = threading.Lock()  # protects all below
        self._bytes_in = 0
        self._bytes_out = 0
        self._slow = 0
        self._calls: Counter[str] = Counter()  # by operation; retries are part of a call
        self._seconds: dict[str, float] = {}  # by operation, until the answers began
        self._errors: Counter[str] = Counter()  # by S3's code, or the class of the error

    def observed(self, ask: Ask) -> Ask:
        """Return *ask*, the `_make_api_call` of a client, with calls that are observed."""

        def call(operation: str, params: dict[str, Any]) -> Any:
            about = f"s3://{params.get('Bucket', '')}/{params.get('Key', '')}"
            with self.observing(operation, about) as seen:
                answer = ask(operation, params)
                seen.headers = _headers(answer)
                if operation in _SENT:
                    self.moved(0, int(params.get("ContentLength", 0)))
            return answer

        return call

    def observing(self, operation: str, about: str) -> Seen:
        """Return the context in which a request is made; it notes what is seen of the answer."""
        return Seen(self, operation, about)

    def ended(self, operation: str, about: str, seen: Seen) -> None:
        """Count a request that has ended, with the facts that were *seen*."""
        took_s = time.monotonic() - seen.started_s
        with self._lock:
            if seen.failed:
                self._errors[seen.failed] += 1
            self._calls[operation] += 1
            self._seconds[operation] = self._seconds.get(operation, 0.0) + took_s
        if 0 < self._slow_s <= took_s:
            self._tell(operation, about, took_s, seen)

    def moved(self, bytes_in: int, bytes_out: int) -> None:
        with self._lock:
            self._bytes_in += bytes_in
            self._bytes_out += bytes_out

    def figures(self) -> dict[str, Any]:
        with self._lock:
            return {
                "bytes_in": self._bytes_in,
                "bytes_out": self._bytes_out,
                "slow": self._slow,
                "calls": dict(self._calls),
                "seconds": dict(self._seconds),
                "errors": dict(self._errors),
            }

    def _tell(self, operation: str, about: str, took_s: float, seen: Seen) -> None:
        with self._lock:
            self._slow += 1
        said = seen.headers
        ids = [f"{what} {said[name]}" for name, what in _IDS.items() if name in said]
        log.warning(
            "slow: %s %s took %.1f s%s (%s)",
            operation,
            about,
            took_s,
            f", {seen.failed}" if seen.failed else "",
            ", ".join(ids) or "no request id",
        )


class Seen:
    """The facts that are seen of an answer, and the context in which its request is made. (No
    generator, which costs each request four calls more.)"""

    __slots__ = ("_about", "_operation", "_traffic", "failed", "headers", "started_s")

    def __init__(self, traffic: Traffic, operation: str, about: str) -> None:
        self._traffic = traffic
        self._operation = operation
        self._about = about
        self.headers: Mapping[str, str] = {}
        self.failed = ""  # S3's code, or the class of an error
        self.started_s = time.monotonic()

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, ClientError):
            self.headers = _headers(exc.response)
            self.failed = str(exc.response.get("Error", {}).get("Code", ""))
        if isinstance(exc, Exception):
            self.failed = self.failed or str(getattr(exc, "code", "")) or type(exc).__name__
        self._traffic.ended(self._operation, self._about, self)


def _headers(answer: Any) -> Mapping[str, str]:
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers
