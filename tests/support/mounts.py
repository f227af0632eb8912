"""The real command, and real mounts in processes of their own."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import preloaded
from support.preloaded import MIMICFS
from support.proxy import Proxy

_FUTEX = "98" if os.uname().machine == "aarch64" else "202"  # a thread of Python waits for its turn


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until *condition* holds: at once on a quiet machine, for long on a busy one."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def called(call: Callable[[], Any]) -> threading.Thread:
    """Return a thread that is within a system call of *call*."""
    thread = threading.Thread(target=call)
    thread.start()
    task = Path(f"/proc/self/task/{thread.native_id}/syscall")
    wait_until(lambda: task.read_text().split()[0] not in ("running", _FUTEX))
    return thread


def run(*arguments: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run the mimicfs command."""
    words = [str(MIMICFS), *map(str, arguments)]
    given = kwargs.pop("input", None)
    for end in ("stdout", "stderr", *(["stdin"] if given is not None else [])):
        kwargs.setdefault(end, subprocess.PIPE)
    with preloaded.Popen(words, text=True, **kwargs) as process:
        try:
            said, complained = process.communicate(given, timeout=50)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, said, complained)


def succeed(*arguments: Any, **kwargs: Any) -> str:
    result = run(*arguments, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


def let_others_in(path: Path) -> None:
    """Let other users read the directory *path* and get there. No right is taken away: /tmp is
    above it."""
    for each in (path, *path.parents):
        mode = stat.S_IMODE(each.stat().st_mode)
        if mode & 0o055 != 0o055:
            each.chmod(mode | 0o055)


def mount_lines(table: str = "mountinfo") -> list[str]:
    """Return what /proc/self/*table* says of each mount on this machine. The names of others need
    not be UTF-8."""
    return Path("/proc/self", table).read_text(errors="surrogateescape").splitlines()


def unmounted(mountpoint: Path) -> bool:
    return not any(f" {mountpoint} " in line for line in mount_lines())


class Mount:
    """A mount in a process of its own. *path* is the mount point."""

    def __init__(self, path: Path, arguments: list[str], log: Path) -> None:
        self.path = path
        self.log = log
        if unmounted(path):  # else: of a daemon that died
            path.mkdir(exist_ok=True)
        with open(log, "ab") as output:
            words = [str(MIMICFS), "mount", "-f", *arguments, str(path)]
            self.process = preloaded.Popen(words, stderr=output)
        wait_until(lambda: self._answers() or self.process.poll() is not None, 50)
        assert self.process.poll() is None, log.read_text()

    def _answers(self) -> bool:
        try:
            # statvfs(2) asks the daemon; what stat(2) says, the kernel may know of a dead one.
            os.statvfs(self.path)
            return not unmounted(self.path) and self.path.stat().st_ino == 1
        except OSError:
            return False

    def end(self, timeout_s: float = 20) -> int:
        """Unmount, and return how the daemon ended."""
        words = ["fusermount3", "-u", str(self.path)]
        # The daemon looks at its own mount once, to see that it answers: until then it is busy.
        wait_until(lambda: subprocess.run(words, timeout=10, check=False).returncode == 0)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not unmounted(self.path):
            subprocess.run(["fusermount3", "-u", "-z", str(self.path)], timeout=10, check=False)


@contextmanager
def mounted(base: Path, endpoint: str, *arguments: str, sync: bool = True) -> Iterator[Mount]:
    """Yield a mount, for many tests, whose state is below *base*; with *sync*, its root was
    synced."""
    words = ["--endpoint-url", endpoint, "--store", f"sqlite://{base}/store.db", *arguments]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(base / "state"))
        environment.setenv("HOME", str(base))
        mount = Mount(base / "mnt", words, base / "mount.log")
    try:
        if sync:
            (mount.path / ".sync").touch()
        yield mount
    finally:
        mount.close()


@contextmanager
def costs(proxy: Proxy, **requests: int) -> Iterator[None]:
    """Within, S3 is asked just these requests."""
    proxy.counted()
    yield
    counted = proxy.counted()
    assert counted == requests, counted
