"""The configuration of a bucket takes effect: in requests, and in what is shown."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mounts import run, succeed, wait_until
from support.proxy import Proxy, Request, Rule

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

NAMES = ("class", "secret", "payer", "fixed", "part", "huge", "bare")
CONFIG = """
[buckets.class-N]
storage-class = "STANDARD_IA"
acl = "bucket-owner-full-control"
[buckets.secret-N]
sse = "aws:kms"
kms-key-id = "key-1"
[buckets.payer-N]
requester-pays = true
[buckets.fixed-N]
read-only = true
[buckets.part-N]
prefix = "2024/may"
[buckets.huge-N]
never-sync = true
[buckets.bare-N]
metadata = false
"""


class All:
    """A mount of all buckets; what the proxy saw."""

    def __init__(self, path: Path, client: Any, config: Path, number: str) -> None:
        self.path = path
        self.client = client
        self.config = config
        self.number = number
        self.seen: list[Request] = []

    def bucket(self, name: str) -> str:
        return f"{name}-{self.number}"

    def directory(self, name: str) -> Path:
        return self.path / self.bucket(name)

    def head(self, name: str, key: str) -> Any:
        return self.client.head_object(Bucket=self.bucket(name), Key=key)

    def took(self, name: str, header: str) -> dict[str, set[str | None]]:
        """Return what *header* was, by the kind of the request, for the bucket *name*."""
        found: dict[str, set[str | None]] = {}
        for request in self.seen:
            if request.bucket == self.bucket(name):
                found.setdefault(request.kind, set()).add(request.headers.get(header))
        return found


@pytest.fixture
def all_buckets(
    mount_at: Any, client: Any, proxy: Proxy, bucket: str, tmp_path: Path
) -> Iterator[All]:
    number = bucket.removeprefix("bucket-")
    for name in NAMES:
        client.create_bucket(Bucket=f"{name}-{number}")
    client.put_object(Bucket=f"fixed-{number}", Key="a", Body=b"old", Metadata={"mode": "33152"})
    client.put_object(Bucket=f"bare-{number}", Key="a", Body=b"old", Metadata={"mode": "33152"})
    client.put_object(Bucket=f"part-{number}", Key="2024/may/d/x", Body=b"x")
    client.put_object(Bucket=f"part-{number}", Key="2024/june", Body=b"no")
    client.put_object(Bucket=f"huge-{number}", Key="d/a", Body=b"x")
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.replace("-N]", f"-{number}]"))
    config.chmod(0o600)
    found = All(mount_at("--config", str(config)).path, client, config, number)
    with proxy.rule(Rule(lambda request: bool(found.seen.append(request)))):
        yield found


def raises(code: int, do: Any, *arguments: Any) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {code}\]"):
        do(*arguments)


def test_the_sections_of_buckets(all_buckets: All, common: list[Any]) -> None:
    it = all_buckets
    # Storage class and ACL, of a small object, one in parts, a marker, and a copy.
    here = it.directory("class")
    (here / "small").write_text("x")
    (here / "large").write_bytes(bytes(40 << 20))
    (here / "d").mkdir()
    os.rename(here / "small", here / "d/moved")
    for key in ("large", "d/", "d/moved"):
        assert it.head("class", key)["StorageClass"] == "STANDARD_IA"
    assert os.getxattr(here / "d/moved", "user.mimicfs.storage_class") == b"STANDARD_IA"
    assert it.took("class", "x-amz-acl")["COPY"] == {"bucket-owner-full-control"}
    assert "bucket-owner-full-control" in it.took("class", "x-amz-acl")["POST"]
    # Encryption.
    (it.directory("secret") / "a").write_text("x")
    assert it.head("secret", "a")["ServerSideEncryption"] == "aws:kms"
    assert it.head("secret", "a")["SSEKMSKeyId"] == "key-1"
    # Who pays: in each request that knows of it.
    here = it.directory("payer")
    (here / "a").write_text("x")
    (here / "a").chmod(0o600)
    (here / "b").write_text("y")
    assert os.listdir(here) == ["a", "b"]
    (here / ".sync").touch()
    (here / "a").unlink()
    header = it.took("payer", "x-amz-request-payer")
    for kind in ("PUT", "HEAD", "COPY", "LIST", "DELETE"):
        assert header[kind] == {"requester"}
    assert "requester" not in str(it.took("class", "x-amz-request-payer"))


def test_a_bucket_that_is_read_only(all_buckets: All) -> None:
    here = all_buckets.directory("fixed")
    assert (here / "a").read_text() == "old"
    all_buckets.seen.clear()
    raises(errno.EROFS, (here / "a").write_text, "new")
    raises(errno.EROFS, (here / "b").write_text, "new")
    raises(errno.EROFS, (here / "d").mkdir)
    raises(errno.EROFS, (here / "a").unlink)
    raises(errno.EROFS, (here / "a").rename, here / "c")
    raises(errno.EROFS, (here / "a").rename, all_buckets.directory("bare") / "c")
    raises(errno.EROFS, (here / "a").chmod, 0o600)
    raises(errno.EROFS, os.symlink, "a", here / "l")
    assert (here / "a").read_text() == "old"
    assert {request.kind for request in all_buckets.seen} <= {"LIST", "GET", "HEAD"}
    assert os.listdir(all_buckets.directory("bare")) == ["a"]


def test_a_part_of_a_bucket_is_all_that_is_shown(all_buckets: All, mount_at: Any) -> None:
    it, here = all_buckets, all_buckets.directory("part")
    assert os.listdir(here) == ["d"]
    assert (here / "d/x").read_text() == "x"
    (here / "new").write_text("n")
    assert it.head("part", "2024/may/new")["ContentLength"] == 1
    it.client.put_object(Bucket=it.bucket("part"), Key="2024/may/e/y", Body=b"yy")
    it.client.put_object(Bucket=it.bucket("part"), Key="2024/may/new", Body=b"longer")
    it.client.put_object(Bucket=it.bucket("part"), Key="other", Body=b"n")
    (here / ".sync").touch()
    assert sorted(os.listdir(here)) == ["d", "e", "new"]
    assert (here / "new").read_text() == "longer"
    assert os.getxattr(here / "e/y", "user.mimicfs.key") == b"2024/may/e/y"
    alone = mount_at("--config", str(it.config), f"s3://{it.bucket('part')}", name="alone").path
    assert sorted(os.listdir(alone)) == ["d", "e", "new"]


def test_a_bucket_that_is_never_listed_as_a_whole(all_buckets: All, common: list[Any]) -> None:
    it, here = all_buckets, all_buckets.directory("huge")
    assert os.listdir(here / "d") == ["a"]
    all_buckets.seen.clear()
    (it.path / ".sync").touch()  # of everything
    assert "LIST" not in it.took("huge", "host")
    raises(errno.EINVAL, os.utime, here / ".sync")
    (here / "d/.sync").touch()
    words = ["sync", *common, "--config", it.config]
    result = run(*words, f"s3://{it.bucket('huge')}")
    assert result.returncode == 2
    assert result.stderr == (
        f"mimicfs: s3://{it.bucket('huge')}: never-sync is set for it;"
        " sync a prefix, or change the setting\n"
    )
    assert ": 1 key," in succeed(*words, f"s3://{it.bucket('huge')}/d")
    reports = [json.loads(line) for line in succeed(*words, "--json").splitlines()]
    assert it.bucket("huge") not in {report["bucket"] for report in reports}
    assert (it.bucket("part"), "2024/may/") in {
        (each["bucket"], each["prefix"]) for each in reports
    }


def test_a_bucket_without_metadata(all_buckets: All) -> None:
    it, here = all_buckets, all_buckets.directory("bare")
    assert (here / "a").stat().st_mode == 0o100644  # the object says 0600
    os.listdir(here)
    all_buckets.seen.clear()
    (here / "a").chmod(0o600)
    os.utime(here / "a", (1, 1))
    assert it.seen == []
    (here / "new").write_text("x")
    (here / "d").mkdir()
    assert it.head("bare", "new")["Metadata"] == it.head("bare", "d/")["Metadata"] == {}
    raises(errno.EOPNOTSUPP, os.symlink, "a", here / "l")
    raises(errno.EOPNOTSUPP, os.setxattr, here / "a", "user.x", b"1")


@pytest.fixture
def common(proxy: Proxy, store: str) -> list[Any]:
    return ["--endpoint-url", proxy.url, "--store", store]


def test_flags_hold_for_every_bucket(mount_at: Any, client: Any, bucket: str) -> None:
    words = ("--storage-class", "GLACIER_IR", "-o", "sse=AES256", "--no-metadata")
    path = mount_at(f"s3://{bucket}", *words).path
    (path / "a").write_text("x")
    head = client.head_object(Bucket=bucket, Key="a")
    assert (head["StorageClass"], head["ServerSideEncryption"], head["Metadata"]) == (
        "GLACIER_IR", "AES256", {}
    )  # fmt: skip


def test_one_bucket_is_looked_at_again_and_the_other_is_believed(
    mount_at: Any, client: Any, bucket: str, tmp_path: Path
) -> None:
    client.create_bucket(Bucket=f"old-{bucket}")
    config = tmp_path / "config.toml"
    config.write_text(f"[buckets.{bucket}]\nttl = 0.2\n")
    config.chmod(0o600)
    path = mount_at("--config", str(config)).path
    fresh, old = path / bucket, path / f"old-{bucket}"
    assert os.listdir(fresh) == os.listdir(old) == []
    for name in (bucket, f"old-{bucket}"):
        client.put_object(Bucket=name, Key="new", Body=b"")
    wait_until(lambda: os.listdir(fresh) == ["new"])
    assert os.listdir(old) == []
