"""The life of a mount: its parts, readiness, signals, recovery, the end.

Threading: `serve_mount` runs in the main thread of the process that serves the mount.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mimicfs.admin.access import observing
from mimicfs.admin.controlsocket import ControlCommand
from mimicfs.admin.sources import Sources
from mimicfs.admin.watch import controlled
from mimicfs.backends import Backend
from mimicfs.backends.lease import Lease
from mimicfs.config.values import MountChoices, Settings, Target, VFSOptions, redacted
from mimicfs.errors import ConfigError, MountError
from mimicfs.following import Follower, followed
from mimicfs.history import mirror as history
from mimicfs.member import boot_s
from mimicfs.mount import process
from mimicfs.mount.disk import LocalDisk, kept
from mimicfs.mount.ending import Ending, PendingTotal
from mimicfs.mount.mounted import Mounted, control_socket, recorded
from mimicfs.mount.place import MountPlace
from mimicfs.mount.replicas import replicated
from mimicfs.mount.showing import shown
from mimicfs.mount.systemd import ServiceManager
from mimicfs.mount.telling import source_opened, told
from mimicfs.parts import Parts, assemble, check, check_prefix
from mimicfs.s3.requests.client import S3
from mimicfs.signals import held_back, of_end, woken_by_signals

if TYPE_CHECKING:
    from mimicfs.files.cache import BlockCache
    from mimicfs.fuse.guardian import Guardian
    from mimicfs.fuse.mounting import MountOptions
    from mimicfs.fuse.notify import Notifier
    from mimicfs.fuse.server import Server
    from mimicfs.fuse.session import Session
    from mimicfs.vfs.filesystem import VFS
    from mimicfs.vfs.locking import VFSLocks
    from mimicfs.vfs.smallfiles import SmallFiles

log = logging.getLogger(__name__)


def serve_mount(
    settings: Settings,
    target: Target,
    place: MountPlace,
    choices: MountChoices,
    guardian: Guardian,
    ready: Callable[[], None],
    manager: ServiceManager,
) -> None:
    """Mount, call *ready* once the mount answers, and serve until it is unmounted. *manager* hears
    of both, and of the uploads at the end. *guardian* guards the mount until its caller closes it.
    """
    from mimicfs.fuse.notify import Notifier

    mountpoint = place.mountpoint
    with ExitStack() as stack:  # things below end before those above
        lease, sources = Lease(boot_s), Sources()
        beside = partial(_replicated, settings, (mountpoint, target), choices, lease)
        parts = stack.enter_context(_parts(settings, target, choices, beside))
        parts.mimicdb.join(str(mountpoint))
        page = stack.enter_context(shown(settings, sources, parts.s3))
        source = stack.enter_context(source_opened(choices.events, parts.s3))
        disk = stack.enter_context(kept(settings, choices, parts))
        session, unserved = _session(stack, place, target, choices)
        guardian.watch(session.device)
        notifier = Notifier(session)
        small = stack.enter_context(_small_files(parts, choices, settings, disk.cache, sources))
        vfs = _vfs(parts, replace(choices.vfs, target=target), disk, notifier, small)
        vfs.inodes.when_sparse = process.give_back
        follower = Follower(parts.mimicdb, target.bucket, lease=lease)
        locks = _locks(stack, parts, vfs, (follower, choices), sources)
        server = _server(vfs, session, choices, locks)
        mounted = _mounted(settings, target, choices, session, parts)._replace(page=page)
        _register(sources, mounted, parts, (server, session, notifier), vfs, disk)
        record = stack.enter_context(recorded(settings, mounted))
        stack.enter_context(_governed(settings, parts.s3, (server, session, vfs), sources))
        ending = _ending(server, vfs, partial(_tell_end, record, manager))
        stack.enter_context(_followed(follower, parts, server, (lease, vfs, choices), sources))
        _start("ready", lambda: _when_answering(session, ready, manager))
        stack.enter_context(told(parts, target, choices.events, source, sources, settings.state))
        unserved.pop_all()
        log.info("mounted %s at %s, mirror in %s", mounted.target, mountpoint, parts.store)
        try:
            with parts.mimicdb.answering():
                server.serve()
        finally:
            guardian.close()  # the connection is gone, and its number may soon be another's
            _end(vfs, ending, notifier)
        log.info("unmounted %s", mountpoint)


def _end(vfs: VFS, ending: Ending, notifier: Notifier) -> None:
    """Upload the rest, and say when that is over."""
    try:
        vfs.close()
    finally:
        ending.over()
        notifier.close()


@contextmanager
def _parts(
    settings: Settings, target: Target, choices: MountChoices, beside: Callable[[Backend], Backend]
) -> Iterator[Parts]:
    """Within, the parts on which the mount stands exist; *beside* puts a copy beside a shared
    store. Raises the error that would make the mount useless."""
    if choices.at_ns is not None:
        with history.opened(settings, choices.at_ns) as parts:
            history.look(parts, target)
            if not choices.create_prefix:
                check_prefix(parts, target)
            yield parts
        return
    with closing(assemble(settings, beside)) as parts:
        check(parts, target)
        if not choices.create_prefix:
            check_prefix(parts, target)
        yield parts


def _replicated(
    settings: Settings,
    mount: tuple[Path, Target],
    choices: MountChoices,
    lease: Lease,
    store: Backend,
) -> Backend:
    if store.evicts:
        raise ConfigError(
            f"{redacted(settings.store)}: Redis may evict keys, so no directory would count as"
            " listed; CONFIG SET maxmemory-policy noeviction"
        )
    if not choices.replica:
        return store
    mountpoint, target = mount
    strict = choices.store_loss == "eio"
    return replicated(store, settings, mountpoint, lease, strict=strict, prefix=target.prefix)


def _session(
    stack: ExitStack, place: MountPlace, target: Target, choices: MountChoices
) -> tuple[Session, ExitStack]:
    """Return the session, and a stack that takes it down if *stack* ends before it is served, so
    that no dead mount is left. The caller empties that stack once it serves."""
    from mimicfs.fuse.session import Session, SessionOptions

    mount_options = _mount_options(target, choices)
    options = SessionOptions(mount_options, locks=choices.locks == "shared")
    wakes = stack.enter_context(woken_by_signals())
    unserved = stack.enter_context(ExitStack())
    for number in of_end():  # until `_stop_on_signals`; there is nothing to upload yet
        signal.signal(number, _leave)
    if place.handed is not None:
        session = Session.of_handed(place.handed, options)
    else:
        with held_back(signal.SIGINT, *of_end()):
            session = Session.mount(place.mountpoint, options)
            unserved.callback(_take_down, session)
    session.wake_by(wakes)
    return session, unserved


def _leave(number: int, _: object) -> NoReturn:
    """As the handler of a signal: end in order, so that `unserved` takes the mount down."""
    signal.signal(number, signal.SIG_IGN)  # that is under way now
    sys.exit(128 + number)


def _take_down(session: Session) -> None:
    try:
        session.unmount(lazy=True)
    except MountError as exc:
        log.warning("%s", exc)


def _mount_options(target: Target, choices: MountChoices) -> MountOptions:
    from mimicfs.fuse.mounting import MountOptions

    return MountOptions(
        fsname=_title(target, choices),
        allow_other=choices.allow_other,
        read_only=choices.read_only,
        extra=choices.extra,
        clear_dead=choices.clear_dead,
        nonempty=choices.nonempty,
    )


def _vfs(
    parts: Parts, options: VFSOptions, disk: LocalDisk, notifier: Notifier, small: SmallFiles | None
) -> VFS:
    from mimicfs.vfs.filesystem import VFS

    stores = (parts.mimicdb, parts.s3, parts.syncer)
    return VFS(*stores, disk.journal, notifier, options, disk.options, disk.cache, small)


def _locks(
    stack: ExitStack,
    parts: Parts,
    vfs: VFS,
    mount: tuple[Follower, MountChoices],
    sources: Sources,
) -> VFSLocks | None:
    """Return the locks of files in the store, which end with *stack*; None: those of the kernel are
    enough."""
    follower, choices = mount
    if choices.locks != "shared":
        return None
    shared = stack.enter_context(closing(parts.mimicdb.locks()))
    sources.register("locks", shared.figures)
    return vfs.locks(shared, follower.reach)


def _server(vfs: VFS, session: Session, choices: MountChoices, locks: VFSLocks | None) -> Server:
    from mimicfs.fuse.packing import YEAR_S
    from mimicfs.fuse.server import Server

    # For good; unless directories are to be looked at again, of which the kernel must ask us
    # then. A quarter of their time adds little to it.
    ttl_s = choices.vfs.buckets.shortest_ttl_s(choices.vfs.target.bucket)
    keep_s = ttl_s / 4 or YEAR_S
    return Server(
        vfs,
        session,
        choices.workers,
        entry_ttl_s=keep_s,
        attr_ttl_s=keep_s,
        negative_ttl_s=keep_s,
        opendir=ttl_s > 0,
        locks=locks,
    )


def _title(target: Target, choices: MountChoices) -> str:
    """Return a name of the mount for people."""
    return str(target) if choices.at_ns is None else history.titled(target, choices.at_ns)


def _mounted(
    settings: Settings, target: Target, choices: MountChoices, session: Session, parts: Parts
) -> Mounted:
    endpoint = redacted(settings.s3.endpoint_url or "aws")
    place = (str(session.mountpoint), _title(target, choices), endpoint, parts.store)
    return Mounted(*place, os.getpid(), time.time_ns(), read_only=choices.read_only)


def _register(
    sources: Sources,
    mounted: Mounted,
    parts: Parts,
    kernel: tuple[Server, Session, Notifier],
    vfs: VFS,
    disk: LocalDisk,
) -> None:
    """Register the sources of the figures of the mount."""
    from mimicfs.admin import figures

    server, _, _ = kernel
    sources.register("process", partial(figures.process, mounted.started_ns))
    sources.register("mirror", partial(figures.mirror, parts.mimicdb, parts.store))
    sources.register("sharing", partial(figures.sharing, parts.mimicdb))
    sources.register("s3", parts.s3.figures)
    sources.register("kernel", partial(figures.kernel, *kernel))
    sources.register("costs", partial(figures.costs, parts.s3, server))
    sources.register("files", partial(figures.files, vfs, disk.journal))
    if disk.cache is not None:
        cache = disk.cache
        sources.register("cache", lambda: cache.usage()._asdict())
    sources.register("sync", partial(figures.syncs, parts.syncer, parts.mimicdb))


@contextmanager
def _governed(
    settings: Settings, s3: S3, served: tuple[Server, Session, VFS], sources: Sources
) -> Iterator[None]:
    """Within, the control socket answers, and requests are observed if somebody wants that."""
    server, session, vfs = served
    with observing(server, vfs.place, settings.access_log) as observers:
        commands: dict[str, ControlCommand] = {
            "set": partial(_set_limits, s3),
            "top": observers.top,
        }
        with controlled(sources, control_socket(settings, session.mountpoint), commands):
            yield


def _set_limits(s3: S3, request: Mapping[str, Any]) -> dict[str, Any]:
    """Change the limits that are named, or none; return them all. Raises ConfigError."""
    values = request.get("values", {})
    s3.limits.set_all({str(name): str(text) for name, text in values.items()})
    return s3.limits.figures()


@contextmanager
def _small_files(
    parts: Parts,
    choices: MountChoices,
    settings: Settings,
    cache: BlockCache | None,
    sources: Sources,
) -> Iterator[SmallFiles | None]:
    """Within, small files of listed directories are fetched, if that is wanted. Raises
    ConfigError."""
    if not choices.small_files:
        yield None
        return
    if cache is None:
        raise ConfigError("--small-files: there is no cache on disk to bring them into")
    from mimicfs.vfs.smallfiles import SmallFiles

    connections = settings.s3.connections
    with closing(
        SmallFiles(parts.mimicdb, parts.s3, cache, choices.small_files, connections)
    ) as small_files:
        sources.register("small_files", small_files.figures)
        yield small_files


def _start(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _when_answering(session: Session, ready: Callable[[], None], manager: ServiceManager) -> None:
    try:
        _tell_ready(session, ready, manager)
    finally:
        process.settle()  # nobody waits for it


def _tell_ready(session: Session, ready: Callable[[], None], manager: ServiceManager) -> None:
    try:
        if not session.handed:  # otherwise it may be where we cannot look
            os.stat(session.mountpoint)
    except OSError as exc:
        log.error("%s does not answer: %s", session.mountpoint, exc)
        return
    manager.ready(f"mounted at {session.mountpoint}")
    ready()


def _tell_end(
    record: Callable[[PendingTotal], None], manager: ServiceManager, pending: PendingTotal
) -> None:
    record(pending)
    manager.stopping()
    if pending.files:
        manager.wait_longer(str(pending))


def _ending(server: Server, vfs: VFS, tell: Callable[[PendingTotal], None]) -> Ending:
    """Return the end of the mount, which begins with that of *server*, or with a signal."""
    ending = Ending(vfs.pending, tell)
    server.when_ending = ending.begin
    server.unsaved = partial(_is_unsaved, vfs)
    server.save_mapped = vfs.save_mapped
    _stop_on_signals(server, ending)
    return ending


def _is_unsaved(vfs: VFS) -> bool:
    if vfs.has_writers():
        return True
    files, _ = vfs.pending()
    return files > 0


def _stop_on_signals(server: Server, ending: Ending) -> None:
    def stop(*_: object) -> None:
        ending.begin()
        server.stop()

    for number in (signal.SIGINT, *of_end()):
        signal.signal(number, stop)


def _said(lease: Lease, vfs: VFS, choices: MountChoices) -> dict[str, int | float]:
    """Return the words of the session of the mount in the store."""
    files, size = vfs.pending()
    return {
        "lag_s": round(lease.silent_s, 1),
        "pending_files": files,
        "pending_bytes": size,
        "read_only": int(choices.read_only),
    }


@contextmanager
def _followed(
    follower: Follower,
    parts: Parts,
    server: Server,
    mount: tuple[Lease, VFS, MountChoices],
    sources: Sources,
) -> Iterator[None]:
    """Within, the kernel hears what other processes change in a shared store, and they hear of this
    mount."""
    parts.mimicdb.member.tell = partial(_said, *mount)
    follower.leased = server.lease
    sources.register("follower", follower.figures)
    with followed(follower):
        yield
