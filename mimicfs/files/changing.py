"""Changing an open file: bytes go to its staging file, and S3 is told later.

The third layer of a File (file.py, which has the theory and the locks). A thread that changes the
file has its turn.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property

from mimicfs import metadata
from mimicfs.entry import Entry
from mimicfs.errors import Interrupted, ObjectChanged, PosixError, UploadFailed
from mimicfs.files.behind import Behind
from mimicfs.files.content import ContentFile
from mimicfs.files.halves import UNSENT, FileTurn, KernelWrite
from mimicfs.files.layout import Layout
from mimicfs.files.origin import Origin
from mimicfs.files.reader import Reader
from mimicfs.files.record import Record
from mimicfs.files.staging import Staging
from mimicfs.files.states import Event, State
from mimicfs.files.tools import Tools
from mimicfs.files.upload import Job, Uploader
from mimicfs.files.view import ChosenPlace, HandleView
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import Condition, Content


class ChangingFile(ContentFile):
    """The same, which may be changed. Where *entry* is None, it is dirty from the start. *absent*:
    S3 must still have no such object when the file is uploaded. *exclusive*: not even appends may
    go behind what is there. *staging* is what a mount that died has left of it (recovery.py)."""

    def __init__(
        self,
        tools: Tools,
        bucket: str,
        key: str,
        entry: Entry | None,
        content: Content,
        reader: Reader | None = None,
        *,
        absent: bool = False,
        exclusive: bool = False,
        staging: Staging | None = None,
    ) -> None:
        super().__init__(tools, bucket, key, entry, content, reader)
        self._change = FileTurn()
        self.refused = False  # S3 did not take the bytes, and they were not changed since
        self.lost: UploadFailed | None = None  # what flush raises of a file that is lost
        self._based = False  # some of the staged bytes are those of the version `entry`
        # Only appends since S3 had all bytes. Never true of what must be the first of its name.
        self._only_appended = entry is None and not exclusive
        self._absent = absent
        self._behind: Behind | None = None  # of an upload that gives way to changes
        self.promised = False  # its writer was told that the bytes are safe
        if staging is not None:
            self._resume(staging)
        elif entry is None:
            self._staging = tools.journal.stage(small=True)
            try:
                self._note_change(self._staging)
            except BaseException:
                self._staging.remove()
                raise

    @cached_property
    def _upload(self) -> Uploader:
        """Made by the first who asks for it, and has the turn: most files are only read."""
        return Uploader(self._s3, self._tools.options, self._taken_all_the_same)

    @property
    def _uploads(self) -> bool:
        """Whether somebody has asked for it: otherwise nothing was sent."""
        return "_upload" in self.__dict__

    def _resume(self, staging: Staging) -> None:
        """Go on where a mount that died has left *staging*."""
        record, found = staging.record, staging.stat()
        self._staging = staging
        self._happens(Event.CHANGED)
        said = metadata.read(record.meta).mtime_ns if record.closed else None
        self.mtime_ns = found.st_mtime_ns if said is None else said
        self._layout = Layout.resumed(
            found.st_size, record.base, staging.ranges(), partial=record.partial
        )
        self._based = self.entry is not None
        self._only_appended = record.appended
        self._said = {**self.content.meta}  # what of it S3 had, nobody knows

    def write(
        self,
        offset: int,
        data: memoryview,
        cancellation: Cancellation,
        view: HandleView | None = None,
    ) -> int:
        """Write *data* at *offset*; return its length. Nothing is sent to S3 yet. Raises
        ObjectChanged where *view*, of the handle, is of an older version that ended before."""
        self._check_size(offset + len(data))
        with self._lock:
            self._check()
        if not data:
            return 0  # write(2): no bytes change nothing, not even behind the end
        place = ChosenPlace(view or HandleView(), offset, offset + len(data))
        self.interrupt(cancellation)
        with self._change.taken(cancellation):
            staging = self._staged_anew(cancellation, place)
            self._not_only_appended()
            self._write(staging, offset, data, cancellation)
        return len(data)

    def write_at_once(self, offset: int, data: memoryview, view: HandleView) -> bool:
        """Write *data* at *offset* if that waits for nobody and no disk; return whether it is
        written. If not, nothing has happened."""
        if not self._change.take_at_once():
            return False
        try:
            staging = self._staging
            if self.state is not State.DIRTY or staging is None or not data:
                return False
            behind = self._only_appended and self.entry is not None
            if behind or view.outdated or not staging.takes_at_once(offset, len(data)):
                return False
            view.got, self._only_appended = True, False
            self._write(staging, offset, data, NEVER)
            return True
        except PosixError as exc:
            if exc.errno == errno.ENOSPC:  # the next try says which disk is meant
                return False
            raise
        finally:
            self._change.give()

    def append(
        self,
        data: memoryview,
        cancellation: Cancellation,
        view: HandleView | None = None,
        sent: KernelWrite = UNSENT,
    ) -> int:
        """Write *data* at the end of the file; return where that was. If somebody else replaces the
        object before the upload, and all changes are appends, they go behind the bytes that are
        there then. Raises ObjectChanged where that has happened already."""
        self.interrupt(cancellation)
        with self._change.taken_between(cancellation, sent.ino):
            self._check_size(self.size + len(data))
            with self._lock:
                self._check()
            if not data:
                return self.size
            staging = self._staged_anew(cancellation)
            self._only_appended |= self.state in (State.CLEAN, State.DETACHED)
            offset = self.size
            if view is not None:
                view.appends, view.stale = True, False
            self._write(staging, offset, data, cancellation, elsewhere=sent.offset != offset)
            self._change.wrote(sent, len(data))
            return offset

    def write_ended(self, handle: int) -> None:
        """Note that no write(2) by *handle* is under way."""
        self._change.ended(handle)

    def _write(
        self,
        staging: Staging,
        offset: int,
        data: memoryview,
        cancellation: Cancellation,
        *,
        elsewhere: bool = False,
    ) -> None:
        end = offset + len(data)
        self._note_change(staging)
        self._upload.changed(offset, end)
        try:
            staging.write(offset, data)
        except PosixError:
            staging.truncate(self.size)  # nobody was told of the part that a full disk took
            raise
        self._note(staging, min(offset, self.size), end, elsewhere=elsewhere)
        if offset <= self._layout.front < end:
            self._layout.front = end
            with suppress(Interrupted):  # the bytes are written: an append would be done twice
                self._send_ahead(staging, cancellation)

    def _staged_anew(
        self, cancellation: Cancellation, place: ChosenPlace | None = None, keep: int | None = None
    ) -> Staging:
        """As `_staged`, also where the file turns out to stand on an old version and moves."""
        while True:
            moves = self.moves
            try:
                return self._staged(cancellation, keep, place)
            except ObjectChanged:
                if self.moves == moves:
                    raise

    def _check_place(self, place: ChosenPlace | None) -> None:
        """Raise ObjectChanged if a change at *place* was meant for an older version. A program that
        goes on after that error changes nothing at such places either."""
        if place is None:
            return
        with self._lock:
            place.view.got = True
            if place.view.is_astray(place.start, place.reach, self.size):
                raise ObjectChanged.since_opened(self._about)

    def zero(
        self, start: int, end: int, cancellation: Cancellation, view: HandleView | None = None
    ) -> None:
        """Make zeros of the bytes from *start* to *end*, which the file has. The zeros take no
        place on the disk, and nothing is fetched. Raises ObjectChanged, as `write` does."""
        self.interrupt(cancellation)
        with self._change.taken(cancellation):
            with self._lock:
                self._check()
            if start >= min(end, self.size):
                return
            place = ChosenPlace(view or HandleView(), start, end)
            staging = self._staged_anew(cancellation, place)
            end = min(end, self.size)
            if start >= end:
                return
            self._not_only_appended()
            self._note_change(staging)
            self._upload.changed(start, end)
            staging.zero(start, end)
            self._note(staging, start, end)

    def truncate(
        self,
        size: int,
        cancellation: Cancellation,
        view: HandleView | None = None,
        *,
        extend: bool = False,
    ) -> None:
        """Cut the file to *size*, or extend it with zeros; with *extend*, only extend it. Raises
        ObjectChanged, as `write` does."""
        self._check_size(size)
        self.interrupt(cancellation)
        with self._change.taken(cancellation):
            with self._lock:
                self._check()
            if (0 < size == self.size and not self.dirty) or (extend and size <= self.size):
                return
            place = ChosenPlace(view or HandleView(), size, size)
            staging = self._staged_anew(cancellation, place, keep=None if extend else size)
            if extend and size <= self.size:
                return
            self._not_only_appended()
            self._note_change(staging)
            self._upload.changed(size, self._size_max)
            staging.truncate(size)
            if size > self.size:
                self._note(staging, self.size, size)
            else:
                self._cut(staging, size)

    def interrupt(self, cancellation: Cancellation | None = None) -> None:
        """Interrupt an upload that nobody waits for: the file is about to change. With
        *cancellation*, of whoever changes it, an upload that has patience may end before."""
        if (behind := self._behind) is not None:
            behind.cancel() if cancellation is None else behind.give_way(cancellation)

    def _behind_ends(self) -> None:
        if (behind := self._behind) is not None:
            self._behind = None
            behind.ends()

    def _note(self, staging: Staging, start: int, end: int, *, elsewhere: bool = False) -> None:
        """Note that the staging file has new bytes from *start* to *end*; *elsewhere*: that is not
        where the kernel has put them."""
        if self._layout.partial:
            staging.changed(start, end)
        with self._lock:
            if elsewhere:
                self._grows()
            self._layout.wrote(start, end)
            self.mtime_ns, self._mtime_said = time.time_ns(), False
            self.refused = False

    def _cut(self, staging: Staging, size: int) -> None:
        """Note that the staging file ends at *size* now."""
        if self._layout.partial:
            staging.cut(size)
        with self._lock:
            self._layout.cut(size)
            self._based = self._based and size > 0
            for view in () if size else self._views:
                view.emptied()
            self.mtime_ns, self._mtime_said = time.time_ns(), False
            self.refused = False

    def _send_ahead(self, staging: Staging, cancellation: Cancellation) -> None:
        """Send the part that is written already of a large file that has no bytes of a version in
        S3."""
        if self._layout.front < 2 * self._tools.options.part_size or self._based:
            return
        if self.state is State.DIRTY:
            if not self._upload.begun:
                self._upload.settle(cancellation)
                self._upload.begin(self._job(staging, cancellation))
            self._upload.ahead(self._layout.front, cancellation)

    def _not_only_appended(self) -> None:
        """Note, also on disk, that other bytes are about to be changed than are added at the end:
        the next mount must not put them behind what others have stored meanwhile."""
        if self._only_appended:
            self._only_appended = False
            if self.dirty and self.entry is not None:
                self._redescribe()

    def _note_change(self, staging: Staging) -> None:
        """Note on disk, before the first byte is changed, what the bytes are to become."""
        if self.state is State.CLEAN:
            staging.describe(self._record())
        with self._lock:
            self._check()
            self._happens(Event.CHANGED)

    def _record(self) -> Record:
        content, layout = self.content, self._layout
        return Record(
            self.bucket,
            self.key,
            self.etag,
            layout.base,
            layout.partial,
            self._only_appended and bool(self.etag),
            self._s3.endpoint,
            content.content_type,
            content.meta,
            content.headers,
            closed=self.promised,
        )

    def change_meta(
        self, change: Callable[[Mapping[str, str]], dict[str, str]], mtime_ns: int | None = None
    ) -> bool:
        """Store what *change* makes of the user metadata with the next upload, and *mtime_ns* as
        the time of the last change. Return False if there will be no upload, as S3 has the file."""
        self.interrupt()
        with self._change:
            if not (self.dirty or self.apart):
                return False
            meta = change(self.content.meta)
            with self._lock:
                self._say(meta)
                if mtime_ns is not None:
                    self.mtime_ns, self._mtime_said = mtime_ns, True
            if self.dirty:
                self._redescribe()
            return True

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Note that S3 has given the object *tags*: the next upload must not take them away."""
        with self._change:
            with self._lock:
                headers = {k: v for k, v in self.content.headers.items() if k != "Tagging"}
                self.content = self.content._replace(headers=headers).tagged(tags)
            if self.dirty:
                self._redescribe()

    def secure(self) -> None:
        """Return when what S3 does not have yet would outlive a power cut. Waits for no upload: one
        thread does this for all files. Raises PosixError."""
        self.interrupt()
        with self._change:
            if self.dirty and self._staging is not None:
                self._promise(self._staging)
                self._staging.sync()

    def secure_later(self) -> Callable[[], None] | None:
        """Do what `secure` does as far as that does not wait, and return the rest as a function for
        any thread, which raises PosixError. None: call `secure`."""
        if not self._change.take_at_once():
            return None
        try:
            staging = self._staging
            if not self.dirty or staging is None or not staging.promises_at_once:
                return None
            self._promise(staging)
            return staging.sync_later()
        except PosixError:  # the next try is told
            return None
        finally:
            self._change.give()

    def _promise(self, staging: Staging) -> None:
        self.promised = True
        self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
        staging.promise(self._record())

    def _staged(
        self,
        cancellation: Cancellation,
        keep: int | None = None,
        place: ChosenPlace | None = None,
        *,
        to_upload: bool = True,
    ) -> Staging:
        """Return the staging file. If it is made now, it has the first *keep* (None: all) bytes of
        the version in S3. Raises ObjectChanged if that version is gone, or *place* is in another
        one than was meant."""
        with self._lock:
            self._check()
        if self._staging is not None:
            self._check_place(place)
            return self._staging
        while True:
            origin = self._origin
            self._check_place(place)
            assert origin is not None  # what S3 does not have is staged from the start
            staging, layout = self._fetched(origin, cancellation, keep, to_upload=to_upload)
            with self._lock:
                if self._origin is origin:  # otherwise the file has followed another version
                    self._staging, self._layout = staging, layout
                    self._based = keep != 0
                    return staging
            staging.remove()

    def _fetched(
        self, origin: Origin, cancellation: Cancellation, keep: int | None, *, to_upload: bool
    ) -> tuple[Staging, Layout]:
        """Return a new staging file with bytes of *origin*, and its layout."""
        size = origin.entry.size if keep is None else min(keep, origin.entry.size)
        if to_upload:
            self._learn_content(origin, cancellation, cut=keep == 0)
        partial = to_upload and size > 2 * self._tools.options.part_size
        staging = self._tools.journal.stage(small=not size)
        try:
            if partial:
                staging.truncate(size)
            else:
                origin.fetch([(0, size)], staging, cancellation)
        except BaseException:
            staging.remove()
            raise
        return staging, Layout(size, size, partial=partial)

    def _fill(
        self, staging: Staging, spans: list[tuple[int, int]], cancellation: Cancellation
    ) -> None:
        """Fetch what the staging file of a partial file lacks of *spans*."""
        holes = self._layout.missing(spans)
        if holes and self._origin is not None:
            self._origin.fetch(holes, staging, cancellation)
            with self._lock:
                self._layout.fetched(holes)

    def _job(self, staging: Staging, cancellation: Cancellation) -> Job:
        """Return what is to be uploaded. (No earlier upload that was given up may still be on its
        way to S3: the job takes the version that the file stands on.)"""
        self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
        absent = self._absent and self.entry is None
        return Job(
            self.bucket,
            self.key,
            staging,
            self._layout,
            self.content,
            self.entry,
            Condition(self.etag if self._based else "", absent),
            lambda spans: self._fill(staging, spans, cancellation),
        )

    def _taken_all_the_same(self, entry: Entry) -> None:
        """Note that S3 has taken, as *entry*, the upload that was given up."""
        self._stand_on(entry)
        with self._lock:
            self._based = True
            if self._only_appended:  # what it has is no longer to go behind a version of others
                self._layout.arrived(entry.size)
            self._heard()
        if self.dirty:
            self._redescribe()

    def _put_in_place_of(self, old: Staging, new: Staging) -> None:
        """Describe *new*, which the file has instead of *old* now, and remove that. If the mount is
        killed in between, the next one must not upload both, one behind the other."""
        old.stay_apart()
        new.describe(self._record())
        if self._layout.partial:
            new.changed(self._layout.base, self._layout.size)
        if self.promised:  # a power cut must not take it from both places
            new.promise(self._record())
            new.sync()
        old.remove()

    def _redescribe(self) -> None:
        if self._staging is not None:
            self._staging.describe(self._record())
