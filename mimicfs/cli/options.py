"""The flags that several commands have, and the settings and parts of a mirror made of them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from mimicfs.cli.advice import advised
from mimicfs.cli.helping import SHOWN
from mimicfs.config import options
from mimicfs.config.given import from_words, words
from mimicfs.config.limits import CHANGEABLE
from mimicfs.config.options import OPTIONS, GivenValue, Kind, Option, Section, Values, shown_to_all
from mimicfs.config.settled import settle
from mimicfs.config.values import Target, parse_target

if TYPE_CHECKING:
    from mimicfs.config.settled import Settled
    from mimicfs.config.values import Settings
    from mimicfs.parts import Parts

CommandFunction = Callable[..., Any]
_LISTENING = ("events", "events-kept", "reconcile")
_CACHING = ("cache-dir", "cache-size")
_EVERYWHERE = ("requester-pays",)  # a setting of a bucket that is of use to every command


def bucket_of(url: str) -> Target:
    """Return the target that *url* names. Raises ConfigError; UsageError if it names no bucket."""
    target = parse_target(url)
    if not target.bucket:
        raise click.UsageError("name a bucket: s3://BUCKET[/PREFIX]")
    return target


def common(command: CommandFunction) -> CommandFunction:
    """Add the flags that choose S3 and the mirror; pass them as *settings*."""
    return _with_settings(command, SHOWN)


def of_this_machine(command: CommandFunction) -> CommandFunction:
    """Do as `common`, for a command that asks neither S3 nor a mirror: it shows none of the flags
    about these, but takes them."""
    return _with_settings(command, frozenset({"config"}))


def _with_settings(command: CommandFunction, shown: frozenset[str]) -> CommandFunction:
    @functools.wraps(command)
    def run(**given: Any) -> Any:
        settings = settle(_taken(_COMMON, given), os.environ).settings()
        with advised(settings):
            return command(settings=settings, **given)

    return _with_flags(_COMMON, run, shown)


def for_mounts(command: CommandFunction) -> CommandFunction:
    """Add all flags, and -o; pass the settings in force as *settled*."""

    @functools.wraps(command)
    def run(choices: tuple[str, ...], **given: Any) -> Any:
        said = from_words(words(choices))
        return command(settled=settle(_taken(_ALL, given), os.environ, said), **given)

    choose = click.option(
        "-o",
        "choices",
        multiple=True,
        metavar="OPTIONS",
        shell_complete=_completes_words,
        help="Options as in fstab(5): all options below, with _ for -: -o ro,umask=022,uid=alice.",
    )
    return choose(_with_flags(_ALL, run))


def settled_by(command: CommandFunction) -> CommandFunction:
    """Add the common flags; pass the settings in force as *settled*."""

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        return command(settled=settle(_taken(_COMMON, given), os.environ), **given)

    return _with_flags(_COMMON, run, SHOWN)


def tell_doubts(settled: Settled) -> None:
    """Print the parts of *settled* that are probably mistakes."""
    for doubt in settled.doubts():
        click.echo(f"mimicfs: warning: {doubt}", err=True)


def for_listeners(command: CommandFunction) -> CommandFunction:
    """Add the common flags, and those about events; pass the settings in force as *settled*."""
    table = [*_COMMON, *(option for option in _ALL if option.name in _LISTENING)]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        settled = settle(_taken(table, given), os.environ)
        with advised(settled.settings()):
            return command(settled=settled, **given)

    return _with_flags(table, run, SHOWN | frozenset(_LISTENING))


def for_caches(command: CommandFunction) -> CommandFunction:
    """Add the common flags, and those about the cache on disk; pass them as *settings*."""
    table = [*_COMMON, *(option for option in _ALL if option.name in _CACHING)]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        settings = settle(_taken(table, given), os.environ).settings()
        with advised(settings):
            return command(settings=settings, **given)

    return _with_flags(table, run, SHOWN | frozenset(_CACHING))


json_option = click.option("--json", "as_json", is_flag=True, help="Output for programs.")


def assembled(settings: Settings) -> Parts:
    """Open the store and the client of *settings*. The log goes to the terminal."""
    from mimicfs.admin import logs
    from mimicfs.parts import assemble

    logs.set_up_by(settings, foreground=True)
    return assemble(settings)


def at_option(command: CommandFunction) -> CommandFunction:
    """Add --at; pass the moment as *at_ns* (None: the present)."""

    @functools.wraps(command)
    def run(at: str | None, **given: Any) -> Any:
        from mimicfs.config.moments import parse_moment

        at_ns = None if at is None else parse_moment(at, time.time_ns())
        return command(at_ns=at_ns, **given)

    text = (
        "Answer as of a moment in the past, from the versions in the bucket: 2026-11-01T18:00, -2h."
    )
    return click.option("--at", metavar="MOMENT", help=text)(run)


@contextmanager
def assembled_at(
    settings: Settings, at_ns: int | None, urls: Iterable[str], *, whole: bool = False
) -> Iterator[Parts]:
    """Within, the parts of *settings* are open, or those of a moment. For a moment, *urls* are
    checked first; *whole*: everything below them is listed beforehand."""
    if at_ns is None:
        with closing(assembled(settings)) as parts:
            yield parts
        return
    from mimicfs.admin import logs
    from mimicfs.history import mirror

    logs.set_up_by(settings, foreground=True)
    with mirror.opened(settings, at_ns) as parts:
        for target in map(parse_target, urls or ["s3://"]):
            (mirror.look if whole else mirror.check_versions)(parts, target)
        yield parts


# From the table of options to click


class PlainPath(click.Path):
    """A path as it was given. click.Path looks at it: where a mount does not answer, for ever."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.coerce_path_result(value)


