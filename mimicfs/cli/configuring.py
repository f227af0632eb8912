"""`mimicfs config`: what is in force, and where it was said."""

from __future__ import annotations

import json

import click

from mimicfs.cli.helping import Group
from mimicfs.cli.options import json_option, settled_by
from mimicfs.config.options import OPTIONS, Section, Values
from mimicfs.config.settled import Settled, shown


@click.group(cls=Group)
def config() -> None:
    """Show the settings that are in force."""


@config.command()
@json_option
@settled_by
def show(settled: Settled, as_json: bool) -> None:
    """Print the settings in force, each with where it was said; in TOML, without secrets.

    What is not printed is left to its default.
    """
    settled.settings()  # says what does not fit together
    if as_json:
        tables = _tables(settled)
        click.echo(json.dumps({name: _plain(values) for name, values in tables.items() if values}))
        return
    click.echo(settings_in_toml(settled), nl=False)


def settings_in_toml(settled: Settled) -> str:
    """Return the settings in force, without secrets."""
    return "".join(_table(name, values) for name, values in _tables(settled).items())


def _tables(settled: Settled) -> dict[str, Values]:
    tables = {
        "": _of(settled, Section.ALL),
        "mount": _of(settled, Section.MOUNT),
        'buckets."*"': settled.of_bucket(""),
    }
    return tables | {
        f"buckets.{json.dumps(it)}": settled.of_bucket(it) for it in settled.file.named
    }


@config.command()
@settled_by
def path(settled: Settled) -> None:
    """Print where the configuration file is looked for."""
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


def _plain(values: Values) -> dict[str, dict[str, str]]:
    return {
        key: {"value": shown(key, given).strip('"'), "origin": given.origin}
        for key, given in values.items()
    }
