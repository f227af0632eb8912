"""`.sync` and its xattr: what others changed is seen, and exactly that."""

import os
import subprocess
import threading

import pytest
from support.mounts import costs, wait_until
from support.proxy import Fail, Hold, Replace

# How a listing is merged does not depend on the server: tests/sync runs over both.
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def names(path):
    return sorted(os.listdir(path))


def put(client, bucket, key, body=b"x"):
    client.put_object(Bucket=bucket, Key=key, Body=body)


@pytest.fixture
def synced(client, bucket, mount):
    """A mounted bucket with three files, all of it known to the mirror and to the kernel."""
    for key in ("a", "d/b", "d/c"):
        put(client, bucket, key, b"old")
    (mount / ".sync").touch()
    assert (mount / "a").read_text() == "old"
    assert names(mount / "d") == ["b", "c"]
    assert not (mount / "d/new").exists()
    return mount


@pytest.mark.usefixtures("metadata_never")
def test_what_others_changed_shows_after_touch(synced, client, bucket, proxy):
    put(client, bucket, "d/new", b"new")
    put(client, bucket, "a", b"changed")
    client.delete_object(Bucket=bucket, Key="d/c")
    with costs(proxy):
        assert names(synced / "d") == ["b", "c"]
        assert (synced / "a").stat().st_size == 3
        assert not (synced / "d/new").exists()
    with costs(proxy, LIST=1):
        (synced / ".sync").touch()
    with costs(proxy):
        assert names(synced / "d") == ["b", "new"]
        assert (synced / "a").stat().st_size == 7
        assert (synced / "d/new").exists()
        assert not (synced / "d/c").exists()
    assert (synced / "a").read_text() == "changed"


def test_what_changes_while_a_directory_is_read_is_not_shown_as_it_was(mount, client, bucket):
    long = [f"{n:03}-" + "x" * 200 for n in range(400)]  # a page of the reader is some 150 names
    for name in long:
        put(client, bucket, name)
    (mount / ".sync").touch()
    with os.scandir(mount) as entries:
        first = next(entries)
        put(client, bucket, long[-1], b"changed")
        client.delete_object(Bucket=bucket, Key=long[-2])
        (mount / ".sync").touch()
        seen = [first.name, *(entry.name for entry in entries)]
    assert seen == [*long[:-2], long[-1]]
    assert (mount / long[-1]).stat().st_size == 7
    assert not (mount / long[-2]).exists()


def test_a_directory_of_others_appears_and_vanishes(synced, client, bucket):
    assert not (synced / "x").exists()
    put(client, bucket, "x/y/z")
    (synced / ".sync").touch()
    assert names(synced / "x/y") == ["z"]
    client.delete_object(Bucket=bucket, Key="x/y/z")
    (synced / ".sync").touch()
    assert not (synced / "x").exists()
    assert names(synced) == ["a", "d"]


def test_only_the_scope_is_refreshed(synced, client, bucket, proxy):
    put(client, bucket, "top")
    put(client, bucket, "d/below")
    with costs(proxy, LIST=1):
        (synced / "d/.sync").touch()
    assert names(synced / "d") == ["b", "below", "c"]
    assert names(synced) == ["a", "d"]


def test_at_the_root_all_buckets_are_refreshed(mount_at, client, bucket, proxy):
    root = mount_at().path
    put(client, bucket, "a")
    other = f"{bucket}-later"
    client.create_bucket(Bucket=other)
    assert other not in names(root)
    (root / ".sync").touch()
    assert other in names(root)
    with costs(proxy):
        assert names(root / bucket) == ["a"]
        assert names(root / other) == []
    assert f"bucket: {bucket}: 1 key, synced" in (root / ".sync").read_text()


def test_the_xattr_refreshes_a_directory_and_one_file(synced, client, bucket, proxy):
    put(client, bucket, "d/new", b"new")
    with costs(proxy, LIST=1):
        os.setxattr(synced / "d", "user.mimicfs.sync", b"1")
    assert names(synced / "d") == ["b", "c", "new"]
    assert (synced / "d/new").exists()
    put(client, bucket, "a", b"changed")
    with costs(proxy, HEAD=1):
        os.setxattr(synced / "a", "user.mimicfs.sync", b"1")
    assert (synced / "a").stat().st_size == 7
    with pytest.raises(PermissionError):
        os.setxattr(synced / "a", "user.mimicfs.key", b"other")


