"""The checksums that S3 sends with an object, with a check of its bytes, and the checksums that are
sent to S3.

S3 sends one with the answer to a GET of a whole object, if it is asked to. It has none for a range,
unless that is exactly a part of the upload. Its answer for an object that was uploaded in parts may
be a checksum of their checksums (COMPOSITE), which says nothing here.

CRC-64/NVME, which S3 computes for uploads without a checksum, and CRC-32C are checked only where
`awscrt` is installed (the extra `crt`): in Python they take longer than the transfer.

An upload sends a header: CRC-32 (zlib, 1 GB/s), or MD5 for servers that know no other. botocore
would put it behind the body (aws-chunked), which breaks servers that do not know that.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

log = logging.getLogger(__name__)

_PIECE = 1 << 20
_PREFIX = "x-amz-checksum-"


# By the end of the name of the header.
_FUNCTIONS: dict[str, Callable[[memoryview], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
}


# The checksums that only awscrt computes, and their bytes.
_OF_AWSCRT = {"crc32c": 4, "crc64nvme": 8}


@cache
def _function(name: str) -> Callable[[memoryview], bytes] | None:
    """Return what computes the checksum *name*; None: nothing here does. Only a checksum of awscrt
    loads that, which takes 40 ms and 5 MiB: few servers send one."""
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    found = getattr(_awscrt(), name, None)
    return None if found is None else partial(_in_bytes, found, _OF_AWSCRT[name])


def _in_bytes(function: Callable[[memoryview], int], size: int, data: memoryview) -> bytes:
    return function(data).to_bytes(size, "big")


@cache
def crc32c() -> Callable[[memoryview], int] | None:
    """Return what computes CRC-32C by the processor's own instructions, many times as fast as
    zlib's CRC-32; None: there is no awscrt that has it."""
    return getattr(_awscrt(), "crc32c", None)


@cache
def _awscrt() -> Any:
    """Return the checksums of awscrt, an old one of which lacks some; None: it is not installed, or
    cannot be imported, as while it is being replaced. What is read must not fail for that."""
    try:
        from awscrt import checksums
    except ImportError:
        return None
    except Exception:
        log.warning("awscrt cannot be imported, and checks nothing", exc_info=True)
        return None
    return checksums


def sent(kind: str, body: Any) -> dict[str, str]:
    """Return the parameters of a PutObject or UploadPart that protect *body*: bytes, or a file from
    its place on, which is the same afterwards. *kind* is "crc32", "md5" or "none"."""
    if kind == "crc32":
        return {"ChecksumAlgorithm": "CRC32", "ChecksumCRC32": crc32_of(body)}
    return {"ContentMD5": md5_of(body)} if kind == "md5" else {}


def crc32_of(body: Any) -> str:
    crc = 0
    for piece in _pieces(body):
        crc = zlib.crc32(piece, crc)
    return b64encode(crc.to_bytes(4, "big")).decode()


def md5_of(body: Any) -> str:
    found = hashlib.md5(usedforsecurity=False)
    for piece in _pieces(body):
        found.update(piece)
    return b64encode(found.digest()).decode()


def may_be(etag: str, body: Any) -> bool:
    """Whether *etag* may be that of *body*: if it looks like an MD5, it must be that of the
    body."""
    looks = len(etag) == 32 and all(letter in "0123456789abcdef" for letter in etag)
    return not looks or b64decode(md5_of(body)).hex() == etag


def _digest(said: str) -> bytes:
    """Return the bytes of a checksum; none if it is not one (or of parts: "...-2")."""
    try:
        return b64decode(said, validate=True)
    except ValueError:
        return b""


def _pieces(body: Any) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    place = body.tell()
    while piece := body.read(_PIECE):
        yield piece
    body.seek(place)


def verified() -> list[str]:
    """Return the names of the checksums that downloads are compared with."""
    return sorted(name for name in (*_FUNCTIONS, *_OF_AWSCRT) if _function(name) is not None)


def missed(headers: Mapping[str, str], data: memoryview) -> str:
    """Return the name of a checksum in *headers* (names in lower case) that *data*, a whole object,
    does not have; "" if it has all that can be computed here. A text without the form of a checksum
    does not count."""
    composite = headers.get(_PREFIX + "type", "").upper() == "COMPOSITE"
    # then it may be a checksum of checksums, even if it does not say so
    in_parts = "-" in headers.get("etag", "")
    if composite or (in_parts and _PREFIX + "type" not in headers):
        return ""
    for name in (*_FUNCTIONS, *_OF_AWSCRT):
        text = headers.get(_PREFIX + name)
        said = _digest(text) if text else b""
        function = _function(name) if said else None
        if function is not None and len(found := function(data)) == len(said) and found != said:
            return name
    return ""
