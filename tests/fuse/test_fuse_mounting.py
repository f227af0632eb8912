"""Mounting works as root and as any user; what goes wrong says what to do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from memfs import MemFS
from mounts import HERE, Client, mounted
from support.mounts import mount_lines, wait_until

from mimicfs.errors import MountError
from mimicfs.fuse import mounting
from mimicfs.fuse.mounting import MountOptions
from mimicfs.fuse.mountpoint import resolved
from mimicfs.fuse.session import Session, SessionOptions

pytestmark = pytest.mark.slow

NOBODY = 65534


def refused(path: Path, options: MountOptions | None = None) -> str:
    """Return what mounting at *path* is refused with."""
    with pytest.raises(MountError) as caught:
        Session.mount(path, SessionOptions(options or MountOptions()))
    message = str(caught.value)
    assert "\n" not in message
    return message


def mount_line(path: Path) -> list[str]:
    """Return what /proc/mounts says of *path*."""
    found = [line.split() for line in mount_lines("mounts")]
    return next(line for line in found if line[1] == str(path))


def test_the_mount_is_named_and_restricted(fs: MemFS, mountpoint: Path) -> None:
    options = MountOptions(fsname="s3://bucket,with\\odd name")
    with mounted(fs, mountpoint, SessionOptions(options)):
        source, _, kind, words, *_ = mount_line(mountpoint)
    assert source == "s3://bucket,with\\134odd\\040name"
    assert kind == "fuse.mimicfs"
    assert {"rw", "nosuid", "nodev", "default_permissions"} <= set(words.split(","))
    assert "allow_other" not in words


def test_a_read_only_mount_refuses_writes(fs: MemFS, mountpoint: Path, client: Client) -> None:
    with mounted(fs, mountpoint, SessionOptions(MountOptions(read_only=True))):
        with pytest.raises(OSError, match="Read-only file system"):
            client(os.mkdir, mountpoint / "d")


def test_other_options_are_passed_on(fs: MemFS, mountpoint: Path) -> None:
    options = MountOptions(extra=("nosuid", "nodev", "noexec", "noatime"))
    with mounted(fs, mountpoint, SessionOptions(options)):
        words = mount_line(mountpoint)[3].split(",")
    assert {"noexec", "noatime"} <= set(words)


def test_a_directory_with_files_is_mounted_over_only_when_asked(
    fs: MemFS, mountpoint: Path, client: Client
) -> None:
    (mountpoint / "hidden").touch()
    assert refused(mountpoint) == (
        f"{mountpoint}: not empty, and the mount would hide its files, such as 'hidden'"
        " (maybe written while nothing was mounted there); name an empty directory,"
        " or use -o nonempty"
    )
    with mounted(fs, mountpoint, SessionOptions(MountOptions(nonempty=True))):
        assert client(os.listdir, mountpoint) == []
    assert os.listdir(mountpoint) == ["hidden"]


@pytest.mark.parametrize("name", ["with space", "tab\there", "back\\slash", "grüße", "-o"])
def test_any_name_of_a_mount_point_will_do(
    fs: MemFS, mountpoint: Path, client: Client, name: str
) -> None:
    path = mountpoint.parent / name
    with mounted(fs, path):
        assert mounting.device_number(path) is not None
        assert client(os.listdir, path) == []
    assert mounting.device_number(path) is None


def test_a_link_to_a_directory_is_followed(fs: MemFS, mountpoint: Path, client: Client) -> None:
    link = mountpoint.parent / "link"
    link.symlink_to(mountpoint)
    fs.make("file")
    with mounted(fs, link):
        assert client(os.listdir, mountpoint) == ["file"]
        assert "already mounted" in refused(link)
    assert mounting.device_number(mountpoint) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root may set the read-ahead")
def test_the_kernel_reads_ahead_by_a_mebibyte(fs: MemFS, mountpoint: Path) -> None:
    with mounted(fs, mountpoint):
        number = mounting.device_number(mountpoint)
        assert Path(f"/sys/class/bdi/{number}/read_ahead_kb").read_text() == "1024\n"


# What is refused


def test_a_missing_mount_point(mountpoint: Path) -> None:
    path = mountpoint / "none"
    assert refused(path) == f"{path}: no such directory; mkdir {path}"


def test_a_file_as_mount_point(mountpoint: Path) -> None:
    path = mountpoint / "file"
    path.touch()
    assert refused(path) == f"{path}: not a directory; name an empty directory to mount on"


def test_a_mount_point_in_use(fs: MemFS, mountpoint: Path) -> None:
    with mounted(fs, mountpoint):
        assert refused(mountpoint) == (
            f"{mountpoint}: already mounted; unmount it first (fusermount3 -u {mountpoint})"
        )


def test_no_fusermount3(mountpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(mountpoint))
    assert refused(mountpoint) == "fusermount3 is not installed; apt (or dnf) install fuse3"


def test_an_option_that_nobody_knows(mountpoint: Path) -> None:
    message = refused(mountpoint, MountOptions(extra=("no_such_option",)))
    assert str(mountpoint) in message
    assert "no_such_option" in message


def test_unmounting_what_is_not_mounted(mountpoint: Path) -> None:
    with pytest.raises(MountError, match=str(mountpoint)):
        mounting.unmount(mountpoint)


def test_unmounting_what_is_in_use_says_so(fs: MemFS, mountpoint: Path) -> None:
    with mounted(fs, mountpoint) as mount:
        with subprocess.Popen(["sleep", "60"], cwd=mountpoint) as user:
            try:
                with pytest.raises(MountError, match="in use"):
                    mount.session.unmount()
            finally:
                user.kill()


# Processes of their own


@pytest.fixture
def user_mountpoint(needs_fuse: None) -> Iterator[Path]:
    """A directory of `nobody`, in a place that `nobody` may reach; with /dev/fuse for all."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    before = stat.S_IMODE(os.stat(mounting.DEVICE).st_mode)
    done = subprocess.run(
        ["mktemp", "-d", "/tmp/mimicfs-user-XXXXXX"], capture_output=True, text=True, check=True
    )
    path = Path(done.stdout.strip())
    os.chown(path, NOBODY, NOBODY)
    os.chmod(mounting.DEVICE, 0o666)  # as fuse3's udev rule does
    try:
        yield path
    finally:
        os.chmod(mounting.DEVICE, before)
        if mounting.device_number(path) is not None:
            mounting.unmount(path, lazy=True)
        os.rmdir(path)


