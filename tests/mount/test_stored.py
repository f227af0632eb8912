"""The metadata that a mount stores with objects: modes, owners, times, links, pipes, devices,
extended attributes; in which form, what a change of them keeps, and what is not believed."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.mounts import costs
from support.proxy import Proxy

# rclone serve s3 keeps neither tags nor storage classes, and merges metadata in copies.
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def synced(mount: Path) -> Path:
    (mount / ".sync").touch()
    return mount


def refused(call: Any, *arguments: Any) -> int | None:
    try:
        call(*arguments)
    except OSError as exc:
        return exc.errno
    return None


def test_a_link_is_stored_as_s3fs_does_and_costs_one_put(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    (synced / "first").symlink_to("x")  # tries whether the server looks at conditions
    with costs(proxy, PUT=1):
        (synced / "link").symlink_to("photos/cat.jpg")
    found = client.get_object(Bucket=bucket, Key="link")
    assert found["Body"].read() == b"photos/cat.jpg"
    assert (found["Metadata"]["mode"], found["ContentType"]) == (
        "41471",
        "application/octet-stream",
    )
    with costs(proxy):
        assert os.readlink(synced / "link") == "photos/cat.jpg"


def test_a_link_of_somebody_else_is_read_once(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    client.put_object(Bucket=bucket, Key="link", Body=b"target", Metadata={"mode": "41471"})
    (synced / ".sync").touch()
    assert stat.S_ISLNK(os.lstat(synced / "link").st_mode)
    with costs(proxy, GET=1):
        assert [os.readlink(synced / "link") for _ in range(3)] == ["target"] * 3


def test_what_is_special_is_still_so_after_a_remount(
    mount_at: Any, bucket: str, client: Any, proxy: Proxy
) -> None:
    names = {
        "user.": "MQ==",
        "user." + "n" * 251: "MQ==",
        "user.\ud800": "",
        "user.b": "MQ==",
    }  # one that Linux takes
    xattr = {"xattr": quote(json.dumps(names))}
    client.put_object(Bucket=bucket, Key="named", Body=b"", Metadata=xattr)
    first = mount_at(f"s3://{bucket}")
    (first.path / ".sync").touch()
    os.stat(first.path / "named")
    (first.path / "link").symlink_to("target")
    os.mkfifo(first.path / "pipe", 0o640)
    os.mkdir(first.path / "d")
    os.chmod(first.path / "d", 0o1750)
    os.setxattr(first.path / "d", "user.a", b"1")
    os.utime(first.path / "d", ns=(0, -1_500_000_000))
    first.close()
    again = mount_at(f"s3://{bucket}").path
    with costs(proxy):
        assert stat.filemode(os.lstat(again / "link").st_mode) == "lrwxrwxrwx"
        assert stat.filemode((again / "pipe").stat().st_mode) == "prw-r-----"
        assert stat.filemode((again / "d").stat().st_mode) == "drwxr-x--T"
        assert os.getxattr(again / "d", "user.a") == b"1"
        assert (again / "d").stat().st_mtime_ns == -1_500_000_000  # before 1970
        assert os.listxattr(again / "named") == ["user.b"]


def test_what_the_mirror_does_not_know_is_not_replaced(
    synced: Path, client: Any, bucket: str
) -> None:
    for key in ("a", "b", "c/", "e"):
        client.put_object(Bucket=bucket, Key=key, Body=b"somebody's")
    (synced / "d").write_text("text")
    assert refused(os.symlink, "x", synced / "a") == errno.EEXIST
    assert refused(os.mkfifo, synced / "b") == errno.EEXIST
    assert refused(os.mkdir, synced / "c") == errno.EEXIST
    assert subprocess.run(["cp", "d", "e"], cwd=synced, stderr=-3, check=False).returncode == 1
    for key in ("a", "b", "c/", "e"):
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"somebody's"


def test_a_change_of_metadata_keeps_all_the_rest(synced: Path, client: Any, bucket: str) -> None:
    client.put_object(
        Bucket=bucket,
        Key="a",
        Body=b"text",
        ContentType="text/x-own",
        CacheControl="max-age=1",
        ContentLanguage="de",
        StorageClass="STANDARD_IA",
        Tagging="project=x",
        Metadata={"own": "kept"},
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId="alias/mine",
    )
    (synced / ".sync").touch()
    os.chmod(synced / "a", 0o600)
    os.setxattr(synced / "a", "user.colour", b"red")
    found = client.get_object(Bucket=bucket, Key="a")
    assert found["Body"].read() == b"text"
    assert (found["ContentType"], found["CacheControl"], found["ContentLanguage"]) == (
        "text/x-own",
        "max-age=1",
        "de",
    )
    assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", "aws:kms")
    assert found["SSEKMSKeyId"] == "alias/mine"
    assert (found["Metadata"]["own"], found["Metadata"]["mode"]) == ("kept", "33152")
    assert found["Metadata"]["xattr"] == "%7B%22user.colour%22%3A%22cmVk%22%7D"
    tags = client.get_object_tagging(Bucket=bucket, Key="a")["TagSet"]
    assert tags == [{"Key": "project", "Value": "x"}]


def test_what_is_set_while_a_file_is_written_is_one_put(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with costs(proxy, PUT=1), open(synced / "a", "wb", buffering=0) as file:
        file.write(b"text")
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), 7, 8)
        os.setxattr(file.fileno(), "user.a", b"1")
        os.utime(file.fileno(), ns=(1, 2_000_000_003))
    found = client.head_object(Bucket=bucket, Key="a")["Metadata"]
    assert found["mode"] == "33152"
    assert (found["uid"], found["gid"], found["mtime"]) == ("7", "8", "2.000000003")


def test_more_metadata_than_s3_takes_is_enospc_and_changes_nothing(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    (synced / "a").write_text("text")
    before = client.head_object(Bucket=bucket, Key="a")["Metadata"]
    assert refused(os.setxattr, synced / "a", "user.a", bytes(2000)) == errno.ENOSPC
    assert client.head_object(Bucket=bucket, Key="a")["Metadata"] == before
    with open(synced / "b", "wb") as file:
        assert refused(os.setxattr, file.fileno(), "user.a", bytes(2000)) == errno.ENOSPC
    assert (synced / "b").read_bytes() == b""


def test_setuid_and_devices_of_a_bucket_are_not_believed(
    synced: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="a", Metadata={"mode": str(0o106755)})
    client.put_object(Bucket=bucket, Key="b", Metadata={"mode": str(0o020666), "rdev": "259"})
    (synced / ".sync").touch()
    for name in "ab":
        os.setxattr(synced / name, "user.mimicfs.sync", b"1")
    assert stat.filemode((synced / "a").stat().st_mode) == "-rwxr-xr-x"
    found = (synced / "b").stat()
    assert (stat.filemode(found.st_mode), found.st_rdev) == ("-rw-rw-rw-", 0)
    assert refused(os.mknod, synced / "null", 0o020666, os.makedev(1, 3)) == errno.EPERM


def test_root_may_have_setuid_and_devices(mount_at: Any, bucket: str) -> None:
    path = mount_at(f"s3://{bucket}", "-o", "suid,dev").path
    (path / ".sync").touch()
    os.mknod(path / "null", 0o020666, os.makedev(1, 3))
    assert (path / "null").read_bytes() == b""
    assert (path / "null").stat().st_rdev == os.makedev(1, 3)
    (path / "a").touch()
    os.chmod(path / "a", 0o4755)
    assert stat.filemode((path / "a").stat().st_mode) == "-rwsr-xr-x"


def test_a_file_that_becomes_a_link_and_a_link_that_becomes_a_file(
    synced: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"target")
    (synced / ".sync").touch()
    assert stat.S_ISREG(os.lstat(synced / "a").st_mode)
    client.put_object(Bucket=bucket, Key="a", Body=b"target", Metadata={"mode": "41471"})
    os.setxattr(synced / "a", "user.mimicfs.sync", b"1", follow_symlinks=False)
    assert stat.S_ISLNK(os.lstat(synced / "a").st_mode)
    client.put_object(Bucket=bucket, Key="a", Body=b"a file again")
    (synced / ".sync").touch()
    assert (synced / "a").read_text() == "a file again"


def test_links_can_be_switched_off(mount_at: Any, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"/etc/passwd", Metadata={"mode": "41471"})
    path = mount_at(f"s3://{bucket}", "-o", "nosymlinks").path
    (path / ".sync").touch()
    os.setxattr(path / "a", "user.mimicfs.sync", b"1", follow_symlinks=False)
    assert stat.S_ISREG(os.lstat(path / "a").st_mode)
    assert (path / "a").read_bytes() == b"/etc/passwd"
    assert refused(os.symlink, "x", path / "b") == errno.EPERM


def test_extended_attributes_of_other_classes_are_not_believed(
    synced: Path, client: Any, bucket: str
) -> None:
    hostile = (
        "%7B%22security.capability%22%3A%22AQ%3D%3D%22%2C%22user.mimicfs.key%22%3A%22AQ%3D%3D%22%7D"
    )
    client.put_object(Bucket=bucket, Key="a", Metadata={"xattr": hostile})
    (synced / ".sync").touch()
    os.setxattr(synced / "a", "user.mimicfs.sync", b"1")
    assert os.listxattr(synced / "a") == []
    assert os.getxattr(synced / "a", "user.mimicfs.key") == b"a"
    assert refused(os.getxattr, synced / "a", "security.capability") == errno.EOPNOTSUPP
    assert refused(os.setxattr, synced / "a", "trusted.a", b"1") == errno.EOPNOTSUPP


def test_attributes_that_make_no_sense_are_not_replaced(
    synced: Path, client: Any, bucket: str
) -> None:
    odd = {"deep": "[" * 1500, "foreign": "yes", "cut": "%7B%22user.a%22%3A%22cmVk"}
    for key, text in odd.items():
        client.put_object(Bucket=bucket, Key=key, Body=b"", Metadata={"xattr": text})
    (synced / ".sync").touch()
    for key, text in odd.items():
        assert os.listxattr(synced / key) == []
        assert refused(os.getxattr, synced / key, "user.a") == errno.ENODATA
        assert refused(os.removexattr, synced / key, "user.a") == errno.ENODATA
        assert refused(os.setxattr, synced / key, "user.b", b"1") == errno.EIO
        os.chmod(synced / key, 0o600)
        os.rename(synced / key, synced / "new")
        (synced / "new").write_bytes(b"text")
        assert client.head_object(Bucket=bucket, Key="new")["Metadata"]["xattr"] == text


def test_names_that_are_not_utf8_are_files_like_others(
    synced: Path, client: Any, bucket: str, mount_at: Any
) -> None:
    root = os.fsencode(synced)
    with open(root + b"/caf\xe9", "wb") as file:
        file.write(b"text")
    os.mkdir(root + b"/\xff\xfe")
    with open(root + b"/\xff\xfe/%\x80%", "wb"):
        pass
    assert sorted(os.listdir(root)) == [b"caf\xe9", b"\xff\xfe"]
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["%FF%FE%raw/", "%FF%FE%raw/%25%80%25%raw", "caf%E9%raw"]
    (synced / ".sync").touch()
    with open(root + b"/caf\xe9", "rb") as file:
        assert file.read() == b"text"
    os.rename(root + b"/\xff\xfe", root + b"/\xfd")
    assert os.listdir(root + b"/\xfd") == [b"%\x80%"]
    assert refused(os.stat, root + b"/caf%E9%raw") == errno.ENOENT


@pytest.mark.parametrize("length", [256, 1019, 1023])
def test_a_component_may_be_as_long_as_the_key_of_a_directory(
    synced: Path, client: Any, bucket: str, length: int
) -> None:
    (synced / ("k" * length)).write_text("text")
    assert client.get_object(Bucket=bucket, Key="k" * length)["Body"].read() == b"text"
    (synced / ".sync").touch()
    assert os.listdir(synced) == ["k" * length]


def test_a_path_that_no_key_can_hold_is_enametoolong(synced: Path) -> None:
    assert refused(os.mkdir, synced / ("k" * 1025)) == errno.ENAMETOOLONG
    directory = synced / ("d" * 600)
    directory.mkdir()
    assert refused(os.mkdir, directory / ("e" * 600)) == errno.ENAMETOOLONG
    (synced / "a").touch()
    assert refused(os.rename, synced / "a", directory / ("e" * 600)) == errno.ENAMETOOLONG


def test_an_archived_object_tells_its_state(synced: Path, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"cold", StorageClass="GLACIER")
    client.put_object(Bucket=bucket, Key="b", Body=b"warm")
    (synced / ".sync").touch()
    assert os.getxattr(synced / "a", "user.mimicfs.restore") == b"archived"
    assert os.getxattr(synced / "b", "user.mimicfs.restore") == b"not archived"
    assert refused((synced / "a").read_bytes) == errno.EACCES


def test_cp_a_keeps_what_it_copies(synced: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir(0o750)
    (source / "a").write_text("text")
    os.chmod(source / "a", 0o640)
    os.utime(source / "a", ns=(1_500_000_000_000_000_001, 1_600_000_000_123_456_789))
    os.symlink("a", source / "l")
    os.mkfifo(source / "p", 0o600)
    os.setxattr(source / "a", "user.note", b"kept")
    subprocess.run(["cp", "-a", source, synced / "there"], check=True, timeout=60)
    subprocess.run(["cp", "-a", synced / "there", tmp_path / "back"], check=True, timeout=60)
    for name in ("", "a", "l", "p"):
        want, found = os.lstat(source / name), os.lstat(tmp_path / "back" / name)
        assert (found.st_mode, found.st_mtime_ns) == (want.st_mode, want.st_mtime_ns), name
    assert os.readlink(tmp_path / "back/l") == "a"
    assert os.getxattr(tmp_path / "back/a", "user.note") == b"kept"
