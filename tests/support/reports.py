"""Reports as S3 Inventory writes them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

SCHEMA = ["Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size",
          "LastModifiedDate", "ETag", "StorageClass", "IsMultipartUploaded"]  # fmt: skip
_NAMES = ["bucket", "key", "version_id", "is_latest", "is_delete_marker", "size",
          "last_modified_date", "e_tag", "storage_class", "is_multipart_uploaded"]  # fmt: skip
CREATED_MS = 1_700_000_000_000


def row(bucket: str, key: str, size: int | None = 1, **fields: Any) -> dict[str, Any]:
    """A row with its fields as in ORC and Parquet."""
    usual = dict(zip(_NAMES, [bucket, key, None, True, False, size, 1_600_000_000_000, "e",
                              "STANDARD", False], strict=True))  # fmt: skip
    return {**usual, **fields}


def csv_file(rows: list[dict[str, Any]], schema: list[str] = SCHEMA) -> bytes:
    names = dict(zip(SCHEMA, _NAMES, strict=True))
    text = io.StringIO()
    out = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for each in rows:
        out.writerow([_csv_value(names[column], each[names[column]]) for column in schema])
    return gzip.compress(text.getvalue().encode())


def _csv_value(name: str, value: Any) -> str:
    if name == "key":
        return quote_plus(value)
    if name == "last_modified_date":
        return "2020-09-13T12:26:40.000Z"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    types = {"is_latest": pa.bool_(), "is_delete_marker": pa.bool_(), "size": pa.int64(),
             "is_multipart_uploaded": pa.bool_()}  # fmt: skip
    types["last_modified_date"] = pa.timestamp("ms")
    schema = pa.schema([(name, types.get(name, pa.string())) for name in _NAMES])
    return pa.Table.from_pylist(rows, schema)


def parquet_file(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(_table(rows), out)
    return out.getvalue()


def orc_file(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    orc.write_table(_table(rows), out)
    return out.getvalue()


def publish(
    client: Any,
    place: str,
    about: str,
    bodies: list[bytes],
    kind: str = "CSV",
    schema: list[str] = SCHEMA,
    **changed: Any,
) -> str:
    """Put a report about the bucket *about* into *place*; return the URL of its manifest."""
    base = f"reports/{about}/daily"
    listed = []
    for number, body in enumerate(bodies):
        key = f"{base}/data/{number}.{kind.lower()}"
        client.put_object(Bucket=place, Key=key, Body=body)
        listed.append({"key": key, "size": len(body), "MD5checksum": hashlib.md5(body).hexdigest()})
    manifest = {
        "sourceBucket": about,
        "destinationBucket": f"arn:aws:s3:::{place}",
        "version": "2016-11-30",
        "creationTimestamp": str(CREATED_MS),
        "fileFormat": kind,
        "fileSchema": ", ".join(schema) if kind == "CSV" else "message",
        "files": listed,
        **changed,
    }
    body = json.dumps(manifest).encode()
    at = f"{base}/2023-11-14T22-13Z/manifest"
    client.put_object(Bucket=place, Key=f"{at}.json", Body=body)
    checksum = hashlib.md5(body).hexdigest().encode() + b"\n"
    client.put_object(Bucket=place, Key=f"{at}.checksum", Body=checksum)
    return f"s3://{place}/{at}.json"
