"""The steps of scripts/try-image: the image of deploy/Dockerfile is built over a root of Debian, as
python:3.13-slim is, and runs as deploy/compose.yaml says, over a real S3 server. It is killed with
bytes that S3 does not have, started again, and stopped while bytes are uploaded."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from deb_steps import DEBIAN
from support import servers
from support.clients import plain

ROOT = Path(__file__).resolve().parents[1]
BASE = "docker.io/library/python:3.13-slim"  # the name in the Dockerfile
IMAGE, NAME = "localhost/mimicfs-tried", "mimicfs-tried"
INCLUDED = "python3,python3-venv"
CERTIFICATES = "/etc/ssl/certs"
# Within what a machine allows that is a container itself.
LIMITS = ("--runtime=runc", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
BYTES = 20_000_000
_WAIT_S = 60.0


def podman(*words: Any, check: bool = True) -> str:
    done = subprocess.run(
        ["podman", *map(str, words)], capture_output=True, text=True, check=False, timeout=600
    )
    if check and done.returncode:
        raise SystemExit(f"podman {words[0]}: {done.stderr[-2000:]}")
    return done.stdout + done.stderr


def build() -> None:
    kept = Path.home() / ".cache/mimicfs-roots/image.tar"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="mimicfs-image-") as place:
            made = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", "trixie", place]
            subprocess.run([*made, DEBIAN], check=True, stdout=subprocess.DEVNULL)
            (Path(place) / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            part = kept.with_suffix(".part")
            subprocess.run(["tar", "-C", place, "-cf", part, "."], check=True)
            part.replace(kept)
    if not podman("images", "-q", BASE).strip():
        podman("import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/usr/sbin", kept, BASE)
    known = f"PIP_CERT={CERTIFICATES}/ca-certificates.crt"
    words = ["--isolation=chroot", "--network=host", f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"]
    words += [f"--env={known}", "--unsetenv=PIP_CERT", f"--file={ROOT}/deploy/Dockerfile"]
    podman("build", *words, f"--tag={IMAGE}", ROOT)


@contextmanager
def shared(place: Path) -> Iterator[Path]:
    """Within, there is the directory that compose.yaml wants shared, and a mount point in it."""
    above = place / "above"
    (above / "s3").mkdir(parents=True)
    for path in (above, above / "s3"):
        os.chown(path, 1000, 1000)
    subprocess.run(["mount", "--bind", above, above], check=True)
    try:
        subprocess.run(["mount", "--make-shared", above], check=True)
        yield above
    finally:
        subprocess.run(["umount", "-l", above / "s3"], check=False, capture_output=True)
        subprocess.run(["umount", "-l", above], check=True)


class Container:
    """The service `mimicfs` of compose.yaml, of which *above* is the shared directory."""

    def __init__(self, endpoint: str, above: Path, device: Path) -> None:
        said = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["mimicfs"]
        target = next(it["target"] for it in said["volumes"] if isinstance(it, dict))
        self.point = above / Path(said["command"][-1]).relative_to(target)
        self._command = [
            word.replace("${BUCKET:?name a bucket}", "box") for word in said["command"]
        ]
        self._words = [
            *LIMITS,
            "--network=host",
            *(f"--cap-add={it}" for it in said["cap_add"]),
            f"--device={device}:/dev/fuse",
            f"--volume={above}:{target}:rshared",
            f"--volume={NAME}:/var/lib/mimicfs",
            f"--env=AWS_ENDPOINT_URL_S3={endpoint}",
            *(f"--env={name}={os.environ[name]}" for name in os.environ if name[:4] == "AWS_"),
        ]

    def run(self, *options: str) -> None:
        podman("rm", "-f", NAME, check=False)
        command = [*self._command[:-2], *options, *self._command[-2:]]
        podman("run", "-d", f"--name={NAME}", *self._words, IMAGE, *command)
        wait(self.is_healthy, "the health check")

    def is_healthy(self) -> bool:
        words = ["podman", "exec", NAME, "mimicfs", "status", "/mnt/s3"]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0


def wait(until: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not until():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not in {_WAIT_S:.0f} s\n{podman('logs', NAME)}")
        time.sleep(0.2)


def use(container: Container, client: Any) -> None:
    def stored(key: str) -> bytes:
        return bytes(client.get_object(Bucket="box", Key=key)["Body"].read())

    print("a mount in a container is seen here, and its process has no rights of root")
    container.run()
    (container.point / "first").write_text("text")
    assert stored("first") == b"text"
    assert podman("exec", NAME, "id", "-u").strip() == "1000"
    print("a container that was killed with bytes to upload is started again, and uploads them")
    container.run("-o", "write_back,upload_limit=1M")
    (container.point / "killed").write_bytes(b"k" * BYTES)
    podman("kill", NAME)
    container.run()
    wait(lambda: "killed" in os.listdir(container.point), "the file")
    assert stored("killed") == b"k" * BYTES
    print("a container that is stopped uploads first, and leaves no mount")
    container.run("-o", "write_back,upload_limit=6M")
    (container.point / "stopped").write_bytes(b"s" * BYTES)
    podman("stop", "--time=60", NAME)
    assert stored("stopped") == b"s" * BYTES
    assert not os.path.ismount(container.point)


def main() -> int:
    build()
    with tempfile.TemporaryDirectory(prefix="mimicfs-image-") as text:
        place = Path(text)
        device = place / "fuse"
        os.mknod(device, 0o020666, os.makedev(10, 229))
        device.chmod(0o666)
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "very-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with servers.moto(place) as endpoint, shared(place) as above:
            client = plain(endpoint)
            client.create_bucket(Bucket="box")
            try:
                use(Container(endpoint, above, device), client)
            finally:
                podman("rm", "-f", NAME, check=False)
                podman("volume", "rm", NAME, check=False)
    print("the image is good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
