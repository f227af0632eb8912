"""The listings that are under way in a store: S3 was asked for them, and nobody knows the answers
yet.

When S3 tells of a change of a key that nobody has listed, nobody needs to look at the key: the
first listing shows it. A listing that is under way may not show it: it may have passed the key, or
its page with the key may have been asked for before the change and be merged after it. So each
listing says what it is about in a note beside the list of buckets, before S3 is asked for its first
page, and takes the note away once the scope counts as listed. A process that is told of a change
looks first at these notes, and then at what counts as listed: so it does not overlook a listing
that ends in between.

    said      before the first page is asked for
    renewed   while pages come or are merged, once a minute, if the store still has it
    left      it was interrupted, and another one may go on where it had come to
    ended     the note is taken away: all is merged and counts as listed, or it failed

A note that nobody renews for 15 minutes is of a dead process, and a process that looks takes it
away. A listing whose note is gone (its process had been stopped for so long, or the store has lost
it) has overlooked changes: it does not count as listed.

Threading: a ListingNote belongs to the thread that lists, a Lookout to the one that looks.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mimicfs.backends import LISTING, Backend
from mimicfs.errors import StoreError, StoreUnavailable
from mimicfs.member import boot_s

log = logging.getLogger(__name__)

_RENEWED_S = 60.0
_LASTS_S = 900.0  # longer than an interrupted sync can go on later (sync/cursor.py)


class ListingNote:
    """A listing of what is in, or below, *prefix*, which begins now. Raises StoreError."""

    def __init__(self, backend: Backend, bucket: str, prefix: str) -> None:
        self._backend = backend
        self._about = (bucket, prefix)
        self._name = LISTING + secrets.token_hex(8)
        self._times = 1
        self._said_s = boot_s()  # read before: the note may be older than this, not newer
        self._backend.set_note("", self._name, self._text())

    def renew(self) -> None:
        """Renew the note: the listing goes on. Raises StoreUnavailable, as `check` does."""
        if boot_s() - self._said_s < _RENEWED_S:
            return
        before, said_s = self._text(), boot_s()
        self._times += 1
        done, _ = self._backend.swap_note("", self._name, before, self._text(), tell=False)
        if not done:  # never write it anew: nobody has logged for us what was told meanwhile
            raise self._overlooked()
        self._said_s = said_s

    def check(self, *, closely: bool = True) -> None:
        """Check that nobody can have overlooked this listing. Raises StoreUnavailable. Unless
        *closely*, the store is asked only if the listing took long."""
        if not closely and boot_s() - self._said_s < _LASTS_S / 2:
            return
        if self.is_lost():
            raise self._overlooked()

    def is_lost(self) -> bool:
        """Whether the store no longer has its note."""
        return self._backend.note("", self._name) is None

    def end(self) -> None:
        """Take the note away. If the store is away, the note stays, which does no harm: until
        another process takes it away, S3 gets more questions."""
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
def listing(
    backend: Backend,
    bucket: str,
    prefix: str,
    submit: Callable[[Callable[[], None]], object] = lambda end: end(),
) -> Iterator[ListingNote]:
    """Within, what is in *prefix* is being listed. *submit* has somebody take the note away then,
    for whom nobody waits."""
    said = ListingNote(backend, bucket, prefix)
    try:
        yield said
    finally:
        try:
            submit(said.end)
        except RuntimeError:  # the pool is closed
            said.end()


class Lookout:
    """Sees what is under way in the store."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # by name: the text, and since when it has that
        self._seen: dict[str, tuple[str, float]] = {}

    def intended(self, bucket: str) -> list[str]:
        """Return the keys of *bucket* that are being changed at S3. A replica has the results of
        all others by then. Raises StoreError."""
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
