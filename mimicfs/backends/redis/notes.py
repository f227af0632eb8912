"""The plain texts that the server keeps beside buckets, and the facts that it tells about itself.
`RedisBackend` is built on it.

If Redis may evict keys, absence means nothing. Then no scope is ever complete, and each directory
is listed in S3 again.

Threading: like the client of redis-py.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from redis.cluster import RedisCluster

from mimicfs.backends import EPOCH, LISTING, OF_DIRECTORY, Backend, NoteSwap
from mimicfs.backends.redis.connecting import (
    FOREIGN,
    clock_ms,
    evicts_by,
    identity_of,
    our_error,
    place,
    said_by_all,
)
from mimicfs.backends.redis.layout import RedisCommand, prefix
from mimicfs.backends.redis.scripts import Scripts
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.entry import StoreSaid

log = logging.getLogger(__name__)

_LATELY_S = 1.0

P = ParamSpec("P")
S = TypeVar("S", bound="NotingBackend")
T = TypeVar("T")


def ours(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Turn redis-py's errors into StoreError."""

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except FOREIGN as exc:
            raise our_error(exc, self._where) from exc

    return cast("Callable[Concatenate[S, P], T]", call)


class NotingBackend(Backend):
    """The part of a backend that keeps notes, in the Redis to which *client* is connected."""

    def __init__(self, client: Any, namespace: str) -> None:
        super().__init__()
        self._client: Any = client
        self._prefix = prefix(namespace)
        self._where = place(client)
        self._steps: Scripts | Transactions = Scripts(client)
        self._policy = ""  # the policy by which keys may be evicted
        self._highest: dict[str, int] = {}  # by bucket: the highest number that was seen
        self._lately: dict[str, tuple[int, float]] = {}  # the number that was seen last, and when

    def _tag(self, bucket: str) -> str:
        return f"{self._prefix}{{{bucket or '/'}}}"  # an empty tag would not keep keys together

    def _together(self, *commands: RedisCommand) -> list[Any]:
        """Return the answers to *commands*, in one round trip unless this is a cluster."""
        if isinstance(self._client, RedisCluster):
            client: Any = self._client  # which has no types
            return [client.execute_command(*each) for each in commands]
        with self._client.pipeline(transaction=False) as pipe:
            for each in commands:
                pipe.execute_command(*each)
            answers: list[Any] = pipe.execute()
        return answers

    # Numbers of the logs

    def _seen(self, bucket: str, number: int) -> int:
        self._highest[bucket] = max(number, self._highest.get(bucket, 0))
        self._lately[bucket] = number, time.monotonic()
        return number

    def seq_lately(self, bucket: str) -> int:
        number, at_s = self._lately.get(bucket, (0, float("-inf")))
        return number if time.monotonic() - at_s < _LATELY_S else self.seq(bucket)

    # Notes

    @ours
    def note(self, bucket: str, name: str) -> str | None:
        found = self._client.hget(f"{self._tag(bucket)}:notes", name)
        return None if found is None else found.decode()

    @ours
    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        tag = self._tag(bucket)
        if text is None:
            self._client.hdel(f"{tag}:notes", name)
        elif not name.startswith(LISTING):
            self._client.hset(f"{tag}:notes", name, text)
        else:  # a thread that lists asks for the number next
            noted = ("HSET", f"{tag}:notes", name, text)
            _, number = self._together(noted, ("HGET", f"{tag}:meta", "seq"))
            self._seen(bucket, int(number or 0))

    @ours
    def notes(self, bucket: str) -> dict[str, str]:
        found = self._client.hgetall(f"{self._tag(bucket)}:notes")
        return {name.decode(): text.decode() for name, text in found.items()}

    @ours
    def notes_of(self, bucket: str, directories: Sequence[str]) -> list[str | None]:
        names = [OF_DIRECTORY + each for each in directories]
        found = self._client.hmget(f"{self._tag(bucket)}:notes", names) if names else []
        return [None if each is None else each.decode() for each in found]

    @ours
    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None]:
        origin = self.origin if tell else None
        done, now, _ = self._steps.swap_note(self._tag(bucket), name, before, after, origin)
        return done, now

    @ours
    def swap_notes(
        self, bucket: str, swaps: Sequence[NoteSwap], *, tell: Sequence[bool]
    ) -> list[tuple[bool, str | None]]:
        origins = [self.origin if each else None for each in tell]
        return self._steps.swap_notes(self._tag(bucket), swaps, origins)

    @ours
    def swap_note_told(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None, StoreSaid]:
        if isinstance(self._client, RedisCluster):
            return super().swap_note_told(bucket, name, before, after, tell=tell)
        origin, asks = self.origin if tell else None, self._asks_of_itself()
        done, now, answers = self._steps.swap_note(
            self._tag(bucket), name, before, after, origin, *asks
        )
        return done, now, self._said(*answers)

    # The facts that the server tells about itself

    @ours
    def now_ms(self) -> int:
        return clock_ms(self._client, self._tag(""))

    @ours
    def identity(self) -> str:
        return self._identity(said_by_all(self._client))

    def _identity(self, said: list[dict[str, Any]]) -> str:
        self._note_eviction(max(evicts_by(each) for each in said))
        return "+".join(sorted(identity_of(each) for each in said))

    @ours
    def said(self) -> StoreSaid:
        if isinstance(self._client, RedisCluster):
            return super().said()
        return self._said(*self._together(*self._asks_of_itself()))

    def _asks_of_itself(self) -> tuple[RedisCommand, RedisCommand]:
        return ("INFO",), ("HGET", f"{self._tag('')}:notes", EPOCH)

    def _said(self, info: dict[str, Any], epoch: bytes | None) -> StoreSaid:
        return StoreSaid(self._identity([info]), epoch.decode() if epoch is not None else None)

    def _note_eviction(self, policy: str) -> None:
        """Note whether keys may be evicted, which somebody can switch on and off while Redis runs.
        After it was switched off, it counts for one look longer, in which a new epoch begins."""
        before, self._policy = self._policy, policy
        if policy and not self.evicts:
            text = "%s: with maxmemory-policy %s, no directory counts as listed; set it to %s"
            log.warning(text, self._where, policy, "noeviction")
        elif self.evicts and not policy and not before:
            log.warning("%s: no keys are evicted any more", self._where)
        self.evicts = bool(policy or before)
