"""The plans of `transactions.py` about the life of a bucket: its end, and what was listed in it.

A bucket that is dropped begins another life: its rows have other keys (layout.py), and `born` in
TAG:meta is the number that its log had then. A scope that was listed in an earlier life does not
count: what was merged then is gone.

Threading: no state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mimicfs.backends.pending import fresh
from mimicfs.backends.redis.layout import MarkedScope, RedisCommand, life_of
from mimicfs.backends.redis.watching import Watch
from mimicfs.entry import Scope


def wiped(watch: Watch, tag: str) -> tuple[bool, list[RedisCommand]]:
    """Plan that the bucket is not known. Its rows belong to a life that is over."""
    meta = f"{tag}:meta"
    ((known, seq),) = watch.ask(("HMGET", meta, "known", "seq"))
    if known is None:
        return False, []
    born = int(seq or 0) + 1
    return True, [
        ("HDEL", meta, "known", "objects", "bytes", "created_ns"),
        ("HSET", meta, "life", fresh(), "seq", born, "born", born),
        ("UNLINK", f"{tag}:scopes", f"{tag}:notes", f"{tag}:log", f"{tag}:k"),
    ]


def swept(watch: Watch, tag: str, rows: Sequence[bytes]) -> tuple[None, list[RedisCommand]]:
    """Plan that those of the keys *rows* are deleted that belong to a life that is over. One that
    begins later has none of them; only a Redis that is flushed begins anew with the first life,
    and then TAG:meta has changed."""
    (life,) = watch.ask(("HGET", f"{tag}:meta", "life"))
    dead = [key for key in rows if life_of(tag, key) != (life or b"")]
    return None, [("UNLINK", *dead)] if dead else []


def marked(
    watch: Watch, tag: str, scope: Scope, since: int
) -> tuple[MarkedScope, list[RedisCommand]]:
    """Plan that *scope* counts as listed, if the bucket was not dropped after number *since*."""
    place = f"{tag}:scopes"
    (known, seq, born), *names = watch.ask(
        ("HMGET", f"{tag}:meta", "known", "seq", "born"), *_asks_inside(place, scope)
    )
    number = int(seq or 0)
    if not int(born or 0) <= since <= number:
        return MarkedScope(False, known is not None, number), []
    gone: dict[str, Scope | None] = dict.fromkeys(_inside(scope, *names))
    done = MarkedScope(True, known is not None, number)
    return done, scopes_kept(place, {**gone, scope.prefix: scope})


def marked_at_once(client: Any, tag: str, scope: Scope) -> MarkedScope:
    """Have *scope* count as listed, whatever there was before: one round trip."""
    place = f"{tag}:scopes"
    with client.pipeline(transaction=True) as pipe:
        pipe.hset(place, scope.prefix, json.dumps(scope))
        pipe.hmget(f"{tag}:meta", "known", "seq")
        for each in _asks_inside(place, scope):
            pipe.execute_command(*each)
        _, (known, seq), *names = pipe.execute()
    if inside := _inside(scope, *names):  # older than this one, which counts from now on
        client.hdel(place, *inside)
    return MarkedScope(True, known is not None, int(seq or 0))


def _asks_inside(place: str, scope: Scope) -> list[RedisCommand]:
    return [("HKEYS", place)] if scope.deep else []


def _inside(scope: Scope, names: Sequence[bytes] = ()) -> list[str]:
    """Return those of the scopes *names* that *scope*, a deep one, replaces."""
    found = [name.decode() for name in names]
    return [name for name in found if name.startswith(scope.prefix) and name != scope.prefix]


def scopes_kept(place: str, scopes: Mapping[str, Scope | None]) -> list[RedisCommand]:
    """Return the commands that keep *scopes*; None: there is none."""
    gone: list[RedisCommand] = [
        ("HDEL", place, each) for each, scope in scopes.items() if not scope
    ]
    kept = ((each, scope) for each, scope in scopes.items() if scope)
    return [*gone, *(("HSET", place, each, json.dumps(scope)) for each, scope in kept)]
