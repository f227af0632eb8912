"""The threads that serve: which thread answers which request; interrupts; the end.

The thread that calls `serve` reads the device. While fs.quick, it answers requests that need no
waiting by itself: to hand a request to another thread costs 30-50 us more, about as much as the
request itself.

A READ of a small file that is on its way, and a FLUSH that waits for the local disk only, are
answered by the thread that ends that (awaited.py).

All other requests go to worker threads, in a pool for each kind (`operations.Lane`). So a hundred
reads that wait for S3 do not hold up an `ls`. And a hundred `touch .sync` wait until the kernel was
notified, and the kernel waits for the locks of directories and pages: they do not hold up the
creates and reads that hold such locks.

Lookup counts belong to the file system. An answer that could not be delivered is given back here
(`Operations.undo`); at unmount the kernel forgets everything without saying so.

Threading: `serve` is one thread; `stop` may be called by any, also from a signal handler.
The threads share `_waiting` and `_asked`, dicts of which each use is one atomic step.
"""

from __future__ import annotations

import errno
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

from mimicfs.errors import Interrupted, MountError, PosixError, Unlisted
from mimicfs.fuse.abi import IN_HEADER, INTERRUPT_IN, WRITE_OUT, Init, Opcode, title
from mimicfs.fuse.awaited import Awaited, Elsewhere
from mimicfs.fuse.counts import Counts
from mimicfs.fuse.killed import Killed, WaitingCall
from mimicfs.fuse.locking import gives_up
from mimicfs.fuse.observing import Recorder, observed
from mimicfs.fuse.operations import Data, Lane, Operation, Operations
from mimicfs.fuse.packing import YEAR_S, Packer
from mimicfs.fuse.pool import Pool
from mimicfs.fuse.session import Session
from mimicfs.posix import Caller, Cancellation, FileLocks, FileSystem

log = logging.getLogger(__name__)

# What each request needs; a name of this module is found faster than an attribute.
_header, _new, _QUICK = IN_HEADER.unpack_from, tuple.__new__, Lane.QUICK
_INO = struct.Struct("<Q")
_UNLEASED_S = 1.0  # how long the kernel keeps answers while nobody tells it of changes
# The pools for requests that may wait for long are that much larger: the max_background reads that
# the kernel makes of one file can all wait at once, and so can as many processes.
_DATA_WORKERS_FACTOR = 4
_WAITING_MAX = 1000  # threads that wait for locks; each costs some 30 KiB
_LEAVE_S = 0.5  # how long the kernel has to let go of a mount that nobody uses
_ANSWERS_S = 1.0  # how long interrupted requests have to say EINTR when the end comes
_POOLS_S = 5.0  # how long the last releases may take
_ERRNO_MAX = 511  # numbers beyond are the kernel's own
_LISTINGS = frozenset((Opcode.READDIR, Opcode.READDIRPLUS))
_CHANGES = frozenset(
    (
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.SYMLINK,
        Opcode.CREATE,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.SETATTR,
        Opcode.SETXATTR,
        Opcode.REMOVEXATTR,
        Opcode.WRITE,
        Opcode.FLUSH,
        Opcode.FSYNC,
        Opcode.RELEASE,
        Opcode.FALLOCATE,
        Opcode.COPY_FILE_RANGE,
        Opcode.COPY_FILE_RANGE_64,
    )
)
_OPENS = frozenset((Opcode.OPEN, Opcode.CREATE))
_LOCKS = frozenset((Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW))


