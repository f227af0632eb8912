"""Directories on a server to which the marker `d/` is a file `d` (rclone): nothing could be stored
below it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from support.mounts import Mount
from support.proxy import Fail, Rule

from mimicfs.s3.requests.ownkeys import is_own

rclone = pytest.mark.parametrize("server", ["rclone"], indirect=True)
moto = pytest.mark.parametrize("server", ["moto"], indirect=True)


def keys(client: Any, bucket: str) -> list[str]:
    return [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


@rclone
def test_where_a_marker_is_a_file_directories_are_made_all_the_same(
    mount_at: Any, bucket: str, client: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    for name in ("d", "empty", "d/e"):
        (mount.path / name).mkdir(0o750)
    (mount.path / "d/e/file").write_bytes(b"abc")
    assert keys(client, bucket) == ["d/e/file"]
    assert sorted(os.listdir(mount.path)) == ["d", "empty"]
    assert (mount.path / "empty").stat().st_mode & 0o777 == 0o750
    (mount.path / "d/e").rename(mount.path / "moved")
    assert (mount.path / "moved/file").read_bytes() == b"abc"
    (mount.path / "d").rmdir()
    (mount.path / "empty").rmdir()
    mount.end()
    again: Mount = mount_at(f"s3://{bucket}")
    assert sorted(os.listdir(again.path)) == ["moved"]


@rclone
def test_where_a_marker_is_a_file_a_directory_that_has_names_can_be_changed(
    mount_at: Any, bucket: str, client: Any
) -> None:
    client.put_object(Bucket=bucket, Key="d/file", Body=b"abc")
    mount: Mount = mount_at(f"s3://{bucket}")
    (mount.path / "d").chmod(0o700)
    os.utime(mount.path / "d", ns=(10**18, 10**18))
    found = (mount.path / "d").stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o700, 10**18)
    assert keys(client, bucket) == ["d/file"]


@moto
def test_a_file_of_somebody_else_beside_a_new_directory_stays(
    mount_at: Any, bucket: str, client: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    assert os.listdir(mount.path) == []
    client.put_object(Bucket=bucket, Key="d", Body=b"")
    (mount.path / "d").mkdir(0o750)
    assert keys(client, bucket) == ["d", "d/"]
    assert client.head_object(Bucket=bucket, Key="d/")["Metadata"]["mode"] == "16872"


@moto
def test_where_a_name_is_a_path_a_directory_of_the_name_of_a_new_file_is_eexist(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    """JuiceFS and rclone refuse the marker with 500."""
    mount: Mount = mount_at(f"s3://{bucket}")
    assert os.listdir(mount.path) == []
    client.put_object(Bucket=bucket, Key="d", Body=b"abc")
    refused = Fail(lambda request: request.kind == "PUT", 500, "InternalError")
    with proxy.rule(refused), pytest.raises(OSError, match="Input/output error"):
        (mount.path / "d").mkdir()  # the server makes no other either
    refused = Fail(lambda request: (request.kind, request.key) == ("PUT", "d/"), 500, "")
    with proxy.rule(refused), pytest.raises(FileExistsError):
        (mount.path / "d").mkdir()
    assert (mount.path / "d").read_bytes() == b"abc"
    assert keys(client, bucket) == ["d"]


@moto
def test_a_server_that_keeps_markers_is_looked_at_once(
    mount_at: Any, bucket: str, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    (mount.path / "a").mkdir()
    proxy.counted()
    (mount.path / "b").mkdir()
    assert proxy.counted() == {"PUT": 1}
    mount.end()
    again: Mount = mount_at(f"s3://{bucket}")
    proxy.counted()
    (again.path / "c").mkdir()
    assert proxy.counted() == {"PUT": 1}


def _is_tried(request: Any, kind: str) -> bool:
    """Whether that is how it is tried whether markers are kept."""
    key = request.key.removesuffix("/")
    return bool(request.kind == kind and is_own(key) and (kind == "HEAD" or key != request.key))


def _is_look(request: Any) -> bool:
    return bool(request.kind == "HEAD" and request.key == "d")


class Meanwhile(Rule):
    """Before the first request that *matches*, somebody else does *act*."""

    def __init__(self, act: Callable[[], Any], matches: Callable[[Any], bool] = _is_look) -> None:
        super().__init__(matches)
        self._act = act

    def before(self, handler: Any) -> bool:
        if self.seen == 1:
            self._act()
        return False


@rclone
def test_a_marker_that_another_mount_deletes_while_it_is_looked_at_teaches_nothing(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with proxy.rule(Meanwhile(lambda: client.delete_object(Bucket=bucket, Key="d/"))):
        (mount.path / "d").mkdir()
    (mount.path / "e").mkdir()
    (mount.path / "d/file").write_bytes(b"abc")
    (mount.path / "e/file").write_bytes(b"abc")
    assert keys(client, bucket) == ["d/file", "e/file"]


@rclone
def test_an_empty_file_that_takes_the_place_of_a_marker_is_not_deleted(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with proxy.rule(Meanwhile(lambda: client.put_object(Bucket=bucket, Key="d", Body=b""))):
        with pytest.raises(FileExistsError):
            (mount.path / "d").mkdir()
    assert keys(client, bucket) == ["d"]


@rclone
def test_a_look_that_fails_is_taken_at_the_next_directory(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with proxy.rule(Fail(lambda request: request.kind == "HEAD" and request.key == "d", 400, "")):
        (mount.path / "d").mkdir()
    (mount.path / "e").mkdir()
    (mount.path / "e/file").write_bytes(b"abc")
    assert keys(client, bucket) == ["d", "e/file"]


@moto
def test_a_marker_that_somebody_changes_while_it_is_looked_at_stays_as_it_is(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")

    def change() -> None:
        client.put_object(Bucket=bucket, Key="d", Body=b"")
        client.put_object(Bucket=bucket, Key="d/", Body=b"", Metadata={"mode": "16832"})

    with proxy.rule(Meanwhile(change)):
        (mount.path / "d").mkdir(0o750)
    assert keys(client, bucket) == ["d", "d/"]
    assert client.head_object(Bucket=bucket, Key="d/")["Metadata"] == {"mode": "16832"}


@moto
def test_where_looking_is_denied_it_is_done_once(mount_at: Any, bucket: str, proxy: Any) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with proxy.rule(Fail(lambda request: request.kind == "HEAD" and request.key == "a", 403, "")):
        (mount.path / "a").mkdir()
    proxy.counted()
    (mount.path / "b").mkdir()
    assert proxy.counted() == {"PUT": 1}


@rclone
def test_an_empty_file_that_is_made_where_another_mount_has_deleted_a_marker_stays(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    gone = Meanwhile(lambda: client.delete_object(Bucket=bucket, Key="d/"))
    made = Meanwhile(
        lambda: client.put_object(Bucket=bucket, Key="d", Body=b""),
        lambda request: _is_tried(request, "DELETE"),
    )
    with proxy.rule(gone), proxy.rule(made):
        (mount.path / "d").mkdir()
    assert (gone.seen, made.seen) == (1, 1)
    assert keys(client, bucket) == ["d"]


class Bare(Rule):
    """Answers have no user metadata, as those of a server that keeps none."""

    def after(self, handler: Any, response: Any) -> bool:
        said = response.getheaders()
        kept = [(name, value) for name, value in said if not name.lower().startswith("x-amz-meta")]
        response.read()
        handler.send(response.status, kept, None)
        return True


@rclone
def test_a_marker_that_is_a_file_is_known_also_where_the_server_keeps_no_metadata(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with proxy.rule(Bare(lambda request: request.kind == "HEAD")) as bare:
        (mount.path / "d").mkdir()
    assert bare.seen > 0
    assert keys(client, bucket) == []


@rclone
def test_a_marker_that_is_a_file_goes_again_though_the_one_that_was_tried_stays(
    mount_at: Any, bucket: str, client: Any, proxy: Any
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with proxy.rule(Fail(lambda request: _is_tried(request, "DELETE"), 403, "AccessDenied")):
        (mount.path / "d").mkdir()
    (mount.path / "d/file").write_bytes(b"abc")
    assert [key for key in keys(client, bucket) if not is_own(key)] == ["d/file"]


@moto
@pytest.mark.parametrize("kind", ["PUT", "HEAD", "DELETE"])
def test_a_directory_is_made_though_whether_its_marker_is_kept_cannot_be_tried(
    mount_at: Any, bucket: str, client: Any, proxy: Any, kind: str
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    assert os.listdir(mount.path) == []
    client.put_object(Bucket=bucket, Key="d", Body=b"")
    with proxy.rule(Fail(lambda request: _is_tried(request, kind), 403, "AccessDenied")) as denied:
        (mount.path / "d").mkdir()
    assert denied.seen > 0
    left = [key for key in keys(client, bucket) if not is_own(key.rstrip("/"))]
    assert left == ["d", "d/"]