def test_a_failed_refresh_is_an_error_and_deletes_nothing(synced, proxy):
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "AccessDenied")):
        with pytest.raises(PermissionError):
            os.utime(synced / ".sync")
    assert names(synced / "d") == ["b", "c"]
    assert "last error: " in (synced / ".sync").read_text()
    with proxy.rule(Replace(lambda request: request.kind == "LIST", b"<html></html>")):
        with pytest.raises(OSError, match="Input/output"):
            os.utime(synced / ".sync")
    assert names(synced / "d") == ["b", "c"]
    (synced / ".sync").touch()
    assert "last error" not in (synced / ".sync").read_text()


def test_the_control_file_tells_how_things_stand(synced, client, bucket):
    put(client, bucket, "d/new")
    client.delete_object(Bucket=bucket, Key="d/b")
    (synced / "d/.sync").touch()
    told = dict(line.split(": ", 1) for line in (synced / "d/.sync").read_text().splitlines())
    assert told["scope"] == f"s3://{bucket}/d/"
    assert told["state"] == "complete"
    assert (told["keys"], told["added"], told["changed"], told["deleted"]) == ("2", "1", "0", "1")
    assert told["last sync"].startswith("20")
    assert told["duration"].endswith(" s")
    assert told["true until"] == f"{told['last sync']}, listed"
    assert os.getxattr(synced / "d", "user.mimicfs.synced").decode() == told["last sync"]
    assert os.getxattr(synced / "d/new", "user.mimicfs.synced_by") == b"listed"


def test_progress_can_be_read_and_a_refresh_interrupted(synced, proxy):
    with proxy.rule(Hold(lambda request: request.kind == "LIST")) as hold:
        toucher = subprocess.Popen(["touch", synced / ".sync"])
        assert hold.reached.wait(60)
        assert "state: syncing" in (synced / ".sync").read_text()
        assert names(synced / "d") == ["b", "c"]
        toucher.send_signal(2)
        assert toucher.wait(5) != 0


def test_it_is_found_but_not_listed_and_cannot_be_removed(synced):
    assert ".sync" not in names(synced)
    assert (synced / "d/.sync").exists()
    with pytest.raises(PermissionError):
        (synced / ".sync").unlink()
    with pytest.raises(PermissionError):
        (synced / "a").rename(synced / ".sync")
    assert (synced / "a").exists()


def test_a_real_key_of_that_name_is_shown_beside_it(synced, client, bucket):
    put(client, bucket, "d/.sync", b"a real one")
    (synced / ".sync").touch()
    assert names(synced / "d") == [".sync%name", "b", "c"]
    assert (synced / "d/.sync%name").read_text() == "a real one"
    assert os.getxattr(synced / "d/.sync%name", "user.mimicfs.key") == b"d/.sync"
    assert (synced / "d/.sync").read_text().startswith("scope: ")


@pytest.mark.usefixtures("metadata_never")
def test_a_read_that_meets_another_version_repairs_the_mirror(synced, client, bucket):
    put(client, bucket, "d/b", b"longer than before")
    assert (synced / "d/b").read_text() == "longer than before"
    assert (synced / "d/b").stat().st_size == 18


@pytest.mark.usefixtures("metadata_never")
def test_a_file_of_which_nothing_was_read_gives_the_version_of_now(synced, client, bucket):
    with open(synced / "d/b", "rb", buffering=0) as file:
        put(client, bucket, "d/b", b"longer than before")
        (synced / ".sync").touch()
        assert file.read() == b"longer than before"
    assert (synced / "d/b").read_text() == "longer than before"


def test_what_is_written_during_a_refresh_stays(synced, proxy, bucket):
    with proxy.rule(Hold(lambda request: request.kind == "LIST")) as hold:
        toucher = threading.Thread(target=(synced / ".sync").touch)
        toucher.start()
        assert hold.reached.wait(60)
        (synced / "written").write_text("now")
        (synced / "a").unlink()
        hold.release()
        toucher.join(20)
    assert names(synced) == ["d", "written"]


@pytest.mark.usefixtures("metadata_never")
def test_two_mounts_of_one_store_see_each_other(synced, mount_at, bucket, proxy):
    other = mount_at(f"s3://{bucket}", name="other").path
    assert names(other / "d") == ["b", "c"]
    assert not (other / "d/new").exists()
    with costs(proxy, PUT=1, DELETE=1):
        (synced / "d/new").write_text("hello")
        (synced / "d/b").unlink()
        wait_until(lambda: (other / "d/new").exists() and not (other / "d/b").exists())
        assert names(other / "d") == ["c", "new"]
    assert (other / "d/new").read_text() == "hello"
