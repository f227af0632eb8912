"""Waiting for news in the logs of Redis: XREAD BLOCK.

The wait has a connection of its own, and another thread can end it (CLIENT UNBLOCK). In a cluster,
the logs of several buckets are on several nodes, and no command waits for all of them: there, a
thread looks at them now and then.

XREAD says nothing of a log that was cut or lost. A thread that waits compares the numbers now and
then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.cluster import RedisCluster

from mimicfs.backends.redis.connecting import FOREIGN, our_error
from mimicfs.backends.waiter import Waiter

_AGAIN_S = 0.002  # between two attempts to end a wait


class LogWaiter(Waiter):
    """Waits for the streams that *log_of* names for buckets, on the server of *client*."""

    def __init__(self, client: Any, log_of: Callable[[str], str], where: str) -> None:
        super().__init__()
        self._client = client
        self._log_of = log_of
        self._where = where
        self._own: Any = None  # the client of the wait; None: it is still to be made, or a cluster
        self._waiting = False
        self._number = 0  # the number of its connection at the server

    def wait(self, places: Mapping[str, int], timeout_s: float) -> Sequence[str]:
        if isinstance(self._client, RedisCluster) and len(places) > 1:
            return super().wait(places, timeout_s)
        self._waiting = True  # before the look at _closed: a thread that closes sees it, or is seen
        try:
            return [] if self._closed.is_set() else self._wait(places, timeout_s)
        except FOREIGN as exc:
            self._drop()
            if self._closed.is_set():
                return []
            raise our_error(exc, self._where) from exc
        finally:
            self._waiting = False

    def _wait(self, places: Mapping[str, int], timeout_s: float) -> Sequence[str]:
        logs = {self._log_of(bucket): f"{seq}-0" for bucket, seq in places.items() if seq >= 0}
        # BLOCK 0 would wait for ever.
        wait_ms = math.ceil(timeout_s * 1000) or None
        found = self._connection().xread(logs, count=1, block=wait_ms)
        names = {_text(each) for each in (found if isinstance(found, dict) else dict(found or ()))}
        return [bucket for bucket in places if self._log_of(bucket) in names]

    def _connection(self) -> Any:
        if isinstance(self._client, RedisCluster):
            return self._client
        if self._own is None:
            self._own = Redis(
                connection_pool=self._client.connection_pool, single_connection_client=True
            )
            self._number = self._own.client_id()
        return self._own

    def _drop(self) -> None:
        """Give up the connection: the next one has another number."""
        own, self._own, self._number = self._own, None, 0
        if own is not None:
            with suppress(*FOREIGN):
                own.close()

    def close(self) -> None:
        super().close()
        if isinstance(self._client, RedisCluster):
            return  # the wait ends by itself
        with suppress(*FOREIGN):  # a server that is away can wake nobody
            while self._waiting and not self._client.client_unblock(self._number):
                time.sleep(_AGAIN_S)  # the wait is not there yet, or its answer is on its way


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
