"""The error of a mount that did not come up, as the process that asked for it gets it."""

from __future__ import annotations

from mimicfs.errors import MountError


class Failed(MountError):
    """A mount did not come up; *kind* is the name of the error's class in the daemon."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
