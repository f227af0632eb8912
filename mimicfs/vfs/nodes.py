"""Nodes: each stands for a bucket, directory or object that somebody holds.

Nodes form a tree that mirrors the keys: a directory is renamed by moving one node. inodes.py has
the table of them.

Threading: the table changes the fields of the tree under its lock. What few nodes need is in a
`_Rest`, which one thread makes.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mimicfs.errors import PosixError
from mimicfs.posix import ROOT_INO, nobody

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


_PAST = frozenset({NodeKind.VERSIONS, NodeKind.HISTORY, NodeKind.VERSION})
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
        "displaced",
        "faded",
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
        # by slot; None while there are none. A number is a light name (inodes.py).
        self.children: dict[str, Node | int] | None = None
        self.faded: set[int] | None = None  # the light names that the kernel has forgotten
        self.opens = 0  # handles
        self.leaving = False  # object: it is being unlinked or replaced; an open waits
        # object: the place where it was, if this mount has unlinked or replaced it
        self.former: tuple[Node, str] | None = None
        # object: the place where it was, if others have replaced it
        self.displaced: tuple[Node, str] | None = None
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


def rest_of(node: Node) -> _Rest:
    """Return the `_Rest` of *node*, which is made if it has none."""
    if node.rest is _NOTHING:
        with _resting:
            if node.rest is _NOTHING:
                node.rest = _Rest()
    return node.rest


def _rare(name: str) -> Any:
    """Return the attribute *name* of a `_Rest` as an attribute of its node. Without a `_Rest`, a
    name that the kernel knows takes half as much memory."""

    def put(node: Node, value: object) -> None:
        if node.rest is not _NOTHING or value != getattr(_NOTHING, name):
            setattr(rest_of(node), name, value)

    return property(attrgetter(f"rest.{name}"), put)


_SLOTS = ("bucket", "component", "file", "holds", "ino", "kind", "parent", "rest")


class Node:
    """One file or directory that somebody holds."""

    __slots__ = _SLOTS  # named, because mypy would take a literal for all that there is
    prefix = ""  # bucket: the prefix of its keys, where only a part is shown (PartOfBucket)

    children: dict[str, Node | int] | None = _rare("children")
    faded: set[int] | None = _rare("faded")
    opens: int = _rare("opens")
    leaving: bool = _rare("leaving")
    former: tuple[Node, str] | None = _rare("former")
    displaced: tuple[Node, str] | None = _rare("displaced")
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

    def below(self, slot: str) -> Node | None:
        """Return the node in *slot* of this directory; None: nothing but its number is known."""
        found = (self.children or {}).get(slot)
        return found if isinstance(found, Node) else None

    def drops(self) -> Callable[[], None]:
        """Return what to call when the kernel has dropped the pages that it has of it now."""
        file = self.file
        return nobody if file is None else partial(file.dropped, self.ino, file.growth)

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


class PartOfBucket(Node):
    """A bucket of which only a part is shown."""

    __slots__ = ("prefix",)

    def __init__(self, node: Node, prefix: str) -> None:
        super().__init__(node.ino, node.kind, node.parent, node.component, node.bucket)
        self.prefix = prefix


class VersionNode(Node):
    """A version of a key: it never changes."""

    __slots__ = ("version",)
    version: Version  # the maker of the node sets it


def parent_of(node: Node) -> Node:
    """Return the directory of *node*. Raises PosixError ESTALE once it is unlinked."""
    if node.parent is None:
        raise PosixError(errno.ESTALE, f"inode {node.ino}")
    return node.parent


def check_present(node: Node) -> None:
    """Raise PosixError EROFS if *node* shows the past."""
    if node.is_past:
        raise PosixError(errno.EROFS, "the past cannot be changed")


def slot_of(component: str, directory: bool) -> str:
    return component + "/" if directory else component
