"""The log file of a mount. In a module of its own, as a command has no use for it.

Threading: logging's own lock.
"""

from __future__ import annotations

import logging.handlers
from typing import Any

from mimicfs.private import open_private


class WatchedLog(logging.handlers.WatchedFileHandler):
    """A log file that is made anew, for us alone, when it was moved away."""

    def _open(self) -> Any:
        return open(self.baseFilename, "a", errors="backslashreplace", opener=open_private)
