"""`mimicfs diff`, `restore`, `undelete` and --at, over a real versioned bucket."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.mounts import MIMICFS, run, succeed, wait_until
from support.proxy import Drop, Fail, Rule

pytestmark = [
    pytest.mark.parametrize("server", ["moto"], indirect=True),
    pytest.mark.usefixtures("state"),
]


def moment() -> str:
    """Return a moment after all that was done, and before all that comes: servers say times to
    the second."""
    here = int(time.time()) + 1
    while time.time() < here:
        time.sleep(0.02)
    return datetime.fromtimestamp(here - 0.001, UTC).replace(tzinfo=None).isoformat()


@pytest.fixture
def versioned(client: Any, bucket: str) -> str:
    enabled = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled)
    return bucket


@pytest.fixture
def ask(server: str):
    def ask(command: str, *arguments: str, code: int = 0) -> str:
        result = run(command, "--endpoint-url", server, *arguments)
        assert result.returncode == code, result.stderr
        return result.stdout

    return ask


def everything(client: Any, bucket: str) -> dict[str, str]:
    """Return the SHA-256 of each object that is there now."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return {
        key: hashlib.sha256(client.get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest()
        for key in keys
    }


def put(client: Any, bucket: str, **objects: str) -> None:
    for key, body in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=body.encode())


def test_diff_tells_what_became_of_names_between_two_moments(client, versioned, ask):
    put(client, versioned, kept="1", changed="1", deleted="1", same="1")
    first = moment()
    put(client, versioned, changed="22", added="1", same="1", passing="1")
    client.delete_object(Bucket=versioned, Key="deleted")
    client.delete_object(Bucket=versioned, Key="passing")
    second = moment()
    put(client, versioned, later="1")
    said = ask("diff", f"s3://{versioned}", "--from", first, "--to", second, code=1)
    assert said.splitlines() == [
        f"+ s3://{versioned}/added",
        f"M s3://{versioned}/changed",
        f"- s3://{versioned}/deleted",
        f"= s3://{versioned}/same",
    ]
    assert ask("diff", f"s3://{versioned}", "--from", second, "--to", second) == ""
    [line] = ask("diff", "--json", f"s3://{versioned}", "--from", second, code=1).splitlines()
    told = json.loads(line)
    assert (told["change"], told["key"], told["before"]) == ("added", "later", None)
    assert told["after"]["size"] == 1


def journalled(state: Path) -> int:
    """Return how many copies a restore has written down."""
    return sum(len(each.read_text().split()) for each in state.glob("restores/*"))


def in_parallel(work: Any, items: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, items))


