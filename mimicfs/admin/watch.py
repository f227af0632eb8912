"""While a mount runs: its control socket, and its signals.

Threading: `controlled` is entered by the main thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from mimicfs.admin import logs
from mimicfs.admin.controlsocket import ControlCommand, ControlSocket
from mimicfs.admin.sources import Sources
from mimicfs.errors import MimicError

log = logging.getLogger(__name__)


@contextmanager
def controlled(
    sources: Sources, path: Path, more: Mapping[str, ControlCommand] | None = None
) -> Iterator[None]:
    """Within, signals set the level of the log, and the control socket *path* answers, also by
    *more* commands.

    Without a socket the mount goes on: that is logged.
    """
    logs.obey_signals()
    commands: dict[str, ControlCommand] = {
        "status": lambda _: sources.collect(),
        "log-level": _log_level,
        **(more or {}),
    }
    with ExitStack() as stack:
        try:
            stack.enter_context(closing(ControlSocket(path, commands)))
        except (OSError, MimicError) as exc:
            log.warning("no control socket, so no `mimicfs status`: %s", exc)
        yield


def _log_level(request: Mapping[str, Any]) -> str:
    """Set the level, if one is given; return the level."""
    wanted = request.get("level")
    if wanted is not None:
        logs.set_level(str(wanted))
    return logs.level()
