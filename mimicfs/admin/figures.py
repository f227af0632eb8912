"""The figures of a mount, each part's as a plain dict: what `mimicfs status` and the metrics show.

No secret is in them: no credentials, no address with a password, no key of an object.

Threading: each is called by a thread of its own (sources.py), beside everything else.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicfs import __version__
from mimicfs.admin import logs
from mimicfs.config.limits import by_class
from mimicfs.entry import NS
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.sync import Report, Syncer

if TYPE_CHECKING:
    from mimicfs.fuse.notify import Notifier
    from mimicfs.fuse.server import Server
    from mimicfs.fuse.session import Session
    from mimicfs.s3.requests.client import S3
    from mimicfs.vfs.filesystem import VFS

_BUCKETS_MAX = 1000  # that are told singly
_SCOPES_MAX = 100  # syncs that are told singly


def process(started_ns: int) -> dict[str, Any]:
    """Return what this process is, and the resources that it takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started_ns": started_ns,
        "uptime_s": round((time.time_ns() - started_ns) / NS, 3),
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "log_level": logs.level(),
    }


def mirror(mimicdb: Mirror, store: str) -> dict[str, Any]:
    """Return what the mirror holds. *store* is its URL, without a password."""
    buckets = mimicdb.known_buckets()
    return {
        "store": store,
        "buckets_known": len(buckets),
        "buckets": [
            {
                "name": bucket.name,
                "objects": bucket.objects,
                "bytes": bucket.bytes,
                "synced_ns": scope.listed_ns if scope is not None else None,
                "complete": scope is not None and scope.deep,
            }
            for bucket in buckets[:_BUCKETS_MAX]
            for scope in [mimicdb.scope(bucket.name, "")]
        ],
    }


def sharing(mimicdb: Mirror) -> dict[str, Any]:
    """Return the figures about other mounts of the store."""
    member = mimicdb.member
    return {
        "session": member.id,
        "away": int(member.away),
        "epoch_changes": member.epoch_changes,
        **mimicdb.intents.figures(),
    }


def kernel(server: Server, session: Session, notifier: Notifier) -> dict[str, Any]:
    """Return the requests of the kernel, and what was agreed with it."""
    return {
        **server.counts.figures(),
        "protocol": f"7.{session.minor}",
        "features": sorted(flag.name or "" for flag in session.flags),
        "notifications_waiting": notifier.waiting,
        "threads_max": server.limits(),
    }


def costs(s3: S3, server: Server) -> dict[str, Any]:
    """Return how many requests of each price class were sent, and what the mirror saved; with
    prices, also in money."""
    figures, saved = s3.figures(), server.counts.figures()["saved"]
    told: dict[str, Any] = {"asked": by_class(figures["requests"]), "saved": by_class(saved)}
    prices = s3.prices
    if prices is not None:
        told["currency"] = prices.currency
        told["spent"] = prices.of(figures["requests"], figures["bytes_in"])
        told["spared"] = prices.of(saved)
    return told


def files(vfs: VFS, journal: Journal) -> dict[str, Any]:
    """Return the open files, and the bytes that S3 does not have yet. *recovered* are files that an
    upload or an earlier mount could not bring to S3: somebody should look at them."""
    staged, records = 0, 0
    for entry in _entries(journal.directory):
        if entry.name.endswith(".data"):
            staged += _size(entry)
        elif entry.name.endswith(".json"):
            records += 1
    return {
        **vfs.figures(),
        "write_back": _write_back(vfs),
        "pending": records,
        "staged_bytes": staged,
        "staging_max": journal.room.limit or None,
        "recovered": journal.recovered(),
    }


def _write_back(vfs: VFS) -> dict[str, Any]:
    """Return the closed files that are still to be uploaded (--write-back)."""
    queue = vfs.queued()
    oldest_ns = min((each.since_ns for each in queue), default=time.time_ns())
    return {
        "files": len(queue),
        "bytes": sum(each.size for each in queue),
        "oldest_s": (time.time_ns() - oldest_ns) / NS,
        "error": next((each.error for each in queue if each.error), ""),
    }


def syncs(syncer: Syncer, mimicdb: Mirror) -> dict[str, Any]:
    """Return the syncs that run, and the buckets of which the last one failed."""
    outcomes = ((bucket.name, syncer.status(bucket.name, "")) for bucket in mimicdb.known_buckets())
    failed = [
        {"bucket": name, "error": outcome.error}
        for name, outcome in outcomes
        if isinstance(outcome, Report) and outcome.error
    ]
    running = [each.as_dict() for each in syncer.progress()]
    return {"running": running[:_SCOPES_MAX], "failed": failed[:_SCOPES_MAX]}


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _size(entry: os.DirEntry[str]) -> int:
    """Return what a staging file takes on disk: it may have holes."""
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:  # uploaded meanwhile
        return 0
