"""Redis: the mirror in a server that several mounts and programs share. Redis or Valkey, 6.2+.

The keys of a bucket, all below one hash tag, so that they are on one node of a cluster:

    PREFIX{BUCKET}:meta     HASH    known, created_ns, objects, bytes, seq
    PREFIX{BUCKET}:d:DIR    HASH    the names directly below DIR -> packed record. A name that
                                    ends in "/" is a subdirectory; "" where it has no entry
                                    of its own
    PREFIX{BUCKET}:z:DIR    ZSET    the same names, score 0, for paging in order; only where there
                                    are too many to read at once
    PREFIX{BUCKET}:scopes   HASH    prefix -> JSON of entry.Scope
    PREFIX{BUCKET}:log      STREAM  entry.Change, with the ids SEQ-0, without gaps

PREFIX is "mimicfs:" or "mimicfs:NAMESPACE:". The list of buckets is kept like a bucket named
"/", which no bucket is; its directory "" has the names. A record, its directories, the totals
and the log are written by one script: all or nothing.

`scan` reads a directory at a time: each page of one directory is a snapshot.

Where Redis may evict keys, absence means nothing: then no scope is ever complete, and each
directory is listed at S3 anew.

Threading: as redis-py's client, any number of threads.
"""

from __future__ import annotations

import functools
import json
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import unquote, urlsplit

from mimicfs.errors import ConfigError

try:
    import redis
    from redis.cluster import RedisCluster
    from redis.exceptions import RedisClusterException
    from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
except ModuleNotFoundError as exc:
    raise ConfigError("the mirror in Redis needs redis-py: pip install 'mimicfs[redis]'") from exc

from mimicfs.backends import WIDE_CHANGE, Backend
from mimicfs.entry import LISTED, OBJECT, Bucket, Change, Entry, Scope
from mimicfs.errors import LogTrimmed, StoreCorrupt, StoreError, StoreTooNew, StoreUnavailable

log = logging.getLogger(__name__)

_VERSION = 1
_LOG_MAX = 200_000
_PAGE = 1000  # names of a directory that `scan` reads at a time
# Names of a directory from which on it has a ZSET, which costs 130 bytes a name.
_LARGE = 2000
# A record: kind, size, mtime_ns; the etag, then class, meta[, head], cut by NUL. With _MD5 in the
# kind, the etag is 16 bytes, else it ends at a NUL; what is all empty at the end is left out.
_FIXED = struct.Struct("<bqq")
_MD5 = 16

P = ParamSpec("P")
T = TypeVar("T")

# What the scripts share. KEYS[1] is the tag of the bucket.
_LIBRARY = """
local tag = KEYS[1]
local function split(key)  -- a directory into its parent and its name there
  local first = string.find(string.sub(key, 1, -2), '/[^/]*$')
  if first then return string.sub(key, 1, first), string.sub(key, first + 1) end
  return '', key
end
local function add(dir, name, record)
  local d, z = tag .. ':d:' .. dir, tag .. ':z:' .. dir
  redis.call('HSET', d, name, record)
  if redis.call('EXISTS', z) == 1 then
    redis.call('ZADD', z, 0, name)
  elseif redis.call('HLEN', d) > LARGE then
    for _, each in ipairs(redis.call('HKEYS', d)) do redis.call('ZADD', z, 0, each) end
  end
end
-- Bytes, and not as Lua compares: by the collation of the server's locale.
local function behind(a, b)
  for n = 1, math.min(#a, #b) do
    local x, y = string.byte(a, n), string.byte(b, n)
    if x ~= y then return x > y end
  end
  return #a > #b
end
local function remove(dir, name)
  redis.call('HDEL', tag .. ':d:' .. dir, name)
  redis.call('ZREM', tag .. ':z:' .. dir, name)
end
local function append(origin, lines)
  local seq = redis.call('HINCRBY', tag .. ':meta', 'seq', #lines) - #lines
  for _, line in ipairs(lines) do
    seq = seq + 1
    redis.call('XADD', tag .. ':log', 'MAXLEN', '~', LOG_MAX, string.format('%d-0', seq),
               'f', line[1], 'l', line[2], 'o', origin)
  end
end
""".replace("LOG_MAX", str(_LOG_MAX)).replace("LARGE", str(_LARGE))

