"""A mount in a process of its own.

Threading: forking happens before anything starts a thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
from pathlib import Path
from typing import NoReturn, TextIO

from mimicfs.admin import logs
from mimicfs.config.values import MountChoices, Settings, Target
from mimicfs.errors import MimicError, MountError
from mimicfs.mount.failed import Failed
from mimicfs.mount.starting import serve_at

log = logging.getLogger(__name__)


def start_daemon(
    settings: Settings, target: Target, mountpoint: Path, choices: MountChoices
) -> None:
    """Serve the mount in a process of its own. Returns when the mount answers; raises what
    kept it from doing so."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _be_daemon(settings, target, mountpoint, choices, tell)
    os.close(tell)
    with os.fdopen(told) as file:
        said = file.read()
    os.waitpid(child, 0)
    if said == "ready":
        return
    if not said:
        raise MountError(f"{mountpoint}: the mount died while it started; mount with -f to see why")
    kind, _, message = said.partition("\n")
    raise Failed(message, kind)


def _be_daemon(
    settings: Settings, target: Target, mountpoint: Path, choices: MountChoices, tell: int
) -> NoReturn:
    """In the child: leave the terminal, serve, and end without returning to the caller."""
    # Until the log is set up, log lines would go to the terminal of the caller, a second time.
    logging.getLogger().addHandler(logging.NullHandler())
    os.setsid()
    if os.fork():
        os._exit(0)
    with os.fdopen(tell, "w") as parent:
        _end_with_reader(tell)

        def ready() -> None:
            if not _told(parent, "ready"):
                log.warning("%s: who asked for this mount was ended; it ends, too", mountpoint)
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            logs.set_up_by(settings, foreground=False)
            _leave_terminal()
            serve_at(settings, target, mountpoint, choices, ready)
        except MimicError as exc:
            log.error("%s", exc)
            _told(parent, f"{type(exc).__name__}\n{exc}")
            os._exit(1)
        except SystemExit:  # by a signal, once there was a mount; it was taken down
            log.warning("%s: ended by a signal before the mount answered", mountpoint)
            os._exit(1)
        except BaseException as exc:
            log.exception("the mount of %s failed", mountpoint)
            _told(parent, f"MountError\n{mountpoint}: {type(exc).__name__}: {exc}; see the log")
            os._exit(1)
    logging.shutdown()
    os._exit(0)


def _end_with_reader(tell: int) -> None:
    """Have the kernel end this process by SIGTERM when nobody is left that reads *tell*: at once,
    also while S3 is silent, and whoever has ignored or blocked that signal before. (F_SETSIG in
    fcntl(2); pipe_release in fs/pipe.c.)"""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    fcntl.fcntl(tell, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(tell, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(tell, fcntl.F_SETFL, os.O_WRONLY | os.O_ASYNC)
    poll = select.poll()
    poll.register(tell, 0)
    if poll.poll(0):  # POLLERR: it was gone before
        os.kill(os.getpid(), signal.SIGTERM)


def _told(parent: TextIO, text: str) -> bool:
    """Tell the process that asked for the mount, unless it was told already. Return whether it is
    still there: it may have been ended (Ctrl-C), and then there must be no mount."""
    if parent.closed:
        return True
    fcntl.fcntl(parent, fcntl.F_SETFL, os.O_WRONLY)  # once it has been told, it may end
    try:
        parent.write(text)
        parent.close()
    except BrokenPipeError:
        return False
    return True


def _leave_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.close(nothing)
