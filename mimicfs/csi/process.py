"""The process that serves a volume: `mimicfs mount`. It is started with the secrets in its
environment, lives on without the driver, and answers at its control socket.

    DIRECTORY/state          the state of the volume: mirror, staging, blocks, log
    DIRECTORY/mnt-HASH       its mount point, for each set of options

Threading: no state of its own; a caller holds the volume (volumes.py).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicfs.admin.controlsocket import ask
from mimicfs.config.given import from_words
from mimicfs.config.options import BY_NAME
from mimicfs.config.values import S3Options, Settings
from mimicfs.csi import binding
from mimicfs.csi.asked import ALLOWED
from mimicfs.csi.refusal import Code, Refusal
from mimicfs.errors import MimicError, MountError
from mimicfs.files.journal import Journal
from mimicfs.fuse import mounting
from mimicfs.fuse.mountpoint import resolved
from mimicfs.mount.ending import PendingTotal
from mimicfs.mount.mounted import control_socket, is_served, mounts, watched
from mimicfs.private import private_directory

_START_S = 90.0  # kubelet gives a call two minutes
_AGAIN_S = 0.2
_CACHE_SIZE = "cache_size=1G"  # unless the volume names another: a node has many volumes
# From the driver's own environment, a volume with secrets, or of a pod, gets no credentials, and no
# variable that it may not set itself: a store answers everybody who shares it (docs/security.md).
_OF_DRIVER = ("AWS_", "MIMICFS_")
_KEPT = frozenset(
    {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"}
    | {BY_NAME[name].variable for name in ALLOWED}
)
# Options that only one process of a node can have, or that keep `mimicfs mount` from returning.
_OF_ONE = frozenset(BY_NAME[name].variable for name in ("metrics", "access-log", "foreground"))
# The exit codes of a command (cli/__init__.py), and the codes of CSI for them.
_CODES: Mapping[int, Code] = {
    2: Code.INVALID_ARGUMENT,
    5: Code.PERMISSION_DENIED,
    6: Code.NOT_FOUND,
    7: Code.UNAVAILABLE,
}


class StartRefused(Refusal):
    """There is no mount: its process said why it did not begin, and has ended; or there was
    none."""


@dataclass(frozen=True, slots=True)
class Process:
    """The process that serves, or will serve, at *point*, a directory in *directory*."""

    directory: Path
    point: Path

    @property
    def settings(self) -> Settings:
        return Settings(S3Options(), self.directory / "state/mimicfs")

    @property
    def staging(self) -> Path:
        return self.settings.state / "staging"

    @property
    def device(self) -> str | None:
        """The device that the kernel shows at the point; None: there is no FUSE file system."""
        return mounting.device_number(self.point)

    @property
    def alive(self) -> bool:
        """Whether the process that serves the point lives, however slow it is."""
        return self.device is not None and is_served(self.settings, self.point)

    def answers(self) -> bool:
        """Whether the process answers a question that costs it nothing."""
        try:
            ask(control_socket(self.settings, self.point), "log-level")
        except MimicError:
            return False
        return True

    def start(
        self, url: str, chosen: tuple[str, ...], secrets: Mapping[str, str], *, apart: bool
    ) -> None:
        """Mount *url*. A dead mount at the same place is unmounted first. *apart*: in any case
        without the credentials of the driver. Raises Refusal."""
        if self.device is not None:
            binding.unbind(str(self.point), lazy=True)
        private_directory(self.point)
        options = [*chosen, "allow_other"]
        if "cache-size" not in from_words(chosen):
            options.append(_CACHE_SIZE)
        # Whatever the settings of the driver say: `left` must find bytes that S3 does not have yet.
        options.append(f"cache_dir={self.settings.state}")
        options += ["metrics=", "access_log="]  # none, also if a configuration file names one
        # Each by itself: nothing in one can reach into the next.
        said = [part for word in options for part in ("-o", word.replace(",", r"\,"))]
        words = [sys.executable, "-m", "mimicfs", "mount", *said, url, str(self.point)]
        environment = self._environment(secrets, apart or bool(secrets))
        try:
            done = subprocess.run(
                words, env=environment, cwd="/", stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=_START_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            text = f"{url}: the mount does not answer within {_START_S:.0f} s"
            raise Refusal(Code.UNAVAILABLE, text) from exc
        except OSError as exc:  # of fork(2) or execve(2): there is no process
            text = f"{url}: the mount could not be started: {exc.strerror}"
            raise StartRefused(Code.UNAVAILABLE, text) from exc
        if done.returncode:
            why = without(secrets, done.stderr.strip().removeprefix("mimicfs: "))
            raise StartRefused(_CODES.get(done.returncode, Code.INTERNAL), why)

    def _environment(self, secrets: Mapping[str, str], apart: bool) -> dict[str, str]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in _OF_ONE
            and (not apart or not name.startswith(_OF_DRIVER) or name in _KEPT)
        }
        if apart:  # it does not get the files in the driver's home either
            environment.pop("XDG_CONFIG_HOME", None)
            environment |= {**secrets, "HOME": str(self.directory)}
            nowhere = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
            environment |= dict.fromkeys(nowhere, os.devnull)
        environment["XDG_STATE_HOME"] = str(self.directory / "state")
        return environment

    def flush(self, until: float, *, meanwhile: bool) -> None:
        """Return when all files that were closed by now are in S3; *meanwhile*: and all files that
        are closed until then. Raises Refusal at *until* (monotonic)."""
        began = time.monotonic()
        while self.alive:  # else the caller looks for the bytes that the process has left
            asked_s = time.monotonic() - began
            queue = self._queue()
            if queue["files"] == 0 or (not meanwhile and queue["oldest_s"] < asked_s):
                return
            _check(until, PendingTotal(queue["files"], queue["bytes"]), queue["error"])
            time.sleep(_AGAIN_S)

    def _queue(self) -> dict[str, Any]:
        """Return the closed files that are not in S3 yet. A process that does not answer may have
        any number."""
        try:
            told = ask(control_socket(self.settings, self.point), "status")
            queue: dict[str, Any] = told["files"]["write_back"]
        except (MimicError, KeyError) as exc:
            why = f"the mount does not answer: {exc}"
            return {"files": 1, "bytes": 0, "oldest_s": math.inf, "error": why}
        return queue

    def end(self, until: float) -> None:
        """Unmount, and return when everything is in S3 and the process has ended. Raises Refusal at
        *until*, and if there are bytes that nobody uploads any more."""
        if self.alive:
            self.flush(until, meanwhile=True)
            self._unmount()
        elif self.device is not None:
            binding.unbind(str(self.point), lazy=True)
        self.wait(until)
        binding.remove(str(self.point))

    def _unmount(self) -> None:
        try:
            mounting.unmount(self.point)
        except MountError as exc:
            if self.device is not None:
                raise Refusal(Code.FAILED_PRECONDITION, str(exc)) from exc

    def wait(self, until: float) -> None:
        """Return when no process serves the point any more. Raises Refusal at *until*."""
        with watched(self.settings, self.point) as wait:
            wait(lambda pending: _check(until, pending))

    def left(self) -> int:
        """Return how many files are left that no process uploads; the next process here will."""
        if not self.staging.is_dir():
            return 0
        journal = Journal.open(self.staging)
        return len(journal.orphans()) + len(journal.waiting)

    def recovered(self) -> int:
        """Return how many files a person must look at, because S3 has other versions of them."""
        return Journal(self.staging).recovered()

    def clear(self) -> None:
        """Remove the state of the volume, except files that a person must look at. Remove nothing
        while other mounts are served from there."""
        if not any(self.directory.glob("mnt-*")):
            _remove_but(self.staging / "recovered", self.directory)

    def terminate(self) -> None:
        """Have the process upload the open files, and end."""
        for each in mounts(self.settings):
            if each.alive and each.mountpoint == str(resolved(self.point)):
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGTERM)


def _remove_but(kept: Path, directory: Path) -> None:
    """Remove *directory*, except *kept*, if that is not empty, and the directories above *kept*."""
    for each in directory.iterdir():
        if each == kept and any(each.iterdir()):
            continue
        if each.is_symlink() or not each.is_dir():
            each.unlink(missing_ok=True)
        elif each in kept.parents:
            _remove_but(kept, each)
        else:
            shutil.rmtree(each, onerror=_unless_gone)
    if not any(directory.iterdir()):
        directory.rmdir()


def _unless_gone(_: object, path: str, failure: tuple[Any, BaseException, Any]) -> None:
    """Raise what kept *path* from being removed; unless the process has removed it: as the last
    thing that it does, it closes its store."""
    _, error, _ = failure
    if not isinstance(error, FileNotFoundError):
        raise error


def without(secrets: Mapping[str, str], text: str) -> str:
    """Return *text* in one line, with none of *secrets* in it."""
    for value in secrets.values():
        text = text.replace(value, "***")
    return " ".join(text.split())


def _check(until: float, pending: PendingTotal, error: str = "") -> None:
    if time.monotonic() > until:
        why = f" ({error})" if error else ""
        raise Refusal(Code.DEADLINE_EXCEEDED, f"{pending}{why}; to be tried again")
