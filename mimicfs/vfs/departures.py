"""Directories that get another name in a moment, and the changes below them.

A rename of a directory deletes the originals one by one (renames.py). Whatever somebody stored at
the old place in that time would be lost, or stay behind, and whoever looked would miss names that
exist. In one mount, where all of it passes one process, nobody meets that: the rename waits until
the changes below the directory have ended, and meanwhile, and until the directory has its new name,
changes and looks below it wait. (Other mounts are another matter: intents.) Open files are read and
written on: they stand at the new place before the first deletion (moves.py).

INVARIANT: while a thread is within `leaving`, no thread is within `change` of a node below.

Threading: any thread. A change is said before any turn is taken: whoever has a turn and waits here
would wait for a rename that waits for that turn. A thread within a change may begin others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from mimicfs.errors import Departing
from mimicfs.posix import Cancellation
from mimicfs.vfs.nodes import Node


class Departures:
    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the three below; a leaf
        self._changes: dict[Node, int] = {}  # how many changes of a node are under way
        self._left: dict[Node, Future[None]] = {}  # directories, and their new name has come
        self._quiet: dict[Node, Future[None]] = {}  # those of which changes are waited for
        self._own = threading.local()  # .changes: whether this thread is within one

    @contextmanager
    def change(self, cancellation: Cancellation, *nodes: Node) -> Iterator[None]:
        """Within, *nodes*, and what is in them, are changed in S3, and no directory above is
        renamed. Raises Interrupted."""
        if self._is_within():
            yield
            return
        while not self.begin(*nodes):
            self.wait(cancellation, *nodes)
        self._own.changes = True
        try:
            yield
        finally:
            self._own.changes = False
            self.end(*nodes)

    def begin(self, *nodes: Node) -> bool:
        """Begin a change that any thread may `end`, if that waits for nobody; return whether it has
        begun."""
        with self._lock:
            if self._left and any(self._departing(node) for node in nodes):
                return False
            for node in nodes:
                self._changes[node] = self._changes.get(node, 0) + 1
            return True

    def end(self, *nodes: Node) -> None:
        with self._lock:
            for node in nodes:
                self._changes[node] -= 1
                if not self._changes[node]:
                    del self._changes[node]
            quiet = [each for each in self._quiet if not self._is_changed(each)]
            done = [self._quiet.pop(each) for each in quiet]
        for each in done:
            each.set_result(None)

    @contextmanager
    def leaving(self, directory: Node | None, cancellation: Cancellation) -> Iterator[None]:
        """Within, which begins when the changes below *directory* have ended, nobody changes
        anything in it, nor looks. None: nobody can. Raises Interrupted."""
        if directory is None:
            yield
            return
        left, quiet = Future[None](), Future[None]()
        with self._lock:
            self._left[directory] = left
            if self._is_changed(directory):
                self._quiet[directory] = quiet
            else:
                quiet.set_result(None)
        try:
            cancellation.wait(quiet)
            yield
        finally:
            with self._lock:
                del self._left[directory]
                self._quiet.pop(directory, None)
            left.set_result(None)

    def check(self, node: Node) -> None:
        """Raise Departing if a directory above *node*, or *node*, is about to get another name."""
        if self._left and not self._is_within():
            with self._lock:
                if self._departing(node) is not None:
                    raise Departing(node.bucket, node.key)

    def wait(self, cancellation: Cancellation, *nodes: Node) -> None:
        """Wait until they have their new names; without *nodes*, until all have that leave now.
        Raises Interrupted."""
        with self._lock:
            every = [self._departing(node) for node in nodes] or [*self._left.values()]
            left = [each for each in every if each is not None]
        for each in left:
            cancellation.wait(each)

    def _is_within(self) -> bool:
        return getattr(self._own, "changes", False)

    def _departing(self, node: Node) -> Future[None] | None:
        each: Node | None = node
        while each is not None:
            if each in self._left:
                return self._left[each]
            each = each.parent
        return None

    def _is_changed(self, directory: Node) -> bool:
        return any(_is_below(node, directory) for node in self._changes)


def _is_below(node: Node, directory: Node) -> bool:
    each: Node | None = node
    while each is not None and each is not directory:
        each = each.parent
    return each is directory
