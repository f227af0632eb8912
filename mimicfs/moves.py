"""Renames. S3 has none: an object is copied on the server, then the old one is deleted.

Nothing is deleted before everything was copied; when a copy fails, what was copied is
deleted again and the old tree is whole. When a deletion fails, both trees exist and the
error says so. The mirror follows each request that S3 confirmed.

Threading: called by one thread for one rename; the kernel holds the locks of both parents.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

from mimicfs.entry import KEPT, OBJECT, Entry
from mimicfs.errors import MimicError, PosixError
from mimicfs.handles import Handles
from mimicfs.inodes import Inodes, Kind, Node, slot_of
from mimicfs.mimicdb import MimicDB
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3
from mimicfs.sync import Syncer

log = logging.getLogger(__name__)

_IN_FLIGHT = 16  # copies at once
_PAGE = 1000  # keys read from the mirror, or deleted, at a time


class Place:
    """A directory and a component in it: where something is, or is to be."""

    def __init__(self, parent: Node, component: str) -> None:
        self.parent = parent
        self.component = component
        self.bucket = parent.bucket
        self.key = parent.key + component

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Mover:
    def __init__(
        self, mimicdb: MimicDB, s3: S3, syncer: Syncer, inodes: Inodes, handles: Handles
    ) -> None:
        self._handles = handles
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._inodes = inodes

    def move_file(self, cancellation: Cancellation, source: Place, target: Place) -> None:
        """Move one object, over another one if there is one."""
        node = self._inodes.find(source.parent, source.component)
        file = node.file if node is not None else None
        if node is not None:
            self._handles.flush_node(node, cancellation)
        entry = self._mimicdb.entry(source.bucket, source.key)
        if entry is None:
            raise PosixError(errno.ENOENT, str(source))
        copy = self._s3.pool.submit(
            self._s3.copy, (source.bucket, entry), target.bucket, target.key
        )
        new = cancellation.wait(copy)
        if file is not None:  # first: a read between the two requests must find the object
            file.move(target.bucket, target.key, new)
        try:
            self._s3.delete(source.bucket, source.key)
        except BaseException:
            if file is not None:
                file.move(source.bucket, source.key, entry)
            raise
        if node is not None:
            self._inodes.move(node, target.parent, target.component)
            node.pages_etag = new.etag if node.pages_etag == entry.etag else ""

    def move_directory(self, cancellation: Cancellation, source: Place, target: Place) -> None:
        """Move everything below one directory to another name."""
        old, new = source.key + "/", target.key + "/"
        if source.bucket == target.bucket and new.startswith(old):
            raise PosixError(errno.EINVAL, f"{target} is below {source}")
        node = self._inodes.find(source.parent, slot_of(source.component, directory=True))
        self._flush_below(cancellation, node)
        self._know_all(cancellation, source.bucket, old)
        self._copy_all(cancellation, source.bucket, old, target.bucket, new)
        self._delete_all(source.bucket, old, target)
        if node is not None:
            self._inodes.move(node, target.parent, target.component)
            for below in self._inodes.below(node):
                if below.file is not None and below.kind == Kind.OBJECT:
                    entry = self._mimicdb.entry(below.bucket, below.key)
                    below.file.move(below.bucket, below.key, entry)

    def _flush_below(self, cancellation: Cancellation, node: Node | None) -> None:
        for below in self._inodes.below(node) if node is not None else ():
            self._handles.flush_node(below, cancellation)

    def _know_all(self, cancellation: Cancellation, bucket: str, directory: str) -> None:
        """Keys that the mirror has not seen would be left behind: list the directory to its
        depth unless that was done once."""
        cover = self._mimicdb.cover(bucket, directory)
        if cover is None or not cover.deep:
            self._syncer.sync(bucket, directory, cancellation=cancellation)

    def _copy_all(
        self, cancellation: Cancellation, bucket: str, old: str, new_bucket: str, new: str
    ) -> None:
        copied: list[str] = []
        running: dict[Future[Entry], str] = {}
        try:
            for entry in self._entries(bucket, old):
                cancellation.check()
                key = new + entry.key[len(old) :]
                if entry.kind == OBJECT:
                    copy = self._s3.pool.submit(self._s3.copy, (bucket, entry), new_bucket, key)
                    running[copy] = key
                elif entry.kind == KEPT:
                    self._mimicdb.keep(new_bucket, key)
                self._collect(running, copied, most=_IN_FLIGHT - 1)
            self._collect(running, copied, most=0)
        except MimicError:
            wait(running)
            copied += [key for copy, key in running.items() if copy.exception() is None]
            self._undo(new_bucket, copied)
            raise

    @staticmethod
    def _collect(running: dict[Future[Entry], str], copied: list[str], most: int) -> None:
        while len(running) > most:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for copy in done:
                copy.result()
                copied.append(running.pop(copy))

    def _undo(self, bucket: str, copied: list[str]) -> None:
        for start in range(0, len(copied), _PAGE):
            try:
                refused = self._s3.delete_many(bucket, copied[start : start + _PAGE])
            except MimicError as exc:
                refused = [(key, str(exc)) for key in copied[start : start + _PAGE]]
            for key, reason in refused:
                log.error(
                    "copy left behind by a failed rename: s3://%s/%s: %s", bucket, key, reason
                )

    def _delete_all(self, bucket: str, old: str, target: Place) -> None:
        for page in self._pages(bucket, old):
            objects = [entry.key for entry in page if entry.kind == OBJECT]
            refused = self._s3.delete_many(bucket, objects) if objects else []
            if refused:
                key, reason = refused[0]
                raise PosixError(
                    errno.EIO,
                    f"everything was copied to {target}, but s3://{bucket}/{key}"
                    f" could not be deleted: {reason}",
                )
            for entry in page:
                if entry.kind != OBJECT:
                    self._mimicdb.forget(bucket, entry.key)

    def _entries(self, bucket: str, prefix: str) -> Iterator[Entry]:
        for page in self._pages(bucket, prefix):
            yield from page

    def _pages(self, bucket: str, prefix: str) -> Iterator[list[Entry]]:
        scan = self._mimicdb.backend.scan
        page = scan(bucket, prefix, "", _PAGE)
        while page:
            yield page
            page = scan(bucket, prefix, page[-1].key, _PAGE) if len(page) == _PAGE else []
