"""The listings that are under way in a store: what S3 was asked for, and nobody knows yet.

A change of a key that nobody has listed needs no look when S3 tells of it: the first listing shows
it. One that is under way need not: it may have passed the key, or its page that has the key may
have been asked for before the change and be merged after it. So each listing says what it is about
before S3 is asked for its first page, as a note beside the list of buckets, and takes the note
away once that counts as listed. Whoever is told of a change looks first at these notes, and then
at what counts as listed: so a listing that ends in between is not overlooked.

    said      before the first page is asked for
    renewed   while pages come or are merged, once a minute, if the store still has it
    left      it was interrupted, and another one may go on where it had come to
    ended     the note is taken away: all is merged and counts as listed, or it failed

A note that nobody renews for 15 minutes is of a process that died, and is taken away by those who
look. A listing whose note is gone (its process had been stopped for so long, or the store has lost
it) has overlooked changes: it does not count as listed.

Threading: a ListingNote belongs to the thread that lists, a Lookout to the one that looks.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from mimicfs.backends import LISTING, Backend
from mimicfs.errors import StoreError, StoreUnavailable
from mimicfs.member import boot_s

log = logging.getLogger(__name__)

_RENEWED_S = 60.0
_LASTS_S = 900.0  # longer than an interrupted sync can be gone on with (sync/cursor.py)


class ListingNote:
    """A listing of what is in, or below, *prefix*, which begins now. Raises StoreError."""

    def __init__(self, backend: Backend, bucket: str, prefix: str) -> None:
        self._backend = backend
        self._about = (bucket, prefix)
        self._name = LISTING + secrets.token_hex(8)
        self._times = 1
        self._said_s = boot_s()  # before: what the store has may be older, not newer
        self._backend.set_note("", self._name, self._text())

    def renew(self) -> None:
        """It still goes on. Raises StoreUnavailable as `check`."""
        if boot_s() - self._said_s < _RENEWED_S:
            return
        before, said_s = self._text(), boot_s()
        self._times += 1
        done, _ = self._backend.swap_note("", self._name, before, self._text(), tell=False)
        if not done:  # and never anew: what was told meanwhile nobody has logged for us
            raise self._overlooked()
        self._said_s = said_s

    def check(self, *, closely: bool = True) -> None:
        """See that nobody can have overlooked this listing. Raises StoreUnavailable. Unless
        *closely*, the store is asked only if it took long."""
        if not closely and boot_s() - self._said_s < _LASTS_S / 2:
            return
        if self.is_lost():
            raise self._overlooked()

    def is_lost(self) -> bool:
        """Whether the store has no note of it any more."""
        return self._backend.note("", self._name) is None

    def end(self) -> None:
        """Take the note away. A store that is away keeps it, and nothing is wrong with that: until
        it is taken away by another one, S3 is asked more."""
        try:
            self._backend.set_note("", self._name, None)
        except StoreError as exc:
            log.debug("the note %s stays: %s", self._name, exc)

    def _text(self) -> str:
        return json.dumps([*self._about, self._times])

    def _overlooked(self) -> StoreUnavailable:
        where = "s3://{}/{}".format(*self._about)
        text = "changes were overlooked while it was listed; it must be listed again"
        return StoreUnavailable(f"{where}: {text}")


@contextmanager
def listing(backend: Backend, bucket: str, prefix: str) -> Iterator[ListingNote]:
    """Within, what is in *prefix* is being listed."""
    said = ListingNote(backend, bucket, prefix)
    try:
        yield said
    finally:
        said.end()


class Lookout:
    """Looks what is under way in the store."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._seen: dict[str, tuple[str, float]] = {}  # by name: the text, and since when

    def intended(self, bucket: str) -> list[str]:
        """Return the keys of *bucket* that are being changed at S3. A replica has what became of
        others by then. Raises StoreError."""
        found = self._backend.unsettled(bucket) if self._backend.intents else []
        self._backend.catch_up(bucket)
        return [each.key for each in found]

    def listings(self) -> list[tuple[str, str]]:
        """Return the bucket and the prefix of each listing. Raises StoreError."""
        notes = self._backend.notes("")
        said = {name: text for name, text in notes.items() if name.startswith(LISTING)}
        now_s, before = boot_s(), self._seen
        self._seen = {
            name: before[name] if before.get(name, ("", 0))[0] == text else (text, now_s)
            for name, text in said.items()
        }
        for name, (_, since_s) in list(self._seen.items()):
            if now_s - since_s >= _LASTS_S:
                self._backend.set_note("", name, None)
                del self._seen[name]
        return [_about(text) for text, _ in self._seen.values()]


def _about(text: str) -> tuple[str, str]:
    try:
        bucket, prefix, _ = json.loads(text)
    except (ValueError, TypeError) as exc:
        raise StoreError(f"a note about a listing cannot be read: {text[:80]!r}") from exc
    return str(bucket), str(prefix)
