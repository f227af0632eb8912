"""A driver in a process of its own, and what asks it as kubelet does: a client that protoc made."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.mounts import MIMICFS, unmounted, wait_until

with warnings.catch_warnings():  # of pkg_resources, which older ones use
    warnings.simplefilter("ignore", DeprecationWarning)
    from grpc_tools import protoc


@pytest.fixture(scope="session")
def csi(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The modules csi_pb2 and csi_pb2_grpc, in one."""
    made = tmp_path_factory.mktemp("protoc")
    proto = Path(request.config.getoption("--csi-proto"))
    known = Path(protoc.__file__).parent / "_proto"
    places = [
        f"-I{proto.parent}",
        f"-I{known}",
        f"--python_out={made}",
        f"--grpc_python_out={made}",
    ]
    assert protoc.main(["protoc", *places, str(proto)]) == 0
    sys.path.insert(0, str(made))
    found: Any = importlib.import_module(f"{proto.stem}_pb2")
    services = importlib.import_module(f"{proto.stem}_pb2_grpc")
    found.Node, found.Identity = services.NodeStub, services.IdentityStub
    sys.path.remove(str(made))
    return found


class Driver:
    """`mimicfs csi`. *pods* is where directories of pods are."""

    def __init__(self, csi: Any, base: Path) -> None:
        self.csi, self.base = csi, base
        self.pods, self.state, self.log = base / "pods", base / "state", base / "driver.log"
        self.pods.mkdir()
        self.volume = ""
        self.start()

    def start(self, *more: str) -> None:
        words = [str(MIMICFS), "csi", "--endpoint", f"unix://{self.base}/csi.sock"]
        words += ["--node-id", "node-7", "--state-dir", str(self.state), *more]
        # A volume with secrets must not be mounted with the driver's own.
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "driver",
            "AWS_SECRET_ACCESS_KEY": "d" * 9,
            "MIMICFS_CACHE_DIR": f"{self.base}/of-driver",
        }
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(words, stderr=output, env=environment)
        self.channel = grpc.insecure_channel(f"unix:{self.base}/csi.sock")
        grpc.channel_ready_future(self.channel).result(30)
        self.node, self.identity = self.csi.Node(self.channel), self.csi.Identity(self.channel)

    def end(self, *, kill: bool = False) -> int:
        self.channel.close()
        (self.process.kill if kill else self.process.terminate)()
        return self.process.wait(30)

    def publish(self, target: Path | str, context: Any, secrets: Any, **more: Any) -> Any:
        """Publish; *more*: volume, mode, flags, group, readonly."""
        capability = self.csi.VolumeCapability(
            mount={
                "mount_flags": more.pop("flags", []),
                "volume_mount_group": more.pop("group", ""),
            },
            access_mode={"mode": more.pop("mode", "MULTI_NODE_MULTI_WRITER")},
        )
        fields = {
            "volume_id": more.pop("volume", self.volume),
            "volume_capability": capability,
            **more,
        }
        request = self.csi.NodePublishVolumeRequest(
            target_path=str(target), volume_context=context, secrets=secrets, **fields
        )
        return self.node.NodePublishVolume(request, timeout=60)

    def unpublish(self, target: Path | str, volume: str = "", timeout: float = 60) -> Any:
        request = self.csi.NodeUnpublishVolumeRequest(
            volume_id=volume or self.volume, target_path=str(target)
        )
        return self.node.NodeUnpublishVolume(request, timeout=timeout)

    def condition(self, target: Path, volume: str = "") -> Any:
        request = self.csi.NodeGetVolumeStatsRequest(
            volume_id=volume or self.volume, volume_path=str(target)
        )
        return self.node.NodeGetVolumeStats(request, timeout=60)

    def serving(self) -> list[int]:
        """Return the processes that serve volumes, without those beside them."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
                parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if os.fsencode(self.state) in b" ".join(words) and b"mount" in words and parent == 1:
                found.append(int(path.parent.name))
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.end()
        points = [*self.pods.iterdir(), *self.state.glob("volumes/*/mnt-*")]
        for point in points:
            if not unmounted(point):
                subprocess.run(["umount", "-l", str(point)], check=False, timeout=10)
        wait_until(lambda: not self.serving())


@pytest.fixture(scope="module")
def one_driver(csi: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    if os.getuid():
        pytest.skip("only root mounts for others")
    driver = Driver(csi, tmp_path_factory.mktemp("csi"))
    yield driver
    driver.close()


@pytest.fixture
def driver(one_driver: Driver, bucket: str) -> Driver:
    """The driver, with a volume of its own for the test."""
    one_driver.volume = f"volume-of-{bucket}"
    return one_driver
