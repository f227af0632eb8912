"""The troubles of a mount, found in its figures, and what to do about each: the one list that
`mimicfs status` and the web page show.

Threading: no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from mimicfs.admin.sources import Figures, failure
from mimicfs.human import number_of


class Trouble(NamedTuple):
    """*grave*: bytes may be lost, or nothing works. Any other trouble is good to know."""

    grave: bool
    what: str
    advice: str


_STORE = "Is the store there? `mimicfs store check` looks."
_OF_STORE = ("mirror", "sharing", "follower")
_IN_LOG = "The log of the mount has more; `mimicfs doctor` looks for the cause."


def troubles(figures: Figures, dead: Iterable[str]) -> list[Trouble]:
    """Return the troubles, the grave ones first. *dead* are the places where mounts of this user
    have died."""
    found = [each for name, part in figures.items() for each in of_part(name, part)]
    found += [
        Trouble(True, f"The process that served {point} has died.",
                "Mount it again; bytes that S3 did not have yet are uploaded then.")
        for point in dead
    ]  # fmt: skip
    return sorted(found, key=lambda each: not each.grave)


def of_part(name: str, part: Figures) -> Iterator[Trouble]:
    """Yield what is wrong in the part *name* of a mount, by its figures."""
    why = failure(part)
    if why:
        advice = _STORE if name in _OF_STORE else _IN_LOG
        yield Trouble(True, f"The part “{name}” fails: {why}", advice)
    elif name in _PARTS:
        yield from _PARTS[name](part)


def _files(files: Figures) -> Iterator[Trouble]:
    queue = files.get("write_back", {})
    if queue.get("error"):
        yield Trouble(
            True, f"Uploads fail: {queue['error']}",
            "Their bytes are on the local disk, and are sent again until S3 takes them.",
        )  # fmt: skip
    if files.get("recovered"):
        yield Trouble(
            True,
            f"{number_of(files['recovered'], 'file')} in staging/recovered: S3 does not have them.",
            "Look at them, copy what is needed into the mount, and delete them.",
        )


def _s3(s3: Figures) -> Iterator[Trouble]:
    limits = s3.get("limits", {})
    most = limits.get("max_requests_per_day")
    if most and limits["requests_today"] >= most:
        yield Trouble(
            True, f"All {most:,} requests of today are sent; S3 is not asked any more.",
            "`mimicfs set MOUNTPOINT max-requests-per-day=0`, or wait until midnight UTC.",
        )  # fmt: skip


def _sharing(sharing: Figures) -> Iterator[Trouble]:
    if sharing.get("away"):
        yield Trouble(
            True, "The store does not answer: files are read, changes are refused.",
            "Start it again; the mount goes on by itself.",
        )  # fmt: skip
    if sharing.get("epoch_changes"):
        times = number_of(sharing["epoch_changes"], "time")
        yield Trouble(
            False, f"The store may have lost changes ({times}); all was asked of S3 anew.",
            "Was it emptied, or restored? Its eviction policy must be noeviction.",
        )  # fmt: skip


def _locks(locks: Figures) -> Iterator[Trouble]:
    if locks.get("lost"):
        yield Trouble(
            True, f"{number_of(locks['lost'], 'lock')} of files may be others' by now.",
            "The log names the files. Programs that locked them must close and lock them again.",
        )  # fmt: skip


def _sync(sync: Figures) -> Iterator[Trouble]:
    for each in sync.get("failed", ()):
        yield Trouble(
            True, f"The last sync of s3://{each['bucket']}/ failed: {each['error']}",
            f"`mimicfs sync s3://{each['bucket']}` goes on where it ended.",
        )  # fmt: skip


def _events(events: Figures) -> Iterator[Trouble]:
    if events.get("error"):
        yield Trouble(
            True, f"Nothing is heard of changes: {events['error']}",
            "Is the source of --events there? `mimicfs events check s3://BUCKET` tries it.",
        )  # fmt: skip
    for bucket, why in sorted(events.get("untold", {}).items()):
        yield Trouble(
            False, f"S3 does not tell of all in s3://{bucket}, or nobody can see it: {why}",
            f"`mimicfs events setup s3://{bucket}` has it tell.",
        )  # fmt: skip
    if events.get("another_store"):
        yield Trouble(
            False, "Another store takes messages from the same source: each misses some.",
            "Give each store a source (a queue) of its own, or all mounts the same --store.",
        )  # fmt: skip
    if events.get("put_aside"):
        count = number_of(events["put_aside"], "message")
        advice = f"They could not be understood. {_IN_LOG}"
        yield Trouble(False, f"{count} in events-aside.jsonl", advice)


def _reconcile(sweep: Figures) -> Iterator[Trouble]:
    if sweep.get("error"):
        yield Trouble(False, f"Listing again (--reconcile) fails: {sweep['error']}", _IN_LOG)


_PARTS: Mapping[str, Callable[[Figures], Iterator[Trouble]]] = {
    "files": _files,
    "s3": _s3,
    "sharing": _sharing,
    "locks": _locks,
    "sync": _sync,
    "events": _events,
    "reconcile": _reconcile,
}
