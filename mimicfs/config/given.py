"""The input of users: the words after -o, and variables of the environment. Pure; no state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mimicfs.config import peers
from mimicfs.config.masking import SHOWN, masked
from mimicfs.config.options import (
    OFF,
    OPTIONS,
    GivenValue,
    Kind,
    Option,
    Values,
    nearest,
    parsed,
    shown_to_all,
)
from mimicfs.errors import ConfigError

_ALIASES = {"ro": "read_only", "rw": "no_read_only", "daemon": "no_foreground"}
# Words of fstab that are for mount(8), systemd and boot scripts, and not for a file system.
_FOR_OTHERS = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev"}
    | {"async", "sync", "dirsync", "relatime", "norelatime", "strictatime", "nostrictatime"}
    | {"lazytime", "nolazytime", "diratime", "nodiratime", "loud", "silent", "default_permissions"}
)
_FOR_OTHERS_WITH_VALUE = ("x-", "X-", "comment=", "user=", "fsname=", "subtype=")


def words(groups: Iterable[str]) -> list[str]:
    """Return the single words of the *groups* after -o; a comma in a value is `\\,`."""
    found = [word for group in groups for word in re.split(r"(?<!\\),", group)]
    return [word.strip().replace("\\,", ",") for word in found if word.strip()]


def from_words(given: Iterable[str], *, sloppy: bool = False) -> Values:
    """Return the values that the words after -o give. Raises ConfigError for an unknown word,
    unless *sloppy* (mount -s)."""
    values: Values = {}
    for word in given:
        name, equals, text = word.partition("=")
        if name in _FOR_OTHERS or word.startswith(_FOR_OTHERS_WITH_VALUE):
            continue
        option, negated = _named(name.replace("-", "_"))
        secret = option.kind is Kind.SECRET if option else masked(word) != word
        shown = f"{name}={SHOWN}" if secret else word
        if option is None or (negated and equals):
            if sloppy:
                continue
            raise ConfigError(f"-o {shown}: not an option{_hint(name)}")
        if not option.flag:
            raise ConfigError(f"-o {name}: set it in the configuration file or the environment")
        if negated and option.kind is not Kind.FLAG:
            values[option.name] = GivenValue(OFF, f"-o {word}")
        elif option.kind is Kind.FLAG and not equals:
            values[option.name] = GivenValue(not negated, f"-o {word}")
        elif not equals and OFF in option.choices:
            values[option.name] = GivenValue(option.choices[0], f"-o {word}")
        elif not equals:
            raise ConfigError(f"-o {word}: needs a value: {name}={_example(option)}")
        else:
            value = shown_to_all(option, text, f"-o {name}", f"-o {shown}")
            values[option.name] = GivenValue(value, f"-o {name}")
    return values


def _named(word: str) -> tuple[Option | None, bool]:
    """Return the option that *word* names, and whether *word* switches it off."""
    word = _ALIASES.get(word, word)
    for option in OPTIONS:
        if word == option.word:
            return option, False
        if option.can_be_off and word in (f"no{option.word}", f"no_{option.word}"):
            return option, True
    return None, False


def short_for(name: str) -> str:
    """Return an abbreviation of fstab (ro) as the configuration file has it; "" if it is none."""
    option, negated = _named(name) if name in _ALIASES else (None, False)
    return "" if option is None else f"{option.name} = {str(not negated).lower()}"


def _hint(name: str) -> str:
    known = [option.word for option in OPTIONS if option.flag]
    known += [f"no{option.word}" for option in OPTIONS if option.can_be_off and option.flag]
    theirs = peers.advice(name)
    if theirs:
        return f"; {theirs}"
    near = nearest(name, [*known, *_ALIASES])
    return f"; did you mean {near}?" if near else "; mimicfs mount --help lists the options"


def from_environment(environ: Mapping[str, str]) -> Values:
    """Return the values that variables of the environment give. Raises ConfigError."""
    values: Values = {}
    for option in OPTIONS:
        for variable in (option.variable, *option.environment):
            text = environ.get(variable)
            if text:
                values[option.name] = GivenValue(parsed(option, text, variable), variable)
                break
    return values


def mistyped(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that is probably meant for mimicfs, and that it does not
    know. There is none for others: Kubernetes makes MIMICFS_PORT for a service of that name."""
    known = {option.variable for option in OPTIONS}
    doubted = []
    for variable in sorted(set(environ) - known):
        near = nearest(variable, known, 0.9) if variable.startswith("MIMICFS_") else ""
        if near:
            doubted.append(f"{variable}: no such option; did you mean {near}?")
    return doubted


def _example(option: Option) -> str:
    return option.metavar or option.kind.name
