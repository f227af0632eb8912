"""Calls that are repeated after the facts that they lack were learned.

Threading: no state; any thread that may wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mimicfs.errors import Unlisted
from mimicfs.fuse.abi import Opcode
from mimicfs.fuse.counts import Counts
from mimicfs.posix import Caller, FileSystem

T = TypeVar("T")

_LEARNINGS_MAX = 16  # how often one request may find that something must be learned first


class LearnedCalls:
    """Has *fs* learn; *counts* has the requests for which it does."""

    def __init__(self, fs: FileSystem, counts: Counts) -> None:
        self._fs = fs
        self._counts = counts

    def sure(
        self,
        caller: Caller,
        call: Callable[[], T],
        missing: Unlisted | None = None,
        opcode: Opcode = Opcode.SETATTR,
    ) -> T:
        """Return call(), after learning everything that it says must be learned. Waits.

        *missing* is what it has said already. Raises the last Unlisted if it never stops saying so.
        """
        counted = False
        for _ in range(_LEARNINGS_MAX):
            if missing is not None:
                if not counted:
                    self._counts.learned(opcode)
                counted = True
                self._fs.learn(caller, missing)
            try:
                return call()
            except Unlisted as exc:
                missing = exc
        assert missing is not None
        raise missing
