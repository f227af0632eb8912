"""A request that waits can be interrupted, holds nobody up, and ends when the mount does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import uses
from memfs import MemFS
from mounts import Client, Mount, mounted
from support.mounts import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def stall(fs: MemFS) -> Iterator[Callable[[str], None]]:
    """Makes calls of a name wait; they go on at the end of the test."""
    futures: list[Future[None]] = []

    def stalled(name: str) -> None:
        fs.stalls[name] = Future()
        futures.append(fs.stalls[name])

    yield stalled
    fs.stalls.clear()
    for future in futures:
        future.set_result(None)


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes, and ends them."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


Start = Callable[..., "subprocess.Popen[str]"]
Stall = Callable[[str], None]


def interrupted(process: subprocess.Popen[str]) -> int:
    """Send SIGINT; return the exit status. (What is stalled goes on when the test is over: nothing
    else ends the process.)"""
    process.send_signal(signal.SIGINT)
    return process.wait(60)


def test_an_interrupted_touch_ends_at_once(
    mount: Mount, fs: MemFS, stall: Stall, processes: Start
) -> None:
    fs.make("file")
    stall("setattr")
    touch = processes("touch", str(mount.path / "file"))
    wait_until(lambda: fs.stalled["setattr"] == 1)
    assert interrupted(touch) == -signal.SIGINT
    wait_until(lambda: fs.stalled["setattr"] == 0)  # the kernel had its answer a moment before


@pytest.mark.parametrize("direct", [False, True], ids=["by page cache", "direct"])
def test_an_interrupted_reader_ends_at_once(
    fs: MemFS, mountpoint: Path, stall: Stall, processes: Start, direct: bool
) -> None:
    fs.direct = direct
    fs.make("file", b"x" * 100)
    stall("read")
    with mounted(fs, mountpoint):
        cat = processes("cat", str(mountpoint / "file"))
        wait_until(lambda: fs.stalled["read"] == 1)
        assert interrupted(cat) == -signal.SIGINT
        if direct:
            wait_until(lambda: fs.stalled["read"] == 0)
        else:  # pages are read by the kernel on its own account: nobody interrupts that
            assert fs.stalled["read"] == 1


HANDLES = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)
try:
    os.utime(sys.argv[1])
except OSError as exc:
    print(exc.errno)
"""


def test_ctrl_c_ends_a_call_also_if_the_program_handles_it(
    mount: Mount, fs: MemFS, stall: Stall, processes: Start
) -> None:
    fs.make("file")
    stall("setattr")
    process = processes(sys.executable, "-c", HANDLES, str(mount.path / "file"))
    wait_until(lambda: fs.stalled["setattr"] == 1)
    # The kernel says once that there is a signal, and not whether another one came.
    process.send_signal(signal.SIGUSR1)
    interrupted(process)
    assert process.stdout is not None
    assert int(process.stdout.read()) == errno.EINTR


def test_a_waiting_lookup_is_interrupted(
    fs: MemFS, mountpoint: Path, stall: Stall, processes: Start
) -> None:
    fs.make("d", None)
    fs.unlisted = {fs.find("d").ino}
    stall("learn")
    with mounted(fs, mountpoint):
        listing = processes("ls", str(mountpoint / "d"))
        wait_until(lambda: fs.stalled["learn"] == 1)
        assert interrupted(listing) == -signal.SIGINT


@pytest.mark.parametrize(
    ("call", "start"),
    [("read", uses.read_in_threads), ("setattr", uses.touch_in_threads)],
    ids=["reads", "syncs"],
)
def test_a_hundred_waiting_requests_do_not_hold_up_the_others(
    fs: MemFS,
    mountpoint: Path,
    client: Client,
    stall: Stall,
    call: str,
    start: Callable[[Path, int], None],
) -> None:
    fs.make("waiting", None)
    for number in range(100):
        fs.make(f"waiting/file-{number}", b"data")
    fs.make("d", None)
    fs.make("d/file", b"x")
    fs.make("unlisted", None)
    fs.make("unlisted/file")
    fs.unlisted = {fs.find("unlisted").ino}
    stall(call)
    waiting = Client()
    try:
        with mounted(fs, mountpoint) as mount:
            waiting(start, mountpoint / "waiting", 100)
            wait_until(lambda: fs.stalled[call] >= 64)
            assert client(uses.ls_l, mountpoint / "d") == ["file"]
            assert client(uses.ls_l, mountpoint / "unlisted") == ["file"]
            client(os.mkdir, mountpoint / "new")
            client(os.rename, mountpoint / "new", mountpoint / "newer")
            client(uses.keep_open, mountpoint / "d" / "file")
            mount.server.stop(0)  # before the client closes: its flush would wait
            assert mount.ended(15)
    finally:
        waiting.close()


