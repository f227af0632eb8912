"""The life of a mount: what it is built of, the daemon, readiness, signals, recovery, the end.

Threading: `serve_mount` runs in the main thread of the process that serves the mount. Forking
happens before anything starts a thread.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO

from mimicfs.backends.open import open_store
from mimicfs.config import FileOptions, S3Options, Target, VFSOptions, redacted
from mimicfs.ending import Ending, Pending
from mimicfs.errors import (
    AccessDenied,
    ConfigError,
    InvalidRequest,
    MimicError,
    MountError,
    S3Unavailable,
)
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import MimicDB
from mimicfs.s3.client import S3
from mimicfs.sync import Syncer
from mimicfs.systemd import ServiceManager

if TYPE_CHECKING:
    from mimicfs.fuse.server import Server

log = logging.getLogger(__name__)

_NOBODY = ServiceManager()
_FOLLOW_S = 0.5  # between two looks at what other processes changed


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command needs to know. *state* is the directory of stores, logs, staging."""

    s3: S3Options
    state: Path
    store: str = ""  # "": a SQLite file in *state*, one for each endpoint and account
    namespace: str = ""
    store_password: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None  # None: *state*/staging
    log_level: str = "info"
    log_file: Path | None = None


class Parts(NamedTuple):
    """The mirror, S3, and what keeps the one true to the other."""

    mimicdb: MimicDB
    s3: S3
    syncer: Syncer
    store: str  # its URL, without a password

    def close(self) -> None:
        self.s3.close()
        self.mimicdb.close()


def assemble(settings: Settings) -> Parts:
    """Open the store and make what stands on it. Makes no request."""
    account = S3(settings.s3, MimicDB(open_store("memory:")))
    url = settings.store
    if not url:
        url = f"sqlite://{settings.state / (account.account() + '.db')}"
        private_directory(settings.state)
    mimicdb = MimicDB(open_store(url, settings.namespace, settings.store_password))
    s3 = S3(settings.s3, mimicdb)
    syncer = Syncer(mimicdb, s3, settings.s3.buckets)
    return Parts(mimicdb, s3, syncer, redacted(url))


