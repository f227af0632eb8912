"""The tree that is seen: which names a directory has, and what stat(2) says of each. Reads the
mirror and the open files; changes nothing.

A question that the mirror cannot answer raises `Unlisted`, so that a caller that must not wait
never has to. `Syncer.sure` is for callers that may wait: it lists S3, and asks again.

A file that was created and not uploaded is not in the mirror (S3 has not confirmed it). Its
node has a File without an entry, and its directory shows it from there.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from mimicfs.config.values import VFSOptions
from mimicfs.entry import KEY_MAX, NS, OBJECT, Entry
from mimicfs.errors import NoSuchBucket, PosixError, StoreUnavailable, Unlearned, Unlisted
from mimicfs.files.file import File
from mimicfs.mimicdb import Mirror
from mimicfs.posix import UNKNOWN_MODE, Attr, DirEntry, PassingAttr
from mimicfs.s3.requests.ownkeys import is_own
from mimicfs.sync import Syncer
from mimicfs.vfs import names
from mimicfs.vfs.attributes import Attributes
from mimicfs.vfs.coming import NextAnswers, names_in
from mimicfs.vfs.firstlook import FirstLook
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.inodes import Inodes, number_of
from mimicfs.vfs.justabsent import JustAbsent
from mimicfs.vfs.kernel import asked
from mimicfs.vfs.nodes import CONTROL_SLOT, Node, NodeKind, check_present, parent_of, slot_of
from mimicfs.vfs.readdir import ListedRow, Listing, Listings, first_fitting, index_of
from mimicfs.vfs.rootattributes import RootAttributes
from mimicfs.vfs.walking import Walking

log = logging.getLogger(__name__)

_SHOWN_MAX = 100_000  # directories whose time of listing is remembered
_BUCKET_NAME_MAX = 63  # bytes (S3 user guide, "Bucket naming rules")

# The meaning of a name: a slot in its directory, and how to show the node in it.
SlotFound = tuple[str, Callable[[Node], Attr]]


class Tree:
    def __init__(
        self,
        mimicdb: Mirror,
        syncer: Syncer,
        inodes: Inodes,
        handles: Handles,
        look: FirstLook,
        roots: RootAttributes,
        options: VFSOptions,
    ) -> None:
        self._mimicdb = mimicdb
        self._roots = roots
        self._look_first = look
        self._handles = handles
        self._syncer = syncer
        self._inodes = inodes
        self._buckets = options.buckets
        self._attributes = Attributes(options)
        self._plain = Attributes(options, believed=False)
        self._reserved = names.WITH_VERSIONS if options.versions else names.RESERVED
        self._listings = Listings(mimicdb, self._reserved)
        self._shown_ns: dict[int, int] = {}  # by directory: when the shown names were listed
        self._walking = walking = Walking()
        self._coming = NextAnswers(
            mimicdb, inodes, self._listings, look, walking, self._shown, handles.unsaved
        )
        self._started_ns = time.time_ns()
        self._absent = JustAbsent()

    # Names

    def directory(self, ino: int) -> Node:
        node = self._inodes.get(ino)
        if not node.is_directory:
            raise PosixError(errno.ENOTDIR, f"inode {ino}")
        if node.is_nameless:
            raise PosixError(errno.ENOENT, f"inode {ino}: a directory that was removed")
        return node

    @contextmanager
    def removing(self, directory: Node) -> Iterator[None]:
        """Within, *directory* is removed. A process that has it open goes on with the attributes
        that were stored with it."""
        own, _ = self._own(directory)
        yield
        directory.gone = directory.gone or own
        self._inodes.unlink(directory)

    def changeable(self, ino: int) -> Node:
        """Return the directory *ino*, in which names are to be changed. Raises PosixError EROFS."""
        node = self.directory(ino)
        check_present(node)
        return node

    def check_there(self, ino: int) -> None:
        """Raise PosixError ENOENT if others have removed or renamed the directory *ino*."""
        directory = self.changeable(ino)
        if directory.key and directory.parent is not None:
            name = names.file_name(directory.component, reserved=self._reserved)
            if self.named(directory.parent, name) is not directory:
                raise PosixError(errno.ENOENT, f"inode {ino}")

    def lookup(self, directory: Node, name: bytes) -> Attr:
        """Return the attributes of *name*, held once more. Raises PosixError ENOENT."""
        if name == names.CONTROL:
            with self._inodes.holding(directory, CONTROL_SLOT, NodeKind.CONTROL) as node:
                return self.attr(node)
        generation = self._mimicdb.generation
        try:
            slot, shown = self._look(directory, name)
        except PosixError as exc:
            if exc.errno == errno.ENOENT:
                self._absent.note(directory, name, generation)
            raise
        node = self._inodes.child(directory, slot, _kind(slot), hold=True)
        try:
            return self._handles.told(node, shown(node))
        except BaseException as exc:  # `holding` would cost 1 us
            self._inodes.forget(node.ino, 1)
            if isinstance(exc, Unlearned):
                self._handles.looked_up(directory, exc.key)
            raise

    def named(self, directory: Node, name: bytes) -> Node:
        """Return the node of *name*, for a caller that may wait. Raises PosixError ENOENT."""
        self._check_ours(name)
        slot, _ = self._syncer.sure(lambda: self._look(directory, name))
        return self._inodes.child(directory, slot, _kind(slot), hold=False)

    def new_name(self, directory: Node, name: bytes, *, of_directory: bool = False) -> str:
        """Return the component that *name* will stand for. Raises PosixError EEXIST."""
        component = self.component(directory, name, of_directory=of_directory)
        try:
            self._syncer.sure(lambda: self._look(directory, name))
        except PosixError as exc:
            if exc.errno == errno.ENOENT:
                return component
            raise
        raise PosixError(errno.EEXIST, repr(name))

    def new_name_at_once(self, directory: Node, name: bytes) -> str:
        """Return the same without a wait; "": it is not known, or the marker of the directory."""
        component = self.component(directory, name)
        just = self._absent.is_so(directory, name, self._mimicdb.generation)
        try:
            if just and self._inodes.find(directory, component) is None:
                self._handles.departures.check(directory)
                return component
            self._look(directory, name)
        except Unlisted:
            return ""
        except PosixError as exc:
            if exc.errno == errno.ENOENT:
                return component
            raise
        raise PosixError(errno.EEXIST, repr(name))

    def component(self, directory: Node, name: bytes, *, of_directory: bool = False) -> str:
        """Return the component for *name*, which something is to get in *directory*. Raises
        PosixError ENAMETOOLONG if no key can be so long, EINVAL if no directory can have the name.
        """
        self._check_ours(name)
        component, beside = names.component(name, self._reserved)
        if of_directory and beside:
            raise PosixError(errno.EINVAL, f"{name!r}: the name of an object beside a directory")
        if len(component.encode()) > self.name_max(directory):
            key = directory.key + component
            if of_directory or self._mimicdb.entry(directory.bucket, key) is None:
                raise PosixError(errno.ENAMETOOLONG, f"a key in S3 has at most {KEY_MAX} bytes")
        return component

    @staticmethod
    def name_max(directory: Node) -> int:
        """Return how many bytes a new name in *directory* can have, also a directory's (+ "/")."""
        if directory.kind == NodeKind.ACCOUNT:
            return _BUCKET_NAME_MAX
        return max(0, KEY_MAX - 1 - len(directory.key.encode()))

    def _check_ours(self, name: bytes) -> None:
        if os.fsdecode(name) in self._reserved or is_own(os.fsdecode(name)):
            raise PosixError(errno.EPERM, f"{name!r}: mimicfs uses this name itself")

    def _look(self, directory: Node, name: bytes) -> SlotFound:
        self._handles.departures.check(directory)
        if len(name) > names.NAME_MAX:
            raise PosixError(errno.ENAMETOOLONG, f"a name has at most {names.NAME_MAX} bytes")
        try:
            component, beside = names.component(name, self._reserved)
        except PosixError as exc:  # the name of no key
            raise PosixError(errno.ENOENT, repr(name)) from exc
        self._check_age(directory)
        if directory.kind == NodeKind.ACCOUNT:
            return self._look_bucket(component)
        held = self._inodes.find(directory, component)
        if held is not None and (file := held.file) is not None and file.entry is None:
            return component, lambda node: self._shown(node.bucket).of_file(node, file)
        if beside and not component:
            return self._look_marker(directory)
        if is_own(component):
            raise PosixError(errno.ENOENT, "an auxiliary object of mimicfs")
        generation = self._mimicdb.generation
        with asked(directory):
            place = (directory.bucket, directory.key, component)
            entry, below = self._mimicdb.lookup(*place)
            if below is None and self._is_newly_away(directory, component):
                # the kernel is told of changes from here on
                entry, below = self._mimicdb.lookup(*place)
        if below is not None and not beside:
            return component + "/", lambda node: self._directory_attr(node, below)
        if entry is None:  # NAME%file is valid even while no directory has the plain name
            _, key, _ = place
            short = 4 * (len(key) + len(component)) < KEY_MAX  # in UTF-8
            too_long = not short and len(component.encode()) > self.name_max(directory)
            raise PosixError(errno.ENAMETOOLONG if too_long else errno.ENOENT, repr(name))
        return component, lambda node: self._object_attr(node, entry, generation)

    def _is_newly_away(self, directory: Node, component: str) -> bool:
        """Note that the kernel is going to hold as absent the directory *component*, whose node
        somebody holds; return whether that is news."""
        held = self._inodes.find(directory, slot_of(component, directory=True))
        if held is None or held.away:
            return False
        held.away = True
        return True

    def _look_bucket(self, name: str) -> SlotFound:
        try:
            bucket = self._mimicdb.bucket(name)
        except NoSuchBucket as exc:
            raise PosixError(errno.ENOENT, name) from exc
        return name + "/", lambda node: self._bucket_attr(node, bucket.created_ns)

    def _look_marker(self, directory: Node) -> SlotFound:
        generation = self._mimicdb.generation
        entry = self._mimicdb.entry(directory.bucket, directory.key) if directory.key else None
        if entry is None or entry.kind != OBJECT:  # nobody knows that it is there
            self._mimicdb.children(directory.bucket, directory.key, "", 1)
        if entry is None or not entry.size:
            raise PosixError(errno.ENOENT, "the content of a directory marker")
        return "", lambda node: self._object_attr(node, entry, generation)

    # Attributes

    def attr(self, node: Node, file: File | None = None) -> Attr:
        """Return the attributes of *node*, or those of *file* if the caller has that open."""
        attr = self._handles.told(node, self._attr(node, file))
        return attr._replace(nlink=0) if node.is_nameless else attr

    def _attr(self, node: Node, file: File | None) -> Attr:
        if node.kind == NodeKind.CONTROL:
            return self._attributes.of_control(node.ino, self._listed_ns(parent_of(node)))
        if node.kind == NodeKind.ACCOUNT:
            return self._bucket_attr(node, self._started_ns)
        if node.kind == NodeKind.DIRECTORY:
            return self._directory_attr(node, *self._own(node))
        file = file or node.file
        if file is not None:
            return self._file_attr(node, file)
        generation = self._mimicdb.generation
        return self._object_attr(node, self.entry(node), generation)

    def entry(self, node: Node) -> Entry:
        """Return what the mirror has of an object. Raises PosixError ENOENT; ESTALE where the name
        stands for another node by now, or is just going: then the kernel looks it up again."""
        self._handles.departures.check(node)
        entry = self._mimicdb.surely(node.bucket, parent_of(node).key, node.component)
        if entry is None or entry.kind != OBJECT:
            wrong = errno.ESTALE if node.leaving else errno.ENOENT
            raise PosixError(wrong, f"s3://{node.bucket}/{node.key}")
        return entry

    def _own(self, directory: Node) -> tuple[Entry | None, bool]:
        """Return what the mirror has of a directory itself, and whether that is certain. While the
        store is away, a bucket about which nobody has asked before is shown as if nothing had been
        set; the kernel asks again."""
        self._handles.departures.check(directory)
        key = directory.key
        if directory.is_nameless:
            return directory.gone, True
        if key:
            return self._mimicdb.entry(directory.bucket, key), True
        try:
            return self._roots.entry(directory.bucket), True
        except StoreUnavailable:
            return None, False

    def _shown(self, bucket: str) -> Attributes:
        return self._attributes if self._buckets.of(bucket).keeps_metadata else self._plain

    def _object_attr(self, node: Node, entry: Entry, generation: int) -> Attr:
        file = node.file
        if file is not None and file.dirty:
            return self._shown(node.bucket).of_file(node, file)
        entry = self._mimicdb.newest(node.bucket, entry, generation)
        if entry.meta is None and node.parent is not None:
            self._look_first.check(node.bucket, node.parent.key, entry.key, entry)
        attr = self._shown(node.bucket).of_object(node.ino, entry)
        node.special = not stat.S_ISREG(attr.mode)
        return attr

    def _file_attr(self, node: Node, file: File) -> Attr:
        """Return the attributes of an open file; if it is as S3 has it, what was learned since."""
        if not (file.dirty or file.apart) and file.entry is not None:
            opened = file.just_opened(self._mimicdb.generation)
            known = opened or self._mimicdb.entry(file.bucket, file.key)
            if known is not None and (known.etag, known.size) == (file.etag, file.size):
                return self._shown(node.bucket).of_object(node.ino, known)
        return self._shown(node.bucket).of_file(node, file)

    def _directory_attr(self, node: Node, own: Entry | None, certain: bool = True) -> Attr:
        node.content = own is not None and own.kind == OBJECT and own.size > 0
        if (own is None or own.meta is None) and not node.is_nameless:
            above = node.parent if node.parent is not None else node
            self._look_first.check(node.bucket, above.key, node.key, own)
        since_ns = self._created_ns(node.bucket)
        attr = self._shown(node.bucket).of_directory(node.ino, own, node.mtime_ns, since_ns)
        return attr if certain else PassingAttr(*attr)

    def _bucket_attr(self, node: Node, created_ns: int) -> Attr:
        own, certain = self._own(node)
        attr = self._shown(node.bucket).of_directory(node.ino, own, node.mtime_ns, created_ns)
        return attr if certain else PassingAttr(*attr)

    def _created_ns(self, bucket: str) -> int:
        return self._roots.created_ns(bucket) or self._started_ns

    def _listed_ns(self, directory: Node) -> int:
        scope = self._mimicdb.cover(directory.bucket, directory.key)
        return scope.listed_ns if scope is not None else self._started_ns

    # How old it may be

    def _check_age(self, directory: Node) -> int:
        """Return when *directory* was listed (0: nobody needs to know). Raises Unlisted if that is
        longer ago than the time-to-live of its bucket."""
        ttl_s = self._buckets.of(directory.bucket).ttl_s
        if not ttl_s:
            return 0
        if directory.kind == NodeKind.ACCOUNT:
            scope = self._mimicdb.scope("", "")
        else:
            scope = self._mimicdb.cover(directory.bucket, directory.key)
        ended_ns = scope.listed_ns + scope.duration_ns if scope is not None else 0
        if time.time_ns() - ended_ns > ttl_s * NS:
            raise Unlisted(directory.bucket, directory.key)
        return ended_ns

    def opendir(self, directory: Node) -> bool:
        """Answer posix.FileSystem.opendir: a listing is right until the directory is listed
        again."""
        ended_ns = self._check_age(directory)
        right = self._shown_ns.get(directory.ino) == ended_ns
        if len(self._shown_ns) > _SHOWN_MAX:
            self._shown_ns.clear()
        self._shown_ns[directory.ino] = ended_ns
        return right

    # Listing

    def readdir(
        self, directory: Node, cookie: int, size: int, overhead: int, hold: bool
    ) -> list[DirEntry]:
        """Answer posix.FileSystem.readdir. May return fewer names than fit; [] only at the end."""
        if directory.kind == NodeKind.ACCOUNT:
            return self._read_account(directory, cookie, size, overhead, hold)
        self._handles.departures.check(directory)
        if cookie and self._listings.ended(directory, cookie):
            return []
        listing = self._listings.at(directory, cookie, lambda: self._handles.unsaved(directory))
        room = (size, overhead)
        if hold and not cookie:
            made = self._coming.take(directory, listing, room)
            if made is not None:
                self._walking.begins(directory.ino)
                return made
        index = index_of(cookie)
        fitting, nodes, asks, at = self._hold_rows(directory, listing, index, room, hold)
        if not fitting:
            return []
        mtime_ns = self._created_ns(directory.bucket)
        if not cookie:
            self._walking.begins(directory.ino)
        found: list[DirEntry] = []
        of_object, newest = self._shown(directory.bucket).of_object, self._mimicdb.newest
        unknown = self._unknown(directory, fitting, nodes, hold) if asks else set()
        for (name, slot, entry), node in zip(fitting, nodes, strict=True):
            index += 1
            if node in unknown:
                attr = Attr(number_of(node), UNKNOWN_MODE, 0, 0, 0, 0)
            elif isinstance(node, Node) and (slot[-1:] == "/" or node.file is not None):
                attr = self._row_attr(node, entry, mtime_ns, at)
            else:
                now = newest(node.bucket, entry, at) if isinstance(node, Node) else entry
                attr = of_object(number_of(node), now)
                if now.meta:
                    self._note_special(directory, slot, attr)
            found.append(DirEntry(name, attr, listing.cookie(index)))
        rows = zip(fitting, nodes, strict=True)
        self._walking.shows([number_of(node) for (_, slot, _), node in rows if slot[-1:] == "/"])
        return found

    def _note_special(self, directory: Node, slot: str, attr: Attr) -> None:
        """Note whether the object in *slot* is shown as something other than a regular file."""
        special = not stat.S_ISREG(attr.mode)
        node = self._inodes.find(directory, slot) if special else directory.below(slot)
        if node is not None:
            node.special = special

    def _hold_rows(
        self, directory: Node, listing: Listing, index: int, room: tuple[int, int], hold: bool
    ) -> tuple[list[ListedRow], list[Node | int], bool, int]:
        """Return the rows from *index* on that fit in *room*, their nodes, whether S3 may first
        have to be asked what is stored with some of them, and the generation of the mirror.

        From now on the kernel is told of changes of these nodes. It was not told of a change
        between reading the rows and making the nodes: then the rows are read again.
        """
        want = names_in(room)
        nodes: list[Node | int] = []
        while True:
            generation = self._mimicdb.generation
            with listing.lock, asked(directory), self._mimicdb.one_state():
                fitting = first_fitting(listing.rows(index, generation, want), *room)
                asks = bool(fitting) and self._look_first.needs(directory.bucket, directory.key)
            before = nodes
            nodes = self._inodes.listed(directory, [slot for _, slot, _ in fitting], hold)
            for node in before if hold else ():
                self._inodes.forget(number_of(node), 1)
            if self._mimicdb.generation == generation or _same(nodes, before):
                self._coming.goes_on(listing, index + len(fitting), want)
                return fitting, nodes, asks, generation

    def _unknown(
        self, directory: Node, rows: list[ListedRow], nodes: list[Node | int], hold: bool
    ) -> set[Node | int]:
        """Return the nodes whose attributes cannot be shown before S3 was asked what is stored with
        them. They are not held."""
        bucket, look = directory.bucket, self._look_first
        found = {
            node
            for (_, _, entry), node in zip(rows, nodes, strict=True)
            if entry.meta is None and (not isinstance(node, Node) or node.file is None)
            if not look.knows(bucket, entry.key, entry)
        }
        for node in found if hold else ():
            self._inodes.forget(number_of(node), 1)
        return found

    def idle(self) -> list[DirEntry] | None:
        """Answer posix.FileSystem.idle."""
        return self._coming.idle()

    def _row_attr(self, node: Node, entry: Entry, mtime_ns: int, generation: int) -> Attr:
        if (file := node.file) is not None:
            return self._handles.told(node, self._shown(node.bucket).of_file(node, file))
        if not node.is_directory:  # the file was closed just now
            entry = self._mimicdb.newest(node.bucket, entry, generation)
            return self._shown(node.bucket).of_object(node.ino, entry)
        node.content = entry.kind == OBJECT and entry.size > 0
        return self._shown(node.bucket).of_directory(node.ino, entry, node.mtime_ns, mtime_ns)

    def _read_account(
        self, directory: Node, cookie: int, size: int, overhead: int, hold: bool
    ) -> list[DirEntry]:
        found: list[DirEntry] = []
        with ExitStack() as held:
            for place, bucket in enumerate(self._mimicdb.buckets()[cookie:], start=cookie + 1):
                name = names.file_name(bucket.name)
                size -= (overhead + len(name) + 7) & ~7
                if size < 0:
                    break
                slot = slot_of(bucket.name, directory=True)
                node = self._inodes.child(directory, slot, NodeKind.DIRECTORY, hold)
                if hold:
                    held.callback(self._inodes.forget, node.ino, 1)
                found.append(DirEntry(name, self._bucket_attr(node, bucket.created_ns), place))
            held.pop_all()  # the kernel holds them
        if any(type(each.attr) is PassingAttr for each in found):  # the kernel holds a page as one
            return [each._replace(attr=PassingAttr(*each.attr)) for each in found]
        return found


def _same(nodes: list[Node | int], before: list[Node | int]) -> bool:
    """Whether all *nodes* were there *before*."""
    return set(map(number_of, nodes)) <= set(map(number_of, before))


def _kind(slot: str) -> NodeKind:
    return NodeKind.DIRECTORY if slot.endswith("/") else NodeKind.OBJECT