class _Value(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """The value of an option, read as everywhere else, and completed by the shell if it can be."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self.name = option.kind.name.lower()

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        name = f"--{self._option.name}"
        return shown_to_all(self._option, value, name, name)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from mimicfs.cli import completing

        return completing.values_of(self._option, incomplete)


# The completion of arguments (completing.py)


def completes_urls(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from mimicfs.cli import completing

    return completing.urls(_so_far(ctx), incomplete)


def completes_url_or_path(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from mimicfs.cli import completing

    return completing.url_or_path(_so_far(ctx), incomplete)


def completes_mount_points(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from mimicfs.cli import completing

    return completing.mount_points(_so_far(ctx), incomplete)


def completes_limits(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(f"{name}=") for name in CHANGEABLE if name.startswith(incomplete)]


def _completes_words(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from mimicfs.cli import completing

    return completing.words_after_o(incomplete)


def _so_far(ctx: click.Context) -> Values:
    """Return the flags of a command line that somebody is still writing."""
    return _taken(OPTIONS, {option.word: None for option in OPTIONS} | ctx.params)


def _is_common(option: Option) -> bool:
    of_all = option.section is Section.ALL or option.name in (*_EVERYWHERE, "config")
    return option.flag and of_all


_COMMON = [option for option in OPTIONS if _is_common(option)]
_ALL = [option for option in OPTIONS if option.flag]
# Flags with the spelling that they always had, or that everybody uses.
_SPECIAL = {
    "sign-request": ["--sign-request/--no-sign-request"],
    "foreground": ["-f", "--foreground/--daemon"],
    "read-only": ["--read-only/--read-write"],
}


def _with_flags(
    table: Iterable[Option], command: CommandFunction, shown: frozenset[str] | None = None
) -> CommandFunction:
    """Add the flags of *table*; help shows those in *shown*, or all if that is None."""
    for option in reversed(list(table)):
        command = _flag(option, hidden=shown is not None and option.name not in shown)(command)
    return command


def _flag(option: Option, *, hidden: bool) -> Callable[[CommandFunction], CommandFunction]:
    more: dict[str, Any] = {"help": option.help, "hidden": hidden}
    if option.kind is Kind.FLAG:
        usual = [f"--{option.name}/--no-{option.name}"]
        declared = _SPECIAL.get(option.name, usual)
        return click.option(*declared, option.word, default=None, **more)
    if option.can_be_off:
        return lambda command: _valued(option, more)(_off(option, hidden=hidden)(command))
    return _valued(option, more)


def _off(option: Option, *, hidden: bool) -> Callable[[CommandFunction], CommandFunction]:
    """Return the flag that switches off *option*, which has other values, too."""
    return click.option(
        f"--no-{option.name}", f"no_{option.word}", is_flag=True, default=None, hidden=hidden,
        help=f"The same as --{option.name} {options.OFF}.",
    )  # fmt: skip


def _valued(option: Option, more: dict[str, Any]) -> Callable[[CommandFunction], CommandFunction]:
    metavar = option.metavar or option.kind.name
    if option.choices and len(option.choices) <= 4:
        metavar = f"[{'|'.join(option.choices)}]"
    return click.option(
        f"--{option.name}", option.word, type=_Value(option), metavar=metavar, **more
    )


def _taken(table: Iterable[Option], given: dict[str, Any]) -> Values:
    """Remove the flags of *table* from *given*; return those that were written."""
    values: Values = {}
    for option in table:
        value = given.pop(option.word)
        if given.pop(f"no_{option.word}", None):
            value = options.OFF
        if value is not None:
            values[option.name] = GivenValue(value, f"--{option.name}")
    return values
