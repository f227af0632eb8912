"""A client whose calls are awaited mimics by the same code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from support.mounts import costs, wait_until
from support.proxy import Hold

import mimicfs
from mimicfs.errors import ConfigError

pytestmark = pytest.mark.slow


@asynccontextmanager
async def mimicking(library: Any, url: str) -> AsyncIterator[Any]:
    config = AioConfig(
        s3={"addressing_style": "path"},
        response_checksum_validation="when_required",  # rclone sends the wrong one
        retries={"total_max_attempts": 1},
    )
    async with get_session().create_client("s3", endpoint_url=url, config=config) as client:
        yield mimicfs.mimic(client, library)


def names(answer: Any) -> list[str]:
    return [item["Key"] for item in answer.get("Contents", [])]


def test_calls_are_answered_by_the_mirror_or_learned(library, mimicked, proxy, client, bucket):
    client.put_object(Bucket=bucket, Key="before", Body=b"x")
    library.sync(bucket, client=mimicked)

    async def program() -> None:
        async with mimicking(library, proxy.url) as s3:
            with costs(proxy):
                assert names(await s3.list_objects_v2(Bucket=bucket)) == ["before"]
            with costs(proxy, PUT=1):
                await s3.put_object(Bucket=bucket, Key="mine", Body=b"123")
            with costs(proxy):
                pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, MaxKeys=1)
                assert [names(page) async for page in pages] == [["before"], ["mine"]]
                with pytest.raises(ClientError, match="404"):
                    await s3.head_object(Bucket=bucket, Key="nothing")
            with costs(proxy, HEAD=1):
                first = await s3.head_object(Bucket=bucket, Key="mine")
            with costs(proxy):
                assert (await s3.head_object(Bucket=bucket, Key="mine"))["ETag"] == first["ETag"]
            client.put_object(Bucket=bucket, Key="others", Body=b"x")
            with costs(proxy, LIST=1):
                found = names(await s3.list_objects_v2(Bucket=bucket, Force=True))
                assert found == ["before", "mine", "others"]
            with costs(proxy, HEAD=1):
                await s3.get_waiter("object_exists").wait(Bucket=bucket, Key="mine")
            answer = await s3.get_object(Bucket=bucket, Key="mine")
            async with answer["Body"] as body:
                assert await body.read() == b"123"

    asyncio.run(program())
    assert [entry.key for entry in library.listing(bucket)] == ["before", "mine", "others"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_task_that_is_cancelled_behind_its_copy_leaves_the_mirror_right(library, proxy, bucket):
    async def program() -> None:
        async with mimicking(library, proxy.url) as s3:
            await s3.put_object(Bucket=bucket, Key="a", Body=b"12345")
            await s3.put_object(Bucket=bucket, Key="k", Body=b"old")
            source = {"Bucket": bucket, "Key": "a"}
            with proxy.rule(Hold(lambda request: request.kind == "HEAD")) as asking:
                copying = asyncio.create_task(
                    s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
                )
                await asyncio.to_thread(asking.reached.wait, 30)  # S3 has copied it
                copying.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await copying
            await asyncio.to_thread(wait_until, lambda: not library.intents.unsettled(bucket, "k"))

    asyncio.run(program())
    assert [entry.size for entry in library.listing(bucket)] == [5, 5]


def test_many_tasks_share_one_client(library, mimicked, proxy, bucket):
    library.sync(bucket, client=mimicked)

    async def program() -> None:
        async with mimicking(library, proxy.url) as s3:

            async def work(number: int) -> None:
                for step in range(5):
                    await s3.put_object(Bucket=bucket, Key=f"{number}/{step}", Body=b"x" * step)
                    found = await s3.list_objects_v2(Bucket=bucket, Prefix=f"{number}/")
                    assert [item["Size"] for item in found["Contents"]] == list(range(step + 1))

            await asyncio.gather(*(work(number) for number in range(8)))

    asyncio.run(program())
    assert len(library.listing(bucket)) == 40


def test_a_sync_needs_a_client_that_blocks(library, proxy, bucket):
    async def program() -> None:
        async with mimicking(library, proxy.url) as s3:
            with pytest.raises(ConfigError, match="use a boto3 client"):
                library.sync(bucket, client=s3)

    asyncio.run(program())