def private_directory(path: Path) -> Path:
    """Make *path* for us alone, if it is not there. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}; set XDG_STATE_HOME to another place") from exc
    return path


# Options of a mount


@dataclass(frozen=True, slots=True)
class MountChoices:
    """What a mount is to be like."""

    read_only: bool = False
    allow_other: bool = False
    extra: tuple[str, ...] = ("nosuid", "nodev")
    vfs: VFSOptions = field(default_factory=VFSOptions)
    clear_dead: bool = True  # unmount what a mount of ours that died left at the mount point
    nonempty: bool = False


# What is mounted


class Mounted(NamedTuple):
    """What a running mount says of itself, in a file that it keeps locked while it lives."""

    mountpoint: str
    target: str
    endpoint: str
    store: str
    pid: int
    started_ns: int
    alive: bool = True
    files: int = 0  # at its end: how many S3 does not have yet
    bytes: int = 0  # and how many bytes they have


def _record(settings: Settings, mountpoint: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
    return private_directory(settings.state / "mounts") / f"{digest}.json"


def resolved(mountpoint: Path) -> Path:
    """Return *mountpoint* as the kernel names it, without asking what is mounted there."""
    path = Path(os.path.abspath(mountpoint))
    return Path(os.path.realpath(path.parent)) / path.name


def mounts(settings: Settings) -> list[Mounted]:
    """Return the mounts of this user that are known, dead ones included."""
    found: list[Mounted] = []
    for path in sorted((settings.state / "mounts").glob("*.json")):
        try:
            with open(path) as file:
                record: Any = json.load(file)
                found.append(Mounted(**record)._replace(alive=_is_locked(file.fileno())))
        except (OSError, ValueError, TypeError):
            log.debug("%s: not a record of a mount", path)
    return found


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def watched(
    settings: Settings, mountpoint: Path
) -> Iterator[Callable[[Callable[[Pending], None]], None]]:
    """Within, the process that serves *mountpoint* can be waited for, by a function: it
    returns when that process has ended, and calls what it is given with what is still to be
    uploaded, once a second."""
    try:
        file = open(_record(settings, resolved(mountpoint)))  # noqa: SIM115  closed below
    except FileNotFoundError:
        yield lambda waiting: None
        return
    with file:
        yield lambda waiting: _wait_for_end(file, waiting)


def _wait_for_end(file: TextIO, waiting: Callable[[Pending], None]) -> None:
    asked = time.monotonic()
    while _is_locked(file.fileno()):
        time.sleep(0.02)
        if time.monotonic() - asked > 1:
            asked = time.monotonic()
            file.seek(0)
            with suppress(ValueError):  # it is being written
                said = json.load(file)
                waiting(Pending(said["files"], said["bytes"]))


@contextmanager
def _recorded(settings: Settings, mounted: Mounted) -> Iterator[Callable[[Pending], None]]:
    """Within, others can see that this process serves the mount, and what is still to be
    uploaded, once that is said."""

    def write(pending: Pending = Pending(0, 0)) -> None:  # noqa: B008  an immutable default
        file.seek(0)
        json.dump({**mounted._asdict(), "alive": True, **pending._asdict()}, file)
        file.truncate()
        file.flush()

    path = _record(settings, Path(mounted.mountpoint))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+") as file:
        fcntl.flock(fd, fcntl.LOCK_EX)
        write()
        try:
            yield write
        finally:
            path.unlink(missing_ok=True)


# Serving


def check(parts: Parts, target: Target) -> None:
    """Raise what would make the mount useless: no credentials, no such bucket, no rights.

    One request. When S3 cannot be reached, a mirror that has what is asked for is enough.
    """
    parts.s3.check_credentials()
    if target.bucket:
        known = parts.mimicdb.backend.bucket(target.bucket) is not None
    else:
        known = parts.mimicdb.scope("", "") is not None
    try:
        if target.bucket:
            _check_bucket(parts.s3, target)
            parts.mimicdb.add_bucket(target.bucket, 0)
        else:
            parts.syncer.sync_buckets()
    except S3Unavailable as exc:
        if not known:
            raise
        log.warning("S3 does not answer, the mirror is shown as it is: %s", exc)


def _check_bucket(s3: S3, target: Target) -> None:
    """Raise what is wrong with the bucket. The answer to a HEAD says 403 for an unknown key id
    or a wrong clock as for a missing right, and one who may list a prefix alone gets it too: a
    listing knows better."""
    try:
        s3.head_bucket(target.bucket)
    except (AccessDenied, InvalidRequest) as exc:
        log.debug("%s", exc)
        s3.list_page(target.bucket, target.prefix, limit=1)


def serve_mount(
    settings: Settings,
    target: Target,
    mountpoint: Path,
    choices: MountChoices,
    ready: Callable[[], None],
    manager: ServiceManager = _NOBODY,
) -> None:
    """Mount, call *ready* once the mount answers, and serve until it is unmounted. *manager*
    is told of both, and of the uploads at the end."""
    from mimicfs.fuse import mounting
    from mimicfs.fuse.mounting import MountOptions
    from mimicfs.fuse.notify import Notifier
    from mimicfs.fuse.server import Server
    from mimicfs.fuse.session import Session, SessionOptions
    from mimicfs.vfs import VFS

    # A thread that computes must not hold up one that answers `ls` for the usual 5 ms. Shorter
    # costs more than it gives: at 0.1 ms, threads that wait for the interpreter's lock took half
    # of the CPU of 8 writers of small files (10.2 s of CPU for 2,000 files; 5.9 at 0.5 ms).
    sys.setswitchinterval(5e-4)
    mount_options = MountOptions(
        fsname=str(target),
        allow_other=choices.allow_other,
        read_only=choices.read_only,
        extra=choices.extra,
        clear_dead=choices.clear_dead,
        nonempty=choices.nonempty,
    )
    mounting.check(mountpoint, mount_options)
    parts = assemble(settings)
    try:
        check(parts, target)
        journal = _journal(settings)
        session = Session.mount(mountpoint, SessionOptions(mount_options))
        notifier = Notifier(session)
        vfs = VFS(
            *(parts.mimicdb, parts.s3, parts.syncer, journal, notifier),
            replace(choices.vfs, target=target),
            FileOptions(journal.directory),
        )
        server = Server(vfs, session)
        mounted = Mounted(
            str(session.mountpoint),
            str(target),
            settings.s3.endpoint_url or "aws",
            parts.store,
            os.getpid(),
            time.time_ns(),
        )
        with _recorded(settings, mounted) as record:
            ending = Ending(vfs.pending, partial(_tell_end, record, manager))
            server.when_ending = ending.begin
            _stop_on_signals(server, ending)
            ended = threading.Event()
            _start("ready", lambda: _tell_ready(session.mountpoint, ready, manager))
            follower = _start("follow", lambda: _follow(parts.mimicdb, ended))
            # What was built until now lives as long as we do, and what a large `ls -l` makes
            # lives long: looking through both again and again took a quarter of its time.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            log.info("mounted %s at %s, mirror in %s", target, mountpoint, parts.store)
            try:
                server.serve()
            finally:
                ended.set()
                follower.join(10)
                try:
                    vfs.close()
                finally:
                    ending.over()
                notifier.close()
            log.info("unmounted %s", mountpoint)
    finally:
        parts.close()


def _journal(settings: Settings) -> Journal:
    directory = settings.cache_dir or private_directory(settings.state) / "staging"
    journal = Journal.open(directory)
    for orphan in journal.orphans():
        kept_at = journal.recover(orphan)
        log.warning(
            "an earlier mount died before s3://%s/%s was uploaded; its %d bytes are in %s",
            *(orphan.bucket, orphan.key, orphan.size, kept_at),
        )
    return journal


def _start(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _tell_ready(mountpoint: Path, ready: Callable[[], None], manager: ServiceManager) -> None:
    try:
        os.stat(mountpoint)
    except OSError as exc:
        log.error("%s does not answer: %s", mountpoint, exc)
        return
    manager.ready(f"mounted at {mountpoint}")
    ready()


def _tell_end(record: Callable[[Pending], None], manager: ServiceManager, pending: Pending) -> None:
    record(pending)
    manager.stopping()
    if pending.files:
        manager.wait_longer(str(pending))


def _stop_on_signals(server: Server, ending: Ending) -> None:
    def stop(*_: object) -> None:
        ending.begin()
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _follow(mimicdb: MimicDB, ended: threading.Event) -> None:
    """Tell the kernel what other processes change in a shared store."""
    while True:
        try:
            mimicdb.follow()
        except MimicError as exc:
            log.warning("changes by others cannot be followed: %s", exc)
        if ended.wait(_FOLLOW_S):
            return


# The daemon


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
        raise MountError(f"{mountpoint}: the mount died while it began; mount with -f to see why")
    kind, _, message = said.partition("\n")
    raise Failed(message, kind)


class Failed(MountError):
    """A mount did not come up; *kind* is the name of the error's class in the daemon."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def _be_daemon(
    settings: Settings, target: Target, mountpoint: Path, choices: MountChoices, tell: int
) -> NoReturn:
    """In the child: leave the terminal, serve, and end without returning to the caller."""
    os.setsid()
    if os.fork():
        os._exit(0)
    with os.fdopen(tell, "w") as parent:

        def say(text: str) -> None:
            if not parent.closed:
                parent.write(text)
                parent.close()

        try:
            set_up_logging(settings, foreground=False)
            _leave_terminal()
            serve_mount(settings, target, mountpoint, choices, lambda: say("ready"))
        except MimicError as exc:
            log.error("%s", exc)
            say(f"{type(exc).__name__}\n{exc}")
            os._exit(1)
        except BaseException as exc:
            log.exception("the mount of %s failed", mountpoint)
            say(f"MountError\n{mountpoint}: {type(exc).__name__}: {exc}; the log has more")
            os._exit(1)
    logging.shutdown()
    os._exit(0)


def _leave_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.close(nothing)


def set_up_logging(settings: Settings, foreground: bool) -> None:
    """Log to stderr in the foreground, else to the log file: one line an event.

    botocore's debug log shows signed headers: its level is never below warning.
    """
    handler: logging.Handler
    if foreground and settings.log_file is None:
        handler = logging.StreamHandler()
    else:
        path = settings.log_file or private_directory(settings.state) / "mimicfs.log"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
            handler = logging.FileHandler(path)
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror}; name another --log-file") from exc
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("botocore", "boto3", "s3transfer", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _OneLine(logging.Formatter):
    """A key may have a line feed in it: a log line has not."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return super().formatMessage(record).replace("\n", "\\n").replace("\r", "\\r")
