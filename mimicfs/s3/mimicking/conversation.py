"""The conversation with S3: questions and learning, apart from the way in which the questions are
sent.

A conversation is a generator: it yields a question, which is an operation of boto3 and its
parameters, gets the answer or the error, and returns what the caller gets. So one piece of code
serves clients that block (boto3) and clients that are awaited (aiobotocore).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from mimicfs.s3.transport.calls import CallParams

T = TypeVar("T")
Conversation = Generator[tuple[str, CallParams], Any, T]


def hold(conversation: Conversation[T], ask: Callable[[str, CallParams], Any]) -> T:
    """Return the result of *conversation*, whose questions *ask* answers."""
    try:
        request = next(conversation)
        while True:
            try:
                answer = ask(*request)
            except BaseException as exc:  # noqa: BLE001 - the conversation deals with it
                request = conversation.throw(exc)
            else:
                request = conversation.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def hold_async(
    conversation: Conversation[T], ask: Callable[[str, CallParams], Awaitable[Any]]
) -> T:
    """Return the same, where the answers are awaited."""
    try:
        request = next(conversation)
        while True:
            try:
                answer = await ask(*request)
            except BaseException as exc:  # noqa: BLE001 - the conversation deals with it
                request = conversation.throw(exc)
            else:
                request = conversation.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
