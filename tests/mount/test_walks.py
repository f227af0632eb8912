"""A program that walks a tree is shown what is there, although the next directory is read before
it asks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.mounts import Mount

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

NEXT = "d4"  # what is foreseen after d0 to d3


@pytest.fixture
def tree(client: Any, bucket: str) -> None:
    for number in range(8):
        client.put_object(Bucket=bucket, Key=f"d{number}/old", Body=b"text")


def walk(path: Path) -> None:
    """List *path* and the directories in it up to d3, in order."""
    (path / ".sync").touch()
    assert sorted(os.listdir(path)) == [f"d{number}" for number in range(8)]
    for number in range(4):
        assert os.listdir(path / f"d{number}") == ["old"]


@pytest.mark.usefixtures("tree")
def test_a_new_file_is_shown_before_and_after_it_is_stored(mount: Path) -> None:
    walk(mount)
    with open(mount / NEXT / "new", "w") as file:
        assert sorted(os.listdir(mount / NEXT)) == ["new", "old"]
        file.write("text")
    assert sorted(os.listdir(mount / NEXT)) == ["new", "old"]


@pytest.mark.usefixtures("tree")
def test_what_this_mount_changes_in_the_next_directory_is_shown(mount: Path) -> None:
    walk(mount)
    os.rename(mount / NEXT / "old", mount / NEXT / "other")
    assert os.listdir(mount / NEXT) == ["other"]
    os.listdir(mount / "d5")
    os.unlink(mount / "d6/old")
    (mount / "d6").mkdir(exist_ok=True)
    assert os.listdir(mount / "d6") == []


@pytest.mark.usefixtures("tree")
def test_what_a_refresh_finds_in_the_next_directory_is_shown(
    mount: Path, client: Any, bucket: str
) -> None:
    walk(mount)
    client.put_object(Bucket=bucket, Key=f"{NEXT}/new", Body=b"text")
    client.delete_object(Bucket=bucket, Key=f"{NEXT}/old")
    (mount / ".sync").touch()
    assert os.listdir(mount / NEXT) == ["new"]


@pytest.mark.usefixtures("tree")
def test_what_another_mount_of_the_store_changed_is_shown_when_it_was_told(
    mount_at: Callable[..., Mount], bucket: str
) -> None:
    here = mount_at(f"s3://{bucket}", name="here").path
    there = mount_at(f"s3://{bucket}", name="there").path
    walk(here)
    (there / NEXT / "new").write_text("text")
    for _ in range(10_000):  # nothing was shown yet that could be told of
        if sorted(os.listdir(here / NEXT)) == ["new", "old"]:
            return
    raise AssertionError(os.listdir(here / NEXT))
