"""The log file of a mount. In a module of its own, as a command has no use for it.

Threading: logging's own lock.
"""

from __future__ import annotations

import logging.handlers
import os
from typing import Any


class WatchedLog(logging.handlers.WatchedFileHandler):
    """A log file that is made anew, for us alone, when it was moved away."""

    def _open(self) -> Any:
        return open(self.baseFilename, "a", errors="backslashreplace", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
