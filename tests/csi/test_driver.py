"""`mimicfs csi`, asked over its socket as kubelet asks, over a real S3 server."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from support.mounts import unmounted, wait_until
from support.proxy import Fail

from mimicfs.csi.volumes import _hashed

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

SECRETS = {"access_key_id": "AKIDOFAPOD", "secret_access_key": "the-secret-of-a-pod"}
CODES = grpc.StatusCode


@pytest.fixture
def context(bucket, proxy):
    return {"bucket": bucket, "mountOptions": f"endpoint_url={proxy.url}"}


def refused(call, *arguments, **more):
    with pytest.raises(grpc.RpcError) as failed:
        call(*arguments, **more)
    return failed.value.code(), failed.value.details()


def body(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def everything_written(directory):
    """Return all bytes of the files below *directory*, but for those of mounts."""
    words = ["find", str(directory), "-xdev", "-type", "f", "-exec", "cat", "{}", "+"]
    return subprocess.run(words, capture_output=True, check=True).stdout


def test_a_volume_is_published_used_and_unpublished(driver, client, bucket, context):
    csi = driver.csi
    assert driver.identity.GetPluginInfo(csi.GetPluginInfoRequest()).name == "csi.mimicfs"
    assert driver.identity.Probe(csi.ProbeRequest()).ready.value is True
    told = driver.identity.GetPluginCapabilities(csi.GetPluginCapabilitiesRequest())
    assert list(told.capabilities) == []
    assert driver.node.NodeGetInfo(csi.NodeGetInfoRequest()).node_id == "node-7"
    told = driver.node.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest())
    assert sorted(each.rpc.type for each in told.capabilities) == [2, 4, 5, 6]
    code, _ = refused(driver.node.NodeStageVolume, csi.NodeStageVolumeRequest(volume_id="v"))
    assert code is CODES.UNIMPLEMENTED

    one, two = driver.pods / "one", driver.pods / "two"
    for _ in range(2):  # the second time it is so already
        driver.publish(one, context, SECRETS, group="4711")
    (one / "a").write_text("of a pod")
    assert body(client, bucket, "a") == b"of a pod"
    status = one.stat()
    assert (status.st_gid, status.st_mode & 0o777) == (4711, 0o775)
    driver.publish(two, context, SECRETS, group="4711", readonly=True)
    with pytest.raises(OSError, match="Read-only file system"):
        (two / "b").write_text("")
    (one / "b").write_text("seen at once")
    assert (two / "b").read_text() == "seen at once"
    assert len(driver.serving()) == 1  # one process for a volume

    # No secret where others, or the log, can see it.
    (process,) = driver.serving()
    assert b"AWS_SECRET_ACCESS_KEY=the-secret-of-a-pod" in Path(
        f"/proc/{process}/environ"
    ).read_bytes().split(b"\0")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"the-secret-of-a-pod" not in path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
    assert b"the-secret-of-a-pod" not in everything_written(driver.base)
    assert f"NodePublishVolume {driver.volume}".encode() in driver.log.read_bytes()

    told = driver.condition(one)
    assert (told.volume_condition.abnormal, [each.unit for each in told.usage]) == (False, [1, 2])
    code, said = refused(driver.publish, one, context, SECRETS)
    assert (code, said) == (
        CODES.ALREADY_EXISTS, f"{one}: volume {driver.volume} is published there otherwise"
    )  # fmt: skip
    with open(one / "open", "w") as file:
        code, said = refused(driver.unpublish, one)
        assert (code, said) == (
            CODES.FAILED_PRECONDITION, f"{one}: in use; a process is in it"
        )  # fmt: skip
        file.write("closed late")
    for target in (one, two, one):  # the last one is gone already
        driver.unpublish(target)
        assert not target.exists()
    wait_until(lambda: not driver.serving())
    assert body(client, bucket, "open") == b"closed late"


def test_a_directory_that_was_left_writable_becomes_read_only(driver, context):
    """As by a driver that was killed between the two calls of mount(2)."""
    one = driver.pods / "one"
    driver.publish(one, context, SECRETS, readonly=True)
    subprocess.run(["mount", "-o", "remount,bind,rw", str(one)], check=True)
    driver.publish(one, context, SECRETS, readonly=True)
    with pytest.raises(OSError, match="Read-only file system"):
        (one / "a").touch()
    driver.unpublish(one)


def test_the_driver_is_killed_and_finds_everything_again(driver, client, bucket, context):
    one, two = driver.pods / "one", driver.pods / "two"
    driver.publish(one, context, SECRETS)
    driver.publish(two, context, SECRETS, volume="v2")
    driver.end(kill=True)
    (one / "a").write_text("without a driver")
    dead = serving_at(driver, "v2")
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: dead not in driver.serving())
    driver.start()
    driver.publish(one, context, SECRETS)
    assert (one / "a").read_text() == "without a driver"
    said = driver.condition(two, "v2").volume_condition
    assert (said.abnormal, said.message) == (
        True, "the process that served it has died; the pod is to be started again"
    )  # fmt: skip
    assert driver.condition(one).volume_condition.abnormal is False
    driver.publish(two, context, SECRETS, volume="v2")  # as kubelet does with requiresRepublish
    assert (two / "a").read_text() == "without a driver"
    os.kill(serving_at(driver, "v2"), signal.SIGKILL)
    driver.unpublish(two, "v2")
    driver.unpublish(one)
    assert list(driver.pods.iterdir()) == []
    wait_until(lambda: not driver.serving())
    log = driver.log.read_text()
    assert f"volume {driver.volume} at {one}: served" in log
    assert f"volume v2 at {two}: DEAD; to be published again" in log


def serving_at(driver, volume):
    """Return the process that serves *volume*, as the record of its mount says."""
    (record,) = driver.state.glob(f"volumes/{_hashed(volume)}/state/mimicfs/mounts/*.json")
    return json.loads(record.read_text())["pid"]


def test_uploads_are_waited_for_and_kubelet_tries_again(driver, client, bucket, context, proxy):
    one = driver.pods / "one"
    driver.publish(one, context, {}, flags=["write_back", "attempts=1"])
    # Where it is looked for, though the driver's own cache is elsewhere (conftest.py).
    staging = driver.state / "volumes" / _hashed(driver.volume) / "state/mimicfs/staging"
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 503, "SlowDown")) as rule:
        (one / "late").write_text("written back")
        code, said = refused(driver.unpublish, one, timeout=3)
        assert code is CODES.DEADLINE_EXCEEDED
        assert said.startswith("1 file, 12 B, to be uploaded (")
        assert rule.seen
        assert b"written back" in everything_written(staging)
        assert not (driver.base / "of-driver").exists()
    driver.unpublish(one)
    assert body(client, bucket, "late") == b"written back"
    wait_until(lambda: not driver.serving())


def test_a_pod_ends_while_another_one_of_its_volume_writes_on(driver, client, bucket, context):
    one, two, ended = driver.pods / "one", driver.pods / "two", threading.Event()
    for target in (one, two):
        driver.publish(target, context, SECRETS, flags=["write_back"])

    def write():
        for number in itertools.count():
            (two / f"n{number}").write_text("of the other pod")
            if ended.wait(0.05):  # less than a file waits for its upload
                return

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        wait_until((two / "n0").exists)
        (one / "a").write_text("of a pod")
        try:
            driver.unpublish(one, timeout=10)
            assert body(client, bucket, "a") == b"of a pod"
        finally:
            ended.set()
        writer.result()
    driver.unpublish(two)


def test_a_pod_ends_and_another_goes_on_whose_record_cannot_be_read(
    driver, client, bucket, context
):
    one, two = driver.pods / "one", driver.pods / "two"
    for target in (one, two):
        driver.publish(target, context, SECRETS)
    record = driver.state / f"published/{_hashed(str(two))}.json"
    text = record.read_text()
    record.write_text("spoiled")
    driver.unpublish(one)
    (two / "a").write_text("goes on")
    assert body(client, bucket, "a") == b"goes on"
    code, said = refused(driver.unpublish, two)
    assert code is CODES.INTERNAL
    assert said.startswith(f"{record}: not a record of a volume (")
    record.write_text(text)
    driver.unpublish(two)
    wait_until(lambda: not driver.serving())


INLINE = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": "p"}


def test_an_inline_volume_has_the_secrets_of_its_pod_and_leaves_nothing(
    driver, client, bucket, context
):
    one = driver.pods / "one"
    code, said = refused(driver.publish, one, {**context, **INLINE}, {})
    assert code is CODES.INVALID_ARGUMENT
    assert said.startswith("an inline volume needs nodePublishSecretRef")
    variables = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "the-secret-of-a-pod"}
    more = {"prefix": "sub", "mountOptions": f"{context['mountOptions']},create_prefix"}
    driver.publish(one, {**context, **INLINE, **more}, variables, mode="SINGLE_NODE_WRITER")
    (one / "a").write_text("below")
    two = driver.pods / "two"
    code, said = refused(
        driver.publish, two, {**context, **INLINE, **more}, variables, mode="SINGLE_NODE_WRITER"
    )
    assert code is CODES.FAILED_PRECONDITION
    assert said == f"volume {driver.volume}: SINGLE_NODE_WRITER, and published at {one}"
    driver.unpublish(one)
    assert body(client, bucket, "sub/a") == b"below"
    assert not (driver.state / "volumes" / _hashed(driver.volume)).exists()


def test_of_an_inline_volume_only_what_met_another_version_in_s3_is_kept(
    driver, client, bucket, context
):
    one = driver.pods / "one"
    client.put_object(Bucket=bucket, Key="a", Body=b"first")
    driver.publish(one, {**context, **INLINE}, SECRETS)
    file = os.open(one / "a", os.O_WRONLY)
    os.write(file, b"of the pod")
    client.put_object(Bucket=bucket, Key="a", Body=b"of somebody else")
    with pytest.raises(OSError, match="Stale"):
        os.close(file)
    driver.unpublish(one)
    directory = driver.state / "volumes" / _hashed(driver.volume)
    kept = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert [path.read_bytes() for path in kept] == [b"of the pod"]
    recovered = directory / "state/mimicfs/staging/recovered"
    assert [path.parent for path in kept] == [recovered]
    told = "1 file for a person to look at: S3 has another version there; kept in"
    assert f"volume {driver.volume}: {told} {recovered}" in driver.log.read_text()


def test_what_is_wrong_is_said_by_the_codes_of_csi(driver, bucket, context, tmp_path):
    one, wrong = driver.pods / "one", CODES.INVALID_ARGUMENT
    full, link = driver.pods / "full", driver.pods / "link"
    full.mkdir()
    (full / "file").touch()
    link.symlink_to(tmp_path)
    no_path = "not an absolute path without . and .."
    known = "known are access_key_id, secret_access_key, session_token"
    not_empty = "not an empty directory; nothing is mounted over it"
    about_options = "not an option; mimicfs mount --help lists the options"
    for target, change, more, code, said in [
        ("", {}, {}, wrong, "target_path: missing"),
        (one, {}, {"volume": ""}, wrong, "volume_id: missing"),
        ("pods/one", {}, {}, wrong, f"target_path pods/one: {no_path}"),
        (f"{one}/../x", {}, {}, wrong, f"target_path {one}/../x: {no_path}"),
        (one, {}, {"mode": "UNKNOWN"}, wrong, "access_mode 0: not known"),
        (one, {"bucket": ""}, {}, wrong, "volume attribute bucket: missing"),
        (one, {"buckets": "b"}, {}, wrong,
         "volume attribute buckets: not known; did you mean bucket?"),
        (one, {}, {"flags": ["colour=red"]}, wrong,
         f"mountOptions: -o colour=red: {about_options}"),
        (one, {}, {"flags": ["ro,log_file=/etc/cron.d/x"]}, wrong,
         "mountOptions: log_file: not for a volume: it is about the node"),
        (one, INLINE, {"flags": ["x-a\\ ,no_sign_request"], "secrets": {}}, wrong,
         "mountOptions: x-a\\: ends in a backslash"),
        (one, {}, {"secrets": {"token": "xyzzy"}}, wrong, f"secret token: not known; {known}"),
        (one, {}, {"secrets": {"access_key_id": "A"}}, wrong, "secret secret_access_key: missing"),
        (one, {"bucket": "no-such-bucket"}, {}, CODES.NOT_FOUND,
         "s3://no-such-bucket: no such bucket; `mimicfs ls` lists yours"),
        (full, {}, {}, CODES.INTERNAL, f"{full}: {not_empty}"),
        (link, {}, {}, CODES.INTERNAL, f"{link}: {not_empty}"),
    ]:  # fmt: skip
        secrets = more.pop("secrets", SECRETS)
        assert refused(driver.publish, target, {**context, **change}, secrets, **more) == (
            code,
            said,
        )
        assert unmounted(one)
    assert refused(driver.unpublish, "/")[0] is wrong
    for path, code in [("", wrong), (one, CODES.NOT_FOUND), ("some/path", CODES.NOT_FOUND)]:
        assert refused(driver.condition, path)[0] is code  # csi-sanity asks for "some/path"
    assert refused(driver.unpublish, full)[0] is CODES.INTERNAL
    driver.unpublish(driver.pods / "never")
    assert (full / "file").exists()
    (full / "file").unlink()
    link.unlink()
    full.rmdir()


def test_process_1_of_a_container_has_its_volumes_upload_before_it_ends(
    csi, client, bucket, context, tmp_path, request
):
    if not request.config.getoption("--containers"):
        pytest.skip("on request: --containers")
    program = Path(__file__).with_name("in_container.py")
    words = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*words, sys.executable, str(program), csi.__file__, str(tmp_path), json.dumps(context)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert body(client, bucket, "open") == b"not closed"
