"""Extended attributes: those of users, which S3 stores beside the bytes, and ours,
`user.mimicfs.*`.

The prefix of a name decides which part answers: the control file's and a directory's names are
those of `control.py`, an object's those of `objectattributes.py`, all others those of `stored.py`.

Threading: any thread; a thread that changes an object has its turn.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mimicfs.entry import OBJECT
from mimicfs.errors import PosixError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Caller
from mimicfs.s3.requests.past import entry_of
from mimicfs.vfs.admission import Admission
from mimicfs.vfs.control import PREFIX, SYNC, Control
from mimicfs.vfs.firstlook import FirstLook
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.nodes import Node, NodeKind, VersionNode
from mimicfs.vfs.objectattributes import ObjectAttributes
from mimicfs.vfs.stored import StoredAttributes

_USERS = b"user."


class ExtendedAttributes:
    def __init__(
        self,
        mimicdb: Mirror,
        control: Control,
        objects: ObjectAttributes,
        stored: StoredAttributes,
        look: FirstLook,
        handles: Handles,
        admission: Admission,
    ) -> None:
        self._mimicdb = mimicdb
        self._control = control
        self._objects = objects
        self._stored = stored
        self._look = look
        self._handles = handles
        self._admission = admission

    def get(self, caller: Caller, node: Node, name: bytes) -> bytes:
        self._handles.departures.check(node)
        if node.kind == NodeKind.CONTROL:
            raise PosixError(errno.ENODATA, os.fsdecode(name))
        if not name.startswith(_USERS):  # no object has others; the kernel asks before each write
            raise PosixError(errno.ENODATA, os.fsdecode(name))
        if not name.startswith(PREFIX):
            self.check_learned(node)
            value = self._stored.xattrs(node).get(os.fsdecode(name))
            if value is None:
                raise PosixError(errno.ENODATA, os.fsdecode(name))
            return value
        short = os.fsdecode(name.removeprefix(PREFIX))
        if short == "url":  # whoever has it reads the object by the rights of this mount
            self._control.allow(caller)
        text = self._of_object(node, short)
        if text is not None:
            return text.encode()
        if node.is_past:
            raise PosixError(errno.ENODATA, os.fsdecode(name))
        return self._control.xattr(node, name)

    def _of_object(self, node: Node, name: str) -> str | None:
        """Return the value of `user.mimicfs.NAME` of an object, or a version; None: none."""
        if isinstance(node, VersionNode):
            version = node.version
            return self._objects.get(node.bucket, entry_of(version), name, version.version)
        entry = self._mimicdb.entry(node.bucket, node.key) if node.key else None
        if node.kind != NodeKind.OBJECT or entry is None or entry.kind != OBJECT:
            return None
        return self._objects.get(node.bucket, entry, name)

    def names(self, node: Node) -> list[bytes]:
        """Return the names of users, not ours: cp -a and rsync -X would copy ours to other
        files."""
        if node.kind == NodeKind.CONTROL or node.is_past:
            return []
        self._handles.departures.check(node)
        self.check_learned(node)
        return [os.fsencode(name) for name in self._stored.xattrs(node)]

    def set(self, caller: Caller, node: Node, name: bytes, value: bytes, flags: int) -> None:
        if name.startswith(PREFIX) and (name == SYNC or node.kind != NodeKind.OBJECT):
            self._control.set_xattr(caller, node, name)
        elif name.startswith(PREFIX):
            self._control.allow(caller)
            self._handles.flush_node(node, caller.cancellation)
            with self._changing(caller, node) as stands:
                self._objects.set(stands, os.fsdecode(name.removeprefix(PREFIX)), value, flags)
        elif node.kind == NodeKind.CONTROL:
            raise PosixError(errno.EPERM, os.fsdecode(name))
        else:
            with self._changing(caller, node) as stands:
                self._stored.set_xattr(stands, name, value, flags)

    def remove(self, caller: Caller, node: Node, name: bytes) -> None:
        if node.kind != NodeKind.OBJECT and (name.startswith(PREFIX) or not node.is_directory):
            raise PosixError(errno.EPERM, os.fsdecode(name))
        ours = name.startswith(PREFIX)
        if ours:
            self._control.allow(caller)
            self._handles.flush_node(node, caller.cancellation)
        with self._changing(caller, node) as stands:
            if ours:
                self._objects.remove(stands, os.fsdecode(name.removeprefix(PREFIX)))
            else:
                self._stored.remove_xattr(stands, name)

    @contextmanager
    def _changing(self, caller: Caller, node: Node) -> Iterator[Node]:
        """Yield the node that *node*, or its name by now, stands for; within, nobody else changes
        it."""
        with ExitStack() as stack:
            if node.kind == NodeKind.OBJECT:
                node = stack.enter_context(self._admission.held(caller, node))
            stack.enter_context(self._handles.turn(node, caller.cancellation))
            yield node

    def check_learned(self, node: Node) -> None:
        """Raise Unlearned where S3 must first be asked what is stored with *node*."""
        if node.parent is not None and node.file is None and node.key:
            entry = self._mimicdb.entry(node.bucket, node.key)
            self._look.check(node.bucket, node.parent.key, node.key, entry)
