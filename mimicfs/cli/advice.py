"""Advice about an error that a look at the account explains: the name of a bucket was mistyped, or
nobody may list the buckets of the account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mimicfs import errors
from mimicfs.config.options import nearest
from mimicfs.config.values import redacted
from mimicfs.errors import MimicError

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.s3.requests.client import S3

_BUCKET = r"s3://([^/:\s]+)"
_PREFIX = r"(?s)s3://([^/]+)/(.+)/: nothing in the bucket begins with that"


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
    """Return the class of *exc*, also of an error in a daemon, of which only the name came over."""
    from mimicfs.mount.failed import Failed

    if isinstance(exc, Failed):
        found: type[MimicError] = getattr(errors, exc.kind, errors.MountError)
        return found
    return type(exc)


def _advice(settings: Settings, exc: MimicError) -> str:
    kind, about = kind_of(exc), str(exc)
    if issubclass(kind, errors.NoSuchPrefix):
        return _about_prefix(settings, about)
    if issubclass(kind, errors.AccessDenied) and about.startswith("list of buckets"):
        return "name the bucket that you may use: s3://BUCKET"
    found = re.search(_BUCKET, about)
    if found is None or not issubclass(kind, (errors.NoSuchBucket, errors.AccessDenied)):
        return ""
    near = nearly(settings, found[1])
    if near:
        return near
    if issubclass(kind, errors.NoSuchBucket):
        return "`mimicfs ls` lists yours"
    right = "s3:ListBucketVersions" if about.startswith("listing of versions") else "s3:ListBucket"
    return f"ask for {right} on it, or choose another --profile"


def nearly(settings: Settings, bucket: str) -> str:
    """Return the text that was probably meant if *bucket* is not there, or not for us; "" if it is
    the name of one of our buckets, or not nearly one."""
    without = _without_bucket(settings.s3.endpoint_url or "", bucket)
    if without:
        return f"write --endpoint-url {without}, without the bucket"
    known = _buckets(settings)
    near = nearest(bucket, known) if bucket not in known else ""
    return f"did you mean s3://{near}?" if near else ""


def _without_bucket(endpoint_url: str, bucket: str) -> str:
    """Return the URL of an endpoint without *bucket*, which is in its path or its host; "" if it is
    in neither."""
    parts = urlsplit(endpoint_url)
    host, path = parts.netloc, parts.path.rstrip("/")
    shorter = host.removeprefix(f"{bucket}."), path.removesuffix(f"/{bucket}")
    return "" if shorter == (host, path) else redacted(f"{parts.scheme}://{''.join(shorter)}")


def _about_prefix(settings: Settings, about: str) -> str:
    """Return what to write instead of a prefix that is not there: it names an object, or there is a
    prefix with nearly that name beside it."""
    anyway = "-o create_prefix mounts it nevertheless"
    found = re.match(_PREFIX, about)
    if found is None:
        return anyway
    bucket, path = found.groups()
    above, slash, name = path.rpartition("/")
    try:
        with _asked(settings) as s3:
            page = s3.list_page(bucket, f"{above}{slash}{name[:1]}", delimiter="/")
    except MimicError:
        return anyway  # it is only for a suggestion
    keys = [entry.key for entry in page.entries]
    if path in keys:
        return f"that is an object; name what it is in: s3://{bucket}/{above}".rstrip("/")
    near = nearest(path, [key.rstrip("/") for key in keys if key.endswith("/")])
    return f"did you mean s3://{bucket}/{near}? {anyway}" if near else anyway


def _buckets(settings: Settings) -> list[str]:
    """Return the names of the buckets; none if nobody may list them."""
    try:
        with _asked(settings) as s3:
            return [bucket.name for bucket in s3.list_buckets()]
    except MimicError:
        return []  # it is only for a suggestion


@contextmanager
def _asked(settings: Settings) -> Iterator[S3]:
    """Within, S3 can be asked; its answers are kept in no mirror that anybody else uses."""
    from mimicfs.backends.memory import Memory
    from mimicfs.mimicdb import Mirror
    from mimicfs.s3.requests.client import S3

    with closing(S3(settings.s3, Mirror(Memory()))) as s3:
        yield s3
