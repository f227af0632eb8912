"""A name that was to go and stays, because S3 refuses or the mount dies: its bytes stay, too."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.mounts import succeed, unmounted, wait_until
from support.proxy import Drop, Fail, Hold

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


class HoldAndRefuse(Hold):
    """Requests wait until `release`, and are refused then."""

    def before(self, handler):
        handler.body()
        body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
        handler.send(403, [("Content-Type", "application/xml")], body)
        return True


def goes(key):
    """Requests by which *key* goes: it is deleted, or replaced by a copy."""
    return lambda request: request.key == key and request.kind in ("DELETE", "COPY")


def puts(key):
    return lambda request: request.key == key and request.kind == "PUT"


def stored(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def go(path, how):
    """Have *path* go, by *how*; return what came of it."""
    try:
        path.unlink() if how == "rm" else (path.parent / "other").rename(path)
    except OSError as exc:
        return type(exc)
    return None


@pytest.mark.parametrize("how", ["rm", "mv"])
def test_what_is_closed_while_its_name_was_to_go_is_uploaded_where_that_stays(
    mount_at, client, bucket, proxy, how
):
    for key in ("a", "other"):
        client.put_object(Bucket=bucket, Key=key, Body=b"old")
    path = mount_at(f"s3://{bucket}").path
    file = open(path / "a", "wb")  # noqa: SIM115
    file.write(b"written")
    file.flush()
    with ThreadPoolExecutor(1) as thread, proxy.rule(HoldAndRefuse(goes("a"))) as rule:
        gone = thread.submit(go, path / "a", how)
        assert rule.reached.wait(60)
        file.close()
        rule.release()
        assert gone.result(20) is PermissionError
    assert (path / "a").read_bytes() == b"written"
    # The kernel tells of a descriptor's end after close, perhaps after the call that failed.
    wait_until(lambda: stored(client, bucket, "a") == b"written")


def waiting(path):
    [told] = json.loads(succeed("status", "--json", path))
    return told["files"]["write_back"]["files"]


@pytest.mark.parametrize("how", ["rm", "mv"])
def test_what_was_to_be_uploaded_when_its_name_was_to_go_is_uploaded_where_that_stays(
    mount_at, client, bucket, proxy, how
):
    for key in ("a", "other"):
        client.put_object(Bucket=bucket, Key=key, Body=b"old")
    path = mount_at(f"s3://{bucket}", "--write-back").path
    with ThreadPoolExecutor(1) as thread, proxy.rule(Fail(puts("a"), 503, "SlowDown")) as puts_a:
        (path / "a").write_bytes(b"promised")
        assert puts_a.reached.wait(60)
        with proxy.rule(HoldAndRefuse(goes("a"))) as rule:
            gone = thread.submit(go, path / "a", how)
            assert rule.reached.wait(60)
            wait_until(lambda: waiting(path) == 0)  # it was tried again, and was going
            rule.release()
            assert gone.result(20) is PermissionError
        assert (path / "a").read_bytes() == b"promised"
    wait_until(lambda: stored(client, bucket, "a") == b"promised")


@pytest.mark.parametrize("how", ["rm", "mv"])
@pytest.mark.parametrize("size", [8, 100_000])
def test_what_was_promised_outlives_kill_9_while_its_name_is_to_go(
    mount_at, client, bucket, proxy, how, size
):
    for key in ("a", "other"):
        client.put_object(Bucket=bucket, Key=key, Body=b"old")
    mount = mount_at(f"s3://{bucket}", "--write-back")
    with ThreadPoolExecutor(1) as thread, proxy.rule(Fail(puts("a"), 503, "SlowDown")):
        (mount.path / "a").write_bytes(b"p" * size)
        with proxy.rule(Drop(goes("a"))) as rule:
            gone = thread.submit(go, mount.path / "a", how)
            assert rule.reached.wait(60)
            mount.process.kill()
            mount.process.wait()
        assert gone.result(20) is not None  # not connected
    subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=True, timeout=10)
    assert unmounted(mount.path)
    again = mount_at(f"s3://{bucket}", "--write-back", name="again").path
    assert (again / "a").read_bytes() == b"p" * size
    assert (again / "other").read_bytes() == b"old"
    wait_until(lambda: stored(client, bucket, "a") == b"p" * size)


@pytest.mark.parametrize("how", ["rm", "mv"])
def test_what_has_gone_does_not_come_back_after_kill_9(mount_at, client, bucket, proxy, how):
    client.put_object(Bucket=bucket, Key="other", Body=b"old")
    mount = mount_at(f"s3://{bucket}", "--write-back")
    with proxy.rule(Fail(puts("a"), 503, "SlowDown")):
        (mount.path / "a").write_bytes(b"promised")
        reader = os.open(mount.path / "a", os.O_RDONLY)  # and somebody has it open
        assert go(mount.path / "a", how) is None
        assert os.read(reader, 99) == b"promised"
        mount.process.kill()
        mount.process.wait()
    with contextlib.suppress(OSError):  # not connected
        os.close(reader)
    subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=True, timeout=10)
    assert unmounted(mount.path)
    again = mount_at(f"s3://{bucket}", "--write-back", name="again").path
    assert os.listdir(again) == (["other"] if how == "rm" else ["a"])
    assert (again / os.listdir(again)[0]).read_bytes() == b"old"
