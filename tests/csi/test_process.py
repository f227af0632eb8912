"""The words with which the process of a volume is started, and what it leaves."""

import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from mimicfs.config.given import from_words
from mimicfs.config.settled import settle
from mimicfs.csi import process as module
from mimicfs.csi.process import Process
from mimicfs.csi.refusal import Refusal
from mimicfs.files.journal import Journal

VARIABLES = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "the-secret-of-a-pod"}


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path, tmp_path / "mnt")


def everything(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def filled(process: Process) -> Path:
    """Have something in all that a volume keeps; return the directory `recovered`."""
    places = [process.staging / "recovered", process.directory / "state/mimicfs/blocks/a"]
    for place in places:
        place.mkdir(parents=True)
        (place / "a.1").write_bytes(b"bytes")
    for place in (process.settings.state / "mirror.db", process.staging / "b.unborn"):
        place.write_bytes(b"")
    (process.directory / "link").symlink_to("/")
    return places[0]


def test_only_what_a_person_is_to_look_at_stays_of_a_volume_that_is_cleared(process):
    recovered = filled(process)
    process.clear()
    kept = "state/mimicfs/staging/recovered/a.1"
    parents = {"state", "state/mimicfs", "state/mimicfs/staging", "state/mimicfs/staging/recovered"}
    assert everything(process.directory) == parents | {kept}
    assert process.recovered() == 1
    (recovered / "a.1").unlink()
    process.clear()
    assert not process.directory.exists()


def test_nothing_is_cleared_below_what_may_be_mounted(process):
    filled(process)
    other = process.directory / "mnt-01234567"
    other.mkdir()
    (other / "an object of S3").touch()
    before = everything(process.directory)
    process.clear()
    assert everything(process.directory) == before


def test_a_volume_that_is_apart_gets_of_the_driver_only_what_it_may_say(process, monkeypatch):
    """Nor its store, which would answer of what others may see."""
    driver = {**dict.fromkeys(VARIABLES, "the-driver's"), "MIMICFS_CONFIG": "/etc/own.toml",
              "MIMICFS_STORE": "redis://shared", "MIMICFS_LOG_FILE": "/log",
              "XDG_CONFIG_HOME": "/etc/own"}  # fmt: skip
    of_s3 = {"AWS_ENDPOINT_URL": "http://s3", "MIMICFS_ATTEMPTS": "2"}
    for name, value in (driver | of_s3).items():
        monkeypatch.setenv(name, value)
    anonymous = process._environment({}, True)
    assert driver.keys() & anonymous.keys() == set()
    assert of_s3.items() <= anonymous.items()
    assert driver.items() <= process._environment({}, False).items()
    assert VARIABLES.items() <= process._environment(VARIABLES, True).items()
    assert process._environment({}, False)["AWS_ACCESS_KEY_ID"] == "the-driver's"


def test_what_only_one_process_can_have_is_no_volume_s(process, monkeypatch):
    """Two cannot listen at one address, and one in the foreground never lets `start` return."""
    for name in ("MIMICFS_METRICS", "MIMICFS_ACCESS_LOG", "MIMICFS_FOREGROUND", "MIMICFS_TTL"):
        monkeypatch.setenv(name, "1")
    for apart in (False, True):
        environment = process._environment({}, apart)
        assert [it for it in environment if it.startswith("MIMICFS_")] == ["MIMICFS_TTL"]


def test_what_a_configuration_file_says_of_one_process_is_no_volume_s(
    process, monkeypatch, tmp_path
):
    config = tmp_path / "config.toml"
    config.write_text('[mount]\nmetrics = "127.0.0.1:1"\naccess-log = "/log"\ncache-dir = "/c"\n')
    run: list[list[str]] = []

    def succeeds(words, **_):
        run.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", succeeds)
    monkeypatch.setattr(Process, "device", None)
    process.start("s3://photos", (), {}, apart=False)
    said = [word for before, word in pairwise(run[0]) if before == "-o"]
    settings = settle({}, {"MIMICFS_CONFIG": str(config)}, from_words(said)).settings()
    assert (settings.metrics, settings.access_log) == ("", None)
    assert settings.cache_dir == process.settings.state


def test_a_pod_waits_for_what_was_closed_before_it_ended_and_for_no_more(process, monkeypatch):
    """The last one of a volume waits for all."""

    def told(*queues):
        """The mount answers with the queues one after the other; each has an oldest file."""
        answers = iter([{"files": {"write_back": each}} for each in queues])
        monkeypatch.setattr(module, "ask", lambda *asked: next(answers))
        return answers

    def queue(oldest_s, files=1):
        return {"files": files, "bytes": 5, "oldest_s": oldest_s, "error": ""}

    monkeypatch.setattr(Process, "alive", True)
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)
    soon = time.monotonic() + 60
    for meanwhile, left in [(False, 2), (True, 0)]:
        answers = told(queue(90), queue(90), queue(0.0), queue(0.0), queue(0.0, files=0))
        process.flush(soon, meanwhile=meanwhile)
        assert len(list(answers)) == left
    told(queue(90))
    with pytest.raises(Refusal, match="1 file, 5 B, to be uploaded"):
        process.flush(0.0, meanwhile=False)
    monkeypatch.setattr(module, "ask", lambda *asked: {"files": {"error": "does not answer"}})
    with pytest.raises(Refusal, match=r"1 file, 0 B, to be uploaded \(the mount does not answer"):
        process.flush(0.0, meanwhile=False)


def test_only_what_the_next_mount_would_upload_keeps_a_volume(process):
    """Not what a mount has open that lives, nor what is there for a person to look at."""
    assert (process.left(), process.recovered()) == (0, 0)
    process.staging.parent.mkdir(parents=True)
    journal = Journal.open(process.staging)
    staging = journal.stage()
    staging.write(0, memoryview(b"bytes"))
    recovered = process.staging / "recovered"
    recovered.mkdir()
    for name in ("a.1", "a.1.json", "a.1.ranges"):
        (recovered / name).touch()
    assert (process.left(), process.recovered()) == (0, 1)