# ARGV: origin, since or '', wide, number of puts, the first and the last key of all, then
# DIR NAME RECORD for each put and DIR NAME for each deletion. Returns the keys left alone, or an
# error LOGTRIMMED.
_APPLY = (
    _LIBRARY
    + """
local origin, since, wide, puts = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local single, ranges, left, changed, changes = {}, {}, {}, {}, {}
local count, size = 0, 0
if since ~= '' then
  local last = tonumber(redis.call('HGET', tag .. ':meta', 'seq') or '0')
  if tonumber(since) ~= last then
    local lines = redis.call('XRANGE', tag .. ':log', string.format('(%s-0', since), '+')
    if tonumber(since) > last or #lines ~= last - tonumber(since) then
      return redis.error_reply('LOGTRIMMED')
    end
    for _, line in ipairs(lines) do
      local f, l = line[2][2], line[2][4]
      if f == l then single[f] = true else ranges[#ranges + 1] = {f, l} end
    end
  end
end
local function guarded(key)
  if single[key] then return true end
  for _, range in ipairs(ranges) do
    if not behind(range[1], key) and not behind(key, range[2]) then return true end
  end
  return false
end
local function counted(record, sign)
  if record and record ~= '' then
    local kind, bytes = struct.unpack('<bi8', record)
    if kind % 16 == 0 then count = count + sign; size = size + sign * bytes end
  end
end
local function prune(dir)  -- directories that are implied by nothing any more
  while dir ~= '' and redis.call('EXISTS', tag .. ':d:' .. dir) == 0 do
    local parent, name = split(dir)
    if redis.call('HGET', tag .. ':d:' .. parent, name) ~= '' then return end
    remove(parent, name)
    dir = parent
  end
end
local at = 7
for n = 1, puts do
  local dir, name, record = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local key = dir .. name
  changes[key] = true
  if guarded(key) then left[#left + 1] = key else
    counted(redis.call('HGET', tag .. ':d:' .. dir, name), -1)
    counted(record, 1)
    add(dir, name, record)
    while dir ~= '' do
      local parent, sub = split(dir)
      if redis.call('HEXISTS', tag .. ':d:' .. parent, sub) == 1 then break end
      add(parent, sub, '')
      dir = parent
    end
    changed[#changed + 1] = key
  end
end
while at < #ARGV do
  local dir, name = ARGV[at], ARGV[at + 1]
  at = at + 2
  local key = dir .. name
  if not changes[key] then
    if guarded(key) then left[#left + 1] = key else
      local old = redis.call('HGET', tag .. ':d:' .. dir, name)
      counted(old, -1)
      if old then
        if string.sub(name, -1) == '/' and redis.call('EXISTS', tag .. ':d:' .. key) == 1 then
          add(dir, name, '')
        else
          remove(dir, name)
          prune(dir)
        end
      end
      changed[#changed + 1] = key
    end
  end
end
if #changed > 0 then
  redis.call('HINCRBY', tag .. ':meta', 'objects', count)
  redis.call('HINCRBY', tag .. ':meta', 'bytes', size)
  local lines = {}
  if #changed > wide then
    lines[1] = {ARGV[5], ARGV[6]}
  else
    for n, key in ipairs(changed) do lines[n] = {key, key} end
  end
  append(origin, lines)
end
return left
"""
)

# ARGV: DIR, start, end and limit of ZRANGEBYLEX. Returns 1 and a page, in order, or 0 and all of
# a directory: names and records, in turn.
_CHILDREN = """
local d, z = KEYS[1] .. ':d:' .. ARGV[1], KEYS[1] .. ':z:' .. ARGV[1]
if redis.call('EXISTS', z) == 0 then return {0, redis.call('HGETALL', d)} end
local names = redis.call('ZRANGEBYLEX', z, ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local found = {}
for n, name in ipairs(names) do
  found[2 * n - 1] = name
  found[2 * n] = redis.call('HGET', d, name) or ''
end
return {1, found}
"""

# KEYS[1] is the tag of the list of buckets. ARGV: origin, name, "1" to add or "0" to drop.
_LIST = (
    _LIBRARY
    + """
if ARGV[3] == '1' then add('', ARGV[2], '') else remove('', ARGV[2]) end
append(ARGV[1], {{ARGV[2], ARGV[2]}})
"""
)


