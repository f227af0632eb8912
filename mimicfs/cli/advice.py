"""Advice about an error that a look at the account explains: a bucket whose name was mistyped, an
account whose buckets may not be listed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from mimicfs import errors
from mimicfs.config.options import nearest
from mimicfs.errors import MimicError

if TYPE_CHECKING:
    from mimicfs.config.values import Settings

_BUCKET = re.compile(r"s3://([^/:\s]+)")


@contextmanager
def advised(settings: Settings) -> Iterator[None]:
    """Within, errors about buckets say what to do."""
    try:
        yield
    except MimicError as exc:
        advice = _advice(settings, exc)
        if not advice or advice in str(exc):
            raise
        told = f"{exc}; {advice}"
        exc.args = (told, *exc.args[1:])
        raise


def kind_of(exc: MimicError) -> type[MimicError]:
    """Return the class of an error, also of one that a daemon had: only its name came over."""
    from mimicfs.mount.failed import Failed

    if isinstance(exc, Failed):
        found: type[MimicError] = getattr(errors, exc.kind, errors.MountError)
        return found
    return type(exc)


def _advice(settings: Settings, exc: MimicError) -> str:
    kind, about = kind_of(exc), str(exc)
    missing = issubclass(kind, errors.NoSuchBucket)
    if issubclass(kind, errors.NoSuchPrefix):
        return "-o create_prefix mounts it nevertheless"
    if issubclass(kind, errors.AccessDenied) and about.startswith("list of buckets"):
        return "name the bucket that you may use: s3://BUCKET"
    found = _BUCKET.search(about)
    if found is None or not (missing or issubclass(kind, errors.AccessDenied)):
        return ""
    known = _buckets(settings)
    near = nearest(found[1], known) if found[1] not in known else ""
    if near:
        return f"did you mean s3://{near}?"
    if missing:
        return "`mimicfs ls` lists yours"
    right = "s3:ListBucketVersions" if about.startswith("listing of versions") else "s3:ListBucket"
    return f"ask for {right} on it, or choose another --profile"


def _buckets(settings: Settings) -> list[str]:
    """Return the names of the buckets; none where they may not be listed."""
    from mimicfs.backends.memory import Memory
    from mimicfs.mimicdb import Mirror
    from mimicfs.s3.requests.client import S3

    with closing(S3(settings.s3, Mirror(Memory()))) as s3:
        try:
            return [bucket.name for bucket in s3.list_buckets()]
        except MimicError:
            return []  # it is only for a suggestion
