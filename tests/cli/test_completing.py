"""The words that a shell is told can follow. Nothing listens at the endpoint: S3 is asked
nothing."""

import json

import pytest
from click.shell_completion import ShellComplete

from mimicfs.backends.sqlite import SQLite
from mimicfs.cli import cli
from mimicfs.entry import Entry


def completed(*words):
    found = ShellComplete(cli, {}, "mimicfs", "_MIMICFS_COMPLETE")
    return [it.value for it in found.get_completions(list(words[:-1]), words[-1])]


@pytest.fixture
def common(state, tmp_path):
    store = SQLite(str(tmp_path / "store.db"))
    store.apply("photos", [Entry(key, 1) for key in ("2024/a", "2024/b c", "2025/\x1b[2J", "2025")])
    store.apply("phones", [Entry("x", 1)])
    store.close()
    return ["--endpoint-url", "http://127.0.0.1:9", "--store", f"sqlite://{tmp_path}/store.db"]


@pytest.mark.parametrize(
    ("word", "follows"),
    [
        ("s3", ["s3://phones/", "s3://photos/"]),
        ("s3://phot", ["s3://photos/"]),
        ("s3://photos/", ["s3://photos/2024/", "s3://photos/2025", "s3://photos/2025/"]),
        ("s3://photos/2025", ["s3://photos/2025", "s3://photos/2025/"]),
        ("s3://photos/2024/", ["s3://photos/2024/a", "s3://photos/2024/b c"]),
        ("s3://photos/2025/", []),  # a terminal might take it as a command
        ("s3://nowhere/", []),
        ("/tmp", []),
    ],
)
def test_urls_are_completed_from_what_the_mirror_knows(common, word, follows):
    assert completed("ls", *common, word) == follows


def test_words_after_o_and_their_values(state):
    assert completed("mount", "-o", "ro,umas") == ["ro,umask="]
    assert completed("mount", "-o", "write_b") == ["write_back"]
    assert completed("mount", "-o", "no_write_b") == ["no_write_back"]
    assert completed("mount", "-o", "consistency=") == ["consistency=mirror", "consistency=open"]
    assert completed("mount", "--consistency", "o") == ["open"]


def test_profiles_are_those_of_both_files(state, tmp_path, monkeypatch):
    for name, text in (
        ("AWS_CONFIG_FILE", "[default]\n[profile work]\nregion = x\n[sso-session s]\n"),
        ("AWS_SHARED_CREDENTIALS_FILE", "[default]\n[home]\naws_access_key_id = A\n"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(name, str(tmp_path / name))
    assert completed("ls", "--profile", "") == ["default", "work", "home"]
    assert completed("mount", "-o", "ro,profile=w") == ["ro,profile=work"]


def test_mount_points_are_those_of_this_user(state, tmp_path):
    (state / "mounts").mkdir(parents=True)
    said = {"mountpoint": "/mnt/s3", "target": "s3://", "endpoint": "aws", "store": "", "pid": 1}
    (state / "mounts/a.json").write_text(json.dumps({**said, "started_ns": 1}))
    assert completed("umount", "") == ["/mnt/s3"]
    assert completed("status", "/mnt/") == ["/mnt/s3"]
    assert completed("log-level", "/mnt/s3", "d") == ["debug"]
