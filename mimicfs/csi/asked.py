"""A request to publish a volume, checked: any author of a pod may write an inline volume, and must
not reach the node through it.

    volume attribute   bucket, prefix, mountOptions (as after -o)
    secret             access_key_id, secret_access_key, session_token; or as AWS_... variables

So an option may say how S3 is asked and how a volume looks, but it names no file, socket or store
of the node; and an inline volume does not get the credentials of the driver.

Pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mimicfs.config.given import from_words, words
from mimicfs.config.options import BY_NAME, nearest
from mimicfs.config.values import parse_target
from mimicfs.csi.protocol import MODES
from mimicfs.csi.refusal import Code, Refusal
from mimicfs.errors import ConfigError
from mimicfs.human import printable

_ATTRIBUTES = ("bucket", "prefix", "mountOptions")
_OF_KUBERNETES = "csi.storage.k8s.io/"  # attributes that kubelet adds; they may hold tokens
_EPHEMERAL = f"{_OF_KUBERNETES}ephemeral"
_VARIABLES: Mapping[str, str] = {
    "accesskeyid": "AWS_ACCESS_KEY_ID",
    "secretaccesskey": "AWS_SECRET_ACCESS_KEY",
    "sessiontoken": "AWS_SESSION_TOKEN",
}
_KINDS = ("", "fuse", "mimicfs", "fuse.mimicfs")
_PATH_MAX = 4096
ALLOWED = frozenset(
    {"endpoint-url", "region", "provider", "addressing-style", "server-can", "dualstack"}
    | {"accelerate", "fips", "sign-request", "requester-pays", "expected-bucket-owner"}
    | {"connections", "attempts", "read-timeout", "request-timeout", "slow-request"}
    | {"download-limit", "upload-limit", "request-rate", "max-requests-per-day", "prices"}
    | {"ttl", "consistency", "sync-rate", "reconcile", "at", "versions", "read-only"}
    | {"allow-other", "uid", "gid", "umask", "file-mode", "dir-mode", "exec", "atime"}
    | {"symlinks", "metadata", "markers", "write-back", "staging-size", "part-size"}
    | {"storage-class", "sse", "kms-key-id", "acl", "cache-size", "read-memory", "workers"}
    | {"create-prefix", "log-level"}
)


@dataclass(frozen=True, slots=True)
class How:
    """All arguments but the secrets. Two requests with equal ones are the same request."""

    url: str
    words: tuple[str, ...]  # after -o
    read_only: bool  # in this directory
    mode: str
    ephemeral: bool


@dataclass(frozen=True, slots=True)
class AskedVolume:
    volume: str
    target: str
    how: How
    secrets: Mapping[str, str] = field(repr=False)  # variables for the environment


def publishing(request: Any) -> AskedVolume:
    """Return the volume for which a NodePublishVolumeRequest asks. Raises Refusal."""
    volume, target = named(request.volume_id, request.target_path, "target_path")
    if not request.HasField("volume_capability"):
        raise _wrong("volume_capability: missing")
    capability, context = request.volume_capability, dict(request.volume_context)
    mode = MODES.get(capability.access_mode.mode, "")
    if not mode:
        raise _wrong(f"access_mode {capability.access_mode.mode}: not known")
    if capability.HasField("block"):
        raise Refusal(Code.FAILED_PRECONDITION, "a bucket is no block device; volumeMode: File")
    if not capability.HasField("mount"):
        raise _wrong("volume_capability: neither block nor mount")
    if capability.mount.fs_type not in _KINDS:
        raise _wrong(f"fsType {capability.mount.fs_type}: leave it out; this is no disk")
    ephemeral = context.get(_EPHEMERAL, "").lower() == "true"
    chosen = _options(capability.mount, context)
    if mode.endswith("READER_ONLY"):
        chosen = (*chosen, "ro")
    secrets = _secrets(request.secrets)
    if ephemeral and not secrets and not _is_anonymous(chosen):
        raise _wrong(
            "an inline volume needs nodePublishSecretRef: it does not get the driver's credentials"
            " (a public bucket: mountOptions no_sign_request)"
        )
    how = How(_url(context), chosen, request.readonly, mode, ephemeral)
    return AskedVolume(volume, target, how, secrets)


def given(volume: str, path: str, what: str) -> tuple[str, str]:
    """Return the volume and the path that a request names, whatever they are. Raises Refusal if one
    is missing."""
    if not volume:
        raise _wrong("volume_id: missing")
    if not path:
        raise _wrong(f"{what}: missing")
    return volume, path


def named(volume: str, path: str, what: str) -> tuple[str, str]:
    """Return the volume that a request names, and the absolute path, at which something may be
    mounted. Raises Refusal."""
    given(volume, path, what)
    if not volume.isprintable():
        raise _wrong(f"volume_id {printable(volume)}: not printable")
    if len(os.fsencode(path)) >= _PATH_MAX or not path.isprintable():
        raise _wrong(f"{what}: too long, or not printable")
    # normpath leaves two slashes at the start as they are: one directory would have two records.
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise _wrong(f"{what} {path}: not an absolute path without . and ..")
    if path.startswith("//"):
        raise _wrong(f"{what} {path}: begins with two slashes")
    return volume, path


def _wrong(text: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, text)


def _url(context: Mapping[str, str]) -> str:
    for name in context:
        if name not in _ATTRIBUTES and not name.startswith(_OF_KUBERNETES):
            near = nearest(name, _ATTRIBUTES)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(_ATTRIBUTES)}"
            raise _wrong(f"volume attribute {printable(name)}: not known; {hint}")
    bucket, prefix = context.get("bucket", ""), context.get("prefix", "")
    if not bucket:
        raise _wrong("volume attribute bucket: missing")
    if "/" in bucket:
        raise _wrong(f"bucket {bucket}: has a /; the part of a bucket goes into prefix")
    if not bucket.isprintable():
        raise _wrong(f"bucket {printable(bucket)}: not printable")
    if "\0" in prefix:  # a key may contain it, an argument of a process may not
        raise _wrong(f"prefix {printable(prefix)}: has a NUL")
    try:
        return str(parse_target(f"s3://{bucket}/{prefix.lstrip('/')}"))
    except ConfigError as exc:
        raise _wrong(str(exc)) from exc


def _options(mount: Any, context: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words after -o. Raises Refusal."""
    chosen = words([*mount.mount_flags, context.get("mountOptions", "")])
    for word in chosen:
        if not word.isprintable():
            raise _wrong(f"mountOptions: {printable(word)}: not printable")
    try:
        said = from_words(chosen)
    except ConfigError as exc:
        raise _wrong(f"mountOptions: {exc}") from exc
    for word in chosen:
        # A second fence. Each word goes to the mount after an -o of its own (process.py), so that
        # none can reach into the next. If words are ever joined by commas, this fence still holds.
        if word.endswith("\\"):
            raise _wrong(f"mountOptions: {word}: ends in a backslash")
    for name in said:
        if name not in ALLOWED:
            word = BY_NAME[name].word
            raise _wrong(f"mountOptions: {word}: not for a volume: it is about the node")
    if mount.volume_mount_group:
        chosen += _of_group(mount.volume_mount_group, frozenset(said))
    return tuple(chosen)


