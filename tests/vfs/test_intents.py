"""The records of renames: what a dead mount left is found, by the next one of that account."""

import errno
import fcntl
import os
import resource
import stat
from pathlib import Path

import pytest

from mimicfs.errors import PosixError
from mimicfs.vfs.intents import Copy, Intents, KeyTree

OLD, NEW = KeyTree("photos", "a/"), KeyTree("archive", "b/c/")


@pytest.fixture
def intents(tmp_path):
    return Intents(tmp_path / "renames", "account")


def test_what_a_dead_mount_noted_is_read(intents, tmp_path):
    intent = intents.begin(OLD, NEW, replaces=True)
    intent.note("x/ü\n", Copy("e1", "e2"))
    intent.leave()  # as the end of its process does
    (found,) = intents.left()
    assert (found.old, found.new, found.replaces, found.copied) == (OLD, NEW, True, False)
    assert found.copies == {"x/ü\n": Copy("e1", "e2")}
    found.all_copied()
    found.leave()
    assert intents.left()[0].copied


def test_what_somebody_works_on_is_left_alone(intents):
    intent = intents.begin(OLD, NEW, replaces=False)
    assert intents.left() == []
    intent.end()
    assert intents.left() == []


def test_what_another_account_began_is_left_alone(intents, tmp_path):
    intents.begin(OLD, NEW, replaces=False).leave()
    assert Intents(tmp_path / "renames", "other").left() == []
    assert len(intents.left()) == 1


def test_a_line_that_was_not_written_to_its_end_says_nothing(intents, tmp_path):
    intent = intents.begin(OLD, NEW, replaces=False)
    intent.note("x", Copy("e1", "e2"))
    intent.leave()
    (path,) = (tmp_path / "renames").iterdir()
    path.write_text(path.read_text() + '["y", "e')
    assert intents.left()[0].copies == {"x": Copy("e1", "e2")}


def test_a_damaged_record_is_left_alone_and_the_log_says_so(intents, tmp_path, caplog):
    intents.begin(OLD, NEW, replaces=False).leave()
    (path,) = (tmp_path / "renames").iterdir()
    path.write_text("{}\n")
    assert intents.left() == []
    assert f"{path}: not a record of a rename" in caplog.text
    assert path.exists()


def test_nobody_else_can_read_them(intents, tmp_path):
    intents.begin(OLD, NEW, replaces=False)
    modes = [tmp_path / "renames", *(tmp_path / "renames").iterdir()]
    assert [stat.filemode(path.stat().st_mode) for path in modes] == ["drwx------", "-rw-------"]


def test_a_disk_that_takes_nothing_is_an_error(tmp_path: Path):
    os.close(os.open(tmp_path / "file", os.O_CREAT))
    with pytest.raises(PosixError):
        Intents(tmp_path / "file", "account").begin(OLD, NEW, replaces=False)


def made_directory(path: Path):
    path.mkdir()


def made_fifo(path: Path):
    os.mkfifo(path)


def made_link(path: Path):
    path.symlink_to("/etc/passwd")


@pytest.mark.timeout(20)  # whoever reads a fifo waits for good
@pytest.mark.parametrize("make", [made_directory, made_fifo, made_link])
def test_what_is_no_file_ends_no_mount_and_hides_no_other_record(intents, tmp_path, make, caplog):
    intents.begin(OLD, NEW, replaces=False).leave()
    path = tmp_path / "renames" / "0.rename"
    make(path)
    (found,) = intents.left()
    assert found.old == OLD
    assert f"{path}: " in caplog.text
    assert path.lstat()


def test_a_line_of_which_the_disk_takes_a_part_is_an_error_and_leaves_nothing(intents):
    intent = intents.begin(OLD, NEW, replaces=True)
    size = os.fstat(intent._fd).st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # as a disk that is full then
    try:
        with pytest.raises(PosixError, match="record of a rename"):
            intent.note("x", Copy("e1", "e2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    intent.note("y", Copy("e1", "e2"))
    intent.leave()
    (found,) = intents.left()
    assert found.copies == {"y": Copy("e1", "e2")}
    found.end()


@pytest.mark.usefixtures("caplog")
def test_where_nothing_can_be_locked_nothing_stays_open_or_behind(intents, tmp_path, monkeypatch):
    intents.begin(OLD, NEW, replaces=False).leave()
    before = os.listdir("/proc/self/fd"), os.listdir(tmp_path / "renames")
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    with pytest.raises(PosixError, match="record of a rename"):
        intents.begin(OLD, NEW, replaces=False)
    assert intents.left() == []
    assert (os.listdir("/proc/self/fd"), os.listdir(tmp_path / "renames")) == before
    monkeypatch.undo()
    assert len(intents.left()) == 1


def _no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
