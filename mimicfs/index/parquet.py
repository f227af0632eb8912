"""Parquet: an index as a table that other programs query, and the Parquet and ORC files of S3
Inventory. The only file that imports pyarrow, which comes with the extra `parquet`.

The table has one row for each entry, part behind part. The facts that lines of JSON have in their
header, and where a part begins and ends, are one JSON object in the metadata of the file, under the
name `mimicfs_index`: the header, with the parts, and how many rows each has, in `contents`.
Not thread-safe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Any

from mimicfs.entry import KEPT, Entry
from mimicfs.errors import ConfigError, MalformedIndex
from mimicfs.index.jsonlines import check_place
from mimicfs.index.records import (
    BATCH,
    Header,
    IndexPart,
    Wrong,
    entry_of,
    header_of,
    header_record,
    part_of,
    part_record,
)

_GROUP = 50_000  # rows that are written together
_INDEX = b"mimicfs_index"
_COLUMNS = (
    "bucket",
    "key",
    "directory",
    "size",
    "last_modified",
    "etag",
    "storage_class",
    "metadata",
    "head",
)


def check_installed(name: str) -> None:
    """Raise ConfigError if pyarrow is not there to read or write *name*."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as exc:
        text = "Parquet and ORC need pyarrow: pip install 'mimicfs[parquet]'"
        raise ConfigError(f"{name}: {text}") from exc


class ParquetSink:
    """Writes a table to *stream*. A context manager."""

    def __init__(self, stream: IO[bytes], header: Header) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {
            "directory": pa.bool_(),
            "size": pa.int64(),
            "last_modified": pa.timestamp("ns", "UTC"),
        }
        self._schema = pa.schema([(name, types.get(name, pa.string())) for name in _COLUMNS])
        self._writer = pq.ParquetWriter(stream, self._schema, version="2.6", compression="zstd")
        self._header = header
        self._contents: list[dict[str, Any]] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def part(self, part: IndexPart) -> None:
        self._contents.append({**part_record(part), "entries": 0})

    def write(self, entries: Sequence[Entry]) -> None:
        part = self._contents[-1]
        part["entries"] += len(entries)
        columns = [self._columns[name] for name in _COLUMNS]
        for key, size, mtime_ns, etag, storage_class, meta, kind, head in entries:
            directory = kind == KEPT
            row = (
                part["bucket"],
                key,
                directory,
                None if directory else size,
                None if directory else mtime_ns,
                etag or None,
                None if directory else storage_class or "STANDARD",
                None if meta is None else json.dumps(dict(meta), ensure_ascii=False),
                head,
            )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        if len(columns[0]) >= _GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        record = {**header_record(self._header), "contents": self._contents}
        self._writer.add_key_value_metadata({_INDEX: json.dumps(record).encode()})

    def _flush(self) -> None:
        import pyarrow as pa

        if self._columns["key"]:
            self._writer.write_table(pa.table(self._columns, self._schema))
        for column in self._columns.values():
            column.clear()


