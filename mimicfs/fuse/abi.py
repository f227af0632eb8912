"""Structures and constants of linux/fuse.h, in the header's order and by its names.

There is nothing but layouts here: little-endian, 64-bit. tests/fuse/test_fuse_abi.py compares each
size, offset and constant with the C header. A constant that the header of Debian 12 (7.38) does not
have yet is marked with the minor version that brought it; its source is the kernel's own header.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

KERNEL_VERSION = 7
KERNEL_MINOR_VERSION = 45  # the newest that we know; the kernel may be older or newer
OLDEST_MINOR_VERSION = 31  # Linux 5.4; MAX_PAGES, NO_OPENDIR_SUPPORT, EXPLICIT_INVAL_DATA
ROOT_ID = 1

# C structure -> {field: offset}. Filled by _layout below, read by the tests.
FIELDS: dict[str, dict[str, int]] = {}


def _layout(c_name: str, fields: str) -> struct.Struct:
    """Return the Struct of *fields*: pairs of a struct code and the name of the field in C.

    A name that ends in "[n]" is an array; its code repeats n times.
    """
    words = fields.split()
    formats = "<"
    offsets: dict[str, int] = {}
    for code, field in zip(words[::2], words[1::2], strict=True):
        name, _, count = field.rstrip("]").partition("[")
        offsets[name] = struct.calcsize(formats)
        formats += count + code
    FIELDS[c_name] = offsets
    return struct.Struct(formats)


# Headers

IN_HEADER = _layout(
    "fuse_in_header",
    "I len I opcode Q unique Q nodeid I uid I gid I pid H total_extlen H padding",
)
OUT_HEADER = _layout("fuse_out_header", "I len i error Q unique")

# Parts of several answers. Times are signed inside the kernel, so they are signed here.

_ATTR = (
    "Q ino Q size Q blocks q atime q mtime q ctime I atimensec I mtimensec I ctimensec"
    " I mode I nlink I uid I gid I rdev I blksize I flags"
)
_ENTRY = "Q nodeid Q generation Q entry_valid Q attr_valid I entry_valid_nsec I attr_valid_nsec "
_DIRENT = "Q ino Q off I namelen I type"

ATTR = _layout("fuse_attr", _ATTR)
ENTRY_HEAD = _layout("fuse_entry_out", _ENTRY)  # without its last field, attr
DIRENT = _layout("fuse_dirent", _DIRENT)
ATTR_OUT_HEAD = _layout("fuse_attr_out", "Q attr_valid I attr_valid_nsec I dummy")

# The same structures as a whole: one call packs an answer.
ENTRY_OUT = struct.Struct(ENTRY_HEAD.format + ATTR.format[1:])
ATTR_OUT = struct.Struct(ATTR_OUT_HEAD.format + ATTR.format[1:])
DIRENTPLUS = struct.Struct(ENTRY_OUT.format + DIRENT.format[1:])

KSTATFS = _layout(
    "fuse_kstatfs",
    "Q blocks Q bfree Q bavail Q files Q ffree I bsize I namelen I frsize I padding I spare[6]",
)

# Requests and their answers

FORGET_IN = _layout("fuse_forget_in", "Q nlookup")
FORGET_ONE = _layout("fuse_forget_one", "Q nodeid Q nlookup")
BATCH_FORGET_IN = _layout("fuse_batch_forget_in", "I count I dummy")
GETATTR_IN = _layout("fuse_getattr_in", "I getattr_flags I dummy Q fh")
MKNOD_IN = _layout("fuse_mknod_in", "I mode I rdev I umask I padding")
MKDIR_IN = _layout("fuse_mkdir_in", "I mode I umask")
RENAME_IN = _layout("fuse_rename_in", "Q newdir")
RENAME2_IN = _layout("fuse_rename2_in", "Q newdir I flags I padding")
LINK_IN = _layout("fuse_link_in", "Q oldnodeid")
SETATTR_IN = _layout(
    "fuse_setattr_in",
    "I valid I padding Q fh Q size Q lock_owner q atime q mtime q ctime"
    " I atimensec I mtimensec I ctimensec I mode I unused4 I uid I gid I unused5",
)
OPEN_IN = _layout("fuse_open_in", "I flags I open_flags")
CREATE_IN = _layout("fuse_create_in", "I flags I mode I umask I open_flags")
OPEN_OUT = _layout("fuse_open_out", "Q fh I open_flags I padding")
RELEASE_IN = _layout("fuse_release_in", "Q fh I flags I release_flags Q lock_owner")
FLUSH_IN = _layout("fuse_flush_in", "Q fh I unused I padding Q lock_owner")
READ_IN = _layout(
    "fuse_read_in", "Q fh Q offset I size I read_flags Q lock_owner I flags I padding"
)
WRITE_IN = _layout(
    "fuse_write_in", "Q fh Q offset I size I write_flags Q lock_owner I flags I padding"
)
WRITE_OUT = _layout("fuse_write_out", "I size I padding")
LK_IN = _layout(
    "fuse_lk_in",
    "Q fh Q owner Q lk.start Q lk.end I lk.type I lk.pid I lk_flags I padding",
)
LK_OUT = _layout("fuse_lk_out", "Q lk.start Q lk.end I lk.type I lk.pid")
FSYNC_IN = _layout("fuse_fsync_in", "Q fh I fsync_flags I padding")
SETXATTR_IN = _layout("fuse_setxattr_in", "I size I flags I setxattr_flags I padding")
COMPAT_SETXATTR_IN_SIZE = 8  # without SETXATTR_EXT only the first two fields are sent
GETXATTR_IN = _layout("fuse_getxattr_in", "I size I padding")
GETXATTR_OUT = _layout("fuse_getxattr_out", "I size I padding")
ACCESS_IN = _layout("fuse_access_in", "I mask I padding")
INTERRUPT_IN = _layout("fuse_interrupt_in", "Q unique")
FALLOCATE_IN = _layout("fuse_fallocate_in", "Q fh Q offset Q length I mode I padding")
LSEEK_IN = _layout("fuse_lseek_in", "Q fh Q offset I whence I padding")
LSEEK_OUT = _layout("fuse_lseek_out", "Q offset")
COPY_FILE_RANGE_IN = _layout(
    "fuse_copy_file_range_in", "Q fh_in Q off_in Q nodeid_out Q fh_out Q off_out Q len Q flags"
)
COPY_FILE_RANGE_OUT = struct.Struct("<Q")  # 7.45: bytes_copied

INIT_IN = _layout("fuse_init_in", "I major I minor I max_readahead I flags I flags2 I unused[11]")
INIT_IN_OLD_SIZE = 16  # up to 7.35 the request ends after flags
# 7.40 and 7.43 took max_stack_depth and request_timeout out of the unused words.
INIT_OUT = _layout(
    "fuse_init_out",
    "I major I minor I max_readahead I flags H max_background H congestion_threshold"
    " I max_write I time_gran H max_pages H map_alignment I flags2 I unused[7]",
)

# Notifications

NOTIFY_INVAL_INODE_OUT = _layout("fuse_notify_inval_inode_out", "Q ino q off q len")
NOTIFY_INVAL_ENTRY_OUT = _layout("fuse_notify_inval_entry_out", "Q parent I namelen I flags")
NOTIFY_DELETE_OUT = _layout("fuse_notify_delete_out", "Q parent Q child I namelen I padding")
NOTIFY_RETRIEVE_OUT = _layout(
    "fuse_notify_retrieve_out", "Q notify_unique Q nodeid Q offset I size I padding"
)


class Opcode(IntEnum):
    """enum fuse_opcode: the kinds of requests."""

    LOOKUP = 1
    FORGET = 2  # no reply
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42  # no reply
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52  # 7.39
    COPY_FILE_RANGE_64 = 53  # 7.45


class Notify(IntEnum):
    """enum fuse_notify_code."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7  # 7.40
    INC_EPOCH = 8  # 7.44


