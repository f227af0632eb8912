"""What the mirror knows: answers from the store, without asking S3.

mimicdb.py has the rules by which it changes.

Absence is certain only inside a scope that was listed to its end; an answer that is not certain
raises `Unlisted`. Notes are texts beside a bucket or a directory; their changes are not announced.

Threading: any method, many threads; no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice

from mimicfs.backends import Backend
from mimicfs.entry import OBJECT, PAGE, BucketEntry, DirectorySeen, Entry, Scope, Total, pages
from mimicfs.errors import NoSuchBucket, Unlisted


class Knowledge:
    """What the mirror in *backend* knows."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        # buckets about which even entries that are found are not certain
        self._doubted: set[str] = set()

    @property
    def quick(self) -> bool:
        """Whether reads take microseconds and never wait for a network."""
        return self.backend.quick

    # Buckets and keys

    def seq(self, bucket: str) -> int:
        """Return the number of the latest change of *bucket*."""
        return self.backend.seq(bucket)

    def seq_lately(self, bucket: str) -> int:
        """Return a number that this has been in the last second: for what is asked of S3 once."""
        return self.backend.seq_lately(bucket)

    def buckets(self) -> list[BucketEntry]:
        """Return all buckets. Raises Unlisted if they were never listed."""
        if self.backend.scope("", "") is None:
            raise Unlisted("")
        return self.backend.buckets()

    def bucket(self, name: str) -> BucketEntry:
        """Return one bucket. Raises NoSuchBucket, or Unlisted if that is not certain."""
        found = self.backend.bucket(name)
        if found is None:
            if self.backend.scope("", "") is None:
                raise Unlisted("")
            raise NoSuchBucket(f"s3://{name}: no such bucket")
        return found

    def known_buckets(self) -> list[BucketEntry]:
        """Return the buckets that the mirror has; there may be others."""
        return self.backend.buckets()

    def known_bucket(self, name: str) -> BucketEntry | None:
        """Return one bucket as the mirror has it; None says nothing about S3."""
        return self.backend.bucket(name)

    def entry(self, bucket: str, key: str) -> Entry | None:
        """Return the entry of exactly *key*; None says nothing about S3."""
        return self.backend.get(bucket, key)

    def surely(self, bucket: str, directory: str, name: str) -> Entry | None:
        """Return the entry *directory* + *name*, where None says that there is none. Raises
        Unlisted where that is not known."""
        found = self.entry(bucket, directory + name)
        if found is None and not self.backend.covered(bucket, directory):
            raise Unlisted(bucket, directory)
        return found

    def is_certain(self, bucket: str, key: str) -> bool:
        """Whether the answer of `entry` about *key* is certain, also if that is None."""
        if bucket not in self._doubted and self.backend.get(bucket, key) is not None:
            return True
        return self.backend.covered(bucket, key[: key.rfind("/") + 1])

    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        """Return the object *directory* + *name* and the subdirectory of that name.

        Both are None only if both are certainly absent. Raises Unlisted where that is not known.
        """
        found, certain = self.backend.lookup_certain(bucket, directory, name)
        if self._doubted and bucket in self._doubted:
            certain = self.backend.covered(bucket, directory)
        if not certain:
            raise Unlisted(bucket, directory)
        return found

    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        """Return a page of *directory*, as Backend.children does. Raises Unlisted."""
        if not self.backend.covered(bucket, directory):
            raise Unlisted(bucket, directory)
        return self.backend.children(bucket, directory, after, limit)

    def listing(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        """Return up to *limit* known objects, in order, without regard to directories."""
        read = self.backend.scan
        found = pages(lambda key: read(bucket, prefix, key, limit), after, limit)
        objects = (entry for page in found for entry in page if entry.kind == OBJECT)
        return list(islice(objects, limit))

    def scan(self, bucket: str, prefix: str, after: str, limit: int = PAGE) -> list[Entry]:
        """Return a page of all that the mirror has, in order, as Backend.scan does: not only
        objects."""
        return self.backend.scan(bucket, prefix, after, limit)

    def has_below(self, bucket: str, directory: str) -> bool:
        """Whether the mirror has a key that begins with *directory*."""
        return self.backend.has_below(bucket, directory)

    def total(self, bucket: str, directory: str = "") -> Total:
        """Return how many files are below *directory*, and their bytes. Takes about 0.2 s for a
        million. Raises Unlisted where a part is not known."""
        if not self.backend.covered(bucket, directory, deep=True):
            raise Unlisted(bucket, directory)
        return self.backend.total(bucket, directory)

    def stride(self, bucket: str, prefix: str, after: str, count: int) -> tuple[str, int]:
        """Return the *count*-th known key behind *after*, as Backend.stride does."""
        return self.backend.stride(bucket, prefix, after, count)

    def has_still(self, bucket: str, key: str) -> bool:
        """Whether the store itself, not a copy of it, has *key*, or something below it."""
        exact = self.backend.exact
        return exact.get(bucket, key) is not None or exact.has_below(bucket, key)

    # Scopes

    def cover(self, bucket: str, directory: str) -> Scope | None:
        """Return the newest scope that covers the direct children of *directory*."""
        return self.backend.cover(bucket, directory)

    def latest_cover(self, bucket: str, directory: str) -> Scope | None:
        """Return the same as the store has it, where others may have listed the directory; what
        they have found is known then. Waits. Raises StoreError."""
        scope = self.backend.exact.cover(bucket, directory)
        self.backend.catch_up(bucket)
        return scope

    def covered(self, bucket: str, directory: str, *, deep: bool = False) -> bool:
        """Whether all direct children of *directory* are known; *deep*: whether everything below it
        is."""
        return self.backend.covered(bucket, directory, deep=deep)

    @property
    def asks(self) -> bool:
        """Whether a server is asked for what is not at hand: each question takes its time."""
        return not self.backend.exact.quick

    def listed(self, bucket: str, directories: Sequence[str]) -> list[str]:
        """Return the *directories* whose direct children are all known."""
        exact = self.backend.exact
        if exact.quick:
            return [each for each in directories if self.covered(bucket, each)]
        found = exact.directories(bucket, directories, 1)
        return [each for each, copy in zip(directories, found, strict=True) if copy.scope]

    def scan_at_hand(self, bucket: str, prefix: str, after: str, limit: int) -> list[Entry]:
        """As `scan`, of what this process has without asking a server."""
        return self.backend.at_hand.scan(bucket, prefix, after, limit)

    def listed_at_hand(self, bucket: str, directories: Sequence[str]) -> list[str]:
        """As `listed`, without asking a server if this process has something without."""
        hand = self.backend.at_hand
        if not hand.quick:
            return self.listed(bucket, directories)
        return [each for each in directories if hand.covered(bucket, each)]

    def scopes(self, bucket: str) -> list[Scope]:
        """Return all scopes of *bucket*, the one with the oldest listing first."""
        return self.backend.scopes(bucket)

    def scope(self, bucket: str, prefix: str) -> Scope | None:
        """Return the scope of exactly *prefix*."""
        return self.backend.scope(bucket, prefix)

    # Notes

    def note(self, bucket: str, name: str) -> str | None:
        """Return the text that was noted as *name* beside *bucket*, or None."""
        return self.backend.note(bucket, name)

    def notes(self, bucket: str) -> dict[str, str]:
        """Return all that was noted beside *bucket*."""
        return self.backend.notes(bucket)

    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        """Note *text* as *name* beside *bucket*; None removes it."""
        self.backend.set_note(bucket, name, text)

    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None
    ) -> tuple[bool, str | None]:
        """Note *after* as *name* beside *bucket* (None: remove the note) if the note is *before*,
        in one step where the store has such steps. Return whether it was, and the note as it is
        then."""
        if self.backend.intents:
            return self.backend.swap_note(bucket, name, before, after, tell=False)
        now = self.backend.note(bucket, name)
        if now != before:
            return False, now
        self.backend.set_note(bucket, name, after)
        return True, after

    def note_of(self, bucket: str, directory: str) -> str | None:
        """Return what was noted of *directory*, as Backend.notes_of does."""
        [found] = self.backend.notes_of(bucket, [directory])
        return found

    def note_of_still(self, bucket: str, directory: str) -> str | None:
        """Return the same as the store itself, not a copy of it, has it."""
        [found] = self.backend.exact.notes_of(bucket, [directory])
        return found

    def set_note_of(self, bucket: str, directory: str, text: str) -> None:
        """Note *text* of *directory*."""
        self.backend.set_note_of(bucket, directory, text)

    # The store

    def now_ms(self) -> int:
        """Return the time by the store's clock, as Backend.now_ms."""
        return self.backend.now_ms()

    def seen_lately(self, bucket: str, directory: str) -> DirectorySeen | None:
        """Return what was seen a moment ago of *directory*, as Backend.seen_lately."""
        return self.backend.seen_lately(bucket, directory)

    def bring(self, bucket: str, directory: str) -> None:
        """Fetch *directory* of a shared store, so that it is at hand. Waits. Raises StoreError."""
        self.backend.bring(bucket, directory)

    def catch_up(self, bucket: str) -> None:
        """Have what is in the log of *bucket* by now. Raises StoreError."""
        self.backend.catch_up(bucket)

    @property
    def private(self) -> bool:
        """Whether no other process can use the store."""
        return self.backend.private

    def finding(self) -> AbstractContextManager[None]:
        """Within, what this thread records was found in S3 (Backend.finding)."""
        return self.backend.finding()

    def one_state(self) -> AbstractContextManager[None]:
        """Within, this thread reads one state of the store (Backend.one_state)."""
        return self.backend.one_state()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Within, this thread answers a kernel (Backend.answering)."""
        with self.backend.answering():
            yield
