"""Turns attributes, names and listings into the bytes that the kernel wants.

This is the hot path: a listing of 100,000 names takes 100,000 turns of a loop in `Packer`.

Threading: any thread. `limit` changes values that are read singly; an answer that is packed
meanwhile may have some of the earlier ones.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator

from mimicfs.errors import PosixError
from mimicfs.fuse.abi import (
    ATTR_OUT,
    DIRENT,
    DIRENTPLUS,
    ENTRY_HEAD,
    ENTRY_OUT,
    GETXATTR_OUT,
    KSTATFS,
    OPEN_OUT,
    UNKNOWN_INO,
    Fopen,
    Opcode,
    aligned,
)
from mimicfs.posix import UNKNOWN_MODE, Attr, DirEntry, Opened, Usage

NS = 1_000_000_000
YEAR_S = 365 * 86400.0  # as good as for ever
# st_blksize, which programs take for the size of a good read or write: Python and stdio write in
# pieces of this size, and each is a request (4 KiB: 59 MB/s, 64 KiB and more: above 600).
BLOCK_SIZE = 1 << 16
_BLOCK = 4096  # of statfs
_PADDING = tuple(b"\0" * (-length % 8) for length in range(8))
_NO_ENTRY = bytes(ENTRY_OUT.size)
_ENTRY_ANSWERS = frozenset(
    (Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.CREATE)
)
_DIRECTORY_TYPE = stat.S_IFDIR >> 12
_SELF = b"." + _PADDING[1]
_ABOVE = DIRENT.pack(UNKNOWN_INO, 2, 2, _DIRECTORY_TYPE) + b".." + _PADDING[2]  # the second one


class Packer:
    """Packs answers. Times-to-live are seconds: of a name, of attributes, of an absence."""

    def __init__(self, entry_ttl_s: float, attr_ttl_s: float, negative_ttl_s: float) -> None:
        self._given = (entry_ttl_s, attr_ttl_s, negative_ttl_s)
        self.caches_absence = negative_ttl_s > 0
        # A listing that was packed before it was asked for: its entries, the times-to-live, and it.
        self._prepared: tuple[list[DirEntry], tuple[int, ...], bytes] | None = None
        self.limit(YEAR_S)

    def limit(self, most_s: float) -> None:
        """Let the kernel keep answers for *most_s* at most, from now on."""
        entry_ttl_s, attr_ttl_s, negative_ttl_s = (min(ttl_s, most_s) for ttl_s in self._given)
        self._entry_s, self._entry_ns = _seconds(entry_ttl_s)
        self._attr_s, self._attr_ns = _seconds(attr_ttl_s)
        negative_s, negative_ns = _seconds(negative_ttl_s)
        # The kernel keeps an absence only if the answer has nodeid 0 and a time-to-live.
        self.negative = ENTRY_HEAD.pack(0, 0, negative_s, 0, negative_ns, 0) + bytes(
            ENTRY_OUT.size - ENTRY_HEAD.size
        )

    def entry(self, attr: Attr) -> bytes:
        """Return a fuse_entry_out, which says that a name stands for the file of *attr*."""
        return ENTRY_OUT.pack(
            attr.ino, 0, self._entry_s, self._attr_s, self._entry_ns, self._attr_ns, *_fields(attr)
        )

    def attributes(self, attr: Attr) -> bytes:
        """Return a fuse_attr_out."""
        return ATTR_OUT.pack(self._attr_s, self._attr_ns, 0, *_fields(attr))

    def plain_listing(self, entries: list[DirEntry]) -> bytes:
        """Return fuse_dirents: names with type and inode number."""
        parts: list[bytes] = []
        for name, attr, cookie in entries:
            length = len(name)
            parts.append(DIRENT.pack(attr.ino, cookie + 2, length, attr.mode >> 12))
            parts.append(name)
            parts.append(_PADDING[length & 7])
        return b"".join(parts)

    def prepare(self, entries: list[DirEntry]) -> None:
        """Pack *entries*, for which `full_listing` will probably be asked."""
        self._prepared = entries, self._lifetimes(), self._full_listing(entries)

    def _lifetimes(self) -> tuple[int, ...]:
        return self._entry_s, self._entry_ns, self._attr_s, self._attr_ns

    def full_listing(self, entries: list[DirEntry]) -> bytes:
        """Return fuse_direntpluses: names with attributes. The kernel holds the inode of each."""
        if self._prepared is not None:
            of, lifetimes, packed = self._prepared
            if of is entries and lifetimes == self._lifetimes():
                return packed
        return self._full_listing(entries)

    def _full_listing(self, entries: list[DirEntry]) -> bytes:
        parts: list[bytes] = []
        add = parts.append
        pack = DIRENTPLUS.pack
        entry_s, attr_s = self._entry_s, self._attr_s
        entry_ns, attr_ns = self._entry_ns, self._attr_ns
        for name, attr, cookie in entries:
            ino, mode, size, mtime_ns, uid, gid, nlink, atime_ns, ctime_ns, rdev = attr
            mtime, mtime_rest = divmod(mtime_ns, NS)
            if atime_ns == ctime_ns == -1:
                atime = ctime = mtime
                atime_rest = ctime_rest = mtime_rest
            else:
                atime, atime_rest = divmod(mtime_ns if atime_ns == -1 else atime_ns, NS)
                ctime, ctime_rest = divmod(mtime_ns if ctime_ns == -1 else ctime_ns, NS)
            length = len(name)
            if mode == UNKNOWN_MODE:  # no nodeid: the kernel makes no inode, and looks the name up
                add(_NO_ENTRY + DIRENT.pack(ino, cookie + 2, length, 0))
                add(name + _PADDING[length & 7])
                continue
            # The lines are: entry, attributes (two), dirent. *-arguments would cost 0.4 us.
            # fmt: off
            add(pack(
                ino, 0, entry_s, attr_s, entry_ns, attr_ns,
                ino, size, size + 511 >> 9, atime, mtime, ctime, atime_rest, mtime_rest, ctime_rest,
                mode, nlink, uid, gid, rdev, BLOCK_SIZE, 0,
                ino, cookie + 2, length, mode >> 12,
            ) + name + _PADDING[length & 7])
            # fmt: on
        return b"".join(parts)

    def dots(self, ino: int, offset: int, plus: bool) -> bytes:
        """Return "." and ".." of directory *ino*, as far as they come after *offset*.

        They are at offsets 1 and 2, and a name is at its cookie + 2. The kernel takes no notice of
        their attributes and lookup counts.
        """
        head = _NO_ENTRY if plus else b""
        above = head + _ABOVE
        return above if offset else head + DIRENT.pack(ino, 1, 1, _DIRECTORY_TYPE) + _SELF + above


def overhead(plus: bool) -> int:
    """Return how many bytes a name takes in a listing beside its own."""
    return DIRENTPLUS.size if plus else DIRENT.size


def held(opcode: int, answer: bytes | memoryview) -> Iterator[int]:
    """Yield the numbers of the inodes that the kernel holds after *answer* to a request of
    *opcode*."""
    if opcode == Opcode.READDIRPLUS:
        yield from _held_by_listing(bytes(answer))
    elif opcode in _ENTRY_ANSWERS:
        ino, *_ = ENTRY_OUT.unpack_from(answer)
        if ino:
            yield ino


def _held_by_listing(listing: bytes) -> Iterator[int]:
    at = 0
    while at < len(listing):
        ino, *_, length, _ = DIRENTPLUS.unpack_from(listing, at)
        if ino:
            yield ino
        at += aligned(DIRENTPLUS.size + length)


def statfs(usage: Usage) -> bytes:
    blocks = usage.bytes_total // _BLOCK
    free = max(0, usage.bytes_total - usage.bytes_used) // _BLOCK
    free_files = max(0, usage.files_total - usage.files_used)
    return KSTATFS.pack(
        blocks,
        free,
        free,
        usage.files_total,
        free_files,
        _BLOCK,
        usage.name_max,
        _BLOCK,
        0,
        *[0] * 6,
    )


def _fields(attr: Attr) -> tuple[int, ...]:
    """Return the fields of a fuse_attr."""
    ino, mode, size, mtime_ns, uid, gid, nlink, atime_ns, ctime_ns, rdev = attr
    mtime, mtime_rest = divmod(mtime_ns, NS)
    if atime_ns == ctime_ns == -1:
        atime = ctime = mtime
        atime_rest = ctime_rest = mtime_rest
    else:
        atime, atime_rest = divmod(mtime_ns if atime_ns == -1 else atime_ns, NS)
        ctime, ctime_rest = divmod(mtime_ns if ctime_ns == -1 else ctime_ns, NS)
    return (
        ino,
        size,
        size + 511 >> 9,
        atime,
        mtime,
        ctime,
        atime_rest,
        mtime_rest,
        ctime_rest,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        BLOCK_SIZE,
        0,
    )


def _seconds(ttl_s: float) -> tuple[int, int]:
    return divmod(int(ttl_s * NS), NS)


def sized(value: bytes, size: int) -> bytes:
    """Return *value*; its length, if *size* is 0. Raises PosixError ERANGE if it does not fit."""
    if size == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise PosixError(errno.ERANGE, f"{len(value)} bytes do not fit {size}")
    return value


def open_out(opened: Opened) -> bytes:
    flags = Fopen.KEEP_CACHE * opened.keep_cache | Fopen.DIRECT_IO * opened.direct
    flags |= Fopen.NOFLUSH * opened.quiet  # known from 7.35 on; an older kernel does not look at it
    return OPEN_OUT.pack(opened.handle, flags, 0)
