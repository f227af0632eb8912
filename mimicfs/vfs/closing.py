"""When the bytes of open files go to S3: at fsync and close, or behind the close (--write-back).

Threading: as said in handles.py, which is the layer above.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from mimicfs.entry import Difference
from mimicfs.errors import MimicError, PosixError, UploadFailed
from mimicfs.files.behind import Behind
from mimicfs.files.file import File
from mimicfs.files.turn import Turn
from mimicfs.files.upload import BegunPut
from mimicfs.posix import NEVER, Cancellation
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.renewing import RenewedFiles
from mimicfs.vfs.securing import Securer
from mimicfs.vfs.table import Below, Handle
from mimicfs.vfs.writeback import Flight, Pending, WriteBack

log = logging.getLogger(__name__)


class ClosingFiles(RenewedFiles):
    """The open files, and what becomes of their bytes."""

    def __init__(self, below: Below) -> None:
        super().__init__(below)
        # This is called before S3 gets the bytes of a file; an error that it raises prevents the
        # upload.
        self.guard: Callable[[File], None] = lambda _: None
        self._securer = Securer()
        self._behind: WriteBack | None = None
        if below.options.write_back:
            self._behind = WriteBack(self, below.options.requests_per_file)

    def flush(self, handle: int, cancellation: Cancellation) -> None:
        """Upload what was written. Returns when S3 has it and the mirror knows."""
        node, file, *_ = self._handle(handle)
        if file is not None:
            file.write_ended(handle)
            self._upload(node, file, cancellation)

    def closed_by(self, handle: int, pid: int) -> None:
        """Process *pid* closed a descriptor: upload what was written, or see to it that it is
        uploaded.

        A shell opens `> file`, makes that its standard output, and closes the first descriptor:
        nothing is written yet, and the other one is open. An empty object that is replaced a moment
        later is not worth a PUT.
        """
        node, file, *_ = self._handle(handle)
        ino = self._asked(handle).ino
        if file is None or (file.size == 0 and file.dirty and _has_open(pid, ino)):
            return
        file.write_ended(handle)
        self._finish(node, file)

    def closed_later(self, handle: int, done: Callable[[Exception | None], None]) -> bool:
        """Do what `closed_by` does, where that waits for the local disk only: another thread waits,
        and calls *done* with the result. False: nothing has happened, and the caller calls
        `closed_by`."""
        node, file, *_ = self._handle(handle)
        behind = self._behind
        if behind is None or file is None or node.is_nameless:
            return False
        if not (file.dirty and file.size) or file.lost is not None:
            return False
        file.write_ended(handle)
        sync = file.secure_later()
        return sync is not None and self._securer.add(lambda: self._secured(node, file, sync, done))

    def _secured(
        self,
        node: Node,
        file: File,
        sync: Callable[[], None],
        done: Callable[[Exception | None], None],
    ) -> None:
        try:
            sync()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller is to be told
            # Another place on the disk may take the bytes; if not, this waits for S3.
            log.debug("s3://%s/%s: %r", file.bucket, file.key, exc)
            end = (lambda: self._finish(node, file), done)
            try:
                threading.Thread(target=_told, args=end, name="closing", daemon=True).start()
            except RuntimeError:  # no more threads can start: later callers wait, too
                _told(*end)
        else:
            _told(lambda: self._upload_soon(node, file), done)

    def _finish(self, node: Node, file: File) -> None:
        # This cannot be interrupted: the files of a killed process are closed as on any disk.
        # A caller that closes a file without a name is told what S3 says of it.
        behind = None if file.lost is not None or node.is_nameless else self._behind
        if behind is None or not self._is_secured(file):
            self._upload(node, file, NEVER)
        else:
            self._upload_soon(node, file)

    def _upload_soon(self, node: Node, file: File) -> None:
        if self._behind is not None and file.dirty:
            self._behind.add(file, lambda: self.hold(node, file))

    def _is_secured(self, file: File) -> bool:
        """Make *file* safe on the disk; return whether it is. If not, S3 must have it before close
        returns."""
        try:
            file.secure()
        except PosixError as exc:
            log.warning("s3://%s/%s is not safe on the disk: %s", file.bucket, file.key, exc)
            return False
        return True

    # The methods of writeback.UploadsBehind

    def hold(self, node: Node, file: File) -> int:
        """Hold *file* open; return the handle that does."""
        with self._lock:
            return self._add(node, file)

    def let_go(self, handle: int) -> None:
        if handle in self._open:
            self.release(handle)

    def let_go_at_once(self, handle: int) -> bool:
        return handle not in self._open or self.release_at_once(handle)

    def upload(self, file: File, handle: int, cancellation: Behind, flight: Flight | None) -> None:
        node = self._handle(handle).node
        self._upload(node, file, cancellation, behind=True, flight=flight)

    def begin(self, file: File, handle: int, cancellation: Behind) -> Flight | None:
        if self.shares_locks:  # the store is asked first whether the locks still hold
            return None
        node = self._handle(handle).node
        with self._lock:
            turn = node.turn = node.turn or Turn()
        if _is_ahead(node, file) or not self.departures.begin(node):
            return None
        begun = None
        try:
            begun = self._begun(file, turn, cancellation)
        finally:
            if begun is None:
                self.departures.end(node)
        return None if begun is None else Flight(begun, turn, lambda: self.departures.end(node))

    @staticmethod
    def _begun(file: File, turn: Turn, cancellation: Behind) -> BegunPut | None:
        if not turn.take_alone():
            return None
        begun = None
        try:
            begun = file.flush_begun(cancellation)
        finally:
            if begun is None:
                turn.give()
        return begun

    def abandon(self, file: File, flight: Flight) -> None:
        try:
            file.abandon_flush(flight.put)
        finally:
            flight.turn.give()
            flight.ended()

    def queued(self) -> list[Pending]:
        """Return the closed files that S3 does not have yet (--write-back)."""
        return self._behind.pending() if self._behind is not None else []

    def flush_node(self, node: Node, cancellation: Cancellation) -> None:
        """Upload the same way whatever is open of *node*."""
        file = node.file
        if file is not None:
            self._upload(node, file, cancellation)

    def _upload(
        self,
        node: Node,
        file: File,
        cancellation: Cancellation,
        *,
        behind: bool = False,
        flight: Flight | None = None,
    ) -> None:
        if flight is None and file.lost is not None:
            file.flush(cancellation)  # raises why
        if flight is None and not file.dirty:
            return
        moves = file.moves
        try:
            if flight is not None:
                try:
                    with flight.turn.adopted():
                        file.end_flush(flight.put, cancellation)
                finally:
                    flight.ended()
            else:
                # A file that stands at its new place already goes there.
                turn = self._turn if _is_ahead(node, file) else self.turn
                with turn(node, cancellation):
                    file.flush(cancellation, guard=self.guard)
            if not file.dirty:
                self._wrote(node, file)
        except UploadFailed as exc:  # the caller gets only an errno: the log says where and why
            if not behind or file.lost is not None:
                log.error("%s", exc)
            if file.lost is not None:
                self._kernel.replaced(node)
            raise
        finally:
            if file.moves != moves:  # the appended bytes are not where the kernel has put them
                self._kernel.drops(self._opened_as(file), writing=False)

    def _moved(self, file: File) -> None:
        # A WRITE that has locked a page may wait for the turn of this upload; and the longer that
        # takes, the likelier others are quicker again.
        self._kernel.drops(self._opened_as(file), writing=True, waits=False)

    def _wrote(self, node: Node, file: File) -> None:
        self._kernel.wrote(node, file.etag)
        if node.parent is None and not file.apart:
            # The name stands for another node by now, about which the kernel knows more.
            self._kernel.changed(file.bucket, Difference([], [file.key], [], 0))

    # Handles that are closed

    def release(self, handle: int) -> None:
        """Close one handle; with the last one of a File, the File."""
        closed, last = self._taken_out(handle)
        node, file, reader = closed.node, closed.file, closed.reader
        if file is not None and last:
            self._close(node, file)
        if file is not None and file.shrunk:
            self._kernel.attributes_changed(node)
        if reader is not None:
            reader.close()
        self._inodes.closed(node)

    def release_at_once(self, handle: int) -> bool:
        """Close *handle*, of a file that was only read, if that waits for nobody; return whether it
        is closed. If not, nothing has happened."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            opened = self._handle(handle)
            node, file = opened.node, opened.file
            if file is None or opened.reader is not None or opened.asked is not None:
                return False
            last = self._users[file] == 1
            if last and not file.close_at_once():
                return False
            del self._open[handle]
            self._leave(file, opened.view)
            if last and node.file is file:
                node.file = None
        finally:
            self._lock.release()
        if file.shrunk:
            self._kernel.attributes_changed(node)
        self._inodes.closed(node)
        return True

    def _taken_out(self, handle: int) -> tuple[Handle, bool]:
        """Take *handle* out of the table; return it, and whether it was the last of its File. That
        is uploaded first, if it was changed since the last descriptor was closed: through a
        mapping, which outlives it. Only the log is there to be told of a failure."""
        tried: File | None = None
        while True:
            with self._lock:
                closed = self._handle(handle)
                node, file = closed.node, closed.file
                last = file is not None and self._users[file] == 1
                if file is None or file is tried or not (last and _is_left(file)):
                    del self._open[handle]
                    self._no_longer_asked(closed)
                    if file is not None:
                        self._leave(file, closed.view)
                    if last and node.file is file:
                        node.file = None
                    return closed, last
            tried = file
            try:
                self._finish(node, file)
            except MimicError as exc:
                log.debug("%s", exc)  # the log has it already

    def _close(self, node: Node, file: File) -> None:
        refused = file.dirty
        file.close()
        if refused:
            self._kernel.refused(node)  # the bytes are kept as a recovery file


def _is_ahead(node: Node, file: File) -> bool:
    """Whether *file* stands at the place that *node* gets in a moment (moves.py)."""
    return not file.apart and not node.is_nameless and file.key != node.key


def _is_left(file: File) -> bool:
    """Whether *file* has bytes that S3 does not have, and has not refused."""
    return file.dirty and not (file.refused and not file.promised)


def _told(work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
    """Do *work*, and call *done* with what it raises."""
    try:
        work()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the caller is told
        done(exc)
    else:
        done(None)


def _has_open(pid: int, ino: int) -> bool:
    """Whether process *pid* has a descriptor of inode *ino*; False where nobody can see that.

    This asks only /proc: a stat of the file itself would come back to us.
    """
    line = f"ino:\t{ino}\n".encode()
    try:
        return any(line in path.read_bytes() for path in Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:
        return False
