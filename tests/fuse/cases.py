"""The behaviour of any POSIX file system: each case gets an empty directory and asserts.

Run by test_fuse_posix.py in the client process, against a MemFS and against a tmpfs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def error_of(call: Callable[[], object]) -> str:
    """Return the name of the errno that *call* raises."""
    try:
        call()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "none"


def renameat2(source: Path, target: Path, flags: int) -> None:
    if libc.renameat2(-100, bytes(source), -100, bytes(target), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


# Data


def what_is_written_is_read(root: Path) -> None:
    data = os.urandom(3 * MIB + 17)
    (root / "file").write_bytes(data)
    assert (root / "file").read_bytes() == data
    assert (root / "file").stat().st_size == 3 * MIB + 17


def an_empty_file_is_empty(root: Path) -> None:
    (root / "file").touch()
    assert (root / "file").read_bytes() == b""
    assert os.stat(root / "file").st_blocks == 0


def writes_at_offsets_land_there(root: Path) -> None:
    (root / "file").write_bytes(b"0123456789")
    with opened(root / "file", os.O_RDWR) as fd:
        os.pwrite(fd, b"abc", 4)
        os.pwrite(fd, b"end", 12)
        assert os.pread(fd, 100, 0) == b"0123abc789\0\0end"
        assert os.pread(fd, 3, 4) == b"abc"
        assert os.pread(fd, 3, 100) == b""


def appends_go_to_the_end(root: Path) -> None:
    (root / "file").write_bytes(b"one ")
    with opened(root / "file", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"two ")
        os.write(fd, b"three")
    assert (root / "file").read_bytes() == b"one two three"


def truncating_shortens_and_lengthens(root: Path) -> None:
    (root / "file").write_bytes(b"0123456789")
    os.truncate(root / "file", 4)
    assert (root / "file").read_bytes() == b"0123"
    os.truncate(root / "file", 6)
    assert (root / "file").read_bytes() == b"0123\0\0"
    with opened(root / "file", os.O_RDWR) as fd:
        os.ftruncate(fd, 1)
        assert os.fstat(fd).st_size == 1
    assert (root / "file").read_bytes() == b"0"


def open_with_truncation_empties(root: Path) -> None:
    (root / "file").write_bytes(b"0123456789")
    with opened(root / "file", os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
        os.write(fd, b"new")
    assert (root / "file").read_bytes() == b"new"


def holes_are_found_and_read_as_zeros(root: Path) -> None:
    with opened(root / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, MIB)
        os.pwrite(fd, b"x" * 4096, MIB // 2)
        assert os.lseek(fd, 0, os.SEEK_DATA) == MIB // 2
        assert os.lseek(fd, MIB // 2, os.SEEK_HOLE) == MIB // 2 + 4096
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert error_of(lambda: os.lseek(fd, MIB // 2 + 4096, os.SEEK_DATA)) == "ENXIO"
        assert os.pread(fd, 4096, 0) == bytes(4096)


def fallocate_extends_or_punches(root: Path) -> None:
    with opened(root / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.posix_fallocate(fd, 0, 10000)
        assert os.fstat(fd).st_size == 10000
        os.pwrite(fd, b"x" * 10000, 0)
        keep_size_and_punch = 0x01 | 0x02
        assert libc.fallocate(fd, keep_size_and_punch, ctypes.c_long(0), ctypes.c_long(8192)) == 0
        assert os.fstat(fd).st_size == 10000
        assert os.pread(fd, 10000, 0) == bytes(8192) + b"x" * 1808
        collapse = 0x08
        assert libc.fallocate(fd, collapse, ctypes.c_long(0), ctypes.c_long(4096)) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP


def copy_file_range_copies(root: Path) -> None:
    data = os.urandom(2 * MIB)
    (root / "source").write_bytes(data)
    with (
        opened(root / "source", os.O_RDONLY) as source,
        opened(root / "target", os.O_RDWR | os.O_CREAT) as target,
    ):
        os.write(target, b"head")
        copied = 0
        while copied < MIB:
            copied += os.copy_file_range(source, target, MIB - copied, 5 + copied, 4 + copied)
        assert os.fstat(target).st_size == MIB + 4
    assert (root / "target").read_bytes() == b"head" + data[5 : 5 + MIB]


def a_mapped_file_is_read(root: Path) -> None:
    data = os.urandom(MIB + 100)
    (root / "file").write_bytes(data)
    with (
        opened(root / "file", os.O_RDONLY) as fd,
        mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[MIB - 50 : MIB + 50] == data[MIB - 50 : MIB + 50]
        assert mapped[:] == data


def fsync_succeeds(root: Path) -> None:
    with opened(root / "file", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"data")
        os.fsync(fd)
        os.fdatasync(fd)
    with opened(root, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


# Names


def rename_moves_and_replaces(root: Path) -> None:
    (root / "a").write_bytes(b"A")
    (root / "b").write_bytes(b"B")
    (root / "sub").mkdir()
    os.rename(root / "a", root / "sub" / "c")
    os.rename(root / "b", root / "sub" / "c")
    assert (root / "sub" / "c").read_bytes() == b"B"
    assert os.listdir(root) == ["sub"]
    assert error_of(lambda: os.rename(root / "none", root / "x")) == "ENOENT"


def a_directory_is_renamed_with_what_is_in_it(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"x")
    os.rename(root / "a", root / "z")
    assert (root / "z" / "b" / "file").read_bytes() == b"x"
    assert error_of(lambda: os.stat(root / "a")) == "ENOENT"
    (root / "full").mkdir()
    (root / "full" / "x").touch()
    assert error_of(lambda: os.rename(root / "z", root / "full")) == "ENOTEMPTY"


def rename_noreplace_keeps_what_is_there(root: Path) -> None:
    (root / "a").write_bytes(b"A")
    (root / "b").write_bytes(b"B")
    assert error_of(lambda: renameat2(root / "a", root / "b", 1)) == "EEXIST"
    assert (root / "b").read_bytes() == b"B"
    renameat2(root / "a", root / "c", 1)
    assert sorted(os.listdir(root)) == ["b", "c"]


def rename_exchange_swaps(root: Path) -> None:
    (root / "a").write_bytes(b"A")
    (root / "d").mkdir()
    renameat2(root / "a", root / "d", 2)
    assert (root / "d").read_bytes() == b"A"
    assert (root / "a").is_dir()


def an_unlinked_open_file_lives_on(root: Path) -> None:
    with opened(root / "file", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"still here")
        os.unlink(root / "file")
        assert os.listdir(root) == []
        assert os.pread(fd, 100, 0) == b"still here"
        os.pwrite(fd, b"!", 10)
        assert os.fstat(fd).st_size == 11
        assert os.fstat(fd).st_nlink == 0
    assert error_of(lambda: os.stat(root / "file")) == "ENOENT"


def directories_come_and_go(root: Path) -> None:
    os.mkdir(root / "d")
    assert error_of(lambda: os.mkdir(root / "d")) == "EEXIST"
    (root / "d" / "file").touch()
    assert error_of(lambda: os.rmdir(root / "d")) == "ENOTEMPTY"
    assert error_of(lambda: os.unlink(root / "d")) in ("EISDIR", "EPERM")
    assert error_of(lambda: os.rmdir(root / "d" / "file")) == "ENOTDIR"
    os.unlink(root / "d" / "file")
    os.rmdir(root / "d")
    assert os.listdir(root) == []


def o_excl_makes_only_new_files(root: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with opened(root / "file", flags):
        pass
    assert error_of(lambda: os.open(root / "file", flags)) == "EEXIST"
    assert error_of(lambda: os.open(root / "none", os.O_RDONLY)) == "ENOENT"
    assert error_of(lambda: os.open(root / "file" / "x", os.O_RDONLY)) == "ENOTDIR"


def symlinks_point(root: Path) -> None:
    (root / "file").write_bytes(b"x")
    os.symlink("file", root / "link")
    assert os.readlink(root / "link") == "file"
    assert os.readlink(root / "link") == "file"
    assert (root / "link").read_bytes() == b"x"
    assert os.lstat(root / "link").st_size == 4
    os.symlink("nowhere/" * 100, root / "dangling")
    assert os.readlink(root / "dangling") == "nowhere/" * 100
    assert error_of(lambda: os.stat(root / "dangling")) == "ENOENT"


def fifos_are_made(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o600)
    assert stat.S_ISFIFO(os.stat(root / "fifo").st_mode)


def names_of_any_bytes_are_kept(root: Path) -> None:
    names = [b"n" * length for length in (1, 2, 7, 8, 9, 100, 254, 255)]
    names += [b"\xff\xfe", b"new\nline", b"tab\t", b" ", b"-rf", b"...", "grüße".encode(), b"\x01"]
    for name in names:
        fd = os.open(bytes(root) + b"/" + name, os.O_CREAT | os.O_WRONLY)
        os.close(fd)
    assert sorted(os.listdir(bytes(root))) == sorted(names)
    assert all(os.stat(bytes(root) + b"/" + name).st_size == 0 for name in names)
    for name in names:
        os.unlink(bytes(root) + b"/" + name)
    assert os.listdir(root) == []


def missing_names_appear_when_made(root: Path) -> None:
    assert not (root / "later").exists()
    assert not (root / "later").exists()
    (root / "later").touch()
    assert (root / "later").exists()
    os.unlink(root / "later")
    assert not (root / "later").exists()
    os.mkdir(root / "later")
    assert (root / "later").is_dir()


# Attributes


def modes_are_changed(root: Path) -> None:
    (root / "file").touch()
    os.chmod(root / "file", 0o640)
    assert os.stat(root / "file").st_mode == stat.S_IFREG | 0o640
    with opened(root / "file", os.O_RDONLY) as fd:
        os.fchmod(fd, 0o601)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o601
    os.mkdir(root / "d", 0o711)
    assert os.stat(root / "d").st_mode == stat.S_IFDIR | 0o711


def the_umask_applies(root: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(root / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(root / "d", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(root / "file").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(root / "d").st_mode) == 0o750


def owners_are_changed(root: Path) -> None:
    (root / "file").touch()
    assert os.stat(root / "file").st_uid == os.getuid()
    if os.getuid() == 0:
        os.chown(root / "file", 1234, 5678)
        assert (os.stat(root / "file").st_uid, os.stat(root / "file").st_gid) == (1234, 5678)
        os.chown(root / "file", -1, 99)
        assert (os.stat(root / "file").st_uid, os.stat(root / "file").st_gid) == (1234, 99)


def times_are_kept_to_the_nanosecond(root: Path) -> None:
    (root / "file").touch()
    os.utime(root / "file", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    assert os.stat(root / "file").st_atime_ns == 1_600_000_000_123_456_789
    assert os.stat(root / "file").st_mtime_ns == 1_500_000_000_987_654_321
    os.utime(root / "file", ns=(0, 1))
    assert os.stat(root / "file").st_mtime_ns == 1
    os.utime(root / "file", ns=(-1, -1_500_000_000))  # before 1970
    assert os.stat(root / "file").st_mtime_ns == -1_500_000_000


def touching_sets_the_time_of_now(root: Path) -> None:
    (root / "file").touch()
    os.utime(root / "file", ns=(0, 0))
    before = time.time_ns() - 100_000_000  # the kernel's clock ticks coarsely
    os.utime(root / "file")
    assert os.stat(root / "file").st_mtime_ns >= before


def writing_ends_set_user_id(root: Path) -> None:
    (root / "file").write_bytes(b"x" * 100)
    change_as_nobody: list[Callable[[], None]] = [
        lambda: overwrite(root / "file"),
        lambda: os.truncate(root / "file", 50),
        lambda: os.close(os.open(root / "file", os.O_WRONLY | os.O_TRUNC)),
    ]
    for change in change_as_nobody:
        os.chmod(root / "file", 0o6777)
        if in_child_as_nobody(change):
            assert stat.S_IMODE(os.stat(root / "file").st_mode) == 0o777
    os.chmod(root / "file", 0o6755)
    os.chown(root / "file", os.getuid(), os.getgid())
    assert stat.S_IMODE(os.stat(root / "file").st_mode) == 0o755


def overwrite(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"y")


def in_child_as_nobody(call: Callable[[], None]) -> bool:
    """Do it as another user; False if we may not, or that one may not come here."""
    if os.getuid():
        return False
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            call()
        except PermissionError:
            os._exit(77)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 77)
    return status == 0


def user_attributes_are_kept(root: Path) -> None:
    path = root / "file"
    path.touch()
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.big", b"x" * 4000)
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.one") == b"1"
    assert os.getxattr(path, "user.big") == b"x" * 4000
    assert os.getxattr(path, "user.empty") == b""
    assert {name for name in os.listxattr(path) if name.startswith("user.")} == {
        "user.one",
        "user.big",
        "user.empty",
    }
    assert error_of(lambda: os.getxattr(path, "user.none")) == "ENODATA"
    assert error_of(lambda: os.setxattr(path, "user.one", b"", os.XATTR_CREATE)) == "EEXIST"
    assert error_of(lambda: os.setxattr(path, "user.two", b"", os.XATTR_REPLACE)) == "ENODATA"
    os.setxattr(path, "user.one", b"2", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.one") == b"2"
    os.removexattr(path, "user.one")
    assert error_of(lambda: os.removexattr(path, "user.one")) == "ENODATA"
    buffer = ctypes.create_string_buffer(10)
    assert libc.getxattr(bytes(path), b"user.big", None, ctypes.c_size_t(0)) == 4000
    assert libc.getxattr(bytes(path), b"user.big", buffer, ctypes.c_size_t(10)) == -1
    assert errno.errorcode[ctypes.get_errno()] == "ERANGE"


def statvfs_makes_sense(root: Path) -> None:
    usage = os.statvfs(root)
    assert usage.f_bsize > 0
    assert usage.f_blocks >= usage.f_bfree >= usage.f_bavail > 0
    assert usage.f_namemax >= 255


def locks_are_held(root: Path) -> None:
    (root / "file").touch()
    with opened(root / "file", os.O_RDWR) as one, opened(root / "file", os.O_RDWR) as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        nonblocking = fcntl.LOCK_EX | fcntl.LOCK_NB
        assert error_of(lambda: fcntl.flock(two, nonblocking)) == "EAGAIN"
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, nonblocking)
        fcntl.lockf(one, nonblocking)


# Listings


def a_large_directory_is_listed_whole(root: Path) -> None:
    names = [f"file-{number:05d}" for number in range(10_000)]
    for name in names:
        os.mknod(root / name)
    assert sorted(os.listdir(root)) == names
    with os.scandir(root) as entries:
        assert sum(entry.stat().st_mode == stat.S_IFREG | 0o600 for entry in entries) == 10_000
    for name in names[::2]:
        os.unlink(root / name)
    assert sorted(os.listdir(root)) == names[1::2]


def dot_and_dotdot_are_listed(root: Path) -> None:
    (root / "file").touch()
    with directory(root) as stream:
        assert sorted(names_from(stream)) == [b".", b"..", b"file"]


def a_listing_is_resumed_where_told(root: Path) -> None:
    for number in range(500):
        (root / f"file-{number:05d}").touch()
    with directory(root) as stream:
        for _ in range(123):
            libc.readdir(stream)
        place = libc.telldir(stream)
        rest = names_from(stream)
        assert len(rest) == 502 - 123
        libc.seekdir(stream, place)
        assert names_from(stream) == rest
        libc.rewinddir(stream)
        assert len(names_from(stream)) == 502


def a_rewound_listing_shows_what_is_new(root: Path) -> None:
    (root / "old").touch()
    with directory(root) as stream:
        assert sorted(names_from(stream)) == [b".", b"..", b"old"]
        (root / "new").touch()
        libc.rewinddir(stream)
        assert sorted(names_from(stream)) == [b".", b"..", b"new", b"old"]
        os.unlink(root / "old")
        libc.rewinddir(stream)
        assert sorted(names_from(stream)) == [b".", b"..", b"new"]


def what_is_removed_while_listing_is_seen_at_most_once(root: Path) -> None:
    for number in range(1000):
        (root / f"file-{number:05d}").touch()
    seen = []
    with os.scandir(root) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert len(seen) == len(set(seen)) == 1000
    assert os.listdir(root) == []


class Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_ulong),
        ("d_off", ctypes.c_long),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


libc.opendir.restype = ctypes.c_void_p
libc.opendir.argtypes = (ctypes.c_char_p,)
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.readdir.argtypes = (ctypes.c_void_p,)
libc.telldir.restype = ctypes.c_long
libc.telldir.argtypes = (ctypes.c_void_p,)
libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
libc.rewinddir.argtypes = (ctypes.c_void_p,)
libc.closedir.argtypes = (ctypes.c_void_p,)


@contextmanager
def directory(path: Path) -> Iterator[int]:
    stream = libc.opendir(bytes(path))
    assert stream
    try:
        yield stream
    finally:
        libc.closedir(stream)


def names_from(stream: int) -> list[bytes]:
    names = []
    while entry := libc.readdir(stream):
        names.append(entry.contents.d_name)
    return names


CASES = [
    what_is_written_is_read,
    an_empty_file_is_empty,
    writes_at_offsets_land_there,
    appends_go_to_the_end,
    truncating_shortens_and_lengthens,
    open_with_truncation_empties,
    holes_are_found_and_read_as_zeros,
    fallocate_extends_or_punches,
    copy_file_range_copies,
    a_mapped_file_is_read,
    fsync_succeeds,
    rename_moves_and_replaces,
    a_directory_is_renamed_with_what_is_in_it,
    rename_noreplace_keeps_what_is_there,
    rename_exchange_swaps,
    an_unlinked_open_file_lives_on,
    directories_come_and_go,
    o_excl_makes_only_new_files,
    symlinks_point,
    fifos_are_made,
    names_of_any_bytes_are_kept,
    missing_names_appear_when_made,
    modes_are_changed,
    the_umask_applies,
    owners_are_changed,
    times_are_kept_to_the_nanosecond,
    touching_sets_the_time_of_now,
    writing_ends_set_user_id,
    user_attributes_are_kept,
    statvfs_makes_sense,
    locks_are_held,
    a_large_directory_is_listed_whole,
    dot_and_dotdot_are_listed,
    a_listing_is_resumed_where_told,
    a_rewound_listing_shows_what_is_new,
    what_is_removed_while_listing_is_seen_at_most_once,
]
