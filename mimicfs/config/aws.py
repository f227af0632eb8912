"""The endpoint of S3 that the files of the AWS configuration name. botocore would find it by
itself, but only when it is loaded: mimicfs must know before whether it asks AWS. Another server has
another mirror, and nothing that AWS is known to do is expected of it.

The variables of the environment are options of ours (options.py). botocore reports the faults of a
file when it reads it.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html

Threading: no state; any thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from mimicfs.config.options import GivenValue, Values

_ENDPOINT = "endpoint_url"
_IGNORE = "ignore_configured_endpoint_urls"

_Sections = dict[str, dict[str, Any]]


class AwsProfile(NamedTuple):
    """What a profile of the AWS configuration says of endpoints."""

    endpoint: Values  # the option `endpoint-url`, if it names one
    ignores: bool  # no endpoint of the AWS configuration holds, nor one of its variables


def profile_of(environ: Mapping[str, str], name: str, credentials: str) -> AwsProfile:
    """Return the profile *name*; if that is "", the one that *environ* names. *credentials* is the
    file that is read instead of ~/.aws/credentials; "": none."""
    found = texts(environ, credentials)
    said = environ.get("AWS_" + _IGNORE.upper())
    if not any(_ENDPOINT in text.lower() for text in found):  # and no parser is loaded
        return AwsProfile({}, _is_true(said))
    name = name or environ.get("AWS_DEFAULT_PROFILE") or environ.get("AWS_PROFILE") or "default"
    profiles, services = _profiles(*map(_sections, found))
    profile = profiles.get(name, {})
    if _is_true(profile.get(_IGNORE) if said is None else said):
        return AwsProfile({}, ignores=True)
    of_s3 = services.get(str(profile.get("services")), {}).get("s3")
    url = (of_s3.get(_ENDPOINT) if isinstance(of_s3, dict) else "") or profile.get(_ENDPOINT)
    if not isinstance(url, str) or not url:
        return AwsProfile({}, ignores=False)
    origin = f"the profile {name} of the AWS configuration"
    return AwsProfile({"endpoint-url": GivenValue(url, origin)}, ignores=False)


def texts(environ: Mapping[str, str], credentials: str) -> list[str]:
    """Return what is in the files of the AWS configuration. *credentials* as for `profile_of`."""
    config = environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    usual = environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return [_text(path) for path in (config, credentials or usual)]


def _text(path: str) -> str:
    try:
        with open(os.path.expanduser(os.path.expandvars(path)), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):  # it is not there, or nobody can read it
        return ""


def _is_true(said: Any) -> bool:
    return isinstance(said, str) and said.lower() == "true"


def _sections(text: str) -> _Sections:
    from configparser import Error, RawConfigParser

    parser = RawConfigParser()
    try:
        parser.read_string(text)
    except Error:
        return {}
    return {name: {key: _value(it) for key, it in parser.items(name)} for name in parser.sections()}


def _value(text: str) -> str | dict[str, str]:
    """Return a value; one that begins on the next line is a table."""
    if not text.startswith("\n"):
        return text
    lines = [line.partition("=") for line in text.splitlines() if line.strip()]
    return {key.strip(): value.strip() for key, _, value in lines}


def _profiles(config: _Sections, credentials: _Sections) -> tuple[_Sections, _Sections]:
    """Return the profiles, and the services that they name, of both files."""
    found: dict[str, _Sections] = {"profile": {}, "services": {}}
    for section, values in config.items():
        kind, name = _named(section)
        if kind in found:
            found[kind][name] = values
    profiles = found["profile"]
    for name, values in credentials.items():
        profiles[name] = {**profiles.get(name, {}), **values}
    return profiles, found["services"]


def _named(section: str) -> tuple[str, str]:
    """Return the kind of a *section*, and its name."""
    if section == "default":
        return "profile", section
    import shlex

    try:
        words = shlex.split(section)
    except ValueError:
        return "", ""
    return (words[0], words[1]) if len(words) == 2 else ("", "")
