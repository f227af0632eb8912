"""The record of a staging file, which says what its bytes are to become: the file NAME.json beside
NAME.data.

A record is believed only if it is what was written. It has a CRC-32 of itself and of its NAME, so
that it is not believed beside the bytes of another file. Former versions wrote records without a
format, whose sum does not cover NAME. Those are believed, so that an upgrade goes on with the files
that wait, and they and their changes keep that form. Where a writer was told that the bytes are
safe, the record *vouches* for them: it has a checksum of the bytes, and says how many lines of
changes there were. Before such bytes are changed, the record is written again without that
(staging.py).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mimicfs.errors import PosixError
from mimicfs.files import changes, disk
from mimicfs.files.sums import Sums

FORMAT = 2  # of the records that are written


class Record(NamedTuple):
    """The file is to replace s3://bucket/key, where that is the version *etag* ("": where there is
    none). The first *base* bytes of that version are those of the file, but for what was changed.
    *endpoint* is S3.endpoint. *uploads* are multipart uploads that were begun."""

    bucket: str = ""
    key: str = ""
    etag: str = ""
    base: int = 0
    partial: bool = False  # only what was changed is in the file
    appended: bool = False  # only at the end: the bytes from *base* on may go behind others
    endpoint: str = ""
    content_type: str = ""
    meta: Mapping[str, str] = {}
    headers: Mapping[str, Any] = {}
    uploads: tuple[str, ...] = ()
    sent: str = ""  # what S3 may have by now: the MD5 of a PUT, or the ETag that parts make
    sent_size: int = 0  # of that, bytes
    unchanged: bool = False  # the bytes, since that was sent
    zeros: str = ""  # the key of an object of zeros that holes were copied from
    closed: bool = False  # somebody was told that the bytes are safe
    noted: int = 0  # how many bytes of changes there were then
    checksum: int = 0  # of the bytes then; 0: they were changed since, or nobody was told
    created_ns: int = 0  # when the file got this name, and bytes that S3 does not have
    format: int = FORMAT  # 0: there was none, see above
    damaged: str = ""  # not "": why none of this is believed


_KINDS: dict[str, type] = {
    **dict.fromkeys(("bucket", "key", "etag", "endpoint", "content_type", "sent", "zeros"), str),
    **dict.fromkeys(("base", "sent_size", "noted", "checksum", "created_ns"), int),
    **dict.fromkeys(("partial", "appended", "unchanged", "closed"), bool),
    **dict.fromkeys(("meta", "headers"), dict),
    "uploads": list,
}


def write(data: Path, record: Record) -> None:
    """Put *record* beside *data*, in the place of the one that is there. If somebody was told that
    the bytes are safe, a power cut leaves one of the two. Raises PosixError."""
    write_text(data, text_of(data, record), synced=record.closed)


def text_of(data: Path, record: Record) -> bytes:
    """Return the text of *record* beside *data*."""
    said: dict[str, Any] = {
        name: value for name, value in zip(Record._fields, record, strict=True) if value
    }
    text = _said(said)
    return f'{text[:-1]}, "record_checksum": {_checksum(data, said, text)}}}'.encode()


def write_text(data: Path, text: bytes, *, synced: bool = False) -> None:
    """Put the record *text* beside *data*. *synced*: return once it would outlive a power cut.
    Raises PosixError."""
    stem = os.fspath(data).removesuffix(".data")  # pathlib would take half of the time of a record
    with disk.errors_of(data.with_suffix(".json")):
        disk.write_private(f"{stem}.new", text, synced=synced)
        os.rename(f"{stem}.new", f"{stem}.json")


def read(data: Path) -> Record | None:
    """Return the record beside *data*; None if it has none. A record that cannot be believed says
    so in `damaged`: the bytes are worth keeping all the same."""
    try:
        said: Any = json.loads(disk.text(data.with_suffix(".json")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as exc:
        return Record(damaged=f"its record cannot be read: {exc}")
    if not isinstance(said, dict):
        return Record(damaged="its record is not a JSON object")
    return _believed(data, said)


def _believed(data: Path, said: dict[str, Any]) -> Record:
    checksum = said.pop("record_checksum", None)
    known = {name: said[name] for name, kind in _KINDS.items() if type(said.get(name)) is kind}
    known["format"] = _form(said)
    if known["format"] not in (0, FORMAT) or checksum != _sum_of(data, said):
        # The text serves only for the name of the recovered file.
        return Record(key=known.get("key", ""), damaged="its record does not match its checksum")
    if "uploads" in known:
        known["uploads"] = tuple(map(str, known["uploads"]))
    return Record(**known)


def checked(record: Record, data: Path, fd: int) -> Record:
    """Return *record*; if the changes or the bytes of *data* cannot be believed, `damaged` says
    why."""
    if record.damaged:
        return record
    try:
        if record.partial:
            for _ in changes.read(data.with_suffix(".ranges"), record.format, record.noted):
                pass
        wrong = record.checksum not in (0, Sums().total(fd))
    except (OSError, PosixError) as exc:
        return record._replace(damaged=str(exc))
    return record._replace(damaged="its bytes do not match their checksum") if wrong else record


def tell_owner(data: Path, damaged: str) -> None:
    """Write into the record which bytes a partial file has, and what is wrong with it, for people
    to read. A record that cannot be read stays as it is."""
    path, ranges = data.with_suffix(".json"), data.with_suffix(".ranges")
    try:
        said = json.loads(disk.text(path))
        if not isinstance(said, dict):
            return
        written = list(changes.read(ranges, _form(said)))
    except (OSError, PosixError, ValueError, RecursionError):
        return
    more = {"written": written, "damaged": damaged}
    if any(more.values()):
        told = {**said, **{name: value for name, value in more.items() if value}}
        write_text(data, json.dumps(told).encode())
    ranges.unlink(missing_ok=True)


def _form(said: Mapping[str, Any]) -> int:
    form = said.get("format")
    return form if type(form) is int else 0


def _sum_of(data: Path, said: Mapping[str, Any]) -> int:
    return _checksum(data, said, _said(said))


def _checksum(data: Path, said: Mapping[str, Any], text: str) -> int:
    return zlib.crc32(text.encode(), changes.seed(data, _form(said)))


_said: Callable[[Mapping[str, Any]], str] = json.JSONEncoder(sort_keys=True).encode
