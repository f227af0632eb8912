"""Removing the object of a name, and making way for another one that takes the name.

Threading: any thread. Two changes in one directory never meet: the kernel locks the directory.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress

from mimicfs.backends.pending import Begun
from mimicfs.entry import LISTED, NS, OBJECT, Difference, Entry, pages
from mimicfs.errors import (
    AccessDenied,
    BeingRenamed,
    LogTrimmed,
    MimicError,
    ObjectChanged,
    PosixError,
)
from mimicfs.intent import StoreIntent
from mimicfs.merging import same_version
from mimicfs.mimicdb import Mirror
from mimicfs.posix import RENAME_NOREPLACE, Caller
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.ownkeys import is_own, needed_s
from mimicfs.sync import Syncer
from mimicfs.vfs.claims import RenameClaims
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.moves import FileCopy
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.renames import stored_now
from mimicfs.vfs.tree import Tree

log = logging.getLogger(__name__)

_PAGE = 100  # names of a directory that are read at a time
_FEW = 100  # names that others may be about to delete at once: one each, in a directory

# An intent, and what the store had when it began; None, None: it keeps no intents.
SaidAndSeen = tuple[StoreIntent | None, Begun | None]


class Replacing:
    """Removes objects, and makes way for others."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        syncer: Syncer,
        handles: Handles,
        tree: Tree,
        claims: RenameClaims,
    ) -> None:
        self._mimicdb = mimicdb
        self._claims = claims
        self._s3 = s3
        self._syncer = syncer
        self._handles = handles
        self._tree = tree

    def empty(self, node: Node) -> None:
        """Raise ENOTEMPTY if the directory *node* has a child, or if its marker has content.
        What mimicfs itself has left in it is no child, and is deleted."""
        about = f"s3://{node.bucket}/{node.key}"
        if node.content or self._handles.unsaved(node):
            raise PosixError(errno.ENOTEMPTY, about)
        leftovers: list[str] = []
        for page in pages(lambda after: self._page(node, after), size=_PAGE):
            for entry in page:
                left = self._left_by(node.bucket, entry)
                if left is None:
                    raise PosixError(errno.ENOTEMPTY, about)
                leftovers += left
        marker = self._mimicdb.entry(node.bucket, node.key)  # as the listing above has shown it
        if marker is not None and marker.kind == OBJECT and marker.size:
            raise PosixError(errno.ENOTEMPTY, f"{about}: its marker is not empty")
        for key in leftovers:
            self._s3.delete(node.bucket, key)

    def _left_by(self, bucket: str, child: Entry) -> list[str] | None:
        """Return the keys of what mimicfs has left at *child*, an object or a directory; None:
        there is something else, or what somebody may need."""
        if not is_own(child.key):
            return None
        found = [child]
        if child.key.endswith("/"):  # from S3: the mirror may not know what is in it
            self._syncer.sync(bucket, child.key)
            own = self._mimicdb.entry(bucket, child.key)
            found = [own] if own is not None and own.kind != LISTED else []
            found += self._mimicdb.children(bucket, child.key, "", _FEW)
        return [each.key for each in found] if all(map(_is_leftover, found)) else None

    def clear(self, bucket: str) -> None:
        """Delete what mimicfs itself has left in *bucket*. Raise ENOTEMPTY if there is more."""
        page = self._s3.list_page(bucket, limit=_FEW)
        if page.token is not None or not all(map(_is_leftover, page.entries)):
            raise PosixError(errno.ENOTEMPTY, f"s3://{bucket}/")
        for entry in page.entries:
            self._s3.delete(bucket, entry.key)

    def _page(self, node: Node, after: str) -> list[Entry]:
        children = self._mimicdb.children
        return self._syncer.sure(lambda: children(node.bucket, node.key, after, _PAGE))

    def remove(self, bucket: str, key: str, intent: StoreIntent | None) -> None:
        """Delete the object *key*; forget a directory that has no object, as *intent* has said."""
        entry = self._mimicdb.entry(bucket, key)
        if entry is None or entry.kind == OBJECT:
            self._s3.delete(bucket, key)
            return
        with nullcontext() if intent is None else intent.learning():
            self._mimicdb.forget(bucket, key)

    @contextmanager
    def removing(self, directory: Node, name: str, *, stays: bool = True) -> Iterator[SaidAndSeen]:
        """As `losing`, of a key that is deleted within. Mounts that delete the last names of a
        directory at once know of each other: each says first what it is about to delete, and sees
        in the same step whether others are about to delete the rest. Without *stays*, the directory
        goes with its last name. Yield what was said, and what was seen. Raises BeingRenamed."""
        most = self._most(directory, name) if stays else -1
        with self._claims.begun(directory.bucket, name, most=most, deletes=True) as begun:
            intent, seen = begun or (None, None)
            with self.losing(directory, name, seen):
                try:
                    yield intent, seen
                except BaseException:
                    if intent is not None:  # else it is open while `losing` looks at the name
                        self._mimicdb.intents.give_up(intent)
                    raise

    def take_back(self, directory: Node, was_there: bool, copy: FileCopy) -> bool:
        """Delete *copy*, which a rename has made in *directory* and whose original somebody else
        has moved or deleted; return whether it is gone. It stays unless it is certain that another
        mount has done so, that nobody else has changed the copy, and that S3 deletes no other
        version. If the directory *was_there* before, it stays. Other mounts make, rename and remove
        nothing of its name meanwhile. Raises StoreError, S3Error: nobody knows whether it stays."""
        bucket, key = copy.source
        if not copy.alone or bucket != copy.bucket:
            return False
        # Else a deletion that was given up long ago may have come late: then it has no other copy.
        if not self._mimicdb.changers(bucket, copy.seq, key):
            return False
        if not self._s3.conditions.honoured(bucket, copy.key).delete:
            return False
        try:
            removing = self.removing(directory, copy.key, stays=was_there)
            with self._claims.alone(*copy.place), removing as (_, seen):
                self._check_ours(copy, seen)
                self._s3.conditions.delete(*copy.place, copy.entry.etag)
        except (BeingRenamed, ObjectChanged, AccessDenied) as exc:
            log.debug("s3://%s/%s stays, a copy: %s", *copy.place, exc)
            return False
        return True

    def _check_ours(self, copy: FileCopy, seen: Begun | None) -> None:
        """Raise ObjectChanged unless *copy*, of which the store has *seen* that, is ours alone."""
        there = None if seen is None or seen.met else seen.entry
        by = self._mimicdb.changers(copy.bucket, copy.seq, copy.key)
        if there is None or not same_version(there, copy.entry) or by != [True] * copy.times:
            raise ObjectChanged.since_opened("s3://{}/{}".format(*copy.place))

    def _most(self, directory: Node, name: str) -> int:
        """Return among how many names beside *name* to look whether one stays in *directory*; -1:
        it is there without any, or others cannot be about to delete so many."""
        if self._stays(directory):
            return -1
        others = [each.key for each in self._children(directory, _FEW + 2) if each.key != name]
        return _FEW if len(others) <= _FEW else -1

    @contextmanager
    def losing(self, directory: Node, name: str, seen: Begun | None = None) -> Iterator[None]:
        """Within, the key *name*, or all below it, leaves *directory*. A directory that loses its
        last name stays until it is removed. This mount says so before the name goes: another one
        that moves the directory with its names at the same time looks for such a word once they are
        gone (renames.py), and the directory stays only if the name was still there when this was
        said. After a failure the directory stays, too, unless the name is there for certain: S3 may
        have removed it, or somebody else may, who relies on what was said. *seen*: what the store
        had when the intent of this began; names that others are about to delete do not count."""
        kept = self._is_last(directory, name, seen) and self._keeps(directory, name, seen)
        try:
            yield
        except BaseException:
            if kept:
                with suppress(MimicError):  # if this fails, it stays, as if it had a marker
                    if self._is_certain(directory.bucket, name):
                        self._forget(directory)
            raise

    def _is_last(self, directory: Node, name: str, seen: Begun | None) -> bool:
        """Whether *name* is the last in *directory*, which S3 shows only because of its names."""
        if self._stays(directory):
            return False
        if seen is not None:
            return seen.last
        return all(each.key == name for each in self._children(directory, 2))

    def _stays(self, directory: Node) -> bool:
        """Whether *directory* is there whatever names it has."""
        key = directory.key
        own = self._mimicdb.entry(directory.bucket, key) if key else None
        return not key or (own is not None and own.kind != LISTED)

    def _children(self, directory: Node, count: int) -> list[Entry]:
        children = self._mimicdb.children
        return self._syncer.sure(lambda: children(directory.bucket, directory.key, "", count))

    def _keeps(self, directory: Node, name: str, seen: Begun | None) -> bool:
        """Say that *directory* stays; return whether only we have said so, and *name* was there.
        The word of another mount that removes the last name as well must not be taken back: so, in
        one step, this is said only if nobody has said it before. If *name* was gone by then, and
        nobody had said so, the directory went with it."""
        mimicdb, bucket, key = self._mimicdb, directory.bucket, directory.key
        since, own = self._own(directory) if seen is None else (seen.seq, seen.above)
        while True:
            if own is not None and own.kind != LISTED:
                return False
            with suppress(LogTrimmed):
                if mimicdb.keep(bucket, key, (own.meta or None) if own else None, since):
                    break
            since, own = self._own(directory)
        if mimicdb.has_still(bucket, name):
            return True
        if not mimicdb.went_behind(bucket, since, key, name):
            self._forget(directory)
        return False

    def _own(self, directory: Node) -> tuple[int, Entry | None]:
        """Return the number of the log, and what the store has of *directory* itself then, or
        since."""
        since = self._mimicdb.seq(directory.bucket)
        return since, stored_now(self._mimicdb, directory.bucket, directory.key)

    def _forget(self, directory: Node) -> None:
        """Take back the word that *directory* stays, also from the kernel, which has heard it."""
        self._mimicdb.forget(directory.bucket, directory.key)
        gone = Difference([], [], [directory.key], 0)
        self._mimicdb.announce(directory.bucket, gone)

    def _is_certain(self, bucket: str, name: str) -> bool:
        """Whether *name* is there, and no change of it is left open."""
        mimicdb = self._mimicdb
        return mimicdb.intents.is_settled(bucket, name) and mimicdb.has_still(bucket, name)

    def is_there(self, directory: Node) -> bool:
        """Whether the mirror has *directory*, or something in it."""
        bucket, key = directory.bucket, directory.key
        there = not key or self._mimicdb.entry(bucket, key) is not None
        return there or self._mimicdb.has_below(bucket, key)

    def keep(self, directory: Node) -> None:
        """Keep a directory that lost its object until it is removed."""
        bucket, key = directory.bucket, directory.key
        if not self._mimicdb.scan(bucket, key, key, 1):
            self._mimicdb.keep(bucket, key)

    @contextmanager
    def replacing(self, caller: Caller, node: Node, replaced: Node | None) -> Iterator[None]:
        """Within, *node* takes the name of *replaced*. The turns of the two are taken in one
        order."""
        with ExitStack() as stack:
            taken = [node] if replaced is None else sorted((node, replaced), key=_ino)
            for each in taken:
                stack.enter_context(self._handles.turn(each, caller.cancellation))
            if not node.is_directory:
                stack.enter_context(self._handles.moving(node, caller.cancellation))
            if replaced is not None and not replaced.is_directory:
                stack.enter_context(self._handles.leaving(replaced, caller.cancellation))
            if replaced is not None and replaced.is_directory:
                stack.enter_context(self._tree.removing(replaced))
            yield

    def replaceable(self, node: Node, target: Node, name: bytes, flags: int) -> Node | None:
        """Return the node at the new name, ready to be replaced. Raises the errors of POSIX."""
        try:
            replaced = self._tree.named(target, name)
        except PosixError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return None
        if flags & RENAME_NOREPLACE:
            raise PosixError(errno.EEXIST, repr(name))
        if replaced.is_directory != node.is_directory:
            raise PosixError(errno.EISDIR if replaced.is_directory else errno.ENOTDIR, repr(name))
        if replaced.is_directory:
            self.empty(replaced)
        return replaced


def _ino(node: Node) -> int:
    return node.ino


def _is_leftover(entry: Entry) -> bool:
    """Whether mimicfs has made the object *entry*, and nobody can need it any more."""
    needed = needed_s(entry.key) if entry.kind == OBJECT else None
    return needed == 0 or (needed is not None and _age_ns(entry) >= needed * NS)


def _age_ns(entry: Entry) -> int:
    return time.time_ns() - entry.mtime_ns
