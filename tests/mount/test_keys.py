"""Every legal key through a mount: each has one name, by which it is listed, read, written, renamed
and removed; and what `rm`, `mv` and `rm -r` do with a key that is also a prefix."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# rclone serve s3 keeps keys as paths of a local file system, which has few of these.
moto_only = pytest.mark.parametrize("server", ["moto"], indirect=True)

NAMES = {
    "a//b": "a/%empty/b",
    "a///": "a/%empty/%empty/%object",
    "/lead": "%empty/lead",
    "x/../y": "x/%dotdot/y",
    "./dot": "%dot/dot",
    ".": "%dot%file",
    "..": "%dotdot",
    "clash": "clash%file",
    "clash/in": "clash/in",
    "ts/": "ts/%object",
    "ctl\x01x": "ctl\x01x",
    "carriage\rreturn": "carriage\rreturn",
    "tab\t": "tab\t",
    "back\\slash": "back\\slash",
    "%2F": "%2F",
    "100%": "100%",
    "x%file": "x%file%name",
    "%empty": "%empty%name",
    ".sync": ".sync%name",
    "trailing ": "trailing ",
    " ": " ",
    "e\u0301": "e\u0301",
    "\u00e9": "\u00e9",
    "Case": "Case",
    "case": "case",
    "k" * 256: "k" * 256,
    "l" * 1023: "l" * 1023,
    "d" * 511 + "/" + "f" * 511: "d" * 511 + "/" + "f" * 511,
    "m" * 1021: os.fsdecode(b"m" * 1021 + b"\xfc\xfc"),
    "m" * 1021 + "/n": "m" * 1021 + "/n",
    "n" * 1018 + "%file": os.fsdecode(b"n" * 1018 + b"\xfdfile"),
}


def keys(client: Any, bucket: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def body(client: Any, bucket: str, key: str) -> bytes:
    data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return data


@pytest.fixture
def synced(mount: Path, client: Any, bucket: str, request: pytest.FixtureRequest) -> Path:
    for key in getattr(request, "param", ()):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    (mount / ".sync").touch()
    return mount


def found_in(root: Path) -> list[str]:
    found = []
    for directory, _, files in os.walk(root):
        found += [os.path.relpath(os.path.join(directory, file), root) for file in files]
    return sorted(found)


@moto_only
def test_no_directory_gets_the_name_of_an_object_beside_one(mount: Path) -> None:
    (mount / "made").mkdir()
    for name in ("%object", "a%file"):
        with pytest.raises(OSError, match="Invalid argument"):
            (mount / name).mkdir()
        with pytest.raises(OSError, match="Invalid argument"):
            os.rename(mount / "made", mount / name)
    assert os.listdir(mount) == ["made"]


@moto_only
def test_the_content_of_a_marker_leaves_the_directory_its_attributes(
    mount: Path, client: Any, bucket: str
) -> None:
    (mount / "d").mkdir(mode=0o750)
    os.setxattr(mount / "d", "user.a", b"1")
    (mount / "d/%object").write_bytes(b"content")
    (mount / "d/%object").chmod(0o710)
    assert ((mount / "d").stat().st_mode, os.getxattr(mount / "d", "user.a")) == (0o40710, b"1")
    assert (mount / "d/%object").read_bytes() == b"content"
    found = client.head_object(Bucket=bucket, Key="d/")
    assert (found["ContentType"], found["Metadata"]["mode"]) == ("application/x-directory", "16840")


@moto_only
def test_a_directory_and_the_content_of_its_marker_have_one_mode(mount: Path) -> None:
    directory = mount / "d"
    directory.mkdir()
    content = directory / "%object"
    content.write_bytes(b"content")
    seen, wanted = [], []
    for turn in range(10):
        content.chmod(0o700 + turn)
        seen.append(directory.stat().st_mode & 0o777)
        directory.chmod(0o750 + turn)
        seen.append(content.stat().st_mode & 0o777)
        wanted += [0o700 + turn, 0o750 + turn]
    assert seen == wanted


@moto_only
def test_the_content_of_a_marker_that_others_replace_is_shown(
    mount: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="d/", Body=b"first")
    (mount / ".sync").touch()
    assert (mount / "d/%object").read_bytes() == b"first"
    client.put_object(Bucket=bucket, Key="d/", Body=b"second one")
    (mount / ".sync").touch()
    assert (mount / "d/%object").stat().st_size == 10
    assert (mount / "d/%object").read_bytes() == b"second one"


def in_turn(client: Any, bucket: str, root: Path) -> None:
    """Read each file, and write it; then move it away, and back."""
    for key, name in NAMES.items():
        path = f"{root}/{name}"
        assert os.getxattr(path, "user.mimicfs.key") == key.encode()
        assert Path(path).read_bytes() == key.encode(), key
        with open(path, "ab") as file:
            file.write(b"+")
        assert body(client, bucket, key) == key.encode() + b"+"
        if key.endswith("/"):
            continue  # a directory's own content
        os.rename(path, root / "elsewhere")
        assert key not in keys(client, bucket)
        os.rename(root / "elsewhere", path)
        assert body(client, bucket, key) == key.encode() + b"+"


@moto_only
@pytest.mark.parametrize("synced", [NAMES], indirect=True)
def test_every_key_is_listed_read_written_renamed_and_removed(
    synced: Path, client: Any, bucket: str
) -> None:
    assert found_in(synced) == sorted(NAMES.values())
    in_turn(client, bucket, synced)
    assert sorted(keys(client, bucket)) == sorted(NAMES)
    assert found_in(synced) == sorted(NAMES.values())
    subprocess.run(["find", synced, "-mindepth", "1", "-delete"], check=True, timeout=60)
    assert keys(client, bucket) == []


@moto_only
@pytest.mark.parametrize("synced", [["a", "a/b"]], indirect=True)
def test_rm_removes_the_object_by_its_name_and_not_the_directory(
    synced: Path, client: Any, bucket: str
) -> None:
    assert sorted(os.listdir(synced)) == ["a", "a%file"]
    assert subprocess.run(["rm", synced / "a"], stderr=-3, check=False).returncode == 1
    (synced / "a%file").unlink()
    assert keys(client, bucket) == ["a/b"]
    assert os.listdir(synced) == ["a"]


@moto_only
@pytest.mark.parametrize("synced", [["a", "a/b"]], indirect=True)
def test_rm_r_removes_the_directory_and_the_object_gets_its_name(
    synced: Path, client: Any, bucket: str
) -> None:
    subprocess.run(["rm", "-r", synced / "a"], check=True)
    assert keys(client, bucket) == ["a"]
    assert os.listdir(synced) == ["a"]
    assert (synced / "a").read_bytes() == b"a"


@moto_only
@pytest.mark.parametrize("synced", [["a", "a/b"]], indirect=True)
def test_mv_moves_what_was_named_and_leaves_the_other(
    synced: Path, client: Any, bucket: str
) -> None:
    (synced / "a").rename(synced / "c")
    assert keys(client, bucket) == ["a", "c/b"]
    assert sorted(os.listdir(synced)) == ["a", "c"]
    (synced / "a").rename(synced / "c%file")
    assert keys(client, bucket) == ["c", "c/b"]
    (synced / "c%file").rename(synced / "d")
    assert keys(client, bucket) == ["c/b", "d"]
    assert sorted(os.listdir(synced)) == ["c", "d"]


@moto_only
@pytest.mark.parametrize("synced", [["a", "a/b"]], indirect=True)
def test_both_are_written(synced: Path, client: Any, bucket: str) -> None:
    (synced / "a%file").write_text("object")
    (synced / "a/b").write_text("below")
    (synced / "a/c").write_text("new")
    assert [body(client, bucket, key) for key in keys(client, bucket)] == [
        b"object",
        b"below",
        b"new",
    ]


@pytest.mark.parametrize("server", ["bench"], indirect=True)  # moto answers 404 to its PUT
@pytest.mark.parametrize("synced", [["line\nfeed"]], indirect=True)
def test_a_key_may_have_a_line_feed(synced: Path, client: Any, bucket: str) -> None:
    assert os.listdir(synced) == ["line\nfeed"]
    (synced / "line\nfeed").write_text("written")
    assert body(client, bucket, "line\nfeed") == b"written"
    (synced / "line\nfeed").unlink()
    assert keys(client, bucket) == []


def test_pathconf_says_how_long_a_name_in_the_directory_can_be(here: Path) -> None:
    deep = here / ("d" * 200)
    deep.mkdir()
    longest = os.pathconf(deep, "PC_NAME_MAX")
    assert longest == 1023 - len(f"{here.name}/{deep.name}/")
    (deep / ("f" * longest)).write_text("text")
    (deep / ("d" * longest)).mkdir()
    for name in ("f" * (longest + 1), "g" * (longest + 1)):
        with pytest.raises(OSError, match="too long"):
            (deep / name).write_text("text")
        with pytest.raises(OSError, match="too long"):
            (deep / ("f" * longest)).rename(deep / name)
        with pytest.raises(OSError, match="too long"):
            (deep / name).stat()
    with pytest.raises(OSError, match="too long"):
        (deep / ("d" * (longest + 1))).mkdir()


def test_an_object_with_the_longest_key_is_a_file_like_others(here: Path, shared: Any) -> None:
    name = "k" * (1024 - len(f"{here.name}/"))
    shared.put(here / name, b"theirs")
    (here / ".sync").touch()
    assert os.listdir(here) == [name]
    (here / "saved").write_bytes(b"mine")
    (here / "saved").rename(here / name)
    assert shared.body(here / name) == b"mine"
    (here / name).rename(here / "short")
    assert (here / "short").read_bytes() == b"mine"


def test_what_a_server_is_tried_with_is_neither_shown_nor_known(here: Path, shared: Any) -> None:
    name = ".mimicfs-0123456789abcdef0123456789abcdef"
    (here / "d").mkdir()
    shared.put(here / "d" / name, b"")
    (here / "d/.sync").touch()
    assert os.listdir(here / "d") == []
    assert os.getxattr(here / "d", "user.mimicfs.files") == b"0"
    assert not (here / "d" / name).exists()
    with pytest.raises(PermissionError):
        (here / "d" / name).write_text("text")
    (here / "d").rmdir()


def test_a_directory_in_which_a_trial_was_killed_is_empty(here: Path, shared: Any) -> None:
    names = ("check-0123456789abcdef", "doctor-0123456789abcdef-sum", "doctor-0123456789abcdef-d/x")
    for directory in ("removed", "replaced", "d"):
        (here / directory).mkdir()
        for name in names:
            shared.put(here / directory / f".mimicfs-{name}", b"")
        (here / directory / ".sync").touch()
    assert os.listdir(here / "removed") == []
    (here / "removed").rmdir()
    (here / "d").rename(here / "replaced")
    assert os.listdir(here) == ["replaced"]
    shutil.rmtree(here / "replaced")
    (here / ".sync").touch()
    assert os.listdir(here) == []


def test_an_object_of_zeros_is_shown_to_nobody(here: Path, shared: Any) -> None:
    name = ".mimicfs-zeros-0123456789abcdef"
    (here / "d").mkdir()
    shared.put(here / "d" / name, b"\0")
    shared.put(here / "d/.mimicfs-zeros-of-mine", b"\0")
    (here / "d/.sync").touch()
    assert os.listdir(here / "d") == [".mimicfs-zeros-of-mine"]
    assert not (here / "d" / name).exists()
    with pytest.raises(PermissionError):
        (here / "d" / name).write_text("text")
    (here / "d/.mimicfs-zeros-of-mine").unlink()
    with pytest.raises(OSError, match="not empty"):  # an upload may still need it
        (here / "d").rmdir()
