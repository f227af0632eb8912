"""A mount that is told by S3 shows what others change, without anybody touching `.sync`."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from contextlib import contextmanager

import pytest
from support.clients import queue_of
from support.mounts import run, succeed, unmounted, wait_until

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def told(mount_at, server, bucket):
    queue = queue_of(server, bucket)
    return mount_at(f"s3://{bucket}", "--events", f"sqs:{queue}").path


def test_what_others_make_change_and_delete_is_shown(told, client, bucket):
    client.put_object(Bucket=bucket, Key="d/old", Body=b"1")
    client.put_object(Bucket=bucket, Key="d/changed", Body=b"1")
    wait_until(lambda: sorted(os.listdir(told)) == ["d"])
    assert sorted(os.listdir(told / "d")) == ["changed", "old"]
    assert (told / "d/changed").read_bytes() == b"1"
    client.put_object(Bucket=bucket, Key="d/new", Body=b"1", Metadata={"mode": "33261"})
    client.put_object(Bucket=bucket, Key="d/changed", Body=b"22")
    client.delete_object(Bucket=bucket, Key="d/old")
    wait_until(lambda: sorted(os.listdir(told / "d")) == ["changed", "new"])
    wait_until(lambda: (told / "d/changed").stat().st_size == 2)
    assert (told / "d/changed").read_bytes() == b"22"
    wait_until(lambda: stat.S_IMODE((told / "d/new").stat().st_mode) == 0o755)
    wait_until(lambda: os.getxattr(told / "d", "user.mimicfs.synced_by") == b"told")


def test_a_directory_that_comes_again_is_found_while_somebody_holds_it(told, client, bucket):
    assert os.listdir(told) == []
    client.put_object(Bucket=bucket, Key="c/a", Body=b"1")
    wait_until((told / "c/a").exists)
    with held(told / "c"):
        client.delete_object(Bucket=bucket, Key="c/a")
        wait_until(lambda: not (told / "c").exists())
        client.put_object(Bucket=bucket, Key="c/x", Body=b"1")
        wait_until((told / "c/x").exists)
        with (told / "c/y").open("wb") as file:
            file.write(b"1")
            client.delete_object(Bucket=bucket, Key="c/x")
            wait_until(lambda: not (told / "c").exists())
        wait_until((told / "c/y").exists)
        assert os.listdir(told) == ["c"]


@contextmanager
def held(directory):
    """Hold *directory* open."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_directory_goes_when_others_empty_it_and_stays_when_the_mount_does(told, client, bucket):
    for key in ("here/a", "others/a"):
        client.put_object(Bucket=bucket, Key=key, Body=b"1")
        wait_until(lambda key=key: (told / key).exists())
    (told / "here/a").unlink()
    client.delete_object(Bucket=bucket, Key="others/a")
    wait_until(lambda: os.listdir(told) == ["here"])
    wait_until(lambda: not (told / "others").exists())
    messages = status(told)["events"]["messages"]
    client.put_object(Bucket=bucket, Key="last", Body=b"1")
    wait_until((told / "last").exists)
    assert status(told)["events"]["messages"] > messages
    assert sorted(os.listdir(told)) == ["here", "last"]
    (told / "here").rmdir()
    assert os.listdir(told) == ["last"]


def test_what_is_written_here_costs_nothing_when_it_is_told(told, mount_at, bucket, proxy):
    (told / "warm").write_bytes(b"1")
    wait_until(lambda: status(told)["events"]["echoes"] >= 1)
    before = status(told)["events"]
    (told / "a").write_bytes(b"22")
    wait_until(lambda: status(told)["events"]["echoes"] > before["echoes"])
    assert status(told)["events"]["heads"] == before["heads"]


def status(path):
    [mount] = json.loads(succeed("status", "--json", str(path)))
    return mount


def test_a_webhook_is_answered_when_the_mount_shows_it(mount_at, client, bucket, tmp_path):
    address = f"unix:{tmp_path}/events.sock"
    path = mount_at(f"s3://{bucket}", "--events", address).path
    assert os.listdir(path) == []
    client.put_object(Bucket=bucket, Key="50% a+b", Body=b"1")
    about = {"bucket": {"name": bucket}, "object": {"key": "50% a+b"}}
    record = {"eventSource": "ceph:s3", "eventName": "ObjectCreated:Put", "s3": about}
    assert post(tmp_path / "events.sock", {"Records": [record]}) == 200
    wait_until(lambda: os.listdir(path) == ["50% a+b"])


def test_a_source_that_cannot_be_opened_leaves_no_mount(state, proxy, bucket, tmp_path):
    path = tmp_path / "refused"
    path.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        common = ["--endpoint-url", proxy.url, "--store", f"sqlite://{tmp_path}/refused.db"]
        refused = run("mount", f"s3://{bucket}", path, *common, "--events", address)
    assert (refused.returncode, "Address already in use" in refused.stderr) == (2, True)
    assert unmounted(path)


def post(path, message):
    line = http.client.HTTPConnection("localhost")
    line.sock = socket.socket(socket.AF_UNIX)
    line.sock.connect(str(path))
    line.request("POST", "/", json.dumps(message))
    code = line.getresponse().status
    line.close()
    return code
