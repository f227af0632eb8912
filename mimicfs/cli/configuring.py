"""`mimicfs config`: what is in force, and where it was said."""

from __future__ import annotations

import json

import click

from mimicfs.cli.options import json_option, settled_by
from mimicfs.config.options import OPTIONS, Section, Values
from mimicfs.config.settled import Settled, shown


@click.group()
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
    tables = {
        "": _of(settled, Section.ALL),
        "mount": _of(settled, Section.MOUNT),
        'buckets."*"': settled.of_bucket(""),
    }
    tables |= {f"buckets.{json.dumps(it)}": settled.of_bucket(it) for it in settled.file.named}
    if as_json:
        click.echo(json.dumps({name: _plain(values) for name, values in tables.items() if values}))
        return
    for name, values in tables.items():
        _print_table(name, values)


@config.command()
@settled_by
def path(settled: Settled) -> None:
    """Print where the configuration file is looked for."""
    click.echo(settled.file.path)


def _of(settled: Settled, section: Section) -> Values:
    names = [option.name for option in OPTIONS if option.section is section]
    return {name: settled.values[name] for name in names if name in settled.values}


def _print_table(name: str, values: Values) -> None:
    if not values:
        return
    if name:
        click.echo(f"\n[{name}]")
    for key, given in values.items():
        setting = f"{key} = {shown(key, given)}"
        click.echo(f"{setting:48}  # {given.origin}")


def _plain(values: Values) -> dict[str, dict[str, str]]:
    return {
        key: {"value": shown(key, given).strip('"'), "origin": given.origin}
        for key, given in values.items()
    }
