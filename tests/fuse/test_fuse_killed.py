"""What a signal does to a call that waits."""

from __future__ import annotations

import pytest

from mimicfs.fuse.abi import Opcode
from mimicfs.fuse.killed import _UNSEEN_S, Signal, WaitingCall, cancels

KILLS, CTRL_C, OTHER, UNSEEN = Signal.KILLS, Signal.CTRL_C, Signal.OTHER, Signal.UNSEEN
ANY = {KILLS, CTRL_C, OTHER, UNSEEN}
MOST = (
    *(Opcode.LOOKUP, Opcode.GETATTR, Opcode.READDIR, Opcode.READDIRPLUS, Opcode.READLINK),
    *(Opcode.OPEN, Opcode.CREATE, Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.FALLOCATE),
    *(Opcode.SETATTR, Opcode.GETXATTR, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.LSEEK),
    *(Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.UNLINK, Opcode.RMDIR),
    *(Opcode.RENAME, Opcode.RENAME2, Opcode.COPY_FILE_RANGE, Opcode.SETLK),
)
KEEP_BYTES = (Opcode.FLUSH, Opcode.RELEASE)


@pytest.mark.parametrize(
    ("asked", "at_once", "late"),
    [
        *((WaitingCall(opcode, 1), {KILLS, CTRL_C}, {UNSEEN}) for opcode in MOST),
        (WaitingCall(Opcode.SETLKW, 1), ANY, set()),
        *((WaitingCall(opcode, 1), set(), set()) for opcode in KEEP_BYTES),
        *((WaitingCall(opcode, 1, True), set(), set()) for opcode in (Opcode.SETLK, Opcode.SETLKW)),
    ],
    ids=lambda value: Opcode(value.opcode).name if isinstance(value, WaitingCall) else "",
)
def test_which_signal_cancels_which_call(
    asked: WaitingCall, at_once: set[Signal], late: set[Signal]
) -> None:
    assert {found for found in ANY if cancels(found, asked, 0)} == at_once
    assert {found for found in ANY if cancels(found, asked, _UNSEEN_S + 1)} == at_once | late
