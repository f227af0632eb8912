"""A report of S3 Inventory, read as an index: the manifest and its checksum, the files that it
names and their checksums, and their rows as entries.

A report is untrusted input. It is read from the bucket that the user named, whatever it says
itself. Each file goes to a temporary file without a name, and is used only if its MD5 is that in
the manifest. Rows come in no order, with old versions and delete markers among them.

The report does not say whether it covers the whole bucket or a prefix: `coverage` asks.

Not thread-safe.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple
from urllib.parse import unquote_plus

from mimicfs.config.sizes import MIB
from mimicfs.config.values import parse_target
from mimicfs.entry import Entry, unquoted
from mimicfs.errors import ConfigError, KeyNotFound, MalformedIndex, MimicError, S3Error
from mimicfs.index.records import BATCH, SIZE_MAX, Wrong, checked_bucket, checked_key, read_time
from mimicfs.s3.requests.client import S3

_MANIFEST_MAX = 64 * MIB  # the manifest of 10^9 objects has about 1 MiB
_CHECKSUM_MAX = 1024
_PIECE = 8 * MIB
_FORMATS = {"csv": "CSV", "orc": "ORC", "parquet": "Parquet"}
# The columns that are used, by their names in ORC and Parquet, and in CSV.
_COLUMNS = {
    "Bucket": "bucket",
    "Key": "key",
    "VersionId": "version_id",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
    "StorageClass": "storage_class",
}
_TRUE = {"true": True, "false": False}


class InventoryFile(NamedTuple):
    key: str
    size: int
    md5: str


class Manifest(NamedTuple):
    """A report's description of itself. *place* and *key* say where it was found."""

    place: str  # the bucket in which the report is
    key: str
    bucket: str  # the bucket about which it is
    created_ns: int  # when the scan began
    format: str  # "CSV", "ORC", "Parquet"
    columns: tuple[str, ...]  # of CSV, in their order; empty for other formats, which name them
    files: tuple[InventoryFile, ...]

    def __str__(self) -> str:
        return f"s3://{self.place}/{self.key}"


# The manifest


