"""The command line. An error is one line on stderr that says what to do, and an exit code.

mounting   mount, umount                  watching     status, log-level, set
topping    top                            members      status --all
syncing    sync                           warmingup    warmup
mirror     ls, stat                       finding      find, du
verifying  verify                         index        index export, index import
storing    store check, store migrate     telling      watch
history    diff, restore, undelete        eventing     events setup, remove, check, run
doctoring  doctor                         configuring  config show, path; explaining: explain
about      versions, completion           helper       install-helper, mount.mimicfs
driving    csi

options    the flags that several commands have, and the objects for which they stand
helping    the text of --help              completing   answers a shell that completes words
advice     advice that needs a look at the account
places     the bucket and key that a path in a mount shows
progress   the progress of a command, and Ctrl-C
text       values as people read them    leaving    the end of a command
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from io import TextIOWrapper

import click

from mimicfs import errors
from mimicfs.cli.helping import CONTEXT, Program
from mimicfs.cli.leaving import leave
from mimicfs.cli.text import one_line
from mimicfs.config import peers
from mimicfs.errors import MimicError

# The first class to which the error belongs decides.
_EXIT_CODES: list[tuple[type[MimicError], int]] = [
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
EXIT_STATUS = {
    0: "All is done.",
    1: "Something else failed; or what COMMAND --help says of this code.",
    2: "An option, an argument or a setting is wrong.",
    3: "The mount could not be made or ended, or does not answer.",
    4: "The store of the mirror failed.",
    5: "There are no valid credentials, or S3 refuses them the request.",
    6: "S3 has no such bucket or object.",
    7: "S3 refused the request, or gave no answer that makes sense.",
    8: "The mirror knows only a part of the answer; `mimicfs sync` lists the rest.",
    9: "A file is not an index, or not a whole one.",
    130: "Interrupted by Ctrl-C.",
}

_AT_THE_TOP = dict.fromkeys(("-v", "-V"), "write --version")
_BEHIND = "options are written behind a command: mimicfs mount -o ro s3://BUCKET DIRECTORY"


def main() -> None:
    """Run the command line: the console script mimicfs."""
    # A command makes objects that live as long as it does. To look through them again and again is
    # 6 % of a long `find`, and once more at the end, 10 of the 90 ms of a short one.
    gc.set_threshold(50_000, 20, 50)
    try:
        _run()
    finally:
        gc.freeze()


def _run() -> None:
    if _is_mount_call(sys.argv[1:]):
        from mimicfs.cli.helper import mount_for_fuse3

        mount_for_fuse3()
        return
    if isinstance(sys.stdout, TextIOWrapper):  # a key may have letters that the terminal lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    if "_MIMICFS_COMPLETE" in os.environ:
        from mimicfs.cli import completing  # noqa: F401  says how bash asks
    try:
        code = cli(standalone_mode=False)  # so the code that a command gives ctx.exit comes back
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        leave(130)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        click.echo(f"mimicfs: {_usage(exc)}", err=True)
        sys.exit(exc.exit_code)
    except MimicError as exc:
        click.echo(f"mimicfs: {one_line(exc)}", err=True)
        leave(exit_code(exc))
    except OSError as exc:
        if not _is_of_output(exc):
            raise
        click.echo(f"mimicfs: standard output: {exc.strerror}", err=True)
        leave(1)


def _is_of_output(exc: OSError) -> bool:
    """Whether it was printing that failed. (If nobody reads any more, click ends quietly.)"""
    frames = [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]
    return frames[-1].f_code is click.echo.__code__


def _is_mount_call(arguments: list[str]) -> bool:
    """Whether these are the arguments of mount.fuse3: a source, not a command."""
    return len(arguments) > 1 and (arguments[0].startswith("s3://") or arguments[0] == "none")


def _usage(exc: click.ClickException) -> str:
    """Return one line that says what was wrong with the call, and where to read more."""
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    command = context.command_path if context is not None else _called(sys.argv[1:])
    text = " ".join(exc.format_message().split())
    theirs = peers.advice(exc.option_name) if isinstance(exc, click.NoSuchOption) else ""
    if theirs:
        text = f"no such option: {exc.option_name}; {theirs}"  # type: ignore[attr-defined]
    elif isinstance(exc, click.NoSuchOption) and command == "mimicfs":
        text = f"no such option: {exc.option_name}; {_AT_THE_TOP.get(exc.option_name, _BEHIND)}"
    return f"{text[:1].lower()}{text[1:].rstrip('.')}; see {command} --help"


def _called(arguments: list[str]) -> str:
    """Return the command that *arguments* name. (click does not name it when a value is
    missing.)"""
    path = "mimicfs"
    found: click.Group = cli
    for word in arguments:
        within = found.get_command(click.Context(cli), word)
        if within is None:
            break
        path += f" {word}"
        if not isinstance(within, click.Group):
            break
        found = within
    return path


def exit_code(exc: MimicError) -> int:
    """Return the exit code of a command that ended with *exc*."""
    from mimicfs.cli.advice import kind_of

    return next(code for known, code in _EXIT_CODES if issubclass(kind_of(exc), known))


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Print the versions of everything that a report of a mistake should name, and end."""
    if wanted and not ctx.resilient_parsing:
        from mimicfs.cli.about import versions

        click.echo(versions(), nl=False)
        ctx.exit()


@click.group(cls=Program, context_settings=CONTEXT)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
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
