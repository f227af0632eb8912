"""The default backend of MimicDB, under the name that its documentation gives."""

from __future__ import annotations

from typing import Any

from mimicfs.backends.redis import RedisBackend


class Redis(RedisBackend):
    """The mirror in Redis. The parameters are those of redis.StrictRedis, and *namespace*."""

    def __init__(self, *args: Any, namespace: str = "", **kwargs: Any) -> None:
        import redis

        super().__init__(redis.Redis(*args, **kwargs), namespace)
