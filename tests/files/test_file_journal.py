"""The journal: what a mount that was killed leaves, and that nothing of it is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.disks import mutated

from mimicfs.errors import ConfigError, PosixError
from mimicfs.files.journal import Journal, Orphan
from mimicfs.files.record import Record
from mimicfs.files.sums import Sums

# A mount, as far as it matters here: it says that it has written, and lives until it is killed.
MOUNT = """
import sys, time
from pathlib import Path
from mimicfs.files.journal import Journal
from mimicfs.files.record import Record
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
        "format": 2,
    }
    assert journal.orphans() == []
    assert os.listdir(directory) == ["recovered"]


def test_what_was_recovered_is_counted_without_what_is_told_beside_it(directory: Path) -> None:
    journal = Journal.open(directory)
    assert journal.recovered() == 0
    path = journal.recover(left(directory, "a.json"))
    Path(f"{path}.ranges").touch()
    assert len(os.listdir(path.parent)) == 3
    assert journal.recovered() == 1


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
    with pytest.raises(ConfigError, match="not a directory of yours"):
        Journal.open(directory)


def test_a_file_in_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.touch()
    with pytest.raises(ConfigError, match="name another --cache-dir"):
        Journal.open(directory)


def promised_staging(directory: Path) -> Path:
    """The files of a mount that died while it changed a large object and had promised the bytes."""
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


def resumed(directory: Path) -> Orphan:
    """The next mount's belief about the one file that was left."""
    journal = Journal.open(directory)
    [orphan] = journal.orphans()
    staging = journal.resume(orphan)
    assert staging is not None
    return orphan._replace(record=staging.record)


@pytest.mark.slow
def test_of_1000_random_mutations_none_is_believed_and_none_ends_anything(directory: Path) -> None:
    chance = random.Random(7)
    path = promised_staging(directory)
    for _ in range(1000):
        victim = path.with_suffix(chance.choice((".json", ".ranges", ".data")))
        old = victim.read_bytes()
        new = mutated(old, chance)
        victim.write_bytes(new)
        damaged = resumed(directory).record.damaged
        assert damaged or (victim.suffix == ".json" and loads(new) == loads(old)), (victim, new)
        victim.write_bytes(old)
    assert not resumed(directory).record.damaged


@pytest.mark.parametrize("suffix", [".json", ".ranges"])
def test_what_belongs_to_another_file_is_not_believed(directory: Path, suffix: str) -> None:
    paths = [promised_staging(directory) for _ in range(2)]
    one, other = (path.with_suffix(suffix) for path in paths)
    one.rename(directory / "aside")
    other.rename(one)
    (directory / "aside").rename(other)
    orphans = Journal.open(directory).orphans()
    found = [Journal.open(directory).resume(orphan) for orphan in orphans]
    assert all(staging is not None and staging.record.damaged for staging in found)
    assert len(found) == 2


# As the build before 5d93164 wrote them: no format, and no name in the checksums.
FORMER_RECORD = (
    b'{"bucket": "photos", "key": "big", "etag": "etag", "base": 1000, "partial": true,'
    b' "endpoint": "http://s3", "uploads": ["u1"], "zeros": "z", "closed": true, "noted": 64,'
    b' "checksum": 195596705, "created_ns": 1764230400000000000, "record_checksum": 2448860571}'
)
FORMER_RANGES = bytes.fromhex(
    "0000000000000000070000000000000000000000000000004c427ee600000000"
    "2c0100000000000033010000000000000000000000000000ad4ec18c00000000"
)


def former_staging(directory: Path) -> Path:
    """The files of a mount of a former version that had promised the bytes."""
    path = Journal.open(directory).directory / f"{'0' * 32}.data"
    path.write_bytes(b"changed".ljust(300, b"\0") + b"changed".ljust(700, b"\0"))
    path.with_suffix(".json").write_bytes(FORMER_RECORD)
    path.with_suffix(".ranges").write_bytes(FORMER_RANGES)
    return path


def test_what_a_former_version_left_is_believed(directory: Path) -> None:
    former_staging(directory)
    record = resumed(directory).record
    assert (record.damaged, record.uploads, record.zeros) == ("", ("u1",), "z")
    assert (record.closed, record.noted, record.checksum) == (True, 64, 195596705)


def test_what_a_former_version_left_can_be_gone_on_with_and_left_again(directory: Path) -> None:
    former_staging(directory)
    journal = Journal.open(directory)
    staging = journal.resume(journal.orphans()[0])
    assert staging is not None
    staging.note_upload("u2")
    staging.write(600, b"changed")
    staging.changed(600, 607)
    staging.describe(Record("photos", "big", "etag", 1000, partial=True, endpoint="http://s3"))
    staging.promise(staging.record)
    assert list(staging.ranges()) == [(0, 7), (300, 307), (600, 607)]
    staging.keep()
    record = resumed(directory).record
    assert (record.damaged, record.noted, record.uploads) == ("", 96, ("u1", "u2"))


def test_what_a_former_version_left_damaged_is_not_believed(directory: Path) -> None:
    path = former_staging(directory)
    for suffix, old, new in ((".json", b'"big"', b'"bag"'), (".ranges", b"\x2c", b"\x2d")):
        whole = path.with_suffix(suffix).read_bytes()
        path.with_suffix(suffix).write_bytes(whole.replace(old, new))
        assert resumed(directory).record.damaged
        path.with_suffix(suffix).write_bytes(whole)


