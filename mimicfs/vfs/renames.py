"""Renames of directories in S3: the server copies every object, then every old one is deleted.

Nothing is deleted before everything is copied, and before a fresh listing has shown that the copied
versions are still there. A failure before that is undone: the old tree is whole, and nothing stays
of the new one. After a later failure the next mount finishes the work, as after `kill -9`
(intents.py): it undoes copies, or finishes deletions.

Meanwhile others may change the old tree: its bytes, and what is stored with them, which no ETag
shows. An object that is not as it was copied is copied again: all of them before the first
deletion, and then each one before its original is deleted. The rename waits a moment for an object
that somebody is about to change.

INVARIANT: no original is deleted unless S3 confirmed a copy of just that version, and of what was
stored with it, as far as the mirror knew by then. When a rename is undone, an object at the new
place is deleted only if S3 confirmed that it is a copy, or if it is the same as its original, which
is there.

Threading: one thread for each rename; copies are made by S3.pool.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import Protocol

from mimicfs.entry import KEPT, LISTED, OBJECT, Difference, Entry, pages, without_probes
from mimicfs.errors import KeyNotFound, MimicError, NoSuchBucket, ObjectChanged, PosixError, S3Error
from mimicfs.files.file import File
from mimicfs.merging import SAME_TIME_NS
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.intents import Copy, Intent, Intents, KeyTree

log = logging.getLogger(__name__)

_IN_FLIGHT = 16  # copies at once
ROUNDS = 5  # how often objects that others write meanwhile are copied again
_WAITS_S = 2.0  # how long to wait for an object that others are about to change
_GLANCE_S = 0.02  # between two looks whether they have done so


class WasLost(Protocol):
    def __call__(self, *, alone: bool) -> bool: ...


class Renames:
    """Makes renames, and deals with those that dead mounts left."""

    def __init__(self, mimicdb: Mirror, s3: S3, syncer: Syncer, intents: Intents) -> None:
        self._parts = (mimicdb, s3, syncer)
        self._syncer = syncer
        self._mimicdb = mimicdb
        self._s3 = s3
        self._intents = intents

    def begin(self, cancellation: Cancellation, old: KeyTree, new: KeyTree) -> Rename:
        """Return the rename of *old* to *new*, which has done nothing yet. Raises PosixError
        ENOTEMPTY if S3 has anything at *new*, whatever the mirror says."""
        self.recover()
        replaces = self._is_there(cancellation, new)
        intent = self._intents.begin(old, new, replaces=replaces)
        return Rename(*self._parts, intent)

    def _is_there(self, cancellation: Cancellation, new: KeyTree) -> bool:
        """Return whether S3 has the empty directory *new*; raise ENOTEMPTY if it has more."""
        page = cancellation.wait(
            self._s3.pool.submit(self._s3.list_page, new.bucket, new.prefix, limit=3)
        )
        found = without_probes(page.entries)
        marker = [entry for entry in found if entry.key == new.prefix]
        more = len(found) > len(marker) or page.token is not None
        if more or any(entry.size for entry in marker):
            self._syncer.sync(new.bucket, new.prefix, cancellation=cancellation)
            raise PosixError(errno.ENOTEMPTY, str(new))
        return bool(marker) or self._mimicdb.entry(*new) is not None

    def recover(self) -> None:
        """Undo or finish the renames of dead mounts, and log that."""
        for intent in self._intents.left():
            rename = Rename(*self._parts, intent)
            try:
                rename.finish() if intent.copied else rename.undo()
            except NoSuchBucket as exc:
                log.error("%s; there is nothing more to do: %s", rename.state(), exc)
                intent.end()
            except MimicError as exc:
                log.error("%s; the next mount tries again: %s", rename.state(), exc)
            else:
                what = "finished" if intent.copied else "undone"
                log.warning("an interrupted rename is %s: %s to %s", what, intent.old, intent.new)


class Rename:
    """One rename, made step by step: `copy`, `settle`, `commit`, `delete`. After a failure before
    `delete` the caller undoes it. *copies* are by key, without the prefix of *old*; so is
    `_moved_kept`, the metadata of directories that only the mirror has."""

    def __init__(self, mimicdb: Mirror, s3: S3, syncer: Syncer, intent: Intent) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._intent = intent
        self.old = intent.old
        self.new = intent.new
        self.copies = intent.copies
        self.ahead: Callable[[], Mapping[str, File]] = dict  # open files at the new place, by key
        self.late: set[str] = set()  # the names of which the kernel may not know that they moved
        self._seen: set[str] = set()  # the names of the old tree when it was copied last
        self._is_first = True
        self._deleted_names: set[str] = set()  # those whose originals are deleted
        self._moved_kept: dict[str, Mapping[str, str] | None] = {}

    def state(self) -> str:
        """Which objects are where, as a text for people."""
        if self._intent.copied:
            return f"all of {self.old} is at {self.new}, and some of it is still at both places"
        return f"all of {self.old} is still there, and copies of some of it are at {self.new}"

    def copy(self, cancellation: Cancellation) -> int:
        """Copy the objects that the mirror knows and that are not copied yet; return how many."""
        self._seen.clear()
        count = self._copy(cancellation, self._entries(self.old))
        self._is_first = False
        return count

    def settle(self, cancellation: Cancellation) -> None:
        """Look whether S3 still has what was copied, and copy what others wrote meanwhile, until it
        has; objects that they deleted go at the new place, too. Raises PosixError EBUSY where that
        has no end, EIO if S3 refuses."""
        waited = False
        for _ in range(ROUNDS):
            self._syncer.sync(*self.old, cancellation=cancellation)
            if self.copy(cancellation):
                continue
            left = self._delete_orphans()
            if left:
                raise PosixError(errno.EIO, left[0])
            if not self._mimicdb.has_still(*self.old):  # somebody has removed it meanwhile
                raise PosixError(errno.ENOENT, str(self.old))
            if waited or is_quiet(self._mimicdb, *self.old, cancellation):
                return
            waited = True
        raise PosixError(errno.EBUSY, f"{self.old} is being written to")

    def commit(self) -> None:
        """Note that from now on the rename is finished, whatever happens, and not undone."""
        self._intent.all_copied()

    def delete(
        self, holds: Callable[[], bool] = lambda: True, was_lost: WasLost = lambda *, alone: False
    ) -> None:
        """Delete the originals. Raises PosixError EIO, whose text says which objects are where, if
        S3 refuses, or if somebody else has renamed them, too, who has taken this process for dead.
        *holds* returns False if that may be so, once nobody else does so any more; *was_lost* tells
        it in the end, where *alone* says whether all that was copied was deleted here."""
        try:
            left = self._delete_all(holds, lambda: not was_lost(alone=False))
            if not left and was_lost(alone=self.copies.keys() <= self._deleted_names):
                left = [self._at_both()]
        except MimicError as exc:
            left = [str(exc)]
        if left:
            self._intent.leave()
            self.late.update(self.copies)
            log.error("%s; the next mount continues: %s", self.state(), left[0])
            raise PosixError(errno.EIO, f"{self.state()}: {left[0]}")
        self._intent.end()

    def _at_both(self) -> str:
        return f"others have renamed {self.old}, too: what they found is also where they moved it"

    def finish(self) -> None:
        """Delete the originals, long after they were copied. Raises PosixError EIO where S3 still
        refuses: the record stays, and another mount tries again."""
        cancellation = Cancellation()
        try:
            for tree in (self.old, self.new):
                self._syncer.sync(*tree, cancellation=cancellation)
            refused, others = self._delete_originals(there=True)
            self._forget_emptied()
            for entry in others:
                about = self._why(entry, there=True)
                log.error("left by the rename of %s to %s: %s", self.old, self.new, about)
            if refused:
                raise PosixError(errno.EIO, refused[0])
        except BaseException:
            self._intent.leave()
            raise
        self._intent.end()

    def undo(self) -> None:
        """Delete the copies. An object that may not be one stays, and the log says so."""
        cancellation = Cancellation()
        try:
            for tree in (self.old, self.new):
                self._syncer.sync(*tree, cancellation=cancellation)
            left = self._delete_copies()
        except BaseException:
            self._intent.leave()
            raise
        for about in left:
            log.error("copy left behind by a failed rename: %s", about)
        self._intent.end()

    # What the above is made of

    def _moved(self, key: str) -> str:
        return self.new.prefix + key[len(self.old.prefix) :]

    def _name(self, entry: Entry) -> str:
        return entry.key[len(self.old.prefix) :]

    def _copy(self, cancellation: Cancellation, entries: Iterable[Entry]) -> int:
        running: dict[Future[Entry], Entry] = {}
        ahead = {} if self._is_first else self.ahead()
        count = 0
        try:
            for entry in entries:
                cancellation.check()
                self._seen.add(self._name(entry))
                if entry.kind == OBJECT and self._is_due(entry):
                    count += 1
                    file = ahead.get(self._moved(entry.key))
                    if file is not None:
                        self._copy_beside(file, entry, cancellation)
                    else:
                        running[self._begun(entry)] = entry
                elif entry.kind == KEPT:
                    self._mimicdb.keep(self.new.bucket, self._moved(entry.key), entry.meta)
                    self._moved_kept[self._name(entry)] = entry.meta
                self._collect(running, most=_IN_FLIGHT - 1)
            self._collect(running, most=0)
        except BaseException:
            wait(running)  # then no copy can arrive after it was undone
            for copy, entry in running.items():
                self._note_made(entry, copy)
            raise
        return count

    def _begun(self, entry: Entry) -> Future[Entry]:
        place = ((self.old.bucket, entry), self.new.bucket, self._moved(entry.key))
        return self._s3.pool.submit(self._s3.copy, *place)

    def _copy_beside(self, file: File, entry: Entry, cancellation: Cancellation) -> None:
        """Copy *entry* to where the open *file* stands already, but not over what that uploads."""
        with file.still(cancellation):
            if self._is_due(entry):
                self._collect({self._begun(entry): entry}, most=0)

    def _is_due(self, entry: Entry) -> bool:
        """Whether *entry* is to be copied. It is not copied over what was written to the new place
        since: a process that has a file open writes there from then on. Raises PosixError EBUSY
        where somebody has written to both places: neither has everything."""
        known = self.copies.get(self._name(entry))
        if known is None and (self._is_first or entry.key == self.old.prefix):
            return True  # S3 was asked whether anything except a marker is there
        if self._is_copied(entry):
            return False
        with suppress(KeyNotFound):  # the mirror may not know what others have put there
            self._s3.head(self.new.bucket, self._moved(entry.key))
        copy = self._mimicdb.entry(self.new.bucket, self._moved(entry.key))
        if copy is None or copy.kind != OBJECT or (known is not None and copy.etag == known.copy):
            return True
        if known is None or known.original != entry.etag:
            about = f"s3://{self.old.bucket}/{entry.key}, s3://{self.new.bucket}/{copy.key}"
            raise PosixError(errno.EBUSY, f"both are being written to: {about}")
        self._noted(self._name(entry), known._replace(mtime_ns=entry.mtime_ns, meta=entry.meta))
        return False

    def _is_copied(self, entry: Entry, *, there: bool = False) -> bool:
        """Whether *entry* was copied as it is, with what is stored with it. *there*: it was listed
        since, and a listing may show another time of the same version."""
        known = self.copies.get(self._name(entry))
        if known is None or known.original != entry.etag:
            return False
        return is_alike(known, entry, SAME_TIME_NS if there else 0)

    def _collect(self, running: dict[Future[Entry], Entry], most: int) -> None:
        while len(running) > most:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for copy in done:
                entry = running.pop(copy)
                self._note_made(entry, copy)
                try:
                    copy.result()
                except (ObjectChanged, KeyNotFound) as exc:
                    log.debug("%s", exc)  # the mirror knows better now; `settle` deals with it

    def _note_made(self, original: Entry, copy: Future[Entry]) -> None:
        """Note what *copy*, which has ended, has made. If it failed, that is the copy of a version
        that nobody knows, and like no original: it is made again, or deleted if there is none."""
        failed = copy.exception()
        if failed is None:
            self._note(original, copy.result())
        elif isinstance(failed, S3Error) and failed.made:
            self._noted(self._name(original), Copy("", failed.made))

    def _note(self, original: Entry, copy: Entry) -> None:
        known = Copy(original.etag, copy.etag, original.mtime_ns, original.meta)
        self._noted(self._name(original), known)

    def _noted(self, name: str, copy: Copy) -> None:
        if not self._is_first:
            self.late.add(name)
        self._intent.note(name, copy)

    def _delete_all(self, holds: Callable[[], bool], is_ours: Callable[[], bool]) -> list[str]:
        """Delete the originals, after copying again those that others have changed, and what they
        have put beside them, as long as the claim *is_ours*. Return what is left, and why."""
        refused, changed = self._delete_originals(holds=holds)
        for _ in range(ROUNDS):
            found = changed or self._put_beside()
            # Once the claim is not ours, what is there may be of another directory.
            if not found or not is_ours():
                break
            changed = found
            self._copy(Cancellation(), changed)
            now = [stored_now(self._mimicdb, self.old.bucket, entry.key) for entry in changed]
            more, changed = self._delete_copied([entry for entry in now if entry is not None])
            refused += more
        self._forget_emptied()
        return [*refused, *(self._why(entry) for entry in changed)]

    def _put_beside(self) -> list[Entry]:
        """Return what others have put into the old directory since it was listed: a file that is
        closed waits for no rename."""
        is_quiet(self._mimicdb, *self.old, Cancellation())
        found = [each for each in self._entries(self.old) if each.kind == OBJECT]
        return [each for each in found if not self._is_copied(each)]

    def _delete_originals(
        self, *, there: bool = False, holds: Callable[[], bool] = lambda: True
    ) -> tuple[list[str], list[Entry]]:
        """Delete what was copied; with *there*, only where the copy still exists. Return what S3
        refused, and the originals that are not as they were copied, or have no copy any more.
        Raises PosixError EIO if others have renamed some of them (`delete`)."""
        refused: list[str] = []
        others: list[Entry] = []
        for number, page in enumerate(self._pages(self.old)):
            if number and not holds():
                self._check_not_moved()
                return self._delete_originals(there=there, holds=holds)
            for entry in page:
                if entry.kind == LISTED or (
                    entry.kind == KEPT and self._is_moved(entry, there=there)
                ):
                    self._mimicdb.forget(self.old.bucket, entry.key)
            objects = [entry for entry in page if entry.kind == OBJECT]
            more, changed = self._delete_copied(objects, there=there)
            refused += more
            others += changed
        return refused, others

    def _check_not_moved(self) -> None:
        """Raise PosixError EIO if originals that were not deleted here are no longer there."""
        self._syncer.sync(*self.old)
        left = {self._name(entry) for entry in self._entries(self.old)}
        if not self.copies.keys() - self._deleted_names <= left:
            raise PosixError(errno.EIO, self._at_both())

    def _delete_copied(
        self, originals: Sequence[Entry], *, there: bool = False
    ) -> tuple[list[str], list[Entry]]:
        """Delete the *originals* that were copied. Return what S3 refused, and the others."""
        others = [entry for entry in originals if self._why(entry, there=there)]
        left = {entry.key for entry in others}
        going = {entry.key: entry.etag for entry in originals if entry.key not in left}
        refused = self._deleted(self.old.bucket, going, tell=there)
        self._deleted_names |= {key[len(self.old.prefix) :] for key in going.keys() - refused}
        if not there:
            now = [stored_now(self._mimicdb, self.old.bucket, key) for key in refused]
            changed = [entry for entry in now if entry is not None and self._why(entry)]
            others += changed
            for entry in changed:  # S3 has refused to delete another version than the copied one
                del refused[entry.key]
        return _said(self.old.bucket, refused), others

    def _why(self, entry: Entry, *, there: bool = False) -> str:
        """Return why not to delete the original *entry*; "" if it is to be deleted."""
        about = f"s3://{self.old.bucket}/{entry.key}"
        if not self._is_copied(entry, there=there):
            return f"{about} was changed meanwhile"
        if there and not self._has_copy(entry):
            return f"the copy of {about} is gone"
        return ""

    def _forget_emptied(self) -> None:
        """Forget that directories stay: another mount may have said so when it removed a last name
        that was an original here (replacing.py)."""
        self._mimicdb.forget_kept(*self.old, self._was_above)

    def _was_above(self, directory: str) -> bool:
        """Whether something that was moved was in *directory*, or was its marker."""
        below = directory[len(self.old.prefix) :]
        return any(name.startswith(below) for name in (*self.copies, *self._moved_kept))

    def _is_moved(self, kept: Entry, *, there: bool) -> bool:
        """Whether the directory *kept* is at the new place, and not one that somebody has made
        since. *there*: nobody knows what was moved, but only what is there."""
        if there:
            return self._mimicdb.has_still(self.new.bucket, self._moved(kept.key))
        name = self._name(kept)
        return name in self._moved_kept and self._moved_kept[name] == kept.meta

    def _delete_orphans(self) -> list[str]:
        """Delete the copies whose originals somebody has deleted; return what S3 refused."""
        going: dict[str, str] = {}
        for name in self.copies.keys() - self._seen:
            copy = self._mimicdb.entry(self.new.bucket, self.new.prefix + name)
            if copy is not None and copy.etag == self.copies[name].copy:
                going[copy.key] = copy.etag
        refused = self._deleted(self.new.bucket, going)
        for key in going.keys() - refused.keys():  # if somebody makes it again, it is copied again
            del self.copies[key[len(self.new.prefix) :]]
        return _said(self.new.bucket, refused)

    def _delete_copies(self) -> list[str]:
        left: list[str] = []
        for page in self._pages(self.new):
            going: dict[str, str] = {}
            for entry in page:
                if entry.key == self.new.prefix and self._intent.replaces:
                    continue
                if entry.kind != OBJECT:
                    self._mimicdb.forget(self.new.bucket, entry.key)
                elif self._is_copy(entry):
                    going[entry.key] = entry.etag
                else:
                    left.append(f"s3://{self.new.bucket}/{entry.key} is not the copy that was made")
            left += _said(self.new.bucket, self._deleted(self.new.bucket, going))
        return left

    def _is_copy(self, entry: Entry) -> bool:
        """Whether *entry* of the new tree is a copy of ours. S3 may have made one without anybody
        getting the answer: that is like its original."""
        name = entry.key[len(self.new.prefix) :]
        known = self.copies.get(name)
        if known is not None and known.copy == entry.etag:
            return True
        original = self._mimicdb.entry(self.old.bucket, self.old.prefix + name)
        return original is not None and original.etag == entry.etag != ""

    def _has_copy(self, original: Entry) -> bool:
        """Whether the new tree still has the copy of *original*, and nobody has replaced it."""
        copy = self._mimicdb.entry(self.new.bucket, self._moved(original.key))
        return copy is not None and self._is_copy(copy)

    def _deleted(self, bucket: str, etags: dict[str, str], *, tell: bool = True) -> dict[str, str]:
        """Delete the versions *etags*, by key; return what S3 refused, and why. *tell*: tell the
        kernel, as nobody else does."""
        refused = dict(self._s3.delete_many(bucket, list(etags), etags)) if etags else {}
        gone = [key for key in etags if key not in refused]
        if tell and gone:
            self._mimicdb.announce(bucket, Difference([], [], gone, 0))
        return refused

    def _entries(self, tree: KeyTree) -> Iterator[Entry]:
        for page in self._pages(tree):
            yield from page

    def _pages(self, tree: KeyTree) -> Iterator[Sequence[Entry]]:
        return pages(lambda after: self._mimicdb.scan(tree.bucket, tree.prefix, after))


def _said(bucket: str, refused: Mapping[str, str]) -> list[str]:
    return [f"s3://{bucket}/{key}: {reason}" for key, reason in refused.items()]


def is_quiet(mimicdb: Mirror, bucket: str, name: str, cancellation: Cancellation) -> bool:
    """Return whether nobody is about to change the key *name*, or one below it, after waiting a
    moment for that. Raises Interrupted, StoreError."""
    if mimicdb.intents.is_settled(bucket, name):
        return True
    deadline = time.monotonic() + _WAITS_S
    while time.monotonic() < deadline and not mimicdb.intents.is_settled(bucket, name):
        with suppress(TimeoutError):
            cancellation.wait(Future[None](), _GLANCE_S)
    return False


def stored_now(mimicdb: Mirror, bucket: str, key: str) -> Entry | None:
    """Return what the store itself, not a copy of it, has of *key*."""
    found = mimicdb.scan(bucket, key, "", 1)
    return found[0] if found and found[0].key == key else None


def is_alike(one: Entry | Copy, other: Entry, within_ns: int = 0) -> bool:
    """Whether two sights of one version show the same things stored with it, as far as is known. A
    change without new bytes gives it another time."""
    both = one.meta is not None and other.meta is not None
    if both and one.meta != other.meta:
        return False
    return abs(one.mtime_ns - other.mtime_ns) <= within_ns
