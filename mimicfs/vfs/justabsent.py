"""The last name that was not there. To make a file, the kernel asks for its name (LOOKUP) and then
for the file (CREATE), and keeps the directory locked meanwhile: the mirror need not be asked twice.

Threading: any thread; the note is replaced in one step.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from mimicfs.vfs.nodes import Node

_JUST_S = 0.05  # from one request to the other, as long as nothing was heard of others


class _Absence(NamedTuple):
    directory: Node | None = None
    name: bytes = b""
    generation: int = 0
    until: float = 0.0  # on the monotonic clock


class JustAbsent:
    def __init__(self) -> None:
        self._last = _Absence()

    def note(self, directory: Node, name: bytes, generation: int) -> None:
        """Note that *name* was not in *directory*. The *generation* (Mirror.generation) was read
        before the mirror was asked."""
        self._last = _Absence(directory, name, generation, time.monotonic() + _JUST_S)

    def is_so(self, directory: Node, name: bytes, generation: int) -> bool:
        """Whether that was noted of *name* just now, and of this *generation*."""
        last = self._last
        same = (last.directory, last.name, last.generation) == (directory, name, generation)
        return same and time.monotonic() < last.until
