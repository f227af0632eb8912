"""An index as lines of JSON: the header; then for each part a line that begins it, a line for each
entry, and a line that ends it and says how many there were.

Each kind of line has a name that no other kind has: `mimicfs_index`, `bucket`, `key`, `entries`.
Everything is ASCII: other characters are escaped as in JSON, so that control characters, and
characters that no locale can show, come through any tool. Not thread-safe.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from mimicfs.entry import Entry
from mimicfs.errors import MalformedIndex
from mimicfs.index.records import (
    BATCH,
    Header,
    IndexPart,
    Wrong,
    entry_of,
    entry_record,
    header_of,
    header_record,
    part_of,
    part_record,
)

_LINE_MAX = 1 << 20  # bytes. A key has 1 KiB, metadata 2; escapes make both six times longer

_text = json.JSONEncoder(separators=(",", ":")).encode


class JsonLinesSink:
    """Writes lines of JSON to *stream*."""

    def __init__(self, stream: IO[bytes], header: Header) -> None:
        self._stream = stream
        self._entries: int | None = None  # of the part that is being written
        self._lines([header_record(header)])

    def part(self, part: IndexPart) -> None:
        self.finish()
        self._entries = 0
        self._lines([part_record(part)])

    def write(self, entries: Sequence[Entry]) -> None:
        assert self._entries is not None
        self._entries += len(entries)
        self._lines([entry_record(entry) for entry in entries])

    def finish(self) -> None:
        if self._entries is not None:
            self._lines([{"entries": self._entries}])
        self._entries = None

    def _lines(self, records: list[dict[str, Any]]) -> None:
        self._stream.write("".join(f"{_text(record)}\n" for record in records).encode("ascii"))


class JsonLinesSource:
    """Reads lines of JSON from *stream*; errors call it *name*."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._line = 0
        first = self._next()
        try:
            self.header = header_of(first)
        except Wrong as exc:
            raise self._error(str(exc)) from exc

    def parts(self) -> Iterator[tuple[IndexPart, Iterator[list[Entry]]]]:
        count = 0
        while (record := self._next()) is not None:
            if "bucket" not in record:
                raise self._error("neither an entry nor the beginning of a bucket")
            try:
                part = part_of(record)
            except Wrong as exc:
                raise self._error(str(exc)) from exc
            count += 1
            batches = self._batches(part)
            yield part, batches
            for _ in batches:  # the batches that the caller has left out
                pass
        if self.header.parts not in (None, count):
            raise self._error(f"ends early: it has {count} of {self.header.parts} buckets")

    def _batches(self, part: IndexPart) -> Iterator[list[Entry]]:
        batch: list[Entry] = []
        count, last = 0, ""
        while (record := self._next()) is not None and "key" in record:
            if len(batch) == BATCH:
                yield batch
                batch = []
            try:
                entry = entry_of(record)
                check_place(part, entry, last)
            except Wrong as exc:
                raise self._error(str(exc)) from exc
            last = entry.key
            batch.append(entry)
            count += 1
        if record is None:
            raise self._error(f"ends early, {count} entries after the beginning of {part}")
        if record.get("entries") != count:
            said = record.get("entries", "something else")
            raise self._error(f"it has {count} entries of {part}, but says here that it has {said}")
        if batch:
            yield batch

    def _next(self) -> dict[str, Any] | None:
        """Return the next line; None at the end. Empty lines do not count."""
        while True:
            self._line += 1
            try:
                line = self._stream.readline(_LINE_MAX)
            except (EOFError, OSError, zlib.error) as exc:  # BadGzipFile is one of them
                raise self._error(f"damaged or incomplete: {exc}") from exc
            if not line:
                return None
            if line.strip():
                return self._record(line)

    def _record(self, line: bytes) -> dict[str, Any]:
        if not line.endswith(b"\n") and len(line) == _LINE_MAX:
            raise self._error(f"a line of more than {_LINE_MAX} bytes: not an index of mimicfs")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise self._error(f"not JSON: {exc}") from exc
        if not isinstance(record, dict):
            raise self._error("not a JSON object")
        return record

    def _error(self, what: str) -> MalformedIndex:
        return MalformedIndex(f"{self._name}:{self._line}: {what}")


def check_place(part: IndexPart, entry: Entry, last: str) -> None:
    """Raise Wrong if *entry* cannot come behind the key *last* in *part*."""
    if not entry.key.startswith(part.prefix):
        raise Wrong(f"key: {entry.key!r} does not begin with {part.prefix!r}")
    if part.ordered and entry.key <= last:
        what = "is there twice" if entry.key == last else f"comes after {last!r}"
        raise Wrong(
            f'key: {entry.key!r} {what}; sort by the bytes of the key, or say "ordered": false'
            " where the bucket begins"
        )