def _ours(
    method: Callable[Concatenate[RedisBackend, P], T],
) -> Callable[Concatenate[RedisBackend, P], T]:
    """Turn redis-py's errors into StoreError."""

    @functools.wraps(method)
    def call(self: RedisBackend, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (redis.RedisError, RedisClusterException) as exc:
            raise self._error(exc) from exc

    return cast("Callable[Concatenate[RedisBackend, P], T]", call)


class RedisBackend(Backend):
    """The mirror in the Redis that *client* is connected to (decode_responses off).

    *namespace* keeps several mirrors apart in one Redis. Raises StoreUnavailable,
    StoreTooNew, StoreCorrupt.
    """

    quick = False

    def __init__(self, client: redis.Redis, namespace: str = "") -> None:
        super().__init__()
        self._client: Any = client
        self._prefix = _prefix(namespace)
        self._where = _where(client)
        self._apply = self._client.register_script(_APPLY)
        self._children = self._client.register_script(_CHILDREN)
        self._list = self._client.register_script(_LIST)
        self._evicts = False
        self._check()

    @classmethod
    def from_url(cls, url: str, namespace: str = "", password: str | None = None) -> RedisBackend:
        """Connect to a redis://, rediss:// or unix:// URL; to a cluster by that of one of its
        nodes, redis+cluster://; or to what a sentinel says is the primary of a service,
        redis+sentinel://HOST:26379/SERVICE. *password* where the URL has none."""
        extra: dict[str, Any] = {} if password is None else {"password": password}
        if urlsplit(url).password is not None:
            extra = {}
        try:
            if "+cluster:" in url:
                return cls(_cluster(url.replace("+cluster:", ":", 1), extra), namespace)
            if "+sentinel:" in url:
                return cls(_primary(url, extra), namespace)
            return cls(redis.Redis.from_url(url, **extra), namespace)
        except ValueError as exc:
            raise StoreUnavailable(f"not a usable Redis URL: {exc}") from exc

    def enter(self, namespace: str) -> None:
        self._prefix = _prefix(namespace)
        self._check()

    @_ours
    def _check(self) -> None:
        key = f"{self._prefix}version"
        self._client.set(key, _VERSION, nx=True)
        found = self._client.get(key)
        if not found.isdigit():
            raise StoreCorrupt(f"{self._where}: {key} is not ours; give another --namespace")
        if int(found) > _VERSION:
            raise StoreTooNew(
                f"{self._where}: written by a newer mimicfs (schema {int(found)}, this one"
                f" knows {_VERSION}); upgrade mimicfs or give another --namespace"
            )
        for memory in self._memory():
            policy = memory.get("maxmemory_policy", "noeviction")
            if policy != "noeviction" and int(memory.get("maxmemory", 0)) and not self._evicts:
                self._evicts = True
                text = "%s: maxmemory-policy is %s, so nothing is taken as complete; set it to %s"
                log.warning(text, self._where, policy, "noeviction")

    def _memory(self) -> list[dict[str, Any]]:
        """Return what each node says of its memory."""
        if isinstance(self._client, RedisCluster):
            nodes: Any = RedisCluster.get_primaries(self._client)  # type: ignore[no-untyped-call]
            return [self._client.info("memory", target_nodes=node) for node in nodes]
        return [self._client.info("memory")]

    def _error(self, exc: Exception) -> StoreError:
        text = " ".join(str(exc).split())
        if isinstance(exc, redis.AuthenticationError):
            advice = "give the password in MIMICFS_STORE_PASSWORD"
            return StoreUnavailable(f"{self._where}: refused the password or its lack; {advice}")
        for kind, code, error, said in _REFUSALS:
            if isinstance(exc, kind) or (code and code in text):
                return error(f"{self._where}: {said.format(text=text)}")
        return StoreUnavailable(f"{self._where}: {text}")

    def _tag(self, bucket: str) -> str:
        return f"{self._prefix}{{{bucket or '/'}}}"  # an empty tag would not keep keys together

    # Buckets

    @_ours
    def buckets(self) -> list[Bucket]:
        names = sorted(self._client.hkeys(f"{self._tag('')}:d:"))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(f"{self._tag(_text(name))}:meta")
        found = zip(names, pipe.execute(), strict=True)
        return [_bucket(_text(name), meta) for name, meta in found if meta.get(b"known") == b"1"]

    @_ours
    def bucket(self, name: str) -> Bucket | None:
        meta = self._client.hgetall(f"{self._tag(name)}:meta") if name else {}
        return _bucket(name, meta) if meta.get(b"known") == b"1" else None

    @_ours
    def add_bucket(self, name: str, created_ns: int) -> None:
        meta = f"{self._tag(name)}:meta"
        if created_ns:
            self._client.hset(meta, "created_ns", created_ns)
        if self._client.hsetnx(meta, "known", 1):
            self._list(keys=[self._tag("")], args=[self.origin, name, "1"])

    @_ours
    def drop_bucket(self, name: str) -> None:
        tag = self._tag(name)
        if not self._client.hdel(f"{tag}:meta", "known"):
            return
        self._client.hdel(f"{tag}:meta", "objects", "bytes", "created_ns")
        self._client.hincrby(f"{tag}:meta", "seq", 1)
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in tag)
        for key in self._client.scan_iter(f"{pattern}:*", count=1000):
            if key != f"{tag}:meta".encode():
                self._client.unlink(key)
        self._list(keys=[self._tag("")], args=[self.origin, name, "0"])

    # Entries

    @_ours
    def get(self, bucket: str, key: str) -> Entry | None:
        directory, name = _split(key)
        record = self._client.hget(f"{self._tag(bucket)}:d:{directory}", name)
        return _entry(key, record) if record else None

    @_ours
    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        key = directory + name
        found = self._client.hmget(f"{self._tag(bucket)}:d:{directory}", [name, f"{name}/"])
        entry = _entry(key, found[0]) if name and found[0] else None
        return entry, None if found[1] is None else _child(f"{key}/", found[1])

    @_ours
    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = 1000
    ) -> list[Entry]:
        start = b"(" + after[len(directory) :].encode() if after > directory else b"-"
        return self._page(bucket, directory, start, b"+", limit)

    def _page(
        self, bucket: str, directory: str, start: bytes, end: bytes, limit: int
    ) -> list[Entry]:
        """Return the children with names from *start* to *end*, as ZRANGEBYLEX has them."""
        ordered, found = self._children(
            keys=[self._tag(bucket)], args=[directory, start, end, limit]
        )
        pairs = list(zip(found[::2], found[1::2], strict=True))
        if not ordered:
            pairs = [pair for pair in pairs if _between(pair[0], start, end)]
            pairs = sorted(pairs)[:limit]  # names differ: records are not compared
        return [_child(directory + _text(name), record) for name, record in pairs]

    @_ours
    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Entry]:
        directory = prefix[: prefix.rfind("/") + 1]
        found: list[Entry] = []
        if directory and directory == prefix and directory > after:
            own = self.get(bucket, directory)
            found += [own] if own is not None else []
        for entry in self._walk(bucket, directory, prefix, after):
            if len(found) >= limit:
                break
            found.append(entry)
        return found[:limit]

    def _walk(self, bucket: str, directory: str, prefix: str, after: str) -> Iterator[Entry]:
        """Yield the entries below *directory* that begin with *prefix* and come after *after*.

        Depth first: names in order, each subdirectory's own entry before what is in it.
        """
        start = max(prefix, after)[len(directory) :] if max(prefix, after) > directory else ""
        head, slash, _ = start.partition("/")
        at = b"[" + (head + slash).encode() if start else b"-"
        begin = prefix[len(directory) :].partition("/")[0].encode()
        end = b"(" + begin + b"\xff" if begin else b"+"  # no UTF-8 has that byte
        while True:
            page = self._page(bucket, directory, at, end, _PAGE)
            for child in page:
                key = child.key
                if not key.startswith(prefix[: len(key)]):
                    if key > prefix:
                        return
                    continue
                if key > after and key.startswith(prefix) and child != Entry(key, kind=LISTED):
                    yield child
                elif key > after and key.startswith(prefix) and key.endswith("/"):
                    own = self.get(bucket, key)
                    if own is not None:
                        yield own
                if key.endswith("/"):
                    yield from self._walk(bucket, key, prefix, after)
            if len(page) < _PAGE:
                return
            at = b"(" + page[-1].key[len(directory) :].encode()

    @_ours
    def has_below(self, bucket: str, directory: str) -> bool:
        tag = self._tag(bucket)
        if not directory:
            return bool(self._client.exists(f"{tag}:d:"))
        parent, name = _split(directory)
        return bool(self._client.hexists(f"{tag}:d:{parent}", name))

    # Changes

    @_ours
    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
    ) -> set[str]:
        if bucket and not self._client.hexists(f"{self._tag(bucket)}:meta", "known"):
            self.add_bucket(bucket, 0)
        unique = {entry.key: entry for entry in puts}
        keys = [*unique, *deletes]
        args: list[Any] = [self.origin, "" if since is None else since, WIDE_CHANGE, len(unique)]
        args += [min(keys, default=""), max(keys, default="")]
        for entry in unique.values():
            args += [*_split(entry.key), _packed(entry)]
        for key in deletes:
            args += _split(key)
        try:
            left = self._apply(keys=[self._tag(bucket)], args=args)
        except redis.ResponseError as exc:
            if "LOGTRIMMED" in str(exc):
                raise LogTrimmed(f"changes of {bucket} after {since} are not logged") from exc
            raise
        return {_text(key) for key in left}

    @_ours
    def seq(self, bucket: str) -> int:
        return int(self._client.hget(f"{self._tag(bucket)}:meta", "seq") or 0)

    @_ours
    def changes(self, bucket: str, since: int, limit: int = 10_000) -> list[Change]:
        last = self.seq(bucket)
        if since == last:
            return []
        lines = self._client.xrange(f"{self._tag(bucket)}:log", f"({since}-0", "+", count=limit)
        found = [_change(number, fields) for number, fields in lines]
        if since > last or not found or found[0].seq != since + 1:
            raise LogTrimmed(f"changes of {bucket or 'the buckets'} after {since} are not logged")
        return found

    # Scopes

    @_ours
    def mark(self, bucket: str, scope: Scope) -> None:
        if bucket and not self._client.hexists(f"{self._tag(bucket)}:meta", "known"):
            self.add_bucket(bucket, 0)
        if scope.deep:
            self.unmark(bucket, scope.prefix)
        self._client.hset(f"{self._tag(bucket)}:scopes", scope.prefix, json.dumps(scope))

    @_ours
    def unmark(self, bucket: str, prefix: str) -> None:
        scopes = f"{self._tag(bucket)}:scopes"
        inside = [key for key in self._client.hkeys(scopes) if key.startswith(prefix.encode())]
        if inside:
            self._client.hdel(scopes, *inside)

    @_ours
    def scope(self, bucket: str, prefix: str) -> Scope | None:
        if self._evicts:
            return None
        found = self._client.hget(f"{self._tag(bucket)}:scopes", prefix)
        return Scope(*json.loads(found)) if found else None

    @_ours
    def cover(self, bucket: str, directory: str) -> Scope | None:
        if self._evicts:
            return None
        cuts = [n + 1 for n, letter in enumerate(directory) if letter == "/"]
        prefixes = ["", *(directory[:cut] for cut in cuts)]
        found = self._client.hmget(f"{self._tag(bucket)}:scopes", prefixes)
        scopes = [Scope(*json.loads(text)) for text in found if text]
        covering = [scope for scope in scopes if scope.deep or scope.prefix == directory]
        return max(covering, key=lambda scope: scope.listed_ns, default=None)

    # Life

    def poll(self) -> bool:
        return True  # the numbers of the buckets say whether: a command each

    def close(self) -> None:
        self._client.close()


