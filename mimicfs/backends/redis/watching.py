"""A look at some keys, and a change of them that Redis makes only if none has changed since: WATCH,
and MULTI to EXEC.

The client of redis-py sends WATCH by itself, and waits for its answer. Here the first look is in
the packet of WATCH: Redis runs the commands of a connection in their order. So a look and a change
cost two round trips. In a cluster redis-py does it, which knows where keys go when they move.

Threading: a watch is of one thread; the client may be of many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import redis
from redis.cluster import RedisCluster

from mimicfs.backends.redis.layout import RedisCommand

CLOCK: RedisCommand = ("TIME",)


class Watch(Protocol):
    """Some keys, which are watched from the first look on."""

    def ask(self, *commands: RedisCommand) -> list[Any]:
        """Return the answers to *commands*. Raises WatchError if the keys are not watched any
        more, as does `change`; its cause is the error of the connection, if that is why."""

    def change(self, commands: Sequence[RedisCommand]) -> None:
        """Run *commands* in one step if no key has changed. Comes after a look, and ends the
        watch."""


@contextmanager
def watched(client: Any, tag: str, *keys: str) -> Iterator[Watch]:
    """Within, *keys*, all of *tag*, are watched."""
    if isinstance(client, RedisCluster):
        cluster: Any = client  # it has no types
        with cluster.pipeline(transaction=True) as pipe:
            yield _ClusterWatch(client, pipe, tag, keys)
        return
    connection = client.connection_pool.get_connection()
    watch = ConnectionWatch(client, connection, keys)
    try:
        yield watch
    finally:
        watch.close()
        client.connection_pool.release(connection)


class ConnectionWatch:
    """A Watch on *connection*, which *client* has lent."""

    def __init__(self, client: Any, connection: Any, keys: Sequence[str]) -> None:
        self._client = client
        self._connection = connection
        self._keys = keys
        self._watches = False

    def ask(self, *commands: RedisCommand) -> list[Any]:
        if self._watches:
            return self._sent(commands)
        self._watches = True
        first: RedisCommand = ("WATCH", *self._keys)
        # A connection that was not used for long may be broken: then once more on a new one.
        answers: list[Any]
        _, *answers = self._connection.retry.call_with_retry(
            lambda: self._answers([first, *commands]), lambda _: self._connection.disconnect()
        )
        return answers

    def change(self, commands: Sequence[RedisCommand]) -> None:
        *queued, done = self._sent([("MULTI",), *commands, ("EXEC",)], raw=True)
        self._watches = False
        _raise_first([*queued, done])
        if done is None:
            raise redis.WatchError("a watched key has changed")
        _raise_first(done)

    def close(self) -> None:
        if self._watches:  # no change came of it, which is rare
            self._connection.disconnect()

    def _sent(self, commands: Sequence[RedisCommand], *, raw: bool = False) -> list[Any]:
        """Return the answers to what is sent while the keys are watched, which ends with the
        connection."""
        try:
            # A check of its health may connect anew, and a new connection watches nothing.
            return self._answers(commands, raw=raw, check_health=False)
        except (redis.ConnectionError, redis.TimeoutError) as exc:
            raise redis.WatchError("the connection broke while keys were watched") from exc

    def _answers(
        self, commands: Sequence[RedisCommand], *, raw: bool = False, check_health: bool = True
    ) -> list[Any]:
        """Return the answers to *commands*, in one round trip; if *raw*, as they come, with the
        refusals among them."""
        packed = self._connection.pack_commands(commands)
        self._connection.send_packed_command(packed, check_health=check_health)
        try:
            found = [self._answer("" if raw else str(name)) for name, *_ in commands]
        except BaseException:
            self._connection.disconnect()  # nobody reads the answers that are still to come
            raise
        if not raw:
            _raise_first(found)
        return found

    def _answer(self, name: str) -> Any:
        try:
            return self._client.parse_response(self._connection, name)
        except redis.ResponseError as exc:
            return exc  # the answers to the other commands come all the same


class _ClusterWatch:
    def __init__(self, client: Any, pipe: Any, tag: str, keys: Sequence[str]) -> None:
        self._client = client
        self._pipe = pipe
        self._tag = tag
        self._keys = keys
        self._watches = False

    def ask(self, *commands: RedisCommand) -> list[Any]:
        if not self._watches:
            self._pipe.watch(*self._keys)
            self._watches = True
        with self._client.pipeline(transaction=False) as pipe:
            for each in commands:
                if each is not CLOCK:
                    pipe.execute_command(*each)
            answers = iter(pipe.execute())
        return [self._time() if each is CLOCK else next(answers) for each in commands]

    def change(self, commands: Sequence[RedisCommand]) -> None:
        self._pipe.multi()
        for each in commands:
            self._pipe.execute_command(*each)
        self._pipe.execute()

    def _time(self) -> tuple[int, int]:
        node: Any = self._client.get_node_from_key(self._tag)
        found: tuple[int, int] = self._client.time(target_nodes=node)
        return found


def _raise_first(answers: Sequence[Any]) -> None:
    for each in answers:
        if isinstance(each, Exception):
            raise each
