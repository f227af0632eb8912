"""The place of a mount's copy of a store that others share.

One file a mount point, which outlives the mount: STATE/replicas/NAME.db. A mount that still ends
while its successor begins (umount --lazy) keeps the file until it is gone; then the successor
copies into memory. A file that no mount has used for a month is deleted by the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from pathlib import Path

from mimicfs.backends import Backend
from mimicfs.backends.lease import Lease
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import Settings
from mimicfs.entry import MONTH_S
from mimicfs.errors import StoreError
from mimicfs.private import private_directory

log = logging.getLogger(__name__)


def replicated(
    store: Backend,
    settings: Settings,
    mountpoint: Path,
    lease: Lease,
    *,
    strict: bool,
    prefix: str = "",
) -> Backend:
    """Return *store* with a copy beside it, if its answers come over a network. *prefix* is that of
    the mount."""
    if store.quick:
        return store
    directory = private_directory(settings.state / "replicas")
    _clear(directory)
    named = f"{settings.store}\n{settings.namespace}\n{mountpoint.absolute()}"
    path = directory / f"{hashlib.sha256(os.fsencode(named)).hexdigest()[:24]}.db"
    return Replica(store, _opened(path), lease, strict=strict, prefix=prefix)


def _opened(path: Path) -> SQLite:
    """Return the copy at *path*; a copy that cannot be read is begun anew."""
    if not _locked(path):
        log.info("a mount that is ending uses %s; this mount keeps its copy in memory", path)
        return SQLite()
    try:
        return SQLite(str(path))
    except StoreError as exc:
        log.warning("%s; the copy starts anew", exc)
        for each in (path, *_beside(path)):
            each.unlink(missing_ok=True)
        return SQLite(str(path))


def _locked(path: Path) -> bool:
    """Lock *path* for this process, as long as it lives."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    ours = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(fd)
        ours = True
    except OSError as exc:  # somebody else has it, or the disk has no locks
        log.debug("%s.lock: %s", path, exc.strerror)
    finally:
        if not ours:
            os.close(fd)
    return ours  # then the descriptor stays open


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _clear(directory: Path) -> None:
    """Delete the copies that nobody has used for long."""
    for lock in directory.glob("*.db.lock"):
        path = lock.with_suffix("")
        if time.time() - lock.stat().st_mtime > MONTH_S and _locked(path):
            for each in (path, *_beside(path), lock):
                each.unlink(missing_ok=True)
