"""The uses of a file that is open, whatever happens to its name or its object."""

import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.mounts import called, wait_until
from support.posix import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from support.proxy import Fail, Hold

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
moto_only = pytest.mark.parametrize("server", ["moto"], indirect=True)


def python(program, *arguments, cwd):
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=30, check=False)


# Names that go while a file is open


def test_an_unlinked_file_is_read_and_written_on(here, shared):
    (here / "a").write_bytes(b"hello")
    with open(here / "a", "r+b", buffering=0) as file:
        (here / "a").unlink()
        file.write(b"HE")
        file.seek(0)
        assert file.read() == b"HEllo"
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_nlink) == (5, 0)
    assert os.listdir(here) == []
    with pytest.raises(shared.client.exceptions.NoSuchKey):
        shared.body(here / "a")


def test_a_new_file_that_is_unlinked_never_reaches_s3(here, shared):
    with open(here / "a", "w+b", buffering=0) as file:
        file.write(b"secret")
        (here / "a").unlink()
        file.seek(0)
        assert file.read() == b"secret"
        (here / "a").write_bytes(b"another")
        file.write(b"more")
    assert shared.body(here / "a") == b"another"


def test_a_renamed_file_is_written_on_under_its_new_name(here, shared):
    (here / "a").write_bytes(b"hello")
    with open(here / "a", "r+b", buffering=0) as file:
        (here / "a").rename(here / "b")
        assert file.read() == b"hello"
        os.pwrite(file.fileno(), b"HE", 0)
    assert (os.listdir(here), shared.body(here / "b")) == (["b"], b"HEllo")


def test_a_file_that_is_replaced_is_read_on_as_it_was(here, shared):
    (here / "new").write_bytes(b"new")
    (here / "a").write_bytes(b"old")
    with open(here / "a", "r+b", buffering=0) as file:
        (here / "new").rename(here / "a")
        assert file.read() == b"old"
        file.write(b"er")
    assert (shared.body(here / "a"), (here / "a").read_bytes()) == (b"new", b"new")


def test_what_is_open_and_was_replaced_outside_can_be_unlinked(here, shared):
    (here / "a").write_bytes(b"old")
    with open(here / "a", "rb", buffering=0):
        shared.put(here / "a", b"theirs")
        (here / "a").unlink()
    assert os.listdir(here) == []


def test_nothing_is_copied_to_or_from_a_name_that_is_gone(here, shared):
    (here / "a").write_bytes(b"x" * 1000)
    with open(here / "a", "rb") as source, open(here / "b", "wb") as target:
        (here / "b").unlink()
        assert os.copy_file_range(source.fileno(), target.fileno(), 1000) == 1000
    assert os.listdir(here) == ["a"]
    with pytest.raises(shared.client.exceptions.NoSuchKey):
        shared.body(here / "b")
    with open(here / "a", "rb") as source, open(here / "b", "wb") as target:
        (here / "a").unlink()
        assert os.copy_file_range(source.fileno(), target.fileno(), 1000) == 1000
    assert shared.body(here / "b") == b"x" * 1000


# Flags of open


