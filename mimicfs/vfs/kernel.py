"""The one owner of the kernel's view: what it holds of us, and what it must be told.

The kernel keeps names, attributes and pages until it is told otherwise. Every event that makes one
of them wrong comes here: a listing, a GET, a HEAD, another mount (`changed`), and what this mount
does in a way that the kernel cannot see (`replaced`, `name_gone`, `refused` ...). Nobody else
speaks to the notifier, and nobody else sets `Node.pages_etag`, the version whose pages the kernel
may have. The kernel needs not be told of a change that it has itself asked for.

Threading: any thread; `changed` runs in the thread that merged the change. The kernel is told by
threads of the notifier, so nothing here waits for it except `told`, `drops` and `drops_again`, with
a timeout. A thread that calls `told` holds no lock that an answer to a request needs; for the rest
it may hold `OpenFiles._lock`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from mimicfs import metadata
from mimicfs.entry import LISTED, Difference, Entry
from mimicfs.errors import Uncopied, Unlisted
from mimicfs.files.file import File
from mimicfs.mimicdb import Mirror
from mimicfs.posix import KernelCache
from mimicfs.vfs import names
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import Node, NodeKind, rest_of, slot_of

_PAGES_S = 10.0  # written pages go to the local disk only
_DROPS_S = 2.0
_WRITING_S = 0.1

_asking = threading.Lock()  # protects `Node.asked`; a leaf
_turns = count(1)


class Kernel:
    """Tells *cache*, that of the kernel, what the mirror and this mount have made wrong in it."""

    def __init__(
        self,
        mimicdb: Mirror,
        inodes: Inodes,
        cache: KernelCache,
        reserved: frozenset[str] = names.RESERVED,
    ) -> None:
        self._mimicdb = mimicdb
        self._reserved = reserved
        self._inodes = inodes
        self._kernel = cache
        self._locked = threading.local()  # .ino: see `locked`

    # Pages

    @staticmethod
    def has_pages(node: Node, entry: Entry) -> bool:
        """Whether the pages that the kernel may have of *node* are of the version *entry*."""
        return bool(entry.etag) and node.pages_etag == entry.etag

    @staticmethod
    def has_pages_of(node: Node, file: File) -> bool:
        """Whether the pages that the kernel may have of *node* are those of *file*, which is open,
        whatever version that has become."""
        return bool(node.pages_etag) and file.in_kernel == file.moves

    @staticmethod
    def reads(node: Node, entry: Entry) -> None:
        """Note that the kernel is going to have pages of *node*, of the version *entry*."""
        node.pages_etag = entry.etag

    def wrote(self, node: Node, etag: str) -> None:
        """Note that the kernel's pages of *node* became the version *etag*, as it wrote them."""
        node.pages_etag = etag
        self.returned(node)

    def copied(self, node: Node, old: Entry, new: Entry, *, surely: bool) -> None:
        """Note that the version *old* of *node* was copied within S3, *surely* or unless others
        had replaced it a moment before: then the pages are of other bytes than *new*."""
        if node.pages_etag != old.etag:
            node.pages_etag = ""
        elif surely or new.etag == old.etag:
            node.pages_etag = new.etag
        else:
            self.grew(node)

    # What this mount did and the kernel cannot see

    def replaced(self, node: Node) -> None:
        """Note that another object has replaced that of *node*, which is open. The new one gets a
        node of its own: the kernel has one set of pages for each node, and a reader of the old
        object must not find pages of the new one, nor the other way round."""
        parent, slot = node.parent, node.slot
        if parent is not None:
            node.displaced = parent, slot
        self._inodes.unlink(node)
        if parent is not None:
            self._name_changed(parent, slot)
            self._listing_changed(parent.ino)

    def followed(self, node: Node, file: File) -> None:
        """Note that *file*, which is open, stands on another version now, of which the kernel has
        no page yet. If that is shorter, it is told when the file is closed (File.shrunk)."""
        for each in node.also:
            self.grew(each)
        if file.follows or file.pages_before:  # it may have pages of the old one
            file.pages_before = False
            self.grew(node)
            return
        node.pages_etag = file.etag
        if not file.shrunk:  # a READ is answered next, and its reader may ask at once for the rest
            self._kernel.asked_anew(node.ino)

    def refused(self, node: Node) -> None:
        """Note that S3 refused what was written to *node*: its name shows S3's version again."""
        for each in node.also:
            self.grew(each)
        if node.parent is not None:
            self._drop_pages(node)
            self._name_changed(node.parent, node.slot)
            self._listing_changed(node.parent.ino)

    def name_gone(self, directory: Node, component: str) -> None:
        """Note that one name of the object *component* went, as the kernel knows. The object may
        have had two."""
        for beside in (False, True):
            self._kernel.entry_changed(directory.ino, self._name(component, beside))

    def returned(self, node: Node) -> None:
        """Note that *node*, and the directories above it, are there again after others had deleted
        them. Somebody has held their inodes all the time."""
        away = [(each, above) for each, above in _way_up(node) if each.away]
        for each, above in away:
            each.away = False
            self._name_changed(above, each.slot)
            self._listing_changed(above.ino)

    def grew(self, node: Node) -> None:
        """Correct the pages of *node*: the appended bytes are not where the kernel has put them in
        its pages."""
        node.pages_etag = ""
        self._drop_pages(node)

    def drops(self, nodes: Collection[Node], *, writing: bool, waits: bool = True) -> None:
        """As `grew`, of each of *nodes*; returns when the kernel has dropped the pages, which
        whoever is answered next may read. *writing*: a WRITE waits for this, but not for long, as
        the kernel may keep the last page of it locked. That one it reads anew; those before, and
        those of the other nodes, are dropped by then. Not *waits*: returns at once."""
        for node in nodes:
            node.pages_etag = ""
            if node.file is not None:
                node.file.dropping()
        self._drop_now(nodes, (_WRITING_S if writing else _DROPS_S) if waits else 0)

    def drops_again(self, nodes: Iterable[Node]) -> None:
        """As `drops`, before a WRITE is answered: the kernel may have read its pages of the present
        version anew after it had put into them what is written, and before that came here."""
        self._drop_now(nodes, _WRITING_S)

    def _drop_now(self, nodes: Iterable[Node], within_s: float) -> None:
        drops = {node.ino: node.drops() for node in nodes}
        self._kernel.drop_data(list(drops), within_s, lambda ino: drops[ino]())

    def _drop_pages(self, node: Node) -> None:
        if node.file is not None:
            node.file.dropping()
        self._kernel.data_changed(node.ino, node.drops())

    def keeps_size(self, node: Node) -> None:
        """Have the kernel take no size of *node* from what it has asked, and ask again."""
        self._kernel.asked_anew(node.ino)

    def changed_by(self, through: Node, node: Node) -> None:
        """Note that a program has changed the bytes of the file of *node* by the inode of
        *through*, which may be another one that the kernel has opened for that file: each has pages
        of its own. Returns when what is read by the others is the new."""
        self.drops([each for each in (node, *node.also) if each is not through], writing=True)

    def gives_up_pages(self, nodes: Iterable[Node]) -> bool:
        """Have the kernel write its pages of *nodes* and give them up; return whether it has."""
        given_up = list(nodes)
        for node in given_up:
            self._drop_pages(node)
        return not given_up or self.told(_PAGES_S)

    @contextmanager
    def changing(self, *places: tuple[Node, bytes]) -> Iterator[None]:
        """Within, *places*, names in directories, are changed for the kernel. If that fails after
        it has changed the mirror, the kernel, which believes them unchanged, is told."""
        before = self._mimicdb.changes_here
        try:
            yield
        except BaseException:
            for directory, name in places if self._mimicdb.changes_here != before else ():
                self._kernel.entry_changed(directory.ino, name)
                self._listing_changed(directory.ino)
                known = self._inodes.find(directory, names.component(name, self._reserved)[0])
                if known is not None and known.file is None:
                    self.grew(known)
            raise

    def attributes_changed(self, node: Node) -> None:
        """Tell the kernel that the mode, owner, size or times of *node* have changed."""
        self._kernel.attr_changed(node.ino)

    def unheard(self, ino: int) -> None:
        """Tell the kernel that something in *ino* has changed, though it was told otherwise."""
        self._kernel.attr_changed(ino)
        self._kernel.names_changed()
        self._kernel.listing_changed(ino)

    def passing(self, directory: Node) -> None:
        """Note that the names in *directory* are good only for the process that listed them."""
        self._kernel.listing_changed(directory.ino)

    def told(self, timeout_s: float) -> bool:
        """Wait until the kernel was told all of the above; return whether *timeout_s* sufficed."""
        return self._kernel.flush(timeout_s)

    # What the mirror learned

    @contextmanager
    def locked(self, ino: int) -> Iterator[None]:
        """Within, this thread answers a request for which the kernel keeps directory *ino* locked,
        and is going to wait for the kernel: so the kernel must not be told of a single name in it.
        """
        self._locked.ino = ino
        try:
            yield
        finally:
            self._locked.ino = 0

    def changed(self, bucket: str, difference: Difference | None) -> None:
        """Tell the kernel what *difference* made wrong; None: anything in the bucket may be."""
        if difference is None:
            self._anything(bucket)
            return
        listings: set[int] = set()
        read: set[int] = set()
        for key in difference.added:
            self._appeared(bucket, key, listings)
        for key in difference.deleted:
            self._vanished(bucket, key, listings)
        for key in difference.changed:
            self._differs(bucket, key, read)
        for ino in listings:
            self._listing_changed(ino)

    def _listing_changed(self, ino: int) -> None:
        # nobody reads the directory meanwhile: its pages can just be dropped
        if self._is_locked(ino):
            self._kernel.data_changed(ino)
        else:
            self._kernel.listing_changed(ino)

    def _name(self, component: str, beside: bool = False) -> bytes:
        return names.file_name(component, beside, self._reserved)

    def _is_locked(self, ino: int) -> bool:
        return getattr(self._locked, "ino", 0) == ino

    def _appeared(self, bucket: str, key: str, listings: set[int]) -> None:
        node, slot = self._deepest(bucket, key)
        if node is None:
            return
        self.returned(node)
        self._way_listed(node, listings)
        if not slot:  # a marker object for a directory that the kernel knows
            self._kernel.attr_changed(node.ino)
            self._list_again(node, listings)  # it may have gone, and come back, in between
            return
        if node.asked or node.kind == NodeKind.ACCOUNT:
            self._name_changed(node, slot)
            listings.add(node.ino)
        known = self._inodes.find(node, slot)
        if known is not None:
            self._version_changed(known, key)

    def _vanished(self, bucket: str, key: str, listings: set[int]) -> None:
        node, slot = self._deepest(bucket, key)
        if node is None:
            return
        above_it = [(below, below.key, above) for below, above in _way_up(node)]
        if slot:
            known = self._inodes.find(node, slot)
            if known is not None:
                self._object_vanished(node, known)
            self._name_changed(node, slot)
            listings.add(node.ino)
            if known is not None:
                self._version_changed(known, key)
        # The directories above may have gone with their last key. The kernel may give up a
        # directory once it is told of it, and a node that was given up has no parent any more.
        there = False
        for below, below_key, above in above_it:
            there = there or not self._gone(bucket, below_key)
            if there and self._is_object(bucket, below_key):
                return
            if there:  # only by its keys: it may have been gone, and listed so, until they came
                self._list_again(below, listings)
                continue
            below.away = True  # set before the kernel is told, and asks
            self._name_changed(above, below.slot)
            listings.add(above.ino)

    def _way_listed(self, node: Node, listings: set[int]) -> None:
        """List again directories on the way to *node*, where something is new, that were looked up
        before anybody was told of them: they may be missing in listings that the kernel has."""
        for below, _ in _way_up(node):
            if below.unlisted:
                below.unlisted = False
                self._list_again(below, listings)

    @staticmethod
    def _list_again(directory: Node, listings: set[int]) -> None:
        """Add the directory above *directory* to *listings*: the kernel may have one without it."""
        above = directory.parent
        if above is not None and above.kind != NodeKind.ACCOUNT and above.asked:
            listings.add(above.ino)

    def _is_object(self, bucket: str, directory: str) -> bool:
        """Whether *directory* is there without the keys below it."""
        entry = self._mimicdb.entry(bucket, directory)
        return entry is not None and entry.kind != LISTED

    def _object_vanished(self, parent: Node, node: Node) -> None:
        node.away = True
        if node.kind == NodeKind.OBJECT and node.file is None:
            self._deleted(parent, node)

    def _deleted(self, parent: Node, node: Node) -> None:
        """Tell the kernel that the object of *node* is gone. It is not told that a directory is:
        that may be back soon, and nothing could be made in a directory that the kernel takes for
        dead."""
        if self._is_locked(parent.ino):
            return
        for beside in (False, True):
            name = names.file_name(node.component, beside)
            self._kernel.file_deleted(parent.ino, name, node.ino)

    def _differs(self, bucket: str, key: str, read: set[int]) -> None:
        node, slot = self._deepest(bucket, key)
        if node is None:
            return
        self.returned(node)
        if node.asked and node.ino not in read and not self._is_locked(node.ino):
            # A listing with the old attributes may be on its way to the kernel. Its reader holds
            # the lock of the directory. This message, about a name that never exists, waits for
            # that lock.
            self._kernel.entry_changed(node.ino, b".")
            read.add(node.ino)
        known = self._inodes.find(node, slot) if slot else node
        if known is None:
            return
        if known.is_directory:
            self._kernel.attr_changed(known.ino)
        else:
            self._version_changed(known, key)

    def _version_changed(self, node: Node, key: str) -> None:
        """Tell the kernel that an object has changed of which it may hold attributes and pages."""
        if node.is_directory:
            self._kernel.listing_changed(node.ino)
            return
        entry = self._mimicdb.entry(node.bucket, key)
        etag = entry.etag if entry is not None else ""
        meta = entry.meta if entry is not None else None
        if node.parent is not None and (node.special or (meta and metadata.is_special(meta))):
            # A file and a link are never the same inode: the kernel must look the name up.
            self._name_changed(node.parent, node.slot)
        file = node.file
        if file is not None and not file.apart and (file.bucket, file.key) != (node.bucket, key):
            # A rename is under way, and it stands at its new place already: this is no news of it.
            self._kernel.attr_changed(node.ino)
            return
        if file is not None and entry is not None and etag and file.etag == etag:
            file.seen_anew(entry)
        if file is not None and file.shrunk and file.etag == etag:
            return  # the kernel is told when it is closed
        if file is not None and not file.dirty and file.etag != etag:
            if entry is not None and file.follow(entry):
                self.followed(node, file)
            # a file that follows is at work, and is renewed later
            elif (entry is None or not file.follows) and file.expire(deleted=entry is None):
                self.replaced(node)
            return
        own = file is not None and self.has_pages_of(node, file)
        if own or (node.pages_etag and node.pages_etag == etag):
            self._kernel.attr_changed(node.ino)
        else:
            self.grew(node)

    def distrusted(self, directory: Node) -> None:
        """Distrust what the kernel has of *directory* and all below it: it may be wrong."""
        for node in (directory, *self._inodes.below(directory)):
            if node.kind == NodeKind.OBJECT:
                self._may_differ(node)
            elif node.is_directory:
                self._listing_changed(node.ino)
        self._kernel.names_changed()

    def _may_differ(self, node: Node) -> None:
        """Tell the kernel that the object of *node* may have changed, though nobody has said so. An
        open file goes on where the mirror is not certain: that may have lost all that it knew."""
        key = node.key
        if node.file is None or self._mimicdb.is_certain(node.bucket, key):
            self._version_changed(node, key)
        else:
            self._kernel.attr_changed(node.ino)

    def _anything(self, bucket: str) -> None:
        for node in [self._inodes.root, *self._inodes.below(self._inodes.root)]:
            if bucket and node.bucket != bucket:
                continue
            if node.kind == NodeKind.OBJECT:
                self._may_differ(node)
            elif node.is_directory:
                self._listing_changed(node.ino)
        self._kernel.everything_changed()

    def _gone(self, bucket: str, directory: str) -> bool:
        return not self._mimicdb.has_below(bucket, directory)

    def _name_changed(self, parent: Node, slot: str) -> None:
        if self._is_locked(parent.ino):
            self._kernel.names_changed()
            return
        component = slot.removesuffix("/")
        self._kernel.entry_changed(parent.ino, self._name(component))
        # An object's name depends on whether a directory of the same name is beside it.
        if slot.endswith("/"):
            self._beside_changed(parent, component)
        elif component:
            self._kernel.entry_changed(parent.ino, self._name(component, beside=True))

    def _beside_changed(self, parent: Node, component: str) -> None:
        if component and self._mimicdb.entry(parent.bucket, parent.key + component) is not None:
            self._kernel.entry_changed(parent.ino, self._name(component, beside=True))

    def _deepest(self, bucket: str, key: str) -> tuple[Node | None, str]:
        """Return the deepest directory on the way to *key* that somebody holds, and the slot
        below it where the way goes on; "" if *key* is that directory itself. (None, ""): the
        key is not below the root."""
        node = self._inodes.root
        if node.kind == NodeKind.ACCOUNT:
            if not bucket:  # in the list of buckets, *key* is a bucket
                return node, slot_of(key, directory=True)
            found = self._inodes.find(node, slot_of(bucket, directory=True))
            if found is None or not key.startswith(found.prefix):
                return None, ""
            node, key = found, key[len(found.prefix) :]
        elif bucket != node.bucket or not key.startswith(node.component):
            return None, ""
        else:
            key = key[len(node.component) :]
        return self._walk(node, key)

    def _walk(self, node: Node, path: str) -> tuple[Node, str]:
        while path:
            component, slash, path = path.partition("/")
            slot = component + slash
            found = self._inodes.find(node, slot)
            if found is None or not slash:
                return node, slot
            node = found
        return node, ""


class asked:  # noqa: N801  reads as a statement; a generator would cost 1 us a name
    """Within, the mirror is read for an answer that the kernel will hold: from now on it must be
    told of changes, unless there is no answer, because the directory is not known, and nobody else
    has asked meanwhile."""

    __slots__ = ("_before", "_rest", "_turn")

    def __init__(self, directory: Node) -> None:
        self._rest = rest_of(directory)

    def __enter__(self) -> None:
        with _asking:
            self._before, self._turn = self._rest.asked, next(_turns)
            self._rest.asked = self._turn

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind in (Unlisted, Uncopied):
            with _asking:
                if self._rest.asked == self._turn:
                    self._rest.asked = self._before


def _way_up(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield *node* and its directory, then that and its own, up to the root of the bucket or of the
    mount."""
    while (above := node.parent) is not None and above.kind != NodeKind.ACCOUNT:
        yield node, above
        node = above
