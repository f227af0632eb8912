"""find and du, as commands. Nothing listens at the endpoint: a request would be an error."""

import json
import subprocess
import sys

import pytest
from support.mounts import run, succeed

from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry, Scope

KEYS = ["a b", "d/\x1b[2J", "d/e/é", "d/line\nend"]

pytestmark = pytest.mark.slow  # each command is a process


@pytest.fixture
def common(state, tmp_path):
    store = SQLite(str(tmp_path / "store.db"))
    store.apply("b", [Entry(key, 1 << 20, 10**18, "e", "GLACIER") for key in KEYS])
    store.mark("b", Scope("", True, 1))
    store.apply("other", [Entry("x", 1)])
    store.close()
    return ["--endpoint-url", "http://127.0.0.1:9", "--store", f"sqlite://{tmp_path}/store.db"]


def test_find_prints_what_it_finds_for_people_and_programs(common):
    told = succeed("find", *common, "s3://b", "-type", "f", "--size", "+100k", "-0")
    assert told.split("\0") == [
        "s3://b/a b", "s3://b/d/\x1b[2J", "s3://b/d/e/é", "s3://b/d/line\nend", ""
    ]  # fmt: skip
    assert succeed("find", *common, "s3://b/d", "-name", "é", "--keys") == "d/e/é\n"
    told = succeed("find", *common, "s3://b", "--type", "d", "--mtime", "+1", "--json")
    assert told == ""
    lines = succeed("find", *common, "--json", "s3://b", "--after", "2001-01-01").splitlines()
    first = json.loads(lines[0])
    assert (first["bucket"], first["key"], first["storage_class"]) == ("b", "a b", "GLACIER")
    assert len(lines) == 4


def test_find_shows_what_a_killed_mount_has_left(common, tmp_path):
    left = [f".mimicfs-{digits * 4}" for digits in ("01234567", "89abcdef")]
    keys = ["d/" + left[0], left[1] + "/a"]
    store = SQLite(str(tmp_path / "store.db"))
    store.apply("b", [Entry(key, 0, 10**18) for key in keys])
    store.close()
    told = succeed("find", *common, "s3://b", "--path", "*.mimicfs-*", "--mtime", "+1", "-0")
    assert told.split("\0") == [f"s3://b/{key}" for key in sorted(keys)] + [""]


def test_du_tells_sizes(common):
    assert succeed("du", *common, "s3://b").splitlines() == [
        "3.0M\t3\ts3://b/d/",
        "4.0M\t4\ts3://b/",
    ]
    assert succeed("du", *common, "-s", "-b", "s3://b/d") == "3145728\t3\ts3://b/d/\n"
    told = json.loads(succeed("du", *common, "-s", "--json", "s3://b/d/e"))
    assert told == {"bucket": "b", "prefix": "d/e/", "files": 1, "bytes": 1 << 20}


def test_what_was_never_synced_is_said_and_not_guessed(common):
    for command in ("find", "du"):
        result = run(command, *common, "s3://other")
        assert (result.returncode, result.stdout) == (8, "")
        assert "mimicfs sync 's3://other'" in result.stderr
    assert succeed("find", *common, "--partial", "-type", "f", "s3://other") == "s3://other/x\n"
    assert run("find", *common, "s3://b/none").returncode == 6
    assert run("find", *common, "s3://b", "--size", "big").returncode == 2


def test_what_is_known_is_answered_without_boto3_and_by_few_modules(state, tmp_path, monkeypatch):
    """To import the others takes longer than the answer. `state` knows which account this is from
    the first command on."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    words = ["--endpoint-url", "http://127.0.0.1:9"]
    program = (
        "import sys\nfrom mimicfs.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "finally:\n"
        "    names = {name.partition('.')[0] for name in sys.modules}\n"
        "    print(sum(name.startswith('mimicfs') for name in sys.modules) <= 64, sorted(names & {"
        "'boto3', 'botocore', 'concurrent', 'ctypes', 'email', 'hashlib', 'http', 'random',"
        "'redis', 'rich', 'socket', 'ssl', 'subprocess', 'urllib3'}))"
    )

    def imported(*command):
        done = subprocess.run(
            [sys.executable, "-c", program, *command, *words],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    assert "botocore" in imported("find", "s3://b", "--partial")[-1]  # which account this is
    (database,) = state.glob("*.db")
    store = SQLite(str(database))
    store.apply("b", [Entry("d/a", 1, 10**18, "e")])
    store.mark("b", Scope("", True, 1))
    store.close()
    assert imported("find", "s3://b", "--type", "f") == ["s3://b/d/a", "True []"]
    assert imported("ls", "s3://b") == ["d/", "True []"]
    assert imported("du", "-s", "s3://b") == ["1\t1\ts3://b/", "True []"]
    assert imported("stat", "s3://b")[-1] == "True []"
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = another\n")
    assert "botocore" in imported("find", "s3://b")[-1]
