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
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mimicfs.backends.open import open_store
from mimicfs.config import FileOptions, S3Options, Target, VFSOptions, redacted
from mimicfs.errors import AccessDenied, ConfigError, MimicError, MountError, S3Unavailable
from mimicfs.files.cache import BlockCache
from mimicfs.files.cache import private_directory as _owned
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import MimicDB
from mimicfs.s3.client import S3
from mimicfs.sync import Syncer

log = logging.getLogger(__name__)

_FOLLOW_S = 0.5  # between two looks at what other processes changed
_FLAGS = (
    "ro",
    "rw",
    "allow_other",
    "nosuid",
    "nodev",
    "noexec",
    "noatime",
    "defaults",
    "no_markers",
    "nosymlinks",
    "suid",
    "dev",
)
_NUMBERS = {"uid": 10, "gid": 10, "umask": 8, "file_mode": 8, "dir_mode": 8}


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command needs to know. *state* is the directory of stores, logs, staging."""

    s3: S3Options
    state: Path
    store: str = ""  # "": a SQLite file in *state*, one for each endpoint and account
    namespace: str = ""
    store_password: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None  # of `staging` and `blocks`; None: *state*/staging, no blocks
    log_level: str = "info"
    log_file: Path | None = None
    blocks: Path | None = None  # where blocks are kept without a *cache_dir*
    cache_size: int | None = None  # bytes of them; 0: none are kept; None: a share of the disk


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
    return Parts(mimicdb, s3, Syncer(mimicdb, s3), redacted(url))


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
    """What `-o` says."""

    read_only: bool = False
    allow_other: bool = False
    extra: tuple[str, ...] = ("nosuid", "nodev")
    vfs: VFSOptions = field(default_factory=VFSOptions)


def parse_choices(words: list[str], target: Target) -> MountChoices:
    """Return what the words after -o mean. Raises ConfigError for what is not known."""
    numbers: dict[str, int] = {}
    flags: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in _NUMBERS:
            numbers[name] = _number(word, value, _NUMBERS[name])
        elif not equals and name in _FLAGS:
            flags.add(name)
        else:
            known = ", ".join([*_FLAGS, *(f"{name}=" for name in _NUMBERS)])
            raise ConfigError(f"-o {word}: not an option; known are {known}")
    if flags & {"suid", "dev"} and os.geteuid() != 0:
        raise ConfigError("-o suid, -o dev: only root may trust what a bucket says that far")
    defaults = VFSOptions()
    umask = numbers.get("umask")
    vfs = VFSOptions(
        target,
        numbers.get("uid", defaults.uid),
        numbers.get("gid", defaults.gid),
        numbers.get("file_mode", defaults.file_mode if umask is None else 0o666 & ~umask),
        numbers.get("dir_mode", defaults.dir_mode if umask is None else 0o777 & ~umask),
        markers="no_markers" not in flags,
        symlinks="nosymlinks" not in flags,
        suid="suid" in flags,
        dev="dev" in flags,
    )
    denied = [f"no{name}" for name in ("suid", "dev") if name not in flags]
    extra = (*denied, *sorted(flags & {"suid", "dev", "noexec", "noatime"}))
    return MountChoices("ro" in flags, "allow_other" in flags, extra, vfs)


def _number(word: str, value: str, base: int) -> int:
    try:
        number = int(value, base)
    except ValueError as exc:
        kind = "an octal number" if base == 8 else "a number"
        raise ConfigError(f"-o {word}: not {kind}") from exc
    if not 0 <= number < (1 << 32) - 1 or (base == 8 and number > 0o777):
        raise ConfigError(f"-o {word}: out of range")
    return number


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


def wait_for_end(settings: Settings, mountpoint: Path, waiting: Callable[[], None]) -> None:
    """Return when the process that served *mountpoint* has ended; *waiting* is called once a
    second until then."""
    path = _record(settings, resolved(mountpoint))
    if not path.exists():
        return
    with open(path) as file:
        asked = time.monotonic()
        while _is_locked(file.fileno()):
            time.sleep(0.02)
            if time.monotonic() - asked > 1:
                waiting()
                asked = time.monotonic()


@contextmanager
def _recorded(settings: Settings, mounted: Mounted) -> Iterator[None]:
    """Within, others can see that this process serves the mount."""
    path = _record(settings, Path(mounted.mountpoint))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+") as file:
        fcntl.flock(fd, fcntl.LOCK_EX)
        file.truncate()
        json.dump({**mounted._asdict(), "alive": True}, file)
        file.flush()
        try:
            yield
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
            parts.s3.head_bucket(target.bucket)
            parts.mimicdb.add_bucket(target.bucket, 0)
        else:
            parts.syncer.sync_buckets()
    except AccessDenied as exc:
        if target.bucket:
            raise
        raise AccessDenied(
            f"{exc}; to mount one bucket: mimicfs mount s3://BUCKET MOUNTPOINT"
        ) from exc
    except S3Unavailable as exc:
        if not known:
            raise
        log.warning("S3 does not answer, the mirror is shown as it is: %s", exc)


def serve_mount(
    settings: Settings,
    target: Target,
    mountpoint: Path,
    choices: MountChoices,
    ready: Callable[[], None],
) -> None:
    """Mount, call *ready* once the mount answers, and serve until it is unmounted."""
    from mimicfs.fuse.mounting import MountOptions
    from mimicfs.fuse.notify import Notifier
    from mimicfs.fuse.server import Server
    from mimicfs.fuse.session import Session, SessionOptions
    from mimicfs.vfs import VFS

    # A thread that computes must not hold up one that answers `ls` for the usual 5 ms. Shorter
    # costs more than it gives: at 0.1 ms, threads that wait for the interpreter's lock took half
    # of the CPU of 8 writers of small files (10.2 s of CPU for 2,000 files; 5.9 at 0.5 ms).
    sys.setswitchinterval(5e-4)
    _allow_many_files()
    parts = assemble(settings)
    try:
        check(parts, target)
        journal = _journal(settings)
        cache = _block_cache(settings, parts.s3)
        mount_options = MountOptions(
            fsname=str(target),
            allow_other=choices.allow_other,
            read_only=choices.read_only,
            extra=choices.extra,
            clear_dead=True,
        )
        session = Session.mount(mountpoint, SessionOptions(mount_options))
        notifier = Notifier(session)
        vfs = VFS(
            *(parts.mimicdb, parts.s3, parts.syncer, journal, notifier),
            replace(choices.vfs, target=target),
            FileOptions(journal.directory),
            cache,
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
        with _recorded(settings, mounted):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: server.stop())
            ended = threading.Event()
            _start("ready", lambda: _tell_ready(session.mountpoint, ready))
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
                vfs.close()
                notifier.close()
                if cache is not None:
                    cache.close()
            log.info("unmounted %s", mountpoint)
    finally:
        parts.close()


def _journal(settings: Settings) -> Journal:
    if settings.cache_dir is not None:
        directory = _owned(settings.cache_dir) / "staging"
    else:
        directory = private_directory(settings.state) / "staging"
    journal = Journal.open(directory)
    for orphan in journal.orphans():
        kept_at = journal.recover(orphan)
        log.warning(
            "an earlier mount died before s3://%s/%s was uploaded; its %d bytes are in %s",
            *(orphan.bucket, orphan.key, orphan.size, kept_at),
        )
    return journal


def _block_cache(settings: Settings, s3: S3) -> BlockCache | None:
    """Return the cache of blocks, if there is to be one. Where nobody has asked for it, there
    need not be a place for it."""
    directory = settings.cache_dir / "blocks" if settings.cache_dir else settings.blocks
    if directory is None or settings.cache_size == 0:
        return None
    try:
        return BlockCache(directory, s3.endpoint(), settings.cache_size)
    except ConfigError as exc:
        if settings.cache_dir is not None or settings.cache_size is not None:
            raise
        log.warning("nothing is kept on disk of what is read: %s", exc)
        return None


def _allow_many_files() -> None:
    """Take what the hard limit gives: an open file may have a staging file and one of the cache
    on disk, and the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _tell_ready(mountpoint: Path, ready: Callable[[], None]) -> None:
    try:
        os.stat(mountpoint)
    except OSError as exc:
        log.error("%s does not answer: %s", mountpoint, exc)
        return
    ready()


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
