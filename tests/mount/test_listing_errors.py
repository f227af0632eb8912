"""A directory that S3 does not list is an error, not an empty directory (F2)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.faults import Refuse
from support.proxy import Proxy, Request

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
