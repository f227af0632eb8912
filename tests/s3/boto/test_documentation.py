"""Every example of MimicDB's documentation, over each store, with the requests counted."""

from __future__ import annotations

import os

import pytest
from support.mounts import costs

import mimicfs
from mimicfs.backends import Backend
from mimicfs.backends.default import Redis
from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.errors import ConfigError
from mimicfs.exception import S3ResponseError

# As the documentation imports them, but for the name of the package.
from mimicfs import MimicDB  # isort: skip
from mimicfs.s3.connection import S3Connection  # isort: skip
from mimicfs.s3.key import Key  # isort: skip

every_store = pytest.mark.parametrize(
    "place", ["moto memory", "moto SQLite", "moto Redis", "rclone Redis"], indirect=True
)


@pytest.fixture
def full(client, bucket):
    """A bucket that was there before MimicDB."""
    client.put_object(Bucket=bucket, Key="there/before", Body=b"here")
    return bucket


# Quickstart


@every_store
def test_after_one_sync_the_mirror_answers(conn, proxy, client, full):
    others = len(client.list_buckets()["Buckets"])
    proxy.counted()
    conn.sync()
    counted = proxy.counted()
    assert counted.pop("LIST_BUCKETS") == 1
    assert counted.pop("LIST") >= others  # other tests leave buckets of several pages
    assert counted == {}
    with costs(proxy):
        assert full in [found.name for found in conn.get_all_buckets()]
        found = conn.get_bucket(full)
        assert [key.name for key in found] == ["there/before"]
        assert [key.name for key in found.list()] == ["there/before"]
        assert [key.name for key in found.get_all_keys(prefix="there/")] == ["there/before"]
        assert found.get_key("there/before").size == 4
        assert found.get_key("nothing") is None


@every_store
def test_only_some_buckets_can_be_synced(conn, proxy, client, full):
    client.create_bucket(Bucket=f"{full}-2")
    client.put_object(Bucket=f"{full}-2", Key="b", Body=b"here")
    with costs(proxy, LIST=2):
        conn.sync(full, f"{full}-2")
    with costs(proxy):
        found = [conn.get_bucket(name, validate=False) for name in (full, f"{full}-2")]
        assert [key.name for bucket in found for key in bucket.list()] == ["there/before", "b"]


@every_store
def test_upload_download_and_list_as_usual(conn, proxy, client, bucket):
    conn.sync(bucket)
    proxy.counted()
    mine = conn.get_bucket(bucket, validate=False)
    key = Key(mine)
    key.key = "foobar"
    with costs(proxy, PUT=1):
        key.set_contents_from_string("This is a test of S3")
    with costs(proxy):
        assert [(key.name, key.size) for key in mine.list()] == [("foobar", 20)]
        found = mine.get_key("foobar")
    with costs(proxy, GET=1):
        assert found.get_contents_as_string() == b"This is a test of S3"
    with costs(proxy, DELETE=1):
        found.delete()
    with costs(proxy):
        assert list(mine) == list(mine.list()) == []


# Backends


def test_redis_is_the_default_store(redis_port, monkeypatch, proxy, bucket):
    made = []

    class Default(Redis):
        def __init__(self, **kwargs):
            made.append(kwargs)
            super().__init__(port=redis_port, **kwargs)

    monkeypatch.setattr("mimicfs.backends.default.Redis", Default)
    first = MimicDB(namespace="photos")
    conn = S3Connection("key", "secret", endpoint_url=proxy.url, mimicdb=first)
    conn.get_bucket(bucket).new_key("a").set_contents_from_string("x")
    second = MimicDB(backend=Redis(host="localhost", port=redis_port, db=0), namespace="photos")
    assert [entry.key for entry in second.listing(bucket)] == ["a"]
    assert made == [{"namespace": "photos"}]
    conn.close()
    first.close()
    second.close()


def test_the_stores_that_the_documentation_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MimicDB(backend=SQLite()).close()
    assert os.listdir(tmp_path) == []  # in memory
    MimicDB(backend=SQLite("mimicdb.db")).close()
    assert os.listdir(tmp_path) == ["mimicdb.db"]
    MimicDB(backend=Memory()).close()


