"""Real mounts of a MemFS, and a process of its own to use them.

Nothing in the test process itself touches a mount: a call that waits for the server while it
holds the interpreter's lock (a page fault in an mmap is one) would hang both for good.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from memfs import MemFS

from mimicfs.fuse.abi import IN_HEADER, Opcode
from mimicfs.fuse.notify import Notifier
from mimicfs.fuse.server import Server
from mimicfs.fuse.session import Session, SessionOptions

HERE = Path(__file__).parent


class RecordingSession(Session):
    """Counts what the kernel asks, by the names of the requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.requests: Counter[str] = Counter()
        super().__init__(*args, **kwargs)

    def receive(self) -> bytes | None:
        request = super().receive()
        if request is not None:
            self.requests[Opcode(IN_HEADER.unpack_from(request)[1]).name] += 1
        return request


class Mount:
    """A mounted MemFS with its server running."""

    def __init__(self, fs: MemFS, path: Path, options: SessionOptions, **server: Any) -> None:
        self.fs = fs
        self.path = path
        self.session = cast(RecordingSession, RecordingSession.mount(path, options))
        self.kernel = Notifier(self.session)
        self.server = Server(fs, self.session, **server)
        self._thread = threading.Thread(target=self.server.serve, name="serve", daemon=True)
        self._thread.start()

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end of serve()."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        self.server.stop(0.2)
        ended = self.ended(15)
        self.kernel.close()
        assert ended, "serve() did not end"

    def asked(self) -> dict[str, int]:
        """Return what the kernel asked since the last call, without what nobody waits for."""
        requests, self.session.requests = self.session.requests, Counter()
        return {
            name: count
            for name, count in requests.items()
            if name not in ("FORGET", "BATCH_FORGET", "RELEASE", "INTERRUPT")
        }

    def told(self) -> None:
        """Wait until the kernel was told everything."""
        assert self.kernel.flush(10)


@contextmanager
def mounted(
    fs: MemFS, path: Path, options: SessionOptions | None = None, **server: Any
) -> Iterator[Mount]:
    with suppress(FileExistsError):
        os.mkdir(path)
    mount = Mount(fs, path, options or SessionOptions(), **server)
    try:
        yield mount
    finally:
        mount.close()
    assert fs.faults == []


class Client:
    """A process that calls functions of the modules in this directory."""

    def __init__(self) -> None:
        self._process = self._started()

    def __call__(self, function: Callable[..., Any], *args: Any, timeout_s: float = 20) -> Any:
        """Return function(*args), or raise what it raised. TimeoutError ends the process."""
        assert self._process.stdin and self._process.stdout
        call = (function.__module__, function.__name__, args)
        _send(self._process.stdin, call)
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            self.close()
            self._process = self._started()
            raise TimeoutError(f"{function.__name__} took more than {timeout_s} s")
        result, error = _receive(self._process.stdout)
        if error is not None:
            raise error
        return result

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        with suppress(subprocess.TimeoutExpired):  # it may wait for what the unmount ends
            self._process.wait(5)

    @staticmethod
    def _started() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "client.py")]
        root = str(HERE.parent.parent)
        environment = dict(os.environ, PYTHONPATH=root, PYTHONDONTWRITEBYTECODE="1")
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )


def _send(stream: BinaryIO | Any, value: Any) -> None:
    data = pickle.dumps(value)
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO | Any) -> Any:
    (size,) = struct.unpack("<I", stream.read(4))
    return pickle.loads(stream.read(size))
