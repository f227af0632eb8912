"""fsspec's s3fs stands on aiobotocore: with its client mimicked, `ls` asks the mirror."""

from __future__ import annotations

from typing import Any

import pytest
import s3fs
from support.mounts import costs

import mimicfs

pytestmark = pytest.mark.slow


def test_its_listings_cost_nothing_and_its_writes_are_mirrored(
    library: Any, mimicked: Any, proxy: Any, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="d/before", Body=b"x")
    library.sync(bucket, client=mimicked)
    fs = s3fs.S3FileSystem(
        endpoint_url=proxy.url,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "s3": {"addressing_style": "path"},
            "response_checksum_validation": "when_required",
        },
    )
    fs.connect()
    mimicfs.mimic(fs.s3, library)
    with costs(proxy):
        assert fs.ls(f"{bucket}/d") == [f"{bucket}/d/before"]
        assert fs.find(bucket) == [f"{bucket}/d/before"]
        assert not fs.exists(f"{bucket}/nothing")
    fs.pipe(f"{bucket}/d/mine", b"123")
    assert fs.cat(f"{bucket}/d/mine") == b"123"
    with costs(proxy):
        assert fs.ls(f"{bucket}/d") == [f"{bucket}/d/before", f"{bucket}/d/mine"]
    assert [entry.size for entry in library.listing(bucket)] == [1, 3]
