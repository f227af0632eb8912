"""Makes a client of redis-py from a URL, and our errors from its errors.

Threading: like the client of redis-py.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoPermissionError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from mimicfs.errors import StoreCorrupt, StoreError, StoreUnavailable

# The errors of redis-py, for other modules, too, which do not import it.
NO_RIGHTS = NoPermissionError
FOREIGN = (redis.RedisError, RedisClusterException)


# How long a command waits for its answer, unless the URL says otherwise (?socket_timeout=60). Our
# longest command, a page of a listing, takes some 50 ms; a server that forks stops for a second.
_ANSWER_S = 5.0


class _Never(Exception):
    """Stands in the table where redis-py has no error of its own."""


_THEIRS = "another program uses these keys; give another --namespace"
_FULL = "Redis is out of memory; raise maxmemory"
_REPLICA = "this is a replica, which takes no writes; name its primary"
_DOWN = "the cluster is down: {text}"
_MOVES = "the cluster moves its keys to another node; try again when they have moved"
_LOADING = "Redis is still reading its data from disk; try again in a moment"
_NOBODY = "no answer; is redis-server running there?"
_FORBIDDEN = "the user has no permission: {text}; give it `~mimicfs:* +@all`"
# The refusals of Redis: by the error that redis-py makes of a refusal or, if it refused a script,
# by the code that is somewhere in the text.
_REFUSALS: list[tuple[type[Exception], str, type[StoreError], str]] = [
    (redis.exceptions.OutOfMemoryError, "OOM", StoreUnavailable, _FULL),
    (redis.exceptions.ReadOnlyError, "READONLY", StoreUnavailable, _REPLICA),
    (redis.exceptions.NoPermissionError, "NOPERM", StoreUnavailable, _FORBIDDEN),
    (_Never, "ACL failure in script", StoreUnavailable, _FORBIDDEN),  # 7.2 on
    (_Never, "user executing the script", StoreUnavailable, _FORBIDDEN),  # before
    (_Never, "WRONGTYPE", StoreCorrupt, _THEIRS),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN", StoreUnavailable, _DOWN),
    (redis.exceptions.ClusterError, "TRYAGAIN", StoreUnavailable, _MOVES),
    (redis.exceptions.TryAgainError, "", StoreUnavailable, _MOVES),
    (redis.exceptions.AskError, "", StoreUnavailable, _MOVES),
    (redis.exceptions.BusyLoadingError, "LOADING", StoreUnavailable, _LOADING),
    (MasterNotFoundError, "", StoreUnavailable, "no sentinel knows its primary: {text}"),
    (_Never, "SSL", StoreUnavailable, "TLS: {text}; its CA goes into the URL: ?ssl_ca_certs=FILE"),
    (redis.ConnectionError, "", StoreUnavailable, _NOBODY),
    (redis.TimeoutError, "", StoreUnavailable, _NOBODY),
]


def connected(url: str, password: str | None) -> Any:
    """Return a client of the server that a redis://, rediss:// or unix:// URL names. The URL of one
    node, redis+cluster://, names a cluster; redis+sentinel://HOST:26379/SERVICE names the server
    that the sentinel calls the primary of the service. *password* is used if the URL has none.
    """
    given = urlsplit(url).password is not None or password is None
    extra: dict[str, Any] = {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _ANSWER_S}
    extra |= {} if given else {"password": password}
    try:
        if "+cluster:" in url:
            return _cluster(url.replace("+cluster:", ":", 1), extra)
        if "+sentinel:" in url:
            return _primary(url, extra)
        return redis.Redis.from_url(url, **extra, retry=_retry())
    except ValueError as exc:
        raise StoreUnavailable(f"not a usable Redis URL: {exc}") from exc


def connected_once(url: str, password: str | None) -> Any:
    """Return a client that sends no command twice: the answer to a command that takes something may
    get lost, and with it the thing that was taken."""
    client = connected(url, password)
    client.set_retry(Retry(NoBackoff(), 0))
    client.cluster_error_retry_attempts = 0  # of a cluster, before redis-py 6
    return client


def close(client: Any) -> None:
    """Give up *client* and all its connections."""
    if isinstance(client, RedisCluster):
        cluster: Any = client  # it has no types
        cluster.disconnect_connection_pools()  # redis-py leaves those of a client from a URL open
    client.close()


def run_id(client: Any) -> str:
    """Return the id of the run of the server; "" for a cluster, or without the right to ask."""
    if isinstance(client, RedisCluster):
        return ""
    try:
        return str(client.info("server").get("run_id", ""))
    except NoPermissionError:
        return ""


def _retry() -> Retry:
    """Return a rule to retry once, at once: a connection may have broken since it was used last. If
    the store is away, the caller must hear that, and not wait."""
    return Retry(NoBackoff(), 1)


def _cluster(url: str, extra: dict[str, Any]) -> Any:
    try:
        return RedisCluster.from_url(url, **extra)
    except FOREIGN as exc:
        parts = urlsplit(url)
        where = f"Redis cluster at {parts.hostname}:{parts.port or 6379}"
        raise StoreUnavailable(f"{where}: {' '.join(str(exc).split())}") from exc


def _primary(url: str, extra: dict[str, Any]) -> Any:
    """Return a client of the primary, whichever it is at the time of each connection."""
    parts = urlsplit(url)
    service = parts.path.strip("/")
    if not service:
        raise ValueError("the URL has no service; write redis+sentinel://HOST:26379/SERVICE")
    if parts.password is not None:
        extra |= {"username": parts.username or None, "password": unquote(parts.password)}
    where = (parts.hostname or "localhost", parts.port or 26379)
    sentinel: Any = Sentinel  # it has no types
    return sentinel([where], socket_timeout=5).master_for(service, **extra, retry=_retry())


def place(client: Any) -> str:
    """Return a name of the server to which *client* is connected, for messages."""
    if isinstance(client, RedisCluster):
        primaries: Any = RedisCluster.get_primaries(client)  # type: ignore[no-untyped-call]
        nodes = sorted(f"{node.host}:{node.port}" for node in primaries)
        return f"Redis cluster at {', '.join(nodes)}"
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return f"Redis {pool.service_name!r}"
    options = pool.connection_kwargs
    if "path" in options:
        return f"Redis at {options['path']}"
    return f"Redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}"


def said_by_all(client: Any) -> list[dict[str, Any]]:
    """Return the answer of each node to INFO."""
    if isinstance(client, RedisCluster):
        nodes: Any = RedisCluster.get_primaries(client)  # type: ignore[no-untyped-call]
        return [client.info(target_nodes=node) for node in nodes]
    return [client.info()]


def evicts_by(said: dict[str, Any]) -> str:
    """Return the policy by which a server that *said* this may evict our keys; "" if it may not.
    (Policies that begin with `volatile-` evict only keys that expire, and ours do not.)"""
    policy = str(said.get("maxmemory_policy", "noeviction"))
    kept = policy == "noeviction" or policy.startswith("volatile-")
    return "" if kept or not int(said.get("maxmemory", 0)) else policy


def identity_of(said: dict[str, Any]) -> str:
    """Return a mark of this run of the server. (Another run may have lost something.) It changes
    once the server has evicted keys, or may have."""
    evicted = evicts_by(said)
    if not evicted and said.get("maxmemory_policy", "noeviction") == "noeviction":
        evicted = str(said.get("evicted_keys") or "")
    run = f"{said['run_id']}.{said['master_replid']}"
    return f"{run}.{evicted}" if evicted else run


def clock_ms(client: Any, key: str) -> int:
    """Return the clock of the server that has *key*."""
    if isinstance(client, RedisCluster):
        node: Any = client.get_node_from_key(key)  # type: ignore[no-untyped-call]
        return as_ms(client.time(target_nodes=node))
    return as_ms(client.time())


def as_ms(time: tuple[int, int]) -> int:
    """Return the answer to TIME in milliseconds."""
    seconds, micros = time
    return int(seconds) * 1000 + int(micros) // 1000


def denies_scripts(exc: Exception) -> bool:
    """Whether *exc* says that this user, or this server, may not run scripts at all."""
    text = str(exc)
    unable = isinstance(exc, redis.exceptions.NoPermissionError) or "unknown command" in text
    return unable and any(name in text.lower() for name in ("'evalsha", "'script", "'eval'"))


def our_error(exc: Exception, where: str) -> StoreError:
    """Return our error for *exc*, an error of redis-py."""
    text = " ".join(str(exc).split())
    if isinstance(exc, redis.AuthenticationError):
        advice = "give the password in MIMICFS_STORE_PASSWORD"
        return StoreUnavailable(f"{where}: Redis refused the password, or wants one; {advice}")
    for kind, code, error, said in _REFUSALS:
        if isinstance(exc, kind) or (code and code in text):
            return error(f"{where}: {said.format(text=text)}")
    return StoreUnavailable(f"{where}: {text}")
