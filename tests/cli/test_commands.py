"""The commands that need no mount."""

import json
import os
import subprocess
import sys

import pytest
from support.mounts import run, succeed

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def common(state, proxy, store_url):
    return ["--endpoint-url", proxy.url, "--store", store_url]


@pytest.fixture
def store_url(tmp_path):
    return f"sqlite://{tmp_path}/store.db"


@pytest.fixture
def tree(client, bucket):
    for key in ("a.txt", "d/b", "d/e/c"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def test_help_needs_neither_boto3_nor_a_network(server):
    program = (
        "import sys; sys.argv = ['mimicfs', '--help']\n"
        "from mimicfs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('boto3', 'botocore', 'email', 'redis', 'rich', 'socket')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    words = [sys.executable, "-c", program]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
    assert out.endswith("[]\n")


def test_ls_lists_buckets_directories_and_trees(common, tree, proxy):
    assert f"{tree}/" in succeed("ls", *common).splitlines()
    proxy.counted()
    assert succeed("ls", *common, f"s3://{tree}").splitlines() == ["a.txt", "d/"]
    assert proxy.counted() == {"LIST": 1}
    assert succeed("ls", *common, f"s3://{tree}/").splitlines() == ["a.txt", "d/"]
    assert proxy.counted() == {}
    assert succeed("ls", *common, "-R", f"s3://{tree}").splitlines() == [
        "a.txt", "d/", "d/b", "d/e/", "d/e/c"
    ]  # fmt: skip
    assert succeed("ls", *common, f"s3://{tree}/d").splitlines() == ["b", "e/"]
    assert "5 STANDARD     a.txt" in succeed("ls", *common, "-l", f"s3://{tree}")


def test_h_means_sizes_for_people_as_in_ls_and_du(common, tree, client):
    client.put_object(Bucket=tree, Key="large", Body=bytes(5000))
    (line,) = succeed("ls", "-lh", *common, f"s3://{tree}/large").splitlines()
    assert line.split()[1:] == ["4.9K", "STANDARD", "large"]
    assert succeed("du", "-sh", "--partial", *common, f"s3://{tree}").startswith("4.9K\t")


def test_ls_for_programs(common, tree):
    lines = succeed("ls", *common, "--json", f"s3://{tree}").splitlines()
    first, second = map(json.loads, lines)
    assert (first["key"], first["type"], first["size"]) == ("a.txt", "object", 5)
    assert second == {"key": "d/", "type": "directory"}


def test_stat_tells_what_is_known(common, tree):
    told = json.loads(succeed("stat", *common, "--json", f"s3://{tree}/d/b"))
    assert (told["bucket"], told["key"], told["size"]) == (tree, "d/b", 3)
    assert told["synced"].startswith("20")
    assert "size:           3" in succeed("stat", *common, f"s3://{tree}/d/b")
    assert json.loads(succeed("stat", *common, "--json", f"s3://{tree}/d"))["type"] == "directory"
    assert "objects" in succeed("stat", *common, f"s3://{tree}")


def test_what_is_not_there_is_an_error(common, tree):
    for words in (["stat"], ["ls"]):
        result = run(*words, *common, f"s3://{tree}/missing")
        assert (result.returncode, len(result.stderr.splitlines())) == (6, 1)
        assert "no such object or directory" in result.stderr


def test_sync_reports_what_it_found(common, tree, client, proxy):
    assert f"s3://{tree}/: 3 keys, 3 added" in succeed("sync", *common, f"s3://{tree}")
    client.delete_object(Bucket=tree, Key="d/b")
    report = json.loads(succeed("sync", *common, "--json", f"s3://{tree}/d"))
    assert (report["prefix"], report["keys"], report["deleted"]) == ("d/", 1, 1)
    proxy.counted()
    assert succeed("ls", *common, "-R", f"s3://{tree}").splitlines() == [
        "a.txt", "d/", "d/e/", "d/e/c"
    ]  # fmt: skip
    assert proxy.counted() == {}


def test_sync_learns_metadata_once_for_each_version(common, tree, client, proxy):
    client.put_object(Bucket=tree, Key="d/b", Body=b"x", Metadata={"uid": "7"})
    proxy.counted()
    succeed("sync", *common, "--metadata", f"s3://{tree}")
    assert proxy.counted() == {"LIST": 1, "HEAD": 3}
    told = json.loads(succeed("stat", *common, "--json", f"s3://{tree}/d/b"))
    assert told["metadata"] == {"uid": "7"}
    client.put_object(Bucket=tree, Key="a.txt", Body=b"another", Metadata={"uid": "8"})
    proxy.counted()
    succeed("sync", *common, "--metadata", f"s3://{tree}")
    assert proxy.counted() == {"LIST": 1, "HEAD": 1}
    told = json.loads(succeed("stat", *common, "--json", f"s3://{tree}/a.txt"))
    assert told["metadata"] == {"uid": "8"}


def test_sync_of_everything(common, tree):
    assert f"s3://{tree}/: 3 keys, 3 added" in succeed("sync", *common)


def test_sync_of_what_is_not_there_fails(common, server):
    result = run("sync", *common, "s3://no-such-bucket")
    assert result.returncode == 6
    assert "The specified bucket does not exist" in result.stderr


def test_the_store_may_come_from_the_environment(state, proxy, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("MIMICFS_STORE", f"sqlite://{tmp_path}/other.db")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    succeed("sync", f"s3://{tree}")
    assert (tmp_path / "other.db").exists()


def test_by_default_each_endpoint_and_account_has_a_store(state, proxy, tree):
    succeed("ls", "--endpoint-url", proxy.url)
    assert len(list(state.glob("*.db"))) == 1


def test_a_warm_up_of_nothing_says_so_and_goes_on(common, tree):
    result = run("warmup", "--metadata", *common, f"s3://{tree}/nothing/", f"s3://{tree}/d/")
    assert (result.returncode, result.stderr) == (
        1, f"mimicfs: s3://{tree}/nothing/: nothing in the bucket begins with that\n"
    )  # fmt: skip
    assert result.stdout.endswith(f"s3://{tree}/d/: 2 keys listed\n")
    both = run("warmup", "--pin", "--unpin", *common, f"s3://{tree}")
    assert "--unpin undoes --pin; give one of them" in both.stderr


def test_doctor_names_the_bucket_that_was_meant(common, tree, client):
    client.create_bucket(Bucket=f"holiday-{tree}")
    said = run("doctor", *common, f"s3://holidya-{tree}")
    assert f"      did you mean s3://holiday-{tree}?\n" in said.stdout
    assert said.returncode == 1


def test_umount_of_a_mount_of_others(state, server):
    result = run("umount", "/proc")
    assert (result.returncode, result.stderr) == (
        3, "mimicfs: /proc: not a mount of mimicfs; use umount /proc\n"
    )  # fmt: skip


def test_umount_of_what_is_not_mounted(state, server, tmp_path):
    result = run("umount", tmp_path)
    assert result.returncode == 3
    assert "not mounted" in result.stderr


def test_the_version(server):
    lines = succeed("--version").splitlines()
    assert lines[0] == "mimicfs 0.2.0"
    assert [line.split()[0] for line in lines[1:5]] == ["Python", "libfuse", "boto3", "botocore"]
    assert lines[2].endswith("/fusermount3)")


def test_an_export_leaves_out_what_was_only_visited_and_says_so(common, tree, client, tmp_path):
    client.create_bucket(Bucket=f"{tree}-visited")
    succeed("sync", *common, f"s3://{tree}")
    succeed("ls", *common)
    succeed("ls", *common, f"s3://{tree}-visited")
    result = run("index", "export", *common, tmp_path / "index.jsonl")
    assert (result.returncode, result.stdout[:40]) == (
        0,
        f"s3://{tree}/: 3 entries as of 2026"[:40],
    )
    assert "note: left out, because they were never synced: " in result.stderr
    assert f"s3://{tree}-visited" in result.stderr


def test_a_list_may_have_any_bytes(common, tree):
    any_bytes = {"input": "/nowhere/\udcff\n", "errors": "surrogateescape"}
    result = run("warmup", *common, "--from", "-", **any_bytes)
    said = "mimicfs: /nowhere/\\udcff: neither an s3:// URL nor in one of your mounts of mimicfs\n"
    assert (result.returncode, result.stderr) == (3, said)


def test_letters_that_the_terminal_lacks_are_escaped(common, client, bucket, really_started):
    client.put_object(Bucket=bucket, Key="日本", Body=b"")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    assert succeed("ls", *common, f"s3://{bucket}", env=environment) == "\\u65e5\\u672c\n"


def test_output_that_cannot_be_written_is_an_error_in_one_line(common, tree):
    url = f"s3://{tree}"
    succeed("sync", *common, url)
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for words in (["ls", url], ["stat", f"{url}/a.txt"], ["find", url], ["du", url], ["sync", url]):
        with open("/dev/full", "w") as full:
            done = run(words[0], *common, *words[1:], stdout=full, env=buffered)
        said = "mimicfs: standard output: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said), words
