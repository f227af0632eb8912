"""Whether mounts of another store take messages from the same source.

A queue gives a message to one consumer. Where two stores have one queue, each misses what the
other is given, and no gap shows it. So each store leaves its name and the time at the source, and
one that finds another's name there, of the last half hour, says so, and does not count as told
(ledger.py). The other store may be gone by now.

What is left at the source is "NAME TIME NAME TIME ...", the latest first.

Threading: the consumer's thread; `another` may be read by any.
"""

from __future__ import annotations

import logging
import secrets
import time

from mimicfs.errors import NOTHING_SAID, MimicError, StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events.source import EventSource

log = logging.getLogger(__name__)

_STORE = "store id"  # a note beside the list of buckets: what the store is called at its sources
_LOOK_S = 20.0
_SOON_S = 3.0  # the same, after a claim was written
_RENEWED_S = 600.0
_LASTS_S = 1800
_DIGITS_MAX = 16  # of a time; anybody may write there
_NO_ANSWER = (*NOTHING_SAID, StoreUnavailable)
_CLAIMS_MAX = 8  # of 28 characters: a tag of SQS has 256


class Claim:
    """The claim of the store of *mimicdb* to the messages of *source*."""

    def __init__(self, mimicdb: Mirror, source: EventSource) -> None:
        self.another = False  # another store had claimed the source when we last looked
        self._mimicdb = mimicdb
        self._source = source
        self._looked_s = self._staked_s = float("-inf")
        self._certain_s = float("-inf")  # before that, a claim may be overwritten by ours
        self._alone_ns = 0  # when we last saw no other claim; 0: nothing is known
        self._answered = False  # the source has shown claims, or that it has none for us

    def alone_until_ns(self, until_ns: int) -> int:
        """Return *until_ns*, or until when before that no other store took messages: each claims
        the source before it takes any. 0: the source could not be asked yet."""
        if not self._answered:
            return 0
        return min(until_ns, self._alone_ns) if self._alone_ns else until_ns

    def stake(self) -> None:
        """Claim the source, and look whether another store did; every 20 s. Where the source
        keeps no claims, or lets us make none, nothing is known. Raises StoreError."""
        now_s = time.monotonic()
        soon = self._looked_s < self._certain_s or not self._answered
        pause_s = _SOON_S if soon else _LOOK_S
        if now_s - self._looked_s < pause_s:
            return
        self._looked_s = now_s
        store = self._store()
        if not store:
            self._answered = True
            return
        try:
            looked_ns, certain = time.time_ns(), now_s >= self._certain_s
            claims = self._claims()
            ours = claims.pop(store, None)
            before, self.another = self.another, bool(claims)
            if ours is None or now_s - self._staked_s >= _RENEWED_S:
                claims = {store: int(time.time()), **claims}
                some = list(claims.items())[:_CLAIMS_MAX]
                self._source.sign(" ".join(f"{name} {when}" for name, when in some))
                self._wait_for_others(now_s)
            if self._source.shared and not self.another and certain:
                self._alone_ns = looked_ns
            self._answered = True
        except MimicError as exc:
            log.debug("%s: whether other stores take its messages is not known: %s",
                      self._source.name, exc)  # fmt: skip
            self._answered = self._answered or not isinstance(exc, _NO_ANSWER)
            return
        if self.another and not before:
            log.warning(
                "%s: mounts of another store take messages from it, or did so in the last half"
                " hour; each store misses what another one is given: it needs a source of its own",
                self._source.name,
            )

    def _wait_for_others(self, began_s: float) -> None:
        """We have written what we began to read at *began_s*. A claim that was written in between
        is overwritten: the other store sees that at its next look, and writes it again. Until then
        the source does not show whether we are alone."""
        self._staked_s = ended_s = time.monotonic()
        in_time = ended_s - began_s < _SOON_S  # else the other one may have looked in between
        self._certain_s = ended_s + (_SOON_S if in_time else _LOOK_S) + _SOON_S

    def _claims(self) -> dict[str, int]:
        """Return which stores have claimed the source in the last half hour, and when."""
        words, now = self._source.signed().split(), int(time.time())
        return {
            name: int(when)
            for name, when in zip(words[::2], words[1::2], strict=False)
            if when.isdecimal() and len(when) < _DIGITS_MAX and abs(now - int(when)) < _LASTS_S
        }

    def _store(self) -> str:
        """Return the name of the store, which it is given once; "": it keeps no notes."""
        if not self._mimicdb.note("", _STORE):
            self._mimicdb.set_note("", _STORE, secrets.token_hex(8))
        return self._mimicdb.note("", _STORE) or ""
