"""The options of every part, as values. Nothing here reads the environment or a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from mimicfs.errors import ConfigError

MIB = 1 << 20


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


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How file data moves."""

    staging: Path  # 0700; bytes that S3 does not have yet
    block_size: int = 6 * MIB  # of one ranged GET when reading ahead
    reads_per_file: int = 10  # ranged GETs at once, when reading ahead
    requests_per_file: int = 8  # part uploads at once, or ranged GETs of what is to be changed
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


def parse_size(text: str) -> int:
    """Return how many bytes *text* means: 500, 64K, 512M, 20G, 1T (of 1024). Raises ConfigError."""
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), 1
    if number and number[-1] in "KMGT":
        unit = 1 << 10 * ("KMGT".index(number[-1]) + 1)
        number = number[:-1]
    try:
        size = int(float(number) * unit)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise ConfigError(f"{text}: not a size; write 500M, 20G, or a number of bytes")
    return size


def redacted(url: str) -> str:
    """Return *url* without its password, for messages and logs."""
    parts = urlsplit(url)
    if parts.password is None and "@" not in parts.netloc:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"***@{host}").geturl()


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
