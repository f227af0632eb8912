"""The meaning of a path in a mount: which mount it is in, and which bucket and key it shows."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mimicfs.errors import MountError

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.mount.mounted import Mounted


def innermost(settings: Settings, path: Path, *, alive: bool = False) -> Mounted | None:
    """Return the mount that *path*, which is resolved, is in: of several, the one that lies
    deepest. *alive*: one that is still served."""
    from mimicfs.mount.mounted import mounts

    here = [it for it in mounts(settings) if path.is_relative_to(it.mountpoint)]
    served = [it for it in here if it.alive or not alive]
    return max(served, key=lambda it: len(it.mountpoint), default=None)


def reached(settings: Settings, mounted: Mounted) -> Settings:
    """Return *settings* with the endpoint and the store of *mounted*, as far as its record has
    them: it has no passwords, and a store in memory, or of a moment, is nobody else's."""
    s3, store = settings.s3, settings.store
    if "***" not in mounted.endpoint:
        endpoint = None if mounted.endpoint == "aws" else mounted.endpoint
        s3 = replace(s3, endpoint_url=endpoint)
    if "***" not in mounted.store and not mounted.store.startswith("memory"):
        store = mounted.store
    return replace(settings, s3=s3, store=store)


def of_a_moment(mounted: Mounted) -> bool:
    """Return whether *mounted* shows what there was at a moment (history/mirror.py)."""
    return mounted.store.startswith("memory of ")


def url_shown(mounted: Mounted, path: Path) -> str:
    """Return the URL of what *path* in *mounted* shows, as the mount itself says. Raises
    MountError: what it does not say is not guessed, and never stands for all buckets."""
    bucket = _said(mounted, path, "bucket")
    return f"s3://{bucket}/{_said(mounted, path, 'key')}" if bucket else "s3://"


def _said(mounted: Mounted, path: Path, name: str) -> str:
    try:
        return os.fsdecode(os.getxattr(path, f"user.mimicfs.{name}"))
    except OSError as exc:
        if exc.errno == errno.ENODATA and _is_root_of_all(mounted, path):
            return ""
        raise MountError(f"{path}: {os.strerror(exc.errno or 0).lower()}") from exc


def _is_root_of_all(mounted: Mounted, path: Path) -> bool:
    """Return whether *path* shows all buckets: that alone has no bucket and no key."""
    target = mounted.target.partition(" ")[0]  # behind it there may be a moment
    return str(path) == mounted.mountpoint and target == "s3://"


def key_named(mounted: Mounted, path: Path, *, directory: bool) -> tuple[str, str]:
    """Return bucket and key that *path* in *mounted* stands for by its name, be there something
    or not: what is above it says what it shows. *directory*: the key is to end in /. Raises
    MountError."""
    from mimicfs.vfs.names import component

    above = path
    while not above.is_dir() and str(above) != mounted.mountpoint:
        above = above.parent
    texts = [component(os.fsencode(each)).text for each in path.relative_to(above).parts]
    shown = url_shown(mounted, above).removeprefix("s3://")
    below = "/".join(texts) + ("/" if directory and texts else "")
    bucket, _, key = f"{shown}{below}".partition("/")
    if above == path and not directory and not _is_root(mounted, path):
        key = key.removesuffix("/")
    return bucket, key


def _is_root(mounted: Mounted, path: Path) -> bool:
    """Return whether *path* is where a mount, or a bucket in it, begins."""
    return str(path) == mounted.mountpoint or _is_root_of_all(mounted, path.parent)
