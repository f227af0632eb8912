"""The configuration file: TOML, with one table for every command, one for mounts, and one for each
bucket.

    endpoint-url = "https://minio.example"
    [mount]
    allow-other = true
    [buckets."*"]
    storage-class = "STANDARD_IA"
    [buckets.photos]
    read-only = true
    [[buckets.photos.rules]]
    keys = "*.jpg"
    cache-control = "max-age=3600"

A setting that is not known, or has the wrong type, is an error, which names the place and the
setting that was probably meant.
Anybody who can write this file chooses where data goes, so nobody else may; with a secret in it,
nobody else may read it.

Threading: no state; any thread.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimicfs.config import peers
from mimicfs.config.given import short_for
from mimicfs.config.options import (
    BY_NAME,
    IN_BUCKETS,
    URLS,
    WORDS_FOR_TRUE,
    WORDS_OF_FLAGS,
    GivenValue,
    Kind,
    Option,
    Section,
    Values,
    checked,
    nearest,
)
from mimicfs.config.rules import KeyRule
from mimicfs.config.values import bucket_named, redacted
from mimicfs.config.written import rules_in
from mimicfs.errors import ConfigError

_SIZE_MAX = 1 << 20  # bytes
_EVERY = "*"  # the section of settings that hold for every bucket
_BARE = r"\s*([\w-]+)\s*=\s*([^\s\"'\[{#][^\"'#]*?)\s*(?:#.*)?$"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The contents of a configuration file. *buckets*, *rules*: by the name of the bucket, "*" for
    all."""

    path: Path
    values: Values = field(default_factory=dict)
    buckets: Mapping[str, Values] = field(default_factory=dict)
    rules: Mapping[str, tuple[KeyRule, ...]] = field(default_factory=dict)

    def of_bucket(self, bucket: str) -> Values:
        """Return the settings that hold for *bucket*: its own section goes before that of all."""
        return {**self.buckets.get(_EVERY, {}), **self.buckets.get(bucket, {})}

    def rules_of(self, bucket: str) -> tuple[KeyRule, ...]:
        """Return the rules for *bucket*: those of all, then its own, which go before them."""
        return self.rules.get(_EVERY, ()) + (self.rules.get(bucket, ()) if bucket else ())

    @property
    def named(self) -> list[str]:
        """The buckets that have a section."""
        return [name for name in self.buckets if name != _EVERY]


def default_path(environ: Mapping[str, str]) -> Path:
    """Return the path at which the file is looked for."""
    return our_directory(environ, "XDG_CONFIG_HOME", "~/.config") / "config.toml"


def our_directory(environ: Mapping[str, str], variable: str, usual: str) -> Path:
    """Return our directory in the one that *variable* names, or in the *usual* one. A relative path
    means nothing there (XDG base directory specification); and the next command, which may run
    elsewhere, would not find the mounts of this one."""
    named = environ.get(variable, "")
    return Path(named if os.path.isabs(named) else os.path.expanduser(usual)) / "mimicfs"


def read_config(path: Path, *, needed: bool) -> ConfigFile:
    """Return the contents of the file at *path*; empty ones if there is no file and none is
    *needed*. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            _check_owner(path, status)
            text = file.read(_SIZE_MAX + 1)
    except FileNotFoundError as exc:
        if needed:
            raise ConfigError(f"{path}: no such file; see --config") from exc
        return ConfigFile(path)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    if len(text) > _SIZE_MAX:
        raise ConfigError(f"{path}: larger than {_SIZE_MAX} bytes; is this a configuration file?")
    config = _parsed(path, text)
    secrets = [name for name in config.values if BY_NAME[name].kind is Kind.SECRET]
    urls = {name: config.values[name].value for name in sorted(URLS & config.values.keys())}
    secrets += [f"a password in {name}" for name, url in urls.items() if redacted(url) != url]
    if secrets and status.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ConfigError(
            f"{path}: contains a secret ({secrets[0]}), and others can read it; chmod 600 {path}"
        )
    return config


def secret_in(path: Path) -> str:
    """Return the secret that the file at *path* holds, without its line feed. Raises
    ConfigError if others can read it."""
    try:
        with open(path, "rb") as file:
            check_private(path, os.fstat(file.fileno()))
            text = file.read(_SIZE_MAX)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    return text.decode("utf-8", "surrogateescape").rstrip("\r\n")


def check_private(path: Path, status: os.stat_result) -> None:
    """Raise ConfigError if anybody but us (and root) could read or change a secret's file."""
    _check_owner(path, status)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: contains a secret, and others can read it; chmod 600 {path}")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: belongs to another user, who could change it; chown it")
    if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: others can write it; chmod go-w {path}")


