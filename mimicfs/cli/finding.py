"""`mimicfs find` and `du`: answers from the store, without a mount and without a request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.helping import H_IS_HUMAN
from mimicfs.cli.mirror import described
from mimicfs.cli.options import assembled_at, at_option, common, completes_urls, json_option
from mimicfs.cli.text import human_size, parse_time
from mimicfs.config.values import parse_target
from mimicfs.entry import unquoted
from mimicfs.errors import MimicError
from mimicfs.human import printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.entry import Entry
    from mimicfs.index.find import Start, Wanted
    from mimicfs.parts import Parts

_WRITTEN_AT = 1 << 16  # characters
partial_option = click.option(
    "--partial",
    is_flag=True,
    help="Answer from what the mirror knows, even if it does not know everything.",
)


@click.command()
@click.argument(
    "urls", nargs=-1, metavar="[s3://[BUCKET[/PREFIX]]]...", shell_complete=completes_urls
)
@click.option(
    "--name",
    "-name",
    "names",
    multiple=True,
    metavar="GLOB",
    help="The last part of the key matches, as '*.jpg'. Repeat the option to allow several.",
)
@click.option(
    "--iname",
    "-iname",
    "inames",
    multiple=True,
    metavar="GLOB",
    help="Like --name, in upper or lower case.",
)
@click.option(
    "--path",
    "-path",
    "paths",
    multiple=True,
    metavar="GLOB",
    help="The whole key matches; * also matches /.",
)
@click.option(
    "--size",
    "-size",
    "sizes",
    multiple=True,
    metavar="[+-]N[k|M|G|T|P]",
    help="More than (+), less than (-) or exactly this size, as +100M. Repeated, all must hold.",
)
@click.option(
    "--mtime",
    "-mtime",
    "mtimes",
    multiple=True,
    metavar="[+-]N[s|m|h|d|w]",
    help="Last modified more (+) or less (-) than this long ago; the default unit is days.",
)
@click.option(
    "--after", metavar="TIME", help="Last modified at or after this time, as 2024-12-31T18:00."
)
@click.option(
    "--before", metavar="TIME", help="Last modified before this time. A time without a zone is UTC."
)
@click.option(
    "--storage-class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="STANDARD, GLACIER, ... Repeat the option to allow several.",
)
@click.option(
    "--etag",
    "etags",
    multiple=True,
    metavar="ETAG",
    help="The ETag is this one. Repeat the option to allow several.",
)
@click.option(
    "--type",
    "-type",
    "kind",
    type=click.Choice(["f", "d"]),
    default=None,
    help="Find only files, or only directories.",
)
@click.option(
    "--max-depth",
    "-maxdepth",
    "depth",
    type=click.IntRange(0),
    default=None,
    metavar="N",
    help="Go at most N levels below the start.",
)
@click.option("--keys", is_flag=True, help="Print keys instead of s3:// URLs.")
@click.option(
    "-0",
    "--print0",
    "-print0",
    "zero",
    is_flag=True,
    help="End each name with NUL instead of a newline, for xargs -0.",
)
@partial_option
@json_option
@common
@at_option
def find(
    settings: Settings,
    urls: tuple[str, ...],
    names: tuple[str, ...],
    inames: tuple[str, ...],
    paths: tuple[str, ...],
    sizes: tuple[str, ...],
    mtimes: tuple[str, ...],
    after: str | None,
    before: str | None,
    classes: tuple[str, ...],
    etags: tuple[str, ...],
    kind: str | None,
    depth: int | None,
    keys: bool,
    zero: bool,
    partial: bool,
    as_json: bool,
    at_ns: int | None,
) -> None:
    """Find objects in the mirror by name, size, age and more, without a mount or a request.

    The command prints each object that passes all tests. It searches only what was synced
    completely. Elsewhere the answer would have gaps, so the command exits with 8; --partial
    searches whatever the mirror knows.
    """
    from mimicfs.index.find import Interval, Wanted, age_range, size_range

    now_ns = time.time_ns()
    times = [age_range(text, now_ns) for text in mtimes]
    if after is not None:
        times.append(Interval(least=parse_time("--after", after)))
    if before is not None:
        times.append(Interval(most=parse_time("--before", before) - 1))
    wanted = Wanted(
        names, inames, paths, tuple(map(size_range, sizes)), tuple(times),
        frozenset(map(str.upper, classes)), frozenset(unquoted(etag) for etag in etags),
        kind or "", -1 if depth is None else depth,
    )  # fmt: skip
    with (
        assembled_at(settings, at_ns, urls, whole=True) as parts,
        _Out("\0" if zero else "\n") as out,
    ):
        for start, entry in _found(parts, urls, wanted, partial):
            if as_json:
                out.raw(json.dumps({"bucket": start.bucket, **described(entry)}))
            else:
                out.text(entry.key if keys else f"s3://{start.bucket}/{entry.key}")


def _found(
    parts: Parts, urls: tuple[str, ...], wanted: Wanted, partial: bool
) -> Iterator[tuple[Start, Entry]]:
    from mimicfs.index.find import walk

    for start in _starts(parts, urls, partial):
        for entry in walk(parts.mimicdb, start):
            if wanted.passed(entry, start):
                yield start, entry


def _starts(parts: Parts, urls: tuple[str, ...], partial: bool) -> list[Start]:
    from mimicfs.index.find import starts

    found: list[Start] = []
    for url in urls or ("s3://",):
        found += starts(parts.mimicdb, parse_target(url), url, partial=partial)
    return found


class _Out:
    """Standard output in large pieces. On a terminal, characters that it may take as a command are
    escaped; elsewhere keys go out as they are."""

    def __init__(self, end: str) -> None:
        self._end = end
        self._shown = printable if end == "\n" and sys.stdout.isatty() else str
        self._kept: list[str] = []
        self._size = 0

    def __enter__(self) -> _Out:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, MimicError):  # the answers until then are true
            self._flush()

    def text(self, text: str) -> None:
        self.raw(self._shown(text))

    def raw(self, line: str) -> None:
        self._kept.append(line + self._end)
        self._size += len(line)
        if self._size > _WRITTEN_AT:
            self._flush()

    def _flush(self) -> None:
        data = "".join(self._kept).encode("utf-8", "surrogateescape")
        self._kept.clear()
        self._size = 0
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise  # the program that reads our output has seen enough
        except OSError as exc:
            raise MimicError(f"standard output: {exc.strerror}") from exc


@click.command(context_settings=H_IS_HUMAN)
@click.argument(
    "urls", nargs=-1, metavar="[s3://[BUCKET[/PREFIX]]]...", shell_complete=completes_urls
)
@click.option(
    "-d",
    "--max-depth",
    "depth",
    type=click.IntRange(-1),
    default=1,
    show_default=True,
    metavar="N",
    help="Print directories down to N levels; -1 prints all of them.",
)
@click.option("-s", "--summarize", is_flag=True, help="Print only the total, like -d 0.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="Print exact bytes instead of 1.2M.")
@click.option("-h", "exact", flag_value=False, hidden=True, help="As du(1): as it is anyway.")
@partial_option
@json_option
@common
@at_option
def du(
    settings: Settings,
    urls: tuple[str, ...],
    depth: int,
    summarize: bool,
    exact: bool,
    partial: bool,
    as_json: bool,
    at_ns: int | None,
) -> None:
    """Count bytes and files in buckets and directories, without a mount or a request.

    Each line has the bytes, the files and the directory. The command counts only what was
    synced completely. Elsewhere the sum would be too small, so the command exits with 8;
    --partial counts whatever the mirror knows.
    """
    from mimicfs.index.find import usage

    with assembled_at(settings, at_ns, urls, whole=True) as parts, _Out("\n") as out:
        for start in _starts(parts, urls, partial):
            for each in usage(parts.mimicdb, start, 0 if summarize else depth):
                told: dict[str, Any] = {"bucket": start.bucket, "prefix": each.directory}
                told |= each.total._asdict()
                if as_json:
                    out.raw(json.dumps(told))
                    continue
                size = str(each.total.bytes) if exact else human_size(each.total.bytes)
                out.text(f"{size}\t{each.total.files}\ts3://{start.bucket}/{each.directory}")
