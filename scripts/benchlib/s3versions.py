"""Buckets of the bench's S3 server that keep versions: each key has as many, all synthetic.

The newest version of a key is its object. An older one is a day older and a byte longer for each
version that came after it, and is named "v1", "v2" ... from the oldest on. Nothing is written to
such a bucket.

Threading: everything here runs on the one thread of the server.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from urllib.parse import quote
from zlib import crc32

from benchlib.s3objects import (
    PATTERN_SIZE,
    Bucket,
    Object,
    iso_date,
    synthetic_etag,
    synthetic_mtime_s,
    synthetic_size,
)

DAY_S = 86_400
PAGE_MAX = 1_000


def version(bucket: Bucket, key: str, name: str) -> Object | None:
    """Return the version *name* of *key*, or None."""
    number = int(name[1:]) if name[:1] == "v" and name[1:].isdecimal() else 0
    if bucket.get(key) is None or not 1 <= number <= bucket.versions:
        return None
    return _made(key, bucket.versions - number)


def _made(key: str, later: int) -> Object:
    """Return the version of *key* behind which *later* ones were written."""
    mark = crc32(key.encode())
    size = synthetic_size(key, mark) + later
    etag = synthetic_etag(mark ^ later, size)
    return Object(size, etag, synthetic_mtime_s(mark) - later * DAY_S, start=mark % PATTERN_SIZE)


def page(bucket: Bucket, query: dict[str, str]) -> str:
    """Return the answer to a ListObjectVersions with encoding-type=url."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = min(PAGE_MAX, int(query.get("max-keys") or PAGE_MAX))
    number, later = _begin(bucket, prefix, query)
    rows: list[str] = []
    last = ("", "")
    while number < len(bucket.keys) and bucket.keys[number].startswith(prefix):
        key = bucket.keys[number]
        if later == bucket.versions:
            number, later = number + 1, 0
            continue
        if len(rows) == limit:
            break
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            group = key[: cut + len(delimiter)]
            last = (group, "")
            name = f"<Prefix>{quote(group)}</Prefix>"
            rows.append(f"<CommonPrefixes>{name}</CommonPrefixes>")
            number = bisect_left(bucket.keys, group + chr(0x10FFFF), number)
            continue
        last = (key, f"v{bucket.versions - later}")
        rows.append(_row(key, last[1], later))
        later += 1
    else:
        last = ("", "")
    following = f"<NextKeyMarker>{quote(last[0])}</NextKeyMarker>"
    following += f"<NextVersionIdMarker>{last[1]}</NextVersionIdMarker>"
    return (
        f"<ListVersionsResult><Name>{bucket.name}</Name><Prefix>{quote(prefix)}</Prefix>"
        f"<EncodingType>url</EncodingType><IsTruncated>{str(bool(last[0])).lower()}</IsTruncated>"
        f"{following if last[0] else ''}{''.join(rows)}</ListVersionsResult>"
    )


def _begin(bucket: Bucket, prefix: str, query: dict[str, str]) -> tuple[int, int]:
    """Return where the page begins: the number of a key, and how many of its versions are left
    out."""
    after, name = query.get("key-marker", ""), query.get("version-id-marker", "")
    first = bisect_left(bucket.keys, prefix)
    if after < prefix:
        return first, 0
    if name:
        return bisect_left(bucket.keys, after), bucket.versions - int(name[1:]) + 1
    if after.endswith("/") and query.get("delimiter"):
        after += chr(0x10FFFF)
    return max(first, bisect_right(bucket.keys, after)), 0


def _row(key: str, name: str, later: int) -> str:
    made = _made(key, later)
    return (
        f"<Version><Key>{quote(key)}</Key><VersionId>{name}</VersionId>"
        f"<IsLatest>{str(not later).lower()}</IsLatest><LastModified>{iso_date(int(made.mtime_s))}"
        f"</LastModified><ETag>&quot;{made.etag}&quot;</ETag><Size>{made.size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Version>"
    )