def _meant(text: str, exc: Exception) -> str:
    """Return what to write instead of the line that *exc* is about, if it has a value that TOML
    wants in quotes, or in lower case; or ""."""
    where = re.search(r"at line (\d+)", str(exc))
    line = text.split("\n")[int(where[1]) - 1] if where else ""
    found = re.match(_BARE, line)
    if found is None:
        return ""
    name, value = found.groups()
    if value.lower() in WORDS_OF_FLAGS:
        return f"write {name} = {str(value.lower() in WORDS_FOR_TRUE).lower()}"
    if re.fullmatch("0[0-7]+", value):
        return f'write the octal number as text: {name} = "{value}"'
    return f'write text in quotes: {name} = "..."'  # not what it is: that may be a password


def _parsed(path: Path, text: bytes) -> ConfigFile:
    import tomllib  # most commands read no file

    try:
        written = text.decode("utf-8-sig")  # Windows' editors put a mark at the beginning
        found = tomllib.loads(written)
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8; is this a configuration file?") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: {_meant(written, exc) or exc}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{path}: nested too deeply") from exc
    buckets = found.pop("buckets", {})
    mount = found.pop("mount", {})
    for name, table in (("mount", mount), ("buckets", buckets)):
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} is a section; write [{name}]")
    top = _section(path, "", found, _of(Section.ALL))
    values = {**top, **_section(path, "mount", mount, _of(Section.MOUNT))}
    for name, table in buckets.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: [buckets] {name}: write the section of a bucket as [buckets.NAME]"
            )
    buckets = _by_bucket(path, buckets)
    rules = {
        name: rules_in(table.pop("rules", []), f"{path} [buckets.{name}]")
        for name, table in buckets.items()
    }
    sections = {
        name: _section(path, f"buckets.{name}", table, IN_BUCKETS)
        for name, table in buckets.items()
    }
    return ConfigFile(path, values, sections, rules)


def _by_bucket(path: Path, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return *sections* by the names that targets have: the ARN of an access point has two forms.
    Raises ConfigError for a name that is no bucket's: its section would hold for none."""
    found = {}
    for name, table in sections.items():
        try:
            bucket = name if name == _EVERY else bucket_named(name)
        except ConfigError as exc:
            text = 'no bucket has that name; write [buckets.NAME], or [buckets."*"] for all'
            raise ConfigError(f"{path}: [buckets.{name!r}]: {text}") from exc
        if bucket in found:
            raise ConfigError(f"{path}: [buckets.{name!r}]: appears twice")
        found[bucket] = table
    return found


def _of(section: Section) -> dict[str, Option]:
    return {name: option for name, option in BY_NAME.items() if option.section is section}


def _section(
    path: Path, section: str, table: Mapping[str, Any], known: Mapping[str, Option]
) -> Values:
    values: Values = {}
    place = f"{path}: [{section}]" if section else f"{path}:"
    for key, value in table.items():
        name = key.replace("_", "-")
        option = known.get(name)
        if option is None:
            raise ConfigError(f"{place} {key}: {_unknown(name, section, known)}")
        if name in values:
            raise ConfigError(f"{place} {key}: appears twice, with - and with _")
        origin = f"{path} [{section}]" if section else str(path)
        values[name] = GivenValue(checked(option, value, f"{place} {key}"), origin)
    return values


def _unknown(name: str, section: str, known: Mapping[str, Option]) -> str:
    theirs = peers.advice(name)
    if theirs:
        return f"no such key; {theirs}"
    if short_for(name):
        return f"no such key; write {short_for(name)}"
    sections = [] if section else ["mount", "buckets"]
    near = nearest(name, [*known, *sections])
    if near:
        wanted = f"[{near}]" if near in sections else near
        return f"no such key; did you mean {wanted}?"
    elsewhere = BY_NAME.get(name) or IN_BUCKETS.get(name)
    if elsewhere is not None:
        at = {Section.ALL: "at the top of the file", Section.MOUNT: "in [mount]"}
        return f"belongs {at.get(elsewhere.section, 'in [buckets.NAME]')}"
    everywhere = nearest(name, [*BY_NAME, *IN_BUCKETS])
    if everywhere:
        return f"no such key; did you mean {everywhere}?"
    return f"no such key; known are {', '.join([*known, *sections])}"
