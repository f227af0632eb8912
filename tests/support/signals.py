"""Signals that the kernel gives to a thread of our choice."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_TGKILL = {"x86_64": 234, "aarch64": 131}[os.uname().machine]


def to_another_thread(pid: int, number: signal.Signals) -> None:
    """Send *number* to a thread of process *pid* that is not its first one: Python's handler
    waits for that one, which the signal does not wake."""
    tids = {int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()} - {pid}
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_TGKILL, pid, max(tids), int(number)):
        raise OSError(ctypes.get_errno(), f"tgkill of {pid}")
