"""Hooks of a program that change what a call asks, or what it is answered: such a call goes to
S3, and nothing is learned from the answer; after a change the mirror asks S3, or forgets.

Hooks on parameters are given them to be changed. Hooks on requests and answers mostly look on, or
add a header that S3 does not read: an operation of which one asked something else, answered in
the place of S3, or altered the answer, counts as changed from then on.

botocore has handlers of its own for the same events; whose a handler is, is told by its module.
moto's answers are those of S3: a program that uses it has no other. Sentry's look only. botocore's
Stubber is a hook like any of a program. A program may also take away a handler of botocore's, of
which only those matter here that decode names.

Threading: any; what was found is kept until a handler is registered.
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
# botocore's own, by operation: a program that takes one away is given names as S3 encodes them.
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
    answers: bool  # it has some that are given answers


class Hooks:
    """The handlers of *client*."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._handlers: Any = None  # what the emitter makes anew when a handler is registered
        self._found: dict[str, _OperationHooks] = {}  # by operation
        self._seen: set[str] = set()  # operations of which an answer was seen
        self._changed: set[str] = set()  # of which a hook changed a request or an answer
        self._noted = False  # what is asked

    def change(self, operation: str) -> bool:
        """Whether a hook of the program changes, or may, what *operation* asks or is answered."""
        return self._of(operation).changing or operation in self._changed

    def may_change(self, operation: str) -> bool:
        """The same before it is asked: of a hook that is given answers, nobody knows until one was
        seen."""
        unseen = self._of(operation).answers and operation not in self._seen
        return unseen or self.change(operation)

    def watched(self, operation: str) -> bool:
        """Whether the program has hooks that are to be watched while *operation* is asked."""
        found = self._of(operation).watched
        if found and not self._noted:
            self._noted = True
            note_questions(self._client)
            self._handlers = self._client.meta.events._emitter._lookup_cache  # ours are no news
        return found

    @contextmanager
    def watch(self, operation: str) -> Iterator[None]:
        """Within, *operation* is asked."""
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
        """Whether the answer is another one than what botocore's own handlers make of it."""
        answer, model = sent.parsed, self._client.meta.service_model.operation_model(operation)
        known = {"http_response": None, "model": model, "context": sent.context, "parsed": answer}
        event = f"after-call.s3.{operation}"
        for handler in self._client.meta.events._emitter._handlers.prefix_search(event):
            if _package(handler) in _BOTOCORE:
                try:
                    handler(**known, event_name=event)
                except AttributeError:  # it reads the response itself
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
    """Return *answer* without what botocore adds once it asks no more."""
    said = (answer or {}).get("ResponseMetadata", {})
    kept = {name: said.get(name) for name in ("HTTPStatusCode", "HTTPHeaders")}
    return {**(answer or {}), "ResponseMetadata": kept}


def _package(handler: Any) -> str:
    """Return the package that *handler* is of; "" of those that are a program's all the same."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return "" if module == "botocore.stub" else str(module).partition(".")[0]
