"""Renames that are disturbed: by S3, by others who write, by kill -9. Nothing is lost, and it is
said what is where."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from support.mounts import Mount, costs, wait_until
from support.proxy import Drop, Fail, Hold, Proxy

# rclone serve s3 ignores the conditions that this is about, and keeps markers as files.
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

COUNT = 40
OLD = [f"d/{n:02}" for n in range(COUNT)]
NEW = [f"e/{n:02}" for n in range(COUNT)]


def keys(client: Any, bucket: str) -> list[str]:
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return [item["Key"] for item in found]


def body(client: Any, bucket: str, key: str) -> bytes:
    data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return data


@pytest.fixture
def full(client: Any, bucket: str) -> None:
    for key in OLD:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())


@pytest.fixture
def synced(full: None, mount_at: Any, bucket: str) -> Path:
    mounted: Mount = mount_at(f"s3://{bucket}")
    (mounted.path / ".sync").touch()
    return mounted.path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "mount.log"


def copy_of(key: str) -> Any:
    return lambda request: request.kind == "COPY" and request.key == key


def deletion(request: Any) -> bool:
    return request.kind in ("POST", "DELETE")


def renamed(path: Path) -> subprocess.Popen[bytes]:
    program = "import os, sys; os.rename(sys.argv[1], sys.argv[2])"
    return subprocess.Popen(
        ["python3", "-c", program, path / "d", path / "e"], stderr=subprocess.DEVNULL
    )


def test_a_directory_costs_a_copy_for_each_object_and_a_look_at_both_ends(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with costs(proxy, LIST=2, COPY=COUNT, POST=1):
        (synced / "d").rename(synced / "e")
    assert keys(client, bucket) == NEW
    assert sorted(os.listdir(synced)) == ["e"]


@pytest.mark.parametrize("when", ["copying", "deleting"])
def test_what_kill_9_ended_is_undone_or_finished_by_the_next_mount(
    full: None, mount_at: Any, client: Any, bucket: str, proxy: Proxy, log: Path, when: str
) -> None:
    mounted: Mount = mount_at(f"s3://{bucket}")
    (mounted.path / ".sync").touch()
    with proxy.rule(Drop(copy_of("e/30") if when == "copying" else deletion)) as held:
        mover = renamed(mounted.path)
        assert held.reached.wait(30)
        mounted.process.send_signal(signal.SIGKILL)
        mounted.process.wait(10)
        mover.kill()
        mover.wait(10)
    mounted.close()
    assert len(keys(client, bucket)) > COUNT
    again: Path = mount_at(f"s3://{bucket}").path
    if when == "copying":
        assert keys(client, bucket) == OLD
        assert f"is undone: s3://{bucket}/d/ to s3://{bucket}/e/" in log.read_text()
        (again / "d").rename(again / "e")
    else:
        assert f"is finished: s3://{bucket}/d/ to s3://{bucket}/e/" in log.read_text()
    assert keys(client, bucket) == NEW
    assert sorted(os.listdir(again / "e")) == [key[2:] for key in NEW]
    assert body(client, bucket, "e/07") == b"d/07"


def test_a_rename_that_fails_leaves_nothing_at_the_new_place(
    synced: Path, client: Any, bucket: str, proxy: Proxy, state: Path
) -> None:
    with proxy.rule(Fail(copy_of("e/31"), 403, "AccessDenied")), pytest.raises(PermissionError):
        (synced / "d").rename(synced / "e")
    assert keys(client, bucket) == OLD
    assert os.listdir(synced) == ["d"]
    assert list((state / "staging/renames").iterdir()) == []


def test_what_cannot_be_deleted_is_at_both_places_and_the_log_says_so(
    synced: Path, client: Any, bucket: str, proxy: Proxy, log: Path
) -> None:
    assert not (synced / "e").exists()
    with proxy.rule(Fail(deletion, 403, "AccessDenied")):
        with pytest.raises(OSError, match="Input/output error"):
            (synced / "d").rename(synced / "e")
    assert keys(client, bucket) == OLD + NEW
    said = f"all of s3://{bucket}/d/ is at s3://{bucket}/e/, and some of it still at both places"
    assert said in log.read_text()
    wait_until((synced / "e/07").exists)
    assert sorted(os.listdir(synced)) == ["d", "e"]
    (synced / "d/07").write_text("changed")
    os.mkdir(synced / "f")
    os.rename(synced / "f", synced / "g")  # the next rename of a directory goes on as well
    assert keys(client, bucket) == ["d/07", *NEW, "g/"]
    wait_until(lambda: os.listdir(synced / "d") == ["07"])


def test_what_others_write_into_a_directory_meanwhile_goes_along(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Hold(copy_of("e/39"))) as held:
        mover = renamed(synced)
        assert held.reached.wait(30)
        client.put_object(Bucket=bucket, Key="d/05", Body=b"changed")
        client.put_object(Bucket=bucket, Key="d/new", Body=b"new")
    assert mover.wait(30) == 0
    assert keys(client, bucket) == [*NEW, "e/new"]
    assert body(client, bucket, "e/05") == b"changed"
    assert body(client, bucket, "e/new") == b"new"
    assert (synced / "e/05").read_bytes() == b"changed"


def test_what_is_written_through_the_mount_meanwhile_goes_along(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with (
        open(synced / "d/01", "r+b", buffering=0) as early,
        proxy.rule(Hold(copy_of("e/39"))) as held,
    ):
        mover = renamed(synced)
        assert held.reached.wait(30)
        early.write(b"ONE")
        os.fsync(early.fileno())
    assert mover.wait(30) == 0
    with open(synced / "e/01", "ab") as file:
        file.write(b"more")
    assert body(client, bucket, "e/01") == b"ONE1more"
    assert keys(client, bucket) == NEW


def test_a_directory_that_others_have_filled_is_not_replaced(
    synced: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="e/00", Body=b"somebody's")
    with pytest.raises(OSError, match="Directory not empty"):
        (synced / "d").rename(synced / "e")
    assert keys(client, bucket) == [*OLD, "e/00"]
    assert body(client, bucket, "e/00") == b"somebody's"


def test_an_interrupted_rename_is_undone(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Hold(copy_of("e/20"))) as held:
        mover = renamed(synced)
        assert held.reached.wait(30)
        mover.send_signal(signal.SIGINT)
    assert mover.wait(30) != 0
    assert keys(client, bucket) == OLD
    assert os.listdir(synced) == ["d"]


def test_a_file_that_somebody_replaces_while_it_is_renamed_is_moved_as_it_is_then(
    synced: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Hold(lambda request: request.kind == "DELETE")) as held:
        mover = threading.Thread(target=lambda: (synced / "d/00").rename(synced / "f"))
        mover.start()
        assert held.reached.wait(30)
        client.put_object(Bucket=bucket, Key="d/00", Body=b"somebody's")
    mover.join(30)
    assert body(client, bucket, "f") == b"somebody's"
    assert (synced / "f").read_bytes() == b"somebody's"
    assert "d/00" not in keys(client, bucket)


def test_mv_n_replaces_nothing_that_the_mirror_does_not_know(
    synced: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="d/there", Body=b"somebody's")
    subprocess.run(["mv", "-n", "00", "there"], cwd=synced / "d", check=False, timeout=30)
    assert body(client, bucket, "d/there") == b"somebody's"
    assert body(client, bucket, "d/00") == b"d/00"


def test_files_and_directories_are_renamed_across_buckets(
    full: None, mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    client.create_bucket(Bucket=f"{bucket}-2")
    root: Path = mount_at().path
    for name in (bucket, f"{bucket}-2"):
        (root / name / ".sync").touch()
    with costs(proxy, COPY=1, DELETE=1):
        (root / bucket / "d/00").rename(root / f"{bucket}-2/a")
    (root / bucket / "d").rename(root / f"{bucket}-2/e")
    assert keys(client, bucket) == []
    assert keys(client, f"{bucket}-2") == ["a", *NEW[1:]]
    assert (root / f"{bucket}-2/e/07").read_bytes() == b"d/07"
