"""`mimicfs index export` and `import`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.helping import Group
from mimicfs.cli.options import assembled, common, completes_urls, json_option
from mimicfs.cli.progress import bar
from mimicfs.config.values import Target, parse_target, redacted
from mimicfs.errors import ConfigError, NotSynced
from mimicfs.human import iso_time, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.entry import Entry
    from mimicfs.index.exporting import Export
    from mimicfs.index.importing import Imported
    from mimicfs.index.records import Header, IndexPart
    from mimicfs.parts import Parts


@click.group(name="index", cls=Group)
def index() -> None:
    """The mirror as a file: carry it to another machine, keep it, read it elsewhere.

    \b
    FILE is by its name
      *.jsonl, *.jsonl.gz   lines of JSON (also .ndjson, .json)
      *.parquet             Parquet (pip install 'mimicfs[parquet]')
      -                     lines of JSON on standard output or input
    """


@index.command(name="export")
@click.argument("file")
@click.argument(
    "urls", nargs=-1, metavar="[s3://BUCKET[/PREFIX]]...", shell_complete=completes_urls
)
@json_option
@common
def export_index(settings: Settings, file: str, urls: tuple[str, ...], as_json: bool) -> None:
    """Write the index to FILE: of all buckets that were synced, or of the named ones.

    Only what is known whole is written (`mimicfs sync` makes it so), as of one moment, also
    while a mount is in use. FILE is there when it is whole; what was there before is replaced
    then. A bucket that was only visited is left out, with a note; where nothing is known whole,
    or a named one is not, the exit code is 8.
    """
    from mimicfs.index import exporting, files

    _end_as_by_ctrl_c()
    files.check_name(file)
    targets = [parse_target(url) for url in urls if url != "s3://"]
    with closing(assembled(settings)) as parts:
        chosen, left_out = _to_export(parts, targets)
        endpoint = _endpoint(settings)
        header = exporting.header(
            parts.mimicdb, time.time_ns(), endpoint, len(chosen), everything=not targets
        )
        place = files.place_of_spool(file)
        with files.sink(file, header, sys.stdout.buffer) as sink:
            for what in chosen:
                with bar(f"s3://{what.bucket.name}/{what.prefix}", what.bucket.objects) as more:
                    count = exporting.export(parts.mimicdb, what, sink, place, more)
                _print_exported(what, count, as_json, err=file == "-")
            sink.finish()
    if left_out:
        text = f"mimicfs: note: left out, because only visited: {', '.join(left_out)}"
        click.echo(f"{printable(text)}; sync, or name, what is to be in it", err=True)


def _to_export(parts: Parts, targets: list[Target]) -> tuple[list[Export], list[str]]:
    """Return what to export, and the buckets that cannot be."""
    from mimicfs.index.exporting import wanted

    if targets:
        return [wanted(parts.mimicdb, target.bucket, target.prefix) for target in targets], []
    chosen, left_out = [], []
    for bucket in parts.mimicdb.known_buckets():
        try:
            chosen.append(wanted(parts.mimicdb, bucket.name, ""))
        except NotSynced:
            left_out.append(f"s3://{bucket.name}")
    if not chosen:
        raise NotSynced("no bucket is known whole: `mimicfs sync` or `mimicfs sync s3://BUCKET`")
    return chosen, left_out


def _print_exported(what: Export, count: int, as_json: bool, err: bool) -> None:
    told: dict[str, Any] = {"bucket": what.bucket.name, "prefix": what.prefix}
    told |= {"entries": count, "synced": iso_time(what.scope.listed_ns)}
    scope = f"s3://{what.bucket.name}/{what.prefix}"
    text = f"{printable(scope)}: {count} entries as of {told['synced']}"
    click.echo(json.dumps(told) if as_json else text, err=err)


@index.command(name="import")
@click.argument("file", required=False)
@click.argument(
    "urls", nargs=-1, metavar="[s3://BUCKET[/PREFIX]]...", shell_complete=completes_urls
)
@click.option(
    "--inventory",
    metavar="s3://.../manifest.json",
    help="Read a report of S3 Inventory instead of FILE: CSV, or ORC and Parquet.",
)
@click.option(
    "--prefix",
    metavar="PREFIX",
    default=None,
    help="The filter of the inventory's configuration; '' for none.  [default: S3 is"
    " asked for the configuration]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Make the mirror equal to FILE, also where it knows something newer.",
)
@json_option
@common
def import_index(
    settings: Settings,
    file: str | None,
    urls: tuple[str, ...],
    inventory: str | None,
    prefix: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Read the index in FILE into the mirror: all of it, or the named buckets and prefixes.

    A mount shows at once what was imported, and asks S3 nothing for it. It counts as synced at
    the time that FILE has. Where the mirror knows a bucket already, what is newer there stays;
    where it was synced later than FILE, the import is refused (--force goes back).
    """
    _end_as_by_ctrl_c()
    if (file is None) == (inventory is None):
        raise click.UsageError("name a FILE, or --inventory s3://.../manifest.json")
    if prefix is not None and inventory is None:
        raise click.UsageError("--prefix is about an --inventory")
    if inventory is not None:
        _import_inventory(settings, inventory, prefix, force, as_json)
    elif file is not None:
        _import_file(settings, file, [parse_target(url) for url in urls], force, as_json)


