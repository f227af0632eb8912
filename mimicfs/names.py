"""S3 key components and file names, both ways.

A key is cut at each "/"; what lies between is a component. A component is shown as it is,
in UTF-8, with these exceptions, because the kernel cannot carry it or because two things
would have one name:

    component                                     shown as
    "" of a directory (the key has "//")          %empty
    "" of an object (a marker "d/" with content)  %object         inside the directory d
    "." and ".."                                  %dot, %dotdot
    NUL in it                                     % and NUL percent-coded, then %nul
    an object beside a directory of its name      NAME%file
    .sync, and what looks like one of these       NAME%name

The escaped form of a name never equals another name's form: what would read as an escape
is escaped itself. A name that reads as an escape of nothing (`x%name`) does not exist. An object
is found as NAME%file also while nothing has its plain name, so that `rm -r` of both works in
any order; it is listed under one name.
Pure functions; any thread may call them.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from mimicfs.errors import PosixError

CONTROL = b".sync"  # the control file, in every directory
NAME_MAX = 1024  # bytes; FUSE_NAME_MAX of the kernel's fs/fuse/fuse_i.h

_WHOLE = {"": "%empty", ".": "%dot", "..": "%dotdot"}
_WHOLE_BACK = {shown: component for component, shown in _WHOLE.items()}
_LOOKS_ESCAPED = frozenset({*_WHOLE_BACK, "%object", CONTROL.decode()})
_ENDINGS = ("%file", "%name", "%nul")
_MARKER_CONTENT = "%object"


class Component(NamedTuple):
    """What a file name stands for. *beside*: the object that has a directory of its name
    beside it (or a marker's content), and no directory."""

    text: str
    beside: bool = False


def file_name(component: str, beside: bool = False) -> bytes:
    """Return the file name of *component*. *beside*: it is an object, and a directory of the
    same name (for "": the directory that it marks) has the plain name."""
    if not beside and component not in _WHOLE and "%" not in component and "\0" not in component:
        return CONTROL + b"%name" if component == ".sync" else component.encode()
    if beside and not component:
        return _MARKER_CONTENT.encode()
    return (_escaped(component) + ("%file" if beside else "")).encode()


def component(name: bytes) -> Component:
    """Return what *name* stands for. Raises PosixError: EILSEQ if it is not UTF-8 (S3 keys
    are), EINVAL if it looks escaped and is the escape of nothing."""
    try:
        text = name.decode()
    except UnicodeDecodeError as exc:
        raise PosixError(errno.EILSEQ, repr(name)) from exc
    if "%" not in text:
        return Component(text)
    found = _read(text)
    if file_name(*found) != name:
        raise PosixError(errno.EINVAL, f"{text!r}: names ending so are escapes of mimicfs")
    return found


def _read(text: str) -> Component:
    if text == _MARKER_CONTENT:
        return Component("", beside=True)
    if text.endswith("%file"):
        return Component(_unescaped(text.removesuffix("%file")), beside=True)
    return Component(_unescaped(text))


def _escaped(component: str) -> str:
    if component in _WHOLE:
        return _WHOLE[component]
    if "\0" in component:
        return component.replace("%", "%25").replace("\0", "%00") + "%nul"
    if component in _LOOKS_ESCAPED or component.endswith(_ENDINGS):
        return component + "%name"
    return component


def _unescaped(text: str) -> str:
    if text in _WHOLE_BACK:
        return _WHOLE_BACK[text]
    if text.endswith("%nul"):
        return text.removesuffix("%nul").replace("%00", "\0").replace("%25", "%")
    return text.removesuffix("%name")
