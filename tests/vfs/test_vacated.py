"""A file that comes to a name that another was renamed away from a moment ago takes over what is
stored with that, also where S3 fails at first."""

from __future__ import annotations

import os

import pytest
from support.proxy import Fail

from mimicfs.errors import Interrupted, MimicError, PosixError
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import Content

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def caller():
    return Caller(os.getuid(), os.getgid(), 0, Cancellation())


@pytest.fixture
def fs(fs, s3, bucket):
    """A file system in which `x` was just renamed to `x~`."""
    s3.put(bucket, "x", b"old", 3, Content(headers={"CacheControl": "max-age=7"}))
    fs.rename(caller(), ROOT_INO, b"x", ROOT_INO, b"x~", 0)
    return fs


def save(fs, name=b"x"):
    handle = fs.create(caller(), ROOT_INO, name, 0o644, os.O_WRONLY)[1].handle
    fs.flush(caller(), handle)
    fs.release(handle)


def cache_control(client, bucket):
    return client.head_object(Bucket=bucket, Key="x").get("CacheControl")


def failing(proxy, kind, key):
    refused = lambda request: (request.kind, request.key) == (kind, key)  # noqa: E731
    return proxy.rule(Fail(refused, 501, "NotImplemented"))


def test_a_file_that_could_not_be_made_takes_over_what_was_stored_when_it_is_made(
    fs, proxy, client, bucket, monkeypatch
):
    with failing(proxy, "HEAD", "x~"), pytest.raises(MimicError):
        save(fs)
    hurried = caller()
    hurried.cancellation.cancel()
    with pytest.raises(Interrupted):
        fs.create(hurried, ROOT_INO, b"x", 0o644, os.O_WRONLY)
    with monkeypatch.context() as full:
        full.setattr(fs._handles, "create", lambda *_, **__: (_ for _ in ()).throw(PosixError(28)))
        with pytest.raises(PosixError, match="No space"):
            save(fs)
    save(fs)
    assert cache_control(client, bucket) == "max-age=7"
    fs.unlink(caller(), ROOT_INO, b"x")
    save(fs)  # by now another one has taken it over
    assert cache_control(client, bucket) is None


@pytest.mark.parametrize(("kind", "key"), [("HEAD", "x~"), ("COPY", "x")])
def test_a_rename_that_failed_takes_over_what_was_stored_when_it_is_done(
    fs, proxy, client, bucket, kind, key
):
    save(fs, b"new")
    with failing(proxy, kind, key), pytest.raises(MimicError):
        fs.rename(caller(), ROOT_INO, b"new", ROOT_INO, b"x", 0)
    fs.rename(caller(), ROOT_INO, b"new", ROOT_INO, b"x", 0)
    assert cache_control(client, bucket) == "max-age=7"


def test_what_left_long_ago_costs_a_new_file_no_request(fs, client, bucket, s3, monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.vacated.time.monotonic", lambda: 1e12)
    s3.requests.clear()
    monkeypatch.setattr(s3.pool, "submit", None)
    opened = fs.create(caller(), ROOT_INO, b"x", 0o644, os.O_WRONLY)[1]
    monkeypatch.undo()
    assert s3.requests == {}
    fs.flush(caller(), opened.handle)
    fs.release(opened.handle)
    assert cache_control(client, bucket) is None
