"""The journal: what a mount that was killed leaves, and that nothing of it is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mimicfs.errors import ConfigError
from mimicfs.files.journal import Journal, Orphan, Record

# A mount, as far as it matters here: it says that it has written, and lives until it is killed.
MOUNT = """
import sys, time
from pathlib import Path
from mimicfs.files.journal import Journal, Record
staging = Journal.open(Path(sys.argv[1])).stage()
said = {"content_type": "image/png", "meta": {"mode": "33188"}}
staging.describe(Record("photos", sys.argv[2], "etag", **said))
staging.write(0, bytes(range(256)) * 4096)
print("written", flush=True)
time.sleep(60)
"""
DATA = bytes(range(256)) * 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def mount(directory: Path, key: str = "2024/cat.png") -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", MOUNT, str(directory), key]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def left(directory: Path, key: str = "2024/cat.png") -> Orphan:
    """Return what a mount leaves that is killed in the middle."""
    kill(mount(directory, key))
    [orphan] = Journal.open(directory).orphans()
    return orphan


def test_what_a_killed_mount_had_not_uploaded_is_recovered_to_the_byte(directory: Path) -> None:
    orphan = left(directory)
    assert (orphan.bucket, orphan.key, orphan.size) == ("photos", "2024/cat.png", 1 << 20)
    journal = Journal.open(directory)
    path = journal.recover(orphan)
    assert path == directory / "recovered" / f"cat.png.{orphan.name}"
    assert path.read_bytes() == DATA
    record = json.loads(Path(f"{path}.json").read_text())
    assert record["created_ns"] <= time.time_ns()
    del record["created_ns"]
    assert record.pop("record_checksum") > 0
    assert record == {
        "bucket": "photos",
        "key": "2024/cat.png",
        "etag": "etag",
        "content_type": "image/png",
        "meta": {"mode": "33188"},
    }
    assert journal.orphans() == []
    assert os.listdir(directory) == ["recovered"]


def test_a_mount_that_lives_is_left_alone(directory: Path) -> None:
    process = mount(directory)
    try:
        assert Journal.open(directory).orphans() == []
        assert len(list(directory.glob("*.data"))) == 1
    finally:
        kill(process)


def test_two_mounts_that_recover_at_once_agree(directory: Path) -> None:
    orphan = left(directory)
    first, second = Journal.open(directory), Journal.open(directory)
    assert first.recover(orphan) == second.recover(orphan)


def test_a_recovery_that_was_killed_between_its_steps_is_finished(directory: Path) -> None:
    orphan = left(directory)
    journal = Journal.open(directory)
    target = directory / "recovered" / f"cat.png.{orphan.name}"
    target.parent.mkdir()
    (directory / f"{orphan.name}.data").rename(target)  # the first step; the second was not made
    assert journal.orphans() == []
    assert target.read_bytes() == DATA
    assert json.loads(Path(f"{target}.json").read_text())["key"] == "2024/cat.png"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        ("", "file"),
        ("a/b/", "b"),
        ("~/.ssh/authorized keys; rm -rf", "authorized_keys_rm_-rf"),
        ("x\nerror: y", "x_error_y"),
        ("é" * 300, "_"),
        ("k" * 1024, "k" * 80),
    ],
)
def test_no_key_leads_out_of_the_directory(directory: Path, key: str, name: str) -> None:
    journal = Journal.open(directory)
    staging = journal.stage()
    staging.describe(Record("photos", key, ""))
    staging.write(0, b"x")
    staging.keep()
    [orphan] = journal.orphans()
    assert journal.recover(orphan) == directory / "recovered" / f"{name}.{orphan.name}"


def test_copies_and_empty_files_are_removed(directory: Path) -> None:
    journal = Journal.open(directory)
    copy = journal.stage()
    copy.write(0, b"S3 has it")
    copy.keep()
    empty = journal.stage()
    empty.describe(Record("photos", "empty", ""))
    empty.keep()
    assert journal.orphans() == []
    assert list(directory.iterdir()) == []


def test_a_damaged_record_does_not_lose_the_bytes(directory: Path) -> None:
    journal = Journal.open(directory)
    for damage in ("", "{", "[]", "null"):
        staging = journal.stage()
        staging.describe(Record("photos", "key", ""))
        staging.path.with_suffix(".json").write_text(damage)
        staging.write(0, b"precious")
        staging.keep()
    found = journal.orphans()
    assert [(orphan.key, orphan.size) for orphan in found] == [("", 8)] * 4
    assert {journal.recover(orphan).read_bytes() for orphan in found} == {b"precious"}


def test_a_file_that_was_never_born_is_removed_when_it_is_old(directory: Path) -> None:
    journal = Journal.open(directory)
    old, young = directory / "1.unborn", directory / "2.unborn"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    journal.orphans()
    assert list(directory.iterdir()) == [young]


def test_staging_files_are_private(directory: Path) -> None:
    mask = os.umask(0)
    try:
        staging = Journal.open(directory).stage()
        staging.describe(Record("photos", "key", ""))
    finally:
        os.umask(mask)
    modes = {path.suffix: oct(path.stat().st_mode & 0o777) for path in directory.iterdir()}
    assert oct(directory.stat().st_mode & 0o777) == "0o700"
    assert modes == {".data": "0o600", ".json": "0o600"}
    staging.remove()
    assert list(directory.iterdir()) == []


def test_a_directory_that_others_can_enter_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="others can enter it; chmod 700 it"):
        Journal.open(directory)


def test_a_link_to_a_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a directory of ours"):
        Journal.open(directory)


def test_a_file_in_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.touch()
    with pytest.raises(ConfigError, match="name another --cache-dir"):
        Journal.open(directory)


def damaged_staging(directory: Path) -> Path:
    """What a mount left that died while it changed a large object and had promised the bytes."""
    staging = Journal.open(directory).stage()
    record = Record("photos", "big", "etag", 1000, partial=True, endpoint="http://s3")
    staging.describe(record)
    staging.truncate(1000)
    for start in (0, 300, 600):
        staging.write(start, b"changed")
        staging.changed(start, start + 7)
    staging.promise(record)
    staging.keep()
    return staging.path


def test_of_1000_random_mutations_none_is_believed_and_none_ends_anything(directory: Path) -> None:
    chance = random.Random(7)
    for _ in range(1000):
        path = damaged_staging(directory)
        victim = path.with_suffix(chance.choice((".json", ".ranges", ".data")))
        old = victim.read_bytes()
        new = bytearray(old)
        place = chance.randrange(len(old))
        match chance.randrange(3):
            case 0:
                new[place] ^= 1 << chance.randrange(8)
            case 1:
                del new[place:]
            case 2:
                new[place:place] = chance.randbytes(chance.randrange(1, 40))
        victim.write_bytes(new)
        [orphan] = Journal.open(directory).orphans()
        same = victim.suffix == ".json" and loads(new) == loads(old)
        assert orphan.record.damaged or same, (victim.suffix, bytes(new))
        Journal.open(directory).recover(orphan)
        assert not list(directory.glob("*.data"))


def loads(text: bytes | bytearray) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


@pytest.mark.parametrize("kind", ["directory", "fifo", "null", "list", "deep"])
def test_a_record_that_is_no_record_is_damaged_and_nobody_waits_for_it(
    directory: Path, kind: str
) -> None:
    record = damaged_staging(directory).with_suffix(".json")
    record.unlink()
    if kind == "directory":
        record.mkdir()
    elif kind == "fifo":
        os.mkfifo(record)
    else:
        record.write_text({"null": "null", "list": "[]", "deep": "[" * 50_000}[kind])
    [orphan] = Journal.open(directory).orphans()
    assert orphan.record.damaged
    kept = Journal.open(directory).recover(orphan)
    assert kept.read_bytes()[300:307] == b"changed"
