"""The index as a file, by the real command, and a mount that lives on an imported one."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support import reports
from support.mounts import MIMICFS, costs, run, succeed, wait_until
from support.reports import row

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

KEYS = ["a.txt", "d/b", "d/e/c", "d/e/ü \x07"]


@pytest.fixture
def common(state, proxy):
    return ["--endpoint-url", proxy.url]


@pytest.fixture
def tree(client, bucket):
    for key in KEYS:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def shown(path):
    return sorted(
        os.path.relpath(os.path.join(at, name), path)
        for at, _, names in os.walk(path)
        for name in names
    )


@pytest.mark.parametrize("name", ["index.jsonl.gz", "index.parquet"])
def test_a_mount_on_an_imported_index_lists_nothing(
    name, common, tree, proxy, tmp_path, mount_at, redis_url
):
    first = [*common, "--store", f"sqlite://{tmp_path}/first.db"]
    succeed("sync", *first, f"s3://{tree}")
    path = tmp_path / name
    store = redis_url if name.endswith("gz") else f"sqlite://{tmp_path}/second.db"
    place = ["--namespace", f"imported-{tmp_path}"]
    mount = mount_at(f"s3://{tree}", *place, "-o", "metadata=never", store=store).path
    with costs(proxy):
        told = json.loads(succeed("index", "export", *first, "--json", path))
        assert (told["bucket"], told["entries"]) == (tree, 4)
        said = succeed("index", "import", *common, "--store", store, *place, path)  # while mounted
        assert f"s3://{tree}/: 4 entries as of 20" in said
        assert ", 4 added, 0 changed, 0 deleted" in said
        assert shown(mount) == KEYS
        assert (mount / "d/b").stat().st_size == 3
        assert not (mount / "d/missing").exists()
        assert os.getxattr(mount / "d", "user.mimicfs.files") == b"3"
        assert os.getxattr(mount, "user.mimicfs.synced").decode() == told["synced"]
    assert (mount / "d/b").read_text() == "d/b"


def test_through_a_pipe_and_of_named_parts(common, tree, tmp_path, monkeypatch):
    first = [*common, "--store", f"sqlite://{tmp_path}/first.db"]
    succeed("sync", *first, f"s3://{tree}/d")
    whole = run("index", "export", *first, "-")
    assert (whole.returncode, whole.stdout) == (8, "")
    assert "no bucket was synced completely" in whole.stderr
    out = run("index", "export", *first, "-", f"s3://{tree}/d")
    assert f"s3://{tree}/d/: 3 entries as of" in out.stderr
    header, part, *_ = map(json.loads, out.stdout.splitlines())
    assert (header["mimicfs_index"], header["endpoint"]) == (1, common[1])
    assert (part["bucket"], part["prefix"], part["objects"]) == (tree, "d/", 3)
    second = ["--store", f"sqlite://{tmp_path}/second.db"]
    monkeypatch.setenv("MIMICFS_ENDPOINT_URL", "http://name:secret@127.0.0.1:9")
    missing = run("index", "import", *second, "-", f"s3://{tree}", input=out.stdout)
    assert missing.returncode == 2
    assert f"-: it does not contain s3://{tree}/" in missing.stderr
    told = run("index", "import", *second, "-", input=out.stdout)
    assert told.returncode == 0
    assert f"the index is from {common[1]}, the mirror from http://***@127.0.0.1:9" in told.stderr
    assert succeed("du", *second, "-s", "-b", f"s3://{tree}/d") == f"16\t3\ts3://{tree}/d/\n"
    assert run("index", "import", *second, "-", input=out.stdout[:-20]).returncode == 9


def test_an_interrupt_leaves_no_file_and_no_bucket_that_counts_as_synced(common, tmp_path):
    store = ["--store", f"sqlite://{tmp_path}/store.db"]
    words = [str(MIMICFS), "index", "import", *common, *store, "-"]
    importing = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    importing.stdin.write(b'{"mimicfs_index":1}\n{"bucket":"b","synced":"2024-01-01T00:00:00Z"}\n')
    for n in range(3000):
        entry = {"key": f"{n:05}", "size": 1, "last_modified": "2024-01-01T00:00:00Z"}
        importing.stdin.write(json.dumps(entry).encode() + b"\n")
    importing.stdin.flush()
    wait_until(lambda: "00500" in run("find", *common, *store, "--partial", "s3://b").stdout)
    importing.send_signal(signal.SIGINT)
    assert importing.wait(10) == 130
    importing.stdin.close()
    importing.stderr.close()
    assert run("du", *common, *store, "s3://b").returncode == 8


def test_sigterm_in_an_export_leaves_what_was_there(common, tmp_path):
    program = (
        "import sys; from mimicfs.cli import main; from mimicfs.index import exporting\n"
        "def slow(*args): print('exporting', flush=True); sys.stdin.read()\n"
        "exporting._copy = slow\n"
        "sys.argv[1:1] = ['index', 'export']; main()"
    )
    store = ["--store", f"sqlite://{tmp_path}/store.db"]
    index = '{"mimicfs_index":1}\n{"bucket":"b","synced":"2024-01-01"}\n{"entries":0}\n'
    succeed("index", "import", *common, *store, "-", input=index)
    place = tmp_path / "place"
    place.mkdir()
    (place / "x.jsonl").write_text("before")
    words = [sys.executable, "-c", program, *common, *store, str(place / "x.jsonl")]
    exporting = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert exporting.stdout.readline() == b"exporting\n"
    assert len(list(place.iterdir())) == 3  # with the new file, and what is to go into it
    exporting.terminate()
    assert exporting.wait(10) == 130
    exporting.stdin.close()
    exporting.stdout.close()
    assert [path.name for path in place.iterdir()] == ["x.jsonl"]
    assert (place / "x.jsonl").read_text() == "before"


def test_a_report_of_s3_inventory_is_imported(common, client, bucket, tmp_path, proxy):
    store = ["--store", f"sqlite://{tmp_path}/store.db"]
    rows = [row("src", key, n) for n, key in enumerate(["z/1", "d/é", "a"], 1)]
    url = reports.publish(client, bucket, "src", [reports.csv_file(rows)])
    refused = run("index", "import", *common, *store, "--inventory", url)
    assert refused.returncode == 2
    assert "--prefix ''" in refused.stderr
    said = succeed("index", "import", *common, *store, "--inventory", url, "--prefix", "")
    assert "s3://src/: 3 entries as of 2023-11-14T22:13:20+00:00, 3 added" in said
    proxy.counted()
    with costs(proxy):
        told = succeed("find", *common, *store, "s3://src", "-type", "f").splitlines()
        assert told == ["s3://src/a", "s3://src/d/é", "s3://src/z/1"]
        assert succeed("ls", *common, *store, "s3://src").splitlines() == ["a", "d/", "z/"]
    assert run("find", *common, *store, f"s3://{bucket}").returncode == 8
