"""The guardian, when the process that it guards ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.mounts import wait_until

# A process that has mounted nothing, guarded.
GUARDED = """
import sys
from mimicfs.fuse.guardian import Guardian
guardian = Guardian()
if sys.argv[1] == "watch":
    guardian.watch("0:4000000000")
print(guardian._pid, flush=True)
sys.stdin.read()
guardian.close()
print("closed", flush=True)
"""

# A mount that answers no mkdir, with a thread that waits in the kernel for the directory's lock.
STUCK = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from memfs import MemFS
from mimicfs.fuse import mounting
from mimicfs.fuse.guardian import Guardian
from mimicfs.fuse.notify import Notifier
from mimicfs.fuse.server import Server
from mimicfs.fuse.session import Session, SessionOptions

class Slow(MemFS):
    def mkdir(self, *args):
        threading.Thread(target=lambda: notifier._send_entry(1, b"any")).start()
        time.sleep(60)

guardian = Guardian()
session = Session.mount(Path(sys.argv[1]), SessionOptions())
guardian.watch(mounting.device_number(session.mountpoint))
notifier = Notifier(session)
print("mounted", flush=True)
Server(Slow(), session).serve()
"""

# A guarded mount, which says who guards it.
MOUNTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from memfs import MemFS
from mimicfs.fuse import mounting
from mimicfs.fuse.guardian import Guardian
from mimicfs.fuse.server import Server
from mimicfs.fuse.session import Session, SessionOptions

guardian = Guardian()
session = Session.mount(Path(sys.argv[1]), SessionOptions())
guardian.watch(mounting.device_number(session.mountpoint))
print(guardian._pid, flush=True)
Server(MemFS(), session).serve()
"""


@contextmanager
def mounted_at(path: Path) -> Iterator[int]:
    """A process that serves a mount at *path* is there; the number of its guardian."""
    path.mkdir(exist_ok=True)
    words = [sys.executable, "-c", MOUNTED, str(path), str(Path(__file__).parent)]
    daemon = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None
        yield int(daemon.stdout.readline())
    finally:
        daemon.kill()
        daemon.communicate(timeout=10)
        subprocess.run(["fusermount3", "-q", "-u", "-z", str(path)], check=False, timeout=10)


def is_stuck(pid: int) -> bool:
    """Whether a thread of *pid* waits where no signal ends that."""
    stats = [path.read_bytes() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return any(stat.rpartition(b") ")[2][:1] == b"D" for stat in stats)


@pytest.mark.slow
def test_whoever_waits_for_a_daemon_that_is_killed_is_set_free(tmp_path: Path) -> None:
    words = [sys.executable, "-c", STUCK, str(tmp_path), str(Path(__file__).parent)]
    daemon = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None and daemon.stdout.readline() == "mounted\n"
        making = subprocess.Popen(["mkdir", tmp_path / "new"], stderr=subprocess.PIPE, text=True)
        wait_until(lambda: is_stuck(daemon.pid))
        daemon.kill()
        assert making.communicate(timeout=20)[1] != ""
        assert making.returncode == 1
        daemon.communicate(timeout=10)
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(tmp_path)], check=False, timeout=10)


# As a container may be started: --cap-drop ALL --cap-add SYS_ADMIN.
MAY_MOUNT_ONLY = ("setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot")


@pytest.mark.slow
@pytest.mark.parametrize("started_by", [(), MAY_MOUNT_ONLY], ids=["as we are", "without chroot"])
def test_a_mount_ends_with_umount_although_its_guardian_lives(
    started_by: tuple[str, ...], tmp_path: Path
) -> None:
    """It looks at fusectl in a mount namespace that has a copy of the mount, and must not stay."""
    if started_by and os.geteuid() != 0:
        pytest.skip("only root has capabilities to leave out")
    words = [*started_by, sys.executable, "-c", STUCK, str(tmp_path), str(Path(__file__).parent)]
    daemon = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None and daemon.stdout.readline() == "mounted\n"
        assert os.listdir(tmp_path) == []  # it is served
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)
        assert daemon.wait(5) == 0
    finally:
        daemon.kill()
        daemon.communicate(timeout=10)


def has_opened_abort(guardian: int) -> bool:
    """Whether it could end the connection by now."""
    opened = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{guardian}/fd")]
    return any(path.endswith("/abort") for path in opened)


def started(how: str) -> tuple[subprocess.Popen[str], int]:
    words = [sys.executable, "-c", GUARDED, how]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.slow
def test_a_guardian_that_comes_late_ends_no_other_connection(tmp_path: Path) -> None:
    """The kernel gives the number of a connection that has ended to the next one."""
    old, new = tmp_path / "old", tmp_path / "new"
    for _ in range(10):  # somebody else's mount may be the one that gets the number
        with mounted_at(old) as guardian:
            wait_until(partial(has_opened_abort, guardian))
            number = old.stat().st_dev
            os.kill(guardian, signal.SIGSTOP)
            fd = os.pidfd_open(guardian)
        with mounted_at(new):
            reused = new.stat().st_dev == number
            os.kill(guardian, signal.SIGCONT)
            assert select.select([fd], [], [], 10)[0]
            os.close(fd)
            assert os.listdir(new) == []
        if reused:
            return
    pytest.fail("no mount got the number of the one that had ended")


@pytest.mark.parametrize("how", ["watch", "not mounted"])
def test_it_ends_with_a_process_that_is_killed(how: str) -> None:
    process, guardian = started(how)
    fd = os.pidfd_open(guardian)
    process.kill()
    assert select.select([fd], [], [], 10)[0]
    os.close(fd)
    process.communicate()


def test_it_ends_when_it_is_told_to() -> None:
    process, guardian = started("watch")
    assert process.communicate("", timeout=10)[0] == "closed\n"
    with pytest.raises(ProcessLookupError):
        os.kill(guardian, 0)


def test_signals_to_a_whole_group_do_not_end_it() -> None:
    process, guardian = started("watch")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(guardian, number)
    assert process.communicate("", timeout=10)[0] == "closed\n"
