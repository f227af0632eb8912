"""Inode numbers: which node stands for which bucket, directory or object, and which of them
the kernel holds.

A node exists while the kernel holds it (each lookup counts one, until forgotten), while it is
open, or while a node below it exists.

    INVARIANT: a node is in its parent's `children` under its slot unless it was unlinked;
    it is in the table under its number until it is dropped.

Most names are listed once and never looked at. Such an object is a *light* name, which has no node:
its directory has its number in the place of a node, and the table has the directory. It gets a node
when somebody asks for one. Of a light name that the kernel has forgotten, the directory notes that
it has `faded`; it is taken out together with others, because to look for its slot takes a look at
all.

    INVARIANT: the kernel holds a light name exactly once, or it has faded; nobody has it open.

Numbers are hashes of the path, so that they are the same after a remount: backup programs
and git recognise files by them. Where two collide, the later one takes a free number. A renamed
file keeps its number as long as this mount lives, even when the kernel has forgotten it, and a
directory the time at which this mount has changed its names.

Thread-safe: one lock, taken last and held for a few instructions.
"""

from __future__ import annotations

import errno
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b

from mimicfs.errors import PosixError
from mimicfs.posix import ROOT_INO
from mimicfs.vfs.nodes import Node, NodeKind, PartOfBucket, VersionNode, slot_of

# Python looks up names of this module faster than attributes, and each entry of a listing uses
# these.
_ACCOUNT, _OBJECT = NodeKind.ACCOUNT, NodeKind.OBJECT
_from_bytes = int.from_bytes

# An int of 60 bits takes 16 bytes less memory than one of 64, if it comes from an `&` with this.
# (What is left by a shift keeps the room that it had before.)
_LAST_INO = (1 << 60) - 1
_MOVED_MAX = 65_536  # renamed names whose numbers are remembered
_TOUCHED_MAX = 65_536  # forgotten directories whose times are remembered: 10 MB
_ASKED_MAX = 8  # directories whose names several programs ask for by number in turn
_TABLE_MIN = 4096  # nodes; a table of fewer is not worth it
_SPARSE = 4  # a table that once had so many times as many nodes is made anew


def _path_hash(parent: Node) -> Callable[[], blake2b]:
    """Return a hash that has read *parent* and awaits a slot. 60 of its 64 bits become the inode
    number."""
    return blake2b(b"%x/" % parent.ino, digest_size=8).copy


def _number(above: blake2b, slot: str) -> int:
    above.update(slot.encode())
    return _from_bytes(above.digest()) & _LAST_INO


