"""Files and directories through the mount: what S3 has, and what it was asked."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.mounts import costs
from support.proxy import Fail

pytestmark = pytest.mark.slow

MIB = 1 << 20


# rclone serve s3 stores the marker object "d/" as a file "d", and takes seconds to delete the
# last file of a directory: these are tested over moto alone.
moto_only = pytest.mark.parametrize("server", ["moto"], indirect=True)


def body(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def meta(client, bucket, key):
    found = client.head_object(Bucket=bucket, Key=key)["Metadata"]
    return {name.lower(): value for name, value in found.items()}


def keys(client, bucket):
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return [item["Key"] for item in found]


def names(path):
    return sorted(os.listdir(path))


@pytest.fixture
def synced(mount):
    (mount / ".sync").touch()
    return mount


def test_a_new_file_is_one_put_and_in_s3_when_it_is_closed(synced, client, bucket, proxy):
    with costs(proxy, PUT=1):
        (synced / "a.txt").write_text("hello")
    head = client.head_object(Bucket=bucket, Key="a.txt")
    assert body(client, bucket, "a.txt") == b"hello"
    assert head["ContentType"] == "text/plain"
    assert meta(client, bucket, "a.txt")["mode"] == "33188"
    with costs(proxy):
        assert (synced / "a.txt").stat().st_size == 5
        assert names(synced) == ["a.txt"]


def test_a_shells_redirection_is_one_put(synced, client, bucket, proxy):
    with costs(proxy, PUT=1):
        subprocess.run(["bash", "-c", "echo hello > a"], cwd=synced, check=True)
    with costs(proxy, PUT=1):
        subprocess.run(["bash", "-c", "echo again > a"], cwd=synced, check=True)
    assert body(client, bucket, "a") == b"again\n"


def test_an_empty_file_exists_when_it_is_closed(synced, client, bucket):
    os.close(os.open(synced / "a", os.O_CREAT | os.O_RDONLY))
    assert body(client, bucket, "a") == b""


def test_fsync_uploads_and_the_file_goes_on(synced, client, bucket):
    with open(synced / "a", "wb", buffering=0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        assert body(client, bucket, "a") == b"one"
        file.write(b"two")
    assert body(client, bucket, "a") == b"onetwo"


def test_append_overwrite_in_the_middle_and_truncate(synced, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"0123456789", Metadata={"own": "kept"})
    (synced / ".sync").touch()
    with open(synced / "a", "ab") as file:
        file.write(b"ABC")
    assert body(client, bucket, "a") == b"0123456789ABC"
    with open(synced / "a", "r+b") as file:
        file.seek(3)
        file.write(b"xyz")
    assert body(client, bucket, "a") == b"012xyz6789ABC"
    os.truncate(synced / "a", 4)
    assert body(client, bucket, "a") == b"012x"
    os.truncate(synced / "a", 6)
    assert body(client, bucket, "a") == b"012x\0\0"
    assert meta(client, bucket, "a")["own"] == "kept"
    assert (synced / "a").read_bytes() == b"012x\0\0"


def test_a_large_file_goes_in_parts_and_comes_back(synced, client, bucket, proxy, tmp_path):
    data = os.urandom(MIB) * 40
    with costs(proxy, POST=2, PUT=3, HEAD=1):
        (synced / "big").write_bytes(data)
    assert client.head_object(Bucket=bucket, Key="big")["ContentLength"] == len(data)
    assert (synced / "big").read_bytes() == data


def test_reading_asks_for_no_more_than_the_object(synced, client, bucket, proxy):
    data = os.urandom(MIB) * 32
    client.put_object(Bucket=bucket, Key="big", Body=data)
    (synced / ".sync").touch()
    proxy.counted()
    assert (synced / "big").read_bytes() == data
    assert proxy.counted()["GET"] <= 20
    with costs(proxy):  # from the kernel's pages
        assert (synced / "big").read_bytes() == data


@moto_only
def test_what_s3_refuses_is_an_error_and_the_bytes_are_kept(
    synced, client, bucket, proxy, state, tmp_path
):
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 403, "AccessDenied")):
        file = open(synced / "a", "wb", buffering=0)  # noqa: SIM115
        file.write(b"precious")
        with pytest.raises(PermissionError):
            os.fsync(file.fileno())
        with pytest.raises(PermissionError):
            file.close()
    assert keys(client, bucket) == []
    kept = [path for path in (state / "staging").glob("*.data") if path.read_bytes()]
    assert [path.read_bytes() for path in kept] == [b"precious"]
    assert str(kept[0]) in (tmp_path / "mount.log").read_text()


@moto_only
def test_a_file_that_is_refused_is_uploaded_by_the_next_close(synced, client, bucket, proxy):
    with open(synced / "a", "wb", buffering=0) as file:
        file.write(b"precious")
        with proxy.rule(Fail(lambda request: request.kind == "PUT", 500, "InternalError")):
            with pytest.raises(OSError, match="Input/output"):
                os.fsync(file.fileno())
    assert body(client, bucket, "a") == b"precious"


@moto_only
def test_unlink_and_a_directory_that_was_emptied_stays(synced, client, bucket, mount_at, proxy):
    client.put_object(Bucket=bucket, Key="d/a", Body=b"x")
    (synced / ".sync").touch()
    os.stat(synced / "d/a")
    with costs(proxy, DELETE=1):
        (synced / "d/a").unlink()
    assert keys(client, bucket) in ([], ["d/"])
    assert names(synced) == ["d"]
    assert names(synced / "d") == []
    (synced / ".sync").touch()
    assert names(synced) == ["d"]
    (synced / "d").rmdir()
    assert names(synced) == []


@moto_only
def test_what_is_open_can_be_read_after_unlink(synced, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"still here")
    (synced / ".sync").touch()
    with open(synced / "a", "rb") as file:
        (synced / "a").unlink()
        assert not (synced / "a").exists()
        assert file.read() == b"still here"
    assert keys(client, bucket) == []


@moto_only
def test_a_file_that_s3_will_not_delete_can_be_written_on(synced, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    (synced / ".sync").touch()
    with open(synced / "a", "r+b", buffering=0) as file:
        file.write(b"new")
        with proxy.rule(Fail(lambda request: request.kind == "DELETE", 403, "AccessDenied")):
            with pytest.raises(PermissionError):
                (synced / "a").unlink()
        file.write(b"er")
    assert body(client, bucket, "a") == b"newer"


@moto_only
def test_mkdir_and_rmdir(synced, client, bucket):
    (synced / "d/e").mkdir(parents=True)
    assert keys(client, bucket) == ["d/", "d/e/"]
    with pytest.raises(FileExistsError):
        (synced / "d").mkdir()
    with pytest.raises(OSError, match="not empty"):
        (synced / "d").rmdir()
    (synced / "d/e").rmdir()
    (synced / "d").rmdir()
    assert keys(client, bucket) == []


def test_a_directory_can_be_made_without_a_marker(mount_at, client, bucket, proxy):
    synced = mount_at(f"s3://{bucket}", "-o", "no_markers").path
    (synced / ".sync").touch()
    with costs(proxy):
        (synced / "d").mkdir()
        assert names(synced) == ["d"]
        assert names(synced / "d") == []
        os.utime(synced / "d", ns=(1, 5_000_000_000))
        assert (synced / "d").stat().st_mtime_ns == 5_000_000_000
        (synced / "d").chmod(0o700)
    (synced / "d/a").write_text("x")
    assert keys(client, bucket) == ["d/a"]


@moto_only
def test_a_directory_just_made_costs_nothing_to_look_into(synced, proxy):
    (synced / "first").mkdir()  # tries whether the server looks at conditions
    with costs(proxy, PUT=1):
        (synced / "d").mkdir()
        assert names(synced / "d") == []
        assert not (synced / "d/x").exists()


@moto_only
def test_a_file_is_renamed_by_a_copy(synced, client, bucket, proxy):
    (synced / "a").write_text("hello")
    (synced / "d").mkdir()
    with costs(proxy, COPY=1, DELETE=1):
        (synced / "a").rename(synced / "d/b")
    assert keys(client, bucket) == ["d/", "d/b"]
    assert (synced / "d/b").read_text() == "hello"
    assert not (synced / "a").exists()


@moto_only
def test_a_rename_replaces_and_save_by_rename_works(synced, client, bucket):
    (synced / "a").write_text("old")
    (synced / "a.tmp").write_text("new")
    os.replace(synced / "a.tmp", synced / "a")
    assert (synced / "a").read_text() == "new"
    assert body(client, bucket, "a") == b"new"
    assert names(synced) == ["a"]


@moto_only
def test_an_open_file_can_be_renamed_and_written_on(synced, client, bucket):
    with open(synced / "a", "wb", buffering=0) as file:
        file.write(b"one")
        (synced / "a").rename(synced / "b")
        file.write(b"two")
    assert keys(client, bucket) == ["b"]
    assert body(client, bucket, "b") == b"onetwo"


@moto_only
def test_a_directory_is_renamed_with_all_below(synced, client, bucket):
    expected = {f"d/{n % 3}/{n}": f"{n}".encode() for n in range(12)}
    for key, data in expected.items():
        client.put_object(Bucket=bucket, Key=key, Body=data)
    (synced / ".sync").touch()
    (synced / "d/empty").mkdir()
    (synced / "d").rename(synced / "e")
    found = keys(client, bucket)
    assert [key for key in found if not key.endswith("/")] == sorted(
        key.replace("d/", "e/") for key in expected
    )
    assert names(synced) == ["e"]
    assert names(synced / "e") == ["0", "1", "2", "empty"]
    assert (synced / "e/2/11").read_text() == "11"
    with pytest.raises(OSError, match="Invalid"):
        (synced / "e").rename(synced / "e/below")


@moto_only
def test_a_rename_that_fails_leaves_the_old_tree_whole(synced, client, bucket, proxy):
    for n in range(5):
        client.put_object(Bucket=bucket, Key=f"d/{n}", Body=b"x")
    (synced / ".sync").touch()
    fails = Fail(
        lambda request: request.kind == "COPY" and request.key == "e/3", 403, "AccessDenied"
    )
    with proxy.rule(fails), pytest.raises(PermissionError):
        (synced / "d").rename(synced / "e")
    found = [key for key in keys(client, bucket) if not key.endswith("/")]
    assert found == ["d/0", "d/1", "d/2", "d/3", "d/4"]
    assert names(synced) == ["d"]
    assert names(synced / "d") == ["0", "1", "2", "3", "4"]


def test_cp_within_the_mount_moves_no_bytes(synced, client, bucket, proxy):
    (synced / "a").write_bytes(bytes(100_000))
    proxy.counted()
    subprocess.run(["cp", "a", "b"], cwd=synced, check=True)
    counted = proxy.counted()
    assert counted["COPY"] == 1
    assert "GET" not in counted
    assert (synced / "b").read_bytes() == bytes(100_000)


@moto_only
def test_buckets_are_made_and_removed_at_the_root(mount_at, client, bucket):
    root = mount_at().path
    new = root / f"{bucket}-made"
    new.mkdir()
    assert new.name in [found["Name"] for found in client.list_buckets()["Buckets"]]
    (new / "a").write_text("x")
    with pytest.raises(OSError, match="not empty"):
        new.rmdir()
    (new / "a").unlink()
    client.put_object(Bucket=new.name, Key=".mimicfs-check-0123456789abcdef")  # `check` was killed
    new.rmdir()
    assert new.name not in [found["Name"] for found in client.list_buckets()["Buckets"]]
    with pytest.raises(PermissionError):
        (root / "file").write_text("x")
    with pytest.raises(PermissionError):
        (root / bucket).rename(root / "other")


@moto_only
def test_modes_and_times_are_kept_with_the_object(synced, client, bucket):
    (synced / "a").write_text("hello")
    (synced / "a").chmod(0o640)
    os.utime(synced / "a", ns=(5, 1_600_000_000_123_456_789))
    found = (synced / "a").stat()
    assert (found.st_mode, found.st_mtime_ns) == (0o100640, 1_600_000_000_123_456_789)
    stored = meta(client, bucket, "a")
    assert (stored["mode"], stored["mtime"]) == ("33184", "1600000000.123456789")
    assert (synced / "a").read_text() == "hello"


@moto_only
def test_eight_writers_at_once(synced, client, bucket):
    def write(n):
        (synced / f"f{n}").write_text(f"{n}" * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert len(keys(client, bucket)) == 40
    assert body(client, bucket, "f7") == b"7" * 1000


@moto_only
def test_files_can_be_mapped_and_have_holes(synced):
    with open(synced / "a", "wb") as file:
        file.truncate(MIB)
        file.seek(MIB // 2)
        file.write(b"middle")
    with open(synced / "a", "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == MIB
    program = (
        "import mmap; f = open('a', 'rb');"
        "print(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ).find(b'middle'))"
    )
    words = ["python3", "-c", program]
    out = subprocess.run(words, cwd=synced, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(MIB // 2)
