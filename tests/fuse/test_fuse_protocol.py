"""The server on a device that is a socket: what the kernel never sends is survived too."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from memfs import MemFS
from support.mounts import wait_until

from mimicfs.errors import MountError, PosixError
from mimicfs.fuse import abi
from mimicfs.fuse.abi import IN_HEADER, INIT_OUT, OUT_HEADER, Init, Opcode
from mimicfs.fuse.killed import Signal
from mimicfs.fuse.locking import gives_up
from mimicfs.fuse.notify import Notifier
from mimicfs.fuse.server import Server
from mimicfs.fuse.session import Session
from mimicfs.posix import Answered, Caller


class Kernel:
    """The kernel's end of the device."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.unique = 0

    def send(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> int:
        self.unique += 2
        size = IN_HEADER.size + len(body)
        head = IN_HEADER.pack(size, opcode, self.unique, nodeid, 7, 8, 9, 0, 0)
        self.channel.send(head + body)
        return self.unique

    def answer(self) -> tuple[int, str, bytes]:
        """Return unique, the name of the error or "", and the data of the next answer."""
        data = self.channel.recv(1 << 21)
        size, error, unique = OUT_HEADER.unpack_from(data)
        assert size == len(data)
        return unique, errno.errorcode[-error] if error else "", data[OUT_HEADER.size :]

    def ask(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> tuple[str, bytes]:
        unique = self.send(opcode, body, nodeid)
        answered, error, data = self.answer()
        assert answered == unique
        return error, data

    def interrupted(self, fs: MemFS, until: Callable[[], bool] | None = None) -> str:
        """Return the error of a request whose process gets a signal; *until*: the file system
        answers it when that is true."""
        stall = fs.stalls["setattr"] = Future[None]()
        waiting = self.send(Opcode.SETATTR, abi.SETATTR_IN.pack(*[0] * 16))
        wait_until(lambda: fs.stalled["setattr"] == 1)
        self.send(Opcode.INTERRUPT, abi.INTERRUPT_IN.pack(waiting))
        if until is not None:
            wait_until(until)
            stall.set_result(None)
        answered, error, _ = self.answer()
        assert answered == waiting
        return error


@pytest.fixture
def device() -> Iterator[tuple[Session, Kernel]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(10)
    with theirs:
        yield Session(ours.detach(), Path("/nowhere")), Kernel(theirs)


@pytest.fixture
def kernel(device: tuple[Session, Kernel], fs: MemFS) -> Iterator[Kernel]:
    """The kernel of a served MemFS that has the file `file` of content 0123456789."""
    fs.make("file", b"0123456789")
    session, kernel = device
    thread = threading.Thread(target=Server(fs, session, workers=2).serve, daemon=True)
    thread.start()
    yield kernel
    kernel.channel.close()
    thread.join(15)
    assert not thread.is_alive()


def init(minor: int, flags: int, major: int = 7) -> bytes:
    low, high = flags & 0xFFFFFFFF, flags >> 32
    return abi.INIT_IN.pack(major, minor, 131072, low, high, *[0] * 11)


def agreed(session: Session, kernel: Kernel, *bodies: bytes) -> tuple[int, ...]:
    """Send INITs, let the session answer, and return the last answer's fields."""
    for body in bodies:
        kernel.send(Opcode.INIT, body)
    session.handshake()
    data = b""
    for _ in bodies:
        _, error, data = kernel.answer()
        assert error == ""
    return INIT_OUT.unpack(data)


ALL_FLAGS = (1 << 43) - 1
WANTED = (
    Init.ASYNC_READ | Init.ATOMIC_O_TRUNC | Init.BIG_WRITES | Init.DO_READDIRPLUS
    | Init.PARALLEL_DIROPS | Init.MAX_PAGES | Init.CACHE_SYMLINKS | Init.NO_OPENDIR_SUPPORT
    | Init.EXPLICIT_INVAL_DATA | Init.HANDLE_KILLPRIV_V2 | Init.INIT_EXT
    | Init.DIRECT_IO_ALLOW_MMAP | Init.NO_EXPORT_SUPPORT
)  # fmt: skip


def test_init_asks_for_what_is_wanted_and_offered(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    answer = agreed(session, kernel, init(45, ALL_FLAGS))
    assert answer[:2] == (7, 45)
    assert answer[2] == 1 << 20  # max_readahead
    assert answer[3] | answer[10] << 32 == WANTED
    assert answer[4:9] == (64, 48, 1 << 20, 1, 256)
    assert session.flags == WANTED


def test_init_asks_for_nothing_that_is_not_offered(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    offered = Init.ASYNC_READ | Init.WRITEBACK_CACHE | Init.POSIX_ACL
    answer = agreed(session, kernel, init(45, offered))
    assert (answer[3], answer[10]) == (Init.ASYNC_READ, 0)


def test_an_older_minor_version_is_spoken(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    old = struct.pack("<4I", 7, 31, 131072, ALL_FLAGS & 0x3FFFFFFF)
    assert agreed(session, kernel, old)[:2] == (7, 31)
    assert session.minor == 31
    assert Init.NO_EXPORT_SUPPORT not in session.flags


def test_a_newer_minor_version_is_answered_with_ours(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    assert agreed(session, kernel, init(99, ALL_FLAGS))[:2] == (7, 45)


def test_a_newer_major_version_is_asked_to_come_back(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    answer = agreed(session, kernel, init(0, 0, major=8), init(45, ALL_FLAGS))
    assert answer[:2] == (7, 45)


def test_a_kernel_that_is_too_old_is_refused(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    kernel.send(Opcode.INIT, init(30, ALL_FLAGS))
    with pytest.raises(MountError, match=r"the kernel speaks FUSE 7\.30; 7\.31 \(Linux 5\.4\)"):
        session.handshake()
    assert kernel.answer()[1] == "EPROTO"


def test_the_first_request_must_be_init(device: tuple[Session, Kernel]) -> None:
    session, kernel = device
    kernel.send(Opcode.LOOKUP, b"file\0")
    with pytest.raises(MountError, match="not INIT"):
        session.handshake()


def still_answers(kernel: Kernel) -> bool:
    error, data = kernel.ask(Opcode.LOOKUP, b"file\0")
    return error == "" and abi.ENTRY_OUT.unpack(data)[0] == 2


@pytest.mark.parametrize(
    "opcode",
    [
        Opcode.OPENDIR, Opcode.RELEASEDIR, Opcode.FSYNCDIR, Opcode.ACCESS, Opcode.GETLK,
        Opcode.SETLK, Opcode.SETLKW, Opcode.BMAP, Opcode.IOCTL, Opcode.POLL,
        Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING, Opcode.SYNCFS, Opcode.TMPFILE,
        Opcode.STATX, 7, 19, 54, 4096, 0xFFFFFFFF,
    ],
)  # fmt: skip
def test_what_is_not_known_is_enosys(kernel: Kernel, opcode: int) -> None:
    assert kernel.ask(opcode, bytes(64)) == ("ENOSYS", b"")
    assert still_answers(kernel)


def test_giving_up_a_lock_does_not_queue_behind_those_who_wait_for_one() -> None:
    asked = [
        bytes(abi.IN_HEADER.size) + abi.LK_IN.pack(1, 2, 0, 9, kind, 3, 0, 0)
        for kind in (fcntl.F_UNLCK, fcntl.F_WRLCK)
    ]
    assert [gives_up(each) for each in (*asked, asked[0][:-1])] == [True, False, False]


# Requests whose body must have some size.
BODIES = {
    Opcode.GETATTR: 16, Opcode.SETATTR: 88, Opcode.MKNOD: 18, Opcode.MKDIR: 10,
    Opcode.RENAME: 12, Opcode.RENAME2: 20, Opcode.OPEN: 8, Opcode.READ: 40, Opcode.WRITE: 40,
    Opcode.RELEASE: 24, Opcode.FSYNC: 16, Opcode.SETXATTR: 12, Opcode.GETXATTR: 10,
    Opcode.LISTXATTR: 8, Opcode.FLUSH: 24, Opcode.READDIR: 40, Opcode.READDIRPLUS: 40,
    Opcode.CREATE: 18, Opcode.FALLOCATE: 32, Opcode.LSEEK: 24, Opcode.COPY_FILE_RANGE: 56,
    Opcode.COPY_FILE_RANGE_64: 56, Opcode.LOOKUP: 2, Opcode.UNLINK: 2, Opcode.RMDIR: 2,
    Opcode.SYMLINK: 4, Opcode.REMOVEXATTR: 2,
}  # fmt: skip


@pytest.mark.parametrize("opcode", BODIES, ids=lambda opcode: opcode.name)
def test_a_request_cut_off_is_an_error_and_not_the_end(
    kernel: Kernel, opcode: Opcode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        for size in (0, 1, BODIES[opcode] - 1):
            error, data = kernel.ask(opcode, bytes(size))
            assert error in ("EIO", "EINVAL"), (size, error)
            assert data == b""
        assert still_answers(kernel)


@pytest.mark.parametrize("size", [1, 7, 39])
def test_less_than_a_header_is_passed_over(kernel: Kernel, size: int) -> None:
    kernel.channel.send(bytes(size))
    assert still_answers(kernel)


@pytest.mark.parametrize("name", [b"file", b"\0", b"", b"fi\0le\0"])
def test_a_malformed_name_is_einval(kernel: Kernel, name: bytes) -> None:
    assert kernel.ask(Opcode.LOOKUP, name)[0] == "EINVAL"
    assert still_answers(kernel)


def test_forgets_cut_off_or_of_nothing_are_survived(kernel: Kernel) -> None:
    kernel.send(Opcode.FORGET, b"")
    kernel.send(Opcode.BATCH_FORGET, b"")
    kernel.send(Opcode.BATCH_FORGET, struct.pack("<II", 1000, 0))
    assert still_answers(kernel)


def test_a_write_of_another_size_than_it_says_is_einval(kernel: Kernel, fs: MemFS) -> None:
    _, opened = kernel.ask(Opcode.OPEN, abi.OPEN_IN.pack(os.O_RDWR, 0), nodeid=2)
    handle = abi.OPEN_OUT.unpack(opened)[0]
    body = abi.WRITE_IN.pack(handle, 0, 100, 0, 0, 0, 0) + b"short"
    assert kernel.ask(Opcode.WRITE, body, nodeid=2)[0] == "EINVAL"
    assert fs.find("file").data == b"0123456789"


def test_a_handler_that_raises_anything_is_eio(
    kernel: Kernel, fs: MemFS, caplog: pytest.LogCaptureFixture
) -> None:
    fs.failures = {"lookup": ValueError("oops"), "mkdir": KeyError("oops")}
    with caplog.at_level(logging.CRITICAL):
        assert kernel.ask(Opcode.LOOKUP, b"file\0")[0] == "EIO"
        assert kernel.ask(Opcode.MKDIR, abi.MKDIR_IN.pack(0o755, 0) + b"d\0")[0] == "EIO"
    fs.failures = {}
    assert still_answers(kernel)


@pytest.mark.parametrize("code", [0, -2, 512, 10**6, None, "ENOENT"])
def test_an_errno_that_is_none_is_eio(kernel: Kernel, fs: MemFS, code: object) -> None:
    error = OSError("odd")
    error.errno = code  # type: ignore[assignment]
    fs.failures = {"lookup": error}
    assert kernel.ask(Opcode.LOOKUP, b"file\0")[0] == "EIO"


def test_the_traceback_of_an_unforeseen_error_is_logged(
    kernel: Kernel, fs: MemFS, caplog: pytest.LogCaptureFixture
) -> None:
    fs.failures = {"getattr": ValueError("oops")}
    assert kernel.ask(Opcode.GETATTR, abi.GETATTR_IN.pack(0, 0, 0))[0] == "EIO"
    assert "GETATTR failed" in caplog.text
    assert "ValueError: oops" in caplog.text


def test_an_absent_name_is_an_entry_of_no_inode(kernel: Kernel) -> None:
    error, data = kernel.ask(Opcode.LOOKUP, b"none\0")
    assert error == ""
    assert abi.ENTRY_HEAD.unpack_from(data) == (0, 0, 31536000, 0, 0, 0)


def test_the_caller_is_who_the_kernel_says(kernel: Kernel, fs: MemFS) -> None:
    kernel.ask(Opcode.LOOKUP, b"file\0")
    assert fs.callers["lookup"][:3] == (7, 8, 9)


def test_hard_links_are_not_permitted(kernel: Kernel) -> None:
    assert kernel.ask(Opcode.LINK, abi.LINK_IN.pack(2) + b"other\0")[0] == "EPERM"


@pytest.mark.parametrize("name", [b"security.capability", b"system.posix_acl_access", b"trusted.x"])
def test_attributes_of_others_are_not_supported(kernel: Kernel, fs: MemFS, name: bytes) -> None:
    assert kernel.ask(Opcode.GETXATTR, struct.pack("<II", 0, 0) + name + b"\0")[0] == "ENOTSUP"
    body = struct.pack("<II", 1, 0) + name + b"\0x"
    assert kernel.ask(Opcode.SETXATTR, body)[0] == "ENOTSUP"
    assert kernel.ask(Opcode.REMOVEXATTR, name + b"\0")[0] == "ENOTSUP"
    assert (fs.calls["getxattr"], fs.calls["setxattr"], fs.calls["removexattr"]) == (0, 0, 0)


def test_setxattr_is_understood_in_its_longer_form(
    device: tuple[Session, Kernel], fs: MemFS
) -> None:
    session, kernel = device
    session.flags = Init.SETXATTR_EXT
    thread = threading.Thread(target=Server(fs, session).serve, daemon=True)
    thread.start()
    body = abi.SETXATTR_IN.pack(5, 0, 0, 0) + b"user.a\0value"
    assert kernel.ask(Opcode.SETXATTR, body) == ("", b"")
    assert fs.root.xattrs == {b"user.a": b"value"}
    kernel.channel.close()
    thread.join(10)


def test_a_listing_begins_with_the_dots_and_goes_on_at_any_offset(kernel: Kernel) -> None:
    def offsets(start: int) -> list[tuple[int, int, bytes]]:
        body = abi.READ_IN.pack(0, start, 4096, 0, 0, 0, 0)
        _, data = kernel.ask(Opcode.READDIR, body)
        found, at = [], 0
        while at < len(data):
            ino, offset, length, _ = abi.DIRENT.unpack_from(data, at)
            at += abi.DIRENT.size
            found.append((ino, offset, data[at : at + length]))
            at += abi.aligned(length)
        return found

    whole = [(1, 1, b"."), (0xFFFFFFFF, 2, b".."), (2, 3, b"file")]
    assert offsets(0) == whole
    assert offsets(1) == whole[1:]
    assert offsets(2) == whole[2:]
    assert offsets(3) == []


def test_a_full_listing_holds_each_name_once(kernel: Kernel, fs: MemFS) -> None:
    _, data = kernel.ask(Opcode.READDIRPLUS, abi.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0))
    assert fs.holds == {2: 1}
    fields = abi.DIRENTPLUS.unpack_from(data, 2 * abi.aligned(abi.DIRENTPLUS.size + 2))
    assert (fields[0], fields[6], fields[7], fields[8]) == (2, 2, 10, 1)  # node, ino, size, blocks


def test_a_listing_fits_the_size_asked_for(kernel: Kernel, fs: MemFS) -> None:
    for number in range(50):
        fs.make(f"name-{number}")
    for size in (0, 1, 300, 1000, 4096):
        _, data = kernel.ask(Opcode.READDIRPLUS, abi.READ_IN.pack(0, 2, size, 0, 0, 0, 0))
        assert len(data) <= size


@pytest.mark.parametrize("found", [Signal.KILLS, Signal.CTRL_C])
def test_an_interrupt_ends_a_waiting_request_if_the_signal_kills_or_is_ctrl_c(
    kernel: Kernel, fs: MemFS, monkeypatch: pytest.MonkeyPatch, found: Signal
) -> None:
    monkeypatch.setattr("mimicfs.fuse.killed._signal", lambda _: found)
    assert kernel.interrupted(fs) == "EINTR"


@pytest.mark.parametrize("found", [Signal.OTHER, Signal.UNSEEN])
def test_a_request_goes_on_though_its_process_has_another_signal(
    kernel: Kernel, fs: MemFS, monkeypatch: pytest.MonkeyPatch, found: Signal
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("mimicfs.fuse.killed._signal", lambda one: asked.append(one) or found)
    monkeypatch.setattr("mimicfs.fuse.killed._LOOK_S", 0.01)
    assert kernel.interrupted(fs, lambda: len(asked) > 2) == ""


def test_a_request_of_a_process_that_is_not_seen_ends_if_it_takes_long(
    kernel: Kernel, fs: MemFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicfs.fuse.killed._signal", lambda _: Signal.UNSEEN)
    monkeypatch.setattr("mimicfs.fuse.killed._LOOK_S", 0.01)
    monkeypatch.setattr("mimicfs.fuse.killed._UNSEEN_S", 0.05)
    assert kernel.interrupted(fs) == "EINTR"


def test_an_interrupt_of_nothing_is_eagain(kernel: Kernel) -> None:
    assert kernel.ask(Opcode.INTERRUPT, abi.INTERRUPT_IN.pack(12345))[0] == "EAGAIN"
    assert still_answers(kernel)


def test_what_must_be_learned_is_learned_by_a_worker(kernel: Kernel, fs: MemFS) -> None:
    fs.unlisted = {1}
    assert still_answers(kernel)
    assert fs.calls["learn"] == 1
    assert fs.calls["lookup"] == 2


def test_what_is_never_learned_is_eio_in_the_end(kernel: Kernel, fs: MemFS) -> None:
    class Forgetful(set[int]):
        def discard(self, _: object) -> None:
            pass

    fs.unlisted = Forgetful({1})
    assert kernel.ask(Opcode.LOOKUP, b"file\0")[0] == "EIO"
    assert fs.calls["learn"] == 16


def test_a_failure_of_learning_is_not_remembered_as_absence(kernel: Kernel, fs: MemFS) -> None:
    fs.unlisted = {1}
    fs.failures = {"learn": FileNotFoundError(errno.ENOENT, "the bucket is gone")}
    assert kernel.ask(Opcode.LOOKUP, b"file\0") == ("ENOENT", b"")


def test_what_cannot_be_delivered_is_given_back(device: tuple[Session, Kernel]) -> None:
    """The kernel is gone before a create, an open and a lookup are answered."""
    fs = MemFS(quick=False)
    fs.make("file")
    session, kernel = device
    thread = threading.Thread(target=Server(fs, session).serve, daemon=True)
    thread.start()
    stall: Future[None] = Future()
    fs.stalls = {"lookup": stall, "create": stall, "open": stall, "listed": stall}
    kernel.send(Opcode.LOOKUP, b"file\0")
    kernel.send(Opcode.CREATE, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"new\0")
    kernel.send(Opcode.OPEN, abi.OPEN_IN.pack(os.O_RDWR, 0), nodeid=2)
    kernel.send(Opcode.READDIRPLUS, abi.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0))
    wait_until(lambda: fs.stalled.total() == 4)
    kernel.channel.shutdown(socket.SHUT_RD)  # answers are refused; requests would go on
    stall.set_result(None)
    wait_until(lambda: fs.calls["release"] == 2 and fs.held() == 0)
    assert fs.handles == {}
    kernel.channel.close()
    thread.join(10)
    assert fs.faults == []


def test_answers_do_not_overtake_a_file_that_got_the_number(tmp_path: Path) -> None:
    """After close, a late answer goes nowhere, whatever was opened meanwhile."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    session = Session(ours.detach(), Path("/nowhere"))
    session.close()
    with open(tmp_path / "file", "w+b") as file:
        assert session.reply(2, b"late") is False
        assert session.fail(4, errno.EIO) is False
        assert file.read() == b""
    theirs.close()


def test_read_answers_no_more_than_was_asked(kernel: Kernel, fs: MemFS) -> None:
    def generous(caller: Caller, handle: int, offset: int, size: int) -> bytes:
        return b"x" * (size + 100)

    fs.read = generous  # type: ignore[method-assign]
    _, opened = kernel.ask(Opcode.OPEN, abi.OPEN_IN.pack(os.O_RDONLY, 0), nodeid=2)
    handle = abi.OPEN_OUT.unpack(opened)[0]
    body = abi.READ_IN.pack(handle, 0, 10, 0, 0, 0, 0)
    assert kernel.ask(Opcode.READ, body, nodeid=2) == ("", b"x" * 10)


def test_no_thread_waits_while_the_kernel_does_not_take_what_it_is_told() -> None:
    free, taken = threading.Event(), threading.Event()

    class Stuck:
        minor, listed = 45, frozenset[int]()
        busy = SimpleNamespace(wait_until_free=lambda *_: True)

        def notify(self, *_: object) -> None:
            taken.set()
            assert free.wait(30)

    notifier = Notifier(Stuck())  # type: ignore[arg-type]
    notifier.entry_changed(1, b"a")
    assert taken.wait(30)
    notifier.file_deleted(1, b"a", 2)
    for tell in (notifier.listing_changed, notifier.attr_changed, notifier.data_changed):
        tell(1)
    notifier.names_changed()
    notifier.everything_changed()
    assert not notifier.flush(0)  # all of the above were queued, and none is done
    assert notifier.waiting == 8
    free.set()
    assert notifier.flush(30)
    notifier.close()


def test_an_inode_whose_page_is_locked_does_not_hold_up_the_drop_of_others() -> None:
    free, second, told = threading.Event(), threading.Event(), list[int]()

    class Locked:
        minor = 45

        def notify(self, _: object, data: bytes) -> None:
            ino = abi.NOTIFY_INVAL_INODE_OUT.unpack(data)[0]
            assert ino != 1 or free.wait(30)
            told.append(ino)
            if ino == 2:
                second.set()

    notifier = Notifier(Locked())  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        dropping = pool.submit(notifier.drop_data, [1, 2], 30.0)
        assert second.wait(20)
        free.set()
        dropping.result()
    assert told == [2, 1]
    notifier.close()


def test_whoever_drops_data_hears_of_each_inode_when_that_is_done() -> None:
    told = list[tuple[int, int] | int]()

    class Session:
        minor = 45

        def notify(self, _: object, data: bytes) -> None:
            told.append(abi.NOTIFY_INVAL_INODE_OUT.unpack(data)[:2])

    notifier = Notifier(Session())  # type: ignore[arg-type]
    for ino in (1, 2):
        notifier.drop_data([ino], 30.0, told.append)
    notifier.data_changed(3, lambda: told.append(3))
    notifier.asked_anew(4)
    assert notifier.flush(30)
    notifier.close()
    told.remove((4, -1))  # it waits for no others
    assert told == [(1, 0), 1, (2, 0), 2, (3, 0), 3]


@pytest.mark.parametrize(("minor", "has_epoch"), [(0, False), (43, False), (44, True), (45, True)])
def test_the_epoch_is_used_from_7_44_on(
    device: tuple[Session, Kernel],
    minor: int,
    has_epoch: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session, kernel = device
    session.minor = minor
    notifier = Notifier(session)
    assert notifier.has_epoch == has_epoch
    notifier.everything_changed()
    assert notifier.flush(5)
    notifier.close()
    codes = [abi.Notify.INC_EPOCH] * has_epoch + [abi.Notify.INVAL_ENTRY, abi.Notify.INVAL_INODE]
    for code in codes:
        _, error, unique = OUT_HEADER.unpack_from(kernel.channel.recv(4096))
        assert (error, unique) == (code, 0)
    assert ("older than 6.16" in caplog.text) == (not has_epoch)


class Later(MemFS):
    """Its FLUSHes and READs are ended by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Callable[[Exception | None], None]] = []
        self.reads: list[Answered] = []
        self.failed: Exception | None = None

    def read_later(self, handle: int, offset: int, size: int, done: Answered) -> bool:
        if self.failed is not None:
            raise self.failed
        self.reads.append(done)
        return True

    def flush_later(self, handle: int, done: Callable[[Exception | None], None]) -> bool:
        if self.failed is not None:
            raise self.failed
        self.ends.append(done)
        return True


@pytest.fixture
def later(device: tuple[Session, Kernel]) -> Iterator[tuple[Later, Kernel, Server]]:
    fs = Later()
    fs.make("file")
    session, kernel = device
    server = Server(fs, session, workers=2)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield fs, kernel, server
    kernel.channel.close()
    thread.join(15)
    assert not thread.is_alive()


FLUSH = abi.FLUSH_IN.pack(1, 0, 0, 0)


def test_a_flush_that_is_ended_later_holds_nobody_up_and_is_answered_then(
    later: tuple[Later, Kernel, Server],
) -> None:
    fs, kernel, server = later
    first, second = (kernel.send(Opcode.FLUSH, FLUSH, nodeid=2) for _ in range(2))
    assert still_answers(kernel)
    fs.ends[1](None)
    assert kernel.answer() == (second, "", b"")
    fs.ends[0](PosixError(errno.EIO, "the disk"))
    assert kernel.answer() == (first, "EIO", b"")
    assert (fs.calls["flush"], server._waiting, server._asked) == (0, {}, {})


def test_a_flush_that_cannot_be_begun_is_a_workers(later: tuple[Later, Kernel, Server]) -> None:
    fs, kernel, _ = later
    fs.failed = PosixError(errno.EBADF, "handle 1")
    assert kernel.ask(Opcode.FLUSH, FLUSH, nodeid=2) == ("", b"")
    assert (fs.calls["flush"], fs.ends) == (1, [])


def test_a_flush_whose_caller_was_interrupted_is_ended_all_the_same(
    later: tuple[Later, Kernel, Server],
) -> None:
    fs, kernel, _ = later
    asked = kernel.send(Opcode.FLUSH, FLUSH, nodeid=2)
    kernel.send(Opcode.INTERRUPT, abi.INTERRUPT_IN.pack(asked))
    assert still_answers(kernel)
    fs.ends[0](None)
    assert kernel.answer() == (asked, "", b"")


def test_a_flush_of_a_killed_process_is_answered_soon_and_ended_all_the_same(
    later: tuple[Later, Kernel, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, kernel, _ = later
    monkeypatch.setattr("mimicfs.fuse.killed._LOOK_S", 0.01)
    monkeypatch.setattr("mimicfs.fuse.killed._is_ended", lambda _: True)
    asked = kernel.send(Opcode.FLUSH, FLUSH, nodeid=2)
    assert kernel.answer() == (asked, "EINTR", b"")
    assert len(fs.ends) == 1
    fs.ends[0](None)  # too late, and no error


def test_it_is_not_asked_of_a_flush_that_is_answered_soon_whether_its_process_was_killed(
    later: tuple[Later, Kernel, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, kernel, server = later
    looked: list[int] = []
    monkeypatch.setattr("mimicfs.fuse.killed._LOOK_S", 30.0)
    monkeypatch.setattr("mimicfs.fuse.killed._is_ended", looked.append)
    asked = kernel.send(Opcode.FLUSH, FLUSH, nodeid=2)
    assert still_answers(kernel)
    fs.ends[0](None)
    assert kernel.answer() == (asked, "", b"")
    assert (looked, server._killed._closing) == ([], {})


@pytest.mark.slow
def test_a_flush_that_nobody_ends_is_enotconn_when_the_mount_ends(
    later: tuple[Later, Kernel, Server],
) -> None:
    fs, kernel, server = later
    asked = kernel.send(Opcode.FLUSH, FLUSH, nodeid=2)
    wait_until(lambda: bool(fs.ends))
    server._ending = True
    assert still_answers(kernel)
    assert kernel.answer() == (asked, "ENOTCONN", b"")
    fs.ends[0](None)  # too late, and no error


READ = abi.READ_IN.pack(1, 0, 4096, 0, 0, 0, 0)


def test_a_read_of_what_is_on_its_way_holds_nobody_up_and_is_answered_when_it_is_here(
    later: tuple[Later, Kernel, Server],
) -> None:
    fs, kernel, server = later
    first, second = (kernel.send(Opcode.READ, READ, nodeid=2) for _ in range(2))
    assert still_answers(kernel)
    fs.reads[1](b"here")
    assert kernel.answer() == (second, "", b"here")
    fs.reads[0](PosixError(errno.EIO, "S3"))
    assert kernel.answer() == (first, "EIO", b"")
    assert (fs.calls["read"], server._waiting, server._asked) == (0, {}, {})
    assert server._session.busy.wait_until_free(2, 0)
    assert server.counts.figures()["bytes_read"] == 4


def test_a_read_of_what_does_not_come_after_all_is_a_workers(
    later: tuple[Later, Kernel, Server],
) -> None:
    fs, kernel, server = later
    fs.handles[1] = fs.make("other", b"by a worker")
    asked = kernel.send(Opcode.READ, READ, nodeid=2)
    wait_until(lambda: bool(fs.reads))
    fs.reads[0](None)
    assert kernel.answer() == (asked, "", b"by a worker")
    fs.failed = PosixError(errno.EBADF, "handle 1")
    assert kernel.ask(Opcode.READ, READ, nodeid=2) == ("", b"by a worker")
    assert fs.calls["read"] == 2
    wait_until(lambda: server._session.busy.wait_until_free(2, 0))
    assert (server._waiting, server._asked) == ({}, {})


def cannot_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_thread_can_start_a_request_is_enomem_or_in_its_turn_and_the_mount_goes_on(
    later: tuple[Later, Kernel, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, kernel, server = later
    fs.handles[1] = fs.make("other", b"by a worker")
    assert still_answers(kernel)  # so it serves
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        asked = kernel.send(Opcode.READ, READ, nodeid=2)
        wait_until(lambda: bool(fs.reads))
        fs.reads.pop()(None)
        assert kernel.answer() == (asked, "ENOMEM", b"")
        fs.failed = PosixError(errno.EBADF, "handle 1")
        assert kernel.ask(Opcode.READ, READ, nodeid=2) == ("ENOMEM", b"")
    assert server._session.busy.wait_until_free(2, 10)
    assert kernel.ask(Opcode.READ, READ, nodeid=2) == ("", b"by a worker")
    fs.stalls["read"] = Future()
    first = kernel.send(Opcode.READ, READ, nodeid=2)
    wait_until(lambda: fs.stalled["read"] == 1)
    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    second = kernel.send(Opcode.READ, READ, nodeid=2)
    assert still_answers(kernel)
    fs.stalls.pop("read").set_result(None)
    assert {kernel.answer()[0] for _ in range(2)} == {first, second}
    wait_until(lambda: (server._waiting, server._asked) == ({}, {}))


def test_where_no_thread_can_start_what_was_opened_for_nobody_is_closed_all_the_same(
    later: tuple[Later, Kernel, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, kernel, server = later
    assert still_answers(kernel)  # so it serves
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        patch.setattr(server._session, "reply", lambda *_: False)
        patch.setitem(server._at_once, Opcode.OPEN, server._table[Opcode.OPEN].handler)
        kernel.send(Opcode.OPEN, abi.OPEN_IN.pack(os.O_RDONLY, 0), nodeid=2)
        wait_until(lambda: fs.calls["release"] == 1)
    assert still_answers(kernel)
    assert fs.handles == {}


def test_a_read_at_ctrl_c_is_answered_at_once(
    later: tuple[Later, Kernel, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, kernel, server = later
    monkeypatch.setattr("mimicfs.fuse.killed._signal", lambda _: Signal.CTRL_C)
    asked = kernel.send(Opcode.READ, READ, nodeid=2)
    kernel.send(Opcode.INTERRUPT, abi.INTERRUPT_IN.pack(asked))
    assert kernel.answer() == (asked, "EINTR", b"")
    fs.reads[0](b"too late")
    assert still_answers(kernel)
    wait_until(lambda: (server._waiting, server._asked) == ({}, {}))
    assert server._session.busy.wait_until_free(2, 0)


def test_an_interrupt_that_meets_a_read_on_its_way_to_a_worker_is_heard_there(
    later: tuple[Later, Kernel, Server],
) -> None:
    fs, kernel, server = later
    fs.handles[1] = fs.make("other", b"by a worker")
    fs.stalls["read"] = Future()
    asked = kernel.send(Opcode.READ, READ, nodeid=2)
    wait_until(lambda: bool(fs.reads))
    waits = server._waiting[asked]  # as the thread that reads the INTERRUPT has found it
    fs.reads[0](None)
    wait_until(lambda: fs.stalled["read"] == 1)
    waits.cancel()
    assert kernel.answer() == (asked, "EINTR", b"")
    wait_until(lambda: (server._waiting, server._asked) == ({}, {}))
    assert server.counts.figures()["bytes_read"] == 0
    assert server._session.busy._counts == {}
    assert fs.stalled["read"] == 0
