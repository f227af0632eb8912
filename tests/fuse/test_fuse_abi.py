"""abi.py says what the C header says: a C program prints the header's sizes, offsets and
constants, and each is compared."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from mimicfs.fuse import abi

# C structure -> our Struct. Where ours is a part, the C type whose size it must have.
STRUCTS = {
    "struct fuse_in_header": abi.IN_HEADER,
    "struct fuse_out_header": abi.OUT_HEADER,
    "struct fuse_attr": abi.ATTR,
    "struct fuse_entry_out": abi.ENTRY_OUT,
    "struct fuse_attr_out": abi.ATTR_OUT,
    "struct fuse_dirent": abi.DIRENT,
    "struct fuse_direntplus": abi.DIRENTPLUS,
    "struct fuse_statfs_out": abi.KSTATFS,
    "struct fuse_forget_in": abi.FORGET_IN,
    "struct fuse_forget_one": abi.FORGET_ONE,
    "struct fuse_batch_forget_in": abi.BATCH_FORGET_IN,
    "struct fuse_getattr_in": abi.GETATTR_IN,
    "struct fuse_mknod_in": abi.MKNOD_IN,
    "struct fuse_mkdir_in": abi.MKDIR_IN,
    "struct fuse_rename_in": abi.RENAME_IN,
    "struct fuse_rename2_in": abi.RENAME2_IN,
    "struct fuse_link_in": abi.LINK_IN,
    "struct fuse_setattr_in": abi.SETATTR_IN,
    "struct fuse_open_in": abi.OPEN_IN,
    "struct fuse_create_in": abi.CREATE_IN,
    "struct fuse_open_out": abi.OPEN_OUT,
    "struct fuse_release_in": abi.RELEASE_IN,
    "struct fuse_flush_in": abi.FLUSH_IN,
    "struct fuse_read_in": abi.READ_IN,
    "struct fuse_write_in": abi.WRITE_IN,
    "struct fuse_write_out": abi.WRITE_OUT,
    "struct fuse_fsync_in": abi.FSYNC_IN,
    "struct fuse_setxattr_in": abi.SETXATTR_IN,
    "struct fuse_getxattr_in": abi.GETXATTR_IN,
    "struct fuse_getxattr_out": abi.GETXATTR_OUT,
    "struct fuse_access_in": abi.ACCESS_IN,
    "struct fuse_interrupt_in": abi.INTERRUPT_IN,
    "struct fuse_fallocate_in": abi.FALLOCATE_IN,
    "struct fuse_lseek_in": abi.LSEEK_IN,
    "struct fuse_lseek_out": abi.LSEEK_OUT,
    "struct fuse_copy_file_range_in": abi.COPY_FILE_RANGE_IN,
    "struct fuse_init_in": abi.INIT_IN,
    "struct fuse_init_out": abi.INIT_OUT,
    "struct fuse_notify_inval_inode_out": abi.NOTIFY_INVAL_INODE_OUT,
    "struct fuse_notify_inval_entry_out": abi.NOTIFY_INVAL_ENTRY_OUT,
    "struct fuse_notify_retrieve_out": abi.NOTIFY_RETRIEVE_OUT,
}
ENUMS: dict[str, type[IntEnum]] = {
    "FUSE_": abi.Opcode,
    "FUSE_NOTIFY_": abi.Notify,
}
FLAGS: dict[str, type[IntFlag]] = {"FUSE_": abi.Init, "FATTR_": abi.Fattr, "FOPEN_": abi.Fopen}
CONSTANTS = {
    "FUSE_KERNEL_VERSION": abi.KERNEL_VERSION,
    "FUSE_ROOT_ID": abi.ROOT_ID,
    "FUSE_GETATTR_FH": abi.GETATTR_FH,
    "FUSE_WRITE_CACHE": abi.WRITE_CACHE,
    "FUSE_WRITE_LOCKOWNER": abi.WRITE_LOCKOWNER,
    "FUSE_WRITE_KILL_SUIDGID": abi.WRITE_KILL_SUIDGID,
    "FUSE_OPEN_KILL_SUIDGID": abi.OPEN_KILL_SUIDGID,
    "FUSE_FSYNC_FDATASYNC": abi.FSYNC_FDATASYNC,
    "FUSE_COMPAT_SETXATTR_IN_SIZE": abi.COMPAT_SETXATTR_IN_SIZE,
    "FUSE_MIN_READ_BUFFER": abi.MIN_READ_BUFFER,
    "FUSE_REC_ALIGN(13)": abi.aligned(13),
    "FUSE_REC_ALIGN(16)": abi.aligned(16),
}
# Constants after 7.38, the header of Debian 12: compared where the header has it.
SINCE = {
    "FUSE_STATX": 39,
    "FUSE_CREATE_SUPP_GROUP": 39,
    "FUSE_DIRECT_IO_ALLOW_MMAP": 39,
    "FUSE_PASSTHROUGH": 40,
    "FUSE_NO_EXPORT_SUPPORT": 40,
    "FUSE_NOTIFY_RESEND": 40,
    "FUSE_NOTIFY_INC_EPOCH": 44,
    "FUSE_COPY_FILE_RANGE_64": 45,
}


# Fields that were padding in 7.38 and have a name since 7.40.
NAMED = {
    "offsetof(struct fuse_open_out, padding)": "offsetof(struct fuse_open_out, backing_id)",
    "offsetof(struct fuse_init_out, unused)": "offsetof(struct fuse_init_out, max_stack_depth)",
}


def expected() -> Iterator[tuple[str, int]]:
    """Yield C expressions and what they must be worth."""
    for c_type, ours in STRUCTS.items():
        yield f"sizeof({c_type})", ours.size
    for c_name, fields in abi.FIELDS.items():
        for field, offset in fields.items():
            yield f"offsetof(struct {c_name}, {field})", offset
    for prefix, enum in ENUMS.items():
        yield from ((prefix + member.name, member.value) for member in enum)
    for prefix, flags in FLAGS.items():
        yield from ((prefix + str(member.name), member.value) for member in flags)
    yield from CONSTANTS.items()


@pytest.fixture(scope="module")
def said_by_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    gcc = shutil.which("gcc")
    if gcc is None or not Path("/usr/include/linux/fuse.h").exists():
        if os.environ.get("CI"):
            pytest.fail("no gcc or no linux/fuse.h (linux-libc-dev)")
        pytest.skip("no gcc or no linux/fuse.h (linux-libc-dev)")
    folder = tmp_path_factory.mktemp("abi")
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <linux/fuse.h>"]
    lines += ["#if FUSE_KERNEL_MINOR_VERSION < 40", "#define backing_id padding"]
    lines += ["#define max_stack_depth unused", "#endif"]
    lines.append("int main(void) {")
    for expression, _ in expected():
        since, named = SINCE.get(expression, 0), NAMED.get(expression, expression)
        lines.append(f"#if FUSE_KERNEL_MINOR_VERSION >= {since}")
        lines.append(f'printf("%s=%llu\\n", "{expression}", (unsigned long long)({named}));')
        lines.append("#endif")
    (folder / "abi.c").write_text("\n".join([*lines, "return 0; }"]))
    program = str(folder / "abi")
    subprocess.run([gcc, "-o", program, str(folder / "abi.c")], check=True, timeout=60)
    output = subprocess.run([program], capture_output=True, text=True, check=True, timeout=10)
    pairs = (line.rsplit("=", 1) for line in output.stdout.splitlines())
    # FUSE_INIT_RESERVED is (1 << 31), which C takes for negative.
    return {
        name: int(value) & 0xFFFFFFFF if "RESERVED" in name else int(value) for name, value in pairs
    }


def test_sizes_offsets_and_constants_are_those_of_the_header(said_by_c: dict[str, int]) -> None:
    ours = {name: value for name, value in expected() if name in said_by_c}
    assert ours == said_by_c
    assert len(said_by_c) > 300


def test_nothing_of_7_38_is_left_uncompared(said_by_c: dict[str, int]) -> None:
    left_out = {name for name, _ in expected()} - said_by_c.keys()
    assert left_out <= SINCE.keys()


def test_every_opcode_of_the_header_is_named() -> None:
    header = Path("/usr/include/linux/fuse.h").read_text()
    block = header[header.index("enum fuse_opcode {") : header.index("/* CUSE specific")]
    words = [line.split() for line in block.splitlines()[1:] if "=" in line]
    theirs = {word[0].removeprefix("FUSE_"): int(word[2].rstrip(",")) for word in words}
    ours = {opcode.name: opcode.value for opcode in abi.Opcode}
    assert {name: ours.get(name) for name in theirs} == theirs
