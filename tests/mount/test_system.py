"""Mounting as the system does it: mount(8), fstab(5), the service manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mounts import MIMICFS, Mount, mount_lines, run, succeed, unmounted, wait_until
from support.proxy import Hold, Proxy

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def config(state: Path, proxy: Proxy, store: str, tmp_path: Path) -> Path:
    """A configuration file that says which server and which store."""
    path = tmp_path / "config.toml"
    path.write_text(f'endpoint-url = "{proxy.url}"\nstore = "{store}"\n')
    path.chmod(0o600)
    return path


def as_system(tmp_path: Path, script: str, fstab: str) -> list[str]:
    """Run *script* where the helpers are installed and *fstab* is /etc/fstab, but only there:
    in a mount namespace of its own. Return what it prints."""
    if os.geteuid() != 0:
        pytest.skip("only root can have a mount namespace")
    helpers = tmp_path / "helpers"
    helpers.mkdir()
    succeed("install-helper", "--directory", helpers)
    (tmp_path / "fstab").write_text(fstab)
    sbin = os.path.realpath("/sbin")
    before = f"mount -t overlay overlay -o lowerdir={helpers}:{sbin} {sbin}\n"
    before += f"mount --bind {tmp_path}/fstab /etc/fstab\n"
    words = ["timeout", "40", "unshare", "-m", "sh", "-euc", before + script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=45, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_lines_of_fstab_are_mounted_by_mount(
    config: Path, tmp_path: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="d/a b/file", Body=b"hello")
    for name in ("one", "all", "part"):
        (tmp_path / name).mkdir()
    system = "_netdev,nofail,x-systemd.automount,x-systemd.requires=network-online.target"
    fstab = f"""
