"""A mount of a moment shows the bucket as it was then."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from support.clients import plain
from support.mounts import run
from support.proxy import Rule

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


class History(NamedTuple):
    """A bucket, and moments of its life: *first* < *second* < *third*."""

    bucket: str
    first: str
    second: str
    third: str


def moment() -> str:
    """Return a moment after all that was done, and before all that comes: servers say times to
    the second."""
    here = int(time.time()) + 1
    while time.time() < here:
        time.sleep(0.02)
    return datetime.fromtimestamp(here - 0.001, UTC).isoformat()


@pytest.fixture(scope="module")
def history(moto: str) -> Iterator[History]:
    client = plain(moto)
    bucket = "history"
    client.create_bucket(Bucket=bucket)
    put(client, "null", b"before versions")
    enabled = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled)
    put(client, "file", b"one")
    put(client, "d/deleted later", b"12345")
    put(client, "only/then", b"1")
    put(client, "link", b"", Metadata={"mode": "41471", "mimicfs-target": "file"})
    first = moment()
    put(client, "file", b"second one")
    put(client, "null", b"with versions")
    put(client, "d/new", b"1")
    client.delete_object(Bucket=bucket, Key="d/deleted later")
    client.delete_object(Bucket=bucket, Key="only/then")
    second = moment()
    put(client, "file", b"3")
    put(client, "d/deleted later", b"again")
    yield History(bucket, first, second, moment())
    client.close()


def put(client: Any, key: str, body: bytes, **more: Any) -> None:
    client.put_object(Bucket="history", Key=key, Body=body, **more)


def walked(path):
    return sorted(
        os.path.relpath(os.path.join(top, name), path)
        for top, _, names in os.walk(path)
        for name in names
    )


def test_each_moment_has_its_names_and_bytes(mount_at, history):
    then = mount_at("s3://history", "-o", f"at={history.first}", name="first").path
    assert walked(then) == ["d/deleted later", "file", "link", "null", "only/then"]
    assert (then / "file").read_bytes() == b"one"
    assert (then / "null").read_bytes() == b"before versions"
    assert (then / "d/deleted later").read_bytes() == b"12345"
    later = mount_at("s3://history", "-o", f"at={history.second}", name="second").path
    assert walked(later) == ["d/new", "file", "link", "null"]
    assert (later / "file").read_bytes() == b"second one"
    assert (later / "null").read_bytes() == b"with versions"
    assert not (later / "only").exists()


@pytest.mark.usefixtures("metadata_never")
def test_names_and_attributes_of_then_cost_one_pass(mount_at, history, proxy):
    then = mount_at("s3://history", "-o", f"at={history.first}").path
    assert proxy.counted() == {"HEAD": 1, "LIST": 2}  # one of them: whether there are versions
    assert walked(then) == ["d/deleted later", "file", "link", "null", "only/then"]
    assert (then / "file").stat().st_size == 3
    assert not (then / "missing").exists()
    version = os.getxattr(then / "file", "user.mimicfs.version").decode()
    assert proxy.counted() == {}
    assert os.getxattr(then / "null", "user.mimicfs.version") == b"null"
    client = plain(proxy.url)
    said = client.get_object(Bucket=history.bucket, Key="file", VersionId=version)
    assert said["Body"].read() == b"one"


def test_nothing_can_be_changed_then(mount_at, history):
    then = mount_at("s3://history", "-o", f"at={history.first}").path
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (then / "file").write_bytes(b"x")
    refused = run("undelete", then / "file")
    assert (refused.returncode, "shows a moment" in refused.stderr) == (2, True)


def test_a_prefix_of_then(mount_at, history, server, tmp_path):
    then = mount_at("s3://history/d/", "-o", f"at={history.first}").path
    assert os.listdir(then) == ["deleted later"]
    point = tmp_path / "none"
    point.mkdir()
    words = ["-o", f"at={history.first}", "s3://history/none/", point]
    result = run("mount", "--endpoint-url", server, *words)
    assert "s3://history/none/: nothing in the bucket begins with that" in result.stderr


def test_the_present_of_the_same_store_is_untouched(mount_at, history):
    now = mount_at("s3://history", name="now").path
    assert (now / "file").read_bytes() == b"3"
    then = mount_at("s3://history", "-o", f"at={history.first}", name="then").path
    assert (then / "file").read_bytes() == b"one"
    assert (now / "file").read_bytes() == b"3"


def test_a_moment_that_is_none_is_refused(state, server, tmp_path):
    point = tmp_path / "mnt"
    point.mkdir()
    for text, said in {
        "tomorrow": "tomorrow: not a moment",
        "2999-01-01": "2999-01-01: is in the future",
    }.items():
        result = run("mount", "-o", f"at={text}", "s3://history", point)
        assert (result.returncode, said in result.stderr) == (2, True), result.stderr


@pytest.mark.usefixtures("metadata_never")
def test_the_present_of_a_versioned_bucket_costs_what_any_bucket_costs(mount_at, proxy, server):
    """The same requests, of as many bytes: names of buckets and headers are of one length."""
    client, asked, sent = plain(server), [], []

    def notes(request: Any) -> bool:
        said = [*request.headers.items(), *request.query.items()]
        size = sum(len(f"{name}{value}") for name, value in said)
        sent[-1].append((request.kind, request.path.removeprefix(f"/{name}"), size))
        return False

    for name, status in (("unversioned-now", ""), ("versions-kept-1", "Enabled")):
        client.create_bucket(Bucket=name)
        if status:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
        client.put_object(Bucket=name, Key="d/a", Body=b"1")
        client.put_object(Bucket=name, Key="d/a", Body=b"22")
        proxy.counted()
        sent.append([])
        with proxy.rule(Rule(notes)):
            mount = mount_at(f"s3://{name}", name=name)  # alone: with others, a rename asks more
            root = mount.path
            assert walked(root) == ["d/a"]
            assert (root / "d/a").read_bytes() == b"22"
            (root / "d/new").write_bytes(b"1")
            (root / "d/new").write_bytes(b"22")
            (root / "d/new").rename(root / "d/other")
            (root / "d/other").unlink()
        asked.append(proxy.counted())
        mount.end()
    assert asked[0] == asked[1], asked
    assert sorted(sent[0]) == sorted(sent[1])
    client.close()


def test_a_bucket_that_never_kept_versions_has_no_past(server, client, bucket, tmp_path):
    client.put_object(Bucket=bucket, Key="a", Body=b"now")
    common = ["--endpoint-url", server]
    refused = (
        f"mimicfs: s3://{bucket} keeps no versions and never did, so nobody knows its past;"
        " switch versioning on, and later moments can be shown\n"
    )
    for words in (
        ("mount", "-o", "at=-1s", f"s3://{bucket}", tmp_path),
        ("ls", "--at", "-1s", f"s3://{bucket}"),
        ("du", "--at", "-1s", f"s3://{bucket}"),
    ):
        result = run(words[0], *common, *words[1:])
        assert (result.returncode, result.stdout, result.stderr) == (2, "", refused)