def _of_group(group: str, said: frozenset[str]) -> list[str]:
    """Return the words that let *group* (fsGroup of the pod) write, unless options in *said* decide
    that."""
    if not group.isdecimal():
        raise _wrong(f"volume_mount_group {group}: not the number of a group")
    chosen = [] if "gid" in said else [f"gid={group}"]
    return chosen if said & {"umask", "file-mode", "dir-mode"} else [*chosen, "umask=002"]


def _is_anonymous(chosen: tuple[str, ...]) -> bool:
    given = from_words(chosen).get("sign-request")
    return given is not None and not given.value


def _secrets(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return *secrets* as variables. Raises Refusal, which tells only names."""
    found = {}
    for name, value in sorted(secrets.items(), key=lambda item: item[0].lower()):
        plain = name.lower().replace("_", "").replace("-", "").removeprefix("aws")
        if plain not in _VARIABLES:
            known = "access_key_id, secret_access_key, session_token"
            raise _wrong(f"secret {printable(name)}: not known; known are {known}")
        if not value.strip() or "\0" in value:
            raise _wrong(f"secret {name}: empty, or not text")
        if _VARIABLES[plain] in found:
            raise _wrong(f"secret {name}: there twice, in two spellings")
        found[_VARIABLES[plain]] = value.strip()
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if found and variable not in found:
            raise _wrong(f"secret {variable.removeprefix('AWS_').lower()}: missing")
    return found
