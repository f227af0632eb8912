"""An owner, as boto has it."""

from __future__ import annotations

from typing import Any


class User:
    def __init__(self, parent: Any = None, id: str = "", display_name: str = "") -> None:  # noqa: A002
        self.type: str | None = None
        self.id = id
        self.display_name = display_name