def test_a_backend_of_ones_own_must_do_each_of_the_functions():
    class MyAwesomeBackend(Backend):
        def __init__(self):
            super().__init__()

    with pytest.raises(TypeError, match=r"abstract methods? .*apply.*buckets"):
        MyAwesomeBackend()


# Syncing and forcing


@every_store
def test_a_bucket_syncs_itself(conn, proxy, client, full):
    mine = conn.get_bucket(full, validate=False)
    with costs(proxy, LIST=1):
        mine.sync()
    client.delete_object(Bucket=full, Key="there/before")
    client.put_object(Bucket=full, Key="new", Body=b"x")
    with costs(proxy):
        assert [key.name for key in mine] == ["there/before"]
    with costs(proxy, LIST=1):
        mine.sync()
    with costs(proxy):
        assert [key.name for key in mine] == ["new"]


@every_store
def test_what_others_did_shows_when_it_is_forced_once(conn, proxy, client, bucket):
    conn.sync(bucket)
    mine = conn.get_bucket(bucket, validate=False)
    client.put_object(Bucket=bucket, Key="new", Body=b"new")
    with costs(proxy):
        assert list(mine.list()) == mine.get_all_keys() == list(mine) == []
        assert mine.get_key("new") is None
    with costs(proxy, HEAD=1):
        assert mine.get_key("new", force=True).size == 3
    with costs(proxy):
        assert [key.name for key in mine] == ["new"]
    client.put_object(Bucket=bucket, Key="newer", Body=b"new")
    with costs(proxy, LIST=1):
        assert [key.name for key in mine.get_all_keys(force=True)] == ["new", "newer"]
    client.delete_object(Bucket=bucket, Key="new")
    with costs(proxy):
        assert [key.name for key in mine.get_all_keys()] == ["new", "newer"]
    with costs(proxy, LIST=1):
        assert [key.name for key in mine.list(force=True)] == ["newer"]
    with costs(proxy):
        assert [key.name for key in mine] == ["newer"]


@every_store
def test_buckets_of_others_show_when_they_are_forced_once(conn, proxy, client, bucket):
    conn.sync()
    other = f"{bucket}-other"
    client.create_bucket(Bucket=other)
    proxy.counted()
    with costs(proxy):
        assert other not in [found.name for found in conn.get_all_buckets()]
    with costs(proxy, HEAD=1):
        assert conn.get_bucket(other, force=True).name == other
    with costs(proxy):
        assert conn.get_bucket(other).name == other
        assert other in [found.name for found in conn.get_all_buckets()]
    client.delete_bucket(Bucket=other)
    with costs(proxy):
        assert conn.get_bucket(other).name == other
    with costs(proxy, HEAD=1), pytest.raises(S3ResponseError):
        conn.get_bucket(other, force=True)
    with costs(proxy):
        assert other not in [found.name for found in conn.get_all_buckets()]
    client.create_bucket(Bucket=other)
    with costs(proxy, LIST_BUCKETS=1):
        assert other in [found.name for found in conn.get_all_buckets(force=True)]
    client.delete_bucket(Bucket=other)
    with costs(proxy, LIST_BUCKETS=1):
        assert other not in [found.name for found in conn.get_all_buckets(force=True)]
    with costs(proxy):
        assert other not in [found.name for found in conn.get_all_buckets()]


@every_store
def test_iterating_a_bucket_never_asks_s3(conn, proxy, full):
    with costs(proxy):
        assert list(conn.get_bucket(full, validate=False)) == []


@every_store
def test_a_bucket_that_is_not_there_is_a_404(conn, bucket):
    with pytest.raises(S3ResponseError) as exc:
        conn.get_bucket(f"{bucket}-none")
    assert (exc.value.status, exc.value.reason) == (404, "Not Found")
    assert exc.value.error_code == "NoSuchBucket"
    assert conn.lookup(f"{bucket}-none") is None
    assert f"{bucket}-none" not in conn
    assert conn.get_bucket(f"{bucket}-none", validate=False).name == f"{bucket}-none"


def test_without_a_mimicdb_a_connection_says_what_to_do(monkeypatch):
    monkeypatch.setattr("mimicfs.process._current", [])
    with pytest.raises(ConfigError, match=r"call MimicDB\(\) first"):
        S3Connection("key", "secret")


def test_the_package_gives_what_the_documentation_imports():
    assert mimicfs.MimicDB is MimicDB
