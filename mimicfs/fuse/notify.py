"""Tells the kernel which part of its cache is out of date: posix.KernelCache.

    entry_changed       INVAL_ENTRY (parent, name): the name, or its absence, is looked up again
    file_deleted        DELETE (parent, name, inode): whoever watches the file (inotify) is told
    listing_changed     INVAL_ENTRY (directory, "."), then INVAL_INODE (directory, 0, 0)
    attr_changed        INVAL_INODE (inode, -1): attributes only, pages stay
    data_changed        INVAL_INODE (inode, 0, 0): pages, and attributes with them
    drop_data           the same, now, by a thread of its own for each inode: messages that are sent
                        in order may wait for the lock of a directory, but a program that gets its
                        answer next reads the pages
    asked_anew          INVAL_INODE (inode, -1), now: what it has asked is answered in vain
    names_changed       INC_EPOCH: all names are looked up again
    everything_changed  INC_EPOCH, and each listing that the kernel may have

Why a thread: INVAL_ENTRY waits for the lock of the directory. The kernel holds that lock while it
waits for our answer to a lookup or create in the directory. If the thread that has to answer sent
the message, the mount would hang for good. For the same reason this thread holds no lock of ours.
Only asked_anew is sent by the thread that answers: INVAL_INODE of the attributes alone takes a spin
lock of the inode, and no page and no directory (fuse_reverse_inval_inode in fs/fuse/inode.c).

Why listing_changed begins with a name that never exists: a listing that was answered before the
change may still be on its way into the cache of the kernel, and INVAL_INODE does not wait for that.
But the reader holds the lock of the directory until the listing is there, and INVAL_ENTRY waits for
that lock.

A thread that waits in the kernel for a lock cannot be killed, and keeps /dev/fuse open. A daemon
that is killed meanwhile would leave a mount that hangs, where others give ENOTCONN. So INVAL_ENTRY
is not sent while a worker of ours has a request on that directory. If that takes long, INC_EPOCH,
which waits for nothing, has all names looked up again, and the message about the listing is sent
once more later. So is a deletion (DELETE), of which nothing else tells a program that watches the
file; unless the kernel was told of the name again meanwhile: a file that is there again may have
the same inode.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

from mimicfs.fuse.abi import (
    NOTIFY_DELETE_OUT,
    NOTIFY_INC_EPOCH_MINOR,
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE_OUT,
    ROOT_ID,
    Notify,
)
from mimicfs.fuse.session import Session
from mimicfs.posix import nobody

log = logging.getLogger(__name__)

_PATIENCE_S = 0.5  # how long a directory may be busy before another message is sent instead
_DELETED_S = 10.0  # how long we try again to tell of a deletion in a busy directory
_DELETED_MAX = 10_000  # of them at once
_GONE = frozenset((errno.ENODEV, errno.EBADF, errno.EPERM, errno.ECONNABORTED, errno.EPIPE))


class _Deletion(NamedTuple):
    ino: int
    until_s: float  # when it is too late to tell of it
    named: bool = False  # the kernel was told that the name is gone


class Notifier:
    """The kernel's cache of *session*. Any thread may call it; its own thread starts with it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._epoch = session.minor >= NOTIFY_INC_EPOCH_MINOR
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # protects the number below
        self._asked = 0  # the number of messages that were ever queued
        self._told = 0  # the number of those that are done; written by the thread alone
        self._covered = 0  # of these first ones, those about names need not be sent any more
        self._again: set[int] = set()  # directories of whose listing the kernel must be told again
        # Deletions of which the kernel must be told again, by directory and name.
        self._deleted: dict[tuple[int, bytes], _Deletion] = {}
        self._thread = threading.Thread(target=self._run, name="fuse-notify", daemon=True)
        self._thread.start()

    @property
    def has_epoch(self) -> bool:
        """Whether everything_changed does all that it promises: from kernel 6.16 on."""
        return self._epoch

    @property
    def waiting(self) -> int:
        """Return how many messages are queued that the kernel has not got yet."""
        return self._asked - self._told

    def entry_changed(self, parent: int, name: bytes) -> None:
        self._queue(lambda: self._entry(parent, name))

    def file_deleted(self, parent: int, name: bytes, ino: int) -> None:
        self._queue(lambda: self._delete(parent, name, ino))

    def listing_changed(self, ino: int) -> None:
        self._queue(lambda: self._listing(ino))

    def attr_changed(self, ino: int) -> None:
        self._queue(lambda: self._inode(ino, -1))

    def data_changed(self, ino: int, dropped: Callable[[], None] = nobody) -> None:
        self._queue(lambda: self._drop(ino, dropped))

    def drop_data(
        self, inos: Iterable[int], within_s: float, dropped: Callable[[int], None] = nobody
    ) -> None:
        until_s = time.monotonic() + within_s
        for thread in [self._dropping(ino, partial(dropped, ino)) for ino in inos]:
            if thread is not None:
                thread.join(max(0.0, until_s - time.monotonic()))

    def _dropping(self, ino: int, dropped: Callable[[], None]) -> threading.Thread | None:
        drop = partial(self._drop, ino, dropped)
        thread = threading.Thread(target=drop, name="fuse-drop", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there can be no more threads
            self._queue(drop)
            return None
        return thread

    def _drop(self, ino: int, dropped: Callable[[], None]) -> None:
        self._inode(ino, 0)
        dropped()

    def asked_anew(self, ino: int) -> None:
        self._inode(ino, -1)

    def names_changed(self) -> None:
        self._queue(self._names)

    def everything_changed(self) -> None:
        self._queue(self._everything)

    def flush(self, timeout_s: float) -> bool:
        if self._told == self._asked:  # nearly always; to wait for a thread costs 100 us
            return True
        told = threading.Event()
        self._queue(told.set)
        return told.wait(timeout_s) or not self._thread.is_alive()

    def close(self, timeout_s: float = 5.0) -> None:
        """Send the queued messages and end the thread; wait for that for at most *timeout_s*."""
        self._work.put(None)
        self._thread.join(timeout_s)

    def _queue(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._asked += 1
            self._work.put(call)

    def _run(self) -> None:
        while True:
            try:
                left = self._again or self._deleted
                call = self._work.get(timeout=_PATIENCE_S if left else None)
            except Empty:
                self._tell_again()
                continue
            if call is None:
                return
            try:
                call()
            except Exception:
                log.exception("a notification failed")
            self._told += 1

    def _entry(self, parent: int, name: bytes) -> None:
        deletion = self._deleted.get((parent, name))
        if deletion is not None and deletion.named:  # the same file may be there again
            del self._deleted[parent, name]
        elif deletion is not None:
            self._deleted[parent, name] = deletion._replace(named=True)
        if self._told < self._covered:
            return
        if not self._is_free(parent):
            covered = self._asked
            self._names()
            if self._epoch:
                self._covered = covered
                return
        deletion = self._deleted.pop((parent, name), None)
        # before the kernel has no such name any more
        if deletion is not None and self._is_free(deletion.ino):
            self._send_delete(parent, name, deletion.ino)
        self._send_entry(parent, name)

    def _delete(self, parent: int, name: bytes, ino: int) -> None:
        """Tell of a deletion; the kernel waits for the locks of both inodes. If they are held for
        long, nobody hears of the deletion; `_entry` still tells that the name is gone."""
        if self._told >= self._covered and self._is_free(parent) and self._is_free(ino):
            self._send_delete(parent, name, ino)
        elif len(self._deleted) < _DELETED_MAX:
            self._deleted[parent, name] = _Deletion(ino, time.monotonic() + _DELETED_S)

    def _tell_again(self) -> None:
        """Send the messages that could not be sent before, while no other one is queued."""
        if self._again:
            self._listing(self._again.pop())
        for (parent, name), (ino, until_s, _) in list(self._deleted.items()):
            free = self._is_free(parent, waits=False) and self._is_free(ino, waits=False)
            if free or time.monotonic() > until_s:
                del self._deleted[parent, name]
            if free:
                self._send_delete(parent, name, ino)

    def _is_free(self, directory: int, *, waits: bool = True) -> bool:
        """Whether no request holds *directory*; True also where no other message could be sent
        instead."""
        wait_s = _PATIENCE_S if waits else 0
        return not self._epoch or self._session.busy.wait_until_free(directory, wait_s)

    def _send_delete(self, parent: int, name: bytes, ino: int) -> None:
        head = NOTIFY_DELETE_OUT.pack(parent, ino, len(name), 0)
        self._send(Notify.DELETE, head + name + b"\0", f"{name!r} in inode {parent}")

    def _send_entry(self, parent: int, name: bytes) -> None:
        head = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0)
        self._send(Notify.INVAL_ENTRY, head + name + b"\0", f"{name!r} in inode {parent}")

    def _listing(self, ino: int) -> None:
        if self._is_free(ino):
            self._send_entry(ino, b".")
        else:
            self._again.add(ino)
        self._inode(ino, 0)

    def _inode(self, ino: int, offset: int) -> None:
        data = NOTIFY_INVAL_INODE_OUT.pack(ino, offset, 0)
        self._send(Notify.INVAL_INODE, data, f"inode {ino}")

    def _names(self) -> None:
        if self._epoch and self._send(Notify.INC_EPOCH, b"", "everything") == errno.EINVAL:
            self._epoch = False
        if not self._epoch:
            log.warning(
                "the kernel is older than 6.16: it does not look up again the names that it has"
            )

    def _everything(self) -> None:
        self._names()
        # The epoch covers only names. Listings stay in inodes that something holds.
        for ino in {ROOT_ID, *self._session.listed.copy()}:
            self._listing(ino)

    def _send(self, code: Notify, data: bytes, about: str) -> int:
        """Send a message; return 0, or the errno with which the kernel refused it. A refusal that
        matters is logged."""
        try:
            self._session.notify(code, data)
        except OSError as exc:
            error = exc.errno or errno.EIO
            # ENOENT: the kernel has no such thing. ENOTEMPTY: a directory in use; it is
            # looked up again nevertheless.
            if error not in _GONE and error not in (errno.ENOENT, errno.ENOTEMPTY):
                log.error("the kernel refused %s about %s: %s", code.name, about, exc.strerror)
            return error
        return 0
