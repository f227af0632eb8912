"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02 | 0x01, 0x10  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(descriptor: int, mode: int, offset: int, size: int) -> None:
    """Raises OSError, as fallocate(2) says."""
    words = (ctypes.c_long(offset), ctypes.c_long(size))
    if _libc.fallocate(descriptor, mode, *words):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
