"""Whether mounts of another store take messages from the same source.

A queue gives a message to one consumer. Where two stores have one queue, each misses what the
other is given, and no gap shows it. So each store leaves its name and the time at the source, and
one that finds another's name there, of the last half hour, says so. That is a warning and no more:
the other store may be gone by now.

Threading: the consumer's thread; `another` may be read by any.
"""

from __future__ import annotations

import logging
import secrets
import time

from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events.source import EventSource

log = logging.getLogger(__name__)

_STORE = "store id"  # a note beside the list of buckets: what the store is called at its sources
_RENEWED_S = 600.0
_LASTS_S = 1800


class Claim:
    """The claim of the store of *mimicdb* to the messages of *source*."""

    def __init__(self, mimicdb: Mirror, source: EventSource) -> None:
        self.another = False  # another store had claimed the source when we last looked
        self._mimicdb = mimicdb
        self._source = source
        self._staked_s = float("-inf")

    def stake(self) -> None:
        """Claim the source, or find that another store did; once in ten minutes. Where the source
        keeps no claims, or lets us make none, nothing is known. Raises StoreError."""
        if time.monotonic() - self._staked_s < _RENEWED_S:
            return
        self._staked_s = time.monotonic()
        store = self._store()
        if not store:
            return
        try:
            before, self.another = self.another, self._claimed_by_another(store)
            if not self.another:
                self._source.sign(f"{store} {time.time():.0f}")
        except MimicError as exc:
            log.debug("%s: whether other stores take its messages is not known: %s",
                      self._source.name, exc)  # fmt: skip
            return
        if self.another and not before:
            log.warning(
                "%s: mounts of another store take messages from it, or did so in the last half"
                " hour; each store misses what another one is given: it needs a source of its own",
                self._source.name,
            )

    def _claimed_by_another(self, store: str) -> bool:
        claimed, _, when = self._source.signed().partition(" ")
        age_s = abs(time.time() - int(when)) if when.isdecimal() else _LASTS_S
        return claimed not in ("", store) and age_s < _LASTS_S

    def _store(self) -> str:
        """Return the name of the store, which it is given once; "": it keeps no notes."""
        if not self._mimicdb.note("", _STORE):
            self._mimicdb.set_note("", _STORE, secrets.token_hex(8))
        return self._mimicdb.note("", _STORE) or ""
