"""Every option, once: its name, the form of its value, its purpose. The flags of the command line,
the words after -o, the variables MIMICFS_* of the environment, and the keys of the configuration
file all come from this table.

    file          endpoint-url = "https://..."     [mount] read-only = true
    environment   MIMICFS_ENDPOINT_URL=https://...         MIMICFS_READ_ONLY=yes
    -o            endpoint_url=https://...                 read_only
    flag          --endpoint-url https://...               --read-only

A value goes with its origin, so that every error can say where it was written. Pure: nothing here
reads the environment or a file.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from mimicfs.config.limits import parse_limit, parse_per_day, parse_request_rate
from mimicfs.config.sizes import MIB, parse_size
from mimicfs.config.values import (
    ACLS,
    METADATA,
    PART_SIZE,
    PROVIDERS,
    READ_MEMORY,
    WORKERS,
    S3Options,
    VFSOptions,
    refuse_shown_secret,
)
from mimicfs.entry import PERIODS_S
from mimicfs.errors import ConfigError


class Kind(Enum):
    """The kind of a value, and how people write it."""

    TEXT = "text"
    FLAG = "true or false"
    OCTAL = "an octal number"
    SECONDS = "a number of seconds, or a time like 5m or 1h30m"
    RATE = "a number"
    USER = "the name or number of a user"
    GROUP = "the name or number of a group"
    SIZE = "a number of bytes, like 500M or 20G"
    COUNT = "a number, 1 or more"
    REQUESTS = "a number of requests"
    REQUEST_RATE = "a number of requests per second"
    LIMIT = "bytes per second, like 10M, or by time of day: 08:00=1M 18:00=off"
    PATH = "a path"
    SECRET = "text, never shown"


class Section(Enum):
    """The place of an option in the configuration file, and the commands that know it."""

    COMMAND = "-"  # not in the file
    ALL = ""  # at the top: every command that asks S3 or the mirror
    MOUNT = "mount"
    BUCKETS = "buckets"  # [buckets.NAME]; as a flag of a mount: for every bucket


class Option(NamedTuple):
    name: str  # words joined by "-", as in the file
    kind: Kind
    help: str
    section: Section = Section.ALL
    choices: tuple[str, ...] = ()
    metavar: str = ""
    environment: tuple[str, ...] = ()  # variables besides MIMICFS_NAME
    flag: bool = True  # also on the command line; False: it is secret, or for one bucket

    @property
    def word(self) -> str:
        """The name after -o, and in Python."""
        return self.name.replace("-", "_")

    @property
    def can_be_off(self) -> bool:
        """Whether no_NAME switches it off: it is a flag, or one of its words is "no"."""
        return self.kind is Kind.FLAG or OFF in self.choices

    @property
    def variable(self) -> str:
        return f"MIMICFS_{self.word.upper()}"


class GivenValue(NamedTuple):
    """A value, and the place where it was written."""

    value: Any
    origin: str


Values = dict[str, GivenValue]  # by the name of the option

OFF = "no"  # the word, among choices, that means the same as a flag that is off
_M, _B = Section.MOUNT, Section.BUCKETS
_LEVELS = ("debug", "info", "warning", "error")
_S3, _VFS = S3Options(), VFSOptions()  # for their defaults


def _default(value: float) -> str:
    return f"  [default: {value:g}]"


def _default_size(size: int) -> str:
    return f"  [default: {size // MIB}M]"


OPTIONS = (
    Option("config", Kind.PATH, "The configuration file."
           "  [default: ~/.config/mimicfs/config.toml]", Section.COMMAND),
    Option("endpoint-url", Kind.TEXT, "An S3 server other than AWS."
           "  [default: as in the AWS configuration]", metavar="URL",
           environment=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")),
    Option("profile", Kind.TEXT, "A profile of the AWS configuration.", metavar="NAME"),
    Option("region", Kind.TEXT, "The region of the buckets.", metavar="NAME"),
    Option("addressing-style", Kind.TEXT,
           "Whether requests name the bucket in the path or in the host."
           "  [default: as in the AWS configuration, else by trial]",
           choices=("auto", "path", "virtual")),
    Option("provider", Kind.TEXT, "The maker of the server; mimicfs then does not try out"
           " what the server can.",
           choices=PROVIDERS, metavar="NAME"),
    Option("server-can", Kind.TEXT, "Corrections of what mimicfs finds out about the server:"
           " 'delete-many=no checksum=md5' (docs/servers.md).", metavar="WORDS"),
    Option("expected-bucket-owner", Kind.TEXT, "The account that buckets must belong to.",
           metavar="ID"),
    Option("dualstack", Kind.FLAG, "Ask AWS over IPv6 as well."),
    Option("accelerate", Kind.FLAG, "Ask AWS through S3 Transfer Acceleration."),
    Option("fips", Kind.FLAG, "Ask AWS at endpoints with FIPS 140."),
    Option("credentials-file", Kind.PATH,
           "A file with access keys, written as ~/.aws/credentials."),
    Option("sign-request", Kind.FLAG, "Sign requests; --no-sign-request is for public buckets."
           "  [default: yes]"),
    Option("requester-pays", Kind.FLAG, "Agree to pay for requests and transfer.", _B),
    Option("connections", Kind.COUNT, "How many requests to S3 may run at once."
           + _default(_S3.connections), metavar="NUMBER"),
    Option("attempts", Kind.COUNT, "How many times a failing request is tried, the first included."
           + _default(_S3.attempts), metavar="NUMBER"),
    Option("read-timeout", Kind.SECONDS, "How long S3 may pause within an answer."
           + _default(_S3.read_timeout_s), metavar="SECONDS"),
    Option("request-timeout", Kind.SECONDS, "How long a request may take, not counting the"
           " transfer of its bytes." + _default(_S3.request_timeout_s), metavar="SECONDS"),
    Option("download-limit", Kind.LIMIT, "Most bytes per second from S3: 10M, or by time of day:"
           " '08:00=1M 18:00=off'.  [default: off]", metavar="LIMIT"),
    Option("upload-limit", Kind.LIMIT, "Most bytes per second to S3.  [default: off]",
           metavar="LIMIT"),
    Option("request-rate", Kind.REQUEST_RATE, "Most requests per second to each bucket; 0: any"
           " number.  [default: 0]", _B, metavar="NUMBER"),
    Option("max-requests-per-day", Kind.REQUESTS, "Most requests to S3 per day (UTC); whatever"
           " needs more fails with EDQUOT. 0: any number.  [default: 0]",
           metavar="NUMBER"),
    Option("prices", Kind.TEXT, "Prices of S3 for `mimicfs status`: 'put=0.005 get=0.0004' per"
           " 1,000 requests, 'out=0.09' per GiB, 'currency=USD'.", metavar="WORDS"),
    Option("store", Kind.TEXT, "The store of the mirror: sqlite:///PATH, memory:, redis://...,"
           " rediss://...  [default: a SQLite file for each endpoint and account]",
           metavar="URL"),
    Option("store-password", Kind.SECRET, "The password of Redis.", flag=False),
    Option("store-password-file", Kind.PATH, "A file with the password of Redis."),
    Option("namespace", Kind.TEXT, "The name of the mirror in its store, which can hold several.",
           metavar="NAME"),
    Option("log-level", Kind.TEXT, "The least important messages that are logged."
           "  [default: warning]", choices=_LEVELS),
    Option("log-file", Kind.PATH, "The file to log to; `syslog:` is the system log."
           "  [default: ~/.local/state/mimicfs/mimicfs.log]"),
    Option("slow-request", Kind.SECONDS, "Log requests to S3 that take this long or longer; 0:"
           " none." + _default(_S3.slow_s), metavar="SECONDS"),
    Option("foreground", Kind.FLAG, "Stay in the foreground and log to the terminal.",
           Section.COMMAND),
    Option("cache-dir", Kind.PATH, "The directory of the cache, and of bytes that S3 does not have"
           " yet.  [default: ~/.cache/mimicfs, and for those bytes ~/.local/state/mimicfs]", _M),
    Option("cache-size", Kind.SIZE, "How much of what was read stays on disk: 20G; 0:"
           " none.  [default: a quarter of the free space]", _M, metavar="SIZE"),
    Option("small-files", Kind.SIZE, "When a directory is listed, fetch its files of up to this"
           " size into the cache on disk: 128K; 0: none.  [default: 0]", _M, metavar="SIZE"),
    Option("at", Kind.TEXT, "Show the bucket as it was at a moment, read-only: 2026-11-01T18:00,"
           " -2h, yesterday. The bucket must keep versions.", _M, metavar="MOMENT"),
    Option("versions", Kind.FLAG, "Give each directory a hidden .versions/NAME/ with a file for"
           " each version of NAME.", _M),
    Option("read-only", Kind.FLAG, "Refuse every change (-o ro).", _M),
    Option("allow-other", Kind.FLAG, "Let other users use the mount.", _M),
    Option("uid", Kind.USER, "The owner of the files, as a name or a number.  [default: whoever"
           " mounts]", _M, metavar="USER"),
    Option("gid", Kind.GROUP, "The group of the files, as a name or a number.  [default: that of"
           " whoever mounts]", _M, metavar="GROUP"),
    Option("umask", Kind.OCTAL, "Permission bits that files and directories do not have.", _M),
    Option("file-mode", Kind.OCTAL,
           "Permissions of files.  [default: 644, or as --umask says]", _M),
    Option("dir-mode", Kind.OCTAL,
           "Permissions of directories.  [default: 755, or as --umask says]", _M),
    Option("exec", Kind.FLAG, "Let users run programs from the mount.  [default: yes]", _M),
    Option("atime", Kind.FLAG, "Let the kernel keep access times.  [default: yes]", _M),
    Option("suid", Kind.FLAG, "Honour setuid and setgid bits (root only).", _M),
    Option("dev", Kind.FLAG, "Honour device files (root only).", _M),
    Option("markers", Kind.FLAG, "Let mkdir put an object `d/`. Switch this off for servers that"
           " store it as `d` (rclone serve s3).  [default: yes]", _M),
    Option("symlinks", Kind.FLAG, "Allow symbolic links, which are stored as objects."
           "  [default: yes]", _M),
    Option("ttl", Kind.SECONDS, "List a directory again when it is visited and its last listing"
           " is older than this; 0: never.  [default: 0]", _B, metavar="SECONDS"),
    Option("consistency", Kind.TEXT,
           "Whether opening a file asks the mirror or S3 (one HEAD).  [default: mirror]", _M,
           choices=("mirror", "open")),
    Option("sync-rate", Kind.RATE, "How many LIST requests per second `touch .sync` may cost on"
           " average; 0: any number." + _default(_VFS.sync_rate), _M, metavar="NUMBER"),
    Option("events", Kind.TEXT, "Where S3 reports changes: sqs:QUEUE_URL,"
           " http://127.0.0.1:PORT/, unix:/PATH or redis://HOST/0#KEY.  [default: nowhere]", _M,
           metavar="SOURCE"),
    Option("events-token", Kind.SECRET, "The bearer token that webhooks must send, or the"
           " password of a redis:// source.", _M, flag=False),
    Option("events-kept", Kind.SECONDS, "How long the server keeps messages that it could not"
           " deliver to the webhook (a persistent topic of Ceph, queue_dir of MinIO)."
           "  [default: 0, not at all]", _M, metavar="SECONDS"),
    Option("reconcile", Kind.SECONDS, "Compare the whole mirror with S3 once in every SECONDS; 0:"
           " never.  [default: a day with --events, else never]", _M, metavar="SECONDS"),
    Option("replica", Kind.FLAG, "Keep a local copy of visited directories of a store in Redis,"
           " and read from it.  [default: yes]", _M),
    Option("store-loss", Kind.TEXT, "Whether reads use the local copy, or fail with EIO, while a"
           " store in Redis is unreachable.  [default: copy]", _M,
           choices=("copy", "eio")),
    Option("locks", Kind.TEXT, "For whom locks of files (flock, fcntl) hold: for the programs on"
           " this mount, or for all mounts that share the store.  [default: mount]", _M,
           choices=("mount", "shared")),
    Option("metrics", Kind.TEXT,
           "The address at which Prometheus finds metrics: 127.0.0.1:PORT or unix:/PATH."
           "  [default: nowhere]", _M, metavar="ADDRESS"),
    Option("ui", Kind.FLAG, "Serve a web page that shows the work of the mount, at the address of"
           " --metrics, or at a free port of 127.0.0.1 (see `mimicfs status`).", _M),
    Option("access-log", Kind.PATH, "A file that records each request of a program and its answer;"
           " it moves to FILE.1 ... FILE.3 at 64 MiB.  [default: none]", _M, metavar="FILE"),
    Option("workers", Kind.COUNT, "How many requests of the kernel may wait for S3 at once;"
           " reads and writes: four times as many." + _default(WORKERS), _M, metavar="NUMBER"),
    Option("read-memory", Kind.SIZE,
           "How many bytes may be read ahead into memory." + _default_size(READ_MEMORY), _M,
           metavar="SIZE"),
    Option("part-size", Kind.SIZE, "The size of the parts of large files, at least 5M."
           + _default_size(PART_SIZE), _M, metavar="SIZE"),
    Option("write-back", Kind.FLAG, "Let close return when the bytes are on the local disk; S3 gets"
           " them after that. fsync still waits for S3.", _M),
    Option("staging-size", Kind.SIZE, "How many bytes may wait for S3 on the local disk."
           "  [default: until the disk is nearly full]", _M, metavar="SIZE"),
    Option("clear-dead", Kind.FLAG, "First unmount a dead mount at the mount point."
           "  [default: yes]", _M),
    Option("nonempty", Kind.FLAG, "Mount even on a directory that has files.", _M),
    Option("create-prefix", Kind.FLAG, "Mount s3://BUCKET/PREFIX even if no key begins with it.",
           _M),
    Option("storage-class", Kind.TEXT, "The storage class of the objects that mimicfs writes.",
           _B, metavar="CLASS"),
    Option("sse", Kind.TEXT, "How S3 encrypts the objects that mimicfs writes.", _B,
           choices=("AES256", "aws:kms", "aws:kms:dsse")),
    Option("kms-key-id", Kind.TEXT, "The KMS key that encrypts the objects that mimicfs writes.",
           _B, metavar="ID"),
    Option("sse-c-key-file", Kind.PATH, "A file with your own key (32 bytes, or their base64),"
           " which S3 encrypts with and does not keep (SSE-C).", _B),
    Option("acl", Kind.TEXT, "The canned ACL of the objects that mimicfs writes.",
           _B, choices=ACLS, metavar="ACL"),
    Option("metadata", Kind.TEXT, "When to ask S3 for the modes, owners, times and links stored"
           " with objects. auto: in directories where some object has them. no: never, and store"
           " none.  [default: auto]", _B, choices=METADATA),
    Option("prefix", Kind.TEXT, "The prefix of the bucket that the mount shows.", _B, flag=False),
    Option("never-sync", Kind.FLAG, "Never list the whole bucket.", _B, flag=False),
)  # fmt: skip

# Options that mean something else in the section of a bucket than for a mount.
BUCKET_ONLY = (Option("read-only", Kind.FLAG, "Nothing in the bucket can be changed.", _B),)

BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
IN_BUCKETS: Mapping[str, Option] = {
    option.name: option for option in (*OPTIONS, *BUCKET_ONLY) if option.section is Section.BUCKETS
}

URLS = frozenset({"endpoint-url", "store", "events"})  # they may contain a password
_RANGES = {
    Kind.USER: (0, (1 << 32) - 2),  # -1 is nobody
    Kind.GROUP: (0, (1 << 32) - 2),
    Kind.OCTAL: (0, 0o777),
    Kind.COUNT: (1, 10_000),
}
# The types in which a configuration file may write a value, where only text is not right.
_IN_FILES: Mapping[Kind, tuple[type, ...]] = {
    Kind.FLAG: (bool,),
    Kind.SIZE: (int, str),
    Kind.LIMIT: (int, str),
    Kind.USER: (int, str),
    Kind.GROUP: (int, str),
    Kind.SECONDS: (int, float, str),
    Kind.RATE: (int, float),
    Kind.REQUESTS: (int, float),
    Kind.REQUEST_RATE: (int, float),
    Kind.COUNT: (int,),
}
_PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    Kind.SIZE: parse_size,
    Kind.LIMIT: parse_limit,
    Kind.REQUESTS: parse_per_day,
    Kind.REQUEST_RATE: parse_request_rate,
}
_TIME = r"(?:\d+[dhms])+"
WORDS_FOR_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
WORDS_OF_FLAGS = (*WORDS_FOR_TRUE, *_FALSE)


def shown_to_all(option: Option, text: str, name: str, about: str) -> Any:
    """Return the value that *text*, on a command line, means. Raises ConfigError, which begins with
    *about*; also for a URL with a password, because `ps` shows it to everybody."""
    if option.name in URLS:
        refuse_shown_secret(name, text)
    return parsed(option, text, about)


def parsed(option: Option, text: str, about: str) -> Any:
    """Return the value that *text* means. Raises ConfigError, which begins with *about*."""
    if option.kind is Kind.FLAG:
        if text.lower() not in WORDS_OF_FLAGS:
            raise ConfigError(f"{about}: {option.name} is yes or no")
        return text.lower() in WORDS_FOR_TRUE
    if option.kind in _RANGES:
        return _number(text, option.kind, about)
    if option.kind in (Kind.SECONDS, Kind.RATE):
        return _amount(text, option.kind, about)
    if option.kind in _PARSERS:
        try:
            return _PARSERS[option.kind](text)
        except ConfigError as exc:
            raise ConfigError(f"{about}: {exc}") from exc
    if OFF in option.choices and text.lower() in WORDS_OF_FLAGS:
        return option.choices[0] if text.lower() in WORDS_FOR_TRUE else OFF
    if option.choices and text not in option.choices:
        raise ConfigError(f"{about}: {_one_of(text, option)}")
    return text


def checked(option: Option, value: Any, about: str) -> Any:
    """Return the value that *value*, from a configuration file, means. Raises ConfigError, also for
    a wrong type."""
    kind = option.kind
    if kind is Kind.OCTAL and isinstance(value, int):
        raise ConfigError(f'{about}: write the octal number as text: {option.name} = "022"')
    if isinstance(value, bool) and OFF in option.choices:  # the form from when it was a flag
        return option.choices[0] if value else OFF
    right = _IN_FILES.get(kind, (str,))
    if not isinstance(value, right) or (isinstance(value, bool) and kind is not Kind.FLAG):
        raise ConfigError(f"{about}: must be {kind.value}, not {_type(value)}")
    return value if kind is Kind.FLAG else parsed(option, str(value), about)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the name in *known* that was probably meant by *name*; "" if none is near."""
    import difflib  # only people who mistype need it

    found = difflib.get_close_matches(name, list(known), 1, cutoff)
    return found[0] if found else ""


