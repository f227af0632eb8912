"""`mimicfs doctor`: does everything exist that a mount needs?

This module looks at the machine; s3/requests/examine.py looks at S3, and backends/examine.py at
the store.

Threading: none; one thread.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from mimicfs.errors import ConfigError, MountError
from mimicfs.finding import FAIL, OK, WARN, Finding
from mimicfs.fuse import mounting
from mimicfs.fuse.abi import NOTIFY_INC_EPOCH_MINOR, Init
from mimicfs.fuse.session import Session
from mimicfs.private import open_directory

_FUSE_CONF = Path("/etc/fuse.conf")
# The features that a mount does without where the kernel does not have them.
_FEATURES = {
    Init.DO_READDIRPLUS: "without it, the kernel asks for each name of a listing separately",
    Init.NO_OPENDIR_SUPPORT: "without it, the kernel does not cache listings",
    Init.EXPLICIT_INVAL_DATA: "without it, files are read again when their time changes",
    Init.DIRECT_IO_ALLOW_MMAP: "without it, files that bypass the page cache cannot be mapped",
}


def machine(directories: list[Path]) -> Iterator[Finding]:
    """Yield what is found on this machine. *directories* are where a mount keeps what is its
    own. Mounts, for a moment, an empty directory."""
    device = _device()
    helper = _helper()
    yield device
    yield helper
    if FAIL not in (device.result, helper.result):
        yield from _kernel()
    if os.geteuid() != 0:
        yield _allow_other()
    for directory in directories:
        yield _own(directory)


def _device() -> Finding:
    name = str(mounting.DEVICE)
    try:
        os.close(os.open(mounting.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        advice = f"modprobe fuse (in a container: --device {name} --cap-add SYS_ADMIN)"
        return Finding(name, FAIL, "is missing", advice)
    except OSError as exc:
        return Finding(name, FAIL, exc.strerror or str(exc), f"chmod 0666 {name}")
    return Finding(name, OK, "can be opened")


def _helper() -> Finding:
    found = shutil.which("fusermount3")
    if found is None:
        return Finding("fusermount3", FAIL, "not installed", "apt (or dnf) install fuse3")
    try:
        version = mounting.version(found)
    except MountError as exc:
        return Finding("fusermount3", FAIL, str(exc), "install fuse3 anew")
    if os.geteuid() != 0 and not os.stat(found).st_mode & stat.S_ISUID:
        text = f"{found} {version} is not setuid root, so that only root can mount"
        return Finding("fusermount3", FAIL, text, f"chmod u+s {found}, as root")
    return Finding("fusermount3", OK, f"{found}, version {version}")


def _kernel() -> Iterator[Finding]:
    """Mount an empty directory to see what the kernel agrees to."""
    release = platform.release()
    point = tempfile.mkdtemp(prefix="mimicfs-doctor-")
    try:
        with closing(Session.mount(Path(point))) as session:
            session.unmount(lazy=True)
    except MountError as exc:
        text, _, advice = str(exc).partition("; ")
        yield Finding("mounting", FAIL, text, advice)
        return
    finally:
        with suppress(OSError):  # it is still mounted, as the finding says
            os.rmdir(point)
    yield Finding("mounting", OK, "an empty directory was mounted and unmounted")
    yield Finding("kernel", OK, f"Linux {release}, FUSE 7.{session.minor}")
    missing = [
        f"{flag.name}: {lack}" for flag, lack in _FEATURES.items() if not session.flags & flag
    ]
    if session.minor < NOTIFY_INC_EPOCH_MINOR:
        missing.append(
            "INC_EPOCH (Linux 6.16): without it, the kernel hears of each name after a large sync"
        )
    if missing:
        yield Finding("kernel features", WARN, "; ".join(missing), "a newer kernel is faster")
    else:
        yield Finding("kernel features", OK, "all that are used")


def _allow_other() -> Finding:
    try:
        lines = _FUSE_CONF.read_text().splitlines()
    except OSError as exc:
        lines = [f"# {exc.strerror}"]
    if any(line.strip() == "user_allow_other" for line in lines):
        return Finding("allow_other", OK, "may be used by everybody")
    advice = f"only if other users are to use a mount: add user_allow_other to {_FUSE_CONF}"
    return Finding("allow_other", OK, "is for root only", advice)


def _own(directory: Path) -> Finding:
    name = f"directory {directory}"
    try:
        fd = open_directory(directory)
    except FileNotFoundError:
        return _to_be_made(name, directory)
    except ConfigError as exc:
        text, _, advice = str(exc).removeprefix(f"{directory}: ").partition("; ")
        return Finding(name, FAIL, text, advice)
    except OSError as exc:
        return Finding(name, FAIL, exc.strerror or str(exc), "name another one")
    try:
        free = os.fstatvfs(fd)
        exposed = sorted(_exposed(fd))
    finally:
        os.close(fd)
    if exposed:
        text = f"others can read {', '.join(exposed[:5])} in it"
        return Finding(name, WARN, text, f"chmod -R go= {directory}")
    space = free.f_bavail * free.f_frsize
    result, advice = (
        (OK, "")
        if space > 1 << 30
        else (WARN, "free some space, or name a directory on another disk")
    )
    return Finding(name, result, f"is ours alone; {space / (1 << 30):.1f} GiB free", advice)


def _to_be_made(name: str, directory: Path) -> Finding:
    above = next(it for it in directory.parents if it.exists())
    if os.access(above, os.W_OK | os.X_OK):
        return Finding(name, OK, "will be made when it is needed")
    text = f"cannot be made, because {above} cannot be written"
    if directory.name == "blocks":  # a mount does without
        return Finding(name, WARN, text, "name another --cache-dir")
    return Finding(name, FAIL, text, "set XDG_STATE_HOME to another place")


def _exposed(directory: int) -> Iterator[str]:
    """Yield the names in *directory* that others could open, if they could enter it."""
    for name in os.listdir(directory):
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:  # a mount that runs makes and removes files there
            continue
        if stat.S_IMODE(found.st_mode) & 0o077 and not stat.S_ISLNK(found.st_mode):
            yield name
