"""Hooks of a program that change the question of a call, or its answer. Such a call goes to S3, and
nothing is learned from the answer; after a change the mirror asks S3, or forgets.

Hooks on parameters get them to change them. Hooks on requests and answers mostly look on, or add a
header that S3 does not read. If one asked something else, answered in place of S3, or altered the
answer, its operation counts as changed from then on.

botocore has handlers of its own for the same events; the module of a handler tells whose it is.
moto's answers count as those of S3: a program that uses moto has no other. Sentry's handlers only
look. botocore's Stubber counts as a hook of the program. A program may also remove a handler of
botocore; here only those matter that decode names.

Threading: any thread; findings are kept until a handler is registered.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from botocore.handlers import (
    decode_list_object,
    decode_list_object_v2,
    decode_list_object_versions,
)

from mimicfs.s3.mimicking.sent import Sent, note_questions, watching

_CHANGING = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",  # it may answer, too
    "before-parse",
    "response-received",
)
_REQUESTS = ("request-created", "before-sign", "before-send", "needs-retry")
_ANSWERS = ("after-call", "needs-retry")
# The handlers of botocore, by operation: without one, a program gets names as S3 encodes them.
_DECODING = {
    "ListObjects": decode_list_object,
    "ListObjectsV2": decode_list_object_v2,
    "ListObjectVersions": decode_list_object_versions,
}
_BOTOCORE = frozenset({"botocore", "boto3", "s3transfer", "aiobotocore", "mimicfs"})
_TRUSTED = _BOTOCORE | {"moto", "sentry_sdk"}


class _OperationHooks(NamedTuple):
    """The program's hooks of an operation."""

    changing: bool
    watched: bool
    answers: bool  # some of them get answers


class Hooks:
    """The handlers of *client*."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._handlers: Any = None  # the emitter makes this anew when a handler is registered
        self._found: dict[str, _OperationHooks] = {}  # by operation
        self._seen: set[str] = set()  # operations whose answer was seen
        self._changed: set[str] = set()  # operations whose request or answer a hook has changed
        self._noted = False  # what is asked

    def change(self, operation: str) -> bool:
        """Whether a hook of the program changes, or may change, the question or the answer of
        *operation*."""
        return self._of(operation).changing or operation in self._changed

    def may_change(self, operation: str) -> bool:
        """Whether the same holds before the question: nobody knows it of a hook that gets answers
        until one was seen."""
        unseen = self._of(operation).answers and operation not in self._seen
        return unseen or self.change(operation)

    def watched(self, operation: str) -> bool:
        """Whether the program has hooks that must be watched during *operation*."""
        found = self._of(operation).watched
        if found and not self._noted:
            self._noted = True
            note_questions(self._client)
            self._handlers = self._client.meta.events._emitter._lookup_cache  # ours are no news
        return found

    @contextmanager
    def watch(self, operation: str) -> Iterator[None]:
        """Within, watch *operation*."""
        with watching() as sent:
            try:
                yield
            finally:
                answered = sent.gone < len(sent.asked) and not self._is_mocked(operation)
                self._seen.add(operation)
                if answered or not sent.as_made() or self._is_altered(operation, sent):
                    self._changed.add(operation)

    def _is_mocked(self, operation: str) -> bool:
        handlers = self._client.meta.events._emitter._handlers
        found = handlers.prefix_search(f"before-send.s3.{operation}")
        # Once moto is imported, its handler is on every client; it answers while it is enabled.
        return any(_package(each) == "moto" and getattr(each, "enabled", True) for each in found)

    def _is_altered(self, operation: str, sent: Sent) -> bool:
        """Whether the answer differs from what botocore's own handlers make of it."""
        answer, model = sent.parsed, self._client.meta.service_model.operation_model(operation)
        known = {"http_response": None, "model": model, "context": sent.context, "parsed": answer}
        event = f"after-call.s3.{operation}"
        for handler in self._client.meta.events._emitter._handlers.prefix_search(event):
            if _package(handler) in _BOTOCORE:
                try:
                    handler(**known, event_name=event)
                except AttributeError:  # the handler reads the response itself
                    return True
        return bool(_without_attempts(answer) != _without_attempts(sent.answer))

    def _of(self, operation: str) -> _OperationHooks:
        cache = self._client.meta.events._emitter._lookup_cache
        if self._handlers is not cache:
            self._handlers, self._found, self._seen = cache, {}, set()
        found = self._found.get(operation)
        if found is None:
            changing = self._has(_CHANGING, operation) or self._is_encoded(operation)
            asked = self._has(_REQUESTS, operation)
            answers = self._has(_ANSWERS, operation)
            found = self._found[operation] = _OperationHooks(
                changing, changing or asked or answers, answers
            )
        return found

    def _is_encoded(self, operation: str) -> bool:
        """Whether the names in an answer stay as S3 encodes them."""
        decode = _DECODING.get(operation)
        handlers = self._client.meta.events._emitter._handlers
        return decode is not None and decode not in handlers.prefix_search(
            f"after-call.s3.{operation}"
        )

    def _has(self, events: tuple[str, ...], operation: str) -> bool:
        handlers = self._client.meta.events._emitter._handlers
        return any(
            _package(handler) not in _TRUSTED
            for event in events
            for handler in handlers.prefix_search(f"{event}.s3.{operation}")
        )


def _without_attempts(answer: Any) -> Any:
    """Return *answer* without the fields that botocore adds after its last attempt."""
    said = (answer or {}).get("ResponseMetadata", {})
    kept = {name: said.get(name) for name in ("HTTPStatusCode", "HTTPHeaders")}
    return {**(answer or {}), "ResponseMetadata": kept}


def _package(handler: Any) -> str:
    """Return the package of *handler*; "" if it counts as the program's all the same."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return "" if module == "botocore.stub" else str(module).partition(".")[0]
