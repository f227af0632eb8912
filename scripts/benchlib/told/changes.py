"""What a client changes in S3, and how it is seen in the mount."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchlib.told.tellers import WRITERS

PATIENCE_S = 30.0
DIRECTORIES = 30  # that new keys are spread over

Change = Callable[[Any, str, str], object]  # client, bucket, key
Seen = Callable[[Path], bool]


def size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return -1


def put(client: Any, bucket: str, key: str, body: bytes = b"12345") -> None:
    client.put_object(Bucket=bucket, Key=key, Body=body)


def copy(client: Any, bucket: str, key: str) -> None:
    client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": "source"})


def delete(client: Any, bucket: str, key: str) -> None:
    client.delete_object(Bucket=bucket, Key=key)


def in_parts(client: Any, bucket: str, key: str) -> None:
    where = {"Bucket": bucket, "Key": key}
    upload = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"12345")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)


def undelete(client: Any, bucket: str, key: str) -> None:
    """Delete the delete marker of *key*: the object is there again."""
    found = client.list_object_versions(Bucket=bucket, Prefix=key)["DeleteMarkers"]
    client.delete_object(Bucket=bucket, Key=key, VersionId=found[0]["VersionId"])


def delete_version(client: Any, bucket: str, key: str) -> None:
    """Delete the present version: the one before it is what the key has."""
    found = client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    [version] = [each["VersionId"] for each in found if each["IsLatest"]]
    client.delete_object(Bucket=bucket, Key=key, VersionId=version)


shown: Seen = os.path.lexists
changed = partial(put, body=b"another")
# By name: what is done before, the change, and what is seen then.
PLAIN: dict[str, tuple[list[Change], Change, Seen]] = {
    "put, a new key": ([], put, shown),
    "put, an old key": ([put], changed, lambda path: size_of(path) == 7),
    "copy": ([], copy, shown),
    "multipart upload": ([], in_parts, shown),
    "delete": ([put], delete, lambda path: not shown(path)),
}
VERSIONED: dict[str, tuple[list[Change], Change, Seen]] = {
    "delete, versioned": ([put], delete, lambda path: not shown(path)),
    "delete a marker": ([put, delete], undelete, shown),
    "delete a version": ([put, changed], delete_version, lambda path: size_of(path) == 5),
}
KINDS = {"plain": PLAIN, "versioned": VERSIONED}


def seen_after_s(seen: Seen, path: Path, began_s: float) -> float:
    while not seen(path) and time.perf_counter() - began_s < PATIENCE_S:
        time.sleep(0.002)
    return time.perf_counter() - began_s


def in_threads(do: Callable[[Any], Any], keys: Sequence[Any], threads: int = WRITERS) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, keys))
