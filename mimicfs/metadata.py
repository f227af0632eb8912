"""POSIX attributes in the user metadata of an object: what is read, and what is written.

Written in the form of s3fs, which rclone (mtime) and geesefs (mode, uid, gid) read too:
`mode` is st_mode in decimal with the type bits, `uid` and `gid` are decimal, `mtime` is
SEC.NNNNNNNNN. Nine digits always: s3fs reads ".5" as 5 ns (research/peers.md, section 4).

What a bucket says about permissions is data from outside: setuid, setgid and the type of a
device are not taken over, and a value that makes no sense is as good as none.
"""

from __future__ import annotations

import mimetypes
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple

NS = 1_000_000_000
_ID_MAX = (1 << 32) - 2  # of uid_t and gid_t; the last number means "none"
_TIME = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9}))?$")


class Stored(NamedTuple):
    """What an object's metadata says; None where it says nothing."""

    permissions: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None


def read(meta: Mapping[str, str]) -> Stored:
    """Return what *meta* says about permissions, owner and time."""
    mode = _number(meta.get("mode"), 0xFFFF)
    return Stored(
        None if mode is None else mode & 0o1777,
        _number(meta.get("uid"), _ID_MAX),
        _number(meta.get("gid"), _ID_MAX),
        _time_ns(meta.get("mtime")),
    )


def written(
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    mtime_ns: int | None = None,
) -> dict[str, str]:
    """Return the metadata that says what is given. *mode* has the type bits."""
    meta = {"mode": mode, "uid": uid, "gid": gid}
    found = {name: str(value) for name, value in meta.items() if value is not None}
    if mtime_ns is not None:
        seconds, ns = divmod(mtime_ns, NS)
        found["mtime"] = f"{seconds}.{ns:09d}"
    return found


def content_type(name: str) -> str:
    """Return the Content-Type that the name of a file stands for."""
    return mimetypes.guess_type(name)[0] or "binary/octet-stream"


def file_mode(permissions: int) -> int:
    return stat.S_IFREG | permissions & 0o7777


def directory_mode(permissions: int) -> int:
    return stat.S_IFDIR | permissions & 0o7777


def _number(text: str | None, most: int) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    return min(int(text), most)


def _time_ns(text: str | None) -> int | None:
    match = _TIME.match(text or "")
    if match is None:
        return None
    seconds, fraction = match.groups()
    return int(seconds) * NS + int((fraction or "").ljust(9, "0"))
