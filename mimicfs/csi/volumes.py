"""The volumes of a node: which volume is published where. One process serves each volume, whatever
the number of pods; pods of one volume with other options have a process of their own.

    STATE/published/HASH.json   a directory of a pod, and the request for it; no secrets
    STATE/volumes/HASH/         the state of a volume (process.py)

    a directory  | nothing --publish--> recorded --bound--> published --unpublish--> nothing
                 | published --its process dies--> dead --publish, with secrets--> published
                 | published, dead --unpublish--> unbound --uploads done--> nothing

Each time, the driver asks the kernel and the processes what is true: so a driver that was killed
finds everything as it was.

Threading: many threads call at once. One thread at a time has a volume and a directory of a pod;
others are told to come back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mimicfs.csi import binding
from mimicfs.csi.asked import AskedVolume, How
from mimicfs.csi.process import Process, StartRefused
from mimicfs.csi.refusal import Code, Refusal
from mimicfs.fuse import mounting
from mimicfs.human import number_of
from mimicfs.private import open_private, private_directory

log = logging.getLogger(__name__)

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Published:
    """A directory of a pod that shows, or will show, a volume."""

    volume: str
    target: str
    how: How

    @property
    def device(self) -> str | None:
        """Return the device that the kernel shows there; None: there is no FUSE file system."""
        return mounting.device_number(Path(self.target))


class Volumes:
    """The volumes in *state*, a directory for us alone."""

    def __init__(self, state: Path) -> None:
        self._published = private_directory(state / "published")
        self._volumes = private_directory(state / "volumes")
        self._lock = threading.Lock()  # protects _busy
        self._busy: set[tuple[str, str]] = set()

    def adopt(self) -> None:
        """Log the volumes that are found when the driver begins."""
        for each in self._all():
            healthy = "served" if self._is_healthy(each) else "DEAD; to be published again"
            log.info("volume %s at %s: %s", each.volume, each.target, healthy)

    def publish(self, asked: AskedVolume) -> None:
        """Show a volume at a directory of a pod. Raises Refusal."""
        wanted = Published(asked.volume, asked.target, asked.how)
        with self._held(asked.volume, asked.target):
            known = self._at(asked.target)
            if known is not None:
                if known != wanted:
                    text = f"{asked.target}: volume {known.volume} is published there otherwise"
                    raise Refusal(Code.ALREADY_EXISTS, text)
                if self._is_healthy(known):
                    return
            self._check_sharing(wanted)
            self._clear(wanted)
            process = self._process(wanted)
            self._write(wanted)  # first, so that `unpublish` can end whatever process runs
            if not process.alive:
                self._start(process, asked, known_before=known is not None)
            binding.bind(str(process.point), asked.target, read_only=asked.how.read_only)

    def _start(self, process: Process, asked: AskedVolume, *, known_before: bool) -> None:
        how = asked.how
        try:
            process.start(how.url, how.words, asked.secrets, apart=how.ephemeral)
        except StartRefused:
            if not known_before:  # nothing runs or is kept: the next request may be another one
                self._file(asked.target).unlink(missing_ok=True)
            raise

    def unpublish(self, volume: str, target: str, until: float) -> None:
        """Remove a volume from a directory, and the directory; return when all written bytes are in
        S3. Raises Refusal, also at *until* (monotonic)."""
        with self._held(volume, target):
            known = self._at(target)
            if known is None:
                self._forget_unknown(target)
                return
            if known.volume != volume:
                text = f"{target}: volume {known.volume} is published there, not {volume}"
                raise Refusal(Code.NOT_FOUND, text)
            process = self._process(known)
            if known.device is not None:
                binding.unbind(target, lazy=not process.alive)
            binding.remove(target)
            self._give_up(known, process, until)
            self._file(target).unlink(missing_ok=True)

    def condition(self, volume: str, path: str) -> tuple[str, os.statvfs_result | None]:
        """Return the fault of a volume at *path* ("": there is none), and its figures. Raises
        Refusal."""
        known = self._at(path)
        if known is None or known.volume != volume:
            raise Refusal(Code.NOT_FOUND, f"{path}: volume {volume} is not published there")
        if not self._is_healthy(known):
            return "the process that served it has died; the pod is to be started again", None
        if not self._process(known).answers():
            return "the process that serves it does not answer", None
        return "", os.statvfs(path)

    def end(self) -> None:
        """Have all processes upload their open files, even processes without a record, and wait for
        them: ours is the last process of a container, and they end with it."""
        processes = [Process(point.parent, point) for point in self._volumes.glob("*/mnt-*")]
        for each in processes:
            each.terminate()
        for each in processes:
            each.wait(_FOREVER)

    @contextmanager
    def _held(self, volume: str, target: str) -> Iterator[None]:
        """Within, nobody else changes *volume*, or the mount at *target*. Raises Refusal if
        somebody does now."""
        held = {("volume", volume), ("target", target)}
        with self._lock:
            taken = held & self._busy
            if taken:
                what, name = max(taken)
                raise Refusal(Code.ABORTED, f"{what} {name}: another request is under way")
            self._busy |= held
        try:
            yield
        finally:
            with self._lock:
                self._busy -= held

    def _check_sharing(self, wanted: Published) -> None:
        """Raise Refusal if the volume may be in one directory only, and another one shows it."""
        if wanted.how.mode.startswith("MULTI_NODE") or wanted.how.mode.endswith("MULTI_WRITER"):
            return
        for each in self._all():
            if each.volume == wanted.volume and each.target != wanted.target and each.device:
                text = f"volume {wanted.volume}: {wanted.how.mode}, and published at {each.target}"
                raise Refusal(Code.FAILED_PRECONDITION, text)

    def _clear(self, wanted: Published) -> None:
        """Unmount what a dead process has left at a directory, which must be empty then. Raises
        Refusal."""
        if wanted.device is not None:
            binding.unbind(wanted.target, lazy=True)
        binding.check(wanted.target)

    def _forget_unknown(self, target: str) -> None:
        """As `unpublish`, of what is not recorded: only what is certainly ours, or empty, goes."""
        if mounting.device_number(Path(target)) is not None:
            text = f"{target}: something is mounted there that this driver did not publish"
            raise Refusal(Code.INTERNAL, text)
        binding.remove(target)

    def _give_up(self, known: Published, process: Process, until: float) -> None:
        """End the process that served *known*, unless it serves others."""
        if self._serves_others(process, known):
            process.flush(until, meanwhile=False)
            return
        process.end(until)
        left = process.left()
        if left:
            raise Refusal(
                Code.INTERNAL,
                f"volume {known.volume}: {number_of(left, 'file')} not in S3, but in"
                f" {process.staging} of the node; uploaded when the volume is published"
                " there again, unless you move what is there away",
            )
        if known.how.ephemeral:
            process.clear()
        recovered = process.recovered()
        if recovered:
            log.error(
                "volume %s: %s for a person to look at: S3 has another version there; kept in %s",
                known.volume, number_of(recovered, "file"), process.staging / "recovered",
            )  # fmt: skip

    def _serves_others(self, process: Process, known: Published) -> bool:
        """Whether another directory of a pod shows the mount of *process*, even if the record of
        that directory cannot be read."""
        others = [each for each in self._all() if each.target != known.target]
        if any(self._process(each) == process and each.device for each in others):
            return True
        device = process.device
        shown = (os.fsdecode(each.place) for each in mounting.mounted() if each.number == device)
        return any(place != known.target and self._file(place).exists() for place in shown)

    def _is_healthy(self, each: Published) -> bool:
        """Whether a directory shows, in the way that was asked for, the mount of a process that
        lives."""
        if each.how.read_only and not binding.is_read_only(each.target):
            return False  # we were killed before the bind mount had become read-only
        process = self._process(each)
        device = each.device
        return device is not None and device == process.device and process.alive

    def _process(self, each: Published) -> Process:
        directory = self._volumes / _hashed(each.volume)
        served = json.dumps([each.how.url, each.how.words])
        return Process(directory, directory / f"mnt-{_hashed(served)[:8]}")

    # The records

    def _file(self, target: str) -> Path:
        return self._published / f"{_hashed(target)}.json"

    def _write(self, wanted: Published) -> None:
        path = self._file(wanted.target)
        part = path.with_suffix(".part")
        with open(part, "w", opener=open_private) as file:
            json.dump(asdict(wanted), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _at(self, target: str) -> Published | None:
        try:
            return _read(self._file(target))
        except FileNotFoundError:
            return None

    def _all(self) -> list[Published]:
        """Return all records. A record that cannot be read keeps no other volume from its pods: it
        is logged here, and refused where somebody asks for it (`_at`)."""
        found = []
        for path in sorted(self._published.glob("*.json")):
            try:
                found.append(_read(path))
            except FileNotFoundError:  # unpublished meanwhile
                continue
            except (Refusal, OSError) as exc:
                log.error("%s", exc)
        return found


def _read(path: Path) -> Published:
    try:
        said: dict[str, Any] = json.loads(path.read_text())
        found = Published(said["volume"], said["target"], _how(said["how"]))
        texts = (found.volume, found.target, found.how.url, found.how.mode, *found.how.words)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("not a text")
        return found
    except (ValueError, KeyError, TypeError) as exc:
        text = f"{path}: not a record of a volume ({type(exc).__name__}); remove it, and unmount"
        raise Refusal(Code.INTERNAL, text) from exc


def _how(said: dict[str, Any]) -> How:
    """Return a How from a record that another version may have written. Fields that it did not know
    yet get their defaults; fields that only it knows are left out."""
    known = {each.name: said[each.name] for each in fields(How) if each.name in said}
    return How(**{**known, "words": tuple(known["words"])})


def _hashed(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