def test_what_ransomware_did_is_undone_also_by_a_restore_that_was_killed(
    client, versioned, proxy, request, state
):
    """40 objects; `--encrypted 2000` has as many as one likes."""
    count = request.config.getoption("--encrypted")
    names = {number: f"d{number % 3}/{number}" for number in range(count)}
    in_parallel(lambda number: put(client, versioned, **{names[number]: f"good {number}"}), names)
    good = everything(client, versioned)
    before = moment()

    def encrypt(number: int) -> None:
        if number % 2:
            put(client, versioned, **{names[number]: "encrypted"})
        if number % 4 < 2:
            client.delete_object(Bucket=versioned, Key=names[number])

    in_parallel(encrypt, names)
    put(client, versioned, **{"d1/README_TO_DECRYPT": "pay"})
    words = ["restore", "--endpoint-url", proxy.url, f"s3://{versioned}", "--at", before]
    assert len(succeed(*words, "--dry-run").splitlines()) == count * 3 // 4 + 1
    assert everything(client, versioned) != good
    copied = itertools.count(1)
    with proxy.rule(Drop(lambda it: it.kind == "COPY" and next(copied) > count // 4)) as drop:
        restoring = subprocess.Popen([str(MIMICFS), *words], stderr=subprocess.DEVNULL)
        assert drop.reached.wait(60)
        wait_until(lambda: journalled(state) == count // 4)
        restoring.kill()
        restoring.wait()
    assert everything(client, versioned) != good
    proxy.counted()
    left = succeed(*words, "--dry-run").splitlines()
    assert len([line for line in left if line.startswith("restore ")]) == count // 2
    succeed(*words)
    assert everything(client, versioned) == good
    assert proxy.counted()["COPY"] == count * 3 // 4 - count // 4  # encrypted, deleted or both
    assert succeed(*words, "--dry-run") == ""
    assert run(*words).stderr.endswith("\n0 restored, 0 undeleted, 0 deleted, 0 failed\n")


def test_a_restore_leaves_alone_what_it_need_not_touch(client, versioned, ask):
    put(client, versioned, same="1", changed="1")
    at = moment()
    put(client, versioned, changed="2")

    def count() -> int:
        return len(client.list_object_versions(Bucket=versioned)["Versions"])

    assert count() == 3
    ask("restore", f"s3://{versioned}", "--at", at)
    assert count() == 4
    ask("restore", f"s3://{versioned}", "--at", at)
    assert count() == 4
    put(client, versioned, changed="3")
    ask("restore", f"s3://{versioned}", "--at", at)
    assert everything(client, versioned)["changed"] == hashlib.sha256(b"1").hexdigest()


def test_a_restored_object_has_the_key_of_kms_that_it_had(client, versioned, proxy):
    """S3 would encrypt a copy that names no key as the bucket says. (moto keeps the key.)"""
    own = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1", "BucketKeyEnabled": True}
    client.put_object(Bucket=versioned, Key="own", Body=b"1", **own)
    put(client, versioned, usual="1")
    before = moment()
    put(client, versioned, own="22", usual="22")
    named = {}

    def notes(request: Any) -> bool:
        if request.kind == "COPY":
            about = "x-amz-server-side-encryption"
            said = (f"{about}-aws-kms-key-id", f"{about}-bucket-key-enabled", about)
            named[request.key] = [request.headers.get(name) for name in said]
        return False

    with proxy.rule(Rule(notes)):
        succeed("restore", "--endpoint-url", proxy.url, f"s3://{versioned}", "--at", before)
    assert named == {"own": ["key-1", "true", "aws:kms"], "usual": [None, None, None]}


def test_a_restored_object_gets_no_key_by_the_configuration(client, versioned, proxy, tmp_path):
    put(client, versioned, plain="1")
    before = moment()
    put(client, versioned, plain="22")
    config = tmp_path / "config.toml"
    config.write_text('[[buckets."*".rules]]\nkeys = "*"\nsse = "aws:kms"\nkms-key-id = "k"\n')
    config.chmod(0o600)
    named = []

    def notes(request: Any) -> bool:
        if request.kind == "COPY":
            named.append(request.headers.get("x-amz-server-side-encryption"))
        return False

    words = ("--config", config, "--endpoint-url", proxy.url, f"s3://{versioned}", "--at", before)
    with proxy.rule(Rule(notes)):
        succeed("restore", *words)
    assert named == [None]


def test_a_restore_can_keep_what_is_new_and_ends_at_its_prefix(client, versioned, ask):
    put(client, versioned, **{"d/a": "1", "e/a": "1"})
    at = moment()
    put(client, versioned, **{"d/a": "2", "e/a": "2", "d/new": "1"})
    ask("restore", f"s3://{versioned}/d/", "--at", at, "--keep-new")
    found = everything(client, versioned)
    assert sorted(found) == ["d/a", "d/new", "e/a"]
    assert found["d/a"] == hashlib.sha256(b"1").hexdigest()
    assert found["e/a"] == hashlib.sha256(b"2").hexdigest()


def test_the_name_of_an_object_is_that_object_and_all_below(client, versioned, ask, server):
    put(client, versioned, **{"f": "1", "f/a": "1", "f2": "1", "g": "1"})
    at = moment()
    put(client, versioned, **{"f": "2", "f/a": "2", "f2": "2", "g": "2"})
    said = run("restore", "--endpoint-url", server, f"s3://{versioned}/f", "--at", at).stderr
    assert said.startswith(f"restoring s3://{versioned}/f to --at ")
    ask("restore", f"s3://{versioned}/g", "--at", at)
    said = ask("diff", f"s3://{versioned}", "--from", at, code=1)
    assert said.splitlines() == [
        f"= s3://{versioned}/f",
        f"= s3://{versioned}/f/a",
        f"M s3://{versioned}/f2",
        f"= s3://{versioned}/g",
    ]
    assert ask("diff", f"s3://{versioned}/g/", "--from", at) == ""


def test_what_would_be_lost_without_versions_is_not_restored(client, bucket, ask, server):
    put(client, bucket, a="1")
    for also in ([], ["--dry-run"]):
        result = run("restore", "--endpoint-url", server, f"s3://{bucket}", "--at", "-1h", *also)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.splitlines()[-1] == (
            f"mimicfs: s3://{bucket} keeps no versions (never did), so a restore would lose the"
            " present objects; switch versioning on"
        )
    assert list(everything(client, bucket)) == ["a"]


def test_undelete_by_key_and_by_directory(client, versioned, ask):
    put(client, versioned, **{"a": "1", "ab": "1", "d/x": "2", "d/y": "3"})
    for key in ("a", "ab", "d/x", "d/y", "d/y"):
        client.delete_object(Bucket=versioned, Key=key)
    ask("undelete", f"s3://{versioned}", code=2)  # only a / at the end means all below
    ask("undelete", f"s3://{versioned}/never", "--dry-run", code=1)
    assert len(ask("undelete", f"s3://{versioned}/", "--dry-run").splitlines()) == 4
    assert ask("undelete", f"s3://{versioned}/a").startswith(f"undelete s3://{versioned}/a as of ")
    assert sorted(everything(client, versioned)) == ["a"]
    ask("undelete", f"s3://{versioned}/d/")
    assert sorted(everything(client, versioned)) == ["a", "d/x", "d/y"]
    ask("undelete", f"s3://{versioned}/a", code=1)
    ask("undelete", f"s3://{versioned}/never", code=1)


def test_undelete_needs_no_versions_to_come_and_says_which_right_is_missing(
    client, bucket, ask, proxy
):
    put(client, bucket, a="1")
    ask("undelete", f"s3://{bucket}/a", code=1)
    denied = Fail(lambda it: "versions" in it.query, 403, "AccessDenied")
    with proxy.rule(denied):
        result = run("undelete", "--endpoint-url", proxy.url, f"s3://{bucket}/a")
    assert result.returncode == 5
    assert result.stderr.endswith(
        "AccessDenied; ask for s3:ListBucketVersions on it, or choose another --profile\n"
    )


def test_commands_answer_of_a_moment(client, versioned, ask):
    put(client, versioned, **{"d/a": "1", "d/b": "22", "c": "1"})
    at = moment()
    put(client, versioned, **{"d/a": "333", "new": "1"})
    client.delete_object(Bucket=versioned, Key="d/b")
    url = f"s3://{versioned}"
    assert ask("ls", url, "--at", at).split() == ["c", "d/"]
    assert ask("ls", f"{url}/d/", "--at", at).split() == ["a", "b"]
    assert ask("find", url, "--at", at, "--keys", "--type", "f").split() == ["c", "d/a", "d/b"]
    assert ask("du", "-s", "-b", url, "--at", at).split() == ["4", "3", f"{url}/"]
    assert json.loads(ask("stat", f"{url}/d/a", "--at", at, "--json"))["size"] == 1


def test_undelete_by_the_path_in_a_mount(client, versioned, server, tmp_path):
    """The mount shows a part of each bucket, and has a store of its own."""
    point, config = tmp_path / "mnt", tmp_path / "config.toml"
    point.mkdir()
    config.write_text(f'[buckets.{versioned}]\nprefix = "part"\n')
    config.chmod(0o600)
    own = "d/.mimicfs-check-0123456789abcdef"
    names = ("50% a", "b", "d/e", "d/.mimicfs-notes")
    put(client, versioned, **{f"part/{name}": "1" for name in (*names, own)})
    client.delete_object(Bucket=versioned, Key=f"part/{own}")  # no mount shows it
    words = ("--endpoint-url", server, "--store", f"sqlite://{tmp_path}/own.db")
    succeed("mount", *words, "--config", config, "s3://", point)
    try:
        part = point / versioned
        assert sorted(os.listdir(part)) == ["50% a", "b", "d"]
        for name in names:
            (part / name).unlink()
        (part / "d").rmdir()
        refused = run("undelete", part)  # all of a bucket, without a /
        assert refused.stderr.endswith(f"write {part}/ to undelete everything below it\n")
        succeed("undelete", part / "50% a")
        wait_until((part / "50% a").exists)
        assert sorted(everything(client, versioned)) == ["part/50% a"]
        succeed("undelete", f"{part}/d/")
        wait_until((part / "d/e").exists)
        back = ["part/50% a", "part/d/.mimicfs-notes", "part/d/e"]  # all but our own
        assert sorted(everything(client, versioned)) == back
    finally:
        succeed("umount", point)
