"""What a mount keeps on the local disk: the journal of bytes that S3 does not have yet, and the
cache of bytes that were read. The work that earlier mounts have left there is finished first.

Threading: `kept` is entered by the main thread; threads of `Recovery` go on behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mimicfs.config.values import FileOptions, MountChoices, Settings
from mimicfs.errors import ConfigError
from mimicfs.files.cache import BlockCache
from mimicfs.files.journal import Journal
from mimicfs.files.recovery import Recovery
from mimicfs.parts import Parts
from mimicfs.private import private_directory
from mimicfs.s3.requests.client import S3
from mimicfs.vfs.intents import RENAMES, Intents
from mimicfs.vfs.renames import Renames

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0  # how long a mount waits for the uploads that an earlier one left
_ADVICE = "name another --cache-dir"


class LocalDisk(NamedTuple):
    """The places of a mount on the local disk; *cache* is None if nothing read is kept."""

    journal: Journal
    cache: BlockCache | None
    options: FileOptions


@contextmanager
def kept(settings: Settings, choices: MountChoices, parts: Parts) -> Iterator[LocalDisk]:
    """Within, the journal and the cache are open, and the work of earlier mounts is finished.
    Raises ConfigError if there is no place for them."""
    journal = _journal(settings, choices)
    options = FileOptions(
        journal.directory,
        part_size=choices.part_size,
        read_memory=choices.read_memory,
        write_back=choices.write_back,
    )
    with _block_cache(settings, parts.s3) as cache:
        if choices.read_only:
            yield LocalDisk(journal, cache, options)
            return
        with _recovering(parts, journal, options):
            yield LocalDisk(journal, cache, options)


def _journal(settings: Settings, choices: MountChoices) -> Journal:
    if settings.cache_dir is not None:
        directory = private_directory(settings.cache_dir, _ADVICE) / "staging"
    else:
        directory = private_directory(settings.state) / "staging"
    return Journal.open(directory, choices.staging_size)


@contextmanager
def _block_cache(settings: Settings, s3: S3) -> Iterator[BlockCache | None]:
    """Within, the cache of blocks is open, if the mount has one. If nobody has asked for it, the
    mount goes on without a place for it."""
    cache = None
    directory = settings.cache_dir / "blocks" if settings.cache_dir else settings.blocks
    if directory is not None and settings.cache_size != 0:
        try:
            cache = BlockCache(directory, s3.origin(), settings.cache_size)
        except ConfigError as exc:
            if settings.cache_dir is not None or settings.cache_size is not None:
                raise
            log.warning("the cache on disk is off: %s", exc)
    try:
        yield cache
    finally:
        if cache is not None:
            cache.close()


@contextmanager
def _recovering(parts: Parts, journal: Journal, options: FileOptions) -> Iterator[None]:
    """Within, the work of earlier mounts is finished: renames before this begins, uploads within
    ten seconds or behind its back."""
    intents = Intents(journal.directory / RENAMES, parts.s3.account())
    Renames(parts.mimicdb, parts.s3, parts.syncer, intents).recover()
    recovery = Recovery(parts.s3, journal, options)
    recovery.start(_PATIENCE_S)
    try:
        yield
    finally:
        recovery.close()
