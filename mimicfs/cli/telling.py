"""`mimicfs watch`: tells people and programs of changes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mimicfs import errors
from mimicfs.cli.eventing import listening_to
from mimicfs.cli.options import assembled, bucket_of, completes_urls, for_listeners, json_option
from mimicfs.cli.progress import Interruptible
from mimicfs.config.settled import Settled
from mimicfs.config.values import Target
from mimicfs.human import iso_time, number_of, printable
from mimicfs.signals import held_back, of_end

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.feed import Feed, News
    from mimicfs.parts import Parts

_SIGNS = {"added": "+", "changed": "~", "deleted": "-", "moved": ">"}


@click.command()
@click.argument("url", metavar="s3://BUCKET[/PREFIX]", shell_complete=completes_urls)
@click.option(
    "--since",
    type=click.IntRange(0),
    metavar="SEQ",
    help="Begin after this number of an earlier watch, instead of with the next change.",
)
@click.option("--once", is_flag=True, help="Print the changes after --since, and exit.")
@click.option(
    "--exec",
    "command",
    metavar="COMMAND",
    help="Print nothing; run COMMAND and write the changes to its standard input as JSON lines.",
)
@json_option
@for_listeners
def watch(
    settled: Settled, url: str, since: int | None, once: bool, command: str | None, as_json: bool
) -> None:
    """Print what changes in the mirror of a bucket: added, changed, deleted, moved.

    The command prints the changes that a mount, a program or `mimicfs sync` on the same store
    learns of. With --events, it listens to S3 itself; what the mirror does not know yet is listed
    first. Each line has a number, and --since continues after that number, even days later. The
    first watch of a bucket begins the feed.
    """
    target = bucket_of(url)
    if once and since is None:
        raise errors.ConfigError("--once needs --since SEQ (0: everything that is kept)")
    tell = _printer(as_json) if command is None else _runner(command)
    if command is not None:
        for number in of_end():
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    with closing(assembled(settled.settings())) as parts:
        try:
            with (
                _listening(settled, parts, target),
                closing(_feed(settled.settings(), parts, target)) as feed,
            ):
                _tell_all(feed, since, tell, follow=not once, names_place=command is not None)
        except errors.NoSuchBucket:
            _tell_last(settled.settings(), parts, target, since, tell)
            raise


def _tell_all(
    feed: Feed,
    since: int | None,
    tell: Callable[[Sequence[News]], None],
    *,
    follow: bool,
    names_place: bool,
) -> None:
    """Tell the news. If a signal ends that, and *names_place*, say where to continue."""
    from mimicfs.feed import changes

    feed.look()
    at = feed.last() if since is None else since
    try:
        for page in changes(feed, at, follow=follow):
            tell(page)
            at = page[-1].seq
    except (KeyboardInterrupt, SystemExit):
        if names_place:
            _say(f"continue with --since {at}")
        raise


def _tell_last(
    settings: Settings,
    parts: Parts,
    target: Target,
    since: int | None,
    tell: Callable[[Sequence[News]], None],
) -> None:
    """Tell the end of a feed whose bucket is gone, if there is a feed."""
    if since is None or not _feed_path(settings, parts, target).exists():
        return
    with closing(_feed(settings, parts, target)) as feed:
        feed.end()
        for page in feed.since(since):
            tell(page)


@contextmanager
def _listening(settled: Settled, parts: Parts, target: Target) -> Iterator[None]:
    from mimicfs.parts import check

    options = settled.events()
    if not options.source:
        if parts.mimicdb.known_bucket(target.bucket) is None:
            check(parts, target)  # of a bucket that does not exist, nothing would ever be told
        yield
        return
    prepare = partial(_list_unknown, settled.settings(), parts, target)
    with listening_to(settled, parts, target, options, prepare):
        yield


def _list_unknown(settings: Settings, parts: Parts, target: Target) -> None:
    """List everything that is watched, unless the mirror knows it. From a message about a directory
    that nobody has listed the mirror learns nothing, and nothing would be printed."""
    bucket, prefix = target.bucket, target.prefix
    if parts.mimicdb.covered(bucket, prefix, deep=True):
        return
    if not prefix and settings.s3.buckets.of(bucket).never_sync:
        _say(f"{target}: never-sync is set for it: only changes in listed directories are printed")
        return
    _say(f"{target}: listing it first, as the mirror does not know all of it: 1,000 keys a request")
    with Interruptible() as stop:
        parts.syncer.sync(bucket, prefix, cancellation=stop.cancellation)


def _say(text: str) -> None:
    click.echo(f"mimicfs: {printable(text)}", err=True)


def _feed(settings: Settings, parts: Parts, target: Target) -> Feed:
    """Open the feed of *target*, which is kept in the state directory."""
    from mimicfs.backends.sqlite import SQLite
    from mimicfs.feed import Feed

    path = _feed_path(settings, parts, target)
    return Feed(parts.mimicdb, target.bucket, target.prefix, SQLite(str(path)), path)


def _feed_path(settings: Settings, parts: Parts, target: Target) -> Path:
    import hashlib

    from mimicfs.private import private_directory

    name = hashlib.sha256(f"{parts.store}\n{settings.namespace}\n{target}".encode()).hexdigest()
    return private_directory(settings.state / "feeds") / f"{name[:32]}.db"


def _printer(as_json: bool) -> Callable[[Sequence[News]], None]:
    def show(page: Sequence[News]) -> None:
        click.echo("\n".join(_json(it) if as_json else _line(it) for it in page))

    return show


def _runner(command: str) -> Callable[[Sequence[News]], None]:
    words = _words(command)

    def run(page: Sequence[News]) -> None:
        text = "".join(f"{_json(it)}\n" for it in page)
        try:
            code = _run(words, text.encode())
        except OSError as exc:
            _failed(words[0], str(exc.strerror), page)
        if code < 0:
            _failed(words[0], f"signal {-code} ended it", page)
        if code:
            _failed(words[0], f"it ended with {code}", page)

    return run


def _run(words: list[str], text: bytes) -> int:
    """Run the command *words* with *text* as its standard input; return its exit code. A signal to
    this process kills the command, even if it comes while the command begins."""
    import subprocess

    with ExitStack() as stack:
        with held_back(signal.SIGINT, *of_end()):
            process = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE))
            stack.callback(process.kill)  # does nothing if the process has ended
        process.communicate(text)
    return process.returncode


def _words(command: str) -> list[str]:
    """Return the words of *command*, as a shell reads them."""
    import shlex

    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise errors.ConfigError(f"--exec {command}: {str(exc).lower()}") from exc
    if not words or not words[0]:
        raise errors.ConfigError("--exec: name a command")
    return words


def _failed(name: str, reason: str, page: Sequence[News]) -> NoReturn:
    """End the watch, and say that it must continue with *page*, which is still to be told."""
    raise errors.MimicError(f"--exec {name}: {reason}; continue with --since {page[0].seq - 1}")


def _json(news: News) -> str:
    said = {**news._asdict(), "time": iso_time(news.time_ns)}
    del said["time_ns"]
    if not said["source"]:
        del said["source"]
    return json.dumps(said)


def _line(news: News) -> str:
    moved = f"{news.source} -> " if news.source else ""
    text = f"{_SIGNS[news.change]} {moved}{news.key}  {number_of(news.size, 'byte')}, by {news.by}"
    return printable(f"{news.seq:>6} {iso_time(news.time_ns)} {text}")
