"""What the open files of a mount share: each is given the same tools. No state of its own."""

from __future__ import annotations

from typing import NamedTuple

from mimicfs.config.values import FileOptions
from mimicfs.files.budget import Budget
from mimicfs.files.journal import Journal
from mimicfs.s3.requests.client import S3


class Tools(NamedTuple):
    """What an open file reads, stages and uploads with."""

    s3: S3
    journal: Journal
    options: FileOptions
    budget: Budget