class _Never(Exception):
    """Stands where redis-py has no error of its own."""


_FOREIGN = "keys of another program; give another --namespace"
_FULL = "out of memory; raise maxmemory"
_REPLICA = "a replica, which takes no writes; name its primary"
_DOWN = "the cluster is down: {text}"
_NOBODY = "no answer; is redis-server running there?"
_FORBIDDEN = "not allowed to this user: {text}; give him `~mimicfs:* +@all`"
# What Redis refuses: by the error that redis-py makes of it, or, where a script was refused, by
# the code that is somewhere in its text.
_REFUSALS: list[tuple[type[Exception], str, type[StoreError], str]] = [
    (redis.exceptions.OutOfMemoryError, "OOM", StoreUnavailable, _FULL),
    (redis.exceptions.ReadOnlyError, "READONLY", StoreUnavailable, _REPLICA),
    (redis.exceptions.NoPermissionError, "NOPERM", StoreUnavailable, _FORBIDDEN),
    (_Never, "WRONGTYPE", StoreCorrupt, _FOREIGN),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN", StoreUnavailable, _DOWN),
    (MasterNotFoundError, "", StoreUnavailable, "no sentinel knows its primary: {text}"),
    (_Never, "SSL", StoreUnavailable, "TLS: {text}; its CA goes into the URL: ?ssl_ca_certs=FILE"),
    (redis.ConnectionError, "", StoreUnavailable, _NOBODY),
    (redis.TimeoutError, "", StoreUnavailable, _NOBODY),
]


