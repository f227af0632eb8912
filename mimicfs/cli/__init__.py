"""The command line. Errors are one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import sys

import click

from mimicfs import __version__, errors
from mimicfs.cli.doctoring import doctor
from mimicfs.cli.mirror import ls, stat
from mimicfs.cli.mounting import mount, umount
from mimicfs.cli.syncing import sync
from mimicfs.cli.text import one_line, printable
from mimicfs.cli.watching import log_level, status
from mimicfs.errors import MimicError

# The first class that the error is one of decides.
EXIT_CODES: list[tuple[type[MimicError], int]] = [
    (errors.ConfigError, 2),
    (errors.MountError, 3),
    (errors.StoreError, 4),
    (errors.CredentialsError, 5),
    (errors.AccessDenied, 5),
    (errors.NoSuchBucket, 6),
    (errors.KeyNotFound, 6),
    (errors.S3Error, 7),
    (errors.MalformedListing, 7),
    (errors.Interrupted, 130),
    (MimicError, 1),
]


def main() -> None:
    """Run the command line; the console script."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except MimicError as exc:
        click.echo(f"mimicfs: {printable(one_line(exc))}", err=True)
        sys.exit(exit_code(exc))


def exit_code(exc: MimicError) -> int:
    """Return the exit code of a command that ended with *exc*."""
    from mimicfs.mount import Failed

    kind = type(exc)
    if isinstance(exc, Failed):  # raised in the daemon: only the name of its class came over
        kind = getattr(errors, exc.kind, errors.MountError)
    return next(code for known, code in EXIT_CODES if issubclass(kind, known))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mimicfs")
def cli() -> None:
    """S3 as a file system, on a mirror of its metadata that answers at local speed.

    Credentials are found as boto3 finds them: environment, profiles, SSO, instance roles.
    """


for command in (mount, umount, status, sync, ls, stat, log_level, doctor):
    cli.add_command(command)
