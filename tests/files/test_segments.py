"""Small files in a segment of the journal: what a mount that was killed leaves of them."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.disks import mutated

from mimicfs.csi.process import Process
from mimicfs.errors import PosixError
from mimicfs.files import disk
from mimicfs.files.journal import Journal
from mimicfs.files.record import Record
from mimicfs.files.recovery import recover
from mimicfs.files.replaying import replayed
from mimicfs.files.staging import Staging

# A mount that was told of three files, of which S3 has the second, and a fourth that is open.
MOUNT = """
import sys, time
from pathlib import Path
from mimicfs.files.journal import Journal
from mimicfs.files.record import Record
journal = Journal.open(Path(sys.argv[1]))
kept = []
for number, key in enumerate(("a", "b", "c")):
    staging = journal.stage(small=True)
    record = Record("photos", key, endpoint="http://s3")
    staging.describe(record)
    staging.write(0, bytes([number + 1]) * 3000)
    staging.write(3000, b"the end of " + key.encode())
    staging.promise(record)
    staging.sync()
    if key == "b":
        staging.settle()
    kept.append(staging)
open_ = journal.stage(small=True)
open_.describe(Record("photos", "open", endpoint="http://s3"))
open_.write(0, b"not closed")
print("written", flush=True)
time.sleep(60)
"""
A = bytes([1]) * 3000 + b"the end of a"
B = bytes([2]) * 3000 + b"the end of b"
C = bytes([3]) * 3000 + b"the end of c"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def killed_mount(directory: Path) -> Path:
    """Return the segment that a mount leaves which is killed."""
    arguments = [sys.executable, "-c", MOUNT, str(directory)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert [orphan.key for orphan in Journal.open(directory).orphans()] == []  # it lives
        process.send_signal(signal.SIGKILL)
    [segment] = directory.glob("*.segment")
    return segment


def found(directory: Path) -> dict[str, bytes | str]:
    """What the next mount believes of each file: its bytes, or why it does not."""
    journal, believed = Journal.open(directory), dict[str, bytes | str]()
    for orphan in journal.orphans():
        staging = journal.resume(orphan)
        assert staging is not None
        said = staging.record
        believed[said.key or orphan.name] = said.damaged or staging.read(0, orphan.size)
    return believed


@pytest.mark.slow
def test_small_files_of_a_killed_mount_are_recovered_to_the_byte(directory: Path) -> None:
    killed_mount(directory)
    assert found(directory) == {"a": A, "c": C, "open": b"not closed"}
    assert found(directory) == {"a": A, "c": C, "open": b"not closed"}
    assert list(directory.glob("*.segment")) == []


def test_a_recovery_that_was_killed_before_the_segment_was_gone_is_repeated(
    directory: Path,
) -> None:
    segment = killed_mount(directory)
    data = segment.read_bytes()
    assert found(directory)["a"] == A
    segment.write_bytes(data)
    victim = next(path for path in directory.glob("*.data") if path.read_bytes() == C)
    victim.write_bytes(b"half")
    assert found(directory) == {"a": A, "c": C, "open": b"not closed"}


def test_what_a_power_cut_tears_off_the_end_takes_nothing_else_with_it(directory: Path) -> None:
    segment = killed_mount(directory)
    data = segment.read_bytes()
    place = data.rindex(b"not closed")
    segment.write_bytes(data[:place] + bytes(4096))
    assert found(directory) == {"a": A, "c": C}


def test_a_description_that_a_power_cut_tears_takes_no_promised_file_with_it(
    directory: Path,
) -> None:
    journal = Journal.open(directory)
    staging = staged(journal)
    staging.promise(staging.record)
    staging.sync()
    for content_type in ("text/plain", "text/html"):
        staging.describe(staging.record._replace(content_type=content_type))
    staging.keep()
    journal.close()
    del staging, journal
    [segment] = directory.glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[data.index(b"text/plain")] ^= 1  # the next one is on the disk: pages have no order
    segment.write_bytes(data)
    [left] = replayed(bytes(data), segment).left
    assert (left.sound, b"text/html" in left.text) == (True, True)
    assert found(directory) == {"a": b"bytes"}


@pytest.mark.parametrize("entry", [0, 1])  # its record, and its bytes
def test_the_last_promised_file_of_which_something_is_damaged_is_kept_with_all_that_is_there(
    directory: Path, caplog: pytest.LogCaptureFixture, entry: int
) -> None:
    journal = Journal.open(directory)
    staging = staged(journal)
    staging.promise(staging.record)
    staging.sync()
    staging.keep()
    journal.close()
    del staging, journal
    [segment] = directory.glob("*.segment")
    data = bytearray(segment.read_bytes())
    place = [data.index(b"photos"), data.index(b"bytes")][entry]
    data[place] ^= 1
    segment.write_bytes(data)
    assert all(isinstance(said, str) for said in found(directory).values())
    assert len(found(directory)) == 1
    [kept] = (directory / "recovered").iterdir()
    assert kept.read_bytes() == bytes(data)
    assert "is damaged" in caplog.text
    caplog.clear()


def test_a_segment_is_replayed_where_less_is_free_than_stays_free(directory: Path) -> None:
    killed_mount(directory)
    assert len(Journal.open(directory, limit=1).orphans()) == 3
    assert found(directory) == {"a": A, "c": C, "open": b"not closed"}
    assert list(directory.glob("*.segment")) == []


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Within, no file can have more than *size* bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def left_with_a_large_one(directory: Path) -> None:
    """Leave a segment of two files, of which a small disk takes the first."""
    journal = Journal.open(directory)
    for data in (b"bytes", bytes(50_000)):
        staging = staged(journal, data)
        staging.promise(staging.record)
        staging.sync()
    journal.close()


def test_a_segment_that_the_disk_refuses_to_replay_is_tried_again(
    files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(tmp_path, tmp_path / "point")
    left_with_a_large_one(process.staging)
    journal = Journal.open(process.staging)
    with small_disk(20_000):
        assert recover(files.s3, journal, files.options) == 2
        assert process.left() == 2
    assert "is left as it is: File too large" in caplog.text
    assert len(journal.orphans()) == 2
    assert journal.waiting == set()


def test_of_a_segment_that_is_replayed_in_part_nothing_is_uploaded_before_it_is_gone(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_with_a_large_one(directory)
    with small_disk(20_000):
        assert Journal.open(directory).orphans() == []
    assert "is left as it is: File too large" in caplog.text
    assert [path.suffix for path in directory.iterdir()] == [".segment"]
    assert sorted(orphan.size for orphan in Journal.open(directory).orphans()) == [5, 50_000]
    assert list(directory.glob("*.segment")) == []


def test_what_a_replay_made_that_was_killed_is_synced_before_the_segment_is_gone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = killed_mount(directory)
    data = segment.read_bytes()
    assert found(directory)["a"] == A
    segment.write_bytes(data)
    synced = list[bool]()
    monkeypatch.setattr(disk, "sync_all", lambda fd: synced.append(segment.exists()))
    assert found(directory) == {"a": A, "c": C, "open": b"not closed"}
    assert synced == [True]
    assert not segment.exists()


@pytest.mark.parametrize("suffix", [".data", ".json", ".new"])
@pytest.mark.parametrize("kind", ["directory", "link", "dangling", "pipe"])
def test_what_is_in_the_way_of_a_file_of_a_segment_takes_no_bytes_with_it(
    directory: Path, caplog: pytest.LogCaptureFixture, suffix: str, kind: str
) -> None:
    segment = killed_mount(directory)
    victim = next(each for each in replayed(segment.read_bytes(), segment).left if each.data == A)
    way = directory / f"{victim.name}{suffix}"
    elsewhere = directory.parent / "elsewhere"
    elsewhere.write_bytes(b"somebody's")
    if kind == "directory":
        way.mkdir()
        (way / "mine").write_bytes(b"kept")
    elif kind == "pipe":
        os.mkfifo(way)
    else:
        way.symlink_to(elsewhere if kind == "link" else directory.parent / "nothing")
    assert found(directory) == {"a": A, "c": C, "open": b"not closed"}
    [stray] = (directory / "recovered").iterdir()
    assert stray.name.endswith(way.name)
    assert elsewhere.read_bytes() == b"somebody's"
    assert list(directory.glob("*.segment")) == []
    assert "was in the way of the journal" in caplog.text
    caplog.clear()


def test_a_segment_that_goes_while_it_is_locked_is_left_quietly(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    segment = killed_mount(directory)
    lock, number = fcntl.flock, segment.stat().st_ino

    def locked_late(fd: int, how: int) -> None:
        if os.fstat(fd).st_ino == number:
            segment.unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", locked_late)
    assert Journal.open(directory).orphans() == []
    assert not segment.exists()
    assert caplog.text == ""


@pytest.mark.slow
def test_of_1000_random_mutations_of_a_segment_none_is_believed(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(11)
    segment = killed_mount(directory)
    old = segment.read_bytes()
    told = {"a": A, "c": C, "open": b"not closed"}
    for _ in range(1000):
        segment.write_bytes(new := mutated(old, chance))
        left = found(directory)
        believed = {key: said for key, said in left.items() if isinstance(said, bytes)}
        if len(new) < len(old):  # as after a power cut: what was written until then
            assert all(said == {**told, "b": B}[key][: len(said)] for key, said in believed.items())
        else:
            assert believed.items() <= told.items()
            assert len(left.keys() - {"open"}) >= 2  # what was promised is there in some way
        for path in directory.rglob("*"):
            if path.is_file():
                path.unlink()
    assert "is damaged" in caplog.text


# A mount that lives


def test_a_file_that_is_done_while_the_disk_is_full_does_not_come_back(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(directory)
    first, other = staged(journal), staged(journal, b"other")
    for each in (first, other):
        each.promise(each.record)
        each.sync()
    with small_disk(0):
        first.settle()
    assert "File too large" in caplog.text
    journal.close()
    after = shutil.copytree(directory, directory.with_name("after"))  # nobody has a lock there
    assert found(after) == {"a": b"other"}


def test_no_file_begins_in_a_segment_that_has_gone_meanwhile(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(directory)
    current = journal._segments.current
    gone = current()  # by one who is about to add to it
    gone.retire(at_once=True)  # by another, for whom it is full
    assert list(directory.glob("*.segment")) == []
    chosen = iter([gone, current()])
    monkeypatch.setattr(journal._segments, "current", lambda: next(chosen))
    staging = staged(journal)
    staging.promise(staging.record)
    staging.sync()
    after = shutil.copytree(directory, directory.with_name("after"))
    assert found(after) == {"a": b"bytes"}


def test_a_segment_of_which_all_is_done_goes_also_while_the_disk_is_full(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(directory)
    staging = staged(journal)
    with small_disk(0):
        staging.settle()
        journal.close()
    assert "File too large" in caplog.text
    assert list(directory.glob("*.segment")) == []


def staged(journal: Journal, data: bytes = b"bytes") -> Staging:
    staging = journal.stage(small=True)
    staging.describe(Record("photos", "a", endpoint="http://s3"))
    staging.write(0, data)
    return staging


def test_a_small_file_has_no_file_of_its_own(directory: Path) -> None:
    journal = Journal.open(directory)
    many = [staged(journal, b"%d" % number) for number in range(20)]
    assert [path.suffix for path in directory.iterdir()] == [".segment"]
    assert [each.read(0, 10) for each in many[:3]] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    "change",
    [
        lambda staging: staging.write(2, b"XY"),
        lambda staging: staging.write(9, b"behind a hole"),
        lambda staging: staging.truncate(2),
        lambda staging: staging.zero(1, 3),
        lambda staging: staging.write(5, bytes(70_000)),
    ],
)
def test_what_else_is_done_to_it_gives_it_a_file(directory: Path, change) -> None:
    journal, beside = Journal.open(directory), directory.parent / "beside"
    beside.write_bytes(b"bytes")
    small, plain = staged(journal), staged(journal)
    assert plain.as_file().read_bytes() == b"bytes"
    change(small)
    change(plain)
    assert small.read(0, 80_000) == plain.path.read_bytes() == small.path.read_bytes()
    assert small.record.key == "a"
    journal.close()
    del small, plain
    assert {orphan.key for orphan in Journal.open(directory).orphans()} == {"a"}
    assert list(directory.glob("*.segment")) == []


def test_what_was_promised_and_is_changed_then_is_no_damage(directory: Path) -> None:
    journal = Journal.open(directory)
    staging = staged(journal)
    staging.promise(staging.record)
    staging.sync()
    staging.write(5, b" and more")
    staging.keep()
    del staging, journal
    assert found(directory) == {"a": b"bytes and more"}


def test_a_segment_is_gone_when_all_of_it_is_in_s3(directory: Path) -> None:
    journal = Journal.open(directory)
    many = [staged(journal, bytes(60_000)) for _ in range(200)]  # 12 MB
    assert len(list(directory.glob("*.segment"))) == 2
    for each in many:
        each.settle()
    assert many[0].read(59_990, 20) == bytes(10)  # whoever has it open reads on
    assert len(list(directory.glob("*.segment"))) == 1
    journal.close()
    assert list(directory.iterdir()) == []


def test_segments_count_for_the_limit_of_the_disk(directory: Path) -> None:
    journal = Journal.open(directory, limit=100_000)
    kept = [staged(journal, bytes(30_000)) for _ in range(3)]
    with pytest.raises(PosixError, match="raise --staging-size"):
        staged(journal, bytes(30_000))
    kept.clear()
    assert Journal.open(directory).room.used == 0


def test_a_segment_whose_directory_was_removed_is_left_for_a_new_one(directory: Path) -> None:
    journal = Journal.open(directory)
    first = staged(journal)
    [segment] = directory.iterdir()
    segment.unlink()
    directory.rmdir()
    second = staged(journal)
    second.promise(second.record)
    second.sync()
    assert len(list(directory.glob("*.segment"))) == 1
    assert first.read(0, 5) == b"bytes"


def test_a_file_that_the_disk_refuses_to_make_of_a_small_one_leaves_nothing(
    directory: Path,
) -> None:
    journal = Journal.open(directory)
    staging = staged(journal, bytes(50_000))
    before = (len(os.listdir("/proc/self/fd")), journal.room.used, os.listdir(directory))
    for _ in range(5):
        with small_disk(20_000), pytest.raises(PosixError, match="File too large"):
            staging.as_file()
    after = (len(os.listdir("/proc/self/fd")), journal.room.used, os.listdir(directory))
    assert after == before
    assert staging.read(0, 60_000) == staging.as_file().read_bytes() == bytes(50_000)


def test_a_small_file_goes_on_though_the_half_of_its_own_file_cannot_be_removed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(directory)
    staging = staged(journal, bytes(50_000))
    with small_disk(20_000), monkeypatch.context() as denied:
        denied.setattr("mimicfs.files.staging.os.unlink", refused)
        with pytest.raises(PosixError, match="File too large"):
            staging.as_file()
    assert "not removed: Operation not permitted" in caplog.text
    caplog.clear()
    assert [each.key for each in Journal.open(directory).orphans()] == []  # it is locked
    staging.write(50_000, b"more")
    assert staging.read(0, 60_000) == bytes(50_000) + b"more"
    assert staging.as_file().read_bytes() == bytes(50_000) + b"more"


def refused(path: str) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
