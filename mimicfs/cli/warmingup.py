"""`mimicfs warmup`: fetches objects before anybody reads them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mimicfs.cli.options import (
    assembled,
    completes_url_or_path,
    for_caches,
    json_option,
)
from mimicfs.cli.places import innermost, reached, url_shown
from mimicfs.cli.progress import Interruptible
from mimicfs.config.sizes import parse_size
from mimicfs.config.values import parse_target
from mimicfs.errors import ConfigError, KeyNotFound, MountError
from mimicfs.human import amount, number_of, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.entry import Entry
    from mimicfs.files.cache import BlockCache
    from mimicfs.files.warming import Warmed
    from mimicfs.index.find import Start
    from mimicfs.parts import Parts
    from mimicfs.sync import Progress

_SHORTAGES = {
    "limit": "--limit is reached",
    "cache": "the cache is full",
    "disk": "the disk is full",
}


class WarmedPlace(NamedTuple):
    """A place to warm up, with the settings of its mount if one was named."""

    url: str
    settings: Settings


@click.command()
@click.argument(
    "what", nargs=-1, metavar="[PATH|s3://BUCKET[/PREFIX]]...", shell_complete=completes_url_or_path
)
@click.option("--metadata", is_flag=True, help="Only list names, sizes and times.")
@click.option("--data", is_flag=True, help="Only fetch the bytes of objects that the mirror knows.")
@click.option("--limit", metavar="SIZE", help="Fetch at most this many bytes from S3, as 20G.")
@click.option("--pin", is_flag=True, help="Keep these objects in the cache, whatever else is read.")
@click.option("--unpin", is_flag=True, help="Undo --pin; fetch nothing.")
@click.option(
    "--from",
    "listed",
    type=click.File(errors="surrogateescape"),  # a path may be any bytes
    metavar="FILE",
    help="Read paths and URLs, one per line, from FILE; - is standard input.",
)
@json_option
@for_caches
def warmup(
    settings: Settings,
    what: tuple[str, ...],
    metadata: bool,
    data: bool,
    limit: str | None,
    pin: bool,
    unpin: bool,
    listed: Iterable[str] | None,
    as_json: bool,
) -> None:
    """List the named directories, and fetch their bytes into the cache on disk in advance.

    PATH is a file or directory in a mount. The command does not fetch again what the cache
    already has; run it again to continue after Ctrl-C. It exits with 1 if something is missing.
    """
    words = [*what, *_lines(listed or ())]
    if not words:
        raise click.UsageError("name paths or s3:// URLs, or a list with --from")
    if metadata and (data or pin or unpin):
        raise click.UsageError("--metadata fetches no bytes; leave out --data, --pin and --unpin")
    if pin and unpin:
        raise click.UsageError("--unpin undoes --pin; give one of them")
    left = None if limit is None else parse_size(limit)
    short = False
    with Interruptible() as stop:
        for place in [_place(settings, word) for word in words]:
            with closing(assembled(place.settings)) as parts:
                work = _Work(parts, place, stop, as_json)
                if unpin:
                    work.unpin()
                    continue
                starts = work.known() if data else work.listed()
                short |= work.nothing
                if metadata:
                    continue
                for start in starts:
                    warmed = work.warm(start, left, pin)
                    left = None if left is None else left - warmed.bytes
                    short |= warmed.full or bool(warmed.refused)
    if short:
        sys.exit(1)


def _lines(listed: Iterable[str]) -> Iterator[str]:
    for line in listed:
        word = line.rstrip("\n")
        if word.strip() and not word.startswith("#"):
            yield word


def _place(settings: Settings, word: str) -> WarmedPlace:
    """Return the place that *word* names. Raises MountError, ConfigError."""
    if word.startswith("s3://"):
        parse_target(word)
        return WarmedPlace(word, settings)
    from mimicfs.admin.controlsocket import ask
    from mimicfs.mount.mounted import control_socket

    path = Path(os.path.realpath(word))
    mount = innermost(settings, path, alive=True)
    if mount is None:
        raise MountError(f"{word}: neither an s3:// URL nor in one of your mounts of mimicfs")
    url = url_shown(mount, path)
    told = ask(control_socket(settings, Path(mount.mountpoint)), "status")
    blocks = Path(told["cache"]["directory"]) if "cache" in told else None
    return WarmedPlace(url, replace(reached(settings, mount), cache_dir=None, blocks=blocks))


class _Work:
    """The work on one place: to list it, to fetch its bytes, to unpin it."""

    def __init__(
        self, parts: Parts, place: WarmedPlace, stop: Interruptible, as_json: bool
    ) -> None:
        self._parts = parts
        self._url = place.url
        self._target = parse_target(place.url)
        self._settings = place.settings
        self._stop = stop
        self._json = as_json
        self.nothing = False  # whether S3 has nothing of that name

    def listed(self) -> list[Start]:
        """List the place anew, and return its starts. Raises S3Error."""
        from mimicfs.index.find import Start

        bucket, prefix = self._target.bucket, self._target.prefix
        if prefix and not self._url.endswith("/"):
            try:
                return [Start(bucket, prefix[:-1], self._parts.s3.look(bucket, prefix[:-1]))]
            except KeyNotFound:
                pass  # then it is a directory
        syncer, token = self._parts.syncer, self._stop.cancellation

        def show(so_far: Progress) -> None:
            self._stop.show(f"{self._url}: {number_of(so_far.keys, 'key')} listed")

        reports = (
            [syncer.sync(bucket, prefix, show, token)] if bucket else syncer.sync_all(show, token)
        )
        for report in reports:
            token.check()
            if report.error:
                raise MountError(f"s3://{report.bucket}/{report.prefix}: {report.error}")
            self._tell({"listed": report.keys}, f"{number_of(report.keys, 'key')} listed",
                       f"s3://{report.bucket}/{report.prefix}")  # fmt: skip
            if prefix and not report.keys:
                self.nothing = True
                told = (
                    f"s3://{report.bucket}/{report.prefix}: nothing in the bucket begins with that"
                )
                click.echo(f"mimicfs: {printable(told)}", err=True)
        return [Start(report.bucket, report.prefix) for report in reports]

    def known(self) -> list[Start]:
        """Return the starts of the place in the mirror. Raises NotSynced, KeyNotFound."""
        from mimicfs.index.find import starts

        return starts(self._parts.mimicdb, self._target, self._url)

    def warm(self, start: Start, limit: int | None, pin: bool) -> Warmed:
        """Fetch the bytes of *start*, and tell the outcome."""
        from mimicfs.files.warming import Warming

        with closing(self._cache()) as cache:
            s3, token = self._parts.s3, self._stop.cancellation
            show = lambda so_far: self._stop.show(f"{start}: {_so_far(so_far)}")  # noqa: E731
            warming = Warming(s3, cache, start.bucket, token, show, limit=limit, pin=pin)
            warmed = warming.run(_objects(self._parts, start))
        refused = [f"s3://{start.bucket}/{key}: {why}" for key, why in warmed.refused.items()]
        told: dict[str, Any] = {
            "objects": warmed.objects, "already": warmed.here, "bytes": warmed.bytes,
            "refused": refused, "full": warmed.full,
        }  # fmt: skip
        self._tell(told, _so_far(warmed), str(start))
        for line in refused:
            click.echo(f"mimicfs: {printable(line)}", err=True)
        if warmed.shortage is not None:
            said = _SHORTAGES[warmed.shortage.value]
            click.echo(f"mimicfs: {printable(str(start))}: incomplete: {said}", err=True)
        return warmed

    def unpin(self) -> None:
        """Unpin the objects of the place, so that they can be evicted."""
        with closing(self._cache()) as cache:
            if not self._target.bucket:
                count = cache.unpin_all()
            else:
                entries = (
                    (start.bucket, entry.key)
                    for start in self.known()
                    for entry in _objects(self._parts, start)
                )
                count = sum(cache.unpin(*each) for each in entries)
        self._tell({"unpinned": count}, f"{number_of(count, 'object')} unpinned", self._url)

    def _cache(self) -> BlockCache:
        from mimicfs.files.cache import BlockCache

        settings = self._settings
        directory = settings.cache_dir / "blocks" if settings.cache_dir else settings.blocks
        if directory is None or settings.cache_size == 0:
            raise ConfigError("there is no cache on disk (cache-size = 0)")
        return BlockCache(directory, self._parts.s3.origin(), settings.cache_size)

    def _tell(self, told: dict[str, Any], text: str, url: str) -> None:
        self._stop.clear()
        click.echo(json.dumps({"url": url, **told}) if self._json else f"{printable(url)}: {text}")


def _objects(parts: Parts, start: Start) -> Iterator[Entry]:
    from mimicfs.entry import OBJECT
    from mimicfs.index.find import walk

    return (entry for entry in walk(parts.mimicdb, start) if entry.kind == OBJECT)


def _so_far(warmed: Warmed) -> str:
    return (
        f"{number_of(warmed.objects, 'object')} here, {warmed.here:,} of them before;"
        f" {amount(warmed.bytes)} fetched"
    )
