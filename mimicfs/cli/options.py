"""Options that several commands have, and what they make: settings, and the parts of a mirror."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mimicfs.config import S3Options, refuse_shown_secret

if TYPE_CHECKING:
    from mimicfs.mount import Parts, Settings

_LEVELS = ["debug", "info", "warning", "error"]
Command = Callable[..., Any]


def common(command: Command) -> Command:
    """Add the options that say which S3 and which mirror; pass them as *settings*."""
    options = [
        click.option("--endpoint-url", envvar=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
                     metavar="URL", help="An S3 server other than AWS."),
        click.option("--profile", metavar="NAME", help="A profile of the AWS configuration."),
        click.option("--region", metavar="NAME", help="The region of the buckets."),
        click.option("--no-sign-request", is_flag=True,
                     help="No credentials: for public buckets."),
        click.option("--store", envvar="MIMICFS_STORE", metavar="URL", default="",
                     help="Where the mirror is: sqlite:///PATH, memory:, redis://..., rediss://..."
                     "  [default: a SQLite file for each endpoint and account]"),
        click.option("--namespace", envvar="MIMICFS_NAMESPACE", metavar="NAME", default="",
                     help="Keeps several mirrors apart in one store."),
        click.option("--log-level", type=click.Choice(_LEVELS), default="warning",
                     show_default=True, help="What is logged."),
        click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False),
                     help="Where it is logged; syslog: for the system's log."),
        click.option("--slow-request", type=click.FloatRange(min=0), default=10.0,
                     show_default=True, metavar="SECONDS",
                     help="S3 requests that take so long are logged; 0: none."),
    ]  # fmt: skip

    @functools.wraps(command)
    def run(
        endpoint_url: str | None,
        profile: str | None,
        region: str | None,
        no_sign_request: bool,
        store: str,
        namespace: str,
        log_level: str,
        log_file: Path | None,
        slow_request: float,
        **rest: Any,
    ) -> Any:
        from mimicfs.mount import Settings

        context = click.get_current_context()
        for name, url in (("endpoint_url", endpoint_url), ("store", store)):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                refuse_shown_secret(f"--{name.replace('_', '-')}", url)
        settings = Settings(
            S3Options(endpoint_url, region, profile, not no_sign_request, slow_s=slow_request),
            _state_directory(),
            store,
            namespace,
            os.environ.get("MIMICFS_STORE_PASSWORD"),
            None,
            log_level,
            log_file,
        )
        return command(settings=settings, **rest)

    for option in reversed(options):
        run = option(run)
    return run


def _state_directory() -> Path:
    """Return where stores, logs and staging files are (XDG base directory specification)."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "mimicfs"


json_option = click.option("--json", "as_json", is_flag=True, help="Output for programs.")


def assembled(settings: Settings) -> Parts:
    """Open the store and the client of *settings*; what is wrong goes to the terminal."""
    from mimicfs.mount import assemble, set_up_logging

    set_up_logging(settings, foreground=True)
    return assemble(settings)
