"""Whether a store is whole and set up for a mirror: for `mimicfs doctor`. Changes nothing.

Threading: no state; any thread.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mimicfs.backends import Backend
from mimicfs.backends.open import open_store
from mimicfs.config.values import redacted
from mimicfs.errors import ConfigError, StoreError
from mimicfs.finding import FAIL, OK, WARN, Finding
from mimicfs.private import check_file, check_parent

_SLOW_S = 0.01  # an answer of Redis; each cold stat waits for one
_LOOPBACK = ("localhost", "127.0.0.1", "::1", None)
_AGAIN = "move the file away and sync again; S3 has everything"


def examine_store(url: str, namespace: str = "", password: str | None = None) -> list[Finding]:
    """Return what is to be said of the store that *url* names."""
    scheme = urlsplit(url).scheme
    try:
        if scheme == "sqlite":
            return list(_sqlite(Path(url.removeprefix("sqlite:").removeprefix("//"))))
        if scheme == "memory":
            text = "in memory: each mount lists everything again"
            return [Finding("store", WARN, text, "use Redis, or a SQLite file (the default)")]
        return list(_redis(url, namespace, password))
    except (StoreError, ConfigError) as exc:
        text, _, advice = str(exc).partition("; ")
        return [Finding("store", FAIL, text, advice)]


# SQLite


def _sqlite(path: Path) -> Iterator[Finding]:
    check_parent(path)
    if not path.exists():
        yield Finding("store", OK, f"{path} will be made when it is needed")
        return
    check_file(path, path.lstat())
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            yield from _whole(path, db)
    except sqlite3.Error as exc:
        yield Finding("store", FAIL, f"{path}: {exc}", _AGAIN)
        return
    open_store(f"sqlite:{path}").close()  # its version, and whether it is ours


def _whole(path: Path, db: sqlite3.Connection) -> Iterator[Finding]:
    db.execute("PRAGMA busy_timeout=10000")
    said = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    size = path.stat().st_size
    if said != ["ok"]:
        yield Finding("store", FAIL, f"{path} is damaged: {'; '.join(map(str, said))}", _AGAIN)
        return
    yield Finding("store", OK, f"{path} is whole: schema {version}, {size:,} bytes")


# Redis


def _redis(url: str, namespace: str, password: str | None) -> Iterator[Finding]:
    import redis

    from mimicfs.backends.redis import RedisBackend

    parts = urlsplit(url)
    plain = parts.scheme.partition("+")[0] == "redis" and parts.hostname not in _LOOPBACK
    if plain:
        text = f"{redacted(url)}: others on the network can read and change the data"
        yield Finding("store encryption", WARN, text, "use rediss://")
    with closing(open_store(url, namespace, password)) as store:
        assert isinstance(store, RedisBackend)
        client = store.client
        took_s = min(_look_s(store) for _ in range(3))
        result, advice = (
            (OK, "") if took_s < _SLOW_S else (WARN, "use a Redis closer to this machine")
        )
        yield Finding("store", result, f"Redis answers in {took_s * 1000:.1f} ms", advice)
        try:
            yield from _policy(_said(client, "memory"))
            yield _persistence(client)
        except redis.exceptions.ResponseError as exc:
            text = f"Redis does not show its configuration: {exc}"
            yield Finding("store policy", WARN, text, "allow INFO to this user, or ask its admin")


def _look_s(store: Backend) -> float:
    """Look up a bucket, and return how long that took, in seconds. The first look connects, and on
    a busy machine any look may wait for a core; the quickest of several shows the distance."""
    started = time.monotonic()
    store.bucket("-")
    return time.monotonic() - started


def _said(client: Any, section: str) -> list[dict[str, Any]]:
    """Return what each node says."""
    from redis.cluster import RedisCluster

    if isinstance(client, RedisCluster):
        nodes: Any = RedisCluster.get_primaries(client)  # type: ignore[no-untyped-call]
        return [client.info(section, target_nodes=node) for node in nodes]
    return [client.info(section)]


def _policy(memories: list[dict[str, Any]]) -> Iterator[Finding]:
    from mimicfs.backends.redis.connecting import evicts_by

    for memory in memories:
        policy, limit = memory.get("maxmemory_policy", "?"), int(memory.get("maxmemory", 0))
        used = int(memory.get("used_memory", 0))
        found = f"maxmemory-policy {policy}, {used:,} of {limit or 'unlimited'} bytes used"
        if evicts_by(memory):
            text = "evicted keys would seem to be missing in S3, so no directory counts as listed"
            advice = f"{text}: CONFIG SET maxmemory-policy noeviction"
            yield Finding("store policy", FAIL, found, advice)
        elif limit and used > 0.9 * limit:
            yield Finding("store policy", WARN, found, "raise maxmemory")
        else:
            yield Finding("store policy", OK, found)


def _persistence(client: Any) -> Finding:
    for said in _said(client, "persistence"):
        if said.get("aof_enabled"):
            continue
        if said.get("rdb_last_bgsave_status") != "ok":
            return Finding("store persistence", FAIL, "the last BGSAVE failed", "see Redis' log")
        if not _saves(client):
            text = "Redis writes nothing to disk: after it restarts, everything is listed again,"
            text += " and directories emptied through a mount are gone"
            return Finding("store persistence", WARN, text, "CONFIG SET appendonly yes, or save")
    return Finding("store persistence", OK, "Redis writes to disk")


def _saves(client: Any) -> bool:
    """Whether Redis saves now and then, as far as it tells."""
    import redis

    try:
        return bool(client.config_get("save").get("save", ""))
    except redis.RedisError:
        return True
