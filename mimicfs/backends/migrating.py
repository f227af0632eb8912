"""The move of a mirror from one store to another, without asking S3.

Entries go first, then notes, and scopes last: a process that is killed in between leaves a mirror
that is not complete, and true as far as it goes. So does an old store that has less, or more, than
it has counted. The numbers of logs, the sessions and the epoch belong to a store, and stay there. A
key whose change at S3 nobody has settled is contended in the new store, too: its users ask S3.

Changes that the old store learns meanwhile (read-only mounts may go on) are followed in its log to
the end. Nobody may change S3 through it: the new store would lack changes behind that end, and
claim to know. Messages of S3 that the old store takes after that do not reach the new one; if
anybody may take some, the new one counts as never told, and lists what it knows.

Threading: no state; the stores are used by the thread that calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from mimicfs.backends import EPOCH, HEARD, LISTING, TOLD, Backend
from mimicfs.backends.sessions import SESSION, sessions
from mimicfs.entry import PAGE, BucketEntry, Entry, pages
from mimicfs.errors import ConfigError, StoreError

log = logging.getLogger(__name__)

_OURS = "migrating"  # the note in a store that is being filled
_ROUNDS = 100  # rounds in which the log of the old store is followed to its end


def migrate(source: Backend, target: Backend, more: Callable[[int], None]) -> dict[str, int]:
    """Copy all of *source* to *target*, which has no buckets; *more* is called with numbers of
    entries. Return how many entries each bucket has. Raises ConfigError, StoreError."""
    _check_source(source)
    _begin(target)
    copied: dict[str, int] = {}
    for bucket in source.buckets():
        target.add_bucket(bucket.name, bucket.created_ns)
        copied[bucket.name] = _copy(source, target, bucket.name, more)
    _copy_notes(source, target, "")
    whole = source.scope("", "")
    if whole is not None:
        target.mark("", whole)
    target.set_note("", _OURS, None)
    return copied


def _check_source(source: Backend) -> None:
    """Raise ConfigError if nothing is in *source*, or if somebody may change S3 through it."""
    for each in sessions(source):
        reads = each.mountpoint and each.said.get("read_only")
        if each.alive and not reads:
            who = f"{each.host}:{each.mountpoint or f'process {each.pid}'}"
            raise ConfigError(f"{who} uses the store and may write; end it, or mount with -o ro")
    if not source.buckets():
        raise ConfigError("the old store has no buckets; there is nothing to copy")


def _begin(target: Backend) -> None:
    """Check that *target* has only the remains of an earlier attempt, and drop them."""
    before = target.note("", _OURS) is not None
    known = target.buckets()
    if known and not before:
        raise ConfigError(f"the new store already has a mirror of s3://{known[0].name}")
    target.set_note("", _OURS, "1")
    for bucket in known:
        target.drop_bucket(bucket.name)


def _copy(source: Backend, target: Backend, name: str, more: Callable[[int], None]) -> int:
    place, count = source.seq(name), 0
    for page in _pages(source, name):
        target.apply(name, page)
        count += len(page)
        more(len(page))
    _copy_notes(source, target, name)
    for _ in range(_ROUNDS):
        place = _follow(source, target, name, place)
        scopes, unsettled = source.scopes(name), _unsettled(source, name)
        counted = source.bucket(name)
        if counted is None or counted.seq == place:
            break
    else:
        raise StoreError(
            f"s3://{name}: others keep changing the old store; try again when they pause"
        )
    for key in unsettled:
        target.begin(name, [key], _OURS, 0)
        target.end(name, [key], _OURS, unsure=True)
    if _is_whole(counted, target.bucket(name)):
        for scope in scopes:
            target.mark(name, scope)
    return count


def _is_whole(counted: BucketEntry | None, copied: BucketEntry | None) -> bool:
    """Whether as much was copied as was counted. If not, the old store is damaged, and what it has
    listed counts as not listed in the new one."""
    if counted is None or copied is None:
        return False
    if (counted.objects, counted.bytes) == (copied.objects, copied.bytes):
        return True
    log.warning(
        "s3://%s: %d objects with %d bytes are counted in the old store, %d with %d are there:"
        " nothing counts as listed in the new one, and visited directories are listed in S3 again",
        counted.name, counted.objects, counted.bytes, copied.objects, copied.bytes,
    )  # fmt: skip
    return False


def _pages(source: Backend, name: str, after: str = "") -> Iterator[Sequence[Entry]]:
    return pages(lambda last: source.scan(name, "", last), after)


def _follow(source: Backend, target: Backend, name: str, place: int) -> int:
    """Repeat in *target* the changes that *source* logged behind *place*; return the number of the
    last line."""
    while changes := source.changes(name, place, PAGE):
        for change in changes:
            _copy_range(source, target, name, change.first, change.last)
        place = changes[-1].seq
    return place


def _copy_range(source: Backend, target: Backend, name: str, first: str, last: str) -> None:
    now, before = (_range(each, name, first, last) for each in (source, target))
    gone = [key for key in before if key not in now]
    target.apply(name, list(now.values()), gone)


def _range(backend: Backend, name: str, first: str, last: str) -> dict[str, Entry]:
    own = backend.get(name, first)
    found = {} if own is None else {first: own}
    if first == last:
        return found
    for page in _pages(backend, name, first):
        found |= {entry.key: entry for entry in page if entry.key <= last}
        if page[-1].key > last:
            break
    return found


def _unsettled(source: Backend, name: str) -> list[str]:
    return [row.key for row in source.unsettled(name)] if source.intents else []


def _copy_notes(source: Backend, target: Backend, bucket: str) -> None:
    left = (SESSION, LISTING, *([TOLD, HEARD] if _is_told(source) else []))
    for name, text in source.notes(bucket).items():
        if name != EPOCH and not name.startswith(left):
            target.set_note(bucket, name, text)


def _is_told(source: Backend) -> bool:
    """Whether a session of *source* takes messages of S3."""
    return any(each.alive and each.said.get("events") for each in sessions(source))