def _cluster(url: str, extra: dict[str, Any]) -> Any:
    try:
        return RedisCluster.from_url(url, **extra)
    except (redis.RedisError, RedisClusterException) as exc:
        parts = urlsplit(url)
        where = f"Redis cluster at {parts.hostname}:{parts.port or 6379}"
        raise StoreUnavailable(f"{where}: {' '.join(str(exc).split())}") from exc


def _primary(url: str, extra: dict[str, Any]) -> Any:
    """Return a client of the primary, whichever it is at the time of each connection."""
    parts = urlsplit(url)
    service = parts.path.strip("/")
    if not service:
        raise ValueError("it names no service; write redis+sentinel://HOST:26379/SERVICE")
    if parts.password is not None:
        extra = {"username": parts.username or None, "password": unquote(parts.password)}
    where = (parts.hostname or "localhost", parts.port or 26379)
    sentinel: Any = Sentinel  # it has no types
    return sentinel([where], socket_timeout=5).master_for(service, **extra)


def _where(client: Any) -> str:
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


def _prefix(namespace: str) -> str:
    return f"mimicfs:{namespace}:" if namespace else "mimicfs:"


def _split(key: str) -> tuple[str, str]:
    """Return the directory that *key* is in, and its name there."""
    cut = key.rfind("/", 0, -1) + 1
    return key[:cut], key[cut:]


