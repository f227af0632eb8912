"""The options of every part, as values. Nothing here reads the environment or a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from mimicfs.errors import ConfigError

MIB = 1 << 20
# In the query of a URL, as redis-py takes them.
_IN_QUERY = re.compile(r"([?&](?:username|password)=)[^&]*")


@dataclass(frozen=True, slots=True)
class S3Options:
    """How S3 is reached. None leaves the choice to boto3 (environment, profile, instance)."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    sign: bool = True  # False: anonymous requests
    connections: int = 32  # most requests at once
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0  # without one byte arriving
    attempts: int = 5  # in all, with backoff and jitter between
    slow_s: float = 10.0  # a request that takes so long is logged; 0: none is


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How file data moves."""

    staging: Path  # 0700; bytes that S3 does not have yet
    block_size: int = 8 * MIB  # of one ranged GET when reading ahead
    requests_per_file: int = 8  # ranged GETs or part uploads at once
    part_size: int = 16 * MIB  # smallest part of a multipart upload that we start
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)


@dataclass(frozen=True, slots=True)
class Target:
    """What a mount or a command is about: everything, a bucket, or a prefix of one."""

    bucket: str = ""  # "": all buckets of the account
    prefix: str = ""  # "" or ending in "/"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.bucket else "s3://"


def parse_target(url: str) -> Target:
    """Return what an s3:// URL names. Raises ConfigError."""
    if not url.startswith("s3://"):
        raise ConfigError(f"{url}: not an S3 URL; write s3://BUCKET or s3://BUCKET/PREFIX")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if prefix and not bucket:
        raise ConfigError(f"{url}: a prefix needs a bucket; write s3://BUCKET/PREFIX")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return Target(bucket, prefix)


def redacted(url: str) -> str:
    """Return *url* without its password, for messages and logs. A URL that is not quite one
    (a slash in the password) may hide it anywhere before the last @, or in the query."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("sqlite", "memory") or not colon:
        return url
    slashes = rest[: len(rest) - len(rest.lstrip("/"))]
    _, at, behind = rest.rpartition("@")
    shown = f"{slashes}***@{behind}" if at else rest
    shown = _IN_QUERY.sub(r"\1***", shown)
    return f"{scheme}:{shown}"


def has_secret(url: str) -> bool:
    """Whether *url* has a password in it."""
    scheme, _, rest = url.partition(":")
    if scheme in ("sqlite", "memory"):
        return False
    before = rest.rpartition("@")[0]
    return ":" in before or re.search(r"[?&]password=", rest) is not None


def refuse_shown_secret(option: str, url: str | None) -> None:
    """Raise ConfigError if *url*, given on the command line as *option*, has a password in it:
    `ps` shows that to everybody."""
    if url is not None and has_secret(url):
        raise ConfigError(
            f"{option} {redacted(url)}: everybody can read a password there (ps); give it in the"
            " environment or a file"
        )


@dataclass(frozen=True, slots=True)
class VFSOptions:
    """What the file system shows where an object's metadata says nothing."""

    target: Target = field(default_factory=Target)
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    file_mode: int = 0o644
    dir_mode: int = 0o755
    markers: bool = True  # mkdir puts an object "d/"; False: the mirror alone remembers it
    # What of an object's metadata is believed:
    symlinks: bool = True
    suid: bool = False  # setuid and setgid bits
    dev: bool = False  # devices
    # LIST requests a second that refreshes by `.sync` and xattr may cost in the long run; a
    # hundred times as many may come at once. 0: as many as are asked for
    sync_rate: float = 10.0