def test_two_that_append_overwrite_nothing(here, shared):
    program = (
        "import os; file = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for n in range(100): os.write(file, b'%s\\n' % (b'x' * 9))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=here) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert shared.body(here / "log") == b"xxxxxxxxx\n" * 300


def test_o_trunc_empties_for_all_who_have_it_open(here, shared):
    (here / "a").write_bytes(b"0123456789")
    with open(here / "a", "rb", buffering=0) as reader:
        assert reader.read(2) == b"01"
        with open(here / "a", "wb", buffering=0) as writer:
            assert (reader.read(), os.fstat(reader.fileno()).st_size) == (b"", 0)
            writer.write(b"abcd")
            assert os.pread(reader.fileno(), 9, 0) == b"abcd"
    assert shared.body(here / "a") == b"abcd"


def test_o_excl_says_eexist_of_what_the_mirror_has(here):
    (here / "a").touch()
    with pytest.raises(FileExistsError):
        os.open(here / "a", os.O_CREAT | os.O_EXCL)


def test_what_is_created_and_only_read_exists_and_is_empty(here, shared):
    os.close(os.open(here / "a", os.O_CREAT | os.O_RDONLY))
    assert shared.body(here / "a") == b""


def test_several_writers_share_one_state(here, shared):
    (here / "a").write_bytes(b"0123456789")
    with (
        open(here / "a", "r+b", buffering=0) as one,
        open(here / "a", "r+b", buffering=0) as other,
    ):
        one.write(b"aaa")
        assert other.read() == b"aaa3456789"
        other.write(b"END")
        one.close()
        assert shared.body(here / "a") == b"aaa3456789END"
        os.pwrite(other.fileno(), b"b", 0)
    assert shared.body(here / "a") == b"baa3456789END"


# Sizes and holes


def test_a_file_just_written_can_be_cut(here, shared):
    with open(here / "a", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        file.truncate(4)
        os.pwrite(file.fileno(), b"X", 6)
        assert os.pread(file.fileno(), 99, 0) == b"0123\0\0X"
    assert shared.body(here / "a") == b"0123\0\0X"
    os.truncate(here / "a", 2)
    assert shared.body(here / "a") == b"01"
    os.truncate(here / "a", 4)
    assert (here / "a").read_bytes() == b"01\0\0"


def test_fallocate_extends_and_zeroes(here, shared):
    with open(here / "a", "w+b", buffering=0) as file:
        file.write(b"abcdefgh")
        descriptor = file.fileno()
        fallocate(descriptor, 0, 4, 8)
        assert os.pread(descriptor, 99, 0) == b"abcdefgh\0\0\0\0"
        fallocate(descriptor, KEEP_SIZE, 0, 1000)
        fallocate(descriptor, PUNCH_HOLE, 1, 2)
        fallocate(descriptor, ZERO_RANGE | KEEP_SIZE, 7, 1000)
        assert os.pread(descriptor, 99, 0) == b"a\0\0defg\0\0\0\0\0"
        fallocate(descriptor, ZERO_RANGE, 4, 10)
        with pytest.raises(OSError, match="not supported"):
            fallocate(descriptor, 0x08, 0, 4096)  # FALLOC_FL_COLLAPSE_RANGE
    assert shared.body(here / "a") == b"a\0\0d" + bytes(10)


def test_holes_read_as_zeros_and_the_end_is_one(here, shared):
    with open(here / "a", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), b"x", MIB)
        assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == MIB + 1
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
        with pytest.raises(OSError, match="No such device or address"):  # ENXIO
            os.lseek(file.fileno(), MIB + 1, os.SEEK_DATA)
    assert shared.body(here / "a") == bytes(MIB) + b"x"


# Mappings and locks


def test_what_is_written_through_a_shared_mapping_is_uploaded(here, shared):
    (here / "a").write_bytes(b"a" * 8192)
    with open(here / "a", "r+b") as file, mmap.mmap(file.fileno(), 8192) as memory:
        memory[4000:4100] = b"b" * 100
        assert os.pread(file.fileno(), 3, 3999) == b"abb"
        memory.flush()
        os.fsync(file.fileno())
        assert shared.body(here / "a").count(b"b") == 100
        memory[0:1] = b"c"
    assert shared.body(here / "a")[:2] == b"ca"


def test_a_mapping_that_outlives_its_descriptor_is_uploaded(here, shared):
    (here / "a").write_bytes(b"a" * 8192)
    program = (
        "import ctypes, os; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "file = os.open('a', os.O_RDWR); place = libc.mmap(None, 8192, 3, 1, file, 0)\n"
        "os.close(file); ctypes.memmove(place, b'new', 3)"
    )
    assert python(program, cwd=here).returncode == 0
    wait_until(lambda: shared.body(here / "a")[:4] == b"newa")


def test_locks_hold_within_the_mount(here):
    (here / "a").touch()
    program = (
        "import fcntl, sys; file = open('a', 'r+')\n"
        "getattr(fcntl, sys.argv[1])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    for kind in ("flock", "lockf"):
        with open(here / "a", "r+") as file:
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
            refused = python(program, kind, cwd=here)
            assert "BlockingIOError" in refused.stderr
        assert python(program, kind, cwd=here).returncode == 0


# Copies


def test_copy_file_range_copies_a_part(here, shared):
    data = os.urandom(300_000)
    (here / "a").write_bytes(data)
    with open(here / "a", "rb") as source, open(here / "b", "w+b") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 1000, 50, 7) == 1000
    assert shared.body(here / "b") == bytes(7) + data[50:1050]


# Others who write the same object


def test_a_change_of_what_others_have_replaced_is_estale_and_its_bytes_are_kept(
    mount, client, bucket, tmp_path, state
):
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    with open(mount / "a", "r+b", buffering=0) as file:
        file.write(b"ours")
        client.put_object(Bucket=bucket, Key="a", Body=b"theirs, and longer")
        with pytest.raises(OSError, match="Stale"):
            os.fsync(file.fileno())
        assert (mount / "a").read_bytes() == b"theirs, and longer"
        with pytest.raises(OSError, match="Stale"):
            os.pread(file.fileno(), 9, 0)
        with pytest.raises(OSError, match="Stale"):
            file.close()
    (kept,) = (state / "staging/recovered").glob("a.*[!n]")
    assert kept.read_bytes() == b"ours"
    assert str(kept) in (tmp_path / "mount.log").read_text()
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"theirs, and longer"


def test_a_file_that_was_to_be_new_and_is_not_is_eexist(mount, client, bucket, state):
    assert os.listdir(mount) == []
    file = os.open(mount / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(file, b"ours")
    client.put_object(Bucket=bucket, Key="a", Body=b"theirs")
    with pytest.raises(FileExistsError):
        os.close(file)
    assert (mount / "a").read_bytes() == b"theirs"
    (kept,) = (state / "staging/recovered").glob("a.*[!n]")
    assert kept.read_bytes() == b"ours"


def test_appending_to_what_the_mirror_does_not_know_loses_nothing(mount, client, bucket):
    assert os.listdir(mount) == []
    client.put_object(Bucket=bucket, Key="log", Body=b"theirs\n")
    (mount / "log").open("a").close()
    assert client.get_object(Bucket=bucket, Key="log")["Body"].read() == b"theirs\n"
    with open(mount / "log", "a") as file:
        file.write("ours\n")
    assert client.get_object(Bucket=bucket, Key="log")["Body"].read() == b"theirs\nours\n"


@moto_only
def test_a_mapping_whose_upload_is_refused_is_kept(mount, client, bucket, proxy, tmp_path):
    (mount / "a").write_bytes(b"a" * 4096)
    program = (
        "import ctypes, os; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "file = os.open('a', os.O_RDWR); place = libc.mmap(None, 4096, 3, 1, file, 0)\n"
        "os.close(file); ctypes.memmove(place, b'new', 3)"
    )
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 403, "AccessDenied")):
        assert python(program, cwd=mount).returncode == 0
        log = tmp_path / "mount.log"
        wait_until(lambda: "its bytes are in" in log.read_text())
    kept = Path(log.read_text().partition("its bytes are in ")[2].partition(": ")[0])
    assert kept.read_bytes() == b"new" + b"a" * 4093


