"""One open file: what all of its handles share.

A file is *clean*: it stands for a version in S3 (origin.py) and is read from there, or from its
staging file if it has one. Or it is *dirty*: its bytes are in a staging file, and S3 does not have
them yet. `flush` makes it clean (upload.py). The table in states.py has the other states.

Where mounts share their locks, what is open for writing or was locked `follows`: it shows what
others have put there, as a file of NFS does.

Where all changes are appends (O_APPEND), another version that somebody puts there is no conflict:
they go behind it (appending.py). Where nobody has got a byte of its version and none was written,
a file follows what others put there.

A File has four layers, each a class that knows nothing of the next: what it stands on and how it
is read (standing.py), what is stored with it (content.py), how it is changed (changing.py), and
here how the bytes go to S3 and what happens to the object meanwhile.

An upload of bytes that are partly those of a version in S3 replaces only that version. An upload of
a new file replaces nothing. An upload of a file that was cut to nothing before replaces what is
there.

A large object is not fetched for a byte that is written: its file is *partial*, the staging file
has only what was written, and the rest is read from the version in S3 (layout.py).

INVARIANT: a dirty file has a staging file with a record (journal.py).

Locks: a thread that changes the file or uploads it has its turn, `_change`, also while that
waits for S3: a writer waits for an upload to end, so that no upload is torn. `_lock` protects the
fields and is held for a few instructions; it is taken after `_change`. Readers take only
`_lock`, so reading goes on during an upload.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mimicfs import metadata
from mimicfs.entry import Entry
from mimicfs.errors import (
    Interrupted,
    KeyNotFound,
    MimicError,
    ObjectChanged,
    PosixError,
    UploadFailed,
)
from mimicfs.files.appending import moved_behind
from mimicfs.files.behind import Behind
from mimicfs.files.changing import ChangingFile
from mimicfs.files.journal import Orphan
from mimicfs.files.layout import Layout
from mimicfs.files.record import Record
from mimicfs.files.staging import Staging
from mimicfs.files.states import Event, State
from mimicfs.files.upload import BegunPut
from mimicfs.files.view import HandleView
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import Content
from mimicfs.s3.transport.backoff import backoff_s

log = logging.getLogger(__name__)

_REBASES_MAX = 100  # appends by so many others may come between, one after the other


class File(ChangingFile):
    """A file that handles share: read (standing.py), changed (changing.py), uploaded, and told
    what happens to its object."""

    # To S3

    def flush(
        self, cancellation: Cancellation, *, guard: Callable[[File], None] | None = None
    ) -> Entry | None:
        """Upload the file if it is dirty; return the new version then. S3 has it and the
        mirror knows. Where *cancellation* is a Behind, whoever changes the file meanwhile
        interrupts this. *guard*: called before; what it raises is why the file is not uploaded.

        Raises UploadFailed, which says where the bytes are kept; the file stays dirty, and
        the next flush tries again, unless the file is lost. Raises Interrupted; the file stays
        dirty.
        """
        with self._change.taken_between(cancellation):
            if self.lost is not None:
                raise UploadFailed(str(self.lost), errno=self.lost.errno, kept_at=self.lost.kept_at)
            staging = self._staging
            if not self.dirty or staging is None:
                return None
            self._behind = cancellation if isinstance(cancellation, Behind) else None
            self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
            return self._flushed(staging, cancellation, guard)

    def flush_begun(self, behind: Behind) -> BegunPut | None:
        """Begin to `flush` a small file behind its writer, if that waits for nobody. None: nothing
        has happened. Otherwise the caller calls `end_flush` when its future is done, or
        `abandon_flush` where somebody cancels: until then the upload has the file's turn."""
        if not self._change.take_alone():
            return None
        begun = None
        try:
            staging = self._staging
            if self.lost is None and self.dirty and staging is not None and not self._may_differ:
                self._behind = behind
                begun = self._upload.begin_small(self._job(staging, behind), behind)
            return begun
        finally:
            if begun is None:
                self._behind = None
                self._change.give()

    def is_plain(self, begun: BegunPut) -> bool:
        """Whether `end_flush` of *begun*, whose future is done, waits for nobody."""
        future = begun.future
        done = future.done() and not future.cancelled() and future.exception() is None
        return done and self.content == begun.job.content

    def end_flush(self, begun: BegunPut, cancellation: Cancellation) -> Entry | None:
        """End what `flush_begun` began, as `flush` does."""
        with self._change.adopted():
            return self._flushed(begun.job.staging, cancellation, begun=begun)

    def abandon_flush(self, begun: BegunPut) -> None:
        """Stop what `flush_begun` began to send: the file is about to be changed."""
        try:
            self._upload.give_up_small(begun)
        finally:
            self._behind_ends()
            self._change.give()

    def _flushed(
        self,
        staging: Staging,
        cancellation: Cancellation,
        guard: Callable[[File], None] | None = None,
        begun: BegunPut | None = None,
    ) -> Entry | None:
        try:
            if guard is not None:
                guard(self)
            self._upload.settle(cancellation)
            staging, entry, told = self._uploaded_behind(staging, cancellation, begun)
            self._uploaded(staging, entry, told)
        except Interrupted:
            raise
        except MimicError as exc:
            self.refused = True
            raise self._failed(self._staging or staging, exc) from exc
        finally:
            self._behind_ends()
        return self.entry

    def _uploaded_behind(
        self, staging: Staging, cancellation: Cancellation, begun: BegunPut | None
    ) -> tuple[Staging, Entry, Content]:
        """Upload the file; appends go behind whatever others put there meanwhile. Return what was
        uploaded, the new version, and what was said of it."""
        conflict: MimicError | None = None
        for attempt in range(_REBASES_MAX):
            try:
                if conflict is not None:
                    begun = None
                    self._upload.settle(cancellation)
                    staging = self._rebased(staging, cancellation)
                if begun is None:
                    self._learn_again(cancellation, cut=not self._based)
                job = begun.job if begun is not None else self._job(staging, cancellation)
                return staging, *self._upload.upload(job, cancellation, begun)
            except MimicError as exc:
                lost = isinstance(exc, ObjectChanged) or exc.errno == errno.EEXIST
                if not (lost and self._only_appended):
                    raise
                conflict = exc
            cancellation.check()
            if attempt:
                time.sleep(backoff_s(attempt) / 4)
        raise ObjectChanged(
            f"{self._about}: others change it in S3 faster than mimicfs can append to it"
        )

    def _rebased(self, staging: Staging, cancellation: Cancellation) -> Staging:
        """Return a staging file with what was appended behind the version that S3 has now. Raises
        ObjectChanged if another one came meanwhile, PosixError ESTALE if there is none."""
        about = (self.bucket, self.key)
        try:
            entry, content = cancellation.wait(self._s3.pool.submit(self._s3.kept.of, *about))
        except KeyNotFound as exc:
            raise PosixError(errno.ESTALE, f"{self._about}: deleted in S3") from exc
        self._check_regular(content)
        self._upload.give_up()
        start, end = self._layout.base, self.size
        self._check_size(entry.size + end - start)
        origin = self._origin_of(entry)
        new, layout = moved_behind(
            entry,
            staging,
            (start, end),
            self._tools.journal,
            lambda spans, to: origin.fetch(spans, to, cancellation),
            partial=entry.size > 2 * self._tools.options.part_size,
        )
        if self.entry is not None:
            content = self._with_said(content)
        seen = self.is_seen()
        with self._lock:  # at once: a reader must not find the new version under the old bytes
            old = self._put_on(origin)
            self.content, self._based = content, True
            self._heard()
            self._grows()
            self._staging, self._layout = new, layout
            self._moved(start, entry.size, seen=seen)
        self._tools.moved(self)
        if old is not None:
            old.close()
        self.set_meta(metadata.of_new_bytes(content.meta, self.mtime_ns))
        self._put_in_place_of(staging, new)
        return new

    def _uploaded(self, staging: Staging, entry: Entry, told: Content) -> None:
        """Note that S3 has the bytes as *entry*, stored with what *told* says."""
        self._stand_on(entry)
        with self._lock:
            self._based = self._only_appended = True
            self._layout.uploaded()
            if not self._mtime_said and metadata.same_but_times(told.meta, self.content.meta):
                # S3 has the time of the first part, which is good enough: it saves a copy.
                self.content = self.content._replace(meta=told.meta)
        while not self._is_settled(told):
            # The owner, say, was changed after the upload had begun and its metadata was sent.
            told = self.content
            content = self._s3.kept.completed(self.bucket, self.key, told)  # as it was uploaded
            entry = self._s3.copy((self.bucket, entry), self.bucket, self.key, content)
            self._stand_on(entry)
        staging.settle()

    def _is_settled(self, told: Content) -> bool:
        """Make the file clean if S3 has all that is said of it; return whether it has."""
        with self._lock:
            if self.content != told:
                return False
            self._happens(Event.STORED)
            self.promised, self._said = False, {}
            self._heard()
            return True

    def _failed(self, staging: Staging, exc: MimicError) -> UploadFailed:
        """Return what is to be said of an upload that S3 refused."""
        lost = isinstance(exc, ObjectChanged) or exc.errno in (errno.EEXIST, errno.ESTALE)
        try:
            kept_at = self._recovered(staging) if lost else staging.as_file()
        except PosixError as full:
            log.warning("%s", full)
            kept_at = staging.kept_at
        part = " (only the bytes that were written; the .json beside it has their offsets)"
        said = f"{kept_at}{part if lost and self._layout.partial else ''}"
        about = f"{self._about} was not uploaded; its bytes are in {said}: {exc}"
        failed = UploadFailed(about, errno=exc.errno, kept_at=str(kept_at))
        if lost:
            with self._lock:
                self.lost, self._staging = failed, None
                self._happens(Event.REFUSED)
        return failed

    def _recovered(self, staging: Staging) -> Path:
        """Move the bytes to where their owner will look for them; return where that is."""
        record = Record(self.bucket, self.key, partial=self._layout.partial)
        orphan = Orphan(staging.as_file().stem, self.size, record)
        return self._tools.journal.recover(orphan)

    def forsake(self) -> None:
        """Give the file up: others may have locked it by now, and rely on it. What S3 does not have
        is kept for its owner, and nobody reads or writes on (ESTALE)."""
        with self._change:
            if self.dirty and self._staging is not None:
                why = PosixError(errno.ESTALE, "its lock was lost")
                log.error("%s", self._failed(self._staging, why))
            else:
                self.expire()

    # What happens to the object

    def detach(self, cancellation: Cancellation) -> None:
        """Fetch the bytes of the object, which is about to be unlinked or replaced, and live on. If
        S3 then refuses that, call `attach`; otherwise `gone`. Until then the record stays, for the
        mount that comes after a kill -9. If the bytes are gone already, the file expires: that is
        no reason for the name to stay."""
        self.interrupt()
        with self._change.taken(cancellation):
            if self.state not in (State.CLEAN, State.DIRTY):
                return
            self._upload.give_up()
            self._upload.settle(cancellation)
            whole = True
            try:
                staging = self._staged(cancellation, to_upload=False)
                self._fill(staging, [(0, self.size)], cancellation)
            except ObjectChanged:
                if self.expire():
                    return
                whole = False  # what was written is there; who reads the rest gets ESTALE
            with self._lock:
                if self.state.expired:
                    return
                if whole:
                    self._layout.fetched_all()
                self._happens(Event.LEAVES)
            if self._staging is not None:  # the bytes are of no object that gets this name
                self._staging.stay_apart()

    def gone(self) -> None:
        """Note that the object was unlinked or replaced: the bytes are of no use to the next
        mount."""
        with self._change:
            if self._staging is None or self.state not in (State.DETACHED, State.UNSAVED):
                return
            try:
                self._staging.settle()
            except OSError as exc:
                log.error("%s: %s; the next mount may upload it", self._about, exc.strerror)

    def attach(self) -> None:
        """Note that the object is still there after all: what S3 does not have is to be
        uploaded."""
        with self._change:
            if self.state is State.UNSAVED:
                self._redescribe()
            with self._lock:
                self._happens(Event.STAYS)

    def follow(self, entry: Entry) -> bool:
        """Stand on *entry*, which somebody else has written, if the file is clean. Unless it
        `follows`, nobody may have got bytes of the old version, or have staged some. Return whether
        it stands on *entry*."""
        with self._change.at_once() as still, self._lock:
            if self.state is not State.CLEAN or self._origin is None:
                return False
            if self.follows and still:
                staging, self._staging = self._staging, None
            elif self._staging is not None or self._origin.handed:
                return False
            else:
                staging = None
                self.shrunk = self.shrunk or entry.size < self.size
            self._moved(self.size, entry.size)
            old, self._origin = self._origin, self._origin_of(entry)
            self._layout = Layout(entry.size)
            self.content = self.content._replace(meta=entry.meta or {})
            self.mtime_ns = entry.mtime_ns
        old.close()
        if staging is not None:
            staging.remove()
        return True

    def taken_over(self, view: HandleView, other: File) -> None:
        """Take over the handle that has *view* from *other*, which others have replaced."""
        seen = other.is_seen() and not other.follows
        with self._lock:
            self._grows()
            self._views.add(view)
            view.base_moved(other.size, self.size)
            if seen:
                view.went_behind()

    def is_seen(self) -> bool:
        """Whether somebody has got bytes of what the file stands on."""
        with self._lock:
            handed = self._origin is not None and self._origin.handed
            return handed or any(view.got for view in self._views)

    def _moved(self, old: int, new: int, *, seen: bool = False) -> None:
        """Note that the file stands on *new* bytes of others, where it had *old* ones; *seen*:
        somebody had got some of those."""
        self.moves += 1
        for view in self._views:
            view.base_moved(old, new)
            if seen and not self.follows:
                view.went_behind()

    def expire(self, *, deleted: bool = False) -> bool:
        """Note that the object was replaced in S3, or *deleted*. A clean file gives ESTALE from now
        on, or ENOENT where it was deleted before anybody got bytes of it. Return whether it does
        so: a file that was written to a moment ago goes on."""
        with self._lock:
            origin = self._origin
            unseen = origin is not None and not origin.handed
            self._happens(Event.DELETED if deleted and unseen else Event.REPLACED)
            if not self.state.expired:
                return False
        if origin is not None:
            origin.close()
        return True

    @contextmanager
    def still(self, cancellation: Cancellation) -> Iterator[None]:
        """Within, nobody else changes or uploads the file, and no request of an interrupted upload
        is on its way to S3. Raises Interrupted."""
        with self._change.taken(cancellation):
            if self._uploads:
                self._upload.settle(cancellation)
            yield

    def settle(self, cancellation: Cancellation) -> None:
        """Wait until no request of an upload that was given up is under way. Raises Interrupted."""
        with self._change.taken(cancellation):
            self._upload.give_up()
            self._upload.settle(cancellation)

    def adopt(
        self, entry: Entry, content: Content, *, put: bool = False, source: str | None = None
    ) -> None:
        """Note that the object is *entry* now, by a copy within S3 that we asked for; *put*: a
        program has put the bytes there. Bytes that were written meanwhile stay, and are uploaded,
        but not over a version, with the ETag *source*, that others had put there."""
        with self._change:
            if self.state not in (State.CLEAN, State.DIRTY) or self._is_of_another(source):
                return
            self._stand_on(entry)
            with self._lock:
                self.content = self._with_said(content)
                self._heard()
                if (put or self._staging is not None) and self._origin is not None:
                    self._origin.handed = True  # a program knows them, as if it had read them
            if self.dirty and (self.size or not put):  # it may have been cut to nothing
                self._redescribe()
                return
            with self._lock:
                self._happens(Event.STORED)
                self._said, self._sight = {}, None
                self._layout, self.mtime_ns = Layout(entry.size), entry.mtime_ns
                staging, self._staging = self._staging, None
            if staging is not None:
                staging.remove()

    def _is_of_another(self, source: str | None) -> bool:
        """Whether what was written is partly of another version than *source*, an ETag."""
        return source is not None and self.dirty and self._based and self.etag != source

    def move(
        self,
        bucket: str,
        key: str,
        entry: Entry | None,
        content: Content | None = None,
        source: str | None = None,
    ) -> None:
        """Note that the file was renamed. *entry* is the copy of the version *source* at its new
        place, if S3 has one, stored with *content* (None: as before). Bytes that S3 does not have
        go to the new place with the next flush."""
        with self._change:
            if self.state is State.CLOSED:
                return
            self._upload.give_up()
            with self._lock:
                self.bucket, self.key = bucket, key
                self.content = content or self.content
            if self.entry is not None and (entry is None or self._is_of_another(source)):
                entry = self.entry._replace(key=key)
            if entry is not None:
                self._stand_on(entry, copied=True)
            if self.dirty:
                self._redescribe()

    def close_at_once(self) -> bool:
        """Close a file that has no staged bytes, or only some in a segment, if nobody has its turn;
        return whether it is closed. Never waits."""
        if not self._change.take_at_once():
            return False
        try:
            staged = self._staging is not None and not self._staging.goes_at_once
            begun = self._uploads and self._upload.begun
            plain = self.state is State.CLEAN and not staged and not begun
            if plain:
                self.close()
            return plain
        finally:
            self._change.give()

    def close(self) -> None:
        """Close the file after its last handle. Bytes that S3 refused stay in the staging
        directory."""
        with self._change:
            if self._uploads:
                self._upload.give_up()
            with self._lock:
                unsaved = self.dirty
                self._happens(Event.CLOSED)
                staging, self._staging = self._staging, None
                origin = self._origin
            if origin is not None:
                origin.close()
            if staging is not None and unsaved:
                if not self.promised:  # who was told of a refusal may have written others since
                    staging.stay_apart()
                staging.keep()
            elif staging is not None:
                staging.remove()