def number_of(node: Node | int) -> int:
    """Return the inode number of *node*, which may be a light name."""
    return node.ino if isinstance(node, Node) else node


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
        # protects the tree fields and counts of all nodes, and all below
        self._lock = threading.Lock()
        # The numbers of renamed nodes: by the number of the directory and the slot; and all of
        # them.
        self._moved: dict[int, dict[str, int]] = {}
        self._taken: set[int] = set()
        # By number: `mtime_ns` of directories that nobody holds, the one forgotten last at the end.
        self._touched: OrderedDict[int, int] = OrderedDict()
        # By number: the node, or the directory of a light name.
        self._nodes: dict[int, Node] = {ROOT_INO: self.root}
        # By directory: the slots of its light names, or of some, for who asks by number.
        self._slots: dict[Node, dict[int, str]] = {}
        self._most = _TABLE_MIN  # nodes that the table has had, or more
        self._sparse = False  # it was made anew, of which nobody was told
        # Called by a thread that forgets names, after most of a large table were forgotten.
        self.when_sparse: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, ino: int) -> Node:
        """Return the node numbered *ino*. Raises PosixError ESTALE."""
        node = self._nodes.get(ino)
        if node is not None and node.ino != ino:
            with self._lock:
                node = self._numbered(ino)
        if node is None:
            raise PosixError(errno.ESTALE, f"inode {ino}")
        return node

    def find(self, parent: Node, slot: str) -> Node | None:
        """Return the child of *parent* in *slot* if anybody holds it."""
        children = parent.children
        found = children.get(slot) if children else None
        if found is None or isinstance(found, Node):
            return found
        with self._lock:
            return self._standing(parent, slot)

    def child(self, parent: Node, slot: str, kind: NodeKind, hold: bool) -> Node:
        """Return the child of *parent* in *slot*, held once more; it is made if nobody had it."""
        with self._lock:
            node = self._standing(parent, slot)
            if node is None:
                node = self._make(parent, slot, kind)
                # Whoever is told of it may find it from the next line on (kernel.py).
                node.unlisted = kind is NodeKind.DIRECTORY
                self._children(parent)[slot] = node
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

    def listed(self, parent: Node, slots: list[str], hold: bool) -> list[Node | int]:
        """Return the children of *parent* in *slots*, as `child` does for one. If they are to be
        held, objects that nobody had become light names: their numbers are returned."""
        with self._lock:
            if not hold:
                return [self._standing(parent, it) or self._listed(parent, it) for it in slots]
            found: list[Node | int] = []
            children, moved = self._children(parent), self._moved.get(parent.ino, ())
            add, known, nodes, taken = found.append, children.get, self._nodes, self._taken
            hash_of, faded = _path_hash(parent), parent.faded
            by_number = self._slots.get(parent)
            for slot in slots:
                node = known(slot)
                if node is None and slot[-1:] != "/" and slot not in moved:
                    digest = hash_of()  # does what _make does, without a call for each
                    digest.update(slot.encode())
                    node = _from_bytes(digest.digest()) & _LAST_INO
                    if node in nodes or node in taken or node <= ROOT_INO:
                        node = self._unused(node)
                    nodes[node] = parent
                    children[slot] = node
                    if by_number is not None:
                        by_number[node] = slot
                elif faded and node in faded:
                    faded.discard(node)  # the kernel holds it again
                else:
                    node = self._standing(parent, slot) or self._listed(parent, slot)
                    node.holds += 1
                add(node)
            return found

    def hold_all(self, parent: Node, slots: Sequence[str], numbers: Sequence[int]) -> bool:
        """Do as `listed`, if that returns *numbers*, and return True. False: nothing has
        happened."""
        with self._lock:
            nodes = self._nodes
            if parent.children or parent.ino in self._moved or min(numbers) <= ROOT_INO:
                return False
            new = dict.fromkeys(numbers, parent)
            if len(new) != len(numbers) or not nodes.keys().isdisjoint(new):
                return False
            if self._taken and not self._taken.isdisjoint(new):
                return False
            parent.children = dict(zip(slots, numbers, strict=True))
            nodes.update(new)
            return True

    def numbers(self, parent: Node, slots: list[str]) -> list[int]:
        """Return the numbers of the children of *parent* in *slots*, as a listing shows them,
        whether anybody holds them or not. (Where two collide, the later one gets another number.)
        """
        with self._lock:
            held, moved = parent.children or {}, self._moved.get(parent.ino, {})
            known = {slot: moved[slot] for slot in slots if slot in moved} if moved else {}
            if held:
                known |= {slot: number_of(held[slot]) for slot in slots if slot in held}
        hash_of = _path_hash(parent)
        return [known.get(slot) or _number(hash_of(), slot) for slot in slots]

    def forget(self, ino: int, count: int) -> None:
        """Note that the kernel gave up *count* of its holds."""
        with self._lock:
            node = self._nodes.get(ino)
            if node is None or ino == ROOT_INO:
                return
            if node.ino != ino:
                self._fade(node, ino)
            else:
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
            replaced = self._standing(parent, slot)
            if replaced is not None:
                self._take_out(replaced)
            if node.parent is not None:
                self._no_longer_moved(node.parent.ino, node.slot)
            self._take_out(node)
            other, node.bucket = node.bucket != parent.bucket, parent.bucket
            node.parent, node.component = parent, component
            self._children(parent)[slot] = node
            self._remember_moved(parent.ino, slot, node.ino)
            for below in self._below(node) if other else ():
                below.bucket = node.bucket

    def unlink(self, node: Node) -> None:
        """Take its name from *node*, and from the nodes below it; each lives until it is forgotten
        and closed."""
        with self._lock:
            if node.parent is not None:
                self._no_longer_moved(node.parent.ino, node.slot)
            for each in reversed([node, *self._below(node)]):
                self._take_out(each)
                self._drop_unused(each)

    def below(self, node: Node) -> Iterator[Node]:
        """Yield the nodes below *node*, parents first."""
        if not node.children:
            return
        with self._lock:
            children = self._all(node)
        for child in children:
            yield child
            yield from self.below(child)

    # Within the lock

    def _below(self, node: Node) -> Iterator[Node]:
        for child in self._all(node):
            yield child
            yield from self._below(child)

    def _all(self, node: Node) -> list[Node]:
        """Return the children of *node*."""
        found = [self._standing(node, slot) for slot in list(node.children or ())]
        return [child for child in found if child is not None]

    def _listed(self, parent: Node, slot: str) -> Node:
        """Make the child of *parent* in *slot*, an object or a directory."""
        kind = NodeKind.DIRECTORY if slot[-1:] == "/" else _OBJECT
        node = self._children(parent)[slot] = self._make(parent, slot, kind)
        return node

    @staticmethod
    def _children(parent: Node) -> dict[str, Node | int]:
        """Return the children of *parent*, one of which is about to be added."""
        children = parent.children
        if children is None:
            children = parent.children = {}
        return children

    def _make(self, parent: Node, slot: str, kind: NodeKind) -> Node:
        ino = self._moved.get(parent.ino, {}).get(slot, 0)
        if not ino or ino in self._nodes:
            ino = self._unused(_number(_path_hash(parent)(), slot))
        component = slot if kind is _OBJECT else slot.removesuffix("/")
        bucket = parent.bucket
        if parent.kind is _ACCOUNT and kind is not NodeKind.CONTROL:
            bucket = component
        made = VersionNode if kind is NodeKind.VERSION else Node
        node = made(ino, kind, parent, component, bucket)
        if bucket in self._prefixes and parent.kind is _ACCOUNT:
            node = PartOfBucket(node, self._prefixes[bucket])
        self._nodes[ino] = node
        if ino in self._touched:
            node.mtime_ns = self._touched.pop(ino)
        return node

    def _unused(self, ino: int) -> int:
        """Return *ino*, or where that is taken, the next number that is not."""
        while ino in self._nodes or ino in self._taken or ino <= ROOT_INO:
            ino = ino + 1 & _LAST_INO
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

    def _remember_touched(self, directory: Node) -> None:
        if len(self._touched) >= _TOUCHED_MAX:
            self._touched.popitem(last=False)
        self._touched[directory.ino] = directory.mtime_ns

    def _take_out(self, node: Node) -> None:
        parent = node.parent
        if parent is not None and parent.children and parent.children.get(node.slot) is node:
            del parent.children[node.slot]
            self._tidy(parent)
        node.parent = None

    def _drop_unused(self, node: Node) -> None:
        while not (node.holds or node.opens or node.children or node is self.root):
            parent = node.parent
            if node.mtime_ns and parent is not None:
                self._remember_touched(node)
            self._take_out(node)
            self._slots.pop(node, None)
            if self._nodes.get(node.ino) is node:
                self._leave_table(node.ino)
            if parent is None:
                return
            if not parent.children:
                parent.children = None
            node = parent

    def _leave_table(self, ino: int) -> None:
        """Take *ino* out. A dict keeps the memory of everything that it had, so the table is made
        anew when most nodes are gone."""
        self._most = max(self._most, len(self._nodes))
        del self._nodes[ino]
        if self._most > _TABLE_MIN and len(self._nodes) * _SPARSE < self._most:
            self._nodes = dict(self._nodes)
            self._most = max(_TABLE_MIN, len(self._nodes))
            self._sparse = True

    # Light names, within the lock

    def _standing(self, parent: Node, slot: str) -> Node | None:
        """Return the child of *parent* in *slot*; a light name gets a node."""
        found = (parent.children or {}).get(slot)
        if found is None or isinstance(found, Node):
            return found
        if parent.faded and found in parent.faded:
            self._take_out_faded(parent, slot, found)
            return None
        return self._whole(parent, slot)

    def _whole(self, parent: Node, slot: str) -> Node:
        """Make a node of the light name *slot* of *parent*."""
        children = self._children(parent)
        ino = number_of(children[slot])
        node = self._nodes[ino] = children[slot] = Node(ino, _OBJECT, parent, slot, parent.bucket)
        node.holds = 1
        return node

    def _numbered(self, ino: int) -> Node | None:
        """Return the node numbered *ino*; a light name gets a node."""
        parent = self._nodes.get(ino)
        if parent is None or parent.ino == ino:
            return parent
        if parent.faded and ino in parent.faded:
            return None
        children = self._children(parent)
        slot = self._slots.get(parent, {}).get(ino)
        if slot is None or children.get(slot) != ino:
            slots = {it: slot for slot, it in children.items() if not isinstance(it, Node)}
            self._slots.pop(parent, None)
            while len(self._slots) >= _ASKED_MAX:
                del self._slots[next(iter(self._slots))]
            self._slots[parent] = slots
            slot = slots[ino]
        return self._whole(parent, slot)

    def _fade(self, parent: Node, ino: int) -> None:
        """Note that the kernel has forgotten *ino*, a light name of *parent*."""
        faded = parent.faded
        if faded is None:
            faded = parent.faded = set()
        faded.add(ino)
        self._tidy(parent)
        if not parent.children:
            self._drop_unused(parent)

    def _take_out_faded(self, parent: Node, slot: str, ino: int) -> None:
        if parent.faded:
            parent.faded.discard(ino)
        del self._children(parent)[slot]
        self._leave_table(ino)

    def _tidy(self, parent: Node) -> None:
        """Take the names out of *parent* that have faded, once they are half of all."""
        children, faded = parent.children, parent.faded
        if not children or not faded or 2 * len(faded) < len(children):
            return
        parent.children = {slot: it for slot, it in children.items() if it not in faded} or None
        parent.faded = None
        for ino in faded:
            self._leave_table(ino)
        self._slots.pop(parent, None)
