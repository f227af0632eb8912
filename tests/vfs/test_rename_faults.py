"""Renames of directories in S3 while others write, S3 refuses, and mounts die: whatever happens
when, each version that was not replaced by somebody else is there in the end, at the old place or
at the new one; and what did end well is at one place."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clients import plain
from support.proxy import Fail, Proxy

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.errors import MimicError, PosixError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.intents import Intents, KeyTree
from mimicfs.vfs.renames import Renames

pytestmark = pytest.mark.slow

NAMES = ["a", "b/c", "d"]
_numbers = itertools.count()


@dataclass
class Schedule:
    """The fault at each request."""

    writes: dict[int, tuple[str, bytes]]  # somebody puts, or deletes (b"")
    refused: set[int]  # by S3
    dies: int  # from this request on, nothing reaches S3


schedules = st.builds(
    Schedule,
    st.dictionaries(
        st.integers(0, 12),
        st.tuples(st.sampled_from([*NAMES, "new"]), st.sampled_from([b"", b"x", b"yy"])),
        max_size=3,
    ),
    st.sets(st.integers(0, 12), max_size=2),
    st.one_of(st.just(99), st.integers(0, 12)),
)


class World:
    """A bucket, and what each key of the old place must still be somewhere."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self.expected: dict[str, bytes] = {}
        client.create_bucket(Bucket=bucket)
        for name in NAMES:
            self.write(name, name.encode())

    def write(self, name: str, body: bytes) -> None:
        key = f"old/{name}"
        if body:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body)
            self.expected[name] = body
        else:
            self.client.delete_object(Bucket=self.bucket, Key=key)
            self.expected.pop(name, None)

    def found(self, prefix: str) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            item["Key"].removeprefix(prefix): self.client.get_object(
                Bucket=self.bucket, Key=item["Key"]
            )["Body"].read()
            for item in listed
        }


def disturb(world: World, schedule: Schedule) -> Fail:
    """A rule that makes happen what is scheduled."""
    numbers = itertools.count()

    def matches(request: Any) -> bool:
        number = next(numbers)
        # Between a listing and the deletion that rests on it, only S3's conditions help, and
        # moto looks at none there.
        if (
            request.kind in ("LIST", "COPY")
            and number in schedule.writes
            and number < schedule.dies
        ):
            world.write(*schedule.writes[number])
        return number in schedule.refused or number >= schedule.dies

    return Fail(matches, 403, "AccessDenied")


def test_nothing_is_lost(moto: str, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    client, proxy = plain(moto), Proxy(moto)
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=1), Mirror(Memory()))

    @settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
    @given(schedule=schedules)
    def check(schedule: Schedule) -> None:
        bucket = f"faults-{os.getpid()}-{next(_numbers)}"
        world = World(client, bucket)
        parts = (s3.mimicdb, s3, Syncer(s3.mimicdb, s3))
        renames = Renames(*parts, Intents(tmp_path / "renames", "account"))
        parts[2].sync(bucket)
        caplog.clear()
        done = False
        with proxy.rule(disturb(world, schedule)):
            try:
                rename = renames.begin(
                    Cancellation(), KeyTree(bucket, "old/"), KeyTree(bucket, "new/")
                )
                try:
                    rename.copy(Cancellation())
                    rename.settle(Cancellation())
                    rename.commit()
                except MimicError:
                    rename.undo()
                    raise
                rename.delete()
                done = True
            except MimicError:
                pass
        renames.recover()  # as the next mount does
        old, new = world.found("old/"), world.found("new/")
        assert (new | old) | world.expected == new | old
        if done:
            assert (old, new) == ({}, world.expected)
        if not any(" left " in message for message in caplog.messages):
            assert {} in (old, new)  # it is at one place, or the log says what is not

    check()
    s3.close()
    proxy.close()
    client.close()


def denied(keys: list[str]) -> tuple[Fail, Fail]:
    """Rules that deny each deletion: of many, key by key in an answer of 200, as AWS does."""
    said = "".join(f"<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>" for key in keys)
    many = Fail(lambda request: request.kind == "POST", 200, "")
    many.body = f"<DeleteResult>{said}</DeleteResult>".encode()
    return many, Fail(lambda request: request.kind == "DELETE", 403, "AccessDenied")


def test_what_s3_does_not_let_be_deleted_is_deleted_once_it_may_be(
    moto: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client, proxy = plain(moto), Proxy(moto)
    world = World(client, bucket := f"denied-{os.getpid()}")
    s3 = S3(S3Options(endpoint_url=proxy.url), Mirror(Memory()))
    parts = (s3.mimicdb, s3, Syncer(s3.mimicdb, s3))
    renames = Renames(*parts, Intents(tmp_path / "renames", "account"))
    parts[2].sync(bucket)
    rename = renames.begin(Cancellation(), KeyTree(bucket, "old/"), KeyTree(bucket, "new/"))
    rename.copy(Cancellation())
    rename.settle(Cancellation())
    rename.commit()
    s3.capabilities.learned("delete-etags", "yes")
    many, single = denied([f"old/{name}" for name in NAMES])
    with proxy.rule(many), proxy.rule(single):
        with pytest.raises(PosixError, match="still at both places"):
            rename.delete()
        renames.recover()  # as the next mount, or rename, does
    assert world.found("old/") == world.found("new/") == {"a": b"a", "b/c": b"b/c", "d": b"d"}
    client.put_object(Bucket=bucket, Key="new/a", Body=b"another's")
    renames.recover()
    assert "the copy of s3://" in caplog.text
    assert world.found("old/") == {"a": b"a"}  # whose copy somebody has replaced
    assert world.found("new/") == {"a": b"another's", "b/c": b"b/c", "d": b"d"}
    s3.close()
    proxy.close()
    client.close()


def test_whether_anything_is_left_is_asked_without_reading_it(
    moto: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = plain(moto)
    World(client, bucket := f"left-{os.getpid()}")
    s3 = S3(S3Options(endpoint_url=moto), Mirror(Memory()))
    parts = (s3.mimicdb, s3, Syncer(s3.mimicdb, s3))
    renames = Renames(*parts, Intents(tmp_path / "renames", "account"))
    parts[2].sync(bucket)
    rename = renames.begin(Cancellation(), KeyTree(bucket, "old/"), KeyTree(bucket, "new/"))
    rename.copy(Cancellation())
    read: list[Any] = []
    scan = s3.mimicdb.scan
    monkeypatch.setattr(s3.mimicdb, "scan", lambda *args: read.append(args) or scan(*args))
    rename.settle(Cancellation())
    assert [where[:2] for where in read] == [(bucket, "old/")]  # what is to be copied
    rename.undo()
    s3.close()
    client.close()


def test_what_was_begun_in_a_bucket_that_is_gone_is_given_up(
    moto: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    s3 = S3(S3Options(endpoint_url=moto), Mirror(Memory()))
    intents = Intents(tmp_path / "renames", "account")
    intents.begin(
        KeyTree("gone-bucket", "old/"), KeyTree("gone-bucket", "new/"), replaces=False
    ).leave()
    Renames(s3.mimicdb, s3, Syncer(s3.mimicdb, s3), intents).recover()
    assert "there is nothing more to do" in caplog.text
    assert intents.left() == []
    s3.close()
