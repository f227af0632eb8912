"""What commands and mounts stand on: the mirror, S3, and what keeps the one true to the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.backends.open import open_store
from mimicfs.config.values import Settings, Target, redacted
from mimicfs.errors import AccessDenied, InvalidRequest, S3Unavailable
from mimicfs.mimicdb import Mirror
from mimicfs.private import check_parent, private_directory
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """The mirror, S3, and what keeps the one true to the other."""

    mimicdb: Mirror
    s3: S3
    syncer: Syncer
    store: str  # its URL, without a password

    def close(self) -> None:
        self.s3.close()
        self.mimicdb.close()


def assemble(
    settings: Settings, beside: Callable[[Backend], Backend] = lambda store: store
) -> Parts:
    """Open the store and make what stands on it. Makes no request. *beside* puts a copy beside
    a store."""
    url = store_url(settings, S3(settings.s3, Mirror(open_store("memory:"))))
    if not settings.store:
        private_directory(settings.state)
    elif url.startswith("sqlite:"):
        check_parent(Path(url.removeprefix("sqlite:").removeprefix("//")))
    mimicdb = Mirror(beside(open_store(url, settings.namespace, settings.store_password)))
    s3 = S3(settings.s3, mimicdb)
    syncer = Syncer(mimicdb, s3, settings.s3.buckets)
    return Parts(mimicdb, s3, syncer, redacted(url))


def store_url(settings: Settings, s3: S3) -> str:
    """Return where the mirror of what *s3* reaches is. Makes no request."""
    return settings.store or f"sqlite://{settings.state / (s3.account() + '.db')}"


def own_directories(settings: Settings) -> list[Path]:
    """Return the directories that are for us alone."""
    staging = settings.cache_dir or settings.state
    found = [settings.state, settings.state / "mounts", staging / "staging"]
    if settings.cache_dir is not None:
        found += [settings.cache_dir, settings.cache_dir / "blocks"]
    elif settings.blocks is not None:
        found.append(settings.blocks)
    return found


def check(parts: Parts, target: Target) -> None:
    """Raise what would make the mount useless: no credentials, no such bucket, no rights.

    One request. When S3 cannot be reached, a mirror that has what is asked for is enough.
    """
    parts.s3.check_credentials()
    exposed = parts.s3.exposed_credentials()
    if exposed is not None:
        log.warning("%s: other users can read the credentials in it; chmod 600 it", exposed)
    if target.bucket:
        known = parts.mimicdb.backend.bucket(target.bucket) is not None
    else:
        known = parts.mimicdb.scope("", "") is not None
    try:
        if target.bucket:
            _check_bucket(parts.s3, target)
            parts.mimicdb.add_bucket(target.bucket, 0)
        else:
            parts.syncer.sync_buckets()
    except S3Unavailable as exc:
        if not known:
            raise
        log.warning("S3 does not answer, the mirror is shown as it is: %s", exc)


def _check_bucket(s3: S3, target: Target) -> None:
    """Raise what is wrong with the bucket. The answer to a HEAD says 403 for an unknown key id
    or a wrong clock as for a missing right, and one who may list a prefix alone gets it too: a
    listing knows better."""
    try:
        s3.head_bucket(target.bucket)
    except (AccessDenied, InvalidRequest) as exc:
        log.debug("%s", exc)
        s3.list_page(target.bucket, target.prefix, limit=1)
