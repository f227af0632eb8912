"""`mimicfs --version` and `mimicfs completion`."""

from __future__ import annotations

import platform

import click
from click.shell_completion import get_completion_class

from mimicfs import __version__

_LIBRARIES = ("boto3", "botocore", "click", "rich", "redis", "prometheus-client", "pyarrow")
_VARIABLE = "_MIMICFS_COMPLETE"  # tells click that a shell asks


def versions() -> str:
    """Return the versions of everything that a report of a mistake should name, a line each."""
    lines = [f"mimicfs {__version__}"]
    lines += [f"Python {platform.python_version()}, Linux {platform.release()}"]
    lines += [f"libfuse {_fusermount_version()}"]
    lines += [f"{name} {_version(name)}" for name in _LIBRARIES]
    return "".join(f"{line}\n" for line in lines)


def _fusermount_version() -> str:
    import shutil

    from mimicfs.errors import MountError
    from mimicfs.fuse import mounting

    found = shutil.which("fusermount3")
    if found is None:
        return "not installed (fusermount3; apt (or dnf) install fuse3)"
    try:
        return f"{mounting.version(found)} ({found})"
    except MountError as exc:
        return f"unknown ({exc})"


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes the commands and options of mimicfs.

    \b
    bash: mimicfs completion bash > ~/.local/share/bash-completion/completions/mimicfs
    zsh:  mimicfs completion zsh > DIRECTORY/_mimicfs, a directory of $fpath
    fish: mimicfs completion fish > ~/.config/fish/completions/mimicfs.fish
    """
    click.echo(completion_script(ctx.find_root().command, shell))


def completion_script(command: click.Command, shell: str) -> str:
    """Return the script with which *shell* asks *command* for the words that can follow."""
    from mimicfs.cli import completing  # noqa: F401  says how bash asks

    found = get_completion_class(shell)
    assert found is not None, shell
    made = found(command, {}, "mimicfs", _VARIABLE)
    return (made.source_template % made.source_vars()).strip()
