"""The options of every part, as values. Nothing here reads the environment or a file."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mimicfs.config.limits import Limit, Prices
from mimicfs.config.masking import NAMES, SHOWN
from mimicfs.config.rules import KeyRule, Stored
from mimicfs.config.sizes import MIB
from mimicfs.errors import ConfigError, PosixError

READ_MEMORY = 48 * MIB  # bytes that all files together may read ahead and hold
PART_SIZE = 16 * MIB  # of a multipart upload
ANSWER_S = 5.0  # how long a mount may take to answer a command
WORKERS = 16  # requests of the kernel that may wait for S3; four times as many if for data
# When S3 is asked for the mode, owner, times and type that are stored with an object: if other
# objects in its directory have such; before the object is shown; never. "no": stored ones are
# ignored, and none are stored.
METADATA = ("auto", "always", "never", "no")
# Secrets in the query of a URL, in the form that redis-py takes.
_IN_QUERY = rf"(?i)([?&][\w.-]*?(?:username|{NAMES})=)[^&#]*"


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """The options of one bucket."""

    read_only: bool = False
    storage_class: str = ""  # of written objects; "": S3's default
    sse: str = ""  # how S3 encrypts them; "": as the bucket says
    kms_key_id: str = ""
    acl: str = ""
    requester_pays: bool = False
    prefix: str = ""  # "" or ending in "/": the part of the bucket that is shown
    never_sync: bool = False  # never list the bucket as a whole
    ttl_s: float = 0  # after so long, a visit lists a directory again; 0: never
    metadata: str = "auto"  # when S3 is asked for metadata that is stored with objects (METADATA)
    sse_c_key: bytes = field(default=b"", repr=False)  # the key of SSE-C; b"": none
    rules: tuple[KeyRule, ...] = ()  # for keys by pattern; a later rule goes before an earlier one
    request_rate: float = 0.0  # requests a second; 0: any number

    def stored(self, key: str) -> Stored:
        """Return the settings with which *key* is stored, unless its writer says otherwise."""
        stored = Stored(self.storage_class, self.sse, self.kms_key_id)
        for rule in self.rules:
            if rule.matches(key):
                stored = stored._replace(**rule.said)
        return stored

    @property
    def keeps_metadata(self) -> bool:
        """Whether mode, owner, times and type are kept with objects, and believed."""
        return self.metadata != "no"


@dataclass(frozen=True, slots=True)
class Buckets:
    """The options of each bucket. *default* holds for a bucket that is not *named*."""

    default: BucketOptions = BucketOptions()
    named: Mapping[str, BucketOptions] = field(default_factory=dict)

    def of(self, bucket: str) -> BucketOptions:
        return self.named.get(bucket, self.default)

    def prefixes(self) -> dict[str, str]:
        """Return, for each bucket that is not shown whole, the part that is shown."""
        return {name: options.prefix for name, options in self.named.items() if options.prefix}

    def shortest_ttl_s(self, bucket: str = "") -> float:
        """Return the shortest time-to-live: of *bucket*, or of all; 0 if none has one."""
        every = [self.of(bucket)] if bucket else [self.default, *self.named.values()]
        return min((options.ttl_s for options in every if options.ttl_s), default=0)

    def check_writable(self, bucket: str) -> None:
        """Raise PosixError EROFS if nothing in *bucket* may be changed."""
        if self.of(bucket).read_only:
            about = f"the configuration makes s3://{bucket} read-only"
            raise PosixError(errno.EROFS, about)


# A setting in which servers differ: the words for each, the usual one first.
CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "checksum": ("crc32", "md5", "none"),  # what a PUT carries
    "delete-many": ("yes", "no"),  # DeleteObjects
    "delete-etags": ("unknown", "yes", "no"),  # whether it looks at the ETags of DeleteObjects
    "copy-parts": ("yes", "no"),  # UploadPartCopy
    "copy-etags": ("unknown", "yes", "no"),  # whether only a copy of another version is refused
    "copy-tags": ("unknown", "yes", "no"),  # whether a copy with other metadata has the tags said
    "upload-tags": ("unknown", "yes", "no"),  # whether an upload in parts has the tags said
    "copy-markers": ("yes", "no"),  # CopyObject of a directory's marker
    "markers": ("unknown", "yes", "no"),  # whether an object `d/` is another than `d`
    "list-v2": ("yes", "no"),  # ListObjectsV2
    "encoding-type": ("yes", "no"),  # a listing may be asked for with encoded keys
    "equal-parts": ("no", "yes"),  # whether those of an upload must be of one size
    "addressing": ("path", "virtual"),  # where there is an endpoint URL, and nothing is said
}
ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)
PROVIDERS = (
    "aws",
    "b2",
    "ceph",
    "cos",
    "digitalocean",
    "gcs",
    "minio",
    "oss",
    "r2",
    "swift",
    "wasabi",
)


def parse_capabilities(text: str) -> dict[str, str]:
    """Return the capabilities that `NAME=VALUE NAME=VALUE` gives a server. Raises ConfigError."""
    said = {}
    for word in text.replace(",", " ").split():
        name, _, value = word.partition("=")
        known = CAPABILITIES.get(name)
        if known is None:
            raise ConfigError(f"{word}: no such capability; known are {', '.join(CAPABILITIES)}")
        if value not in known:
            raise ConfigError(f"{word}: {name} is one of {', '.join(known)}")
        said[name] = value
    return said


@dataclass(frozen=True, slots=True)
class S3Options:
    """The way to S3. None leaves the choice to boto3 (environment, profile, instance)."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    sign: bool = True  # False: anonymous requests
    connections: int = 32  # the most requests at once
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0  # without one byte arriving
    request_timeout_s: float = 300.0  # for a whole request, beside the time of its bytes at a crawl
    attempts: int = 5  # in all, with backoff and jitter between
    credentials_file: Path | None = None  # instead of ~/.aws/credentials
    credentials_first: bool = False  # that file goes before keys in the environment
    buckets: Buckets = Buckets()
    slow_s: float = 10.0  # a request that takes so long is logged; 0: none is
    addressing: str = ""  # "path" or "virtual"; "": as the AWS configuration says, or by trial
    provider: str = ""  # one of PROVIDERS
    capabilities: Mapping[str, str] = field(default_factory=dict)  # those that the user has stated
    bucket_owner: str = ""  # the account to which the buckets must belong
    dualstack: bool = False
    accelerate: bool = False
    fips: bool = False
    download_limit: Limit = ()  # bytes a second, by the time of day; (): any number
    upload_limit: Limit = ()
    requests_per_day: int = 0  # 0: any number
    prices: Prices | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that every command needs. *state* is the directory of stores, logs, staging."""

    s3: S3Options
    state: Path
    store: str = ""  # "": a SQLite file in *state*, one for each endpoint and account
    namespace: str = ""
    store_password: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None  # of `staging` and `blocks`; None: *state*/staging, no blocks
    log_level: str = "info"
    log_file: Path | None = None
    blocks: Path | None = None  # where blocks are kept without a *cache_dir*
    cache_size: int | None = None  # bytes of blocks; 0: none are kept; None: a share of the disk
    access_log: Path | None = None  # where each request of a program is written
    metrics: str = ""  # where Prometheus may ask; "": nowhere
    ui: bool = False  # whether there is a web page, too


@dataclass(frozen=True, slots=True)
class FileOptions:
    """The way of file data."""

    staging: Path  # 0700; bytes that S3 does not have yet
    block_size: int = 6 * MIB  # of one ranged GET when reading ahead
    reads_per_file: int = 10  # ranged GETs at once, when reading ahead
    requests_per_file: int = 8  # part uploads at once, or ranged GETs for bytes that will change
    part_size: int = PART_SIZE  # smallest part of a multipart upload that we start
    read_memory: int = READ_MEMORY
    write_back: bool = False  # close(2) returns once the bytes are journalled
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a mount or a command: everything, a bucket, or a prefix of one."""

    bucket: str = ""  # "": all buckets of the account
    prefix: str = ""  # "" or ending in "/"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.bucket else "s3://"


