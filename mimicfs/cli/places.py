"""The meaning of a path in a mount: the mount that has it, and the bucket and key that it shows."""

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
    """Return the mount in which *path*, which is resolved, lies: of several, the deepest one.
    *alive*: only mounts that are still served count."""
    from mimicfs.mount.mounted import mounts

    here = [it for it in mounts(settings) if path.is_relative_to(it.mountpoint)]
    served = [it for it in here if it.alive or not alive]
    return max(served, key=lambda it: len(it.mountpoint), default=None)


def reached(settings: Settings, mounted: Mounted) -> Settings:
    """Return *settings* with the endpoint and the store of *mounted*, as far as its record has
    them: it has no passwords, and nobody else can open a store in memory, or of a moment."""
    s3, store = settings.s3, settings.store
    if "***" not in mounted.endpoint:
        endpoint = None if mounted.endpoint == "aws" else mounted.endpoint
        s3 = replace(s3, endpoint_url=endpoint)
    if "***" not in mounted.store and not mounted.store.startswith("memory"):
        store = mounted.store
    return replace(settings, s3=s3, store=store)


def of_a_moment(mounted: Mounted) -> bool:
    """Whether *mounted* shows the state of a moment (history/mirror.py)."""
    return mounted.store.startswith("memory of ")


def url_shown(mounted: Mounted, path: Path) -> str:
    """Return the URL of the thing that *path* in *mounted* shows, by the word of the mount itself.
    Raises MountError if the mount does not say it: a guess could stand for all buckets."""
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
    """Whether *path* shows all buckets: only such a path has no bucket and no key."""
    target = mounted.target.partition(" ")[0]  # a moment may stand behind it
    return str(path) == mounted.mountpoint and target == "s3://"


def key_named(mounted: Mounted, path: Path, *, directory: bool) -> tuple[str, str]:
    """Return the bucket and key for which *path* in *mounted* stands by its name, whether anything
    is there or not: a directory above it that exists tells them. *directory*: the key must end
    in /. Raises MountError."""
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
    """Whether a mount, or a bucket in it, begins at *path*."""
    return str(path) == mounted.mountpoint or _is_root_of_all(mounted, path.parent)
