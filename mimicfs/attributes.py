"""From what the mirror and an open file know to what stat(2) shows. Pure but for a memory of
when buckets were made; any thread may call it.
"""

from __future__ import annotations

from mimicfs import metadata
from mimicfs.config import VFSOptions
from mimicfs.entry import Entry
from mimicfs.files.file import File
from mimicfs.inodes import Node
from mimicfs.posix import Attr


class Attributes:
    def __init__(self, options: VFSOptions) -> None:
        self._options = options
        self._uid, self._gid = options.uid, options.gid
        self._file_mode = metadata.file_mode(options.file_mode)
        self._directory_mode = metadata.directory_mode(options.dir_mode)
        self._control_mode = metadata.file_mode(0o600)

    def of_object(self, ino: int, entry: Entry) -> Attr:
        """Return the attributes of an object that the mirror has."""
        if entry.meta:
            return self._stored(ino, self._file_mode, entry.size, entry)
        # Once for each name of a listing: tuple.__new__ takes half as long as Attr().
        _, size, mtime_ns, *_ = entry
        plain = (ino, self._file_mode, size, mtime_ns, self._uid, self._gid, 1, -1, -1, 0)
        return tuple.__new__(Attr, plain)

    def of_directory(self, ino: int, entry: Entry | None, mtime_ns: int) -> Attr:
        """Return the attributes of a directory. *entry* is its own, if it has one; *mtime_ns*
        holds where that has no time."""
        if entry is not None and entry.meta:
            return self._stored(ino, self._directory_mode, 0, entry)._replace(nlink=1)
        if entry is not None and entry.mtime_ns > mtime_ns:
            mtime_ns = entry.mtime_ns
        # One link: find(1) takes it as "the number of subdirectories is not known".
        options = self._options
        return Attr(ino, self._directory_mode, 0, mtime_ns, options.uid, options.gid)

    def of_file(self, node: Node, file: File) -> Attr:
        """Return the attributes of an open file, whose bytes S3 may not have yet."""
        entry = Entry("", file.size, file.mtime_ns, meta=file.content.meta)
        if file.dirty:  # the stored time is that of the version before
            attr = self.of_object(node.ino, entry)._replace(mtime_ns=file.mtime_ns)
        else:
            attr = self.of_object(node.ino, file.entry or entry)
        return attr if node.parent is not None else attr._replace(nlink=0)  # unlinked

    def of_control(self, ino: int, mtime_ns: int) -> Attr:
        options = self._options
        return Attr(ino, self._control_mode, 0, mtime_ns, options.uid, options.gid)

    def _stored(self, ino: int, mode: int, size: int, entry: Entry) -> Attr:
        stored = metadata.read(entry.meta or {})
        options = self._options
        return Attr(
            ino,
            mode if stored.permissions is None else mode & ~0o7777 | stored.permissions,
            size,
            entry.mtime_ns if stored.mtime_ns is None else stored.mtime_ns,
            options.uid if stored.uid is None else stored.uid,
            options.gid if stored.gid is None else stored.gid,
        )
