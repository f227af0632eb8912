"""`mimicfs events` makes S3 tell a queue, keeps what others have set up, and listens in turn."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest
from support.clients import others_rule, plain, queue_of
from support.mounts import MIMICFS, run, succeed
from support.signals import to_another_thread

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
]


@pytest.fixture
def common(state, proxy, tmp_path):
    return ["--endpoint-url", proxy.url, "--store", f"sqlite://{tmp_path}/store.db"]


def notifications(client, bucket):
    found = client.get_bucket_notification_configuration(Bucket=bucket)
    return {name: value for name, value in found.items() if name != "ResponseMetadata"}


@pytest.fixture
def others(client, server, bucket):
    """The configurations of others in the bucket."""
    others_rule(server, bucket)
    return notifications(client, bucket)


def test_what_is_set_up_tells_and_its_removal_leaves_what_others_have(
    common, client, server, bucket, others
):
    source = succeed("events", "setup", *common, f"s3://{bucket}/photos/").strip()
    check = ["events", "check", *common, "--json", "--events", source, f"s3://{bucket}/photos/"]
    found = json.loads(succeed(*check))
    assert (found["shortcoming"], found["by"]) == ("", "this command")
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    said = succeed("events", "remove", *common, f"s3://{bucket}/photos/")
    assert re.findall("removed the (rule|queue)", said) == ["rule", "queue"]
    assert notifications(client, bucket) == others
    assert source not in [f"sqs:{it}" for it in plain(server, "sqs").list_queues()["QueueUrls"]]


def test_it_listens_without_a_mount_until_a_signal(common, server, bucket):
    source = f"sqs:{queue_of(server, bucket)}"
    command = [MIMICFS, "events", "run", *common, "--events", source, f"s3://{bucket}"]
    process = subprocess.Popen([*command, "--log-level", "info"], stderr=subprocess.PIPE)
    assert any(b"listening to sqs:" in line for line in process.stderr)
    to_another_thread(process.pid, signal.SIGTERM)  # and the first one waits
    assert process.wait(20) == 0
    process.stderr.close()


def test_watch_prints_what_changes_and_goes_on_where_it_ended(common, client, s3, bucket):
    watch = ["watch", *common, "--json", "--once"]
    url = f"s3://{bucket}"
    assert succeed(*watch, "--since", "0", url) == ""
    client.put_object(Bucket=bucket, Key="a", Body=b"12345")
    succeed("sync", *common, url)
    [line] = map(json.loads, succeed(*watch, "--since", "0", url).splitlines())
    assert {name: line[name] for name in ("seq", "change", "key", "size", "etag", "by")} == {
        "seq": 1,
        "change": "added",
        "key": "a",
        "size": 5,
        "etag": "827ccb0eea8a706c4c34a16891f84e7b",
        "by": "S3",
    }
    failed = run("watch", *common, "--once", "--since", "0", "--exec", "false", url)
    assert (failed.returncode, "continue with --since 0" in failed.stderr) == (1, True)
    assert '"seq": 1' in succeed(
        "watch", *common, "--once", "--since", "0", "--exec", "tee /dev/stderr", url
    )


def test_watch_lists_what_the_mirror_does_not_know_and_then_prints_what_s3_tells(
    common, client, server, bucket
):
    source = f"sqs:{queue_of(server, bucket)}"
    client.put_object(Bucket=bucket, Key="2026/deep/before", Body=b"1")
    watch = ["watch", *common, f"s3://{bucket}/2026", "--json", "--events", source, "--since", "0"]
    first = run(*watch, "--once")  # begins the feed
    assert (first.returncode, first.stdout) == (0, "")
    assert f"s3://{bucket}/2026/: listing it first" in first.stderr
    client.put_object(Bucket=bucket, Key="2026/deep/new", Body=b"22")
    with subprocess.Popen(
        [MIMICFS, *watch], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = json.loads(process.stdout.readline())
        to_another_thread(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert [line[name] for name in ("seq", "change", "key", "size", "by")] == [
        1, "added", "2026/deep/new", 2, "S3"
    ]  # fmt: skip
    assert "listing" not in said
