"""The log: where its lines go, how they look, and how much is logged, which can change while the
mount runs.

    terminal      time, level, message
    systemd       where stderr is the journal: <priority>message, the journal has the time
    --log-file    a file, 0600 when it is made, opened anew when logrotate has moved it away;
                  `syslog:` is the system's log, `syslog:/PATH` the one at another socket

SIGUSR1 logs more, SIGUSR2 less, `mimicfs log-level` sets a level. botocore's debug log shows
signed headers: its loggers stay at warning, whatever the level is.

Threading: `set_up` before other threads start; levels may be set by any thread.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicfs.errors import ConfigError
from mimicfs.human import printable
from mimicfs.private import open_private, private_directory

if TYPE_CHECKING:
    from mimicfs.config.values import Settings

log = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")  # from much to little
SYSLOG = "syslog:"
_NOISY = ("botocore", "boto3", "s3transfer", "urllib3")
_TIMED = "%(asctime)s %(levelname)s %(message)s"
_SYSLOG_SOCKET = "/dev/log"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


def set_up(level: str, file: Path | None) -> None:
    """Log to *file*; None: to stderr. Raises ConfigError."""
    handler, form = _to_stderr() if file is None else _to_file(file)
    handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for source in ("botocore.credentials", "botocore.tokens"):
        logging.getLogger(source).addFilter(_worth_a_line)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Whether botocore's *record* is worth a line: it is no error that is raised as well. Its
    traceback is removed."""
    if record.exc_info:
        record.msg, record.args = f"{record.getMessage()} ({record.exc_info[1]})", ()
        record.exc_info = None
    return "mandatory" not in record.msg


def set_up_by(settings: Settings, foreground: bool) -> None:
    """Log to stderr in the foreground, else to the log file: one line an event."""
    file = settings.log_file
    if file is None and not foreground:
        file = private_directory(settings.state) / "mimicfs.log"
    set_up(settings.log_level, file)


def level() -> str:
    """Return the level from which on lines are logged."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_level(name: str) -> None:
    """Log from level *name* on. Raises ConfigError."""
    if name not in LEVELS:
        raise ConfigError(f"{name}: not a log level; the levels are {', '.join(LEVELS)}")
    before = level()
    logging.getLogger().setLevel(name.upper())
    if name != before:
        log.log(logging.getLogger().level, "the log is at level %s, it was at %s", name, before)


def obey_signals() -> None:
    """Have SIGUSR1 log more, and SIGUSR2 less. Called in the main thread."""
    signal.signal(signal.SIGUSR1, lambda *_: _step(-1))
    signal.signal(signal.SIGUSR2, lambda *_: _step(+1))


def _step(by: int) -> None:
    now = level()
    at = LEVELS.index(now) if now in LEVELS else 1
    set_level(LEVELS[min(max(at + by, 0), len(LEVELS) - 1)])


def _to_stderr() -> tuple[logging.Handler, logging.Formatter]:
    return logging.StreamHandler(), _JournalLine() if _is_journal() else _OneLine(_TIMED)


def _to_file(file: Path) -> tuple[logging.Handler, logging.Formatter]:
    if str(file).startswith(SYSLOG):
        return _to_syslog(str(file).removeprefix(SYSLOG) or _SYSLOG_SOCKET)
    try:
        os.close(open_private(str(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT))
        from mimicfs.admin.watchedlog import WatchedLog

        return WatchedLog(file), _OneLine(_TIMED)
    except OSError as exc:
        raise ConfigError(f"{file}: {exc.strerror}; name another --log-file") from exc


def _to_syslog(address: str) -> tuple[logging.Handler, logging.Formatter]:
    import logging.handlers  # with all of sockets and pickles, which a command has no use for

    facility = logging.handlers.SysLogHandler.LOG_DAEMON
    try:
        handler = logging.handlers.SysLogHandler(address, facility)
    except OSError as exc:
        raise ConfigError(f"{address}: {exc.strerror}; name another --log-file") from exc
    handler.append_nul = False
    return handler, _OneLine(f"mimicfs[{os.getpid()}]: %(levelname)s %(message)s")


def _is_journal() -> bool:
    """Whether stderr goes to systemd's journal, as it says itself: DEVICE:INODE of the pipe."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _OneLine(logging.Formatter):
    """Writes each event in one line: a key may have a line feed in it, or characters that a
    terminal takes as a command."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class _JournalLine(_OneLine):
    """The lines of sd-daemon(3): each, also of a traceback, with its priority."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, 5)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))