def test_without_quick_answers_the_same_is_true(
    mountpoint: Path, client: Client, fs: MemFS, stall: Stall
) -> None:
    fs.quick = False
    fs.make("waiting", None)
    for number in range(100):
        fs.make(f"waiting/file-{number}", b"data")
    stall("read")
    waiting = Client()
    try:
        with mounted(fs, mountpoint):
            waiting(uses.read_in_threads, mountpoint / "waiting", 100)
            wait_until(lambda: fs.stalled["read"] >= 64)
            assert len(client(uses.ls_l, mountpoint / "waiting")) == 100
            assert client(uses.size, mountpoint / "waiting" / "file-99") == 4
    finally:
        waiting.close()


# The end


def test_what_comes_next_can_be_prepared_when_nothing_is_asked(mount: Mount, fs: MemFS) -> None:
    os.listdir(mount.path)
    wait_until(lambda: fs.calls["idle"] > 0)


def test_an_unmount_from_outside_ends_serve(mount: Mount) -> None:
    mount.session.unmount()
    assert mount.ended(10)


def test_stop_ends_serve_and_the_mount(mount: Mount, client: Client, fs: MemFS) -> None:
    fs.make("file")
    assert client(os.listdir, mount.path) == ["file"]
    mount.server.stop()  # it would wait for 30 seconds for what is being changed
    assert mount.ended(20)
    assert client(os.listdir, mount.path) == []


def test_stop_ends_the_mount_also_where_no_more_threads_can_start(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    wait_until(lambda: "fuse-stop" in {thread.name for thread in threading.enumerate()})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        mount.server.stop()
        assert mount.ended(10)
    assert not os.path.ismount(mount.path)


def test_stop_lets_open_files_finish(mount: Mount, client: Client, fs: MemFS) -> None:
    fs.make("file", b"x" * 10)
    client(uses.keep_open, mount.path / "file")
    mount.server.stop(30)
    wait_until(lambda: not os.path.ismount(mount.path))
    assert client(uses.read_kept, mount.path / "file", 10) == b"x" * 10
    assert client(uses.close_kept, mount.path / "file") is None
    assert mount.ended(10)
    assert fs.calls["flush"] == 1


def test_stop_ends_also_when_a_file_stays_open(mount: Mount, client: Client, fs: MemFS) -> None:
    fs.make("file", b"x" * 10)
    client(uses.keep_open, mount.path / "file")
    start = time.monotonic()
    mount.server.stop(0.5)
    assert mount.ended(30)
    assert time.monotonic() - start > 0.4
    assert client(uses.error_of_kept, mount.path / "file") == errno.ENOTCONN
    assert client(uses.close_kept, mount.path / "file") == errno.ENOTCONN


def test_stop_interrupts_what_waits(
    mount: Mount, fs: MemFS, stall: Stall, processes: Start
) -> None:
    fs.make("file")
    stall("setattr")
    touch = processes("touch", str(mount.path / "file"))
    wait_until(lambda: fs.stalled["setattr"] == 1)
    mount.server.stop(0.2)
    assert mount.ended(10)
    assert touch.wait(10) == 1
    assert fs.stalled["setattr"] == 0


def test_stop_does_not_wait_for_what_does_not_hear(
    mount: Mount, fs: MemFS, processes: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that looks at no cancellation: its process gets an error all the same."""
    fs.make("file", b"x")
    going_on = threading.Event()
    waiting = threading.Event()

    def deaf(*_: object) -> None:
        waiting.set()
        going_on.wait(40)

    fs.fsync = deaf  # type: ignore[method-assign,assignment]
    sync = processes("sync", str(mount.path / "file"))
    try:
        assert waiting.wait(10)
        mount.server.stop(0.2)
        assert sync.wait(10) == 1
        assert mount.ended(10)
        assert "a request did not end" in caplog.text
    finally:
        going_on.set()


def test_stop_twice_is_the_earlier_end(mount: Mount, client: Client, fs: MemFS) -> None:
    fs.make("file")
    client(uses.keep_open, mount.path / "file")
    mount.server.stop(60)
    assert not mount.ended(0.3)
    mount.server.stop(0)
    assert mount.ended(10)
    client(uses.close_kept, mount.path / "file")


def test_the_last_release_is_seen(mount: Mount, client: Client, fs: MemFS) -> None:
    client(uses.write, mount.path / "file", b"data")
    mount.server.stop()
    assert mount.ended(10)
    wait_until(lambda: fs.handles == {})
