"""The position of a sync, noted beside the bucket, so that the next sync can go on from there.

A note is made about once a second, after the pages that it covers were merged: what a crash loses
is listed again, and nothing counts as merged that is not. A note is valid for ten minutes. A note
of a sync that may still be running, in this or another process, is left alone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field

from mimicfs.backends import Backend
from mimicfs.entry import NS

RECENT_S = 600  # an interrupted sync can go on for so long
WORTH_KEYS = 10_000  # fewer are listed again as quickly
_SILENT_S = 15  # a sync that has noted nothing for so long has ended
_EVERY_S = 1.0


@dataclass(slots=True)
class Cursor:
    """The rest of the sync that began at *started_ns*, at number *since* of the log: *ranges*, as
    (after, upto)."""

    started_ns: int
    since: int
    ranges: list[tuple[str, str | None]]
    keys: int = 0  # that were listed
    ended: bool = False  # it knew that it was ending
    at_ns: int = 0
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def usable(self, covered_ns: int) -> bool:
        """Whether to go on from here, and not begin again. *covered_ns* is when others last listed
        what is left."""
        age_s = (time.time_ns() - self.at_ns) / NS
        over = self.ended or age_s > _SILENT_S or (self._is_here() and not _is_alive(self.pid))
        return over and 0 <= age_s < RECENT_S and self.started_ns > covered_ns

    def _is_here(self) -> bool:
        return self.host == socket.gethostname()


class Notes:
    """The note about the sync of one scope in *backend*."""

    def __init__(self, backend: Backend, bucket: str, prefix: str) -> None:
        self._backend = backend
        self._bucket = bucket
        self._name = f"sync:{prefix}"
        self._noted = False
        self._last_s = time.monotonic()

    @property
    def noted(self) -> bool:
        """Whether there is a note, so that another sync may go on where one ends early."""
        return self._noted

    def read(self) -> Cursor | None:
        text = self._backend.note(self._bucket, self._name)
        if text is None:
            return None
        self._noted = True
        try:
            cursor = Cursor(**json.loads(text))
            cursor.ranges = [(str(after), upto) for after, upto in cursor.ranges]
        except (ValueError, TypeError):  # of another version
            return None
        return cursor

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last_s >= _EVERY_S

    def write(self, cursor: Cursor) -> None:
        if cursor.keys < WORTH_KEYS:
            return
        cursor.at_ns = time.time_ns()
        self._backend.set_note(self._bucket, self._name, json.dumps(asdict(cursor)))
        self._noted, self._last_s = True, time.monotonic()

    def clear(self) -> None:
        if self._noted:
            self._backend.set_note(self._bucket, self._name, None)
            self._noted = False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
