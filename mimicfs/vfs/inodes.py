"""Inode numbers: which node stands for which bucket, directory or object, and which of them
the kernel holds.

Nodes form a tree that mirrors the keys: a directory is renamed by moving one node. A node exists
while the kernel holds it (each lookup counts one, until forgotten), while it is open, or while a
node below it exists.

    INVARIANT: a node is in its parent's `children` under its slot unless it was unlinked;
    it is in the table under its number until it is dropped.

Numbers are hashes of the path, so that they are the same after a remount: backup programs
and git recognise files by them. Where two collide, the later one takes a free number. A renamed
file keeps its number as long as this mount lives, even when the kernel has forgotten it.

Thread-safe: one lock, taken last and held for a few instructions.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from hashlib import blake2b
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mimicfs.errors import PosixError
from mimicfs.posix import ROOT_INO

if TYPE_CHECKING:
    from mimicfs.entry import Entry
    from mimicfs.files.file import File
    from mimicfs.files.turn import Turn
    from mimicfs.s3.requests.versions import Version


class NodeKind(IntEnum):
    ACCOUNT = 0  # the root over all buckets
    DIRECTORY = 1  # a bucket, or a prefix in one
    VERSIONS = 2  # the directory `.versions` in a directory
    HISTORY = 3  # a directory in that: the versions of one key
    OBJECT = 4
    CONTROL = 5  # the file `.sync` of a directory
    VERSION = 6  # a file in a HISTORY


# Python looks up names of this module faster than attributes, and each entry of a listing uses
# these.
_ACCOUNT, _OBJECT = NodeKind.ACCOUNT, NodeKind.OBJECT
_PAST = frozenset({NodeKind.VERSIONS, NodeKind.HISTORY, NodeKind.VERSION})
_from_bytes = int.from_bytes

_MOVED_MAX = 65_536  # renamed names whose numbers are remembered
_TABLE_MIN = 4096  # nodes; a table of fewer is not worth it
_SPARSE = 4  # a table that once had so many times as many nodes is made anew
CONTROL_SLOT = "//"  # the slot of no key: a component has no "/", and its slot at most one
VERSIONS_SLOT = "///"  # likewise


class _Rest:
    """The attributes that most nodes do not need: directories do, and nodes that were opened,
    changed or removed."""

    __slots__ = (
        "also",
        "asked",
        "away",
        "children",
        "content",
        "former",
        "gone",
        "leaving",
        "mtime_ns",
        "opens",
        "pages_etag",
        "special",
        "turn",
        "unlisted",
    )

    def __init__(self) -> None:
        self.children: dict[str, Node] | None = None  # by slot; None while there are none
        self.opens = 0  # handles
        self.leaving = False  # object: it is being unlinked or replaced; an open waits
        # object: the place where it was, if this mount has unlinked or replaced it
        self.former: tuple[Node, str] | None = None
        # object: other nodes that the kernel has opened for its file (opening.py)
        self.also: tuple[Node, ...] = ()
        self.gone: Entry | None = None  # directory: what was stored with it before it was removed
        # object: the turn of threads that change it in S3; made when needed
        self.turn: Turn | None = None
        self.mtime_ns = 0  # directory: its latest change through this mount
        self.pages_etag = ""  # the version of which the kernel may hold pages
        self.special = False  # object: it was shown as something other than a regular file
        self.content = False  # directory: its marker object has content
        # directory: the kernel may hold a listing, or a name's absence; who asked last (kernel.py)
        self.asked = 0
        self.away = False  # the kernel may hold its name as absent, or a listing without it
        self.unlisted = False  # directory: the kernel may hold a listing from before it was found


_NOTHING = _Rest()  # shared by all nodes without one. Nobody writes to it.
_resting = threading.Lock()  # if two threads find a node without one, one of them makes it; a leaf


def _rare(name: str) -> Any:
    """Return the attribute *name* of a `_Rest` as an attribute of its node. Without a `_Rest`, a
    name that the kernel knows takes half as much memory."""

    def put(node: Node, value: object) -> None:
        if node.rest is _NOTHING:
            if value == getattr(_NOTHING, name):
                return
            with _resting:
                if node.rest is _NOTHING:
                    node.rest = _Rest()
        setattr(node.rest, name, value)

    return property(attrgetter(f"rest.{name}"), put)


_SLOTS = ("bucket", "component", "file", "holds", "ino", "kind", "parent", "rest")


class Node:
    """One file or directory that somebody holds."""

    __slots__ = _SLOTS  # named, because mypy would take a literal for all that there is
    prefix = ""  # bucket: the prefix of its keys, where only a part is shown (_PartOfBucket)

    children: dict[str, Node] | None = _rare("children")
    opens: int = _rare("opens")
    leaving: bool = _rare("leaving")
    former: tuple[Node, str] | None = _rare("former")
    also: tuple[Node, ...] = _rare("also")
    gone: Entry | None = _rare("gone")
    turn: Turn | None = _rare("turn")
    mtime_ns: int = _rare("mtime_ns")
    pages_etag: str = _rare("pages_etag")
    special: bool = _rare("special")
    content: bool = _rare("content")
    asked: int = _rare("asked")
    away: bool = _rare("away")
    unlisted: bool = _rare("unlisted")

    def __init__(
        self, ino: int, kind: NodeKind, parent: Node | None, component: str, bucket: str
    ) -> None:
        self.ino = ino
        self.kind = kind
        self.parent = parent  # None: the root, or unlinked
        # the last part of the key; the root of a prefix mount has the prefix
        self.component = component
        self.bucket = bucket  # "" for the account
        self.holds = 0  # how often the kernel holds it
        self.file: File | None = None  # the file that its handles share: the newest one
        self.rest = _NOTHING

    @property
    def is_directory(self) -> bool:
        return self.kind <= NodeKind.HISTORY

    @property
    def is_nameless(self) -> bool:
        """Whether it was removed, or replaced by another one, and has no key of its own any
        more."""
        return self.parent is None and self.ino != ROOT_INO

    @property
    def is_past(self) -> bool:
        """Whether it is `.versions`, or is in it: nothing can be changed there."""
        return self.kind in _PAST

    @property
    def slot(self) -> str:
        """The name under which the parent has it: directories end in "/"."""
        if self.kind == NodeKind.CONTROL:
            return CONTROL_SLOT
        return slot_of(self.component, self.is_directory)

    @property
    def key(self) -> str:
        """The S3 key: "" or ending in "/" for directories."""
        parts: list[str] = []
        node: Node = self
        while node.parent is not None and node.parent.kind != NodeKind.ACCOUNT:
            parts.append(node.component)
            node = node.parent
        prefix = node.component if node.ino == ROOT_INO else node.prefix
        path = prefix + "/".join(reversed(parts))
        return path + "/" if parts and self.is_directory else path


class _PartOfBucket(Node):
    """A bucket of which only a part is shown."""

    __slots__ = ("prefix",)

    def __init__(self, node: Node, prefix: str) -> None:
        super().__init__(node.ino, node.kind, node.parent, node.component, node.bucket)
        self.prefix = prefix


class VersionNode(Node):
    """A version of a key: it never changes."""

    __slots__ = ("version",)
    version: Version  # the maker of the node sets it


def check_present(node: Node) -> None:
    """Raise PosixError EROFS if *node* shows the past."""
    if node.is_past:
        raise PosixError(errno.EROFS, "the past cannot be changed")


def _path_hash(parent: Node) -> Callable[[], blake2b]:
    """Return a hash that has read *parent* and awaits a slot. 63 of its 64 bits become the inode
    number, because programs keep those in an off_t."""
    return blake2b(b"%x/" % parent.ino, digest_size=8).copy


def _number(above: blake2b, slot: str) -> int:
    above.update(slot.encode())
    return _from_bytes(above.digest()) >> 1


def slot_of(component: str, directory: bool) -> str:
    return component + "/" if directory else component


class Inodes:
    """The table of nodes. *bucket* and *prefix* say what the root stands for; *prefixes* says which
    part of a bucket its directory shows, where that is not all of it."""

    def __init__(
        self, bucket: str = "", prefix: str = "", prefixes: Mapping[str, str] | None = None
    ) -> None:
        self._prefixes = prefixes or {}
        kind = NodeKind.DIRECTORY if bucket else NodeKind.ACCOUNT
        self.root = Node(ROOT_INO, kind, None, prefix, bucket)
        self.root.holds = 1  # the kernel never forgets the root
        # protects the tree fields and counts of all nodes, and the three below
        self._lock = threading.Lock()
        # The numbers of renamed nodes: by the number of the directory and the slot; and all of
        # them.
        self._moved: dict[int, dict[str, int]] = {}
        self._taken: set[int] = set()
        self._nodes: dict[int, Node] = {ROOT_INO: self.root}
        self._most = _TABLE_MIN  # nodes that the table has had, or more
        self._sparse = False  # it was made anew, of which nobody was told
        # Called by a thread that forgets names, after most of a large table were forgotten.
        self.when_sparse: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, ino: int) -> Node:
        """Return the node numbered *ino*. Raises PosixError ESTALE."""
        node = self._nodes.get(ino)
        if node is None:
            raise PosixError(errno.ESTALE, f"inode {ino}")
        return node

    def find(self, parent: Node, slot: str) -> Node | None:
        """Return the child of *parent* in *slot* if anybody holds it."""
        children = parent.children
        return children.get(slot) if children else None

    def child(self, parent: Node, slot: str, kind: NodeKind, hold: bool) -> Node:
        """Return the child of *parent* in *slot*, held once more; it is made if nobody had it."""
        with self._lock:
            children = parent.children
            if children is None:
                children = parent.children = {}
            node = children.get(slot)
            if node is None:
                node = self._make(parent, slot, kind)
                # Whoever is told of it may find it from the next line on (kernel.py).
                node.unlisted = kind is NodeKind.DIRECTORY
                children[slot] = node
            if hold:
                node.holds += 1
            return node

    @contextmanager
    def holding(self, parent: Node, slot: str, kind: NodeKind) -> Iterator[Node]:
        """Within, the kernel is about to get the child of *parent* in *slot*. It is held once more,
        unless that fails."""
        node = self.child(parent, slot, kind, hold=True)
        try:
            yield node
        except BaseException:
            self.forget(node.ino, 1)
            raise

    def listed(self, parent: Node, slots: list[str], hold: bool) -> list[Node]:
        """Return the children of *parent* in *slots*, as `child` does for one. A page of names
        under one lock costs half."""
        with self._lock:
            children = parent.children
            if children is None:
                children = parent.children = {}
            found: list[Node] = []
            add, known, nodes, bucket = found.append, children.get, self._nodes, parent.bucket
            hash_of, taken = _path_hash(parent), self._taken
            moved = self._moved.get(parent.ino, ())
            for slot in slots:
                node = known(slot)
                if node is None:
                    if slot[-1:] == "/" or slot in moved:
                        kind = NodeKind.DIRECTORY if slot[-1:] == "/" else _OBJECT
                        node = self._make(parent, slot, kind)
                    else:  # does what _make does, without a call for each
                        digest = hash_of()
                        digest.update(slot.encode())
                        ino = _from_bytes(digest.digest()) >> 1
                        if ino in nodes or ino in taken or ino <= ROOT_INO:
                            ino = self._free(ino)
                        node = nodes[ino] = Node(ino, _OBJECT, parent, slot, bucket)
                    children[slot] = node
                if hold:
                    node.holds += 1
                add(node)
            return found

    def numbers(self, parent: Node, slots: list[str]) -> list[int]:
        """Return the numbers of the children of *parent* in *slots*, as a listing shows them,
        whether anybody holds them or not. (Where two collide, the later one gets another number.)
        """
        with self._lock:
            held, moved = parent.children or {}, self._moved.get(parent.ino, {})
            known = {slot: moved[slot] for slot in slots if slot in moved} if moved else {}
            known |= {slot: held[slot].ino for slot in slots if slot in held}
        hash_of = _path_hash(parent)
        return [known.get(slot) or _number(hash_of(), slot) for slot in slots]

    def forget(self, ino: int, count: int) -> None:
        """Note that the kernel gave up *count* of its holds."""
        with self._lock:
            node = self._nodes.get(ino)
            if node is None or node is self.root:
                return
            node.holds = max(0, node.holds - count)
            self._drop_unused(node)
            sparse, self._sparse = self._sparse, False
        if sparse:
            self.when_sparse()

    def opened(self, node: Node) -> None:
        with self._lock:
            node.opens += 1

    def closed(self, node: Node) -> None:
        with self._lock:
            node.opens -= 1
            self._drop_unused(node)

    def move(self, node: Node, parent: Node, component: str) -> None:
        """Move *node*, which was renamed. The node that stood in its new place is unlinked."""
        with self._lock:
            slot = slot_of(component, node.is_directory)
            children = parent.children
            if children is None:
                children = parent.children = {}
            replaced = children.get(slot)
            if replaced is not None:
                self._take_out(replaced)
            if node.parent is not None:
                self._no_longer_moved(node.parent.ino, node.slot)
            self._take_out(node)
            node.parent, node.component, node.bucket = parent, component, parent.bucket
            children[slot] = node
            self._remember_moved(parent.ino, slot, node.ino)
        if node.children:
            for below in self.below(node):
                below.bucket = node.bucket

    def unlink(self, node: Node) -> None:
        """Take its name from *node*, and from the nodes below it; each lives until it is forgotten
        and closed."""
        with self._lock:
            if node.parent is not None:
                self._no_longer_moved(node.parent.ino, node.slot)
            for each in reversed([node, *self.below(node)]):
                self._take_out(each)
                self._drop_unused(each)

    def below(self, node: Node) -> Iterator[Node]:
        """Yield the nodes below *node*, parents first."""
        for child in list((node.children or {}).values()):
            yield child
            yield from self.below(child)

    def _make(self, parent: Node, slot: str, kind: NodeKind) -> Node:
        ino = self._moved.get(parent.ino, {}).get(slot, 0)
        if not ino or ino in self._nodes:
            ino = self._free(_number(_path_hash(parent)(), slot))
        component = slot if kind is _OBJECT else slot.removesuffix("/")
        bucket = parent.bucket
        if parent.kind is _ACCOUNT and kind is not NodeKind.CONTROL:
            bucket = component
        made = VersionNode if kind is NodeKind.VERSION else Node
        node = made(ino, kind, parent, component, bucket)
        if bucket in self._prefixes and parent.kind is _ACCOUNT:
            node = _PartOfBucket(node, self._prefixes[bucket])
        self._nodes[ino] = node
        return node

    def _free(self, ino: int) -> int:
        while ino in self._nodes or ino in self._taken or ino <= ROOT_INO:
            ino = (ino + 1) & (1 << 63) - 1
        return ino

    def _remember_moved(self, parent_ino: int, slot: str, ino: int) -> None:
        self._no_longer_moved(parent_ino, slot)
        if len(self._taken) >= _MOVED_MAX:
            self._moved.clear()
            self._taken.clear()
        self._moved.setdefault(parent_ino, {})[slot] = ino
        self._taken.add(ino)

    def _no_longer_moved(self, parent_ino: int, slot: str) -> None:
        moved = self._moved.get(parent_ino)
        if moved is not None and slot in moved:
            self._taken.discard(moved.pop(slot))
            if not moved:
                del self._moved[parent_ino]

    def _take_out(self, node: Node) -> None:
        parent = node.parent
        if parent is not None and parent.children and parent.children.get(node.slot) is node:
            del parent.children[node.slot]
        node.parent = None

    def _drop_unused(self, node: Node) -> None:
        while not (node.holds or node.opens or node.children or node is self.root):
            parent = node.parent
            self._take_out(node)
            if self._nodes.get(node.ino) is node:
                self._leave_table(node)
            if parent is None:
                return
            if not parent.children:
                parent.children = None
            node = parent

    def _leave_table(self, node: Node) -> None:
        """Take *node* out. A dict keeps the memory of everything that it had, so the table is made
        anew when most nodes are gone."""
        self._most = max(self._most, len(self._nodes))
        del self._nodes[node.ino]
        if self._most > _TABLE_MIN and len(self._nodes) * _SPARSE < self._most:
            self._nodes = dict(self._nodes)
            self._most = max(_TABLE_MIN, len(self._nodes))
            self._sparse = True