NOTIFY_INC_EPOCH_MINOR = 44  # the minor version that brought INC_EPOCH


class Init(IntFlag):
    """INIT flags. Bits from 32 on travel in flags2."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    INIT_RESERVED = 1 << 31
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34  # 7.39
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36  # 7.39
    PASSTHROUGH = 1 << 37  # 7.40
    NO_EXPORT_SUPPORT = 1 << 38  # 7.40


class Fattr(IntFlag):
    """fuse_setattr_in.valid."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class Fopen(IntFlag):
    """fuse_open_out.open_flags."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6


# Flags inside requests
GETATTR_FH = 1 << 0
WRITE_CACHE = 1 << 0
WRITE_LOCKOWNER = 1 << 1
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
FSYNC_FDATASYNC = 1 << 0
LK_FLOCK = 1 << 0

INTERRUPT_BIT = 1  # set in the unique of an INTERRUPT itself (fs/fuse/fuse_dev_i.h)
MIN_READ_BUFFER = 8192
UNKNOWN_INO = 0xFFFFFFFF  # libfuse's value for an unknown d_ino; 0 would mean "deleted"


def aligned(size: int) -> int:
    """Return *size* rounded up to 8 (FUSE_REC_ALIGN)."""
    return size + 7 & ~7


def title(opcode: int) -> str:
    """Return the name of *opcode*, for people."""
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"opcode {opcode}"