def _text(data: bytes) -> str:
    return data.decode()


def _between(name: bytes, start: bytes, end: bytes) -> bool:
    """Whether *name* is in a range as ZRANGEBYLEX has it: "-", "+", "[" and "("."""
    low = start == b"-" or (name >= start[1:] if start[:1] == b"[" else name > start[1:])
    return low and (end == b"+" or name < end[1:])


def _packed(entry: Entry) -> bytes:
    md5 = _is_md5(entry.etag)
    meta = "" if entry.meta is None else json.dumps(dict(entry.meta))
    rest = f"{entry.storage_class}\0{meta}" + ("" if entry.head is None else f"\0{entry.head}")
    etag = bytes.fromhex(entry.etag) if md5 else f"{entry.etag}\0".encode()
    fixed = _FIXED.pack(entry.kind | (_MD5 if md5 else 0), entry.size, entry.mtime_ns)
    return fixed + etag + (rest.encode() if rest != "\0" else b"")


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and not etag.strip("0123456789abcdef")


def _entry(key: str, record: bytes) -> Entry:
    try:
        kind, size, mtime_ns = _FIXED.unpack_from(record)
        at = _FIXED.size + 16 if kind & _MD5 else record.index(b"\0", _FIXED.size) + 1
        etag = (
            record[_FIXED.size : at].hex() if kind & _MD5 else record[_FIXED.size : at - 1].decode()
        )
        storage_class, meta, *head = (record[at:].decode() or "\0").split("\0", 2)
        known = json.loads(meta) if meta else None
    except (struct.error, ValueError) as exc:
        raise StoreCorrupt(f"the record of {key!r} in Redis is not ours") from exc
    said = head[0] if head else None
    return Entry(key, size, mtime_ns, etag, storage_class, known, kind & ~_MD5, said)


def _child(key: str, record: bytes) -> Entry:
    return _entry(key, record) if record else Entry(key, kind=LISTED)


def _bucket(name: str, meta: dict[bytes, bytes]) -> Bucket:
    numbers = [int(meta.get(field, 0)) for field in (b"created_ns", b"objects", b"bytes", b"seq")]
    return Bucket(name, *numbers)


def _change(number: bytes, fields: dict[bytes, bytes]) -> Change:
    seq = int(number.partition(b"-")[0])
    return Change(seq, _text(fields[b"f"]), _text(fields[b"l"]), int(fields[b"o"]))


assert OBJECT == 0  # the script counts entries of kind 0