def read_manifest(s3: S3, url: str) -> Manifest:
    """Return the manifest at *url*, s3://.../manifest.json or its directory, if its checksum is
    right. Raises MalformedIndex, ConfigError, S3Error."""
    target = parse_target(url)
    key = target.prefix.removesuffix("/")
    if not key:
        raise ConfigError(f"{url}: name a report: s3://BUCKET/.../manifest.json")
    if not key.endswith(".json"):
        key += "/manifest.json"
    about = f"s3://{target.bucket}/{key}"
    body = _fetched(s3, target.bucket, key, _MANIFEST_MAX)
    _check_sum(s3, target.bucket, key, body)
    try:
        return _manifest(json.loads(body), target.bucket, key)
    except Wrong as exc:
        raise MalformedIndex(f"{about}: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise MalformedIndex(f"{about}: not JSON: {exc}") from exc


def _check_sum(s3: S3, bucket: str, key: str, body: bytes) -> None:
    checksum = key.removesuffix("json") + "checksum"
    try:
        said = _fetched(s3, bucket, checksum, _CHECKSUM_MAX)
    except KeyNotFound as exc:
        text = "not there yet; S3 writes it when the report is complete"
        raise MalformedIndex(f"s3://{bucket}/{checksum}: {text}") from exc
    if said.decode("ascii", "replace").strip().lower() != _md5(body).hexdigest():
        raise MalformedIndex(f"s3://{bucket}/{key}: its MD5 differs from that in {checksum}")


def _manifest(said: Any, place: str, key: str) -> Manifest:
    if not isinstance(said, dict):
        raise Wrong("not a manifest of S3 Inventory")
    bucket = checked_bucket("sourceBucket", _said(said, "sourceBucket"))
    kind = _FORMATS.get(_said(said, "fileFormat").lower())
    if kind is None:
        raise Wrong(f"fileFormat {said['fileFormat']!r}: mimicfs reads CSV, ORC and Parquet")
    try:
        created_ns = int(said["creationTimestamp"]) * 1_000_000
        files = tuple(
            InventoryFile(str(each["key"]), int(each["size"]), str(each["MD5checksum"]).lower())
            for each in said["files"]
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise Wrong(f"not a manifest of S3 Inventory: {exc!r}") from exc
    columns: tuple[str, ...] = ()
    if kind == "CSV":
        names = [name.strip() for name in _said(said, "fileSchema").split(",")]
        columns = tuple(_COLUMNS.get(name, name) for name in names)
        check_columns(columns)
    return Manifest(place, key, bucket, created_ns, kind, columns, files)


def _said(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise Wrong(f"not a manifest of S3 Inventory: no {name}")
    return value


def check_columns(columns: Iterable[str]) -> None:
    """Raise Wrong if *columns* are too few to tell the contents of the bucket."""
    there = set(columns)
    if "key" not in there:
        raise Wrong("its files have no column Key")
    if "size" not in there:
        raise Wrong(
            "its files have no column Size, and without it every file would be shown as empty;"
            " add Size to the optional fields of the inventory's configuration"
        )
    if "version_id" in there and not {"is_latest", "is_delete_marker"} <= there:
        raise Wrong("its files list versions without saying which are the latest")


def coverage(s3: S3, manifest: Manifest) -> str:
    """Return the prefix that the report covers, "" for the whole bucket, by the configuration with
    which S3 made it. Raises ConfigError if that cannot be found out."""
    parts = manifest.key.split("/")
    try:
        if len(parts) < 4 or parts[-4] != manifest.bucket:
            raise ConfigError("its key contains no name of a configuration")
        operation = "get_bucket_inventory_configuration"
        answer = s3.call(operation, manifest.bucket, Id=parts[-3])
        found = answer["InventoryConfiguration"]
    except (S3Error, ConfigError, KeyError) as exc:
        raise ConfigError(
            f"{manifest}: cannot find out whether it covers the whole bucket ({exc}); give"
            " --prefix '' if it does, or --prefix P if its configuration filters by P"
        ) from exc
    return str(found.get("Filter", {}).get("Prefix", ""))


# Rows


def read_entries(s3: S3, manifest: Manifest, prefix: str) -> Iterator[list[Entry]]:
    """Yield the current objects of the report, in no order, in batches. All must be below
    *prefix*. Raises MalformedIndex, S3Error."""
    for number, file in enumerate(manifest.files, 1):
        name = f"s3://{manifest.place}/{file.key} (file {number} of {len(manifest.files)})"
        try:
            with tempfile.TemporaryFile() as temporary:
                _fetch_file(s3, manifest, file, name, temporary)
                yield from _entries_of(manifest, temporary, name, prefix)
        except OSError as exc:
            text = f"{name}: {exc.strerror or exc}; set TMPDIR to a directory with room for it"
            raise MimicError(text) from exc


def _fetch_file(
    s3: S3, manifest: Manifest, file: InventoryFile, name: str, into: IO[bytes]
) -> None:
    md5, size = _fetch(s3, manifest.place, file.key, SIZE_MAX, into)
    if size != file.size:
        raise MalformedIndex(f"{name}: {size} bytes; the manifest says {file.size}")
    if md5 != file.md5:
        raise MalformedIndex(f"{name}: its MD5 is {md5}; the manifest says {file.md5}")
    into.seek(0)


def _entries_of(
    manifest: Manifest, file: IO[bytes], name: str, prefix: str
) -> Iterator[list[Entry]]:
    read = _csv_rows if manifest.format == "CSV" else _table_rows
    batch: list[Entry] = []
    for number, row in enumerate(read(manifest, file, name), 1):
        try:
            entry = _entry(manifest, row, prefix)
        except (Wrong, ValueError, KeyError) as exc:
            raise MalformedIndex(f"{name}: row {number}: {exc}") from exc
        if entry is None:
            continue
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _csv_rows(manifest: Manifest, file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    columns = manifest.columns
    plain = gzip.GzipFile(fileobj=file)
    lines = csv.reader(io.TextIOWrapper(plain, "utf-8", newline=""), strict=True)
    try:
        for values in lines:
            if len(values) != len(columns):
                raise Wrong(f"{len(values)} columns; the manifest says {len(columns)}")
            yield _typed(dict(zip(columns, values, strict=True)))
    except (Wrong, csv.Error, ValueError, EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise MalformedIndex(f"{name}: line {lines.line_num}: {exc}") from exc


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """Return the values for which the texts of a CSV row stand. Raises Wrong, ValueError."""
    row["key"] = unquote_plus(row["key"], errors="strict")
    for name in ("is_latest", "is_delete_marker"):
        if name in row:
            truth = _TRUE.get(row[name].lower())
            if truth is None:
                raise Wrong(f"{name}: {row[name]!r} is neither true nor false")
            row[name] = truth
    row["size"] = int(row["size"]) if row["size"] else None
    if row.get("last_modified_date"):
        row["last_modified_date"] = read_time(row["last_modified_date"])
    return row


def _table_rows(manifest: Manifest, file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    from mimicfs.index.parquet import open_table, read_batches

    table, there = open_table(file, manifest.format, name)
    try:
        check_columns(there)
    except Wrong as exc:
        raise MalformedIndex(f"{name}: {exc}") from exc
    columns = [column for column in _COLUMNS.values() if column in there]
    for batch in read_batches(table, manifest.format, name, columns):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _entry(manifest: Manifest, row: dict[str, Any], prefix: str) -> Entry | None:
    """Return the entry of *row*; None if it is no current object. Raises Wrong."""
    if row.get("bucket", manifest.bucket) != manifest.bucket:
        raise Wrong(f"the bucket is {row['bucket']!r}, but the report is about {manifest.bucket!r}")
    if row.get("is_delete_marker") or row.get("is_latest") is False:
        return None
    key, size = checked_key(row["key"]), row["size"]
    if not key.startswith(prefix):
        raise Wrong(f"key {key!r} does not begin with {prefix!r}")
    if type(size) is not int or not 0 <= size < SIZE_MAX:
        raise Wrong(f"size {size!r} of {key!r} is not a size")
    modified_ns = row.get("last_modified_date") or manifest.created_ns  # that time is no later
    storage_class = row.get("storage_class") or ""
    etag = unquoted(row.get("e_tag"))
    return Entry(key, size, modified_ns, etag, "" if storage_class == "STANDARD" else storage_class)


# Objects of S3


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)  # the checksum of S3 Inventory


def _fetched(s3: S3, bucket: str, key: str, size_max: int) -> bytes:
    body = io.BytesIO()
    _fetch(s3, bucket, key, size_max, body)
    return body.getvalue()


def _fetch(s3: S3, bucket: str, key: str, size_max: int, into: IO[bytes]) -> tuple[str, int]:
    """Write an object to *into*; return its MD5 and size."""
    entry, _ = s3.head(bucket, key)
    if entry.size > size_max:
        raise MalformedIndex(
            f"s3://{bucket}/{key}: {entry.size} bytes are too many for such a file"
        )
    md5 = _md5()
    buffer = memoryview(bytearray(min(_PIECE, entry.size)))
    for start in range(0, entry.size, _PIECE):
        piece = buffer[: min(_PIECE, entry.size - start)]
        s3.read_into(bucket, key, entry.etag, start, piece)
        md5.update(piece)
        into.write(piece)
    return md5.hexdigest(), entry.size
