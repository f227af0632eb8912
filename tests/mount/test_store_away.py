"""While its store is away, a mount reads on and changes nothing at S3; then it goes on."""

import errno
import os
from contextlib import ExitStack

import pytest
from support import servers
from support.mounts import run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


@pytest.mark.parametrize("loss", ["copy", "eio"])
def test_what_cannot_be_said_in_the_store_is_not_asked_of_s3(
    mount_at, bucket, client, proxy, tmp_path, loss
):
    for name in ("kept", "gone"):
        client.put_object(Bucket=bucket, Key=name, Body=b"old")
    port = servers.free_port()
    options = (tmp_path, port, "--appendonly", "yes", "--appendfsync", "always")
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        running.enter_context(servers.redis_at(*options))
        store = f"redis://127.0.0.1:{port}"
        path = mount_at(f"s3://{bucket}", "-o", f"store_loss={loss}", store=store).path
        (path / "kept").write_text("newer")
        assert sorted(os.listdir(path)) == ["gone", "kept"]
        running.close()

        proxy.counted()
        for change in (
            lambda: (path / "kept").write_text("lost?"),
            (path / "new").mkdir,
            (path / "gone").unlink,
            lambda: (path / "gone").rename(path / "moved"),
        ):
            with pytest.raises(OSError, check=lambda exc: exc.errno == errno.EIO):
                change()
        assert {"PUT", "DELETE", "COPY", "POST"}.isdisjoint(proxy.counted())
        assert client.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"newer"
        if loss == "copy":
            assert (path / "gone").read_text() == "old"
        else:
            with pytest.raises(OSError, check=lambda exc: exc.errno == errno.EIO):
                (path / "gone").read_text()

        stack.enter_context(servers.redis_at(*options))
        wait_until(lambda: _written(path / "after", "it goes on"))
        assert client.get_object(Bucket=bucket, Key="after")["Body"].read() == b"it goes on"


@pytest.mark.parametrize("change", ["moved", "replaced", "deleted"])
def test_a_mount_whose_store_is_another_file_by_now_answers_nothing(
    mount_at, bucket, client, proxy, tmp_path, change
):
    client.put_object(Bucket=bucket, Key="f", Body=b"f")
    store = tmp_path / "one.db"
    path = mount_at(f"s3://{bucket}", store=f"sqlite://{store}").path
    assert os.listdir(path) == ["f"]
    (path / "f").stat()
    if change != "replaced":
        store.rename(tmp_path / "elsewhere.db")
    else:
        (tmp_path / "other.db").write_bytes(store.read_bytes())
        (tmp_path / "other.db").replace(store)
    proxy.counted()
    with pytest.raises(OSError, check=lambda exc: exc.errno == errno.EIO):
        (path / "new").write_text("lost?")
    assert {"PUT", "COPY", "POST"}.isdisjoint(proxy.counted())
    client.put_object(Bucket=bucket, Key="f", Body=b"of who has the other store")
    for look in ((path / "f").stat, (path / "g").stat, lambda: os.listdir(path)):
        wait_until(lambda look=look: _errno(look) == errno.EIO)
    assert "put it back, or unmount and mount again" in (tmp_path / "mount.log").read_text()
    if change == "moved":
        (tmp_path / "elsewhere.db").replace(store)
        wait_until(lambda: _written(path / "after", "it goes on"))
        assert client.get_object(Bucket=bucket, Key="after")["Body"].read() == b"it goes on"


def test_a_redis_that_may_evict_keys_is_not_mounted(bucket, proxy, tmp_path):
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with servers.redis(tmp_path, *options) as port:
        words = ("--endpoint-url", proxy.url, "--store", f"redis://127.0.0.1:{port}")
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        refused = run("mount", *words, f"s3://{bucket}", str(mountpoint))
    assert refused.returncode != 0
    assert "CONFIG SET maxmemory-policy noeviction" in refused.stderr


def _written(path, text):
    try:
        path.write_text(text)
    except OSError:
        return False
    return True


def _errno(look):
    try:
        look()
    except OSError as exc:
        return exc.errno
    return 0
