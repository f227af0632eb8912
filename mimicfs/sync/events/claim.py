"""Whether mounts of another store take messages from the same source.

A queue gives a message to one consumer. If two stores have one queue, each misses the messages of
the other, and no gap shows it. So each store leaves its name and the time at the source. A store
that finds another name there, of the last half hour, says so, and its buckets do not count as told
(ledger.py). The other store may be gone by now.

The text at the source is "NAME TIME NAME TIME ...", the latest first. To add a name takes two
requests, so a name that is added in between is overwritten. Therefore

    a store takes no message before it has seen its own name there, two seconds after it wrote it
    a store that took longer than that to write may have overwritten the name of one that takes
      messages already, and waits until that one has looked

INVARIANT: a look sees every other store that had taken a message by then, except one that could not
leave its name (no rights).

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

_STORE = "store id"  # a note beside the list of buckets: the name of the store at its sources
_LOOK_S = 20.0
_SOON_S = 2.0  # from writing our name to the look that must show it, and between doubtful looks
_SLOW_S = (
    40.0  # within this time another store has looked: its looks are 20 s apart, and its polls last
)
_TRIES = 3  # after so many looks without our name, the source keeps no names
_RENEWED_S = 600.0
_LASTS_S = 1800
_DIGITS_MAX = 16  # of a time; anybody may write there
_NO_ANSWER = (*NOTHING_SAID, StoreUnavailable)
_CLAIMS_MAX = 8  # of 28 characters: a tag of SQS has 256


class Claim:
    """The claim of the store of *mimicdb* to the messages of *source*."""

    def __init__(self, mimicdb: Mirror, source: EventSource) -> None:
        self.another = False  # another store had claimed the source when we last looked
        self.may_take = not source.shared  # our name was seen there, or the source keeps none
        self._mimicdb = mimicdb
        self._source = source
        self._unseen = 0  # looks that did not show our name
        self._due_s = float("-inf")  # when to look next
        self._staked_s = self._seen_s = float("-inf")  # when our name was written, and must be seen
        self._certain_s = float("-inf")  # before that, we may have overwritten another name
        self._alone_ns = 0  # when we last saw no other claim; 0: nothing is known
        self._answered = False  # the source has shown claims, or that it has none for us

    def alone_until_ns(self, until_ns: int) -> int:
        """Return *until_ns*, or an earlier time until which no other store took messages: each
        store claims the source before it takes any. 0: the source could not be asked yet."""
        if not self._answered:
            return 0
        return min(until_ns, self._alone_ns) if self._alone_ns else until_ns

    def stake(self) -> None:
        """Claim the source, and look whether another store has claimed it; every 20 s. If the
        source keeps no claims, or lets us make none, nothing is known. Raises StoreError."""
        if (now_s := time.monotonic()) < self._due_s:
            return
        store, before = self._store(), self.another
        if not store:
            self._answered = self.may_take = True
            return
        try:
            self._look(store, now_s)
            self._answered = True
        except MimicError as exc:
            log.debug("%s: whether other stores take its messages is not known: %s",
                      self._source.name, exc)  # fmt: skip
            self._answered = self._answered or not isinstance(exc, _NO_ANSWER)
            self.may_take = self.may_take or self._answered
            self._unseen += 1
        self.may_take = self.may_take or self._unseen >= _TRIES
        doubtful = not (self.may_take and self._answered) or now_s < self._certain_s
        self._due_s = max(self._seen_s, now_s + (_SOON_S if doubtful else _LOOK_S))
        if self.another and not before:
            log.warning(
                "%s: mounts of another store take messages from it, or did so in the last half"
                " hour; each store misses what another one is given: it needs a source of its own",
                self._source.name,
            )

    def _look(self, store: str, now_s: float) -> None:
        looked_ns = time.time_ns()
        claims = self._claims()
        ours = claims.pop(store, None)
        self.another = bool(claims)
        if self._source.shared and not self.another and now_s >= self._certain_s:
            self._alone_ns = looked_ns
        if ours is None:
            self._unseen += 1
        elif self._has_lasted(ours, now_s):
            self.may_take, self._unseen = True, 0
        if ours is None or now_s - self._staked_s >= _RENEWED_S:
            some = list({store: int(time.time()), **claims}.items())[:_CLAIMS_MAX]
            self._source.sign(" ".join(f"{name} {when}" for name, when in some))
            self._signed(now_s)

    def _has_lasted(self, ours: int, now_s: float) -> bool:
        """Whether our name, written at *ours*, has been there for so long that every writer has
        read it."""
        if self._staked_s == float("-inf"):  # by another process
            return time.time() - ours > _SOON_S + 1
        return now_s >= self._seen_s

    def _signed(self, began_s: float) -> None:
        """Note that we have written the text that we began to read at *began_s*. A name that was
        written in between is overwritten. If we were quick, its store sees that before it takes a
        message."""
        self._staked_s = ended_s = time.monotonic()
        self._seen_s = ended_s + _SOON_S
        if ended_s - began_s >= _SOON_S:
            self._certain_s = ended_s + _SLOW_S

    def _claims(self) -> dict[str, int]:
        """Return the stores that have claimed the source in the last half hour, and when."""
        words, now = self._source.signed().split(), int(time.time())
        return {
            name: int(when)
            for name, when in zip(words[::2], words[1::2], strict=False)
            if when.isdecimal() and len(when) < _DIGITS_MAX and abs(now - int(when)) < _LASTS_S
        }

    def _store(self) -> str:
        """Return the name of the store, which is made once; "": the store keeps no notes."""
        if not self._mimicdb.note("", _STORE):
            self._mimicdb.set_note("", _STORE, secrets.token_hex(8))
        return self._mimicdb.note("", _STORE) or ""
