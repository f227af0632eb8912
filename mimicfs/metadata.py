"""POSIX attributes in the user metadata of an object: the forms that are read, and the one that is
written.

mimicfs writes the form of s3fs, which rclone (mtime) and geesefs (mode, uid, gid, rdev) read, too:
`mode` is st_mode in decimal with the type bits, `uid` and `gid` are decimal, `mtime`, `atime` and
`ctime` are SEC.NNNNNNNNN (nine digits always: s3fs reads ".5" as 5 ns), `xattr` is URL-encoded JSON
of base64. `rclone copy -M` uses the same names, with `mode` in octal. Where an object has none of
these, mimicfs reads the forms of others: AWS DataSync, FSx and File Gateway (`file-permissions`,
`file-owner`, `file-group`, `file-mtime`), GCS and gcsfuse (`goog-reserved-posix-*`,
`goog-reserved-file-mtime`, `gcsfuse_mtime`), s3cmd (`s3cmd-attrs`).
The formats were read from objects that those programs wrote.

The metadata of a bucket is data from outside: a value that makes no sense counts as none.
attributes.py decides which values are believed (setuid, devices, links).
"""

from __future__ import annotations

import base64
import json
import mimetypes
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from mimicfs.entry import NS, clamped_ns

SIZE_MAX = 2048  # bytes of all names and values (S3 user guide, "User-defined object metadata")
_MODE_MAX = 0xFFFF
_ID_MAX = (1 << 32) - 2  # the most of uid_t and gid_t; the last number means "none"
# The types of encoded bytes: the object does not have the type of the bytes inside.
_ENCODED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": "application/x-brotli",
    "compress": "application/x-compress",
}
_UNKNOWN = "binary/octet-stream"  # the type that S3 gives to an object without one
_TIME = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9}))?$")
_XATTR = "xattr"
_CTIME = "ctime"
WRITTEN = frozenset({"mode", "uid", "gid", "rdev", "mtime", "atime", _CTIME, _XATTR})
SPECIAL = frozenset({stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK})
_TYPES = SPECIAL | {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}


class StoredMetadata(NamedTuple):
    """The attributes that an object's metadata states; None where it states nothing. *permissions*
    are 12 bits, *kind* is a type of st_mode (0: none is stated)."""

    permissions: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    kind: int = 0
    atime_ns: int | None = None
    rdev: int = 0
    ctime_ns: int | None = None


_NOTHING = StoredMetadata()


def read(meta: Mapping[str, str]) -> StoredMetadata:
    """Return the type, permissions, owner and times in *meta*."""
    if not meta:
        return _NOTHING
    if _S3CMD in meta:
        meta = {**_s3cmd(meta[_S3CMD]), **meta}
    mode = _first(meta, _MODES)
    return StoredMetadata(
        None if mode is None else mode & 0o7777,
        _first(meta, _UIDS),
        _first(meta, _GIDS),
        _first(meta, _MTIMES),
        _kind(meta, mode),
        _time_ns(meta.get("atime")),
        _decimal(meta.get("rdev")) or 0,
        _time_ns(meta.get(_CTIME)),
    )


def written(
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    mtime_ns: int | None = None,
    atime_ns: int | None = None,
    rdev: int | None = None,
    ctime_ns: int | None = None,
) -> dict[str, str]:
    """Return metadata with the given values. *mode* has the type bits."""
    numbers = {"mode": mode, "uid": uid, "gid": gid, "rdev": rdev}
    found = {name: str(value) for name, value in numbers.items() if value is not None}
    for name, ns in (("mtime", mtime_ns), ("atime", atime_ns), (_CTIME, ctime_ns)):
        if ns is not None:
            seconds, rest = divmod(ns, NS)
            found[name] = f"{seconds}.{rest:09d}"
    return found


def without_ours(meta: Mapping[str, str]) -> dict[str, str]:
    """Return *meta* without the names that `written` and `with_xattrs` write."""
    return {name: value for name, value in meta.items() if name not in WRITTEN}


def of_new_bytes(meta: Mapping[str, str], mtime_ns: int) -> dict[str, str]:
    """Return the names to add to *meta* for bytes that were changed at *mtime_ns*."""
    ctime_ns = _time_ns(meta.get(_CTIME))
    return written(
        mtime_ns=mtime_ns, ctime_ns=None if ctime_ns is None else max(ctime_ns, mtime_ns)
    )