# Access points, also of several regions, of Outposts and of Object Lambda. In the form with colons
# a name has no slash, as no bucket has.
_ARN = (
    r"(arn:[\w-]+:s3[\w-]*:[\w-]*:\d*:)((?:outpost[:/][\w-]+[:/])?accesspoint)[:/]([\w.-]+)(?:/|$)"
)


# As in botocore. A text that is no name may be anything, such as a presigned URL: no error repeats
# it.
_NAME = r"[A-Za-z0-9._-]{1,255}"
_NO_NAME = (
    "what follows s3:// is not the name of a bucket (letters, digits, '.', '-' and '_');"
    " write s3://BUCKET or s3://BUCKET/PREFIX, without a query"
)


_OBJECT_LAMBDA = (
    "an access point of Object Lambda changes what is read, so that its objects have other sizes"
    " and versions than it lists; use the access point below it, or the bucket"
)


def _split(name: str) -> tuple[str, str]:
    """Return the bucket, or the ARN of the access point, and the text behind it."""
    found = re.match(_ARN, name) if name.startswith("arn:") else None
    if found is None:
        bucket, _, prefix = name.partition("/")
        return bucket, prefix
    start, kind, point = found.groups()
    return f"{start}{kind.replace('/', ':')}:{point}", name[found.end() :]


