"""Names, sizes and times come from the mirror: counted at S3."""

import os
import subprocess
from datetime import datetime

import pytest
from support.mounts import costs

pytestmark = pytest.mark.slow


@pytest.fixture
def tree(client, bucket):
    """Three directories with some files, put there by somebody else."""
    keys = ["a.txt", "d/b.txt", "d/e/c.txt", "d/e/f.txt", "g/h.txt"]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return keys


def names(path):
    return sorted(os.listdir(path))


def found(path):
    lines = subprocess.run(
        ["find", ".", "-type", "f"], cwd=path, capture_output=True, text=True, check=True
    ).stdout
    return sorted(line.removeprefix("./") for line in lines.splitlines())


def test_the_first_look_at_a_directory_is_one_list_and_then_nothing(tree, mount, proxy):
    with costs(proxy, LIST=1):
        assert names(mount) == ["a.txt", "d", "g"]
    with costs(proxy, HEAD=3):  # whether mode, owner and times are stored with these three
        assert os.stat(mount / "a.txt").st_size == 5
    with costs(proxy):
        with pytest.raises(FileNotFoundError):
            os.stat(mount / "missing")
    with costs(proxy, LIST=1):
        assert names(mount / "d") == ["b.txt", "e"]
    with costs(proxy):
        assert names(mount) == ["a.txt", "d", "g"]
        assert names(mount / "d") == ["b.txt", "e"]


def test_after_a_sync_nothing_is_asked_also_for_missing_names(tree, mount, proxy):
    with costs(proxy, LIST=1):
        (mount / ".sync").touch()
    with costs(proxy, HEAD=len(tree)):  # whether anything is stored with them: up to 4 a directory
        assert found(mount) == tree
    with costs(proxy):
        assert found(mount) == tree
        subprocess.run(["ls", "-lR", mount], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["du", "-s", mount], check=True, stdout=subprocess.DEVNULL)
        for name in ("missing", "d/missing", "d/e/missing"):
            assert not (mount / name).exists()
        assert os.statvfs(mount).f_files > 0


def test_after_a_remount_nothing_is_asked(tree, mount_at, bucket, proxy):
    first = mount_at(f"s3://{bucket}")
    (first.path / ".sync").touch()
    assert found(first.path) == tree
    assert first.end() == 0
    second = mount_at(f"s3://{bucket}")
    with costs(proxy):
        assert found(second.path) == tree
        assert not (second.path / "missing").exists()
        assert (second.path / "d/e/c.txt").stat().st_size == 9


def test_what_was_listed_without_a_sync_is_there_after_a_remount(tree, mount_at, bucket, proxy):
    first = mount_at(f"s3://{bucket}")
    names(first.path / "d")  # which looks at what is beside "d", too
    first.end()
    second = mount_at(f"s3://{bucket}")
    with costs(proxy):
        assert names(second.path / "d") == ["b.txt", "e"]


def test_all_buckets_are_directories(tree, mount_at, bucket, client, proxy):
    mount = mount_at()
    with costs(proxy):
        assert bucket in names(mount.path)
        assert not (mount.path / "no-such-bucket").exists()
    with costs(proxy, LIST=1):
        assert names(mount.path / bucket) == ["a.txt", "d", "g"]


def test_a_prefix_can_be_mounted(tree, mount_at, bucket, proxy):
    mount = mount_at(f"s3://{bucket}/d")
    with costs(proxy, LIST=1):
        assert names(mount.path) == ["b.txt", "e"]
    assert (mount.path / "b.txt").read_text() == "d/b.txt"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_large_directory_is_listed_whole(client, bucket, mount, proxy):
    keys = [f"many/{n:05}" for n in range(2100)]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    assert [f"many/{name}" for name in names(mount / "many")] == keys
    with costs(proxy, HEAD=4):
        entries = list(os.scandir(mount / "many"))
        assert len(entries) == 2100
        assert all(entry.stat().st_size == 0 for entry in entries)


def test_statfs_tells_the_totals_of_the_mirror(tree, mount):
    (mount / ".sync").touch()
    usage = os.statvfs(mount)
    assert usage.f_files - usage.f_ffree == 5
    assert (usage.f_blocks - usage.f_bfree) * usage.f_frsize >= sum(map(len, tree))


def test_attributes_can_be_read_as_xattrs(tree, mount, bucket, client):
    path = mount / "d/b.txt"
    head = client.head_object(Bucket=bucket, Key="d/b.txt")

    def attribute(name):
        return os.getxattr(path, f"user.mimicfs.{name}").decode()

    assert attribute("bucket") == bucket
    assert attribute("key") == "d/b.txt"
    assert attribute("etag") == head["ETag"].strip('"')
    assert attribute("size") == "7"
    assert attribute("storage_class") == "STANDARD"
    modified = datetime.fromisoformat(attribute("last_modified"))
    assert abs((modified - head["LastModified"]).total_seconds()) <= 1  # rclone rounds one of both
    assert attribute("synced").startswith("20")
    assert os.getxattr(mount / "d", "user.mimicfs.key") == b"d/"
    assert os.listxattr(path) == []
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.mimicfs.nothing")


def test_what_is_below_a_directory_is_told_by_xattrs(tree, mount, proxy):
    def below(path):
        return tuple(int(os.getxattr(path, f"user.mimicfs.{name}")) for name in ("files", "bytes"))

    os.listdir(mount)
    with pytest.raises(OSError, match="No data"):  # not all of it is known
        below(mount)
    (mount / ".sync").touch()
    with costs(proxy):
        assert below(mount) == (len(tree), sum(map(len, tree)))
        assert below(mount / "d")[0] == sum(key.startswith("d/") for key in tree)
    (mount / "d/more").write_bytes(b"1234567890")
    assert below(mount)[0] == len(tree) + 1
