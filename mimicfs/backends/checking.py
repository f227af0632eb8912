"""Whether a store is sound: its counts, directories and scopes agree with its entries.

S3 is not asked: `mimicfs verify` compares with S3. Nothing is changed.

Threading: no state. Others may write meanwhile: then the findings are left out that hold only for a
bucket that nobody changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mimicfs.backends import DOUBTED, Backend
from mimicfs.entry import DAY_S, LISTED, OBJECT, pages
from mimicfs.errors import LogTrimmed, StoreCorrupt

_EXAMPLES = 10  # of keys, named for each fault
_LONG_MS = 600_000  # nobody looks after an intent that is open for so long


@dataclass
class BucketCheck:
    """The findings about a bucket. *wrong*: in words, each with what to do."""

    name: str
    entries: int = 0
    objects: int = 0
    bytes: int = 0
    scopes: int = 0
    unsettled: int = 0
    changed: bool = False  # others wrote meanwhile
    doubted: bool = False  # the store may have lost changes, and it was not listed since
    wrong: list[str] = field(default_factory=list)


def check(backend: Backend) -> Iterator[BucketCheck]:
    """Look at each bucket of *backend*. Raises StoreError."""
    for bucket in backend.buckets():
        try:
            yield _check(backend, bucket.name)
        except StoreCorrupt as exc:
            yield BucketCheck(bucket.name, wrong=[f"the rest was not looked at: {exc}"])
    lost = list(backend.orphans(""))
    if lost:
        yield BucketCheck("", wrong=_named("is in the store, but belongs to no bucket", lost))


def _check(backend: Backend, name: str) -> BucketCheck:
    found, since = BucketCheck(name), backend.seq(name)
    strangers = _count(backend, found)
    unknown = _check_scopes(backend, found, strangers)
    _check_intents(backend, found)
    found.doubted = backend.note(name, DOUBTED) is not None
    orphans = list(backend.orphans(name))
    found.changed = backend.seq(name) != since
    if found.changed:
        return found
    found.wrong += _named("is marked as listed, but its contents are not known", unknown)
    _compare_counts(backend, found)
    found.wrong += _named("is in the store, but no directory contains it", orphans)
    try:
        backend.changes(name, max(0, since - 1), 1)
    except LogTrimmed as exc:
        if since:
            found.wrong.append(f"its log does not end at its last change: {exc}")
    return found


def _count(backend: Backend, found: BucketCheck) -> list[str]:
    """Count entries. Return the directories of which it is only known that they exist."""
    strangers: list[str] = []
    for page in pages(lambda after: backend.scan(found.name, "", after)):
        objects = [entry for entry in page if entry.kind == OBJECT]
        strangers += [entry.key for entry in page if entry.kind == LISTED]
        found.entries += len(page)
        found.objects += len(objects)
        found.bytes += sum(entry.size for entry in objects)
    return strangers


def _compare_counts(backend: Backend, found: BucketCheck) -> None:
    said = backend.bucket(found.name)
    if said is not None and (said.objects, said.bytes) != (found.objects, found.bytes):
        found.wrong.append(
            f"{said.objects:,} objects with {said.bytes:,} bytes are counted,"
            f" {found.objects:,} with {found.bytes:,} are there"
        )


def _check_scopes(backend: Backend, found: BucketCheck, strangers: list[str]) -> list[str]:
    """Return the *strangers*, directories of unknown keys, in a scope that was listed to its end
    with everything below; there must be none. Report scopes that were listed in the future, too."""
    scopes = backend.scopes(found.name)
    found.scopes = len(scopes)
    deep = [scope.prefix for scope in scopes if scope.deep]
    now_ns = (backend.now_ms() + DAY_S * 1000) * 1_000_000
    ahead = [scope.prefix or "/" for scope in scopes if scope.listed_ns > now_ns]
    found.wrong += _named("was listed more than a day after the present time of the store", ahead)
    return [key for key in strangers if any(key.startswith(prefix) for prefix in deep)]


def _check_intents(backend: Backend, found: BucketCheck) -> None:
    rows = backend.unsettled(found.name) if backend.intents else []
    found.unsettled = len(rows)
    late = [row.key for row in rows if row.pending and row.age_ms > _LONG_MS]
    found.wrong += _named("has been changing for more than ten minutes", late)


def _named(what: str, keys: list[str]) -> list[str]:
    more = f" (and {len(keys) - _EXAMPLES:,} more)" if len(keys) > _EXAMPLES else ""
    return [f"{', '.join(map(repr, keys[:_EXAMPLES]))}{more} {what}"] if keys else []
