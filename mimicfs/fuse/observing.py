"""Records each request of the kernel, with its answer, while somebody wants to know.

It costs nothing while nobody does: only then are the handlers wrapped (`Server.observe`).

Threading: `observed` handlers run in all threads of the server, and so do the recorders.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mimicfs.errors import Unlisted
from mimicfs.fuse.abi import IN_HEADER, Opcode
from mimicfs.fuse.operations import Data, Handler, Operation
from mimicfs.posix import Caller

# The requests that have a name in their body, and where it begins.
_NAMES = {
    Opcode.LOOKUP: 0, Opcode.UNLINK: 0, Opcode.RMDIR: 0, Opcode.SYMLINK: 0,
    Opcode.MKDIR: 8, Opcode.MKNOD: 16, Opcode.CREATE: 16, Opcode.RENAME: 8, Opcode.RENAME2: 16,
}  # fmt: skip
_READ, _WRITE = struct.Struct("<QQI"), struct.Struct("<QQI")  # fh, offset, size


class AccessRecord(NamedTuple):
    """A request that was answered."""

    time_ns: int
    took_s: float
    pid: int
    uid: int
    operation: str
    nodeid: int
    name: bytes  # in the directory *nodeid*; b"": the request is about *nodeid* itself
    size: int  # of the bytes that were asked for or given
    code: int  # errno; 0: none


Recorder = Callable[[AccessRecord], None]


def observed(
    table: dict[int, Operation],
    recorders: Iterable[Recorder],
    code_of: Callable[[Exception, int], int],
) -> dict[int, Operation]:
    """Return *table* with handlers that tell *recorders* of each answer."""
    told = tuple(recorders)
    return {
        opcode: operation._replace(handler=_observed(opcode, operation.handler, told, code_of))
        for opcode, operation in table.items()
    }


def _observed(
    opcode: int,
    handler: Handler,
    recorders: tuple[Recorder, ...],
    code_of: Callable[[Exception, int], int],
) -> Handler:
    name = Opcode(opcode).name.lower()
    offset = _NAMES.get(Opcode(opcode))
    sized = opcode in (Opcode.READ, Opcode.WRITE)

    def call(caller: Caller, nodeid: int, request: bytes) -> Data:
        begun_ns, began_s = time.time_ns(), time.monotonic()
        code = 0
        try:
            data = handler(caller, nodeid, request)
            if opcode == Opcode.LOOKUP and not any(data[:8]):  # an answer that the kernel keeps
                code = errno.ENOENT
            return data
        except Unlisted:  # the request comes again, once the entry is learned
            code = -1
            raise
        except Exception as exc:
            code = code_of(exc, opcode)
            raise
        finally:
            if code >= 0:
                said = b"" if offset is None else _name(request, IN_HEADER.size + offset)
                _, _, size, *_ = _READ.unpack_from(request, IN_HEADER.size) if sized else (0, 0, 0)
                took_s = time.monotonic() - began_s
                record = AccessRecord(
                    begun_ns, took_s, caller.pid, caller.uid, name, nodeid, said, size, code
                )
                for recorder in recorders:
                    recorder(record)

    return call


def _name(request: bytes, start: int) -> bytes:
    return request[start : request.find(b"\0", start)]


def program(pid: int) -> str:
    """Return the name of the program that runs as *pid*; "?" if it has ended."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="replace").strip()
    except OSError:
        return "?"


def error_name(code: int) -> str:
    return errno.errorcode.get(code, str(code)) if code else "ok"


def joined(directory: str, name: bytes) -> str:
    """Return the path of *name* in *directory*."""
    return f"{directory.rstrip('/')}/{os.fsdecode(name)}" if name else directory