def _one_of(text: str, option: Option) -> str:
    near = nearest(text, option.choices) or nearest(text.upper(), option.choices)
    near = near or nearest(text.lower(), option.choices)
    if near:
        return f"{text} is no {option.name}; did you mean {near}?"
    return f"{text} is no {option.name}; it is one of {', '.join(option.choices)}"


def _number(text: str, kind: Kind, about: str) -> int:
    if kind in (Kind.USER, Kind.GROUP) and not text.lstrip("-").isdecimal():
        return _id_of(text, kind, about)
    try:
        number = int(text, 8 if kind is Kind.OCTAL else 10)
    except ValueError as exc:
        raise ConfigError(f"{about}: not {kind.value}") from exc
    least, most = _RANGES[kind]
    if not least <= number <= most:
        form = "03o" if kind is Kind.OCTAL else "d"
        raise ConfigError(f"{about}: out of range; from {least:{form}} to {most:{form}}")
    return number


def _id_of(name: str, kind: Kind, about: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid if kind is Kind.USER else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError) as exc:
        raise ConfigError(f"{about}: no {kind.name.lower()} {name} on this machine") from exc


def _amount(text: str, kind: Kind, about: str) -> float:
    if kind is Kind.SECONDS and re.fullmatch(_TIME, text):
        return float(sum(int(n) * PERIODS_S[unit] for n, unit in re.findall(r"(\d+)(\w)", text)))
    try:
        number = float(text)
    except ValueError as exc:
        raise ConfigError(f"{about}: not {kind.value}") from exc
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{about}: out of range; 0 or more")
    return number


def _type(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a fraction", str: "text"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "a list")
