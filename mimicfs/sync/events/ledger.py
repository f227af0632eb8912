"""The ledger of a source: until when it has told of each bucket, and what it cannot have told.

    told until     what S3 had put into the source by then is in the mirror, of the keys below
                     the prefix of which it tells
    a gap          changes may have happened of which no message will come: the bucket is swept

Gaps that are known, and when they begin and end:

    nothing was ever told of what was listed     this consumer is the first
    the consumer was away for longer than the    at its start
      source keeps messages
    the source is gone (a queue was deleted)     when that is seen, and when one is there again
    the configuration of the bucket does not     when that is seen (a look every 20 s), and
      tell the source                              when it does again
    the source gave messages up                  when it has stopped doing so, or ten minutes
                                                   after it began
    messages came that nobody could read         the same, but once in an hour at most
    the source is another one of the same name,  at the start, and after an error
      or another one than before
    another store takes messages from it         when that is seen, and when it is over

A bucket is told until a time if all of this holds then; else nobody says so (`_may_note`):

    its configuration can be read, and tells     a topic, EventBridge or a webhook may lead to
      the source itself, or a message about it     somebody else; a look every 20 s: until the
      has come by it                               last one (of more than ten buckets, later)
    it tells of expiry, or no rule of the        the lifecycle is asked for at the same time
      lifecycle deletes objects
    the source has given all that waited in it   or until then, of one that has an order
    nothing is taken and not applied, lost, or   what a former consumer took comes again
      hidden at the source
    no other store takes messages from it        a look every 20 s: until the last one
    no rule of its configuration was put since   S3 says so by a test message: what was listed
      it was listed                                before does not count (looks.py)
    a mount with this source shows it            else nobody looks at its configuration
    nobody may have taken this process for       it was suspended, or its store was away: then it
      dead since it began                          begins anew

A message counts as given up if a queue moves it to its dead-letter queue, because S3 or the store
could not be asked for so long. So does a message that the queue would not give again after the
death of a consumer.

The knowledge of each bucket is in notes of the store, and outlives the process.

Threading: the consumer's thread; the figures may be read by any.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from mimicfs.backends import HEARD, TOLD
from mimicfs.entry import DAY_S, NS
from mimicfs.errors import MimicError, NoSuchQueue, StoreError
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events.claim import Claim
from mimicfs.sync.events.consumer import Witness
from mimicfs.sync.events.election import Election
from mimicfs.sync.events.looks import NotificationLooks
from mimicfs.sync.events.messages import RulesPut, Told
from mimicfs.sync.events.notification import Configuration
from mimicfs.sync.events.source import EventSource
from mimicfs.sync.freshness import (
    gap_ns,
    heard_until,
    note_heard,
    note_told,
    note_unproven,
)

log = logging.getLogger(__name__)

_LOST = "unread "  # and a process: its note that messages were lost, and nobody has swept
_NOTE_S = 10.0  # between two notes of a bucket of which nothing is told
_NOTHING_LOST = (0, 0, 0)  # neither given up nor unread nor at stake
_LOST_S = 600.0  # between two sweeps for lost messages
_UNREAD_S = 3600.0  # between two sweeps for unreadable messages: anybody may write such
_ABOUT_S = 60.0  # a queue gives messages about in the order in which they came
_ANEW = "its source is another one than before"


class _Loss:
    """Messages that *became* lost. A sweep finds the keys that they were about. It costs requests,
    so at least *pause_s* passes between two."""

    def __init__(self, became: str, pause_s: float) -> None:
        self.became = became
        self.count = 0  # so far
        self._said = 0  # how many a sweep was told of
        self._said_s = float("-inf")
        self._since_s = float("inf")  # since when there are lost ones of which no sweep was told
        self._pause_s = pause_s

    @property
    def unsaid(self) -> int:
        return self.count - self._said

    def to_be_said(self, *, over: bool) -> int:
        """Return how many to tell a sweep of now; 0: none. *over*: no more come."""
        unsaid, now_s = self.unsaid, time.monotonic()
        if not unsaid:
            return 0
        self._since_s = min(self._since_s, now_s)
        over = over or now_s - self._since_s >= self._pause_s
        if not over or now_s - self._said_s < self._pause_s:
            return 0
        return unsaid

    def said(self, count: int) -> None:
        """Note that a sweep was told of *count* more."""
        self._said += count
        self._said_s, self._since_s = time.monotonic(), float("inf")


class Ledger(Witness):
    """*name*: the source's, as --events writes it. *buckets*: those that are shown.
    *configuration*, *lifecycle*: ask S3 for the notifications and the lifecycle rules of a bucket.
    *suspect*: told of a gap, with the bucket and the reason."""

    def __init__(
        self,
        mimicdb: Mirror,
        source: EventSource,
        name: str,
        buckets: Callable[[], list[str]],
        prefix: str,
        configuration: Callable[[str], Configuration],
        lifecycle: Callable[[str], Configuration],
        suspect: Callable[[str, str], None],
    ) -> None:
        self._mimicdb = mimicdb
        self._source = source
        self._buckets = buckets
        self._prefix = prefix
        self._suspect = suspect
        about = mimicdb, source, prefix, configuration, lifecycle, suspect
        self._looks = NotificationLooks(*about)
        self._name = name
        self._election = Election(mimicdb, name)
        self._begun = False
        self._lapses = 0  # of our membership, when we began
        self._suspensions = -1  # the same; -1: we never did
        self._looked_back: set[str] = set()  # buckets, since this process runs
        self._drained_ns = 0  # we have heard everything that was in the source by then
        self._identity = ""  # of the source, as far as a gap was told of
        self._shared = False  # with another store, as far as a gap was told of
        self._gone = self._failing = False
        self._claim = Claim(mimicdb, source)
        self._given_up = _Loss("were lost", _LOST_S)
        self._unread = _Loss("could not be read", _UNREAD_S)
        self._lost_note = _LOST + secrets.token_hex(8)
        self._loss_noted = _NOTHING_LOST  # in the store, for whoever comes after us
        self._owed = 0  # how many messages the source was owed, as far as that is noted
        self._settled_s = float("-inf")  # when the source gives again what a dead consumer had
        self._until_ns: dict[str, int] = {}
        self._noted_s: dict[str, float] = {}
        self._about: set[str] = set()  # buckets that messages were about since the last silence

    def figures(self) -> dict[str, Any]:
        """Return, for each bucket, until when it was told of and whether S3 tells the source; and
        whether another store takes messages from the source."""
        return {
            "told_until_ns": dict(self._until_ns),
            "another_store": self._claim.another,
            **self._looks.figures(),
        }

    # What the consumer asks and says

    def turn(self) -> bool:
        if self._source.shared and not self._election.is_ours():
            # the one that has the turn notes it; what we missed is looked at later
            self._begun = False
            return False
        self._claim.stake()
        return self._claim.may_take

    def begins(self) -> bool:
        """Look back, once, before messages are taken. Return whether another consumer, or this one
        in another life, may have taken messages."""
        lapses, suspensions = self._mimicdb.member.lapses, self._mimicdb.member.suspensions
        if self._begun and lapses == self._lapses:
            return False
        self._begun = False  # until all of this is done
        self._source.resume()
        identity = self._source.identity()
        former = [bucket for bucket in self._buckets() if self._was_listened_to(bucket)]
        self._look_back(identity, was_away=suspensions != self._suspensions)
        self._lapses, self._suspensions, self._identity = lapses, suspensions, identity
        self._loss_noted = _NOTHING_LOST
        if former:
            self._settled_s = time.monotonic() + self._source.unsettled_s
        if not self._source.complete:
            for bucket in former:
                note_unproven(self._mimicdb, bucket)
        self._claim.stake()
        self._begun = True
        return bool(former)

    def taken(self) -> None:
        self._note_loss()

    def heard(self, told: Sequence[Told], until_ns: int) -> None:
        self._election.stand()
        if self._gone:
            self._suspect_all("its queue was missing for some time")
            self._gone, self._identity = False, self._source.identity()
        if self._failing:
            self._look_for_expired()
            self._failing = False
        self._look_at_source()
        shown = {*self._buckets()}  # a message may name any other
        about = [it for it in told if it.bucket in shown]
        self._about |= {it.bucket for it in about}
        self._looks.look(self._buckets())
        self._looks.heard(about)
        self._given_up.count = self._source.lost
        self._look_for_lost(told)
        self._look_for_owed()
        self._drained_ns = max(self._drained_ns, until_ns)
        if not self._may_note():
            return
        drained = until_ns > 0
        if not drained and self._source.ordered:
            until_ns = _oldest_ns(told)
        until_ns = self._claim.alone_until_ns(until_ns)
        for bucket in self._buckets():
            if self._looks.counts_as_told(bucket):
                self._note(bucket, min(until_ns, self._looks.looked_ns(bucket)))
        if drained:
            self._about.clear()

    def rules_put(self, rules: Sequence[RulesPut]) -> None:
        shown = {*self._buckets()}
        self._looks.put(it for it in rules if it.bucket in shown)

    def unread(self, count: int) -> None:
        self._unread.count += count
        self._note_loss()  # it outlives us: the messages will be acknowledged

    def failed(self, exc: MimicError) -> None:
        if self._source.shared and not isinstance(exc, StoreError):
            self._election.stand_back()
        self._failing = True
        before, self._gone = self._gone, self._gone or isinstance(exc, NoSuchQueue)
        self._given_up.count = self._source.lost
        self._note_loss()
        if self._gone and not before:
            self._suspect_all("its queue is gone")

    # Whether a bucket is told

    def _may_note(self) -> bool:
        """Whether nothing is open that could make a note wrong."""
        pending = self._given_up.unsaid or self._unread.unsaid
        settled = time.monotonic() >= self._settled_s
        ours_alone = not self._claim.another
        unbroken = self._mimicdb.member.lapses == self._lapses
        return settled and ours_alone and unbroken and not pending

    # Gaps

    def _look_at_source(self) -> None:
        """Look whether the source is still the same one, and ours alone."""
        identity = self._source.identity()
        if self._identity not in ("", identity):
            self._suspect_all(_ANEW)
        self._identity = identity
        self._claim.stake()
        if self._claim.another != self._shared:
            self._suspect_all("another store takes messages from its source, or did so")
            self._shared = self._claim.another

    def _look_back(self, identity: str, *, was_away: bool) -> None:
        """Begin with the source *identity*: look what was lost since we or others last heard it.
        *was_away*: this process did not run all the time."""
        kept_s, now_ns = self._source.retention_s(), time.time_ns()
        listed_ones = {*self._listed()}
        for bucket in self._buckets():
            listed = bucket in listed_ones
            if not listed and self._mimicdb.known_bucket(bucket) is None:
                continue
            # Of a consumer for another prefix, too: it took messages about any.
            lost = [it for it in self._mimicdb.notes(bucket) if it.startswith(_LOST)]
            if lost and listed:
                self._suspect_lost(bucket, lost)
            elif why := self._is_another(bucket, identity):
                if listed:
                    self._suspect(bucket, why)
                # The sweep finds what was before, and the source keeps what comes: whoever begins
                # next has no gap, also if we end before anything counts as told.
                note_heard(self._mimicdb, bucket, self._prefix, self._name, identity, now_ns)
            elif listed and (kept_s or was_away):
                self._suspect_expired(bucket, kept_s)
            self._looked_back.add(bucket)

    def _suspect_lost(self, bucket: str, noted: Sequence[str]) -> None:
        """Tell of the gap of lost messages. Their consumers may live, and note more losses
        meanwhile: so the notes *noted* are taken away before the gap is told, and our note stands
        for them until then."""
        self._mimicdb.set_note(bucket, self._lost_note, "1")
        for name in {*noted} - {self._lost_note}:
            self._mimicdb.set_note(bucket, name, None)
        self._suspect(bucket, "messages were lost, or could not be read")
        self._mimicdb.set_note(bucket, self._lost_note, None)

    def _is_another(self, bucket: str, identity: str) -> str:
        """Return why the source, which is *identity*, has not told what was to be told of *bucket*;
        "": it has. A gap is told of once, by the one that saw it."""
        before = bucket in self._looked_back
        told_ns, noted = heard_until(self._mimicdb, bucket, self._prefix, self._name)
        if before and self._identity in ("", identity):
            return ""
        if told_ns:
            return _ANEW if noted not in ("", identity) else ""
        return _ANEW if before else "no message about it came before"

    def _look_for_expired(self) -> None:
        """After a failure, look whether the source may have lost messages that nobody took. A
        source that keeps none counts those of which it knows."""
        kept_s = self._source.retention_s()
        for bucket in self._listed() if kept_s else ():
            self._suspect_expired(bucket, kept_s)

    def _suspect_expired(self, bucket: str, kept_s: float | None) -> None:
        told_ns, _ = heard_until(self._mimicdb, bucket, self._prefix, self._name)
        since_ns = max(told_ns, gap_ns(self._mimicdb, bucket), self._drained_ns)
        away_s = (time.time_ns() - since_ns) / NS
        if told_ns and kept_s is not None and away_s > kept_s:
            self._suspect(bucket, f"no message was received for {away_s / DAY_S:.3g} days")

    def _listed(self) -> list[str]:
        """Return the buckets of which anything is known."""
        return [bucket for bucket in self._buckets() if self._mimicdb.scopes(bucket)]

    def _suspect_all(self, why: str) -> None:
        for bucket in self._buckets():
            self._suspect(bucket, why)

    def _look_for_lost(self, told: Sequence[Told]) -> None:
        """Look for lost messages: a sweep finds their keys once no more get lost. If some always
        do, time ends the wait."""
        for loss in (self._given_up, self._unread):
            count = loss.to_be_said(over=not told)
            if count:
                self._suspect_all(f"messages {loss.became}")
                loss.said(count)  # not before that: the store may have failed
                log.warning("%s: messages that %s: %d", self._source.name, loss.became, count)
        self._note_loss()

    def _look_for_owed(self) -> None:
        """Look for refused messages, which may still come: what was listed before does not count as
        told."""
        owed = self._source.owed
        if owed != self._owed:
            for bucket in self._buckets():
                note_unproven(self._mimicdb, bucket)
            self._owed = owed

    def _note_loss(self) -> None:
        """Note in the store whether messages were lost without a sweep being told, or would be if
        we died now. Another consumer that begins takes the note away, so each loss writes it."""
        at_stake = self._source.at_stake()  # as many as before may be others
        lost = (self._given_up.unsaid, self._unread.unsaid, at_stake)
        if at_stake or lost != self._loss_noted:
            for bucket in self._buckets():
                self._mimicdb.set_note(bucket, self._lost_note, "1" if any(lost) else None)
            self._loss_noted = lost

    def _was_listened_to(self, bucket: str) -> bool:
        """Whether there was a consumer before, for any prefix."""
        return any(name.startswith((TOLD, HEARD)) for name in self._mimicdb.notes(bucket))

    def _note(self, bucket: str, until_ns: int) -> None:
        is_known = self._mimicdb.known_bucket(bucket) is not None
        if until_ns <= self._until_ns.get(bucket, 0) or not is_known:
            return
        self._until_ns[bucket] = until_ns
        now_s = time.monotonic()
        if bucket in self._about or now_s - self._noted_s.get(bucket, float("-inf")) >= _NOTE_S:
            self._noted_s[bucket] = now_s
            note_told(self._mimicdb, bucket, self._prefix, until_ns)
            about = self._mimicdb, bucket, self._prefix, self._name, self._identity
            note_heard(*about, until_ns)


def _oldest_ns(told: Sequence[Told]) -> int:
    """Return until when the mirror has everything of the source, with *told*, if more may be
    waiting: about the time of the oldest of *told*. A message may lie."""
    oldest_ns = min((it.time_ns for it in told), default=0)
    return min(time.time_ns(), oldest_ns) - int(_ABOUT_S * NS)
