"""Whether the file may lack its last commits, because the machine has stopped.

SQLite syncs the write-ahead log only when it moves the commits into the file (synchronous=NORMAL).
The connection that closes the file last does that, and removes the log. So a log that an earlier
run of the machine has left may have lost its end in a power cut, and with it what mounts had
recorded of S3 for some seconds: a file that was closed would be missing for good in a directory
that counts as listed. Then nothing that is recorded is certain any more.

The kernel names each run of a machine. A reboot that ended the mounts as it should leaves no log.

Threading: no state; any thread.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from mimicfs.backends import DOUBTED, EPOCH

_NAME = Path("/proc/sys/kernel/random/boot_id")
# The run of the machine in which the file was used last. Of no version, as `note` is.
_TABLE = "CREATE TABLE IF NOT EXISTS run(id TEXT NOT NULL)"


def was_left(log_path: str | None) -> bool:
    """Whether there are commits in the write-ahead log; None: there is no log."""
    with suppress(OSError):
        return log_path is not None and os.stat(log_path).st_size > 0
    return False


def begin(db: sqlite3.Connection, *, left: bool) -> bool:
    """Note, inside the caller's transaction, in which run of the machine the file is used. Return
    whether it may have lost commits, because an earlier one *left* them in the log; then make
    everything uncertain, and begin an epoch (sessions.py)."""
    db.execute(_TABLE)
    this, noted = _this_run(), db.execute("SELECT id FROM run").fetchone()
    if noted == (this,):
        return False
    db.execute("DELETE FROM run")
    db.execute("INSERT INTO run VALUES(?)", (this,))
    if left:
        db.execute("DELETE FROM scope")
        doubted = "INSERT OR REPLACE INTO note SELECT id, ?, '1' FROM bucket WHERE known"
        db.execute(doubted, (DOUBTED,))
        of_lists = "SELECT id FROM bucket WHERE name=''"
        db.execute(f"DELETE FROM note WHERE name=? AND bucket IN ({of_lists})", (EPOCH,))
    return left


def _this_run() -> str:
    """Return the kernel's name of this run of the machine; "": it does not say."""
    with suppress(OSError):
        return _NAME.read_text().strip()
    return ""
