"""The first process of a container, as far as it matters here:  in_container.py CLIENT BASE CONTEXT

Becomes `mimicfs csi`; its child is kubelet, and a pod that has a file open when the container is
stopped. To be run as process 1 of a PID namespace, in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import grpc


def main() -> None:
    client, base, context = sys.argv[1:]
    state, socket = f"{base}/state", f"unix://{base}/csi.sock"
    if os.fork() == 0:
        pod(client, f"unix:{base}/csi.sock", Path(base) / "pod", json.loads(context))
        return
    words = ["mimicfs", "csi", "--endpoint", socket, "--state-dir", state]
    os.execvp(str(Path(sys.executable).with_name("mimicfs")), words)


def pod(client: str, socket: str, target: Path, context: dict[str, str]) -> None:
    """Have a volume published, write, and stop the container with the file still open."""
    sys.path.insert(0, str(Path(client).parent))
    import csi_pb2 as csi
    import csi_pb2_grpc as services

    channel = grpc.insecure_channel(socket)
    grpc.channel_ready_future(channel).result(30)
    capability = {"mount": {}, "access_mode": {"mode": 5}}
    request = csi.NodePublishVolumeRequest(
        volume_id="v1", target_path=str(target), volume_capability=capability,
        secrets={"access_key_id": "A", "secret_access_key": "B"}, volume_context=context,
    )  # fmt: skip
    services.NodeStub(channel).NodePublishVolume(request, timeout=60)
    with open(target / "open", "wb", buffering=0) as file:
        file.write(b"not closed")
        os.kill(1, signal.SIGTERM)
        time.sleep(60)  # it ends with the container


if __name__ == "__main__":
    main()
