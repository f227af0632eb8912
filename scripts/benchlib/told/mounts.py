"""A mount that is told, and what it says of itself."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.mounts import Mount, succeed

from benchlib.told.tellers import Server


def status(mount: Mount) -> Any:
    """Return what the mount says of itself."""
    [told] = json.loads(succeed("status", "--json", str(mount.path)))
    return told


def asked(mount: Mount) -> dict[str, int]:
    requests: dict[str, int] = status(mount)["s3"]["requests"]
    return requests


def since(before: dict[str, int], after: dict[str, int]) -> str:
    cost = {name: after[name] - before.get(name, 0) for name in after}
    return ", ".join(f"{count:,} {name}" for name, count in sorted(cost.items()) if count) or "none"


@contextmanager
def mounted(
    work: Path, server: Server, bucket: str, source: str, *more: str, store: str = ""
) -> Iterator[Mount]:
    """Within, *bucket* is mounted, and the mirror has all of it."""
    store = store or f"sqlite://{work}/{bucket}.db"
    where = ["--endpoint-url", server.url, "--store", store, "--metadata", "never"]
    path = Path(tempfile.mkdtemp(dir=work))
    words = [*where, "--events", source, *more, f"s3://{bucket}"]
    mount = Mount(path, words, path.with_suffix(".log"))
    try:
        (mount.path / ".sync").touch()
        yield mount
    finally:
        mount.close()


def settle(mount: Mount) -> None:
    """Wait until no message has come for a moment, or for a minute."""
    before, until_s = -1, time.monotonic() + 60
    while (now := status(mount)["events"]["messages"]) != before and time.monotonic() < until_s:
        before = now
        time.sleep(1.5)