s3://{bucket} {tmp_path}/one fuse.mimicfs noauto,user,{system},ro,allow_other,uid=12,gid=34,umask=027,config={config} 0 0
s3:// {tmp_path}/all mimicfs defaults,{system},uid=nobody,gid=nogroup,umask=022,config={config} 0 0
s3://{bucket}/d/a\\040b {tmp_path}/part fuse.mimicfs {system},config={config},comment=photos 0 0
"""  # noqa: E501
    script = f"""
    cd {tmp_path}
    mount -a
    mount -a
    mount one
    findmnt -rn -o SOURCE,FSTYPE -M {tmp_path}/one
    findmnt -rn -o OPTIONS -M {tmp_path}/one | tr , '\\n' | grep -x -e ro -e nosuid -e nodev -e noexec -e allow_other
    stat -c '%a %u %g' one/d 'one/d/a b/file'
    stat -c '%a %U %G' all/{bucket}/d 'all/{bucket}/d/a b/file'
    cat all/{bucket}/d/a\\ b/file part/file; echo
    echo new > part/new
    mount -t fuse.mimicfs | grep -c {tmp_path}/
    umount one all part
    mount -t fuse.mimicfs | grep -c {tmp_path}/ || true
    """  # noqa: E501
    assert as_system(tmp_path, script, fstab) == [
        f"s3://{bucket}/ fuse.mimicfs",
        *("ro", "nosuid", "nodev", "noexec", "allow_other"),
        *("750 12 34", "640 12 34", "755 nobody nogroup", "644 nobody nogroup"),
        *("hellohello", "3", "0"),
    ]
    assert client.get_object(Bucket=bucket, Key="d/a b/new")["Body"].read() == b"new\n"


def test_mount_through_fuse3_without_our_helper(
    config: Path, tmp_path: Path, client: Any, bucket: str
) -> None:
    """mount.fuse3 calls `mimicfs SOURCE DIRECTORY`, and adds suid and dev."""
    point = tmp_path / "mnt"
    point.mkdir()
    script = f"""
    rm {tmp_path}/helpers/mount.fuse.mimicfs
    ln -s {MIMICFS} {tmp_path}/helpers/mimicfs
    PATH={tmp_path}/helpers:$PATH mount -t fuse.mimicfs -o config={config} s3://{bucket} {point}
    findmnt -rn -o OPTIONS -M {point} | tr , '\\n' | grep -x -e nosuid -e nodev
    umount {point}
    """.replace(f"rm {tmp_path}/helpers/mount.fuse.mimicfs", ":")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers").rmdir()
    # Without mount.fuse.mimicfs in the way: the call that mount.fuse3 makes.
    assert as_system(tmp_path, script, "") == ["nosuid", "nodev"]
    result = run(f"s3://{bucket}", point, "-o", f"rw,suid,dev,config={config}")
    assert result.returncode == 0, result.stderr
    assert {"nosuid", "nodev"} <= set(options_of(point))
    succeed("umount", point)


def options_of(point: Path) -> list[str]:
    lines = [line.split() for line in mount_lines("mounts")]
    return next(line[3] for line in lines if line[1] == str(point)).split(",")


def test_the_helper_by_itself(config: Path, tmp_path: Path, bucket: str) -> None:
    helper, point = MIMICFS.with_name("mount.mimicfs"), tmp_path / "mnt"
    point.mkdir()

    def call(*words: Any) -> tuple[int, str]:
        line = [str(helper), *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stderr

    said = f"config={config}"
    assert call(f"s3://{bucket}", point, "-f", "-n", "-v", "-o", said) == (0, "")
    assert unmounted(point)
    assert call(f"s3://{bucket}", point, "-o", f"{said},color=red")[0] == 1
    assert call(f"s3://{bucket}", point, "-f", "-s", "-o", f"{said},color=red") == (0, "")
    code, text = call(f"s3://no-such-{bucket}", point, "-o", said)
    assert (code, "no such bucket" in text, len(text.splitlines())) == (32, True, 1)
    assert call(point) == (
        1,
        "mimicfs: mount.mimicfs s3://[BUCKET[/PREFIX]] DIRECTORY [-sfnv] [-o OPTIONS]\n",
    )


def test_a_mount_is_made_read_only_and_writable_again(
    mount_at: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can remount")
    mount = mount_at(f"s3://{bucket}", "-o", "umask=022")

    def remount(option: str) -> tuple[int, str]:
        line = [MIMICFS.with_name("mount.mimicfs"), f"s3://{bucket}", mount.path, "-o"]
        words = [*map(str, line), f"nosuid,nodev,remount,{option}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stderr

    with open(mount.path / "a", "w") as file:
        code, said = remount("ro")
        assert (code, said.endswith("busy.\n")) == (32, True)
        file.write("text")
    assert remount("ro") == (0, "")
    with pytest.raises(OSError, match="Read-only"):
        (mount.path / "b").mkdir()
    assert (mount.path / "a").read_text() == "text"
    assert remount("rw") == (0, "")
    (mount.path / "b").mkdir()
    code, said = remount("uid=5")
    assert (code, said[:36]) == (1, "mimicfs: -o uid=5: cannot be changed")
    # mount(8) repeats what fstab says of a mount; here, it says nothing of nosuid,nodev.
    fstab = tmp_path / "fstab"
    fstab.write_text(f"s3://{bucket} {mount.path} fuse.mimicfs noauto,umask=022 0 0\n")
    monkeypatch.setenv("LIBMOUNT_FSTAB", str(fstab))
    assert remount("umask=022,ro") == (0, "")
    assert remount("umask=022,rw") == (0, "")
    assert os.statvfs(mount.path).f_flag & (os.ST_NOSUID | os.ST_NODEV) == 6
    mount.end()
    begun_so = mount_at(f"s3://{bucket}", "-o", "ro")
    assert remount("rw")[0] == 1
    begun_so.end()


def test_helpers_are_installed_and_removed_and_nothing_else(tmp_path: Path, server: str) -> None:
    assert len(succeed("install-helper", "--directory", tmp_path).splitlines()) == 4
    assert os.readlink(tmp_path / "mount.fuse.mimicfs") == str(MIMICFS.with_name("mount.mimicfs"))
    assert os.readlink(tmp_path / "umount.fuse.mimicfs") == str(MIMICFS.with_name("umount.mimicfs"))
    succeed("install-helper", "--directory", tmp_path)
    succeed("install-helper", "--directory", tmp_path, "--remove")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mount.mimicfs").write_text("somebody else's")
    result = run("install-helper", "--directory", tmp_path)
    assert result.returncode == 3
    assert "it exists and is no link to mimicfs; remove it first" in result.stderr


# The service manager


class Manager:
    """A service manager, as far as sd_notify(3) goes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(20)

    def told(self) -> dict[str, str]:
        """Return what comes next."""
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = request.param == "abstract"
    manager = Manager(f"@mimicfs-{os.getpid()}" if abstract else str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_the_service_manager_is_told(
    mount_at: Any, client: Any, bucket: str, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    mount: Mount = mount_at(f"s3://{bucket}")
    assert manager.told() == {"READY": "1", "STATUS": f"mounted at {mount.path}"}
    with open(mount.path / "a", "wb", buffering=0) as file:
        file.write(b"not closed yet")
        mount.process.send_signal(signal.SIGTERM)
        assert manager.told() == {"STOPPING": "1"}
        assert manager.told() == {
            "EXTEND_TIMEOUT_USEC": "30000000",
            "STATUS": "1 file, 14 B, to be uploaded",
        }
    assert mount.process.wait(30) == 0
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"not closed yet"


# The end


def test_umount_waits_for_uploads_and_says_for_how_much(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    (mount.path / "a").write_bytes(b"old" * 1000)
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        # Written through a mapping whose descriptor is closed: nobody waits for the upload, and
        # the mount is not in use.
        program = (
            "import ctypes, os; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
            "file = os.open('a', os.O_RDWR); place = libc.mmap(None, 3000, 3, 1, file, 0)\n"
            "os.close(file); ctypes.memmove(place, b'new', 3)"
        )
        subprocess.run([sys.executable, "-c", program], cwd=mount.path, check=True, timeout=20)
        words = [str(MIMICFS), "umount", str(mount.path)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting: 1 file, 2.9 KiB, to be uploaded\n"
            assert hold.reached.is_set()
            assert process.poll() is None
            hold.release()
            assert process.wait(20) == 0
    assert mount.process.wait(5) == 0
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read(6) == b"newold"


def test_umount_waits_for_what_write_back_has_promised(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    mount: Mount = mount_at(f"s3://{bucket}", "--write-back")
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        for name in ("a", "b", "c"):
            (mount.path / name).write_bytes(bytes(1 << 20))
        words = [str(MIMICFS), "umount", str(mount.path)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting: 3 files, 3.0 MiB, to be uploaded\n"
            hold.release()
            assert process.wait(20) == 0
    assert mount.process.wait(5) == 0
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 3


def test_umount_says_that_another_mount_namespace_keeps_the_mount(
    mount_at: Any, bucket: str
) -> None:
    mount = mount_at(f"s3://{bucket}")
    with subprocess.Popen(["unshare", "-m", "sh", "-c", "echo; exec sleep 40"], stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()  # it has a copy of every mount
        words = [str(MIMICFS), "umount", str(mount.path)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == (
                "waiting: S3 has everything, but another mount namespace (a container) has the"
                " mount too\n"
            )
            other.kill()
            other.wait()
        assert process.returncode == 0


def test_umount_lazy_leaves_open_files_to_go_on(mount_at: Any, client: Any, bucket: str) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    with open(mount.path / "a", "wb", buffering=0) as file:
        file.write(b"still")
        result = run("umount", mount.path)
        assert (result.returncode, "in use; close what uses it" in result.stderr) == (3, True)
        succeed("umount", "--lazy", mount.path)
        assert unmounted(mount.path)
        file.write(b" open")
    assert mount.process.wait(20) == 0
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"still open"


def test_what_a_dead_mount_left_can_be_kept(mount_at: Any, bucket: str, proxy: Proxy) -> None:
    mount: Mount = mount_at(f"s3://{bucket}")
    mount.process.kill()
    mount.process.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)
    words = ["mount", "--endpoint-url", proxy.url, "--store", "memory:", f"s3://{bucket}"]
    result = run(*words, "--no-clear-dead", mount.path)
    assert result.returncode == 3
    assert result.stderr == (
        f"mimicfs: {mount.path}: the process of the file system (fuse.mimicfs) mounted there has"
        f" died; fusermount3 -u -z {mount.path}, or mount with -o clear_dead\n"
    )
    succeed(*words, mount.path)
    assert os.listdir(mount.path) == []
    succeed("umount", mount.path)


def test_a_mount_that_fails_leaves_nothing_behind(
    state: Path, tmp_path: Path, proxy: Proxy, bucket: str
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    words = ["mount", "--endpoint-url", proxy.url, f"s3://no-such-{bucket}", point]
    assert run(*words).returncode == 6
    assert unmounted(point)
    assert os.listdir(point) == []
    assert list(state.glob("mounts/*")) == []
    wait_until(lambda: not processes_about(point))


def processes_about(point: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(point) in words:
            found.append(process.parent.name)
    return found
