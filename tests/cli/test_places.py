"""What a path in a mount stands for. The mounts are records, and directories with attributes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mimicfs.cli import history, warmingup
from mimicfs.config.settled import settle
from mimicfs.errors import MountError
from mimicfs.mount.mounted import Mounted, recorded


@pytest.fixture
def mounted(state):
    """Records a mount of a target at a directory; returns that."""
    with ExitStack() as stack:

        def record(target, path: Path):
            path.mkdir()
            mount = Mounted(str(path), target, "http://127.0.0.1:9", "memory:", os.getpid(), 1)
            stack.enter_context(recorded(settle({}, os.environ).settings(), mount))
            return path

        yield record


def test_a_path_is_in_the_innermost_mount(mounted, tmp_path):
    outer = mounted("s3://outer/p/", tmp_path / "outer")
    for number in range(20):  # their records come in the order of hashes
        mounted(f"s3://inner{number}", outer / str(number))
    settings = settle({}, os.environ).settings()
    paths = [f"{outer}/{number}/d/" for number in range(20)]
    assert [history._place(settings, each) for each in paths] == [
        (f"inner{number}", "d/") for number in range(20)
    ]
    assert history._place(settings, f"{outer}/d") == ("outer", "p/d")


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
