"""Renames of directories in S3: every object is copied on the server, then every old one deleted.

Nothing is deleted before all is copied, and before a fresh listing has shown that what was
copied is still what is there. A failure before that is undone: the old tree is whole, and of the
new one nothing stays. After a later failure the next mount finishes the work, as after `kill -9`
(intents.py): copies are undone, or deletions finished.

INVARIANT: no original is deleted unless S3 confirmed a copy of just that version. When a rename
is undone, nothing is deleted at the new place but what S3 confirmed to be a copy, and what is the
same as its original, which is there.

Threading: one thread for each rename; copies are made by S3.pool.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from mimicfs.entry import KEPT, OBJECT, Difference, Entry, pages
from mimicfs.errors import KeyNotFound, MimicError, NoSuchBucket, ObjectChanged, PosixError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.intents import Copy, Intent, Intents, KeyTree

log = logging.getLogger(__name__)

_IN_FLIGHT = 16  # copies at once
_ROUNDS = 5  # how often what others write meanwhile is copied again


class Renames:
    """Makes renames, and deals with those that dead mounts left."""

    def __init__(self, mimicdb: Mirror, s3: S3, syncer: Syncer, intents: Intents) -> None:
        self._parts = (mimicdb, s3, syncer)
        self._syncer = syncer
        self._mimicdb = mimicdb
        self._s3 = s3
        self._intents = intents

    def begin(self, cancellation: Cancellation, old: KeyTree, new: KeyTree) -> Rename:
        """Return the rename of *old* to *new*, of which nothing is done yet. Raises PosixError
        ENOTEMPTY if S3 has anything at *new*, whatever the mirror says."""
        self.recover()
        replaces = self._is_there(cancellation, new)
        intent = self._intents.begin(old, new, replaces=replaces)
        return Rename(*self._parts, intent)

    def _is_there(self, cancellation: Cancellation, new: KeyTree) -> bool:
        """Return whether S3 has the empty directory *new*; raise ENOTEMPTY if it has more."""
        page = cancellation.wait(
            self._s3.pool.submit(self._s3.list_page, new.bucket, new.prefix, limit=2)
        )
        marker = [entry for entry in page.entries if entry.key == new.prefix]
        more = len(page.entries) > len(marker) or page.token is not None
        if more or any(entry.size for entry in marker):
            self._syncer.sync(new.bucket, new.prefix, cancellation=cancellation)
            raise PosixError(errno.ENOTEMPTY, str(new))
        return bool(marker) or self._mimicdb.entry(*new) is not None

    def recover(self) -> None:
        """Undo or finish what was begun and is not done, and say so."""
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
    """One rename, to be made step by step: `copy`, `settle`, `commit`, `delete`; what fails before
    `delete` is to be undone. *copies* are by key, without *old*'s prefix; so is `_moved_kept`, the
    metadata of directories that only the mirror has."""

    def __init__(self, mimicdb: Mirror, s3: S3, syncer: Syncer, intent: Intent) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._intent = intent
        self.old = intent.old
        self.new = intent.new
        self.copies = intent.copies
        self._moved_kept: dict[str, Mapping[str, str] | None] = {}

    def state(self) -> str:
        """Say what is where."""
        if self._intent.copied:
            return f"all of {self.old} is at {self.new}, and some of it is still at both places"
        return f"all of {self.old} is still there, and copies of some of it are at {self.new}"

    def copy(self, cancellation: Cancellation) -> int:
        """Copy what is not copied yet, by what the mirror knows; return how many objects."""
        running: dict[Future[Entry], Entry] = {}
        count = 0
        try:
            for entry in self._entries(self.old):
                cancellation.check()
                if entry.kind == OBJECT and self._is_due(entry):
                    count += 1
                    to = (self.new.bucket, self._moved(entry.key))
                    source = (self.old.bucket, entry)
                    running[self._s3.pool.submit(self._s3.copy, source, *to)] = entry
                elif entry.kind == KEPT:
                    self._mimicdb.keep(self.new.bucket, self._moved(entry.key), entry.meta)
                    self._moved_kept[entry.key[len(self.old.prefix) :]] = entry.meta
                self._collect(running, most=_IN_FLIGHT - 1)
            self._collect(running, most=0)
        except BaseException:
            wait(running)  # then nothing comes behind what undoes it
            for copy, entry in running.items():
                if copy.exception() is None:
                    self._note(entry, copy.result())
            raise
        return count

    def settle(self, cancellation: Cancellation) -> None:
        """Look whether what was copied is what S3 has, and copy what others wrote meanwhile,
        until it is; what they deleted goes at the new place too. Raises PosixError EBUSY where
        that has no end, EIO if S3 refuses."""
        for _ in range(_ROUNDS):
            self._syncer.sync(*self.old, cancellation=cancellation)
            if not self.copy(cancellation):
                left = self._delete_orphans()
                if left:
                    raise PosixError(errno.EIO, left[0])
                if not self._mimicdb.has_below(*self.old):  # somebody has removed it meanwhile
                    raise PosixError(errno.ENOENT, str(self.old))
                return
        raise PosixError(errno.EBUSY, f"{self.old} is being written to")

    def commit(self) -> None:
        """From now on the rename is finished, whatever happens, and not undone."""
        self._intent.all_copied()

    def delete(self) -> None:
        """Delete the originals. Raises PosixError EIO, and says what is where, if S3 refuses."""
        try:
            refused, others = self._delete_originals()
            left = refused + others
        except MimicError as exc:
            left = [str(exc)]
        if left:
            self._intent.leave()
            there = [self.new.prefix + name for name in self.copies]
            self._mimicdb.announce(self.new.bucket, Difference(there, [], [], 0))
            log.error("%s; the next mount continues: %s", self.state(), left[0])
            raise PosixError(errno.EIO, f"{self.state()}: {left[0]}")
        self._intent.end()

    def finish(self) -> None:
        """Delete the originals, long after they were copied. Raises PosixError EIO where S3 still
        refuses: the record stays, and another mount tries again."""
        cancellation = Cancellation()
        try:
            for tree in (self.old, self.new):
                self._syncer.sync(*tree, cancellation=cancellation)
            refused, others = self._delete_originals(there=True)
            for about in others:
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

    def _is_due(self, entry: Entry) -> bool:
        """Whether *entry* is to be copied. Not again over what was written to the copy since: a
        process that has a file open writes to the new place from then on, and that has all the old
        one had."""
        name = entry.key[len(self.old.prefix) :]
        known = self.copies.get(name)
        if known is None:
            return True
        if known.original == entry.etag:
            return False
        copy = self._mimicdb.entry(self.new.bucket, self._moved(entry.key))
        if copy is None or copy.etag == known.copy:
            return True
        self._intent.note(name, Copy(entry.etag, copy.etag))
        return False

    def _collect(self, running: dict[Future[Entry], Entry], most: int) -> None:
        while len(running) > most:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for copy in done:
                entry = running.pop(copy)
                try:
                    self._note(entry, copy.result())
                except (ObjectChanged, KeyNotFound) as exc:
                    log.debug("%s", exc)  # the mirror knows better now; `settle` sees to it

    def _note(self, original: Entry, copy: Entry) -> None:
        self._intent.note(original.key[len(self.old.prefix) :], Copy(original.etag, copy.etag))

    def _delete_originals(self, *, there: bool = False) -> tuple[list[str], list[str]]:
        """Delete what was copied; with *there*, only where the copy is still. Return what S3
        refused, and what is not the copy that was made or has no copy any more."""
        refused: list[str] = []
        others: list[str] = []
        for page in self._pages(self.old):
            going: dict[str, str] = {}
            for entry in page:
                copy = self.copies.get(entry.key[len(self.old.prefix) :])
                if entry.kind != OBJECT:
                    if entry.kind != KEPT or self._is_moved(entry, there=there):
                        self._mimicdb.forget(self.old.bucket, entry.key)
                elif copy is None or copy.original != entry.etag:
                    others.append(f"s3://{self.old.bucket}/{entry.key} was changed meanwhile")
                elif there and not self._has_copy(entry):
                    others.append(f"the copy of s3://{self.old.bucket}/{entry.key} is gone")
                else:
                    going[entry.key] = entry.etag
            refused += self._deleted(self.old.bucket, going, tell=there)
        # Another mount may have said that a directory stays where it removed the last name, which
        # was an original here (replacing.py).
        self._mimicdb.forget_kept(*self.old, self._was_above)
        return refused, others

    def _was_above(self, directory: str) -> bool:
        """Whether something that was moved was in *directory*, or its marker."""
        below = directory[len(self.old.prefix) :]
        return any(name.startswith(below) for name in (*self.copies, *self._moved_kept))

    def _is_moved(self, kept: Entry, *, there: bool) -> bool:
        """Whether the directory *kept* is at the new place, and not one that somebody has made
        since. *there*: nobody knows what was moved, only what is there."""
        if there:
            return self._mimicdb.has_still(self.new.bucket, self._moved(kept.key))
        name = kept.key[len(self.old.prefix) :]
        return name in self._moved_kept and self._moved_kept[name] == kept.meta

    def _delete_orphans(self) -> list[str]:
        """Delete the copies whose originals somebody has deleted; return what S3 refused."""
        going: dict[str, str] = {}
        for name, (_, etag) in self.copies.items():
            copy = self._mimicdb.entry(self.new.bucket, self.new.prefix + name)
            original = self._mimicdb.entry(self.old.bucket, self.old.prefix + name)
            if original is None and copy is not None and copy.etag == etag:
                going[copy.key] = etag
        return self._deleted(self.new.bucket, going)

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
            left += self._deleted(self.new.bucket, going)
        return left

    def _is_copy(self, entry: Entry) -> bool:
        """Whether *entry* of the new tree is a copy of ours. S3 may have made one whose answer
        nobody got: that is like its original."""
        name = entry.key[len(self.new.prefix) :]
        known = self.copies.get(name)
        if known is not None and known.copy == entry.etag:
            return True
        original = self._mimicdb.entry(self.old.bucket, self.old.prefix + name)
        return original is not None and original.etag == entry.etag != ""

    def _has_copy(self, original: Entry) -> bool:
        """Whether the new tree has the copy of *original* still, which nobody replaced since."""
        copy = self._mimicdb.entry(self.new.bucket, self._moved(original.key))
        return copy is not None and self._is_copy(copy)

    def _deleted(self, bucket: str, etags: dict[str, str], *, tell: bool = True) -> list[str]:
        """Delete the versions *etags*, by key; return what S3 refused. *tell*: nobody else tells
        the kernel."""
        refused = dict(self._s3.delete_many(bucket, list(etags), etags)) if etags else {}
        gone = [key for key in etags if key not in refused]
        if tell and gone:
            self._mimicdb.announce(bucket, Difference([], [], gone, 0))
        return [f"s3://{bucket}/{key}: {reason}" for key, reason in refused.items()]

    def _entries(self, tree: KeyTree) -> Iterator[Entry]:
        for page in self._pages(tree):
            yield from page

    def _pages(self, tree: KeyTree) -> Iterator[Sequence[Entry]]:
        scan = self._mimicdb.scan
        return pages(lambda after: scan(tree.bucket, tree.prefix, after))
