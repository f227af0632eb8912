"""Renames. S3 has none: the server copies an object, then the old one is deleted.

Open files go along: after the copy they are read and written at the new place. renames.py renames
directories. The mirror follows each request that S3 has confirmed.

Threading: called by one thread for one rename; the kernel holds the locks of both parents.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial

from mimicfs.backends.pending import Begun
from mimicfs.entry import OBJECT, Difference, Entry, pages
from mimicfs.errors import (
    BeingRenamed,
    KeyNotFound,
    MimicError,
    ObjectChanged,
    PosixError,
    S3Error,
    StoreError,
)
from mimicfs.files.file import File
from mimicfs.intent import StoreIntent
from mimicfs.mimicdb import Mirror
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.sync import Syncer
from mimicfs.vfs.claims import RenameClaim, RenameClaims
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.intents import Copy, KeyTree
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.nodes import Node, NodeKind, slot_of
from mimicfs.vfs.renames import Rename, Renames, is_alike, is_quiet, stored_now
from mimicfs.vfs.vacated import Vacated

log = logging.getLogger(__name__)

_TELL_KERNEL_S = 2.0
_ROUNDS_OF_ONE = 100  # so often a file is copied again because others change its attributes


class NamePlace:
    """A directory and a component in it: the place of something, before or after the rename."""

    def __init__(self, parent: Node, component: str) -> None:
        self.parent = parent
        self.component = component
        self.bucket = parent.bucket
        self.key = parent.key + component

    @property
    def place(self) -> tuple[str, str]:
        return self.bucket, self.key

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class FileCopy:
    """What a rename of a file has copied from *source* to *key* of *bucket*: the newest *entry*,
    and what is stored with it if that differs from the original."""

    def __init__(self, source: tuple[str, str], bucket: str, key: str) -> None:
        self.source = source
        self.bucket, self.key = bucket, key
        self.entry, self.of = Entry(key), ""  # the ETag of the version that it is a copy of
        self.content: Content | None = None
        self.times = 0  # how often it was copied
        self.alone = True  # nothing was there before, and nobody else changed it meanwhile
        self.seq = 0  # of the bucket, before the first copy
        self.deletion: StoreIntent | None = None  # of the original, as far as the store knows of it

    def made(
        self,
        of: str,
        entry: Entry,
        content: Content | None,
        begun: tuple[StoreIntent, Begun] | None,
    ) -> None:
        """Note that S3 has made it *of* a version, as *begun* in the store."""
        if begun is None:
            self.alone = False
        else:
            intent, seen = begun
            self.seq = self.seq or seen.seq
            was_there = not self.times and seen.entry is not None
            met = seen.met or intent.contended or not intent.taken
            self.alone = self.alone and not (was_there or met)
        self.entry, self.of, self.content = entry, of, content
        self.times += 1

    @property
    def place(self) -> tuple[str, str]:
        return self.bucket, self.key


# Deletes a copy if nobody else can have touched it, and returns whether it is gone.
TakeBack = Callable[[FileCopy], bool]


class Mover:
    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        syncer: Syncer,
        inodes: Inodes,
        handles: Handles,
        renames: Renames,
        claims: RenameClaims,
        kernel: Kernel,
        vacated: Vacated,
    ) -> None:
        self._vacated = vacated
        self._kernel = kernel
        self._renames = renames
        self._claims = claims
        self._handles = handles
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._inodes = inodes

    def move_file(
        self,
        cancellation: Cancellation,
        source: NamePlace,
        target: NamePlace,
        take_back: TakeBack,
        *,
        replace: bool,
    ) -> None:
        """Move one object; with *replace*, over another one if there is one. Raises PosixError
        EEXIST if there is one, without *replace*; ObjectChanged where somebody replaced the source
        meanwhile: then that stays. *take_back* deletes the copy of what others have moved or
        deleted meanwhile.

        From the first copy on nothing interrupts it. A copy whose end nobody awaits would replace
        what a program stores under the new name after it was told that the rename has failed."""
        node = self._inodes.find(source.parent, source.component)
        file = node.file if node is not None else None
        if node is not None:
            self._handles.flush_node(node, cancellation)
        entry = self._mimicdb.entry(source.bucket, source.key)
        if entry is None:
            raise PosixError(errno.ENOENT, str(source))
        if not replace:  # the mirror knows of none; S3 may
            self._s3.conditions.check(target.bucket, target.key, Condition(absent=True))
        copy = FileCopy(source.place, *target.place)
        with ExitStack() as stack:  # within, the deletion is announced to the store
            original = self._copied_as_it_is(source, entry, target, copy, stack, replace=replace)
            if original is None and take_back(copy):
                raise PosixError(errno.ENOENT, f"{source}: others have moved or deleted it")
            if file is not None:  # first: a read between the two requests must find the object
                file.move(*target.place, copy.entry, copy.content, source=copy.of)
            try:
                if original is not None:
                    self._delete(source, original, copy)
            except BaseException:
                if file is not None:
                    file.move(source.bucket, source.key, original, source=copy.entry.etag)
                raise
        if node is not None:
            self._inodes.move(node, target.parent, target.component)
            self._kernel.copied(node, original or entry, copy.entry, surely=True)
        self._vacated.moved(source.place, target.place)

    def _copied_as_it_is(
        self,
        source: NamePlace,
        entry: Entry,
        target: NamePlace,
        copy: FileCopy,
        stack: ExitStack,
        *,
        replace: bool,
    ) -> Entry | None:
        """Copy *entry* to *target*, and do it again if others have meanwhile changed what is stored
        with it, which no ETag shows. Then begin the deletion of it in *stack*. Return the original;
        None: S3 has none any more, by somebody else, and there is a copy of it."""
        for tried in range(_ROUNDS_OF_ONE):
            try:
                self._copy(source, entry, target, copy, replace)
            except KeyNotFound:
                if copy.times and not self._etag_now(*source.place):
                    return None
                raise
            with ExitStack() as beginning:
                now, quiet = self._begin_deletion(beginning, source, copy)
                quiet = quiet or tried > 0
                if now is not None and (now.etag != entry.etag or (quiet and is_alike(entry, now))):
                    stack.push(beginning.pop_all())
                    return entry
            if not quiet:
                is_quiet(self._mimicdb, *source.place, NEVER)
                now = stored_now(self._mimicdb, *source.place)
            if now is None and not self._etag_now(*source.place):
                return None
            entry = now or entry
        raise PosixError(errno.EBUSY, f"{source}: others go on changing what is stored with it")

    def _delete(self, source: NamePlace, original: Entry, copy: FileCopy) -> None:
        """Delete *original*. Raises ObjectChanged if there is another version: the kernel calls
        again, and moves that. Raises PosixError EIO if S3 may have deleted *original* before, by an
        attempt that it has not answered: what was made since must not replace *copy*."""
        try:
            self._s3.conditions.delete(source.bucket, source.key, original.etag)
        except ObjectChanged as exc:
            if copy.deletion is None or not copy.deletion.unsure:
                raise
            text = (
                f"it is at {copy.key}; what is there now was stored before it was deleted, or since"
            )
            raise PosixError(errno.EIO, f"{source}: {text}") from exc

    def _begin_deletion(
        self, stack: ExitStack, place: NamePlace, copy: FileCopy
    ) -> tuple[Entry | None, bool]:
        """Within *stack*, the object at *place* is deleted, of which there is *copy*. Return what
        the store has of it, and whether nobody else changes it. Where a deletion needs a HEAD, it
        begins behind that: what a HEAD shows of a key that is being changed makes it contended."""
        with suppress(BeingRenamed):  # since it was copied: that cannot be taken back
            if self._looks_at_etags(place):
                begun = stack.enter_context(self._claims.begun(*place.place, deletes=True))
                if begun is not None:
                    copy.deletion, seen = begun
                    return seen.entry, not seen.met
        quiet = is_quiet(self._mimicdb, *place.place, NEVER)
        return stored_now(self._mimicdb, *place.place), quiet

    def _looks_at_etags(self, place: NamePlace) -> bool:
        """Whether S3 looks at the ETag of a deletion at *place*. If nobody knows, and there are
        other mounts, it is tried: by their intents two mounts see that they delete the same."""
        form = self._s3.conditions.of_deletes(place.bucket)
        if form is None and sum(each.alive for each in self._mimicdb.member.others()) > 1:
            try:  # where *place* is: there this account may delete what it has tried with
                form = self._s3.conditions.honoured(*place.place).delete
            except S3Error as exc:
                log.debug("nobody knows how s3://%s deletes: %s", place.bucket, exc)
        return bool(form)

    def _copy(
        self, source: NamePlace, entry: Entry, target: NamePlace, copy: FileCopy, replace: bool
    ) -> None:
        """Copy *entry* to *target*, and note that as *copy*."""
        kept, content, replaced = self._s3.kept, None, None
        known = self._mimicdb.entry(target.bucket, target.key)
        if replace and known is not None and known.kind == OBJECT:
            with suppress(KeyNotFound):
                replaced = kept.remembered(target.bucket, known) or kept.content_of(*target.place)
        elif replace:
            replaced = self._vacated.stored(target.place)
        old, new = source.place, target.place
        if replaced or kept.usual(*old) != kept.usual(*new):
            own = kept.remembered(source.bucket, entry) or kept.content_of(*old)
            content = kept.successor(own, old, new, replaced)
            content = None if content == own else content
        beside = [source.key] if source.bucket == target.bucket else []
        with self._claims.begun(*target.place, *beside) as begun:
            try:
                made = self._s3.copy((source.bucket, entry), target.bucket, target.key, content)
            except KeyNotFound:
                unheard = self._made_unheard(entry, target, begun)
                if unheard is None:
                    raise
                made = unheard
        copy.made(entry.etag, made, content, begun)

    def _made_unheard(
        self, entry: Entry, target: NamePlace, begun: tuple[StoreIntent, Begun] | None
    ) -> Entry | None:
        """Return the copy of *entry* that S3 has made by an attempt which it has not answered,
        before it said to the next one that there is no original. *begun*: in the store. None: there
        is none, or it was there before."""
        now = stored_now(self._mimicdb, *target.place)  # as learning.py has looked
        if begun is None or now is None or now.etag != entry.etag:
            return None
        intent, seen = begun
        was_there = seen.entry is not None and seen.entry.etag == now.etag
        return now if intent.unsure and not was_there else None

    def move_directory(
        self, cancellation: Cancellation, source: NamePlace, target: NamePlace
    ) -> None:
        """Move everything below one directory to another name. Once that is copied, the directory
        is there, also if S3 does not delete all originals (PosixError EIO)."""
        old, new = (
            KeyTree(source.bucket, source.key + "/"),
            KeyTree(target.bucket, target.key + "/"),
        )
        if old.bucket == new.bucket and new.prefix.startswith(old.prefix):
            raise PosixError(errno.EINVAL, f"{target} is below {source}")
        node = self._inodes.find(source.parent, slot_of(source.component, directory=True))
        for below in self._inodes.below(node) if node is not None else ():
            self._handles.flush_node(below, cancellation)
        with ExitStack() as leaves, self._claims.held(cancellation, old, new) as claim:
            rename = self._renamed(cancellation, node, (old, new), claim, leaves)
            try:
                rename.delete(partial(claim.holds, cancellation), claim.was_lost)
            except BaseException:
                self._contradict(source, target)
                raise
            finally:
                self._arrive(node, rename, target)

    def _arrive(self, node: Node | None, rename: Rename, target: NamePlace) -> None:
        """Let the directory *node*, and files in it that were opened meanwhile, be at *target*."""
        if node is not None:
            self._inodes.move(node, target.parent, target.component)
        self._go_along(node, rename, {})
        if rename.late:  # the kernel may not know yet what others did at the old place
            late = [rename.new.prefix + name for name in rename.late]
            self._mimicdb.announce(rename.new.bucket, Difference(late, [], [], 0))

    def _contradict(self, source: NamePlace, target: NamePlace) -> None:
        """Have the kernel look up both names anew, as it is about to hear that the rename has
        failed. It keeps their directories locked until then: it may take what it is told of single
        names only behind that."""
        self._kernel.unheard(target.parent.ino)
        self._kernel.told(_TELL_KERNEL_S)
        for place in (source, target):
            self._kernel.name_gone(place.parent, place.component)
            self._kernel.passing(place.parent)

    def _renamed(
        self,
        cancellation: Cancellation,
        node: Node | None,
        trees: tuple[KeyTree, KeyTree],
        claim: RenameClaim,
        leaves: ExitStack,
    ) -> Rename:
        """Rename the one of *trees*, of the directory *node*, to the other, but for the deletion of
        the originals; nobody else does. Until *leaves* ends, nobody in this mount does anything
        below."""
        old, new = trees
        self._know_all(cancellation, old)
        rename = self._renames.begin(cancellation, old, new)
        rename.ahead = lambda: {file.key: file for file in self._standing(node, rename.new)}
        along: dict[str, File] = {}
        try:
            rename.copy(cancellation)
            for _ in self._open_below(node, rename.old, cancellation):
                pass  # so that nobody waits below the directory for a large file that is being sent
            leaves.enter_context(self._handles.departures.leaving(node, cancellation))
            self._go_along(node, rename, along, cancellation, settled=False)
            rename.settle(cancellation)
            while not claim.holds(cancellation):  # somebody else may have renamed it meanwhile
                rename.settle(cancellation)
            self._go_along(node, rename, along, cancellation)  # before the originals are deleted
            rename.commit()
        except BaseException:
            self._go_back(rename, along)
            self._undo(rename)
            raise
        return rename

    def _know_all(self, cancellation: Cancellation, tree: KeyTree) -> None:
        """List the directory to its depth unless that was done once. Keys that the mirror has not
        seen would be copied only in the second round."""
        cover = self._mimicdb.cover(*tree)
        if cover is None or not cover.deep:
            self._syncer.sync(*tree, cancellation=cancellation)

    def _go_along(
        self,
        node: Node | None,
        rename: Rename,
        along: dict[str, File],
        cancellation: Cancellation = NEVER,
        *,
        settled: bool = True,
    ) -> None:
        """Let open files below *node* stand on their copies, and add them to *along* by their keys
        in it. Until the rename is *settled*, a new file stays where the new place has a copy of
        what had its name before, and a file whose object others have replaced stays, too. Raises
        Interrupted."""
        for file, name in self._open_below(node, rename.old, cancellation):
            copy = rename.copies.get(name)
            of_it = copy is not None and file.entry is not None and copy.original == file.etag
            if settled or of_it or (copy is None and file.entry is None):
                self._stand(file, rename.new, name, copy.copy if copy and of_it else "")
                along[name] = file

    def _go_back(self, rename: Rename, along: Mapping[str, File]) -> None:
        """Let the files that went *along* stand on the originals again. What they have uploaded to
        the new place meanwhile, also those that are closed by now, is copied back; if S3 refuses
        that, or others have changed the original, those bytes stay there."""
        for name, file in along.items():
            with file.still(NEVER):
                copy = rename.copies.get(name)
                if file.entry is None or (copy is not None and copy.copy == file.etag):
                    original = copy.original if copy is not None else ""
                    if _stands_in(rename.new, file):
                        self._stand(file, rename.old, name, original)
                elif not file.apart:
                    self._bring_back(rename, name, file, file.entry)

    def _bring_back(self, rename: Rename, name: str, file: File, uploaded: Entry) -> None:
        """Replace an original by what *file* has *uploaded* to the new place. If that cannot be,
        the file stands at the old place on a version that is gone, as `_stand` says."""
        key, copy, back = rename.old.prefix + name, rename.copies.get(name), None
        old, new = (f"s3://{rename.old.bucket}/{key}", f"s3://{rename.new.bucket}/{uploaded.key}")
        try:
            if self._etag_now(rename.old.bucket, key) == (copy.original if copy else ""):
                back = self._s3.copy((rename.new.bucket, uploaded), rename.old.bucket, key, None)
                rename.copies[name] = Copy(back.etag, uploaded.etag, back.mtime_ns, back.meta)
            else:
                log.error("%s is not copied back: others have changed %s", new, old)
        except MimicError as exc:
            log.error("%s is not copied back: %s", new, exc)
        file.move(rename.old.bucket, key, back)

    def _etag_now(self, bucket: str, key: str) -> str:
        """Return the ETag of what S3 has as *key*: the mirror may not know what others have put
        there. "": nothing."""
        try:
            return self._s3.head(bucket, key)[0].etag
        except KeyNotFound:
            return ""

    def _open_below(
        self, node: Node | None, tree: KeyTree, cancellation: Cancellation = NEVER
    ) -> Iterator[tuple[File, str]]:
        """Yield the open files below *node* that stand in *tree*, and their keys in it. Nobody
        changes or uploads a file that was yielded, and S3 has answered all that was asked for
        it."""
        for file in self._standing(node, tree):
            with file.still(cancellation):
                if _stands_in(tree, file):
                    yield file, file.key[len(tree.prefix) :]

    def _standing(self, node: Node | None, tree: KeyTree) -> Iterator[File]:
        """Yield the open files below *node* that stand in *tree*."""
        for below in self._inodes.below(node) if node is not None else ():
            file = below.file
            if below.kind == NodeKind.OBJECT and file is not None and _stands_in(tree, file):
                yield file

    def _stand(self, file: File, tree: KeyTree, name: str, etag: str) -> None:
        """Let *file* stand in *tree*, on the version *etag* of its bytes. If others have put
        another version there, the file stands on one that is gone (ESTALE): its bytes are not
        theirs."""
        key = tree.prefix + name
        entry = None
        with suppress(StoreError):  # if the store is away, nobody knows
            entry = self._mimicdb.entry(tree.bucket, key) if file.entry is not None else None
        entry = entry if entry is not None and entry.etag == etag else None
        file.move(tree.bucket, key, entry)

    def _undo(self, rename: Rename) -> None:
        try:
            rename.undo()
        except MimicError as exc:
            log.error("%s; the next mount undoes it: %s", rename.state(), exc)
        new, scan = rename.new, self._mimicdb.scan
        with suppress(MimicError):  # what is left there, of which nobody else tells the kernel
            for page in pages(lambda after: scan(new.bucket, new.prefix, after)):
                left = [entry.key for entry in page]
                self._mimicdb.announce(new.bucket, Difference(left, [], [], 0))


def _stands_in(tree: KeyTree, file: File) -> bool:
    return not file.apart and file.bucket == tree.bucket and file.key.startswith(tree.prefix)
