"""`mimicfs ls` and `stat`: answers of the mirror, without a mount."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from mimicfs import errors
from mimicfs.cli.helping import H_IS_HUMAN
from mimicfs.cli.options import assembled_at, at_option, common, completes_urls, json_option
from mimicfs.cli.text import human_size
from mimicfs.config.values import Target, parse_target
from mimicfs.entry import pages
from mimicfs.human import iso_time, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.entry import Entry
    from mimicfs.parts import Parts

_Sized = Callable[[int], str]


@click.command(context_settings=H_IS_HUMAN)
@click.argument(
    "url", default="s3://", metavar="[s3://[BUCKET[/PREFIX]]]", shell_complete=completes_urls
)
@click.option("-l", "long", is_flag=True, help="Print size, time and storage class too.")
@click.option("-h", "human", is_flag=True, help="With -l, print sizes as 1.2M.")
@click.option("-R", "recursive", is_flag=True, help="List all directories below, too.")
@json_option
@common
@at_option
def ls(
    settings: Settings,
    url: str,
    long: bool,
    human: bool,
    recursive: bool,
    as_json: bool,
    at_ns: int | None,
) -> None:
    """List buckets or a directory from the mirror; list it in S3 if the mirror does not know it."""
    target, sized = parse_target(url), human_size if human else str
    with assembled_at(settings, at_ns, [url]) as parts:
        if not target.bucket:
            for bucket in parts.sure(parts.mimicdb.buckets):
                _print_bucket(bucket, sized if long else None, as_json)
            return
        for entry in _listed(parts, target, url, recursive):
            name = entry.key if recursive else entry.key[len(target.prefix) :]
            _print_entry(entry, name or entry.key, sized if long else None, as_json)


def _print_bucket(bucket: Any, sized: _Sized | None, as_json: bool) -> None:
    """Print a line for *bucket*; a long line if *sized*, which writes sizes, is given."""
    if as_json:
        click.echo(json.dumps(bucket._asdict()))
    elif sized:
        name = printable(bucket.name)
        click.echo(f"{iso_time(bucket.created_ns)} {sized(bucket.bytes):>15} {name}/")
    else:
        click.echo(f"{printable(bucket.name)}/")


def _listed(parts: Parts, target: Target, url: str, recursive: bool) -> Iterator[Entry]:
    """Yield the entry of the object that the URL names, if there is one, and the entries of the
    directory, if there is one."""
    if target.prefix and not url.endswith("/"):
        directory, _, name = target.prefix[:-1].rpartition("/")
        above = f"{directory}/" if directory else ""
        entry, below = parts.sure(lambda: parts.mimicdb.lookup(target.bucket, above, name))
        if entry is not None:
            yield entry
        if below is None:
            if entry is None:
                raise errors.KeyNotFound(f"{url}: no such object or directory")
            return
    yield from _children(parts, target.bucket, target.prefix, recursive)


def _children(parts: Parts, bucket: str, directory: str, recursive: bool) -> Iterator[Entry]:
    children = partial(parts.mimicdb.children, bucket, directory)
    for page in pages(lambda after: parts.sure(partial(children, after=after))):
        for entry in page:
            yield entry
            if recursive and entry.key.endswith("/"):
                yield from _children(parts, bucket, entry.key, recursive)


def _print_entry(entry: Entry, name: str, sized: _Sized | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(described(entry)))
    elif not sized:
        click.echo(printable(name))
    elif entry.key.endswith("/"):
        click.echo(f"{'-':>25} {'-':>15} {'':12} {printable(name)}")
    else:
        storage_class = entry.storage_class or "STANDARD"
        size = sized(entry.size)
        click.echo(f"{iso_time(entry.mtime_ns)} {size:>15} {storage_class:12} {printable(name)}")


@click.command()
@click.argument("url", metavar="s3://BUCKET[/KEY]", shell_complete=completes_urls)
@json_option
@common
@at_option
def stat(settings: Settings, url: str, as_json: bool, at_ns: int | None) -> None:
    """Print what the mirror knows about an object, a directory or a bucket."""
    target = parse_target(url)
    if not target.bucket:
        raise click.UsageError("name a bucket or an object: s3://BUCKET[/KEY]")
    key = url.removeprefix(f"s3://{target.bucket}").removeprefix("/")
    with assembled_at(settings, at_ns, [url]) as parts:
        told = _told(parts, target.bucket, key)
    if as_json:
        click.echo(json.dumps(told))
        return
    for name, value in told.items():
        click.echo(f"{name + ':':15} {printable(str(value))}")


def _told(parts: Parts, bucket: str, key: str) -> dict[str, Any]:
    scope = parts.mimicdb.cover(bucket, key[: key.rfind("/") + 1])
    if not key:
        known = parts.sure(lambda: parts.mimicdb.bucket(bucket))
        told: dict[str, Any] = {"bucket": bucket, "created": iso_time(known.created_ns)}
        told |= {"objects": known.objects, "bytes": known.bytes}
    else:
        directory, _, name = key.removesuffix("/").rpartition("/")
        above = f"{directory}/" if directory else ""
        entry, below = parts.sure(lambda: parts.mimicdb.lookup(bucket, above, name))
        found = below if key.endswith("/") else entry or below
        if found is None:
            raise errors.KeyNotFound(f"s3://{bucket}/{key}: no such object or directory")
        told = {"bucket": bucket, **described(found)}
        scope = parts.mimicdb.cover(bucket, above)
    return {**told, "synced": iso_time(scope.listed_ns) if scope else "never"}


def described(entry: Entry) -> dict[str, Any]:
    """Return an entry as programs read it (--json)."""
    if entry.kind:
        return {"key": entry.key, "type": "directory"}
    return {
        "key": entry.key,
        "type": "object",
        "size": entry.size,
        "last_modified": iso_time(entry.mtime_ns),
        "etag": entry.etag,
        "storage_class": entry.storage_class or "STANDARD",
        "metadata": dict(entry.meta) if entry.meta is not None else None,
    }
