"""The mirror of a bucket as it was at a moment. It is made in one pass over the versions below a
prefix, lies in a file of its own, and is removed when it is closed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mimicfs.backends.open import open_store
from mimicfs.config.values import Settings, Target
from mimicfs.errors import ConfigError
from mimicfs.human import iso_time
from mimicfs.mimicdb import Mirror
from mimicfs.parts import Parts, check
from mimicfs.posix import Cancellation
from mimicfs.private import private_directory
from mimicfs.s3.requests.past import Past, versioning
from mimicfs.sync.progress import Progress

log = logging.getLogger(__name__)

_Show = Callable[[Progress], None]
_SUSPENDED = "s3://%s: versioning is %s; what was replaced since then is not shown"


@contextmanager
def opened(settings: Settings, moment_ns: int) -> Iterator[Parts]:
    """Within, the mirror of *moment_ns* is open, empty at first, with an S3 that reads objects as
    they were. Makes no request."""
    with _place(settings) as directory:
        mimicdb = Mirror(open_store(f"sqlite://{directory / 'store.db'}"))
        past = Past(settings.s3, mimicdb, moment_ns)
        about = f"memory of {iso_time(moment_ns)}"
        with closing(Parts(mimicdb, about, lambda: past, settings.s3.buckets)) as parts:
            yield parts


def look(
    parts: Parts,
    target: Target,
    show: _Show | None = None,
    cancellation: Cancellation | None = None,
) -> None:
    """Have the mirror of *parts* know all of *target*, by one pass over its versions. *show* is
    called with how far that is. Raises ConfigError, S3Error, MalformedListing, Interrupted."""
    check_versions(parts, target)
    parts.syncer.sync(target.bucket, target.prefix, show, cancellation)


def check_versions(parts: Parts, target: Target) -> None:
    """Raise the error that makes *target* useless: a bucket that never kept versions would show the
    rest of its present as its past. Warn if it no longer keeps any."""
    if not target.bucket:
        raise ConfigError("a moment needs a bucket: s3://BUCKET")
    check(parts, target)
    kept = versioning(parts.s3, target.bucket)
    if not kept:
        raise ConfigError(
            f"s3://{target.bucket} keeps no versions and never did, so nobody knows its past;"
            " switch versioning on, and later moments can be shown"
        )
    if kept != "Enabled":
        log.warning(_SUSPENDED, target.bucket, kept.lower())


def titled(target: Target, moment_ns: int) -> str:
    """Return a name of *target* as of a moment."""
    return f"{target} at {iso_time(moment_ns)}"


@contextmanager
def _place(settings: Settings) -> Iterator[Path]:
    """Within, there is a directory for a store that nobody else uses. Those of processes that died
    are removed first."""
    above = private_directory(private_directory(settings.state) / "moments")
    for left in above.iterdir():
        _remove_unused(left)
    directory = Path(tempfile.mkdtemp(dir=above))
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(fd)


def _remove_unused(directory: Path) -> None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass  # in use
    finally:
        os.close(fd)
