"""The first look at what others have replaced shows the new version, not an error ."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("new", [b"theirs", b"theirs, and much longer than before", b""])
def test_the_first_read_of_what_others_replaced_gives_the_new_bytes(mount, client, bucket, new):
    client.put_object(Bucket=bucket, Key="a", Body=b"old version")
    assert (mount / "a").stat().st_size == 11
    client.put_object(Bucket=bucket, Key="a", Body=new)
    assert (mount / "a").read_bytes() == new
    assert (mount / "a").stat().st_size == len(new)


def test_the_first_read_of_what_others_deleted_is_enoent(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"old version")
    assert (mount / "a").stat().st_size == 11
    client.delete_object(Bucket=bucket, Key="a")
    with pytest.raises(FileNotFoundError):
        (mount / "a").read_bytes()
    assert os.listdir(mount) == []


def test_the_first_write_to_what_others_replaced_changes_the_new_version(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"old version")
    with open(mount / "a", "r+b", buffering=0) as file:
        client.put_object(Bucket=bucket, Key="a", Body=b"theirs, and longer")
        file.write(b"OURS  ")
    found = client.get_object(Bucket=bucket, Key="a")["Body"].read()
    assert found == b"OURS  , and longer"


def test_whoever_has_read_of_the_old_version_reads_nothing_of_the_new_one(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"o" * (3 << 20))
    with open(mount / "a", "rb", buffering=0) as file:
        assert file.read(4) == b"oooo"
        client.put_object(Bucket=bucket, Key="a", Body=b"n" * (3 << 20))
        try:
            rest = file.read()
        except OSError:
            return
    assert b"n" not in rest
