"""The requests that programs make of a mount, recorded: the access log (--access-log), and `mimicfs
top`.

For `top`, requests are recorded from the first question on, until nobody has asked for a while; so
a mount at which nobody looks pays nothing.

Threading: `observing` is entered by the main thread; records come in all threads of the server.
"""

from __future__ import annotations

import logging.handlers
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from mimicfs.entry import NS
from mimicfs.errors import ConfigError
from mimicfs.fuse.abi import Opcode
from mimicfs.fuse.counts import ANSWERS
from mimicfs.fuse.observing import AccessRecord, Recorder, error_name, joined, program
from mimicfs.human import printable
from mimicfs.private import open_private_itself

_LOG_MAX = 64 << 20  # bytes of one file
_LOGS = 3  # files beside the one that is written
_WINDOW_S = 60.0
_ATTENTION_S = 90.0  # how long the recording goes on after the last question
_RECORDS_MAX = 100_000
_SHOWN = 50
_WARN_EVERY_S = 60.0
# As `kernel.errors` of `mimicfs status` counts.
_ANSWERS = frozenset((Opcode(opcode).name.lower(), code) for opcode, code in ANSWERS)

PathOf = Callable[[int], str]

log = logging.getLogger(__name__)


class Observed(Protocol):
    def observe(self, recorders: Iterable[Recorder]) -> None:
        """Tell *recorders*, and no others, of each request."""


@contextmanager
def observing(server: Observed, place: PathOf, access_log: Path | None) -> Iterator[Observers]:
    """Within, requests to *server* are logged to *access_log*, if that is given, and `top` can ask.
    *place* says what an inode number stands for. Raises ConfigError."""
    requests = AccessLog(access_log, place) if access_log is not None else None
    observers = Observers(server, place, requests)
    try:
        yield observers
    finally:
        observers.close()
        if requests is not None:
            requests.close()


class Observers:
    """The receivers of each request: the log, and `top` for as long as somebody looks."""

    def __init__(self, server: Observed, place: PathOf, requests: AccessLog | None) -> None:
        self._server = server
        self._place = place
        self._always: tuple[Recorder, ...] = (requests.record,) if requests is not None else ()
        self._lock = threading.Lock()  # protects all below
        self._top: Top | None = None
        self._timer: threading.Timer | None = None
        server.observe(self._always)

    def top(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        """Return who asked for what in the last minute, as far as it was recorded."""
        with self._lock:
            if self._top is None:
                self._top = Top()
                self._server.observe((*self._always, self._top.record))
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_ATTENTION_S, self._forget)
            self._timer.daemon = True
            self._timer.start()
            top = self._top
        return top.told(self._place)

    def _forget(self) -> None:
        with self._lock:
            self._top = None
            self._server.observe(self._always)

    def close(self) -> None:
        """Tell nobody of requests any more."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._top = None
            self._server.observe(())


class Top:
    """The requests of the last minute."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._records: deque[tuple[float, AccessRecord]] = deque(maxlen=_RECORDS_MAX)

    def record(self, record: AccessRecord) -> None:
        self._records.append((time.monotonic(), record))  # one atomic step

    def told(self, place: PathOf) -> dict[str, Any]:
        """Return the sums by process and by file, the busiest first."""
        now_s = time.monotonic()
        recent = [each for at_s, each in list(self._records) if at_s >= now_s - _WINDOW_S]
        processes: dict[int, dict[str, Any]] = {}
        paths: dict[tuple[int, bytes], dict[str, Any]] = {}
        for each in recent:
            _add(processes.setdefault(each.pid, {}), each)
            _add(paths.setdefault((each.nodeid, each.name), {}), each)
        return {
            "seconds": round(min(_WINDOW_S, now_s - self._since_s), 1),
            "requests": len(recent),
            "processes": [
                {"pid": pid, "program": program(pid), **sums} for pid, sums in _busiest(processes)
            ],
            "paths": [
                {"path": joined(place(ino), name), **sums} for (ino, name), sums in _busiest(paths)
            ],
        }


def _add(sums: dict[str, Any], record: AccessRecord) -> None:
    sums["requests"] = sums.get("requests", 0) + 1
    sums["seconds"] = sums.get("seconds", 0.0) + record.took_s
    for way in ("read", "write"):
        size = record.size if record.operation == way else 0
        sums[f"{way}_bytes"] = sums.get(f"{way}_bytes", 0) + size
    failed = bool(record.code) and (record.operation, record.code) not in _ANSWERS
    sums["errors"] = sums.get("errors", 0) + failed


def _busiest(found: dict[Any, dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
    """Return those that took the most time, the slowest first."""
    slowest = sorted(found, key=lambda each: -float(found[each]["seconds"]))
    return [(each, found[each]) for each in slowest[:_SHOWN]]


class AccessLog:
    """A line for each request:

    TIME PID UID PROGRAM OPERATION RESULT BYTES SECONDS URL
    """

    def __init__(self, path: Path, place: PathOf) -> None:
        self._place = place
        try:
            self._file = _Rotated(path, maxBytes=_LOG_MAX, backupCount=_LOGS)
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror}; name another --access-log") from exc

    def record(self, record: AccessRecord) -> None:
        url = printable(joined(self._place(record.nodeid), record.name))
        at = datetime.fromtimestamp(record.time_ns / NS, UTC).isoformat(timespec="milliseconds")
        who = printable(program(record.pid)).replace(" ", "_")
        line = (
            f"{at} {record.pid} {record.uid} {who} {record.operation} {error_name(record.code)}"
            f" {record.size} {record.took_s:.6f} {url}"
        )
        self._file.handle(logging.LogRecord("access", 0, "", 0, line, None, None))

    def close(self) -> None:
        self._file.close()


class _Rotated(logging.handlers.RotatingFileHandler):
    """A rotated file. It warns once a minute of lines that it cannot write. A request that is
    answered while the mount ends may be recorded after `close`: that opens no file again."""

    _closed_for_good = False
    _warned_s = -_WARN_EVERY_S

    def _open(self) -> Any:
        return open(self.baseFilename, "a", errors="backslashreplace", opener=open_private_itself)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._closed_for_good:
            super().emit(record)

    def close(self) -> None:
        self.acquire()
        try:
            self._closed_for_good = True
            super().close()
        except OSError:  # of lines that were still to be written
            self._warn()
        finally:
            self.release()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        self._warn()

    def _warn(self) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s >= _WARN_EVERY_S:
            self._warned_s = now_s
            log.warning("%s: the access log is not written: %s", self.baseFilename, sys.exception())
