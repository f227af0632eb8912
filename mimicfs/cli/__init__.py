"""The command line. Errors are one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import sys

import click

from mimicfs import errors
from mimicfs.cli.about import completion, print_version
from mimicfs.cli.advice import kind_of
from mimicfs.cli.configuring import config
from mimicfs.cli.doctoring import doctor
from mimicfs.cli.eventing import events
from mimicfs.cli.finding import du, find
from mimicfs.cli.helper import install_helper, is_mount_call, mount_for_fuse3
from mimicfs.cli.helping import CONTEXT, Program
from mimicfs.cli.history import diff, restore, undelete
from mimicfs.cli.index import index
from mimicfs.cli.mirror import ls, stat
from mimicfs.cli.mounting import mount, umount
from mimicfs.cli.syncing import sync
from mimicfs.cli.telling import watch
from mimicfs.cli.text import one_line
from mimicfs.cli.verifying import verify
from mimicfs.cli.watching import log_level, status
from mimicfs.config import peers
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
    (errors.NotSynced, 8),
    (errors.MalformedIndex, 9),
    (errors.Interrupted, 130),
    (MimicError, 1),
]


def main() -> None:
    """Run the command line; the console script."""
    if is_mount_call(sys.argv[1:]):
        mount_for_fuse3()
        return
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        click.echo(f"mimicfs: {_usage(exc)}", err=True)
        sys.exit(exc.exit_code)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except MimicError as exc:
        click.echo(f"mimicfs: {one_line(exc)}", err=True)
        sys.exit(exit_code(exc))


def _usage(exc: click.ClickException) -> str:
    """Return in one line what was wrong with the call, and where to read more."""
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    command = context.command_path if context is not None else "mimicfs"
    text = " ".join(exc.format_message().split())
    theirs = peers.advice(exc.option_name) if isinstance(exc, click.NoSuchOption) else ""
    if theirs:
        text = f"no such option: {exc.option_name}; {theirs}"  # type: ignore[attr-defined]
    return f"{text[:1].lower()}{text[1:].rstrip('.')}; see {command} --help"


def exit_code(exc: MimicError) -> int:
    """Return the exit code of a command that ended with *exc*."""
    return next(code for known, code in EXIT_CODES if issubclass(kind_of(exc), known))


@click.group(cls=Program, context_settings=CONTEXT)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the versions of mimicfs, libfuse and the libraries, and exit.",
)
def cli() -> None:
    """S3 as a file system, on a mirror of its metadata that answers at local speed.

    \b
    mimicfs mount ~/s3                       every bucket is a directory of ~/s3
    mimicfs mount s3://photos/2024 ~/photos  a bucket, or a part of it
    mimicfs umount ~/s3                      waits for uploads

    Credentials are found as boto3 finds them: environment, profiles, SSO, instance roles.
    `mimicfs COMMAND --help` says more about a command.
    """


for command in (
    *(mount, umount, status, log_level, doctor),
    *(sync, events, watch, verify, index, ls, stat, find, du),
    *(diff, restore, undelete),
    *(config, completion, install_helper),
):
    cli.add_command(command)
