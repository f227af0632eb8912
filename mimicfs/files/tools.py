"""What the open files of a mount share: each is given the same tools. No state of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mimicfs.config.values import FileOptions
from mimicfs.files.budget import Budget
from mimicfs.files.journal import Journal
from mimicfs.s3.requests.client import S3


class Tools(NamedTuple):
    """What an open file reads, stages and uploads with. *moved* is told of each file whose appended
    bytes have just gone behind a version of others, before that is uploaded."""

    s3: S3
    journal: Journal
    options: FileOptions
    budget: Budget
    moved: Callable[[Any], None] = lambda _: None
