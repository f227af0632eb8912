"""`mimicfs doctor`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimicfs.cli.advice import advised, nearly
from mimicfs.cli.options import PlainPath, completes_urls, json_option, settled_by
from mimicfs.config.values import ANSWER_S, Target, parse_target, redacted
from mimicfs.errors import ConfigError, MimicError, StoreError
from mimicfs.finding import FAIL, OK, WARN, Finding
from mimicfs.human import printable

if TYPE_CHECKING:
    from mimicfs.config.settled import Settled
    from mimicfs.config.values import Settings
    from mimicfs.mimicdb import Mirror

_ATTEMPTS = 2  # at a request: a user who looks for a fault does not want to wait a minute
_COLOURS = {FAIL: "red", WARN: "yellow", OK: "green"}
_OURS = ("AWS_", "MIMICFS_", "XDG_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "LANG", "LC_")
_HOLDS_SECRET = re.compile(r"SECRET|TOKEN|PASS|KEY", re.IGNORECASE)
_PLACES = ("_FILE", "_URI")


@click.command()
@click.argument("url", default="", metavar="[s3://BUCKET[/PREFIX]]", shell_complete=completes_urls)
@click.option(
    "--write",
    is_flag=True,
    help="Also check what only writing shows; the keys .mimicfs-doctor-* are deleted afterwards.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also show the checks that passed.")
@click.option(
    "--bundle",
    type=PlainPath(),
    metavar="FILE",
    help="Pack what a report of a mistake needs into FILE (.tar.gz): what was found, versions,"
    " settings, status, the end of the log; no secrets. Names of buckets and keys are in it.",
)
@json_option
@settled_by
def doctor(
    settled: Settled, url: str, write: bool, verbose: bool, bundle: Path | None, as_json: bool
) -> None:
    """Check whether everything that a mount needs is there, and say what to do if it is not.

    The command looks at this machine, the store and the account, and with a URL also at that
    bucket. It prints failures first, and exits with 1 if there is any.
    """
    target = parse_target(url) if url else Target()
    if write and not target.bucket:
        raise click.UsageError("--write needs a bucket: s3://BUCKET")
    settings = settled.settings()
    with advised(settings):
        found = list(_findings(settings, target, write))
    text = json.dumps([finding._asdict() for finding in found])
    if as_json:
        click.echo(text)
    else:
        _print(found, verbose)
    if bundle is not None:
        _pack(settled, settings, text, bundle)
        click.echo(f"packed: {bundle}; look at it before you send it", err=as_json)
    if any(finding.result == FAIL for finding in found):
        sys.exit(1)


def _findings(settings: Settings, target: Target, write: bool) -> Iterator[Finding]:
    from mimicfs.admin import logs
    from mimicfs.admin.doctor import machine
    from mimicfs.backends.examine import examine_store
    from mimicfs.backends.memory import Memory
    from mimicfs.mimicdb import Mirror
    from mimicfs.parts import own_directories, store_url
    from mimicfs.s3.requests.client import S3
    from mimicfs.s3.requests.examine import Examination

    quiet = "error" if settings.log_level == "warning" else settings.log_level
    logs.set_up_by(replace(settings, log_level=quiet), foreground=True)  # it is told below
    options = replace(settings.s3, attempts=_ATTEMPTS)
    yield from machine(own_directories(settings))
    try:
        mimicdb = Mirror(Memory())
        with closing(S3(options, mimicdb)) as s3:
            url = store_url(settings, s3.account)
            yield from examine_store(url, settings.namespace, settings.store_password)
            with _knowing(mimicdb, settings, url, target.bucket, write):
                examination = Examination(s3, options, target.bucket, target.prefix)
                for finding in examination.findings(write):
                    yield _named_right(settings, target.bucket, finding)
    except MimicError as exc:
        text, _, advice = str(exc).partition("; ")
        yield Finding("credentials", FAIL, text, advice)


def _named_right(settings: Settings, bucket: str, finding: Finding) -> Finding:
    """Return *finding*; if it is about a bucket that is not there, name the bucket that was
    probably meant."""
    if finding.result != FAIL or finding.advice or "NoSuchBucket" not in finding.found:
        return finding
    return finding._replace(advice=nearly(settings, bucket) or "`mimicfs ls` lists yours")


@contextmanager
def _knowing(
    mimicdb: Mirror, settings: Settings, url: str, bucket: str, write: bool
) -> Iterator[None]:
    """Within, *mimicdb* knows of the server what the store at *url* knows. If *write*, the store
    learns afterwards what was found. (An error that keeps the store from being opened was told
    before.)"""
    from mimicfs.backends.open import file_of, open_store
    from mimicfs.mimicdb import Mirror

    file = file_of(url)
    try:
        there = not url.startswith("memory:") and (file is None or file.exists())
        store = open_store(url, settings.namespace, settings.store_password) if there else None
    except (StoreError, ConfigError):
        store = None
    if store is None:
        yield
        return
    with closing(Mirror(store)) as known:
        _note_servers(known, mimicdb, bucket)
        yield
        if write:
            _note_servers(mimicdb, known, bucket)


def _note_servers(told: Mirror, learner: Mirror, bucket: str) -> None:
    """Have *learner* learn what *told* knows of servers."""
    for beside in {"", bucket}:
        for name, text in told.notes(beside).items():
            if name.startswith(("capabilities ", "conditions ")):
                learner.set_note(beside, name, text)


# For people


def _print(found: list[Finding], verbose: bool) -> None:
    """Print failures, then warnings, then (if *verbose*) the rest, and how many checks passed."""
    for result in (FAIL, WARN, *((OK,) if verbose else ())):
        for finding in found:
            if finding.result == result:
                _print_one(finding)
    well = sum(finding.result == OK for finding in found)
    click.echo(f"{well} ok" + ("" if verbose else "; --verbose shows them"))


def _print_one(finding: Finding) -> None:
    result = click.style(f"{finding.result:4}", fg=_COLOURS[finding.result])
    click.echo(f"{result}  {printable(f'{finding.name}: {finding.found}')}")
    if finding.advice:
        click.echo(f"      {printable(finding.advice)}")


# For a report


def _pack(settled: Settled, settings: Settings, findings: str, path: Path) -> None:
    from base64 import b64encode

    from mimicfs.admin.bundle import passwords_in, tail, write_bundle
    from mimicfs.cli.about import versions
    from mimicfs.cli.configuring import settings_in_toml
    from mimicfs.cli.watching import status_of_mounts

    log = settings.log_file or settings.state / "mimicfs.log"
    texts = {
        "versions.txt": versions(),
        "doctor.json": findings,
        "config.toml": settings_in_toml(settled),
        "environment.txt": "".join(f"{name}={_shown(name)}\n" for name in _variables()),
        "status.json": json.dumps(status_of_mounts(settings, None, ANSWER_S)),
        "mimicfs.log": tail(log) if not str(log).startswith("syslog:") else f"in {log}\n",
    }
    secrets = [os.environ[name] for name in os.environ if _is_secret(name)]
    secrets += [settings.store_password or "", settled.events().token, *_own_secrets(settings)]
    keys = [settings.s3.buckets.of(name).sse_c_key for name in ("", *settings.s3.buckets.named)]
    secrets += [b64encode(key).decode() for key in keys]
    given = (settings.store, settings.s3.endpoint_url or "", settled.events().source)
    secrets += passwords_in((*given, *os.environ.values()))
    write_bundle(path, texts, secrets)


def _variables() -> list[str]:
    """Return the names of the environment variables that matter."""
    return sorted(it for it in os.environ if it.upper().startswith(_OURS))


def _is_secret(name: str) -> bool:
    """Whether the variable *name* holds a secret, rather than the place of one."""
    return _HOLDS_SECRET.search(name) is not None and not name.endswith(_PLACES)


def _shown(name: str) -> str:
    return "***" if _is_secret(name) else redacted(os.environ[name])


def _own_secrets(settings: Settings) -> list[str]:
    """Return the secrets with which this user signs."""
    from mimicfs.backends.memory import Memory
    from mimicfs.mimicdb import Mirror
    from mimicfs.s3.requests.client import S3

    with closing(S3(settings.s3, Mirror(Memory()))) as s3:
        try:
            return s3.secrets()
        except MimicError:
            return []  # there are none that could be found
