"""The owner and the group of a new file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from mimicfs.config.values import VFSOptions
from mimicfs.posix import Attr, Caller
from mimicfs.vfs.nodes import Node


class Ownership:
    """*attr* returns what stat(2) shows of a node, to a caller who may wait."""

    def __init__(self, options: VFSOptions, attr: Callable[[Caller, Node], Attr]) -> None:
        self._options = options
        self._attr = attr

    def of_new(self, caller: Caller, directory: Node) -> tuple[int, int]:
        """Return the owner and the group of a file that *caller* makes in *directory*: those of the
        caller, unless the mount shows all files as one user's."""
        mounter = caller.uid == os.getuid()
        uid = self._options.uid if mounter else caller.uid
        gid = self._options.gid if mounter else caller.gid
        inherited = self.inherited_group(caller, directory)
        return uid, gid if inherited is None else inherited

    def inherited_group(self, caller: Caller, directory: Node) -> int | None:
        """Return the group that *directory* gives to new files by its set-group-id bit, which is
        believed only with -o suid."""
        if not self._options.suid:
            return None
        above = self._attr(caller, directory)
        return above.gid if above.mode & stat.S_ISGID else None