class ParquetSource:
    """Reads a table from *stream*, a file; errors call it *name*."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._name = name
        self._row = 0  # of the file, from 1
        try:
            self._file = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as exc:
            raise MalformedIndex(f"{name}: not a complete Parquet file: {exc}") from exc
        record = self._record()
        try:
            self.header = header_of(record)
            self._contents = [(part_of(each), int(each["entries"])) for each in record["contents"]]
        except (Wrong, KeyError, TypeError, ValueError) as exc:
            raise MalformedIndex(f"{name}: its metadata {_INDEX.decode()}: {exc}") from exc
        columns = self._file.schema_arrow.names
        missing = [
            each for each in ("bucket", "key", "size", "last_modified") if each not in columns
        ]
        if missing:
            raise MalformedIndex(f"{name}: it has no column {missing[0]!r}")
        rows, said = self._file.metadata.num_rows, sum(count for _, count in self._contents)
        if rows != said:
            raise MalformedIndex(f"{name}: it has {rows} rows; its metadata says {said}")

    def _record(self) -> Any:
        found = (self._file.metadata.metadata or {}).get(_INDEX)
        if found is None:
            text = f"no {_INDEX.decode()} in its metadata: not an index (docs/indexes.md)"
            raise MalformedIndex(f"{self._name}: {text}")
        try:
            return json.loads(found)
        except ValueError as exc:
            raise MalformedIndex(f"{self._name}: {_INDEX.decode()}: not JSON: {exc}") from exc

    def parts(self) -> Iterator[tuple[IndexPart, Iterator[list[Entry]]]]:
        rows = self._rows()
        for part, count in self._contents:
            batches = self._batches(part, islice(rows, count))
            yield part, batches
            for _ in batches:  # the batches that the caller has left out
                pass

    def _batches(self, part: IndexPart, rows: Iterator[dict[str, Any]]) -> Iterator[list[Entry]]:
        last = ""
        while batch := list(islice(rows, BATCH)):
            entries = []
            for row in batch:
                self._row += 1
                try:
                    entries.append(self._entry(part, row, last))
                except Wrong as exc:
                    raise MalformedIndex(f"{self._name}: row {self._row}: {exc}") from exc
                last = entries[-1].key
            yield entries

    @staticmethod
    def _entry(part: IndexPart, row: dict[str, Any], last: str) -> Entry:
        if row.pop("bucket") != part.bucket:
            raise Wrong(f"bucket: not {part.bucket!r}")
        if row["metadata"] is not None:
            try:
                row["metadata"] = json.loads(row["metadata"])
            except ValueError as exc:
                raise Wrong(f"metadata: not JSON: {exc}") from exc
        for name in ("etag", "storage_class"):
            row[name] = row[name] or ""
        entry = entry_of(row, row.pop("last_modified"))
        check_place(part, entry, last)
        return entry

    def _rows(self) -> Iterator[dict[str, Any]]:
        columns = [name for name in _COLUMNS if name in self._file.schema_arrow.names]
        for batch in read_batches(self._file, "Parquet", self._name, columns):
            nothing = [None] * len(batch["key"])
            values = [batch.get(name, nothing) for name in _COLUMNS]
            for row in zip(*values, strict=True):
                yield dict(zip(_COLUMNS, row, strict=True))


# Files of S3 Inventory


def open_table(stream: IO[bytes], kind: str, name: str) -> tuple[Any, list[str]]:
    """Return a file of *kind* ("Parquet" or "ORC") and the names of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import orc

    try:
        if kind == "ORC":
            file = orc.ORCFile(stream)
            return file, file.schema.names
        file = pq.ParquetFile(stream)
        return file, file.schema_arrow.names
    except (pa.ArrowException, OSError) as exc:
        raise MalformedIndex(f"{name}: not a complete {kind} file: {exc}") from exc


def read_batches(
    file: Any, kind: str, name: str, columns: list[str]
) -> Iterator[dict[str, list[Any]]]:
    """Yield *columns* in pieces that fit in memory; times are ns. Raises MalformedIndex."""
    import pyarrow as pa

    try:
        for batch in _record_batches(file, kind, columns):
            yield {name: _values(batch.column(name)) for name in columns}
    except (pa.ArrowException, OSError) as exc:
        raise MalformedIndex(f"{name}: damaged: {exc}") from exc


def _record_batches(file: Any, kind: str, columns: list[str]) -> Iterator[Any]:
    if kind == "Parquet":
        yield from file.iter_batches(batch_size=BATCH, columns=columns)
        return
    for n in range(file.nstripes):
        stripe = file.read_stripe(n, columns)
        for start in range(0, stripe.num_rows, BATCH):
            yield stripe.slice(start, BATCH)


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    found: list[Any] = column.to_pylist()
    return found