class Server:
    """Answers the requests of *session* from *fs*, with *workers* threads for each kind of waiting
    (more for the kinds that wait for long).

    Times-to-live say how long the kernel may keep a name, attributes, and the absence of a name; a
    thread that changes *fs* from outside tells the kernel through `Notifier`. *opendir*: the kernel
    asks each time before it uses a listing that it has. *locks* keeps the locks of files, where the
    session has agreed on that with the kernel.
    """

    def __init__(
        self,
        fs: FileSystem,
        session: Session,
        workers: int = 16,
        *,
        entry_ttl_s: float = YEAR_S,
        attr_ttl_s: float = YEAR_S,
        negative_ttl_s: float = YEAR_S,
        opendir: bool = False,
        locks: FileLocks | None = None,
    ) -> None:
        self._fs = fs
        self._session = session
        self._locks = locks
        packer = self._packer = Packer(entry_ttl_s, attr_ttl_s, negative_ttl_s)
        self.counts = Counts()
        self._operations = Operations(
            fs,
            packer,
            session.listed,
            setxattr_ext=Init.SETXATTR_EXT in session.flags,
            opendir=opendir,
            counts=self.counts,
            locks=locks,
        )
        self._came = self.counts.came
        self._at_once = self._operations.at_once
        self._table = self._operations.table
        self._recorders: tuple[Recorder, ...] = ()
        self._pools = _pools(workers)
        self._learners = Pool("fuse-learn", workers)
        # Requests at workers, by their unique number.
        self._waiting: dict[int, Cancellation] = {}
        self._asked: dict[int, WaitingCall] = {}
        self._killed = Killed(lambda unique: self._session.fail(unique, errno.EINTR))
        others = (self._waiting, self._asked, self._failed, self._read_by_worker)
        self._awaited = Awaited(fs, session, self.counts, self._killed, *others)
        self._calm = Cancellation()  # of requests that are answered at once: never cancelled
        self._ending = False  # `receive` has no more requests, or must not be called again
        self._ended = threading.Event()
        self.when_ending: Callable[[], None] = lambda: None  # called once no more requests come
        self.unsaved: Callable[[], bool] = lambda: True  # whether some bytes may not be saved yet
        # Called before the end while something is in use: has the kernel write the bytes that
        # programs have stored through mappings. False: it may not have written all.
        self.save_mapped: Callable[[], bool] = lambda: True
        self._deadline = float("inf")  # of stop, in time.monotonic()
        self._stops: SimpleQueue[bool] = SimpleQueue()  # whether to unmount, before the end

    def limits(self) -> dict[str, int]:
        """Return the number of threads that each kind of waiting may have."""
        pools = {lane.name.lower(): pool for lane, pool in self._pools.items()}
        return {name: pool.size for name, pool in (pools | {"learn": self._learners}).items()}

    def serve(self) -> None:
        """Answer until the mount is unmounted or stopped. Returns when all workers are done, or
        given up."""
        receive, dispatch = self._session.receive, self._dispatch
        self._session.baton = self._fs.baton
        self._session.elsewhere = Elsewhere(self._fs, self._waiting)
        if self._fs.quick:
            self._session.idle = self._operations.idle
        # Before it is needed: when the end comes, no more threads may be able to start.
        threading.Thread(target=self._stop, name="fuse-stop", daemon=True).start()
        try:
            while not self._ending and (request := receive()) is not None:
                dispatch(request)
        finally:
            self._ending = True
            self._ended.set()
            self._stops.put(False)
            self._session.baton.sleeps()
            self.when_ending()
            self._end()

    def observe(self, recorders: Iterable[Recorder]) -> None:
        """Tell *recorders*, and no others, of each request that is answered from now on."""
        told = tuple(recorders)
        plain = self._operations.table
        self._recorders = told
        self._table = observed(plain, told, _errno) if told else plain

    def lease(self, held: bool) -> None:
        """Say whether the kernel is told of the changes of others (*held*). While it is not, its
        answers are short-lived."""
        self._packer.limit(YEAR_S if held else _UNLEASED_S)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Unmount, and end `serve`, which has begun or will. Returns at once.

        New paths lead nowhere from now on. While something is being changed, or written bytes may
        not be saved, open files go on, for up to *timeout_s*. Then requests that still wait are
        interrupted (EINTR); those that do not hear it are answered with ENOTCONN.

        If it is called again, the earlier end counts. A mount that somebody else made is not ours
        to unmount: it ends at once.
        """
        first = self._deadline == float("inf")
        self._deadline = min(self._deadline, time.monotonic() + timeout_s)
        if first:
            self._stops.put(True)

    # One request

    def _dispatch(self, request: bytes) -> None:
        try:
            _, opcode, unique, nodeid, uid, gid, pid, _, _ = _header(request)
        except struct.error:
            log.error("a request of %d bytes has no header", len(request))
            return
        operation = self._table.get(opcode)
        if operation is None:
            self._dispatch_other(opcode, unique, nodeid, request)
            return
        self._came[opcode] += 1
        caller = _new(Caller, (uid, gid, pid, self._calm))
        quick = self._fs.quick
        if quick and operation.lane is _QUICK:
            self._answer_at_once(operation, caller, opcode, unique, nodeid, request)
            return
        if opcode == Opcode.RELEASE:
            self._operations.release_comes(request)
        if quick:
            # Recorders want to know of each request: then workers answer all of these.
            handler = self._at_once.get(opcode) if not self._recorders else None
            if handler and self._is_answered(handler, caller, opcode, unique, nodeid, request):
                return
            if not self._recorders and self._is_awaited(opcode, caller, unique, nodeid, request):
                return
        lane = operation.lane
        if lane is Lane.WAIT and gives_up(request):
            lane = Lane.LOCK
        self._hand_over(self._pools[lane], operation, caller, unique, request)

    def _dispatch_other(self, opcode: int, unique: int, nodeid: int, request: bytes) -> None:
        """Deal with a request that is no operation of the file system."""
        try:
            if opcode == Opcode.FORGET:
                self._operations.forget(nodeid, request)
            elif opcode == Opcode.BATCH_FORGET:
                self._operations.batch_forget(request)
            elif opcode == Opcode.INTERRUPT:
                self._interrupt(unique, INTERRUPT_IN.unpack_from(request, IN_HEADER.size)[0])
            elif opcode == Opcode.DESTROY:
                self._session.reply(unique)
            else:
                self._session.fail(unique, errno.ENOSYS)
        except Exception:
            log.exception("request %d (%s) failed", opcode, title(opcode))
            if opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET):
                self._session.fail(unique, errno.EIO)

    def _answer_at_once(
        self,
        operation: Operation,
        caller: Caller,
        opcode: int,
        unique: int,
        nodeid: int,
        request: bytes,
    ) -> None:
        try:
            data = operation.handler(caller, nodeid, request)
        except Unlisted as exc:
            self._hand_over(self._learners, operation, caller, unique, request, exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is becomes an errno
            self._session.fail(unique, self._failed(exc, opcode))
        else:
            if not self._session.reply(unique, data):
                self._give_back(opcode, data)

    def _is_answered(
        self,
        handler: Callable[[Caller, int, bytes], Data | None],
        caller: Caller,
        opcode: int,
        unique: int,
        nodeid: int,
        request: bytes,
    ) -> bool:
        """Answer a request by *handler* if that needs no waiting; return whether it was
        answered."""
        try:
            data = handler(caller, nodeid, request)
        except Exception as exc:  # noqa: BLE001 - whatever it is becomes an errno
            self._session.fail(unique, self._failed(exc, opcode))
            return True
        if data is None:
            return False
        if opcode == Opcode.READ:
            self.counts.cached_bytes += len(data)
        elif opcode == Opcode.WRITE:
            self.counts.moved(0, WRITE_OUT.unpack(data)[0])
        if not self._session.reply(unique, data) and opcode in _OPENS:
            # To close the opened file may wait.
            try:
                self._pools[Lane.OPEN].submit(lambda: self._give_back(opcode, data))
            except RuntimeError:  # the pool has no thread, and no more can start
                self._give_back(opcode, data)
        return True

    def _is_awaited(
        self, opcode: int, caller: Caller, unique: int, nodeid: int, request: bytes
    ) -> bool:
        """Have the thread that ends what a request waits for answer it; return whether it will."""
        if opcode == Opcode.READ:
            return self._awaited.read(caller, unique, nodeid, request)
        return (
            opcode == Opcode.FLUSH
            and self._locks is None
            and self._awaited.flush(caller, unique, nodeid, request)
        )

    # Workers

    def _read_by_worker(
        self, caller: Caller, unique: int, request: bytes, cancellation: Cancellation
    ) -> None:
        operation = self._operations.table[Opcode.READ]
        pool = self._pools[operation.lane]
        self._hand_over(pool, operation, caller, unique, request, cancellation=cancellation)

    def _hand_over(
        self,
        pool: Pool,
        operation: Operation,
        caller: Caller,
        unique: int,
        request: bytes,
        missing: Unlisted | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        cancellation = cancellation or Cancellation()
        caller = caller._replace(cancellation=cancellation)
        _, opcode, *_ = IN_HEADER.unpack_from(request)
        unlocks = opcode in _LOCKS and gives_up(request)
        self._asked[unique] = WaitingCall(opcode, caller.pid, unlocks)
        self._waiting[unique] = cancellation
        self._session.busy.begin(_directories(request))
        work = self._close if opcode == Opcode.FLUSH else self._work
        try:
            pool.submit(lambda: work(operation, caller, unique, request, missing))
        except RuntimeError as exc:  # the pool has no thread, and no more can start
            self._session.fail(unique, self._failed(PosixError(errno.ENOMEM, str(exc)), opcode))
            del self._waiting[unique], self._asked[unique]
            self._session.busy.end(_directories(request))

    def _close(self, *flush: Any) -> None:
        """As `_work`, of a FLUSH: the workers that have one and the reading thread take turns."""
        self._fs.baton.joins()
        try:
            self._work(*flush)
        finally:
            self._fs.baton.leaves()

    def _work(
        self,
        operation: Operation,
        caller: Caller,
        unique: int,
        request: bytes,
        missing: Unlisted | None,
    ) -> None:
        _, opcode, _, nodeid, *_ = IN_HEADER.unpack_from(request)
        handler = operation.handler
        try:
            if opcode == Opcode.FLUSH:  # done even if the process has gone: its bytes must be kept
                self._killed.closes(unique, caller.pid)
            elif self._killed.has_gone(unique):
                raise Interrupted("killed before the work began")
            if operation.lane is Lane.QUICK:
                data = self._operations.sure(
                    caller, lambda: handler(caller, nodeid, request), missing, opcode
                )
            else:
                data = handler(caller, nodeid, request)
        except Exception as exc:  # noqa: BLE001 - whatever it is becomes an errno
            self._session.fail(unique, self._failed(exc, opcode))
        else:
            if opcode == Opcode.READ:
                self.counts.moved(len(data), 0)
            elif opcode == Opcode.WRITE:
                self.counts.moved(0, WRITE_OUT.unpack(data)[0])
            if not self._session.reply(unique, data):
                self._give_back(opcode, data)
        finally:
            # After the answer: an INTERRUPT that comes between still finds it, and needs no more.
            self._waiting.pop(unique, None)
            self._asked.pop(unique, None)
            if self._killed.answered(unique) and operation.lane is not Lane.QUICK:
                for ino in _directories(request):
                    self._fs.unheard(ino)
            self._session.busy.end(_directories(request))

    def _failed(self, exc: Exception, opcode: int) -> int:
        code = _errno(exc, opcode)
        self.counts.failed(opcode, code)
        return code

    def _give_back(self, opcode: int, data: Data) -> None:
        try:
            self._operations.undo(opcode, data)
        except Exception:
            log.exception("giving back an undelivered answer to %s failed", title(opcode))

    def _interrupt(self, unique: int, interrupted: int) -> None:
        """Note that the process that waits for the request *interrupted* has a signal. The
        INTERRUPT itself, *unique*, is answered only if the request is not known.

        Documentation/filesystems/fuse: an INTERRUPT that comes before its request is answered
        EAGAIN, and sent again. Here it can only come after its request was answered; then the
        kernel has forgotten both, and the EAGAIN goes nowhere.
        """
        cancellation, asked = self._waiting.get(interrupted), self._asked.get(interrupted)
        if cancellation is None or asked is None:
            self._session.fail(unique, errno.EAGAIN)
            return
        self._killed.watch(interrupted, asked, cancellation)
        if interrupted not in self._waiting:
            self._killed.answered(interrupted)

    # The end

    def _stop(self) -> None:
        if not self._stops.get():
            return
        try:
            self._session.unmount(lazy=True)
        except MountError as exc:
            log.debug("not unmounted: %s", exc)  # somebody else did
        if not self._session.handed:
            begun = time.monotonic()
            while not self._ended.wait(0.05) and time.monotonic() < self._deadline:
                if time.monotonic() - begun > _LEAVE_S and not self._is_changing():
                    break
            if self._ended.is_set():
                return
            log.warning("%s: ended although it is still in use", self._session.mountpoint)
        if not self.save_mapped():
            about = "what was stored through mappings of files may be lost in part"
            log.error("%s: %s", self._session.mountpoint, about)
        self._cancel_all()
        self._ending = True
        self._session.wake()

    def _is_changing(self) -> bool:
        """Whether a call that changes something waits, or some bytes may not be saved."""
        asked = list(self._asked.values())
        return any(each.opcode in _CHANGES for each in asked) or self.unsaved()

    def _end(self) -> None:
        """Interrupt, then answer, all requests that still wait; let go of the device."""
        self._cancel_all()
        deadline = time.monotonic() + _ANSWERS_S
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        for unique in list(self._waiting):
            self._session.fail(unique, errno.ENOTCONN)
        self._session.close()
        deadline = time.monotonic() + _POOLS_S
        for pool in (*self._pools.values(), self._learners):
            if not pool.close(max(0.0, deadline - time.monotonic())):
                log.warning("%s: a request did not end", self._session.mountpoint)

    def _cancel_all(self) -> None:
        for cancellation in list(self._waiting.values()):
            cancellation.cancel()


def _directories(request: bytes) -> tuple[int, ...]:
    """Return the inodes that the kernel may keep locked until *request* is answered."""
    _, opcode, _, nodeid, *_ = IN_HEADER.unpack_from(request)
    whole = len(request) >= IN_HEADER.size + _INO.size
    if opcode in (Opcode.RENAME, Opcode.RENAME2) and whole:
        return nodeid, _INO.unpack_from(request, IN_HEADER.size)[0]  # the new parent comes first
    return () if opcode in _LOCKS else (nodeid,)


def _errno(exc: Exception, opcode: int) -> int:
    """Return the errno for *exc*; EIO, with a traceback in the log, if it is unforeseen."""
    code = getattr(exc, "errno", None)
    if isinstance(code, int) and 0 < code <= _ERRNO_MAX:
        if code == errno.ENOENT and opcode in _LISTINGS:  # readdir(3) would take it for the end
            log.error("%s: %s", title(opcode), exc)
            return errno.EIO
        log.debug("%s: %s", title(opcode), exc)
        return code
    log.error("%s failed", title(opcode), exc_info=exc)
    return errno.EIO


def _pools(workers: int) -> dict[Lane, Pool]:
    return {
        Lane.QUICK: Pool("fuse-lookup", workers),
        Lane.OPEN: Pool("fuse-open", workers),
        Lane.NAMES: Pool("fuse-names", workers),
        Lane.DATA: Pool("fuse-data", workers * _DATA_WORKERS_FACTOR),
        Lane.SYNC: Pool("fuse-sync", workers * _DATA_WORKERS_FACTOR),
        Lane.LOCK: Pool("fuse-lock", workers * _DATA_WORKERS_FACTOR),
        Lane.WAIT: Pool("fuse-wait", _WAITING_MAX),
    }
