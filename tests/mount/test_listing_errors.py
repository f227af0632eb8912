"""A directory that S3 does not list is an error, not an empty directory (F2)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.faults import Refuse
from support.proxy import Fail, Proxy, Request

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def of_d(request: Request) -> bool:
    return request.kind == "LIST" and request.query.get("prefix") == ["d/"]


@pytest.fixture
def directory(mount: Path, client: Any, bucket: str) -> Path:
    """A directory that was looked up, and that nobody has listed yet."""
    for key in ("d/a", "d/e/b"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    os.stat(mount / "d")
    return mount / "d"


@pytest.mark.parametrize(
    ("code", "expected"), [("NoSuchBucket", errno.ENODEV), ("NoSuchKey", errno.EIO)]
)
def test_a_404_at_the_first_listing_is_an_error_and_not_an_empty_directory(
    directory: Path, proxy: Proxy, code: str, expected: int, caplog: Any
) -> None:
    with proxy.rule(Refuse(of_d, 404, code, times=-1)):
        with pytest.raises(OSError) as listing:  # noqa: PT011
            os.listdir(directory)
        with pytest.raises(OSError) as looking:  # noqa: PT011
            os.stat(directory / "a")
        assert subprocess.run(["ls", directory], stderr=-3, check=False).returncode == 2
    assert (listing.value.errno, looking.value.errno) == (expected, expected)


def test_rsync_delete_empties_no_backup_when_a_directory_is_not_listed(
    directory: Path, proxy: Proxy, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "a").write_text("kept")
    with proxy.rule(Refuse(of_d, 404, "", times=-1)):
        done = subprocess.run(
            ["rsync", "-a", "--delete", f"{directory}/", f"{backup}/"], stderr=-3, check=False
        )
    assert done.returncode != 0
    assert (backup / "a").read_text() == "kept"


def test_a_directory_that_was_not_listed_is_listed_at_the_next_try(
    directory: Path, proxy: Proxy
) -> None:
    with proxy.rule(Refuse(of_d, 404, "NoSuchBucket", times=1)):
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            os.listdir(directory)
    assert sorted(os.listdir(directory)) == ["a", "e"]


def test_a_load_balancer_without_a_backend_takes_no_file_away(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    keys = ["a", "b", "d/c"]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    root: Path = mount_at("--attempts", "1", f"s3://{bucket}").path
    for name, _, files in os.walk(root):
        for file in files:
            os.stat(os.path.join(name, file))
    nobody = Fail(lambda request: True, 404, "")
    nobody.headers, nobody.body = [("Content-Type", "text/plain")], b"404 page not found\n"
    asked = (
        (root / "a").read_bytes,
        (root / "a").unlink,
        lambda: (root / "b").rename(root / "e"),
        lambda: (root / "d").rename(root / "f"),
        lambda: (root / "a").write_bytes(b"new"),
    )
    with proxy.rule(nobody):
        for ask in asked:
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                ask()
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["a", "b", "d", "d/c"]
    assert [(root / key).read_bytes() for key in keys] == [b"a", b"b", b"d/c"]
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in listed] == keys