def bucket_named(name: str) -> str:
    """Return the bucket that *name* means; for an access point, its ARN in the form of a Target.
    Raises ConfigError."""
    bucket, prefix = _split(name)
    if prefix or not (re.fullmatch(_NAME, bucket) or re.fullmatch(_ARN, bucket)):
        raise ConfigError(_NO_NAME)
    return bucket


def parse_target(url: str) -> Target:
    """Return the target that an s3:// URL names. Raises ConfigError."""
    if not url.startswith("s3://"):
        raise ConfigError(f"{redacted(url)}: not an S3 URL; write {redacted(_meant(url))}")
    bucket, prefix = _split(url.removeprefix("s3://"))
    if prefix and not bucket:
        raise ConfigError(f"{url}: a prefix needs a bucket; write s3://BUCKET/PREFIX")
    if bucket and not (re.fullmatch(_NAME, bucket) or re.fullmatch(_ARN, bucket)):
        raise ConfigError(_NO_NAME)
    if ":s3-object-lambda:" in bucket or bucket.endswith("--ol-s3"):
        raise ConfigError(f"s3://{bucket}: {_OBJECT_LAMBDA}")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return Target(bucket, prefix)


# What people write instead of s3://BUCKET/PREFIX: s3fs' BUCKET:/PREFIX, an ARN, the name alone; the
# addresses of AWS in both styles.
_BUCKET = r"(?P<bucket>[A-Za-z0-9][\w.-]+[A-Za-z0-9])"
_LIKELY = (
    rf"(?!(?![sS]3:)[\w+.-]+://)(?:[sS]3:/*|arn:[\w-]+:s3:::)?{_BUCKET}(?::?/(?P<prefix>.*))?",
    rf"https?://s3[\w.-]*\.amazonaws\.com(?:\.cn)?/{_BUCKET}(?:/(?P<prefix>.*))?",
    rf"https?://{_BUCKET}\.s3[\w.-]*\.amazonaws\.com(?:\.cn)?(?:/(?P<prefix>.*))?",
)


def _meant(url: str) -> str:
    """Return what was probably meant by *url*, which is no URL of S3."""
    for pattern in _LIKELY:
        found = re.fullmatch(pattern, url)
        if found is not None:
            return f"s3://{found['bucket']}" + (f"/{found['prefix']}" if found["prefix"] else "")
    if url.startswith("gs://"):
        return f"s3://{url[5:]}, with --endpoint-url https://storage.googleapis.com"
    if url.startswith(("http://", "https://")):
        return "s3://BUCKET, and name the server with --endpoint-url"
    return "s3://BUCKET or s3://BUCKET/PREFIX"


