"""The directory of bytes that S3 does not have yet: full, limited, or removed under the mount."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from support import disks
from support.mounts import succeed, wait_until

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)
MIB = 1 << 20


def written(path, size):
    """How many of *size* bytes are written until it says ENOSPC."""
    fd, done = os.open(path, os.O_CREAT | os.O_WRONLY), 0
    while done < size:
        try:
            done += os.write(fd, bytes(MIB))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            break
    os.close(fd)
    return done


@pytest.fixture
def small_disk(tmp_path):
    with disks.small_disk(tmp_path / "disk", "48m") as disk:
        yield disk


def test_a_full_disk_is_enospc_and_what_was_written_before_is_uploaded(
    mount_at, client, bucket, small_disk, tmp_path
):
    words = ("--cache-dir", str(small_disk), "--cache-size", "0")
    path = mount_at(f"s3://{bucket}", *words).path
    done = written(path / "large", 64 * MIB)
    assert 16 * MIB <= done <= 48 * MIB
    assert client.head_object(Bucket=bucket, Key="large")["ContentLength"] == done
    # There is room again, once the kernel has told the mount of the close (RELEASE, later).
    wait_until(lambda: written(path / "small", MIB) == MIB)
    assert "--cache-dir" in (tmp_path / "mount.log").read_text()


def test_the_limit_of_what_waits_for_s3_is_enospc(mount_at, client, bucket):
    path = mount_at(f"s3://{bucket}", "--staging-size", "24M").path
    held = os.open(path / "held", os.O_CREAT | os.O_WRONLY)
    os.write(held, bytes(MIB))
    done = written(path / "large", 128 * MIB)
    assert 16 * MIB <= done <= 48 * MIB
    os.close(held)
    wait_until(lambda: written(path / "other", MIB) == MIB)
    assert {name: (path / name).stat().st_size for name in os.listdir(path)} == {
        "held": MIB,
        "large": done,
        "other": MIB,
    }
    assert "24.0 MiB" in succeed("status", path) or "25165824" in succeed("status", "--json", path)


def test_a_staging_directory_that_is_removed_is_made_anew(mount_at, client, bucket, state):
    path = mount_at(f"s3://{bucket}").path
    with open(path / "open", "wb", buffering=0) as file:
        file.write(b"before")
        shutil.rmtree(state / "staging")
        file.write(b" and after")
        (path / "new").write_bytes(b"new")
    found = {
        key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in ("open", "new")
    }
    assert found == {"open": b"before and after", "new": b"new"}
