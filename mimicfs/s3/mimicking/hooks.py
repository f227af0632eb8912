"""Hooks of a program that may change what a call asks, or answer it: such a call goes to S3, and
nothing is learned from the answer; after a change the mirror forgets the bucket.

botocore has handlers of its own for the same events; whose a handler is, is told by its module.
Hooks that see requests and answers (request-created, before-send, after-call ...) are told of what
goes to S3, and of nothing else.

Threading: any; what was found is kept until a handler is registered.
"""

from __future__ import annotations

import functools
from typing import Any

_EVENTS = ("provide-client-params", "before-parameter-build", "before-call")
_BOTOCORE = frozenset({"botocore", "boto3", "s3transfer", "aiobotocore"})


class Hooks:
    """The handlers of *client*."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._found: dict[str, bool] = {}  # by operation
        self._handlers: Any = None  # what the emitter makes anew when a handler is registered

    def change(self, operation: str) -> bool:
        """Whether a hook of the program may change what *operation* asks."""
        emitter = self._client.meta.events._emitter
        if self._handlers is not emitter._lookup_cache:
            self._handlers, self._found = emitter._lookup_cache, {}
        found = self._found.get(operation)
        if found is None:
            found = self._found[operation] = any(
                _module(handler) not in _BOTOCORE
                for event in _EVENTS
                for handler in emitter._handlers.prefix_search(f"{event}.s3.{operation}")
            )
        return found


def _module(handler: Any) -> str:
    """Return the package that *handler* is of."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return str(module).partition(".")[0]