def same_but_times(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether *one* and *other* differ only in when something was changed."""
    return _timeless(one) == _timeless(other)


def _timeless(meta: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in meta.items() if name not in ("mtime", _CTIME)}


def is_there(meta: Mapping[str, str]) -> bool:
    """Whether *meta* has anything that is shown: type, permissions, owner, times, attributes."""
    return bool(meta) and (read(meta) != _NOTHING or bool(meta.get(_XATTR)))


def is_special(meta: Mapping[str, str]) -> bool:
    """Whether *meta* says that the object is no regular file."""
    return read(meta).kind not in (0, stat.S_IFREG, stat.S_IFDIR)


def size(meta: Mapping[str, str]) -> int:
    """Return how many of the SIZE_MAX bytes *meta* takes."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in meta.items())


def content_type(name: str) -> str:
    """Return the Content-Type that the name of a file suggests."""
    if "." not in name:
        return _UNKNOWN
    stem, *endings = name.rsplit(".", 2)  # the type depends only on these
    return _type_of_endings(".".join(("x" if stem.strip(".") else stem, *endings)))


@lru_cache(maxsize=1024)
def _type_of_endings(name: str) -> str:
    """The answers are remembered: a guess cost a tenth of opening a file."""
    found, encoding = mimetypes.guess_type(f"./{name}")  # a path: a name with ":" is no URL
    return _ENCODED.get(encoding or "") or found or _UNKNOWN


def file_mode(permissions: int) -> int:
    return stat.S_IFREG | permissions & 0o7777


def directory_mode(permissions: int) -> int:
    return stat.S_IFDIR | permissions & 0o7777


# Extended attributes


def xattrs(meta: Mapping[str, str]) -> dict[str, bytes]:
    """Return the extended attributes (`user.*`) in *meta*; none if they make no sense."""
    try:
        return known_xattrs(meta)
    except ValueError:
        return {}


def known_xattrs(meta: Mapping[str, str]) -> dict[str, bytes]:
    """Do the same. Raises ValueError if they make no sense: what is put in their place would take
    the place of what nobody knows."""
    text = meta.get(_XATTR)
    if not text:
        return {}
    try:
        found = json.loads(unquote(text, errors="strict"))
        return {name: base64.b64decode(value, validate=True) for name, value in found.items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as exc:
        raise ValueError(f"{_XATTR}: not what s3fs writes") from exc


def with_xattrs(meta: Mapping[str, str], attributes: Mapping[str, bytes]) -> dict[str, str]:
    """Return *meta* with *attributes*."""
    kept = {name: value for name, value in meta.items() if name != _XATTR}
    if not attributes:
        return kept
    coded = {name: base64.b64encode(value).decode() for name, value in attributes.items()}
    return {**kept, _XATTR: quote(json.dumps(coded, separators=(",", ":")), safe="")}


# The forms of others

_NumberReader = Callable[[str], int | None]
_S3CMD = "s3cmd-attrs"


def _first(meta: Mapping[str, str], readers: Mapping[str, _NumberReader]) -> int | None:
    """Return the first value that makes sense."""
    for name, reader in readers.items():
        text = meta.get(name)
        if text is not None and (value := reader(text)) is not None:
            return value
    return None


def _kind(meta: Mapping[str, str], mode: int | None) -> int:
    if meta.get("goog-reserved-file-is-symlink") == "true":
        return stat.S_IFLNK
    kind = stat.S_IFMT(mode or 0)
    return kind if kind in _TYPES else 0


def _decimal(text: str | None, most: int = 0xFFFF_FFFF) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    return min(int(text), most)


@lru_cache(1000)  # the files of a directory have few different ones
def _mode(text: str) -> int | None:
    """Decimal, as s3fs writes it; octal where it begins with 0, as s3fs reads it, or where only
    that has a type of file, as rclone writes it ("100644")."""
    decimal, octal = _decimal(text), _octal(text)
    if text[:1] == "0":
        return octal
    if decimal is not None and decimal <= _MODE_MAX and stat.S_IFMT(decimal) in {0, *_TYPES}:
        return decimal
    return octal if octal is not None and stat.S_IFMT(octal) in _TYPES else None


@lru_cache(1000)
def _id(text: str) -> int | None:
    return _decimal(text, _ID_MAX)


def _octal(text: str) -> int | None:
    if not text or len(text) > 8 or not set(text) <= set("01234567"):
        return None
    mode = int(text, 8)
    return mode if mode <= _MODE_MAX else None


def _time_ns(text: str | None) -> int | None:
    match = _TIME.match(text) if text is not None else None
    if match is None:
        return None
    seconds, fraction = match.groups()
    return int(seconds) * NS + int((fraction or "").ljust(9, "0"))


def _time_of_aws(text: str) -> int | None:
    """Nanoseconds with the suffix `ns`; without it, milliseconds."""
    digits = text.removesuffix("ns")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20:
        return None
    return int(digits) if text != digits else int(digits) * 1_000_000


def _iso_time(text: str) -> int | None:
    """RFC 3339 in UTC, with up to nine digits of fraction, of which six are read."""
    match = re.match(r"(.{19})(\.\d{1,6})?\d{0,3}Z$", text)
    try:
        at = datetime.fromisoformat(f"{match[1]}{match[2] or ''}+00:00") if match else None
    except ValueError:
        return None
    return None if at is None else clamped_ns(at)


def _s3cmd(text: str) -> dict[str, str]:
    """Return the values in `s3cmd-attrs`, which is name:value/name:value..., by the names of
    s3fs."""
    return dict(_s3cmd_pairs(text[:SIZE_MAX]))


def _s3cmd_pairs(text: str) -> Iterator[tuple[str, str]]:
    for pair in text.split("/"):
        name, _, value = pair.partition(":")
        if name in ("mode", "uid", "gid", "mtime"):
            yield name, value


# By the names of metadata: the first value that makes sense is believed.
_MODES: dict[str, _NumberReader] = {
    "mode": _mode,
    "file-permissions": _octal,
    "goog-reserved-posix-mode": _octal,
}
_UIDS: dict[str, _NumberReader] = {"uid": _id, "file-owner": _id, "goog-reserved-posix-uid": _id}
_GIDS: dict[str, _NumberReader] = {"gid": _id, "file-group": _id, "goog-reserved-posix-gid": _id}
_MTIMES: dict[str, _NumberReader] = {
    "mtime": _time_ns,
    "file-mtime": _time_of_aws,
    "goog-reserved-file-mtime": _time_ns,
    "gcsfuse_mtime": _iso_time,
}
