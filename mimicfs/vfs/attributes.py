"""The attributes that stat(2) shows, made from what the mirror and an open file know. The functions
are pure, but for a memory of when buckets were made; any thread may call them.
"""

from __future__ import annotations

import stat

from mimicfs import metadata
from mimicfs.config.values import VFSOptions
from mimicfs.entry import NS, OBJECT, Entry
from mimicfs.files.file import File
from mimicfs.posix import Attr
from mimicfs.vfs.nodes import Node

_SOON_NS = 2 * NS
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})


def believed_kinds(options: VFSOptions) -> frozenset[int]:
    """Return the types that an object may have by its metadata, besides a regular file."""
    kinds = {stat.S_IFIFO, stat.S_IFSOCK}
    kinds |= {stat.S_IFLNK} if options.symlinks else set()
    return frozenset(kinds | (_DEVICES if options.dev else set()))


class Attributes:
    """*believed*: whether what is stored with objects counts."""

    def __init__(self, options: VFSOptions, *, believed: bool = True) -> None:
        self._believed = believed
        self._options = options
        self._uid, self._gid = options.uid, options.gid
        self._file_mode = metadata.file_mode(options.file_mode)
        self._directory_mode = metadata.directory_mode(options.dir_mode)
        self._control_mode = metadata.file_mode(0o600)
        self._permissions = 0o7777 if options.suid else 0o1777
        self._kinds = believed_kinds(options)

    def of_object(self, ino: int, entry: Entry) -> Attr:
        """Return the attributes of an object that the mirror has."""
        if entry.meta and self._believed:
            return self._stored(ino, self._file_mode, entry.size, entry)
        # This runs once for each name of a listing: tuple.__new__ takes half as long as Attr().
        _, size, mtime_ns, *_ = entry
        plain = (ino, self._file_mode, size, mtime_ns, self._uid, self._gid, 1, -1, -1, 0)
        return tuple.__new__(Attr, plain)

    def of_directory(self, ino: int, entry: Entry | None, touched_ns: int, since_ns: int) -> Attr:
        """Return the attributes of a directory. *entry* is the directory's own, if it has one;
        *touched_ns* is when its names changed last, as far as this mount knows (0: it does not);
        *since_ns* is used where nothing has a time."""
        if entry is not None and entry.meta and self._believed:
            if entry.kind != OBJECT:  # nothing in S3 has a time
                said = metadata.read(entry.meta)
                if said.mtime_ns is not None:
                    since_ns = said.ctime_ns or said.mtime_ns
                entry = entry._replace(mtime_ns=since_ns)
            attr = self._stored(ino, self._directory_mode, 0, entry)
        else:
            # find(1) takes one link as "the number of subdirectories is not known".
            since_ns = max(since_ns, entry.mtime_ns if entry is not None else 0)
            options = self._options
            attr = Attr(
                ino, self._directory_mode, 0, touched_ns or since_ns, options.uid, options.gid
            )
        if not touched_ns or touched_ns <= attr.mtime_ns:
            return attr
        changed_ns = attr.ctime_ns if attr.ctime_ns > touched_ns else -1
        return attr._replace(mtime_ns=touched_ns, ctime_ns=changed_ns)

    def of_file(self, node: Node, file: File) -> Attr:
        """Return the attributes of an open file, whose bytes S3 may not have yet."""
        entry = Entry("", file.size, file.mtime_ns, meta=file.content.meta)
        if file.changed:  # the stored time is that of the version before
            return self.of_object(node.ino, entry)._replace(mtime_ns=file.mtime_ns)
        if file.apart:
            return self.of_object(node.ino, entry)
        return self.of_object(node.ino, file.entry or entry)

    def of_control(self, ino: int, mtime_ns: int) -> Attr:
        options = self._options
        return Attr(ino, self._control_mode, 0, mtime_ns, options.uid, options.gid)

    def _stored(self, ino: int, mode: int, size: int, entry: Entry) -> Attr:
        stored = metadata.read(entry.meta or {})
        options = self._options
        if stored.permissions is not None:
            mode = stat.S_IFMT(mode) | stored.permissions & self._permissions
        if stored.kind in self._kinds and stat.S_ISREG(mode):
            mode = stored.kind | stat.S_IMODE(mode)
        mtime_ns = entry.mtime_ns if stored.mtime_ns is None else stored.mtime_ns
        # The ctime is S3's LastModified, the time when data or metadata were written last. It has
        # whole seconds, so it must not come out before the mtime in the same second.
        written_ns = mtime_ns if 0 <= mtime_ns - entry.mtime_ns < _SOON_NS else entry.mtime_ns
        ctime_ns = max(written_ns, stored.ctime_ns or written_ns)
        return Attr(
            ino,
            mode,
            size,
            mtime_ns,
            options.uid if stored.uid is None else stored.uid,
            options.gid if stored.gid is None else stored.gid,
            atime_ns=-1 if stored.atime_ns is None else stored.atime_ns,
            ctime_ns=-1 if ctime_ns == mtime_ns else ctime_ns,
            rdev=stored.rdev if stored.kind in _DEVICES and stored.kind in self._kinds else 0,
        )
