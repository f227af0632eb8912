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
from mimicfs.human import iso_time, number_of, printable
from mimicfs.signals import of_end

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.entry import Entry
    from mimicfs.index.exporting import Export
    from mimicfs.index.importing import Imported
    from mimicfs.index.records import Header, IndexPart
    from mimicfs.parts import Parts


@click.group(name="index", cls=Group)
def index() -> None:
    """Write the mirror to a file and read it back, here or on another machine.

    \b
    The name of FILE selects its format:
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
    """Write the index of all synced buckets, or of the named ones, to FILE.

    The command writes only what the mirror knows completely (see `mimicfs sync`), as of one
    moment, even while a mount is in use. FILE appears when it is complete, and then replaces an
    earlier FILE. A bucket that was only visited is left out with a note. If no bucket, or not
    every named one, is known completely, the command exits with 8.
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
        text = f"mimicfs: note: left out, because they were never synced: {', '.join(left_out)}"
        click.echo(f"{printable(text)}; sync it, or name the synced buckets", err=True)


def _to_export(parts: Parts, targets: list[Target]) -> tuple[list[Export], list[str]]:
    """Return the exports to make, and the buckets that are left out."""
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
        raise NotSynced(
            "no bucket was synced completely; run `mimicfs sync` or `mimicfs sync s3://BUCKET`"
        )
    return chosen, left_out


def _print_exported(what: Export, count: int, as_json: bool, err: bool) -> None:
    told: dict[str, Any] = {"bucket": what.bucket.name, "prefix": what.prefix}
    told |= {"entries": count, "synced": iso_time(what.scope.listed_ns)}
    scope = f"s3://{what.bucket.name}/{what.prefix}"
    text = f"{printable(scope)}: {number_of(count, 'entry', 'entries')} as of {told['synced']}"
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
    help="The prefix by which the configuration of the inventory filters; '' for none."
    "  [default: what S3 says]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Make the mirror equal to FILE, even where the mirror is newer.",
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

    A mount shows the imported entries at once, without a request to S3. They count as synced at
    the time that FILE states. If the mirror already knows the bucket, its newer entries stay; if
    the bucket was synced later than FILE, the command refuses the import (--force goes back).
    """
    _end_as_by_ctrl_c()
    if (file is None) == (inventory is None):
        raise click.UsageError("name a FILE, or --inventory s3://.../manifest.json")
    if prefix is not None and inventory is None:
        raise click.UsageError("--prefix needs --inventory")
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
        raise ConfigError(f"{file}: it does not contain {names}")


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
        # The objects that are read here must not get into the mirror.
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
        f"{printable(f's3://{imported.bucket}/{imported.prefix}')}:"
        f" {number_of(imported.entries, 'entry', 'entries')} as of {synced},"
        f" {imported.added} added, {imported.changed} changed, {imported.deleted} deleted,"
        f" {imported.left} left as they are because the mirror's are newer"
    )


def _endpoint(settings: Settings) -> str:
    """Return the endpoint, as an index states it for its source."""
    return redacted(settings.s3.endpoint_url or "aws").partition("?")[0]


def _note_endpoint(settings: Settings, header: Header) -> None:
    here = _endpoint(settings)
    if header.endpoint and header.endpoint != here:
        text = f"mimicfs: note: the index is from {header.endpoint}, the mirror from {here}"
        click.echo(printable(text), err=True)


def _end_as_by_ctrl_c() -> None:
    """Have the signals that end us raise KeyboardInterrupt, so that temporary files are removed."""
    for number in of_end():
        signal.signal(number, signal.default_int_handler)
