"""The text of `--help`: commands and options under headings, and no sentence cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, TypeGuard

import click

from mimicfs.config.options import nearest

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
H_IS_HUMAN = {"help_option_names": ["--help"]}  # for `ls -lh` and `du -sh`, as fingers write them
ALL_OPTIONS = (
    "The options that `mimicfs mount --help` shows under S3, Requests, The mirror and Running"
    " work here too."
)
# The flags of a mount that other commands show, too. They also take the others, without showing
# them.
SHOWN = frozenset(
    {"config", "endpoint-url", "profile", "region", "credentials-file", "store", "namespace"}
    | {"log-level"}
)
# Under each heading, the commands, each with the module of this room in which it is.
_COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Mounting": {
        "mount": "mounting", "umount": "mounting", "status": "watching", "log-level": "watching",
        "set": "watching", "top": "topping",
    },
    "The mirror, without a mount": {
        "sync": "syncing", "warmup": "warmingup", "watch": "telling", "ls": "mirror",
        "stat": "mirror", "find": "finding", "du": "finding", "verify": "verifying",
        "index": "index", "store": "storing",
    },
    "Versions": {"diff": "history", "restore": "history", "undelete": "history"},
    "Setting up": {
        "doctor": "doctoring", "config": "configuring", "events": "eventing",
        "completion": "about", "install-helper": "helper", "csi": "driving",
    },
}  # fmt: skip
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "S3": (
        "endpoint-url",
        "profile",
        "region",
        "credentials-file",
        "sign-request",
        "requester-pays",
        "expected-bucket-owner",
        "provider",
        "addressing-style",
        "server-can",
        "dualstack",
        "accelerate",
        "fips",
    ),
    "Requests": (
        "connections",
        "attempts",
        "read-timeout",
        "request-timeout",
        "slow-request",
        "download-limit",
        "upload-limit",
        "request-rate",
        "max-requests-per-day",
        "prices",
    ),
    "The mirror": ("store", "store-password-file", "namespace", "replica", "store-loss", "locks"),
    "Freshness": (
        "ttl",
        "consistency",
        "sync-rate",
        "events",
        "events-kept",
        "reconcile",
        "at",
    ),
    "Files and permissions": (
        "read-only",
        "allow-other",
        "uid",
        "gid",
        "umask",
        "file-mode",
        "dir-mode",
        "exec",
        "atime",
        "suid",
        "dev",
        "symlinks",
        "metadata",
        "no-metadata",
        "markers",
        "versions",
    ),
    "What is written": (
        "write-back",
        "staging-size",
        "part-size",
        "storage-class",
        "sse",
        "kms-key-id",
        "sse-c-key-file",
        "acl",
    ),
    "Cache and memory": ("cache-dir", "cache-size", "small-files", "read-memory", "workers"),
    "Running": (
        "config",
        "foreground",
        "log-level",
        "log-file",
        "access-log",
        "metrics",
        "ui",
        "clear-dead",
        "nonempty",
        "create-prefix",
    ),
}
# Commands of the AWS CLI, rclone, JuiceFS and others.
_IN_A_MOUNT = "mount the bucket, and use the commands of your shell"
_OTHERS = {
    **dict.fromkeys(("cp", "mv", "rm", "cat", "copy", "mkdir", "touch"), _IN_A_MOUNT),
    **dict.fromkeys(("unmount", "fusermount", "fusermount3"), "write `mimicfs umount`"),
    **dict.fromkeys(("list", "lsd", "lsl", "tree"), "write `mimicfs ls` (-R: all below)"),
    **dict.fromkeys(("info", "head"), "write `mimicfs stat`"),
    **dict.fromkeys(("stats", "profile", "monitor"), "write `mimicfs status --watch`"),
    **dict.fromkeys(("fsck", "check"), "write `mimicfs verify` or `mimicfs store check`"),
    **dict.fromkeys(("size", "ncdu"), "write `mimicfs du`"),
    "version": "write `mimicfs --version`",
    "log": "~/.local/state/mimicfs/mimicfs.log; `mimicfs log-level` sets how much is logged",
    "pin": "write `mimicfs warmup --pin`",
    "configure": "write `aws configure`, or ~/.config/mimicfs/config.toml",
    "format": "nothing is to be formatted: an object is a file",
}
_SENTENCE = r"(?s)(.+?[^\s.])(?:\.(?:\s|$)|\n\n|$)"


class Group(click.Group):
    """Commands, each with the whole first sentence of its help."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.headings: Mapping[str, Iterable[str]] = {}

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add *cmd*, with a word on the options that it takes and does not show."""
        hidden = {param.name: param.hidden for param in cmd.params if _is_option(param)}
        if not hidden.get("profile", True) and any(hidden.values()):
            cmd.epilog = cmd.epilog or ALL_OPTIONS
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in _sections(self.headings, self.list_commands(ctx), "Commands"):
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, first_sentence(found.help or "")) for name, found in commands if found]
                )


class Program(Group):
    """The command line as a whole. A command is imported when somebody asks for it: to import all
    of them takes 0.1 s, which is more than a look into the mirror."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.headings = _COMMANDS
        self._modules = {name: it for part in _COMMANDS.values() for name, it in part.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._modules and cmd_name not in self.commands:
            module = import_module(f"mimicfs.cli.{self._modules[cmd_name]}")
            name = cmd_name.replace("-", "_")
            self.add_command(getattr(module, f"{name}_" if name == "set" else name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"no such command {name!r}{self._meant(name, args[1:])}")
        return super().resolve_command(ctx, args)

    def _meant(self, name: str, behind: list[str]) -> str:
        """Return what was probably meant by *name*, which is no command."""
        if name == "help":
            return f"; write `{' '.join(['mimicfs', *behind[:1], '--help'])}`"
        if name.startswith("s3://"):
            return f"; write `mimicfs mount {name} DIRECTORY`"
        if name in _OTHERS:
            return f"; {_OTHERS[name]}"
        near = nearest(name, self._modules)
        return f"; did you mean `mimicfs {near}`?" if near else ""


class ManyOptions(click.Command):
    """A command with so many options that they need headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {}
        for parameter in filter(_is_option, self.get_params(ctx)):
            record = parameter.get_help_record(ctx)
            if record is not None:
                records[(parameter.name or "").replace("_", "-")] = record
        for heading, names in _sections(_OPTIONS, records, "Options"):
            with formatter.section(heading):
                formatter.write_dl([records[name] for name in names])


def _is_option(param: click.Parameter) -> TypeGuard[click.Option]:
    return isinstance(param, click.Option)


def first_sentence(text: str) -> str:
    """Return the first sentence of *text*, in one line and without its full stop."""
    found = re.match(_SENTENCE, text.strip())
    return " ".join(found[1].split()) if found else ""


def _sections(
    headings: Mapping[str, Iterable[str]], known: Iterable[str], rest: str
) -> list[tuple[str, list[str]]]:
    """Return *known* under their headings; names without one come first, under *rest*."""
    left = list(known)
    found = []
    for heading, names in headings.items():
        here = [name for name in names if name in left]
        left = [name for name in left if name not in here]
        if here:
            found.append((heading, here))
    return [(rest, left), *found] if left else found
