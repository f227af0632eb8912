"""The records of what is published where: one that cannot be read stops nothing else."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mimicfs.csi.asked import AskedVolume, How
from mimicfs.csi.refusal import Code, Refusal
from mimicfs.csi.volumes import Published, Volumes, _hashed

HOW = {"url": "s3://b/", "words": ["ro"], "read_only": False, "mode": "SINGLE_NODE_WRITER",
       "ephemeral": False}  # fmt: skip
# A mount, as far as its record and its end matter here: it reads SIGTERM, and ends.
SERVING = """
import signal, sys
from pathlib import Path
from mimicfs.config.values import S3Options, Settings
from mimicfs.mount.mounted import Mounted, recorded
import os
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
mounted = Mounted(sys.argv[2], "s3://b/", "", "", os.getpid(), 0)
with recorded(Settings(S3Options(), Path(sys.argv[1])), mounted):
    print("served", flush=True)
    signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of a driver; through a link, as an administrator may have it."""
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "disk")
    return tmp_path / "state"


def record(state, target, text):
    (state / f"published/{_hashed(target)}.json").write_text(text)


def said(target, **more):
    return json.dumps({"volume": "v", "target": target, "how": {**HOW, **more}})


WRONG = ["", "\0" * 100, "[]", "{}", '{"volume": "v", "target": "/p/wrong", "how": {}}',
         said("/p/wrong", words=None), said("/p/wrong", words=[5]), said("/p/wrong", url=None),
         said("/p/wrong").replace('"v"', "7"), '{"volume": "\xff"}']  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_record_that_cannot_be_read_is_told_and_keeps_no_other_volume(state, text, caplog):
    volumes = Volumes(state)
    record(state, "/p/wrong", text)
    record(state, "/p/right", said("/p/right"))
    with caplog.at_level(logging.INFO):
        volumes.adopt()
    wrong, right = caplog.messages
    assert "not a record of a volume" in wrong and f"{_hashed('/p/wrong')}.json" in wrong
    assert right == "volume v at /p/right: DEAD; to be published again"
    volumes._check_sharing(Published("v", "/p/other", How("s3://b/", (), False, "SINGLE", False)))
    with pytest.raises(Refusal, match="not a record of a volume") as refused:
        volumes.unpublish("v", "/p/wrong", 0.0)
    assert refused.value.code is Code.INTERNAL
    asked = AskedVolume("v", "/p/wrong", How("s3://b/", (), False, "SINGLE", False), {})
    with pytest.raises(Refusal, match="not a record of a volume"):
        volumes.publish(asked)


def test_a_record_that_is_a_directory_is_told_as_well(state, caplog):
    volumes = Volumes(state)
    (state / "published/0.json").mkdir()
    volumes.adopt()
    assert "Is a directory" in caplog.text


def test_a_record_of_a_version_that_knows_more_is_read(state):
    volumes = Volumes(state)
    record(state, "/p/a", said("/p/a", colour="red"))
    how = How("s3://b/", ("ro",), False, "SINGLE_NODE_WRITER", False)
    assert volumes._all() == [Published("v", "/p/a", how)]


def test_one_at_a_time_has_a_volume_and_a_directory_of_a_pod(state):
    """Of two volumes that are published at one directory, one would be mounted over the other."""
    volumes = Volumes(state)
    with volumes._held("v", "/p/a"):
        for volume, target, busy in [
            ("v", "/p/a", "volume v"), ("v", "/p/b", "volume v"), ("w", "/p/a", "target /p/a"),
        ]:  # fmt: skip
            with pytest.raises(Refusal, match=f"^{busy}: another request is under way") as refused:
                volumes.unpublish(volume, target, 0.0)
            assert refused.value.code is Code.ABORTED
        volumes.unpublish("w", "/p/b", 0.0)
    volumes.unpublish("v", "/p/a", 0.0)


def test_a_mount_that_the_kernel_does_not_start_leaves_no_record(state, tmp_path):
    volumes = Volumes(state)
    how = How("s3://b/" + "k" * (1 << 18), (), False, "SINGLE_NODE_WRITER", False)  # E2BIG
    asked = AskedVolume("v", str(tmp_path / "pod"), how, {})
    with pytest.raises(Refusal, match="the mount could not be started: Argument list") as refused:
        volumes.publish(asked)
    assert refused.value.code is Code.UNAVAILABLE  # kubelet tries again
    assert list((state / "published").iterdir()) == []


def test_process_1_ends_all_that_serves_whatever_the_records_say(state):
    volumes = Volumes(state)
    record(state, "/p/a", "spoiled")
    directory = state / "volumes/0123456789abcdef"
    point = directory / "mnt-01234567"
    point.mkdir(parents=True, mode=0o700)
    (directory / "mnt-of-none-that-was-ever-served").mkdir()
    words = [sys.executable, "-c", SERVING, str(directory / "state/mimicfs"), str(point.resolve())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout.readline() == "served\n"
            volumes.end()
            assert serving.wait(10) == 0
        finally:
            serving.kill()
