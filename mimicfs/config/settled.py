"""The settings in force, and the mount that they make. Flags go before words after -o, these before
the environment, the configuration file, the endpoint in the AWS configuration, and the defaults of
mimicfs, in this order."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicfs.config.aws import profile_of
from mimicfs.config.classes import doubt, doubt_of_key
from mimicfs.config.file import (
    ConfigFile,
    check_private,
    default_path,
    our_directory,
    read_config,
    secret_in,
)
from mimicfs.config.given import from_environment, mistyped
from mimicfs.config.limits import limit_text, parse_prices
from mimicfs.config.moments import parse_moment
from mimicfs.config.options import IN_BUCKETS, GivenValue, Kind, Values
from mimicfs.config.rules import KeyRule
from mimicfs.config.sizes import MIB
from mimicfs.config.values import (
    PART_SIZE,
    READ_MEMORY,
    WORKERS,
    BucketOptions,
    Buckets,
    S3Options,
    Target,
    VFSOptions,
    parse_capabilities,
)
from mimicfs.config.written import in_toml
from mimicfs.entry import DAY_S
from mimicfs.errors import ConfigError

if TYPE_CHECKING:
    from mimicfs.config.values import EventOptions, MountChoices, Settings

_EXTRAS = {"exec": "noexec", "atime": "noatime", "suid": "nosuid", "dev": "nodev"}
_SSE_C_BYTES = 32  # AES-256
_PLACES = {  # places whose name says which value it is
    "storage-class": ("--storage-class", "-o storage_class", "MIMICFS_STORAGE_CLASS"),
    "kms-key-id": ("--kms-key-id", "-o kms_key_id", "MIMICFS_KMS_KEY_ID"),
}
_OFF = ("suid", "dev")  # unless they are asked for
_NONE = GivenValue(None, "")
_ENCRYPTION = {"sse", "kms_key_id"}  # one means nothing without the other


@dataclass(frozen=True, slots=True)
class Settled:
    """Values that are in force. *given* are those of the command line and the environment; they
    hold for every bucket, whatever the file says of it."""

    given: Values
    file: ConfigFile
    state: Path
    cache: Path  # for data that S3 can give again
    beneath: Values = field(default_factory=dict)  # from the AWS configuration
    mistyped: tuple[str, ...] = ()  # variables that are nearly ours
    values: Values = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", {**self.beneath, **self.file.values, **self.given})

    def get(self, name: str, default: Any = None) -> Any:
        found = self.values.get(name)
        return default if found is None else found.value

    def path(self, name: str) -> Path | None:
        text = self.get(name)
        return Path(text).expanduser() if text else None

    def settings(self) -> Settings:
        """Return the settings that every command needs. Raises ConfigError."""
        from mimicfs.config.values import Settings

        return Settings(
            self._s3(),
            self.state,
            self.get("store", ""),
            self.get("namespace", ""),
            self._password(),
            self.path("cache-dir"),
            self.get("log-level", "warning"),
            self.path("log-file"),
            self.cache / "blocks",
            self.get("cache-size"),
            self.path("access-log"),
            self.get("metrics", ""),
            self.get("ui", False),
        )

    def choices(self, target: Target) -> MountChoices:
        """Return the choices for a mount of *target*. Raises ConfigError."""
        from mimicfs.config.values import EventOptions, MountChoices

        for name in _OFF:
            if self.get(name) and os.geteuid() != 0:
                origin = self.values[name].origin
                raise ConfigError(
                    f"{origin}: {name}: only root can trust setuid bits and devices of a bucket"
                )
        extra = [word for name, word in _EXTRAS.items() if not self.get(name, name not in _OFF)]
        extra += [name for name in _OFF if self.get(name)]
        at_ns = self._moment()
        return MountChoices(
            self.get("read-only", False) or at_ns is not None,
            self.get("allow-other", False),
            tuple(extra),
            self._vfs(target),
            self.get("clear-dead", True),
            self.get("write-back", False),
            self.get("staging-size", 0),
            self.get("nonempty", False),
            self.get("workers", WORKERS),
            self.get("read-memory", READ_MEMORY),
            self._part_size(),
            EventOptions() if at_ns is not None else self.events(),
            at_ns,
            self.get("replica", True),
            self.get("store-loss", "copy"),
            "mount" if at_ns is not None else self.get("locks", "mount"),
            self.get("create-prefix", False),
            self._small_files() if at_ns is None else 0,
        )

    def _moment(self) -> int | None:
        if "at" not in self.values:
            return None
        try:
            return parse_moment(self.get("at"), time.time_ns())
        except ConfigError as exc:
            raise ConfigError(f"{self.values['at'].origin}: {exc}") from exc

    def events(self) -> EventOptions:
        """Return how a mount learns of the changes of others."""
        from mimicfs.config.values import EventOptions

        source: str = self.get("events", "")
        reconcile_s = self.get("reconcile", float(DAY_S) if source else 0.0)
        token, kept_s = self.get("events-token", ""), self.get("events-kept", 0.0)
        return EventOptions(source, token, reconcile_s, kept_s)

    def _part_size(self) -> int:
        size: int = self.get("part-size", PART_SIZE)
        if not 5 * MIB <= size <= 5 << 30:
            raise ConfigError(f"{self.values['part-size'].origin}: S3 takes parts of 5M to 5G")
        return size

    def _small_files(self) -> int:
        size: int = self.get("small-files", 0)
        if size > MIB:
            origin = self.values["small-files"].origin
            raise ConfigError(
                f"{origin}: at most 1M; larger files are read ahead while they are read"
            )
        return size

    def of_bucket(self, bucket: str) -> Values:
        """Return the values in force for *bucket* ("": for a bucket that has no section)."""
        common = {name: value for name, value in self.given.items() if name in IN_BUCKETS}
        common.pop("read-only", None)  # on the command line it is about the mount
        return {**self.file.of_bucket(bucket), **common}

    def rules_of(self, bucket: str) -> tuple[KeyRule, ...]:
        """Return the rules by pattern that are in force for *bucket*, the strongest last. A value
        from the command line holds for every key."""
        names = {name.replace("-", "_") for name in self.given}
        if names & _ENCRYPTION:
            names |= _ENCRYPTION
        return tuple(rule.without(names) for rule in self.file.rules_of(bucket))

    def doubts(self) -> list[str]:
        """Return the probable mistakes: variables of the environment that are nearly ours, and
        storage classes and keys of KMS, which only S3 knows for certain; each with its place."""
        own = "endpoint-url" in self.values or self.get("provider", "aws") != "aws"
        judges = {"storage-class": doubt, "kms-key-id": doubt_of_key}
        return [*self.mistyped] + [
            f"{place}: {said}" if place in _PLACES[name] else f"{place}: {name}: {said}"
            for name, judge in judges.items()
            for place, value in self._written(name).items()
            if (said := judge(value, own=own))
        ]

    def _written(self, name: str) -> dict[str, str]:
        """Return the values of *name* that are in force for any bucket or key, by their places."""
        places = {}
        for bucket in ("", *self.file.named):
            given = self.of_bucket(bucket).get(name)
            if given is not None:
                places[given.origin] = given.value
            for rule in self.rules_of(bucket):
                places[rule.origin] = rule.said.get(name.replace("-", "_"), "")
        return places

    def buckets(self) -> Buckets:
        named = {name: self._bucket_options(name) for name in self.file.named}
        return Buckets(self._bucket_options(""), named)

    def _bucket_options(self, bucket: str) -> BucketOptions:
        options = replace(_bucket_options(self.of_bucket(bucket)), rules=self.rules_of(bucket))
        if "at" in self.values:  # the past does not change
            options = replace(options, ttl_s=0.0)
        for rule in options.rules:
            if options.sse_c_key and rule.said.get("sse"):
                raise ConfigError(f"{rule.origin}: sse: cannot be combined with sse-c-key-file")
        return options

    def _s3(self) -> S3Options:
        credentials = self.path("credentials-file")
        if credentials is not None:
            try:
                check_private(credentials, os.stat(credentials))
                if not os.access(credentials, os.R_OK, effective_ids=True):  # botocore tells nobody
                    raise ConfigError(f"{credentials}: no permission to read it; chown it")
            except OSError as exc:
                raise ConfigError(f"{credentials}: {exc.strerror}") from exc
        default = S3Options()
        return S3Options(
            self.get("endpoint-url"),
            self.get("region"),
            self.get("profile"),
            self.get("sign-request", True),
            connections=self.get("connections", default.connections),
            read_timeout_s=self.get("read-timeout", default.read_timeout_s),
            request_timeout_s=self.get("request-timeout", default.request_timeout_s),
            attempts=self.get("attempts", default.attempts),
            slow_s=self.get("slow-request", default.slow_s),
            credentials_file=credentials,
            credentials_first="credentials-file" in self.given,
            buckets=self.buckets(),
            addressing=self.get("addressing-style", "auto").replace("auto", ""),
            provider=self.get("provider", ""),
            capabilities=parse_capabilities(self.get("server-can", "")),
            bucket_owner=self.get("expected-bucket-owner", ""),
            dualstack=self.get("dualstack", False),
            accelerate=self.get("accelerate", False),
            fips=self.get("fips", False),
            download_limit=self.get("download-limit", ()),
            upload_limit=self.get("upload-limit", ()),
            requests_per_day=int(self.get("max-requests-per-day", 0)),
            prices=parse_prices(self.get("prices", "")),
        )

    def _password(self) -> str | None:
        file = self.path("store-password-file")
        password: str | None = self.get("store-password")
        return secret_in(file) if password is None and file is not None else password

    def _vfs(self, target: Target) -> VFSOptions:
        umask = self.get("umask")
        defaults = VFSOptions()
        return VFSOptions(
            target,
            self.get("uid", defaults.uid),
            self.get("gid", defaults.gid),
            self.get("file-mode", defaults.file_mode if umask is None else 0o666 & ~umask),
            self.get("dir-mode", defaults.dir_mode if umask is None else 0o777 & ~umask),
            markers=self.get("markers", True),
            symlinks=self.get("symlinks", True),
            suid=self.get("suid", False),
            dev=self.get("dev", False),
            sync_rate=self.get("sync-rate", defaults.sync_rate),
            ask_at_open=self.get("consistency") == "open" and "at" not in self.values,
            buckets=self.buckets(),
            versions=self.get("versions", False),
        )


def settle(flags: Values, environ: Mapping[str, str], words: Values | None = None) -> Settled:
    """Return the settings in force, by *flags*, the *words* after -o, and *environ*. Reads the
    configuration file, and the endpoints in the AWS configuration. Raises ConfigError."""
    given = {**from_environment(environ), **(words or {}), **flags}
    named = given.pop("config", None)
    path = default_path(environ) if named is None else Path(named.value).expanduser()
    file = read_config(path, needed=named is not None)
    chosen = {name: str(value.value) for name, value in {**file.values, **given}.items()}
    aws = profile_of(environ, chosen.get("profile", ""), chosen.get("credentials-file", ""))
    if aws.ignores and given.get("endpoint-url", _NONE).origin.startswith("AWS_"):
        del given["endpoint-url"]
    state = our_directory(environ, "XDG_STATE_HOME", "~/.local/state")
    cache = our_directory(environ, "XDG_CACHE_HOME", "~/.cache")
    return Settled(given, file, state, cache, aws.endpoint, tuple(mistyped(environ)))


def plain(name: str, given: GivenValue) -> str | bool | int | float:
    """Return a value as a configuration file may have it, without secrets."""
    from mimicfs.config.options import BY_NAME, URLS
    from mimicfs.config.values import redacted

    value, option = given.value, BY_NAME.get(name) or IN_BUCKETS[name]
    if option.kind is Kind.SECRET:
        return "***"
    if option.kind is Kind.OCTAL:
        return f"{value:03o}"
    if option.kind is Kind.LIMIT:
        return limit_text(value)
    if isinstance(value, bool | int | float):
        return value
    return redacted(value) if name in URLS else str(value)


def shown(name: str, given: GivenValue) -> str:
    """Return a value as `config show` prints it: in TOML, without secrets."""
    return in_toml(plain(name, given))


def _sse_c_key(path: Path) -> bytes:
    """Return the key of SSE-C that the file at *path* holds: 32 bytes, or their base64."""
    text = secret_in(path).encode("utf-8", "surrogateescape")
    key = text
    if len(key) != _SSE_C_BYTES:
        try:
            from base64 import b64decode

            key = b64decode(text.strip(), validate=True)
        except ValueError:
            key = b""
    if len(key) != _SSE_C_BYTES:
        raise ConfigError(f"{path}: not a key of {_SSE_C_BYTES} bytes, nor its base64")
    return key


def _bucket_options(values: Values) -> BucketOptions:
    said = {name.replace("-", "_"): given.value for name, given in values.items()}
    if "ttl" in said:
        said["ttl_s"] = said.pop("ttl")
    prefix = said.get("prefix", "")
    if prefix:
        said["prefix"] = prefix.lstrip("/").rstrip("/") + "/"
    if "sse_c_key_file" in said:
        said["sse_c_key"] = _sse_c_key(Path(said.pop("sse_c_key_file")).expanduser())
        if said.get("sse"):
            raise ConfigError(
                f"{values['sse'].origin}: sse: cannot be combined with sse-c-key-file"
            )
    if said.get("kms_key_id") and not said.get("sse"):
        said["sse"] = "aws:kms"
    if said.get("kms_key_id") and said["sse"] == "AES256":
        raise ConfigError(f"{values['kms-key-id'].origin}: kms-key-id: needs sse = aws:kms")
    return BucketOptions(**said)
