"""Everything that is stored with an object stays (F5, F6): the table of docs/semantics.md, cell by
cell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.proxy import Rule

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
STORED = {
    "ContentType": "text/x-own; charset=latin1",
    "CacheControl": "max-age=1",
    "ContentDisposition": "attachment",
    "ContentEncoding": "x-own",
    "ContentLanguage": "de",
    "Metadata": {"own": "kept"},
    "StorageClass": "STANDARD_IA",
}


def put(client: Any, bucket: str, key: str) -> None:
    client.put_object(
        Bucket=bucket, Key=key, Body=b"old", Tagging="project=x", ACL="public-read", **STORED
    )


def stored(client: Any, bucket: str, key: str) -> dict[str, Any]:
    """What is stored with *key*, as STORED says it."""
    found = client.head_object(Bucket=bucket, Key=key)
    told = {name: found.get(name) for name in STORED}
    told["Metadata"] = {name: found["Metadata"].get(name) for name in STORED["Metadata"]}
    tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    acl = client.get_object_acl(Bucket=bucket, Key=key)["Grants"]
    return told | {
        "tags": tags,
        "public": any(grant["Grantee"].get("URI") == ALL_USERS for grant in acl),
    }


KEPT = STORED | {"tags": [{"Key": "project", "Value": "x"}], "public": True}


def write(path: Path, flags: int, offset: int = 0) -> None:
    fd = os.open(path, flags)
    os.lseek(fd, offset, os.SEEK_SET)
    os.write(fd, b"new")
    os.close(fd)


def copied(path: Path, name: str) -> None:
    subprocess.run(["cp", path, path.parent / name], check=True, timeout=20)


def copied_over(path: Path) -> None:
    (path.parent / "other").write_text("other")
    copied(path.parent / "other", path.name)


def saved_by_rename(path: Path) -> None:
    (path.parent / f".{path.name}.tmp").write_text("saved")
    os.rename(path.parent / f".{path.name}.tmp", path)


def saved_with_backup(path: Path) -> None:
    os.rename(path, f"{path}~")
    path.write_text("saved")


def replaced_with_backup(path: Path) -> None:
    (path.parent / f".{path.name}.tmp").write_text("saved")
    os.rename(path, f"{path}~")
    os.rename(path.parent / f".{path.name}.tmp", path)


def directory_renamed(path: Path) -> None:
    os.rename(path.parent, path.parent.parent / "e")


# What is done to d/a.txt, and where the object is then.
OPERATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "overwrite": (lambda path: write(path, os.O_WRONLY), "d/a.txt"),
    "O_TRUNC": (lambda path: write(path, os.O_WRONLY | os.O_TRUNC), "d/a.txt"),
    "truncate": (lambda path: os.truncate(path, 0), "d/a.txt"),
    "append": (lambda path: write(path, os.O_WRONLY | os.O_APPEND), "d/a.txt"),
    "rename": (lambda path: os.rename(path, path.parent / "b.json"), "d/b.json"),
    "rename of the directory": (directory_renamed, "e/a.txt"),
    "save by rename": (saved_by_rename, "d/a.txt"),
    "save with a backup": (saved_with_backup, "d/a.txt"),
    "save by rename, with a backup": (replaced_with_backup, "d/a.txt"),
    "chmod": (lambda path: os.chmod(path, 0o600), "d/a.txt"),
    "chown": (lambda path: os.chown(path, 7, 8), "d/a.txt"),
    "utime": (lambda path: os.utime(path, (1, 1)), "d/a.txt"),
    "setxattr": (lambda path: os.setxattr(path, "user.a", b"1"), "d/a.txt"),
    "cp over it": (copied_over, "d/a.txt"),
    "cp of it": (lambda path: copied(path, "b.json"), "d/b.json"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_stored_with_an_object_stays(
    mount: Path, client: Any, bucket: str, operation: str
) -> None:
    put(client, bucket, "d/a.txt")
    (mount / ".sync").touch()  # the mirror knows what a listing says, and no more
    do, key = OPERATIONS[operation]
    do(mount / "d/a.txt")
    assert stored(client, bucket, key) == KEPT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.json", "application/json"),
        ("a.gz", "application/gzip"),
        ("a.tar.gz", "application/gzip"),
        ("a.css", "text/css"),
        ("a.webp", "image/webp"),
        ("data:a,b.html", "text/html"),
        ("a", "binary/octet-stream"),
    ],
)
def test_a_file_that_is_saved_by_rename_has_the_type_of_its_last_name(
    mount: Path, client: Any, bucket: str, name: str, expected: str
) -> None:
    (mount / "x.tmp").write_text("new")
    os.rename(mount / "x.tmp", mount / name)
    assert client.head_object(Bucket=bucket, Key=name)["ContentType"] == expected
    os.rename(mount / name, mount / "y.html")
    assert client.head_object(Bucket=bucket, Key="y.html")["ContentType"] == "text/html"


def test_a_type_that_is_no_guess_survives_a_rename(mount: Path, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="a.json", Body=b"{}", ContentType="text/x-own")
    os.rename(mount / "a.json", mount / "a.css")
    assert client.head_object(Bucket=bucket, Key="a.css")["ContentType"] == "text/x-own"


def test_rsync_and_sed_keep_the_types_of_a_web_site(
    mount: Path, client: Any, bucket: str, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<p>old")
    (site / "a.css").write_text("p {}")
    subprocess.run(["rsync", "-a", f"{site}/", f"{mount}/w/"], check=True, timeout=30)
    subprocess.run(["sed", "-i", "s/old/new/", mount / "w/index.html"], check=True, timeout=30)
    types = {
        key: client.head_object(Bucket=bucket, Key=f"w/{key}")["ContentType"]
        for key in ("index.html", "a.css")
    }
    assert types == {"index.html": "text/html", "a.css": "text/css"}


def test_an_overwrite_of_what_this_mount_wrote_asks_nothing(mount: Path, proxy: Any) -> None:
    (mount / "a").write_text("old")
    proxy.counted()
    (mount / "a").write_text("new")
    assert proxy.counted() == {"PUT": 1}


def test_a_key_of_its_own_goes_along_with_each_copy(
    mount: Path, client: Any, bucket: str, proxy: Any
) -> None:
    """S3 would encrypt a copy that names no key as the bucket says. (moto keeps the key.)"""
    own = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    for key in ("d/a", "d/b", "e/c"):
        client.put_object(Bucket=bucket, Key=key, Body=b"1", **own)
    client.put_object(Bucket=bucket, Key="d/plain", Body=b"1")
    (mount / ".sync").touch()
    (mount / "d/a").read_bytes()  # which shows the key
    named: dict[str, str] = {}

    def notes(request: Any) -> bool:
        if request.kind == "COPY":
            told = request.headers.get("x-amz-server-side-encryption-aws-kms-key-id", "")
            named[request.headers["x-amz-copy-source"].partition("/")[2]] = told
        return False

    with proxy.rule(Rule(notes)):
        os.rename(mount / "d/a", mount / "d/z")
        os.rename(mount / "d", mount / "f")
        os.setxattr(mount / "e/c", "user.mimicfs.storage_class", b"STANDARD_IA")
        copied(mount / "e/c", "g")
    assert named == {"d/a": "key-1", "d/z": "key-1", "d/b": "key-1", "d/plain": "", "e/c": "key-1"}


@pytest.mark.parametrize("expires", ["0", "-1", "Sun, 06 Nov 1994 08:49:37 +0000"])
def test_expires_stays_as_it_was_written_though_it_is_no_date(mount, client, bucket, expires):
    def as_it_is(params, **_):
        params["headers"]["Expires"] = expires

    client.meta.events.register("before-call.s3.PutObject", as_it_is)
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    client.meta.events.unregister("before-call.s3.PutObject", as_it_is)
    for change in (
        lambda: (mount / "a").chmod(0o600),
        lambda: write(mount / "a", os.O_WRONLY, 1),
        lambda: (mount / "a").rename(mount / "b"),
        lambda: (mount / "b").rename(mount / "a"),
    ):
        change()
        [key] = os.listdir(mount)
        headers = client.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]
        assert headers["expires"] == expires
