"""Mounting and unmounting through fusermount3, as root and as any user.

fusermount3 is setuid root: it mounts, and hands the opened /dev/fuse back over a socket. Any
failure becomes a MountError of one line that says what to do.

Threading: no state; any thread.
"""

from __future__ import annotations

import array
import errno
import grp
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mimicfs.errors import MountError
from mimicfs.fuse.mountpoint import resolved

log = logging.getLogger(__name__)

_FUSERMOUNT_TIMEOUT_S = 30.0
DEVICE = Path("/dev/fuse")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of mounting. *extra* goes to fusermount3 as it is (noatime, noexec,
    context=...)."""

    fsname: str = "mimicfs"  # the first column of `mount` and `df`
    subtype: str = "mimicfs"
    allow_other: bool = False  # other users (and root) may use the mount
    default_permissions: bool = True  # the kernel checks mode bits, and does not ask us
    read_only: bool = False
    extra: tuple[str, ...] = ("nosuid", "nodev")
    clear_dead: bool = False  # unmount a mount of a dead process of ours, rather than refuse
    nonempty: bool = False  # mount also over a directory with files, which are hidden then

    def __str__(self) -> str:
        """Return the options as they stand after -o."""
        words = [f"fsname={_escaped(self.fsname)}", f"subtype={_escaped(self.subtype)}"]
        words += ["allow_other"] * self.allow_other
        words += ["default_permissions"] * self.default_permissions
        words.append("ro" if self.read_only else "rw")
        return ",".join([*words, *self.extra])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def mount(mountpoint: Path, options: MountOptions) -> int:
    """Mount at *mountpoint* and return the opened /dev/fuse. Raises MountError.

    No access to the mount returns before somebody has answered INIT on that descriptor.
    """
    helper = _fusermount()
    check(mountpoint, options)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [helper, "-o", str(options), "--", os.fspath(mountpoint)]
        environment = {"_FUSE_COMMFD": str(theirs.fileno())}
        result = _run(command, environment, theirs.fileno())
        theirs.close()
        if result.returncode:
            raise MountError(_reason(mountpoint, result.stderr, options))
        return _received_descriptor(ours)


def check(mountpoint: Path, options: MountOptions) -> None:
    """Raise MountError for a fault that can be known before anything is mounted."""
    _check_device()
    _check_helper(Path(_fusermount()))
    _check_mountpoint(mountpoint, options)


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount. *lazy*: also when in use; open files go on. Raises MountError."""
    place = os.fspath(resolved(mountpoint))  # fusermount3 follows no link at the end
    command = [_fusermount(), "-u", *(["-z"] if lazy else []), "--", place]
    result = _run(command, {})
    if result.returncode == 0:
        return
    said = _one_line(result.stderr)
    if "busy" in said:
        raise MountError(f"{mountpoint}: in use; close what uses it (see `fuser -m`) or unmount -z")
    if "/etc/mtab" in said:  # where fusermount3 looks whose mount it is; minimal roots lack it
        said = f"cannot be unmounted ({said}); as root: ln -s ../proc/self/mounts /etc/mtab"
    raise MountError(f"{mountpoint}: {said}")


def version(helper: str) -> str:
    """Return the version of *helper*, which is fusermount3. Raises MountError."""
    return _run([helper, "--version"], {}).stdout.rpartition(" ")[2].strip()


def device_number(mountpoint: Path) -> str | None:
    """Return "MAJOR:MINOR" of the FUSE file system on *mountpoint*, or None. Asks no daemon."""
    found = _on_top(mountpoint)
    return found.number if found.kind.split(".")[0] in ("fuse", "fuseblk") else None


class Shown(NamedTuple):
    """A file system that is mounted somewhere. *options* are those of this mount, not of all mounts
    that show the same."""

    number: str  # "MAJOR:MINOR"
    place: bytes
    kind: str
    options: frozenset[str]


_NOTHING = Shown("", b"", "", frozenset())


def options_of(mountpoint: Path) -> frozenset[str]:
    """Return the options of the mount on *mountpoint* ("ro", "noexec"). Asks no daemon."""
    return _on_top(mountpoint).options


def _on_top(mountpoint: Path) -> Shown:
    """Return the file system that is mounted on *mountpoint*; an empty one if there is none."""
    path, found = os.fsencode(resolved(mountpoint)), _NOTHING
    for each in mounted():
        if each.place == path:  # the last one is on top
            found = each
    return found


def mounted() -> Iterator[Shown]:
    """Yield all file systems that are mounted in this mount namespace."""
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:  # a path has "\r"
        # proc(5): ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [TAG]... - TYPE SOURCE OPTIONS
        here, _, there = line.partition(b" - ")
        _, _, number, _, place, options, *_ = here.split(b" ")
        kind, *_ = there.split(b" ")
        words = frozenset(options.decode().split(","))
        yield Shown(number.decode(), _unescaped(place), kind.decode(), words)


def _unescaped(field: bytes) -> bytes:
    """Return *field* with the characters that mountinfo writes as three octal digits: space, tab,
    newline and backslash."""
    return re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), field)


