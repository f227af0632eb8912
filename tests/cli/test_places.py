"""The object that a path in a mount stands for. The mounts are records, and directories with
attributes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mimicfs.cli import history, warmingup
from mimicfs.config.settled import settle
from mimicfs.errors import ConfigError, MountError
from mimicfs.mount.mounted import Mounted, recorded


@pytest.fixture
def mounted(state):
    """Records a mount of a target at a directory; returns that."""
    with ExitStack() as stack:

        def record(target, path: Path, store: str = "memory:"):
            path.mkdir()
            mount = Mounted(str(path), target, "http://127.0.0.1:9", store, os.getpid(), 1)
            stack.enter_context(recorded(settle({}, os.environ).settings(), mount))
            return path

        yield record


def shows(directory: Path, bucket: str, key: str = "") -> None:
    os.setxattr(directory, "user.mimicfs.bucket", bucket.encode())
    os.setxattr(directory, "user.mimicfs.key", key.encode())


def place(word: str) -> tuple[str, str]:
    bucket, key, _ = history._place(settle({}, os.environ).settings(), word)
    return bucket, key


def test_a_path_is_in_the_innermost_mount(mounted, tmp_path):
    outer = mounted("s3://outer/p/", tmp_path / "outer")
    shows(outer, "outer", "p/")
    for number in range(20):  # their records come in the order of hashes
        shows(mounted(f"s3://inner{number}", outer / str(number)), f"inner{number}")
    assert [place(f"{outer}/{number}/d/") for number in range(20)] == [
        (f"inner{number}", "d/") for number in range(20)
    ]
    assert place(f"{outer}/d") == ("outer", "p/d")


def test_a_path_that_is_gone_is_told_by_what_is_above_it(mounted, tmp_path):
    root = mounted("s3://", tmp_path / "mnt")
    (root / "photos/there").mkdir(parents=True)
    shows(root / "photos", "photos", "2026/")
    shows(root / "photos/there", "photos", "2026/%there/")
    assert place(f"{root}/photos/gone/x%name%name/.sync%name") == (
        "photos",
        "2026/gone/x%name/.sync",
    )
    assert place(f"{root}/photos/there/a") == ("photos", "2026/%there/a")
    assert place(f"{root}/photos/there") == ("photos", "2026/%there")
    assert place(f"{root}/photos") == place(f"{root}/photos/") == ("photos", "2026/")
    for word, said in {str(root): "name one of them", "/etc/passwd": "in no mount"}.items():
        with pytest.raises(ConfigError, match=said):
            place(word)


def test_a_mount_of_a_moment_is_no_place_to_undelete_in(mounted, tmp_path):
    then = "2026-11-01T18:00:00Z"
    root = mounted(f"s3://b/ at {then}", tmp_path / "mnt", f"memory of {then}")
    shows(root, "b")
    with pytest.raises(ConfigError, match="shows a moment, and undelete changes the present"):
        place(f"{root}/x")


@pytest.mark.parametrize("command", ["--unpin", "--data"])
@pytest.mark.parametrize(
    ("target", "name", "said"),
    [
        ("s3://", "n" * 300, "file name too long"),
        ("s3://", "gone", "no such file or directory"),
        ("s3://", "only-bucket", "no data available"),
        ("s3://", "neither", "no data available"),
        ("s3://b", "", "no data available"),
    ],
)
def test_what_a_mount_does_not_say_is_never_all_buckets(
    mounted, tmp_path, target, name, said, command
):
    root = mounted(target, tmp_path / "mnt")
    for each in ("only-bucket", "neither"):
        (root / each).mkdir()
    os.setxattr(root / "only-bucket", "user.mimicfs.bucket", b"b")
    with pytest.raises(MountError) as caught:
        warmingup.warmup.main([command, str(root / name)], standalone_mode=False)
    assert str(caught.value) == f"{root / name}: {said}"


def test_the_root_of_a_mount_of_all_buckets_is_all_of_them(mounted, tmp_path, monkeypatch):
    told = {"cache": {"directory": "/c"}}
    monkeypatch.setattr("mimicfs.admin.controlsocket.ask", lambda *_: told)
    settings = settle({}, os.environ).settings()
    for number, target in enumerate(("s3://", "s3:// at 2026-11-01T18:00:00Z")):
        root = mounted(target, tmp_path / f"mnt{number}")
        assert warmingup._place(settings, str(root)).url == "s3://"
