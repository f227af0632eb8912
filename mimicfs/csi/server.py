"""The services Identity and Node of the Container Storage Interface, at a Unix socket.

Threading: a thread for each request, as many as a node may have pods that end at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from mimicfs import __version__
from mimicfs.csi import protocol
from mimicfs.csi.asked import given, named, publishing
from mimicfs.csi.protocol import MESSAGES
from mimicfs.csi.refusal import Code, Refusal
from mimicfs.csi.volumes import Volumes
from mimicfs.errors import ConfigError, MimicError

log = logging.getLogger(__name__)

_THREADS = 64
_SPARE_S = 1.0  # the part of the caller's time that is kept for the answer
_GRACE_S = 5.0
_CAPABILITIES = (
    protocol.GET_VOLUME_STATS,
    protocol.VOLUME_CONDITION,
    protocol.SINGLE_NODE_MULTI_WRITER,
    protocol.VOLUME_MOUNT_GROUP,
)

Method = Callable[[Any, float], Any]  # from a request and its deadline (monotonic) to its answer


@dataclass(frozen=True, slots=True)
class Plugin:
    """The description of the driver, and how long it waits for uploads."""

    name: str
    node: str
    uploads_s: float


class Services:
    """The methods of both services, by their names."""

    def __init__(self, plugin: Plugin, volumes: Volumes) -> None:
        self._plugin = plugin
        self._volumes = volumes
        self.methods: dict[str, Method] = {
            "GetPluginInfo": self._info,
            "GetPluginCapabilities": lambda request, until: _answer("GetPluginCapabilities"),
            "Probe": self._probe,
            "NodeGetInfo": lambda request, until: _answer("NodeGetInfo", node_id=plugin.node),
            "NodeGetCapabilities": self._capabilities,
            "NodePublishVolume": self._publish,
            "NodeUnpublishVolume": self._unpublish,
            "NodeGetVolumeStats": self._stats,
        }

    def _info(self, request: Any, until: float) -> Any:
        return _answer("GetPluginInfo", name=self._plugin.name, vendor_version=__version__)

    def _probe(self, request: Any, until: float) -> Any:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
            raise Refusal(Code.FAILED_PRECONDITION, "/dev/fuse or fusermount3 is missing")
        return _answer("Probe", ready={"value": True})

    def _capabilities(self, request: Any, until: float) -> Any:
        found = [{"rpc": {"type": number}} for number in _CAPABILITIES]
        return _answer("NodeGetCapabilities", capabilities=found)

    def _publish(self, request: Any, until: float) -> Any:
        self._volumes.publish(publishing(request))
        return _answer("NodePublishVolume")

    def _unpublish(self, request: Any, until: float) -> Any:
        volume, target = named(request.volume_id, request.target_path, "target_path")
        until = min(until, time.monotonic() + self._plugin.uploads_s)
        self._volumes.unpublish(volume, target, until)
        return _answer("NodeUnpublishVolume")

    def _stats(self, request: Any, until: float) -> Any:
        # A volume that was never published is NOT_FOUND, whatever it looks like: csi-sanity wants
        # that.
        volume, path = given(request.volume_id, request.volume_path, "volume_path")
        wrong, told = self._volumes.condition(volume, path)
        condition = {"abnormal": bool(wrong), "message": wrong or "it answers"}
        return _answer("NodeGetVolumeStats", volume_condition=condition, usage=_usage(told))


def _usage(told: os.statvfs_result | None) -> list[dict[str, int]]:
    if told is None:
        return []
    unit, size = told.f_frsize, told.f_blocks * told.f_frsize
    free = told.f_bavail * unit
    counted = {"unit": protocol.INODES, "total": told.f_files, "available": told.f_favail,
               "used": told.f_files - told.f_ffree}  # fmt: skip
    return [
        {"unit": protocol.BYTES, "total": size, "available": free, "used": size - free},
        counted,
    ]


def _answer(method: str, **fields: Any) -> Any:
    return MESSAGES[f"{method}Response"](**fields)


def serve(endpoint: str, plugin: Plugin, state: Path) -> None:
    """Answer at *endpoint*, unix:///PATH, until SIGTERM. Mounts live on. But if we are process 1 of
    a container, they would be killed with us: then we have them upload and end. Raises MimicError.
    """
    path = socket_path(endpoint)
    volumes = Volumes(state)
    volumes.adopt()
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    services = Services(plugin, volumes)
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                service, {name: _handler(name, services.methods[name]) for name in names}
            )
            for service, names in protocol.SERVICES.items()
        )
    )
    _listen(server, path)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server.start()
    log.info("%s of node %s answers at %s", plugin.name, plugin.node, path)
    try:
        while not ended.wait(1.0):  # a signal that another thread takes does not wake us
            if os.getpid() == 1:
                _reap()
        server.stop(_GRACE_S).wait()
        path.unlink(missing_ok=True)
    finally:
        if os.getpid() == 1:
            volumes.end()


def socket_path(endpoint: str) -> Path:
    """Return the path that *endpoint* names. Raises ConfigError."""
    path = endpoint.removeprefix("unix:")
    path = path.removeprefix("//")
    if not path.startswith("/"):
        raise ConfigError(f"--endpoint {endpoint}: write unix:///PATH")
    return Path(path)


def _listen(server: grpc.Server, path: Path) -> None:
    """Listen at *path*, for root alone. Raises ConfigError if another driver does."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        raise ConfigError(f"{path}: another process answers there; end it first")
    path.unlink(missing_ok=True)
    os.umask(0o077)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as exc:
        raise ConfigError(f"--endpoint {path}: cannot listen there; {exc}") from exc


def _reap() -> None:
    """As process 1, bury the processes of volumes, which are in sessions of their own. The code
    that starts our other children waits for them itself."""
    # A thread that waits for a child of its own may be quicker than we: then the process is gone.
    with suppress(ChildProcessError, ProcessLookupError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if os.getsid(found.si_pid) == os.getsid(0):
                return
            os.waitpid(found.si_pid, 0)


def _handler(name: str, method: Method) -> grpc.RpcMethodHandler:
    request, response = MESSAGES[f"{name}Request"], MESSAGES[f"{name}Response"]
    return grpc.unary_unary_rpc_method_handler(
        partial(_answered, name, method), request.FromString, response.SerializeToString
    )


def _answered(name: str, method: Method, request: Any, context: grpc.ServicerContext) -> Any:
    began, left = time.monotonic(), context.time_remaining()
    until = float("inf") if left is None else began + max(left - _SPARE_S, 0.0)
    answer, code, text = None, grpc.StatusCode.OK, ""
    try:
        answer = method(request, until)
    except Refusal as exc:
        code, text = grpc.StatusCode[exc.code.name], str(exc)
    except (MimicError, OSError) as exc:
        code, text = grpc.StatusCode.INTERNAL, str(exc)
    _note(name, request, f"{code.name} {text}".strip(), time.monotonic() - began)
    if answer is None:
        context.abort(code, text)
    return answer


def _note(name: str, request: Any, outcome: str, took_s: float) -> None:
    """Log a request: only those of its fields that are never secret."""
    volume, path = (str(getattr(request, field, "")) for field in ("volume_id", "target_path"))
    shown = " ".join(part for part in (name, volume, path) if part)
    level = logging.INFO if volume or outcome != "OK" else logging.DEBUG
    log.log(level, "%s: %s (%.1f s)", shown, outcome, took_s)
