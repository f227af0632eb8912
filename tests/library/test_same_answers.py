"""A mimicked client answers as a plain one, whatever is asked: hypothesis chooses keys,
prefixes, delimiters and page sizes; both servers are the oracle.

Left out, each because the servers do not agree with S3:
* the order of rclone's and the delimiter of anything but "/" there;
* StartAfter or Marker together with a Delimiter: a group is shown again, or not;
* a ListObjects of moto with a Marker, and its pages: its NextMarker is no key;
* what a listing says besides: tokens, KeyCount of 0, an empty Prefix, checksums, tags of time.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clients import CONFIG, plain
from support.proxy import Proxy

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory

pytestmark = pytest.mark.slow

_numbers = itertools.count()

# Keys that rclone can store too: none is also a directory.
TREES = st.lists(
    st.tuples(st.sampled_from(["", "d/", "d/e/", "d-/", "x/y/z/"]), st.text("ab+é%", min_size=1)),
    min_size=1,
    max_size=8,
    unique=True,
)
PREFIXES = st.sampled_from(["", "d", "d/", "d/e/", "x/y", "a", "zzz", "d-"])


def shown(answer: Any) -> Any:
    """Return what a listing shows."""
    return {
        "keys": [
            (item["Key"], item["Size"], item["ETag"].strip('"'), item["StorageClass"])
            for item in answer.get("Contents", [])
        ],
        "times": [item["LastModified"] for item in answer.get("Contents", [])],
        "owners": [item.get("Owner") for item in answer.get("Contents", [])],
        "prefixes": [item["Prefix"] for item in answer.get("CommonPrefixes", [])],
        "truncated": answer["IsTruncated"],
        "name": answer["Name"],
        "page": answer["MaxKeys"],
    }


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
@pytest.mark.parametrize("server", ["moto", "rclone"], indirect=True)
def test_listings_are_those_of_s3(server: str, proxy: Proxy, data: st.DataObject) -> None:
    client = plain(server)
    library = MimicDB(Memory())
    mimicked = library.client(endpoint_url=proxy.url, config=CONFIG)
    bucket = f"same-{next(_numbers)}-{server.rpartition(':')[2]}"
    client.create_bucket(Bucket=bucket)
    for directory, name in data.draw(TREES):
        client.put_object(Bucket=bucket, Key=directory + name, Body=name.encode())
    mimicked.list_objects(Bucket=bucket)  # it names the owner
    library.sync(bucket, client=mimicked)
    proxy.counted()
    for _ in range(6):
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": data.draw(PREFIXES)}
        if data.draw(st.booleans()):
            asked["Delimiter"] = "/"
        if data.draw(st.booleans()):
            asked["MaxKeys"] = data.draw(st.integers(1, 4))
        for name in ("list_objects_v2", "list_objects"):
            if name == "list_objects" and "MaxKeys" in asked:
                continue
            ours = getattr(mimicked, name)(**asked)
            assert shown(ours) == shown(getattr(client, name)(**asked)), (name, asked)
        assert pages(mimicked, asked) == pages(client, asked)
        after = data.draw(st.sampled_from(["", "a", "d/", "d/b", "z"]))
        flat = {"Bucket": bucket, "Prefix": asked["Prefix"], "StartAfter": after}
        assert shown(mimicked.list_objects_v2(**flat)) == shown(client.list_objects_v2(**flat))
    assert proxy.counted() == {}
    mimicked.close()
    client.close()


def pages(client: Any, asked: Any) -> Any:
    found = client.get_paginator("list_objects_v2").paginate(**asked)
    return [(shown(page)["keys"], shown(page)["prefixes"]) for page in found]


def told(call: Any, **kwargs: Any) -> Any:
    """Return what a call answers, or its error."""
    try:
        answer = call(**kwargs)
    except ClientError as exc:
        return type(exc).__name__, str(exc).replace(" (reached max retries: 0)", "")
    answer.pop("ResponseMetadata")
    return answer


def test_heads_and_their_errors_are_those_of_s3(
    library: MimicDB, mimicked: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    client.put_object(Bucket=bucket, Key="d/a", Body=b"1", Metadata={"x": "é".encode().hex()})
    client.put_object(
        Bucket=bucket, Key="b", Body=b"22", ContentType="text/plain", CacheControl="no-cache"
    )
    library.sync(bucket, client=mimicked)
    asked = [{"Bucket": bucket, "Key": key} for key in ("d/a", "b", "c", "d", "d/", "d/a/b")]
    first = [told(mimicked.head_object, **it) for it in asked]
    proxy.counted()
    again = [told(mimicked.head_object, **it) for it in asked]
    assert proxy.counted() == {}
    assert first == again == [told(client.head_object, **it) for it in asked]


@pytest.mark.parametrize("key", ["a" * 1025, "é" * 513, "d/../b", "d//a", "./b", "/b"])
def test_a_key_that_a_server_may_refuse_or_clean_is_asked_of_s3(
    library: MimicDB, mimicked: Any, client: Any, bucket: str, key: str
) -> None:
    client.put_object(Bucket=bucket, Key="b", Body=b"22")
    library.sync(bucket, client=mimicked)
    asked = {"Bucket": bucket, "Key": key}
    assert told(mimicked.head_object, **asked) == told(client.head_object, **asked)


def test_what_is_missing_altogether_is_s3s_error(mimicked: Any, client: Any, bucket: str) -> None:
    for name in ("list_objects_v2", "list_objects", "head_bucket", "get_object"):
        asked = {"Bucket": f"{bucket}-none"} | ({"Key": "k"} if name == "get_object" else {})
        assert told(getattr(mimicked, name), **asked) == told(getattr(client, name), **asked)


def test_a_bucket_is_there_as_s3_said(
    mimicked: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    first = told(mimicked.head_bucket, Bucket=bucket)
    assert (
        first
        == told(client.head_bucket, Bucket=bucket)
        == told(mimicked.head_bucket, Bucket=bucket)
    )