def _run(
    command: list[str], environment: dict[str, str], *descriptors: int
) -> subprocess.CompletedProcess[str]:
    # We look at fusermount3's own words, so they must not be translated. The rest of our
    # environment (secrets, maybe) is none of its business.
    environment |= {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)}
    try:
        return subprocess.run(
            command,
            env=environment,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_FUSERMOUNT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise MountError(f"{command[0]} did not end in {_FUSERMOUNT_TIMEOUT_S:.0f} s") from exc
    except OSError as exc:
        raise MountError(f"{command[0]}: {exc.strerror}") from exc


def _received_descriptor(channel: socket.socket) -> int:
    size = array.array("i").itemsize
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int(array.array("i", data[:size])[0])
    raise MountError("fusermount3 mounted but gave no descriptor")


def _fusermount() -> str:
    found = shutil.which("fusermount3")
    if found is None:
        raise MountError("fusermount3 is not installed; apt (or dnf) install fuse3")
    return found


def _check_device() -> None:
    if not DEVICE.exists():
        raise MountError(
            f"{DEVICE} is missing; modprobe fuse (in a container: --device {DEVICE}"
            " --cap-add SYS_ADMIN)"
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):  # fusermount3 opens it as its caller
        raise MountError(f"{DEVICE}: no permission; {_how_to_open()}")


def _check_helper(helper: Path) -> None:
    if os.geteuid() != 0 and not os.stat(helper).st_mode & stat.S_ISUID:
        raise MountError(
            f"{helper} is not setuid root, so that only root can mount; as root: chmod u+s {helper}"
        )


def _check_mountpoint(mountpoint: Path, options: MountOptions) -> None:
    """Raise MountError unless *mountpoint* is an empty directory without a FUSE mount on it."""
    on_top = Path(os.path.realpath(mountpoint))
    try:
        mode = os.stat(mountpoint).st_mode
        if device_number(on_top) is not None:
            os.statvfs(mountpoint)  # not answered by the kernel alone, as stat may be
    except OSError as exc:
        if exc.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            raise MountError(_unusable(mountpoint, exc)) from exc
        _clear_dead(mountpoint, options)
        _check_mountpoint(mountpoint, options)  # there may be another one below it
        return
    if not stat.S_ISDIR(mode):
        raise MountError(f"{mountpoint}: not a directory; name an empty directory to mount on")
    if device_number(on_top) is not None:
        raise MountError(
            f"{mountpoint}: already mounted; unmount it first (fusermount3 -u {mountpoint})"
        )
    # systemd mounts when somebody looks into an autofs: if we looked, we would wait for ourselves.
    if not options.nonempty and _on_top(on_top).kind != "autofs":
        _check_empty(mountpoint)


def _clear_dead(mountpoint: Path, options: MountOptions) -> None:
    """Unmount the mount of a dead process, if that is allowed and the process was one of ours.
    Raises MountError otherwise."""
    kind = _on_top(mountpoint).kind
    if options.clear_dead and kind == f"fuse.{options.subtype}":
        unmount(mountpoint, lazy=True)
        log.info("%s: unmounted a dead mount that was left there", mountpoint)
        return
    clear = f"fusermount3 -u -z {mountpoint}"
    if kind == f"fuse.{options.subtype}":
        clear += ", or mount with -o clear_dead"
    raise MountError(
        f"{mountpoint}: the process of the file system ({kind}) mounted there has died; {clear}"
    )


def _check_empty(directory: Path) -> None:
    try:
        with os.scandir(directory) as entries:
            first = next(entries, None)
    except PermissionError:
        return  # fusermount3 says whether one may mount there
    if first is not None:
        raise MountError(
            f"{directory}: not empty, and the mount would hide its files, such as {first.name!r}"
            " (maybe written while nothing was mounted there); name an empty directory,"
            " or use -o nonempty"
        )


def _unusable(mountpoint: Path, exc: OSError) -> str:
    if exc.errno == errno.ENOENT:
        return f"{mountpoint}: no such directory; mkdir {mountpoint}"
    if exc.errno == errno.EACCES:
        return (
            f"{mountpoint}: no permission to look at it; it is a mount or directory of another user"
        )
    return f"{mountpoint}: {exc.strerror}"


def _reason(mountpoint: Path, printed: str, options: MountOptions) -> str:
    """Return one line that says what fusermount3 meant and what to do."""
    said = _one_line(printed)
    if "user_allow_other" in said:
        return "allow_other is for root only; add the line user_allow_other to /etc/fuse.conf"
    if "failed to open" in said and str(DEVICE) in said:
        return f"{DEVICE}: no permission; {_how_to_open()} ({said})"
    if "no write access" in said or "not owned" in said:
        return f"{mountpoint}: must belong to you and be writable to mount on it ({said})"
    if "too many FUSE" in said:
        return f"{said}; raise mount_max in /etc/fuse.conf"
    if "Operation not permitted" in said or "permission" in said.lower():
        return (
            f"{mountpoint}: mounting is not permitted here ({said}); fusermount3 must be setuid"
            " root, and a container needs --cap-add SYS_ADMIN"
        )
    return f"{mountpoint}: {said or 'fusermount3 failed without a word'} (-o {options})"


def _how_to_open() -> str:
    """Return what a user has to do to be able to open the device."""
    status = os.stat(DEVICE)
    if os.geteuid() == 0:
        return f"in a container: --device {DEVICE} --cap-add SYS_ADMIN"
    if status.st_mode & stat.S_IRWXG == stat.S_IRWXG & 0o666 and status.st_gid != 0:
        group = _group_name(status.st_gid)
        return f"join the group {group} (usermod -aG {group} USER, then log in again)"
    return f"chmod 0666 {DEVICE}, or mount as root"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _one_line(printed: str) -> str:
    lines = [line.strip().removeprefix("fusermount3: ") for line in printed.splitlines()]
    return "; ".join(line for line in lines if line)
