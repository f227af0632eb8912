"""Messages that MinIO's redis target, or anybody else, puts into Redis under one key.

    list    MinIO's format "access", or one message an element. An element is moved to a list
            beside it, KEY:mimicfs, until it is acknowledged; what a dead consumer left there
            is taken first
    stream  one message an entry, in any field; read by the group "mimicfs". Entries that were
            cut off (MAXLEN) before the group has read them are counted as lost, from Redis 7
            on. A stream that goes and comes again has lost what nobody knows, counted as one
    hash    MinIO's format "namespace": a field for each object that exists. It has no order and
            no end, so it is read whole every 10 s, and what is another than before is a message:
            all is given of what was there when the last whole reading began.
            The page after one with large values has few of them. About 150 bytes are remembered
            of each field, as it was when its message was acknowledged

Threading: as source.py says.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic, time_ns
from typing import Any

from mimicfs.backends.redis.connecting import (
    FOREIGN,
    NO_RIGHTS,
    connected_once,
    our_error,
    place,
    run_id,
)
from mimicfs.config.values import redacted
from mimicfs.errors import ConfigError, StoreError
from mimicfs.sync.events.source import Delivery, EventSource

_BATCH_MAX = 100
_BYTES_MAX = 8 << 20  # after so many, no further message is taken
_LOOK_S = 1.0  # Redis waits no longer than this, so that `close` is heard
_WHOLE_S = 10.0  # between two readings of a hash
_GROUP = "mimicfs"
_SIGNED_S = 3600  # how long a signature is kept
_NOTHING = b'{"Records": []}'
_NEW = ">"  # of a stream: entries that nobody has taken
# the begin of Redis' error: the stream was deleted, and may have been made anew
_STREAM_GONE = "NOGROUP"


class RedisQueue(EventSource):
    """The key that *url* names behind its "#": redis://HOST:6379/0#KEY. Raises ConfigError."""

    shared = True

    def __init__(self, url: str, password: str | None = None) -> None:
        address, _, key = url.partition("#")
        if not key:
            shown = redacted(address)
            raise ConfigError(f"--events {shown}: has no key; write {shown}#KEY")
        self._client = connected_once(address, password)
        self._where = place(self._client)
        self.name = f"{self._where}, key {key}"
        self._key, self._taken = key, f"{key}:{_GROUP}"
        self._signed = f"{self._taken}:store"
        self._mark = f"{self._taken}:id"
        self._closed = threading.Event()
        self._begun = False  # whether messages that were taken and not acknowledged have come again
        self._again = 0  # of a list: how many of it came again, and are not acknowledged yet
        self._grouped = False  # whether the stream that is there has our group
        self._pending: bytes | str = _NEW  # of a stream: behind which of the taken entries to go on
        self._last = b"0"  # of a stream: the number of the last entry that was ever added
        self._passed = 0  # of a stream: how many entries were read or lost since it was made
        self._seen: dict[bytes, int] = {}  # the fields of a hash, each with the hash of its value
        self._reading: Iterator[Delivery] | None = None  # the changes of the hash since then
        self._read_s = float("-inf")  # when that reading began, or the last one
        self._read_ns = self._whole_ns = 0  # the same, and when the last whole reading began
        self._kinds: dict[bytes, Callable[[float], list[Delivery]]] = {
            b"list": self._of_list,
            b"stream": self._of_stream,
            b"hash": self._of_hash,
        }

    def receive(self, wait_s: float) -> list[Delivery]:
        until = monotonic() + wait_s
        while not self._closed.is_set():
            self.looked_ns = time_ns()
            with self._ours():
                kind = self._client.type(self._key)
                if kind != b"stream":
                    self._lose_stream()
                elsewise = self._of_hash if self._seen else None  # a hash without fields is gone
                read = self._kinds.get(kind, elsewise if kind == b"none" else None)
                if read is None and kind != b"none":
                    raise StoreError(f"{self.name}: a {kind.decode()}, which cannot hold messages")
                self.ordered = read != self._of_hash
                left = min(_LOOK_S, max(0.0, until - monotonic()))
                found = read(left) if read else self._left_over()
            if found or monotonic() >= until:
                return found
            if read is None:
                self._closed.wait(left)
        return []

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with self._ours(), self._client.pipeline(transaction=False) as pipeline:
            for each in deliveries:
                each.receipt(pipeline)
            pipeline.execute()
        self._again = max(0, self._again - len(deliveries))

    def retry(self, deliveries: Sequence[Delivery]) -> None:
        self.resume()  # they are read again, like those of a dead consumer

    def resume(self) -> None:
        self._begun, self._again = False, 0
        self._reading, self._read_s, self._whole_ns = None, float("-inf"), 0

    def given_until_ns(self) -> int:
        if not self.ordered:
            return self._whole_ns
        return 0 if self._again else self.looked_ns  # the list may have more of them

    def identity(self) -> str:
        """A mark beside the key, which is lost together with it, and the run of the server, which
        may lose its last moment when it begins again. Without rights to the mark, it is the run
        alone."""
        with self._ours():
            run = run_id(self._client)
            try:
                self._client.set(self._mark, secrets.token_hex(8), nx=True)
                return f"{(self._client.get(self._mark) or b'').decode()} {run}"
            except NO_RIGHTS:
                return run

    def signed(self) -> str:
        with self._ours(), self._allowed():
            return (self._client.get(self._signed) or b"").decode(errors="replace")

    def sign(self, text: str) -> None:
        with self._ours(), self._allowed():
            self._client.set(self._signed, text, ex=_SIGNED_S)

    def close(self) -> None:
        self._closed.set()

    # A list

    def _of_list(self, wait_s: float) -> list[Delivery]:
        found = self._left_over()
        if found or not self._begun:
            if not found:  # the ones that were given are not acknowledged yet
                self._closed.wait(wait_s)
            return found
        found, _ = _some(self._moving(wait_s))
        return found

    def _moving(self, wait_s: float) -> Iterator[Delivery]:
        body = self._moved(wait_s)
        while body is not None:
            yield self._delivery(body)
            body = self._moved(0)

    def _moved(self, wait_s: float) -> Any:
        if wait_s <= 0:
            return self._client.lmove(self._key, self._taken, "LEFT", "RIGHT")
        return self._client.blmove(self._key, self._taken, wait_s, "LEFT", "RIGHT")

    def _left_over(self) -> list[Delivery]:
        """Return more messages that were taken and never acknowledged, but only once none of the
        earlier ones is left: another consumer that goes on may shift those behind them."""
        if self._begun:
            return []
        found, _ = _some(self._leaving())
        self._begun = self._again == 0
        return found

    def _leaving(self) -> Iterator[Delivery]:
        while (body := self._client.lindex(self._taken, self._again)) is not None:
            self._again += 1
            yield self._delivery(body)

    def _delivery(self, body: bytes) -> Delivery:
        return Delivery(body, lambda pipeline: pipeline.lrem(self._taken, 1, body))

    # A stream

    def _of_stream(self, wait_s: float) -> list[Delivery]:
        if not self._begun or not self._grouped:
            self._look_at_group()
            self._begun, self._grouped, self._pending = True, True, "0"
        try:
            return self._taken_of_stream(wait_s)
        except FOREIGN as exc:
            if not str(exc).startswith(_STREAM_GONE):
                raise
            self._lose_stream()
            return []

    def _lose_stream(self) -> None:
        """Note that the stream is gone, with entries that nobody had read; a new one has no
        group."""
        if self._grouped:
            self._grouped, self._passed = False, 0
            self.lost += 1

    def _taken_of_stream(self, wait_s: float) -> list[Delivery]:
        if self._pending != _NEW:
            found, _ = _some(self._pending_entries())
            if found:
                return found
        found, _ = _some(self._unread_entries())
        if not found and wait_s > 0:
            wait_ms = max(1, round(wait_s * 1000))
            if self._client.xread({self._key: self._last}, count=1, block=wait_ms):
                found, _ = _some(self._unread_entries())
        return found

    def _pending_entries(self) -> Iterator[Delivery]:
        while found := _entries(self._read_group(self._client, self._pending)):
            self._pending = _last_id(found, _NEW)
            yield from (self._entry(*each) for each in found)
        self._pending = _NEW

    def _unread_entries(self) -> Iterator[Delivery]:
        found, self._last = self._new_entries()
        while found:
            yield from (self._entry(*each) for each in found)
            found, self._last = self._new_entries()

    def _look_at_group(self) -> None:
        """Look at the group: since we last did, another consumer may have read, and counted lost
        entries."""
        stream = self._client.xinfo_stream(self._key)
        groups = {each["name"]: each for each in self._client.xinfo_groups(self._key)}
        group = groups.get(_GROUP.encode())
        if group is None:
            self._client.xgroup_create(self._key, _GROUP, "0")
            self._passed = _cut_off(stream)  # cut off before anybody listened
        else:
            self._passed = max(self._passed, group.get("entries-read") or 0)

    def _new_entries(self) -> tuple[list[Any], bytes]:
        """Return one entry that nobody has read, if there is any, and the number of the last one
        that was ever added; count what was cut off."""
        with self._client.pipeline(transaction=True) as pipeline:
            self._read_group(pipeline, _NEW)
            pipeline.xinfo_stream(self._key)
            answer, stream = pipeline.execute(raise_on_error=False)
        for each in (answer, stream):
            if isinstance(each, Exception):
                raise each
        found, last = _entries(answer), stream["last-generated-id"]
        cut = max(0, _cut_off(stream) - self._passed)
        self.lost += cut
        self._passed += cut + len(found)
        if cut:  # Redis counts entries that were read, and not those that were passed over
            at = _last_id(found, last)
            self._client.xgroup_setid(self._key, _GROUP, at, entries_read=self._passed)
        return found, last

    def _read_group(self, client: Any, after: bytes | str) -> Any:
        return client.xreadgroup(_GROUP, _GROUP, {self._key: after}, count=1)

    def _entry(self, number: bytes, fields: dict[bytes, bytes] | None) -> Delivery:
        if not fields:  # the entry was cut off after it was taken
            self.lost += 1
        body = max((fields or {b"": _NOTHING}).values(), key=len)
        return Delivery(body, lambda pipeline: pipeline.xack(self._key, _GROUP, number))

    # A hash

    def _of_hash(self, wait_s: float) -> list[Delivery]:
        due_s = self._read_s + _WHOLE_S - monotonic()
        if self._reading is None and due_s > 0:
            self._closed.wait(min(wait_s, due_s))
            return []
        if self._reading is None:
            self._reading, self._read_s = self._changes_of_hash(), monotonic()
            self._read_ns = time_ns()
        reading, self._reading = self._reading, None  # a reading that fails does not go on
        found, is_all = _some(reading)
        if is_all:
            self._whole_ns = self._read_ns
        else:
            self._reading = reading
        return found

    def _changes_of_hash(self) -> Iterator[Delivery]:
        """Yield what has changed since it was acknowledged."""
        there: set[bytes] = set()
        for name, body in self._fields():
            if name not in there and self._seen.get(name) != hash(body):
                yield Delivery(body, partial(self._remember, name, hash(body)))
            there.add(name)  # a scan may show a field twice
        for name in self._seen.keys() - there:
            yield Delivery(_gone(name), partial(self._forget, name))

    def _fields(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the fields, from pages that are small where the values are large."""
        cursor, count = 0, 1
        while True:
            cursor, page = self._client.hscan(self._key, cursor, count=count)
            yield from page.items()
            if not cursor:
                return
            largest = max(map(len, page.values()), default=0)
            count = max(1, min(2 * count, _BATCH_MAX, _BYTES_MAX // (largest + 1)))

    def _remember(self, name: bytes, value: int, _pipeline: Any) -> None:
        self._seen[name] = value

    def _forget(self, name: bytes, _pipeline: Any) -> None:
        self._seen.pop(name, None)

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        """Within, a lack of rights is an error that will be the same later, not a missing
        answer."""
        try:
            yield
        except NO_RIGHTS as exc:
            raise ConfigError(f"{self.name}: no rights to the key {self._signed}") from exc

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except FOREIGN as exc:
            raise our_error(exc, self._where) from exc


def _some(deliveries: Iterator[Delivery]) -> tuple[list[Delivery], bool]:
    """Return as many of the next *deliveries* as may be held, and whether these were all."""
    found, size = [], 0
    for each in deliveries:
        found.append(each)
        size += len(each.body)
        if len(found) == _BATCH_MAX or size >= _BYTES_MAX:
            return found, False
    return found, True


def _cut_off(stream: dict[str, Any]) -> int:
    """Return how many entries of a stream are gone; 0 before Redis 7, which does not say."""
    return int(stream.get("entries-added", stream["length"]) - stream["length"])


def _entries(answer: Any) -> list[Any]:
    """Return the entries of one stream from the answer of XREADGROUP."""
    pages = answer.values() if isinstance(answer, dict) else [page for _, page in answer or ()]
    return [entry for page in pages for entry in _flat(page)]


def _last_id(entries: list[Any], otherwise: bytes | str) -> bytes | str:
    """Return the id of the last of *entries*; *otherwise* if there is none."""
    last, *_ = entries[-1] if entries else (otherwise,)
    return last


def _flat(page: Any) -> list[Any]:
    """Return the entries of a page: RESP3 has them in a list more than RESP2."""
    return page[0] if page and isinstance(page[0], list) else page


def _gone(name: bytes) -> str:
    """Return the message that MinIO does not send: the object of the field *name* is gone."""
    bucket, _, key = name.decode(errors="surrogateescape").partition("/")
    about = {"bucket": {"name": bucket}, "object": {"key": key}}
    record = {"eventSource": "ceph:s3", "eventName": "ObjectRemoved:Delete", "s3": about}
    return json.dumps({"Records": [record]})  # "ceph:s3": the key is not encoded