def _import_file(
    settings: Settings, file: str, targets: list[Target], force: bool, as_json: bool
) -> None:
    from mimicfs.index import files, importing

    files.check_name(file)
    missing = set(targets)
    with closing(assembled(settings)) as parts, files.source(file, sys.stdin.buffer) as source:
        _note_endpoint(settings, source.header)
        for part, batches in source.parts():
            target = Target(part.bucket, part.prefix)
            missing.discard(target)
            if not targets or target in targets:
                _import_part(parts, part, batches, force, as_json)
        if not targets:
            importing.import_buckets(parts.mimicdb, source.header)
    if missing:
        names = ", ".join(sorted(map(str, missing)))
        raise ConfigError(f"{file}: it has no {names}")


def _import_inventory(
    settings: Settings, url: str, prefix: str | None, force: bool, as_json: bool
) -> None:
    from mimicfs.backends.open import open_store
    from mimicfs.index import importing, inventory, parquet
    from mimicfs.index.records import IndexPart
    from mimicfs.mimicdb import Mirror
    from mimicfs.s3.requests.client import S3

    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        # What is read here is not to be in the mirror.
        with closing(S3(settings.s3, Mirror(open_store("memory:")))) as s3:
            manifest = inventory.read_manifest(s3, url)
            if manifest.format != "CSV":
                parquet.check_installed(str(manifest))
            if prefix is None:
                prefix = inventory.coverage(s3, manifest)
            part = IndexPart(manifest.bucket, prefix, manifest.created_ns, ordered=False)
            entries = inventory.read_entries(s3, manifest, prefix)
            _import_part(parts, part, entries, force, as_json, uncertain_ns=importing.DAY_NS)


def _import_part(
    parts: Parts,
    part: IndexPart,
    batches: Iterable[list[Entry]],
    force: bool,
    as_json: bool,
    **how: Any,
) -> None:
    from mimicfs.index.importing import import_part
    from mimicfs.index.sorting import in_order

    if not part.ordered:
        batches = in_order(batches)
    with bar(str(part), part.objects) as more:
        imported = import_part(parts.mimicdb, part, _told(batches, more), force=force, **how)
    _print_imported(imported, as_json)


def _told(batches: Iterable[list[Entry]], more: Callable[[int], None]) -> Iterator[list[Entry]]:
    for batch in batches:
        yield batch
        more(len(batch))


def _print_imported(imported: Imported, as_json: bool) -> None:
    synced = iso_time(imported.synced_ns)
    if as_json:
        told = imported._asdict()
        del told["synced_ns"]
        click.echo(json.dumps({**told, "synced": synced}))
        return
    click.echo(
        f"{printable(f's3://{imported.bucket}/{imported.prefix}')}: {imported.entries} entries"
        f" as of {synced},"
        f" {imported.added} added, {imported.changed} changed, {imported.deleted} deleted,"
        f" {imported.left} left as they are because the mirror's are newer"
    )


def _endpoint(settings: Settings) -> str:
    """Return what an index says of where it comes from."""
    return redacted(settings.s3.endpoint_url or "aws").partition("?")[0]


def _note_endpoint(settings: Settings, header: Header) -> None:
    here = _endpoint(settings)
    if header.endpoint and header.endpoint != here:
        text = f"mimicfs: note: the index is of {header.endpoint}, the mirror of {here}"
        click.echo(printable(text), err=True)


def _end_as_by_ctrl_c() -> None:
    """Have SIGTERM raise KeyboardInterrupt, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
