"""What a signal does to a call that waits."""

from __future__ import annotations

import signal

import pytest

from mimicfs.fuse import killed
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


@pytest.mark.parametrize(
    ("pending", "does", "traced", "found"),
    [
        ("SIGKILL", "", False, KILLS),
        ("SIGKILL", "", True, KILLS),
        ("SIGQUIT", "", False, KILLS),
        ("SIGQUIT", "SigCgt", False, OTHER),
        ("SIGINT", "SigCgt", False, CTRL_C),
        ("SIGUSR1", "SigCgt", False, OTHER),
        # The kernel kills no traced process by these, and keeps also what it ignores.
        ("SIGTERM", "", True, CTRL_C),
        ("SIGQUIT", "", True, CTRL_C),
        ("SIGRTMIN", "", True, CTRL_C),
        ("SIGTERM", "SigCgt", True, OTHER),
        ("SIGTERM", "SigIgn", True, OTHER),
        ("SIGTERM", "SigBlk", True, OTHER),
        ("SIGINT", "SigIgn", True, OTHER),
        ("SIGCHLD", "", True, OTHER),
        ("SIGSTOP", "", True, OTHER),
    ],
)
def test_what_a_signal_is_to_a_process_that_may_be_traced(
    monkeypatch: pytest.MonkeyPatch, pending: str, does: str, traced: bool, found: Signal
) -> None:
    mask = f"{1 << (signal.Signals[pending] - 1):016x}"
    fields = dict.fromkeys(("SigPnd", "SigBlk", "SigIgn", "SigCgt"), "0")
    fields |= {"ShdPnd": mask, "TracerPid": str(int(traced))} | ({does: mask} if does else {})
    monkeypatch.setattr(killed, "status", lambda _: fields)
    assert killed._signal(1) is found
