"""A daemon that is killed leaves nobody hanging: its mount says ENOTCONN."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from support.mounts import wait_until
from support.proxy import Hold

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

MAKE = """
import os, sys
try:
    os.mkdir(sys.argv[1])
except OSError as exc:
    print(exc.errno)
"""


def test_kill_9_while_a_directory_is_held_and_its_names_have_changed(
    mount_at, client, bucket, proxy
):
    client.put_object(Bucket=bucket, Key="d/known", Body=b"x")
    mount = mount_at(f"s3://{bucket}")
    directory = mount.path / "d"
    assert [path.name for path in directory.iterdir()] == ["known"]
    client.put_object(Bucket=bucket, Key="d/other", Body=b"x")
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        # The kernel keeps `d` locked until the marker of the new directory is in S3.
        words = [sys.executable, "-c", MAKE, str(directory / "new")]
        making = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert hold.reached.wait(60)
        began = time.monotonic()
        (mount.path / ".sync").touch()  # tells the kernel of `other`, in `d`
        assert time.monotonic() - began < 15  # not the half minute of a notifier that hangs
        mount.process.kill()
        mount.process.wait()
        assert making.communicate(timeout=10)[0] in ("103\n", "107\n")  # ECONNABORTED, ENOTCONN


def test_what_changed_in_a_directory_that_was_held_is_seen_after_that(
    mount_at, client, bucket, proxy
):
    client.put_object(Bucket=bucket, Key="d/known", Body=b"x")
    mount = mount_at(f"s3://{bucket}")
    directory = mount.path / "d"
    assert not (directory / "other").exists()
    assert [path.name for path in directory.iterdir()] == ["known"]
    client.put_object(Bucket=bucket, Key="d/other", Body=b"x")
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        making = subprocess.Popen([sys.executable, "-c", MAKE, str(directory / "new")])
        assert hold.reached.wait(60)
        (mount.path / ".sync").touch()
    assert making.wait(10) == 0
    assert (directory / "other").exists()
    wait_until(lambda: sorted(p.name for p in directory.iterdir()) == ["known", "new", "other"])
