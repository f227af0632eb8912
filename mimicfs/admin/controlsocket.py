"""The control socket of a mount: how `mimicfs status` and `mimicfs log-level` reach the process
that serves it. The protocol is private: one line of JSON asks, one answers, then it is over.

    {"command": "status"}                     {"answer": {...}}
    {"command": "log-level", "level": "..."}  {"answer": ...} or {"error": "..."}

With "asked_wrongly" beside the error, the question makes no sense: the command line is wrong, not
the mount.

The socket is 0600, in a directory of ours that is 0700, and a process that connects must be of our
user or of root (SO_PEERCRED): a directory may have been opened up since. Clients reach it by the
descriptor of its directory: the path of a Unix socket has at most 107 bytes, and this way follows
no links.

Threading: a thread accepts; each connection has one of its own, a few at once; the others
wait their turn.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mimicfs.config.values import ANSWER_S
from mimicfs.errors import ConfigError, MimicError, MountError
from mimicfs.private import open_directory

log = logging.getLogger(__name__)

ControlCommand = Callable[[Mapping[str, Any]], Any]

_REQUEST_MAX = 64 << 10  # bytes
_ANSWER_MAX = 16 << 20
_PATIENCE_S = 5.0  # how long a client may take to ask, and to take the answer
_AT_ONCE = 8  # connections that are answered
_WAITING = 128  # connections; the kernel refuses more (EAGAIN)
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ControlSocket:
    """Answers *commands* at *path* until it is closed. Raises ConfigError."""

    def __init__(self, path: Path, commands: Mapping[str, ControlCommand]) -> None:
        self._path = path
        self._commands = commands
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listen()
        except BaseException:
            self._socket.close()
            raise
        threading.Thread(target=self._serve, name="control", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):  # wakes the thread that accepts
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        os.fchmod(self._socket.fileno(), 0o600)  # bind(2) gives the file these permissions
        with _place(self._path) as address:
            with suppress(FileNotFoundError):
                os.unlink(address)  # of a mount that died
            self._socket.bind(address)
        self._socket.listen(_WAITING)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self._free.acquire()  # others wait for at most _PATIENCE_S, or an answer
            threading.Thread(
                target=self._attend, args=(connection,), name="control-answer", daemon=True
            ).start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_PATIENCE_S)
                _send(connection, self._answer(connection))
        except (OSError, ValueError) as exc:
            log.debug("control socket: %s", exc)
        finally:
            self._free.release()

    def _answer(self, connection: socket.socket) -> dict[str, Any]:
        _, uid, _ = _peer(connection)
        request = _received(connection, _REQUEST_MAX)
        if uid not in (0, os.geteuid()):
            log.warning("control socket: user %d was refused", uid)
            return {"error": "for the user who mounted, and root"}
        name = request.get("command")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            return {"error": f"no such command: {name!r}; does the mount run another version?"}
        try:
            return {"answer": command(request)}
        except MimicError as exc:
            return {"error": str(exc), "asked_wrongly": isinstance(exc, ConfigError)}
        except Exception:
            log.exception("control socket: %s failed", name)
            return {"error": "failed; see the log of the mount"}


def ask(path: Path, command: str, timeout_s: float = ANSWER_S, **more: Any) -> Any:
    """Return the answer of the mount that listens at *path*. Raises MountError if it does not
    listen, does not answer in time, or refuses; ConfigError if the question makes no sense."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _place(path) as address:
                connection.connect(address)
            _send(connection, {"command": command, **more})
            answer = _received(connection, _ANSWER_MAX)
        except TimeoutError as exc:
            raise MountError(f"the mount did not answer within {timeout_s:g} s") from exc
        except (OSError, ValueError) as exc:
            raise MountError(f"the mount does not answer: {exc}") from exc
    if "error" in answer:
        kind = ConfigError if answer.get("asked_wrongly") else MountError
        raise kind(str(answer["error"]))
    return answer.get("answer")


@contextmanager
def _place(path: Path) -> Iterator[str]:
    """Within, the short address of *path* in a directory of ours. Raises ConfigError, OSError."""
    fd = open_directory(path.parent)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    except OSError as exc:
        exc.filename = None  # the short address tells nobody anything
        raise
    finally:
        os.close(fd)


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of whoever connected."""
    size = _PEER.size
    pid, uid, gid = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid, gid


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _received(connection: socket.socket, most: int) -> dict[str, Any]:
    """Return the object of one line. Raises ValueError, OSError."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if len(line) > most:
            raise ValueError("too long")
        piece = connection.recv(min(1 << 16, most))
        if not piece:
            raise ValueError("the answer ended early")
        line += piece
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found
