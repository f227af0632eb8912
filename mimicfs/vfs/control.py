"""The control file `.sync` of every directory, and the extended attributes `user.mimicfs.*`:
what they read as, and what writing them does.

`.sync` is found by name but never listed. A real key of that name is shown as `.sync%name`
(names.py). To set its time (touch) or to write anything to it refreshes the directory that it is
in, with all below. The call returns when the kernel knows what changed.

A sync runs in the thread that asks for it; it can be interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from mimicfs.entry import NS, OBJECT, Scope, Total
from mimicfs.errors import MimicError, PosixError, Uncounted, Unlisted
from mimicfs.human import iso_time, number_of
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Caller, Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Progress, Report, Syncer, Wish, heads, refuse
from mimicfs.sync.freshness import Fresh, freshness
from mimicfs.vfs.allowance import Allowance
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.nodes import Node, NodeKind

log = logging.getLogger(__name__)

PREFIX = b"user.mimicfs."
SYNC = PREFIX + b"sync"
_TOTALS_MAX = 100  # directories whose totals are remembered
_UNCOUNTED = (Total(), -1, 0)
_SAVED_S = 100.0  # so many seconds' worth of requests may be spent at once
_PATIENCE_S = 10.0  # a refresh waits that long to be affordable, then it is refused
_WISH = Wish(refuse)  # nobody is there to be asked whether most of a scope may be deleted
_TELL_KERNEL_S = 30.0  # most time that a sync waits for the notifier


class Control:
    """*sync_rate* is how many LIST requests a second refreshes may cost in the long run."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        syncer: Syncer,
        kernel: Kernel,
        sync_rate: float = 0.0,
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._kernel = kernel
        self._allowance = Allowance(sync_rate, sync_rate * _SAVED_S)
        self._lock = threading.Lock()  # protects what was asked last
        # Totals by bucket and directory: the total, its generation of the mirror, and the thread
        # that has counted it and not used it yet.
        self._totals: dict[tuple[str, str], tuple[Total, int, int]] = {}

    def sync(self, caller: Caller, directory: Node) -> None:
        """Make *directory* and all below it true again. Returns when the kernel knows."""
        self.allow(caller)
        try:
            if directory.kind == NodeKind.ACCOUNT:
                self._sync_account(caller.cancellation)
            else:
                self._sync(directory.bucket, directory.key, caller.cancellation)
        finally:  # a sync that failed half way has changed things, too
            # The kernel is told even without a difference: a user who asks for a refresh does not
            # believe what is shown.
            self._kernel.distrusted(directory)
            self._kernel.told(_TELL_KERNEL_S)

    def _sync_account(self, cancellation: Cancellation) -> None:
        """Refresh the list of buckets, then each bucket. One that fails does not stop the
        others; its error is raised at the end."""
        self._afford("s3://", cancellation)
        self._syncer.sync_buckets()
        failed: MimicError | None = None
        for bucket, prefix in self._syncer.scopes():
            try:
                self._sync(bucket, prefix, cancellation)
            except MimicError as exc:
                cancellation.check()
                failed = failed or exc
        if failed is not None:
            raise failed

    def _sync(self, bucket: str, prefix: str, cancellation: Cancellation) -> None:
        self._afford(f"s3://{bucket}/{prefix}", cancellation)
        pages = 1  # the first is paid for: a page that S3 refuses costs, too

        def spend(so_far: Progress) -> None:
            nonlocal pages
            self._allowance.spend(max(0, so_far.pages - pages))
            pages = max(pages, so_far.pages)

        self._syncer.sync(bucket, prefix, spend, cancellation, _WISH)
        marker = self._mimicdb.entry(bucket, prefix) if prefix else None
        if marker is not None and marker.kind == OBJECT:  # a listing does not have its mode
            heads.learn(self._mimicdb, self._s3, bucket, [prefix], cancellation)

    def _afford(self, about: str, cancellation: Cancellation) -> None:
        """Wait until a request may be spent on a refresh: a loop of refreshes must not run up a
        bill. Raises PosixError EAGAIN where that would take long, Interrupted."""
        wait_s = self._allowance.wait_s()
        if wait_s > _PATIENCE_S:
            log.warning(
                "refresh of %s refused: earlier ones have cost too many LIST requests; the next is"
                " possible in %.0f s (`mimicfs sync` and -o sync_rate=0 have no limit)",
                about,
                wait_s,
            )
            raise PosixError(errno.EAGAIN, f"too many refreshes; wait {wait_s:.0f} s")
        self._allowance.spend(1)
        if wait_s:
            with suppress(TimeoutError):
                cancellation.wait(Future[None](), wait_s)

    def set_xattr(self, caller: Caller, node: Node, name: bytes) -> None:
        """Answer a write of `user.mimicfs.*`: a refresh of *node*, or EPERM."""
        if name != SYNC:
            raise PosixError(errno.EPERM, os.fsdecode(name))
        if node.is_nameless:
            raise PosixError(errno.ENOENT, f"inode {node.ino} has no name any more")
        if node.is_directory:
            with self._kernel.locked(node.ino):
                self.sync(caller, node)
            return
        self.allow(caller)
        if node.kind == NodeKind.OBJECT:
            self._afford(f"s3://{node.bucket}/{node.key}", caller.cancellation)
            # the mirror takes the answer in, and announces it if it is news
            self._s3.head(node.bucket, node.key)
            self._kernel.told(_TELL_KERNEL_S)

    def xattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of an attribute `user.mimicfs.*` of a place. Raises PosixError
        ENODATA."""
        if node.is_nameless:
            raise PosixError(errno.ENODATA, os.fsdecode(name))
        values: dict[bytes, Callable[[], str]] = {
            b"bucket": lambda: node.bucket,
            b"key": lambda: node.key,
            b"synced": lambda: _until(self._freshness(node)),
            b"synced_by": lambda: _by(self._freshness(node)),
        }
        if node.is_directory:
            values[b"files"] = lambda: str(self._total(node).files)
            values[b"bytes"] = lambda: str(self._total(node).bytes)
        if node.kind == NodeKind.ACCOUNT:
            del values[b"bucket"], values[b"key"]
        value = values.get(name.removeprefix(PREFIX))
        if value is None:
            raise PosixError(errno.ENODATA, os.fsdecode(name))
        return value().encode()

    def count(self, missing: Uncounted) -> None:
        """Count what `xattr` did not know. Raises PosixError ENODATA where a part is not known: no
        total is too small."""
        where = (missing.bucket, missing.directory)
        generation = self._mimicdb.generation
        try:
            if missing.bucket:
                found = [self._mimicdb.total(*where)]
            else:
                found = [self._mimicdb.total(bucket.name) for bucket in self._mimicdb.buckets()]
        except Unlisted as exc:
            raise PosixError(errno.ENODATA, f"{exc}; touch its .sync first") from exc
        total = Total(sum(each.files for each in found), sum(each.bytes for each in found))
        with self._lock:
            if len(self._totals) >= _TOTALS_MAX:
                self._totals.clear()
            self._totals[where] = (total, generation, threading.get_ident())

    def _total(self, node: Node) -> Total:
        """Return the total below a directory, counted once for each state of the mirror. Where that
        changes all the time, a thread gets the total that it has just counted."""
        where = (node.bucket, node.key)
        with self._lock:
            total, generation, counter = self._totals.get(where, _UNCOUNTED)
            if generation != self._mimicdb.generation and counter != threading.get_ident():
                raise Uncounted(*where)
            self._totals[where] = (total, generation, 0)
        return total

    def text(self, directory: Node) -> bytes:
        """Return the text of the control file of *directory*."""
        if directory.kind == NodeKind.ACCOUNT:
            return self._account_text().encode()
        lines = [f"scope: s3://{directory.bucket}/{directory.key}"]
        scope = self._mimicdb.cover(directory.bucket, directory.key)
        status = self._syncer.status(directory.bucket, directory.key)
        lines += _state_lines(scope, status)
        fresh = freshness(self._mimicdb, directory.bucket, directory.key)
        if fresh is not None:
            lines.append(f"true until: {iso_time(fresh.until_ns)}, {fresh.by}")
        lines += [
            f"also syncing: s3://{each.bucket}/{each.prefix}: {_progress_text(each)}"
            for each in self._syncer.progress()
            if each.bucket == directory.bucket and each.prefix != directory.key
        ]
        return ("\n".join(lines) + "\n").encode()

    def _account_text(self) -> str:
        scope = self._mimicdb.scope("", "")
        lines = ["scope: s3://", f"last sync: {iso_time(scope.listed_ns) if scope else 'never'}"]
        for bucket in self._mimicdb.buckets() if scope else ():
            whole = self._mimicdb.scope(bucket.name, "")
            state = (
                f"synced {iso_time(whole.listed_ns)}" if whole and whole.deep else "partly known"
            )
            lines.append(f"bucket: {bucket.name}: {number_of(bucket.objects, 'key')}, {state}")
        return "\n".join(lines) + "\n"

    def _freshness(self, node: Node) -> Fresh | None:
        """Return until when the directory that *node* is, or is in, is true, and why."""
        directory = node if node.is_directory or node.parent is None else node.parent
        return freshness(self._mimicdb, directory.bucket, directory.key)

    @staticmethod
    def allow(caller: Caller) -> None:
        """Allow calls that cost requests to the user who mounted, and to root. Raises PosixError
        EACCES."""
        if caller.uid not in (0, os.getuid()):
            raise PosixError(errno.EACCES, "S3 is asked only for the user who mounted and for root")


def _until(fresh: Fresh | None) -> str:
    return iso_time(fresh.until_ns) if fresh else "never"


def _by(fresh: Fresh | None) -> str:
    return fresh.by if fresh else "nothing"


def _state_lines(scope: Scope | None, status: Progress | Report | None) -> list[str]:
    running = isinstance(status, Progress)
    known = "complete" if scope and scope.deep else "listed" if scope else "not listed"
    lines = [f"state: {'syncing' if running else known}"]
    if isinstance(status, Progress):
        lines.append(f"progress: {_progress_text(status)}")
    elif isinstance(status, Report):
        lines.append(f"keys: {status.keys}")
    if scope is not None:
        lines.append(f"last sync: {iso_time(scope.listed_ns)}")
        lines.append(f"duration: {scope.duration_ns / NS:.3f} s")
        for what in ("added", "changed", "deleted"):
            lines.append(f"{what}: {getattr(scope, what)}")
    else:
        lines.append("last sync: never")
    if isinstance(status, Report) and status.error:
        lines.append(f"last error: {status.error}")
    return lines


def _progress_text(status: Progress) -> str:
    keys, pages = number_of(status.keys, "key"), number_of(status.pages, "page")
    text = f"{keys} in {pages}, {status.keys_per_s:,.0f} keys/s"
    if status.expected:
        text += f", of about {status.expected}"
    if status.left_s is not None:
        text += f", about {status.left_s:.0f} s left"
    if status.held:
        text += f", {status.held} deletions held back"
    return f"{text}, {status.ranges} ranges" + (", resumed" if status.resumed else "")
