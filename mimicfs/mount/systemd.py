"""Telling the service manager how we are: sd_notify(3), the protocol of Type=notify units.

Datagrams to the socket that NOTIFY_SOCKET names: a path, or "@" and a name in the abstract
namespace. Without one, nothing is told.

Threading: any thread.
"""

from __future__ import annotations

import logging
import socket

log = logging.getLogger(__name__)

_EXTENDED_US = 30_000_000  # how much longer systemd is asked to wait, each time


class ServiceManager:
    """The process that listens at *address* ("": none)."""

    def __init__(self, address: str = "") -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def wait_longer(self, status: str) -> None:
        """Ask not to be killed yet; *status* says what is still to be done."""
        self._tell(f"EXTEND_TIMEOUT_USEC={_EXTENDED_US}", f"STATUS={status}")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        said = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.sendto(said.encode("utf-8", "surrogateescape"), self._address)
        except OSError as exc:
            log.warning("cannot tell the service manager %s: %s", lines[0], exc)