def parse_object(url: str) -> tuple[str, str]:
    """Return the bucket and the key that an s3:// URL names; either may be "". Raises
    ConfigError."""
    target = parse_target(url)
    ours = target.prefix and not url.endswith("/")  # the last "/" is parse_target's
    return target.bucket, target.prefix[:-1] if ours else target.prefix


def redacted(url: str) -> str:
    """Return *url* without its password, for messages and logs. A URL that is not quite one
    (a slash in the password) may hide it anywhere before the last @, or in the query."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("sqlite", "memory") or not colon:
        return url
    slashes = rest[: len(rest) - len(rest.lstrip("/"))]
    _, at, behind = rest.rpartition("@")
    shown = f"{slashes}{SHOWN}@{behind}" if at else rest
    shown = re.sub(_IN_QUERY, rf"\1{SHOWN}", shown)
    return f"{scheme}:{shown}"


def has_secret(url: str) -> bool:
    """Whether *url* has a password in it."""
    scheme, _, rest = url.partition(":")
    if scheme in ("sqlite", "memory"):
        return False
    before = rest.rpartition("@")[0]
    return ":" in before or re.search(_IN_QUERY, rest) is not None


def refuse_shown_secret(option: str, url: str | None) -> None:
    """Raise ConfigError if *url*, given on the command line as *option*, has a password in it:
    `ps` shows that to everybody."""
    if url is not None and has_secret(url):
        raise ConfigError(
            f"{option} {redacted(url)}: every user can see a password there (ps); put it into"
            " the environment or a file"
        )


@dataclass(frozen=True, slots=True)
class VFSOptions:
    """The options of the file system, among them the attributes that it shows where the metadata of
    an object says nothing."""

    target: Target = field(default_factory=Target)
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    file_mode: int = 0o644
    dir_mode: int = 0o755
    markers: bool = True  # mkdir puts an object "d/"; False: only the mirror remembers it
    ask_at_open: bool = False  # one HEAD for each open of a file
    # The parts of an object's metadata that are believed:
    symlinks: bool = True
    suid: bool = False  # setuid and setgid bits
    dev: bool = False  # devices
    buckets: Buckets = Buckets()
    versions: bool = False  # each directory has `.versions`
    # LIST requests a second that refreshes by `.sync` and xattr may cost in the long run; a
    # hundred times as many may come at once. 0: as many as are asked for
    sync_rate: float = 10.0


@dataclass(frozen=True, slots=True)
class EventOptions:
    """The way in which a mount learns of the changes of others. *source* is the place where S3
    tells of them; "": nowhere. *reconcile_s* is the period in which everything that is known is
    listed again; 0: never. *kept_s* is how long the server of a webhook keeps messages that it
    could not deliver."""

    source: str = ""
    token: str = ""
    reconcile_s: float = 0.0
    kept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MountChoices:
    """The choices of a user about a mount."""

    read_only: bool = False
    allow_other: bool = False
    extra: tuple[str, ...] = ("nosuid", "nodev")
    vfs: VFSOptions = field(default_factory=VFSOptions)
    clear_dead: bool = True  # unmount a dead mount of ours at the mount point
    write_back: bool = False
    staging_size: int = 0  # bytes; 0: until little of the disk is free
    nonempty: bool = False
    workers: int = WORKERS
    read_memory: int = READ_MEMORY
    part_size: int = PART_SIZE
    events: EventOptions = EventOptions()
    at_ns: int | None = None  # the moment that is shown, read-only; None: the present
    replica: bool = True  # a store in Redis is copied, and read from the copy
    store_loss: str = "copy"  # reads while the store is away: "copy", from its copy, or "eio"
    locks: str = "mount"  # the scope of locks of files: "mount", or "shared" by all of the store
    create_prefix: bool = False  # the mounted prefix need not exist
    small_files: int = 0  # bytes: a listing of a directory fetches files up to this size; 0: none