# Never a mixed read


def read_or_stale(file, size, offset):
    """What *file* reads; nothing if it is stale."""
    try:
        return os.pread(file.fileno(), size, offset)
    except OSError as exc:
        if exc.errno != errno.ESTALE:
            raise
        return b""


@pytest.mark.parametrize(
    ("size", "first"),
    [(64 * KIB, 0), (64 * KIB, 4 * KIB), (64 * MIB, 20 * MIB)],
)
@moto_only
def test_a_reader_never_sees_two_versions(mount, client, bucket, size, first):
    client.put_object(Bucket=bucket, Key="a", Body=b"A" * size)
    with open(mount / "a", "rb", buffering=0) as file:
        assert file.read(first) == b"A" * first
        client.put_object(Bucket=bucket, Key="a", Body=b"B" * size)
        places = (size - 4 * KIB, size // 2, 0, first)
        seen = set(b"".join(read_or_stale(file, 4 * KIB, place) for place in places))
        assert seen <= {65} if first else seen == {66}  # who had nothing yet gets the new one
        assert len(set((mount / "a").read_bytes())) == 1
        (mount / ".sync").touch()
        assert (mount / "a").read_bytes() == b"B" * size
        handed = b"A" if first else b"B"
        # Less than was asked where the kernel has dropped pages of the version that is gone.
        assert set(read_or_stale(file, MIB, 0)) <= set(handed)


def test_a_file_that_is_cut_to_nothing_while_its_mode_is_changed_has_what_is_written_then(
    mount, client, bucket, proxy
):
    (mount / "x").write_bytes(b"abcdef")
    direct = os.open(mount / "x", os.O_RDONLY | os.O_DIRECT)
    with proxy.rule(Hold(lambda request: request.kind == "COPY")) as hold:
        change = called(lambda: (mount / "x").chmod(0o600))
        assert hold.reached.wait(10)
        write = called(lambda: (mount / "x").write_bytes(b"xy"))
        wait_until(lambda: os.pread(direct, 9, 0) == b"")  # it is cut, and open when chmod ends
        hold.release()
        change.join(20)
        write.join(20)
    os.close(direct)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"xy"
    assert (mount / "x").read_bytes() == b"xy"
    assert stat.S_IMODE((mount / "x").stat().st_mode) == 0o600


@moto_only
def test_a_new_open_after_estale_reads_the_new_version_whole(mount_at, client, bucket):
    # With a cache on disk the old version would be at hand.
    mount = mount_at("--cache-size", "0", f"s3://{bucket}").path
    client.put_object(Bucket=bucket, Key="a", Body=b"A" * 100)
    (mount / ".sync").touch()
    for number in range(20):
        assert (mount / "a").stat().st_size == 100 + number
        body = b"%c" % (66 + number) * (101 + number)
        client.put_object(Bucket=bucket, Key="a", Body=body)
        subprocess.run(
            ["dd", "if=a", "iflag=nocache", "count=0", "status=none"], cwd=mount, check=True
        )
        with pytest.raises(OSError, match="Stale"):
            (mount / "a").read_bytes()
        assert (mount / "a").read_bytes() == body


@moto_only
def test_readers_and_an_outside_writer_at_once(mount, client, bucket):
    size = 4 * MIB
    client.put_object(Bucket=bucket, Key="a", Body=b"A" * size)
    (mount / ".sync").touch()
    stop = threading.Event()

    def overwrite():
        for letter in b"BCDEFGHIJK":
            client.put_object(Bucket=bucket, Key="a", Body=bytes([letter]) * size)
        stop.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    while not stop.is_set():
        with open(mount / "a", "rb", buffering=0) as file:
            pieces = [read_or_stale(file, size // 16, n * size // 16) for n in range(16)]
            assert len(set(b"".join(pieces))) <= 1
    writer.join()
    (mount / ".sync").touch()
    assert (mount / "a").read_bytes() == b"K" * size