def test_the_owner_of_what_a_former_version_left_is_told_what_was_changed(directory: Path) -> None:
    former_staging(directory)
    kept = Journal.open(directory).recover(resumed(directory))
    assert json.loads(Path(f"{kept}.json").read_text())["written"] == [[0, 7], [300, 307]]


@pytest.mark.parametrize("form", ["0", "1", "3", "true", '"2"', "null"])
def test_a_record_with_another_format_is_not_believed(directory: Path, form: str) -> None:
    record = promised_staging(directory).with_suffix(".json")
    text = record.read_text()
    assert '"format": 2' in text
    record.write_text(text.replace('"format": 2', f'"format": {form}'))
    assert resumed(directory).record.damaged


def loads(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


@pytest.mark.parametrize("kind", ["directory", "fifo", "null", "list", "deep"])
def test_a_record_that_is_no_record_is_damaged_and_nobody_waits_for_it(
    directory: Path, kind: str
) -> None:
    record = promised_staging(directory).with_suffix(".json")
    record.unlink()
    if kind == "directory":
        record.mkdir()
    elif kind == "fifo":
        os.mkfifo(record)
    else:
        record.write_text({"null": "null", "list": "[]", "deep": "[" * 50_000}[kind])
    orphan = resumed(directory)
    assert orphan.record.damaged
    kept = Journal.open(directory).recover(orphan)
    assert kept.read_bytes()[300:307] == b"changed"


def test_what_is_changed_after_a_promise_is_no_damage(directory: Path) -> None:
    for change in ("write", "truncate", "grow", "chmod", "upload"):
        staging = Journal.open(directory).stage()
        record = Record("photos", "small", endpoint="http://s3")
        staging.describe(record)
        staging.write(0, b"a" * (3 << 20))
        staging.promise(record)
        if change == "write":
            staging.write(1 << 20, b"b")
        elif change == "truncate":
            staging.truncate(10)
        elif change == "grow":
            staging.truncate(9 << 20)
        elif change == "chmod":
            staging.describe(record._replace(meta={"mode": "33188"}, closed=True))
        else:
            staging.note_upload("an upload")
        staging.keep()
        orphan = resumed(directory)
        vouched = change in ("chmod", "upload")
        assert (orphan.record.damaged, orphan.record.checksum > 0) == ("", vouched)
        assert orphan.record.closed
        Journal.open(directory).recover(orphan)


def test_a_change_that_a_full_disk_has_not_noted_is_no_damage(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Journal.open(directory).stage()
    record = Record("photos", "big", "etag", 1000, partial=True, endpoint="http://s3")
    staging.describe(record)
    staging.truncate(1000)
    staging.changed(0, 7)
    with monkeypatch.context() as disk:
        disk.setattr("mimicfs.files.changes.os.write", full)
        with pytest.raises(PosixError, match="raise --staging-size"):
            staging.changed(300, 307)
    staging.changed(600, 607)
    staging.promise(record)
    staging.keep()
    assert resumed(directory).record.damaged == ""
    assert list(staging.ranges()) == [(0, 7), (600, 607)]


def full(fd: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
def test_a_checksum_that_was_kept_up_is_that_of_the_bytes(directory: Path) -> None:
    chance = random.Random(7)
    staging, kept = Journal.open(directory).stage(), Sums()
    descriptor = os.open(staging.path, os.O_RDWR)
    for _ in range(200):
        place, size = chance.randrange(5 << 20), chance.randrange(1, 2 << 20)
        if chance.random() < 0.2:
            os.ftruncate(descriptor, place)
            kept.changed(place, 1 << 63)
        else:
            os.pwrite(descriptor, chance.choice((b"a", b"\0")) * size, place)
            kept.changed(place, place + size)
        if chance.random() < 0.5:
            assert kept.total(descriptor) == Sums().total(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("name", ["0.data", "0.segment"])
def test_a_fifo_hides_nothing_that_a_dead_mount_has_left(directory: Path, name: str, caplog):
    journal = Journal.open(directory)
    staging = journal.stage()
    staging.describe(Record("photos", "a.png"))
    staging.write(0, b"bytes")
    staging.keep()
    os.mkfifo(directory / name)
    assert [(each.key, each.size) for each in journal.orphans()] == [("a.png", 5)]
    assert f"{directory / name}: not touched" in caplog.text
    assert (directory / name).is_fifo()


@pytest.mark.usefixtures("caplog")
def test_where_nothing_can_be_locked_nothing_stays_open(directory: Path, monkeypatch) -> None:
    journal = Journal.open(directory)
    staging = journal.stage()
    staging.describe(Record("photos", "a.png"))
    staging.write(0, b"bytes")
    staging.keep()
    [orphan] = journal.orphans()

    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    for call in (lambda: journal.resume(orphan), journal.orphans, journal.stage):
        with pytest.raises(PosixError, match=r"No locks|staging file"):
            call()
    with journal.recovering("", threading.Event()) as ours:
        assert ours  # without a lock
    assert os.listdir("/proc/self/fd") == before