def serving(uid: int, path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "serve_as_user.py"), str(uid), str(path), *words]
    environment = dict(os.environ, PYTHONPATH=f"{HERE.parent.parent}:{HERE}")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd="/")


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> int:
    try:
        return process.wait(15)
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def as_nobody(*command: str) -> str:
    done = subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True,
        timeout=10, check=True,
    )  # fmt: skip
    return done.stdout


def test_an_ordinary_user_mounts_uses_and_unmounts(user_mountpoint: Path) -> None:
    server = serving(NOBODY, user_mountpoint)
    try:
        assert first_line(server) == "ready"
        assert as_nobody("cat", f"{user_mountpoint}/file") == "content"
        as_nobody("sh", "-c", f"echo new > {user_mountpoint}/new")
        assert as_nobody("ls", str(user_mountpoint)) == "file\nnew\n"
        assert {"nosuid", "nodev", "user_id=65534"} <= set(
            mount_line(user_mountpoint)[3].split(",")
        )
        server.terminate()
    finally:
        assert ended(server) == 0
    assert mounting.device_number(user_mountpoint) is None


def test_a_directory_of_somebody_else(user_mountpoint: Path) -> None:
    os.chown(user_mountpoint, 0, 0)
    os.chmod(user_mountpoint, 0o755)
    server = serving(NOBODY, user_mountpoint)
    assert first_line(server).startswith(
        f"{user_mountpoint}: must belong to you and be writable to mount on it"
    )
    assert ended(server) == 1


def test_a_device_that_only_root_may_open(user_mountpoint: Path) -> None:
    os.chmod(mounting.DEVICE, 0o600)
    server = serving(NOBODY, user_mountpoint)
    assert first_line(server).startswith("/dev/fuse: no permission; chmod 0666 /dev/fuse")
    assert ended(server) == 1


def test_allow_other_by_an_ordinary_user(user_mountpoint: Path) -> None:
    if "\nuser_allow_other" in Path("/etc/fuse.conf").read_text():
        pytest.skip("/etc/fuse.conf allows it")
    server = serving(NOBODY, user_mountpoint, "allow_other")
    assert first_line(server) == (
        "allow_other is for root only; add the line user_allow_other to /etc/fuse.conf"
    )
    assert ended(server) == 1


@pytest.fixture
def dead(mountpoint: Path) -> Path:
    """A mount point whose server was killed."""
    server = serving(os.getuid(), mountpoint)
    assert first_line(server) == "ready"
    server.kill()
    ended(server)
    with pytest.raises(OSError, match="Transport endpoint is not connected"):
        os.stat(mountpoint)
    return mountpoint


def test_what_a_dead_server_left_is_told(dead: Path) -> None:
    assert refused(dead) == (
        f"{dead}: the process of the file system (fuse.mimicfs) mounted there has died;"
        f" fusermount3 -u -z {dead}, or mount with -o clear_dead"
    )


def test_what_a_dead_server_left_is_cleared_when_asked(
    dead: Path, fs: MemFS, client: Client
) -> None:
    fs.make("alive")
    with mounted(fs, dead, SessionOptions(MountOptions(clear_dead=True))):
        assert client(os.listdir, dead) == ["alive"]
    assert mounting.device_number(dead) is None


def test_sigterm_ends_mount_and_process(mountpoint: Path) -> None:
    server = serving(os.getuid(), mountpoint)
    try:
        assert first_line(server) == "ready"
        with open(mountpoint / "file") as file:
            server.terminate()
            wait_until(lambda: mounting.device_number(mountpoint) is None)
            assert file.read() == "content"
    finally:
        assert ended(server) == 0


def test_a_mount_point_that_is_a_link_is_the_place_where_it_leads(tmp_path):
    place = tmp_path / "real/place"
    place.mkdir(parents=True)
    (tmp_path / "above").symlink_to("real")
    (tmp_path / "real/link").symlink_to("../above/place")
    (tmp_path / "round").symlink_to("round")
    for name in ("real/place", "above/place", "real/link", "above/link", "real/../above/link/"):
        assert resolved(tmp_path / name) == place
    assert resolved(tmp_path / "round") == tmp_path / "round"
    assert resolved(Path("/proc/1/fd/5")) == Path("/proc/1/fd/5")  # that leads to /dev/fuse
