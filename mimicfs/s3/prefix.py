"""A common prefix of keys, in a listing with a delimiter."""

from __future__ import annotations

from typing import Any


class Prefix:
    def __init__(self, bucket: Any = None, name: str | None = None) -> None:
        self.bucket = bucket
        self.name = name

    @property
    def provider(self) -> str:
        return "aws"

    def __repr__(self) -> str:
        return f"<Prefix: {self.bucket.name if self.bucket else None},{self.name}>"
