"""`mimicfs config`: the settings that are in force, and the place each comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from mimicfs.cli.helping import Group
from mimicfs.cli.options import completes_urls, json_option, settled_by, tell_doubts
from mimicfs.config.options import OPTIONS, Section, Values
from mimicfs.config.settled import Settled, plain, shown
from mimicfs.config.written import in_toml, table_of
from mimicfs.errors import ConfigError

if TYPE_CHECKING:
    from mimicfs.cli.explaining import Said


@click.group(cls=Group)
def config() -> None:
    """Show the settings that are in force."""


@config.command()
@json_option
@settled_by
def show(settled: Settled, as_json: bool) -> None:
    """Print the settings in force as TOML, each with the place it comes from, without secrets.

    A setting that is not printed has its default.
    """
    settled.settings()  # says what does not fit together
    tell_doubts(settled)
    if as_json:
        tables = {name: _plain(values) for name, values in _tables(settled).items() if values}
        click.echo(json.dumps({**tables, **_rules_as_json(settled)}))
        return
    click.echo(settings_in_toml(settled), nl=False)


def settings_in_toml(settled: Settled) -> str:
    """Return the settings in force, without secrets."""
    tables = "".join(_table(name, values) for name, values in _tables(settled).items())
    return tables + "".join(_rules(settled))


def _tables(settled: Settled) -> dict[str, Values]:
    tables = {
        "": _of(settled, Section.ALL),
        "mount": _of(settled, Section.MOUNT),
        'buckets."*"': settled.of_bucket(""),
    }
    return tables | {
        f"buckets.{json.dumps(it)}": settled.of_bucket(it) for it in settled.file.named
    }


def _rules(settled: Settled) -> Iterable[str]:
    for name, rules in settled.file.rules.items():
        for rule in rules:
            yield f"\n[[buckets.{json.dumps(name)}.rules]]  # {rule.origin}\n"
            yield from (f"{key} = {in_toml(value)}\n" for key, value in table_of(rule).items())


def _rules_as_json(settled: Settled) -> dict[str, list[dict[str, object]]]:
    return {
        f"buckets.{json.dumps(name)}.rules": [
            {**table_of(rule), "origin": rule.origin} for rule in rules
        ]
        for name, rules in settled.file.rules.items()
        if rules
    }


@config.command()
@click.argument("url", metavar="s3://BUCKET/KEY", shell_complete=completes_urls)
@json_option
@settled_by
def explain(settled: Settled, url: str, as_json: bool) -> None:
    """Print the headers, tags and settings that an object of this key would be stored with, the
    place each comes from, and the settings that it overrides. S3 is not asked; the object
    need not exist.

    Values that a program sets on an object, and those that an object already has when it is written
    again, override all of these.
    """
    from mimicfs.cli.explaining import explained
    from mimicfs.config.values import parse_object

    bucket, key = parse_object(url)
    if not bucket or not key:
        raise ConfigError(f"{url}: no object; write s3://BUCKET/KEY")
    settled.settings()  # says what does not fit together
    tell_doubts(settled)
    found = explained(settled, bucket, key)
    if as_json:
        click.echo(json.dumps({name: _said_as_json(said) for name, said in found.items()}))
        return
    for name, (said, *others) in found.items():
        click.echo(_line(name, said))
        for other in others:
            click.echo(_line(f"#   before {name}", other))


def _line(name: str, said: Said) -> str:
    return f"{f'{name} = {said.shown}':48}  # {said.origin}"


def _said_as_json(said: list[Said]) -> dict[str, object]:
    told = [{"value": each.value, "origin": each.origin} for each in said]
    return {**told[0], "before": told[1:]}


@config.command()
@settled_by
def path(settled: Settled) -> None:
    """Print the path at which mimicfs looks for the configuration file."""
    click.echo(settled.file.path)


def _of(settled: Settled, section: Section) -> Values:
    names = [option.name for option in OPTIONS if option.section is section]
    return {name: settled.values[name] for name in names if name in settled.values}


def _table(name: str, values: Values) -> str:
    if not values:
        return ""
    lines = [f"\n[{name}]"] if name else []
    for key, given in values.items():
        lines.append(f"{f'{key} = {shown(key, given)}':48}  # {given.origin}")
    return "".join(f"{line}\n" for line in lines)


def _plain(values: Values) -> dict[str, dict[str, object]]:
    return {
        key: {"value": plain(key, given), "origin": given.origin} for key, given in values.items()
    }
