"""Whether requests name a bucket in the path or in the host.

At an endpoint other than AWS's they name it in the path, as boto3 does. Some servers refuse that:
from then on requests name the bucket in the host, and the store remembers it (capabilities.py).

Threading: any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from mimicfs.config.values import S3Options
from mimicfs.s3.requests.capabilities import Capabilities
from mimicfs.s3.requests.layers import Layer

# The codes of the refusal: Alibaba's OSS, Tencent's COS.
_WANTS_HOST = frozenset({"SecondLevelDomainForbidden", "PathStyleDomainForbidden"})


class Addressing:
    """The place of buckets in requests, by *options* and by the *capabilities* of the server."""

    def __init__(self, options: S3Options, capabilities: Capabilities) -> None:
        self._options = options
        self._capabilities = capabilities
        self._lock = threading.Lock()  # held while the clients move; protects:
        self._moved = False  # they named buckets in the path, and name them in the host now

    def config(self) -> Any:
        """Return what boto3 is told. If it is told no style, the AWS configuration decides, or its
        own rules."""
        options = self._options
        told: dict[str, Any] = {"use_accelerate_endpoint": True} if options.accelerate else {}
        style = options.addressing
        if not style and options.endpoint_url and self._capabilities["addressing"] == "virtual":
            style = "virtual"
        return {**told, "addressing_style": style} if style else told

    def moves(self, code: str, move: Callable[[], None]) -> bool:
        """If *code* refused a bucket in the path, call *move*, after which the clients name buckets
        in the host; return whether so. (Several requests may be refused at once.)"""
        if code not in _WANTS_HOST or not self._by_trial:
            return False
        with self._lock:
            self._capabilities.learned("addressing", "virtual")
            move()
            self._moved = True
        return True

    def layer(self, moves: Callable[[str], bool]) -> Layer:
        """Return the layer that asks again once *moves* has told, by the code of a refusal, that
        buckets are named in the host from now on."""
        return lambda ask: self._asked_again(ask, moves)

    def _asked_again(self, ask: Any, moves: Callable[[str], bool]) -> Any:
        from botocore.exceptions import ClientError

        answered = False  # set once a bucket in the path was answered: then the question is settled
        asks = threading.local()  # said_of does: botocore may look for the bucket by a HEAD

        def call(operation: str, params: Any) -> Any:
            nonlocal answered
            moved, rewind = self._moved, _rewinding(params.get("Body"))
            try:
                answer = ask(operation, dict(params))  # botocore rewrites some of them in place
                answered = answered or "Bucket" in params
                return answer
            except ClientError as exc:
                code = _code(exc)
                known = answered or asks.__dict__ or not self._by_trial
                if code in ("400", "403") and not known:
                    code = said_of(params)  # a HEAD's answer has no code
                if not moves(code) and moved == self._moved:  # another thread may have moved us
                    raise
            rewind()
            return ask(operation, params)

        def said_of(params: Any) -> str:
            asks.now = True
            try:
                ask("ListObjectsV2", {"Bucket": params.get("Bucket", ""), "MaxKeys": 1})
            except ClientError as exc:
                return _code(exc)
            finally:
                del asks.now
            return ""

        return call

    @property
    def _by_trial(self) -> bool:
        return bool(self._options.endpoint_url) and not self._options.addressing


def _rewinding(body: Any) -> Callable[[], object]:
    """Return a function that brings *body* back to its place of now."""
    if not hasattr(body, "seek"):
        return lambda: None
    return partial(body.seek, body.tell())


def _code(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
