"""Rules by pattern in the configuration file are applied to what a mount writes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import plain
from support.mounts import mounted, succeed

pytestmark = pytest.mark.slow

BUCKET = "by-rules"
CONFIG = f"""
[[buckets."*".rules]]
keys = "*.css"
cache-control = "max-age=60"
content-type = "text/x-every"
[[buckets.{BUCKET}.rules]]
keys = ["*.css", "raw/**"]
storage-class = "STANDARD_IA"
content-type = "text/x-ours"
tags = {{ team = "web + ä", cost = "1" }}
[[buckets.{BUCKET}.rules]]
keys = "*.txt"
tags = {{ kind = "text" }}
sse = "AES256"
[[buckets.{BUCKET}.rules]]
keys = "archive/**"
storage-class = "GLACIER"
sse = "aws:kms"
kms-key-id = "by-rule"
"""


class Mounted(NamedTuple):
    path: Path
    client: Any
    config: Path

    def stored(self, key: str) -> dict[str, Any]:
        """Return what S3 has with an object."""
        head = self.client.head_object(Bucket=BUCKET, Key=key)
        told = {"ContentType", "CacheControl", "StorageClass", "ServerSideEncryption"}
        tags = self.client.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
        found = {name: head[name] for name in told if name in head}
        return found | {f"tag {each['Key']}": each["Value"] for each in tags}


CSS = {
    "ContentType": "text/x-ours",
    "CacheControl": "max-age=60",
    "StorageClass": "STANDARD_IA",
    "tag team": "web + ä",
    "tag cost": "1",
}


@pytest.fixture(scope="module")
def mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    client = plain(moto)
    client.create_bucket(Bucket=BUCKET)
    base = tmp_path_factory.mktemp("rules")
    config = base / "config.toml"
    config.write_text(CONFIG)
    config.chmod(0o600)
    words = ("--config", str(config), "--part-size", "5M")
    with mounted(base, moto, f"s3://{BUCKET}", *words) as mount:
        yield Mounted(mount.path, client, config)
    client.close()


def test_what_is_written_is_stored_as_the_rules_say(mount):
    (mount.path / "a.css").write_text("x")
    assert mount.stored("a.css") == CSS
    (mount.path / "raw").mkdir()
    (mount.path / "raw/b").write_text("x")
    assert mount.stored("raw/b") == {name: CSS[name] for name in CSS if name != "CacheControl"}
    assert mount.stored("raw/")["ContentType"] == "application/x-directory"
    (mount.path / "c.txt").write_text("x")
    assert mount.stored("c.txt") == {
        "ContentType": "text/plain",
        "ServerSideEncryption": "AES256",
        "tag kind": "text",
    }
    (mount.path / "d.html").write_text("x")
    assert mount.stored("d.html") == {"ContentType": "text/html"}
    with open(mount.path / "large.css", "wb") as file:
        file.writelines(bytes(1 << 20) for _ in range(12))
    assert mount.stored("large.css") == CSS


def test_what_an_object_has_of_its_own_goes_before_the_rules(mount):
    mount.client.put_object(
        Bucket=BUCKET, Key="own.css", ContentType="text/x-own", Tagging="own=1", Body=b"1"
    )
    (mount.path / ".sync").touch()
    (mount.path / "own.css").write_text("written again")
    assert mount.stored("own.css") == {
        **{name: CSS[name] for name in CSS if not name.startswith("tag ")},
        "ContentType": "text/x-own",
        "tag own": "1",
    }
    os.removexattr(mount.path / "own.css", "user.mimicfs.cache_control")
    os.setxattr(mount.path / "own.css", "user.mimicfs.storage_class", b"STANDARD")
    assert mount.stored("own.css") == {"ContentType": "text/x-own", "tag own": "1"}


def test_a_file_that_is_renamed_is_stored_as_its_new_name_says(mount):
    for temporary in (".new.css.Xy12", "new.txt"):  # as rsync and editors write
        (mount.path / temporary).write_text("x")
        os.rename(mount.path / temporary, mount.path / "new.css")
        found = mount.stored("new.css")
        found.pop("ServerSideEncryption", None)
        assert found == CSS
        os.rename(mount.path / "new.css", mount.path / "old.html")
        found = mount.stored("old.html")
        found.pop("ServerSideEncryption", None)
        assert found == {"ContentType": "text/html", "StorageClass": "STANDARD_IA"}
        subprocess.run(["cp", "old.html", "copy.css"], cwd=mount.path, check=True, timeout=30)
        found = mount.stored("copy.css")
        found.pop("ServerSideEncryption", None)
        assert found == CSS


def test_what_an_object_is_copied_with_is_its_own_class_and_encryption(mount):
    """A copy into GLACIER could not be read."""
    for name in ("chmod", "xattr", "renamed", "copied", "d/below"):
        mount.client.put_object(
            Bucket=BUCKET, Key=f"archive/{name}", Body=b"1", ContentType="text/x-own"
        )
    (mount.path / "archive").mkdir(exist_ok=True)
    (mount.path / "archive/.sync").touch()
    below = mount.path / "archive"
    os.chmod(below / "chmod", 0o600)
    os.setxattr(below / "xattr", "user.mimicfs.cache_control", b"no-cache")
    os.rename(below / "renamed", below / "renamed2")
    subprocess.run(["cp", "copied", "copied2"], cwd=below, check=True, timeout=30)
    os.rename(below / "d", below / "e")
    own = {"ContentType": "text/x-own"}
    for name in ("chmod", "renamed2", "copied2", "e/below"):
        found = mount.stored(f"archive/{name}")
        assert (name, found.pop("ServerSideEncryption", "AES256")) == (name, "AES256")
        assert (name, found, (below / name).read_text()) == (name, own, "1")
    assert mount.stored("archive/xattr").get("StorageClass") is None
    (below / "new").write_text("1")
    new = mount.client.head_object(Bucket=BUCKET, Key="archive/new")
    assert (new["StorageClass"], new["SSEKMSKeyId"]) == ("GLACIER", "by-rule")


def test_explain_says_the_same_and_where_it_is_said(mount):
    said = succeed("config", "explain", "--config", mount.config, f"s3://{BUCKET}/d/a.css")
    every, ours = (
        f'{mount.config} [buckets.*] rule 1: keys = "*.css"',
        (f'{mount.config} [buckets.{BUCKET}] rule 1: keys = "*.css", "raw/**"'),
    )
    assert [" ".join(line.split()) for line in said.splitlines()] == [
        f'content-type = "text/x-ours" # {ours}',
        f'# before content-type = "text/x-every" # {every}',
        '# before content-type = "text/css" # guessed from the name',
        f'cache-control = "max-age=60" # {every}',
        f'storage-class = "STANDARD_IA" # {ours}',
        f'tags = {{ "team" = "web + ä", "cost" = "1" }} # {ours}',
    ]
