"""The checksums that S3 sends with an object, and whether its bytes have them.

S3 sends one with the answer to a GET of a whole object, if it is asked to; of a range it has
none, but for one that is just a part of its upload. What it sends for an object that was uploaded
in parts may be a checksum of their checksums (COMPOSITE), which says nothing here.

CRC-64/NVME, which S3 computes of what was uploaded without another, and CRC-32C are not looked
at: in Python they take longer than the transfer, and nothing that is installed has them.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping

_PREFIX = "x-amz-checksum-"


# By the end of the header's name.
_FUNCTIONS: dict[str, Callable[[memoryview], bytes]] = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "md5": lambda data: hashlib.md5(data).digest(),
}


def missed(headers: Mapping[str, str], data: memoryview) -> str:
    """Return the name of a checksum in *headers* (names in lower case) that *data*, a whole object,
    does not have; "" if it has all that can be computed here."""
    composite = headers.get(_PREFIX + "type", "").upper() == "COMPOSITE"
    in_parts = "-" in headers.get("etag", "")  # then it may be one of checksums, said or not
    if composite or (in_parts and _PREFIX + "type" not in headers):
        return ""
    for name, function in _FUNCTIONS.items():
        said = headers.get(_PREFIX + name, "-")
        if "-" not in said and b64encode(function(data)).decode() != said:
            return name
    return ""
