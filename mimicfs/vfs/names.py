"""S3 key components and file names, both ways.

A key is cut at each "/"; the pieces are its components. A component is shown as it is, in UTF-8,
except for these, which the kernel cannot carry or which would give two things one name:

    component                                     shown as
    "" of a directory (the key has "//")          %empty
    "" of an object (a marker "d/" with content)  %object         inside the directory d
    "." and ".."                                  %dot, %dotdot
    NUL in it                                     % and NUL percent-coded, then %nul
    % and bytes percent-coded, then %raw          those bytes, which are not UTF-8
    an object beside a directory of its name      NAME%file
    .sync, and what looks like one of these       NAME%name
    .versions, where it is reserved               NAME%name
    what would be longer than 1,024 bytes so      bytes of no UTF-8 for what is escaped: FE for
                                                  a NUL, FD for the % of a last %file, %name,
                                                  %nul or %raw, FC behind it for %file

S3 keys are UTF-8: a name that is not (`caf\\xe9`) is stored as a component that ends in %raw, and
shown as it was given. No two components are shown alike: one that would read as an escape is
escaped itself. A name that reads as an escape of nothing (`x%name`) does not exist. No name of the
last row is also that of a component that ends in %raw: percent-coded it would be longer than a key.

An object is found as NAME%file even while nothing has its plain name, so that `rm -r` of both works
in any order; it is listed under one name only.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from mimicfs.entry import OWN
from mimicfs.errors import PosixError

CONTROL = b".sync"  # the control file, in every directory
VERSIONS = b".versions"  # with -o versions: the directory of earlier versions
NAME_MAX = 1024  # bytes; FUSE_NAME_MAX of the kernel's fs/fuse/fuse_i.h

_WHOLE = {"": "%empty", ".": "%dot", "..": "%dotdot"}
_WHOLE_BACK = {shown: component for component, shown in _WHOLE.items()}
_LOOKS_ESCAPED = frozenset({*_WHOLE_BACK, "%object"})
# Names that stand for something other than the key of that name.
RESERVED = frozenset({CONTROL.decode()})
WITH_VERSIONS = RESERVED | {VERSIONS.decode()}
_ENDINGS = ("%file", "%name", "%nul")
_LONG_ENDINGS = tuple(ending.encode() for ending in (*_ENDINGS, "%raw"))
_NUL, _PERCENT, _BESIDE = b"\xfe", b"\xfd", b"\xfc"
_MARKER_CONTENT = "%object"
_RAW = "%raw"
_SURROGATE = re.compile("[\udc80-\udcff]")  # the characters that surrogateescape makes of bytes


class Component(NamedTuple):
    """The meaning of a file name. *beside*: it means the object that has a directory of its name
    beside it (or the content of a marker), not the directory."""

    text: str
    beside: bool = False


def _raw(component: str) -> bytes | None:
    """Return the bytes that are not UTF-8 and for which *component* stands; None if it stands for
    itself."""
    if not component.endswith(_RAW):
        return None
    raw = unquote_to_bytes(component.removesuffix(_RAW))
    if b"\0" in raw or raw.endswith(b"%file"):  # a name with these is escaped otherwise
        return None
    return raw if _coded(raw) == component else None


def _coded(name: bytes) -> str | None:
    """Return the component for a *name* that is not UTF-8; None if it is."""
    try:
        name.decode()
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape").replace("%", "%25")
        return _SURROGATE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text) + _RAW
    return None


def file_name(component: str, beside: bool = False, reserved: frozenset[str] = RESERVED) -> bytes:
    """Return the file name of *component*. *beside*: it is an object, and a directory of the same
    name (for "": the directory that it marks) has the plain name. *reserved* are names as which no
    key is shown."""
    if not beside and component not in _WHOLE and "%" not in component and "\0" not in component:
        return (f"{component}%name" if component in reserved else component).encode()
    if beside and not component:
        return _MARKER_CONTENT.encode()
    raw = _raw(component)
    if raw is not None:
        return raw + (b"%file" if beside else b"")
    name = (_escaped(component, reserved) + ("%file" if beside else "")).encode()
    return name if len(name) <= NAME_MAX else _long_name(component.encode(), beside)


def plain_names(slots: list[str], reserved: frozenset[str] = RESERVED) -> list[bytes] | None:
    """Return the file names of *slots*, the keys in a directory, where each is the component as it
    is: all are objects, none is escaped, too long, or mimicfs' own. None: some may be not."""
    text = "\n".join(slots)
    if "/" in text or "%" in text or "\0" in text or OWN in text:
        return None
    if not (reserved.isdisjoint(slots) and _WHOLE.keys().isdisjoint(slots)):
        return None
    found = [slot.encode() for slot in slots]
    return found if max(map(len, found), default=0) <= NAME_MAX else None


def component(name: bytes, reserved: frozenset[str] = RESERVED) -> Component:
    """Return what *name* stands for. Raises PosixError EINVAL if it looks escaped and is the
    escape of nothing."""
    if b"%" not in name:  # nearly every name
        with suppress(UnicodeDecodeError):
            return Component(name.decode())
    coded = _coded(name.removesuffix(b"%file"))
    if coded is not None:
        short = len(coded.encode()) <= NAME_MAX
        found = Component(coded, name.endswith(b"%file")) if short else _read_long(name)
    else:
        found = _read(name.decode())
    if file_name(*found, reserved) != name:
        raise PosixError(errno.EINVAL, f"{name!r}: mimicfs uses names with this ending as escapes")
    return found


def _long_name(component: bytes, beside: bool) -> bytes:
    """Return the name of a component whose escaped form is too long for a name. The name has at
    most two bytes more than the component. That is room enough: a key beside "KEY/" has at most
    1,023."""
    if component.endswith(_LONG_ENDINGS):
        head, _, tail = component.rpartition(b"%")
        component = head + _PERCENT + tail
    name = component.replace(b"\0", _NUL)
    return name + _BESIDE * min(2, NAME_MAX - len(name)) if beside else name


def _read_long(name: bytes) -> Component:
    component = name.rstrip(_BESIDE)
    text = component.replace(_NUL, b"\0").replace(_PERCENT, b"%").decode(errors="replace")
    return Component(text, component != name)


def _read(text: str) -> Component:
    if text == _MARKER_CONTENT:
        return Component("", beside=True)
    if text.endswith("%file"):
        return Component(_unescaped(text.removesuffix("%file")), beside=True)
    return Component(_unescaped(text))


def _escaped(component: str, reserved: frozenset[str]) -> str:
    if component in _WHOLE:
        return _WHOLE[component]
    if "\0" in component:
        return component.replace("%", "%25").replace("\0", "%00") + "%nul"
    if component in _LOOKS_ESCAPED | reserved or component.endswith(_ENDINGS):
        return component + "%name"
    return component


def _unescaped(text: str) -> str:
    if text in _WHOLE_BACK:
        return _WHOLE_BACK[text]
    if text.endswith("%nul"):
        return text.removesuffix("%nul").replace("%00", "\0").replace("%25", "%")
    return text.removesuffix("%name")
