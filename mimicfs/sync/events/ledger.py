"""Until when a source has told of each bucket, and what it cannot have told.

    told until     what S3 had put into the source by then is in the mirror, of the keys below
                     the prefix of which it tells
    a gap          changes may have happened of which no message will come: the bucket is swept

Gaps that are known, and when they begin and end:

    nothing was ever told of what was listed     this consumer is the first
    the consumer was away for longer than the    at its start
      source keeps messages
    the source is gone (a queue was deleted)     when that is seen, and when one is there again
    the configuration of the bucket does not     when that is seen (a look every five minutes),
      tell the source                              and when it does again
    the source gave messages up                  when it has stopped doing so, or ten minutes
                                                   after it began
    messages came that nobody could read         the same, but once in an hour at most

A message that a queue moves to its dead-letter queue, because S3 or the store could not be asked
for so long, was given up; so was what it would not give again to whoever comes after a consumer
that died.

The knowledge of each bucket is in notes of the store, and outlives the process.

Threading: the consumer's thread; the figures may be read by any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from mimicfs.errors import AccessDenied, MimicError, NoSuchBucket, NoSuchQueue, S3Error
from mimicfs.human import number_of
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events.claim import Claim
from mimicfs.sync.events.consumer import Witness
from mimicfs.sync.events.election import Election
from mimicfs.sync.events.messages import Told
from mimicfs.sync.events.notification import Configuration, is_indirect, shortcoming
from mimicfs.sync.events.source import EventSource
from mimicfs.sync.freshness import note_told, told_until_ns

log = logging.getLogger(__name__)

_UNTOLD = "untold "  # before a prefix, the note that the source is not told of it: why
_LOST = "unread "  # before a prefix, the note that messages were lost, and nobody swept
_NOTE_S = 10.0  # between two notes of a bucket of which nothing is told
_LOOK_S = 300.0  # between two looks at a configuration
_LOOKS_MAX = 100  # configurations that are looked at in one go
_LOST_S = 600.0  # between two sweeps because messages were lost
_UNREAD_S = 3600.0  # and because some could not be read: anybody may write such
_ABOUT_S = 60.0  # a queue gives messages about in the order in which they came
_DAY_S = 86_400

YES, NO, UNKNOWN = "yes", "no", "unknown"


class _Loss:
    """Messages that *became* lost. A sweep finds what they were about; it costs, so *pause_s* is
    between two at least."""

    def __init__(self, became: str, pause_s: float) -> None:
        self.became = became
        self.count = 0  # so far
        self._said = 0  # of how many a sweep was told
        self._said_s = float("-inf")
        self._since_s = float("inf")  # since when some are lost of which none was told
        self._pause_s = pause_s

    @property
    def unsaid(self) -> int:
        return self.count - self._said

    def to_be_said(self, *, over: bool) -> int:
        """Return of how many a sweep is to be told now; 0: of none. *over*: no more come."""
        unsaid, now_s = self.unsaid, time.monotonic()
        if not unsaid:
            return 0
        self._since_s = min(self._since_s, now_s)
        over = over or now_s - self._since_s >= self._pause_s
        if not over or now_s - self._said_s < self._pause_s:
            return 0
        return unsaid

    def said(self, count: int) -> None:
        """A sweep was told of *count* more."""
        self._said += count
        self._said_s, self._since_s = time.monotonic(), float("inf")


class Ledger(Witness):
    """*name*: the source's, as --events writes it. *buckets*: those that are shown.
    *configuration*: asks S3 for that of a bucket. *suspect*: told of a gap, with the bucket and
    the reason."""

    def __init__(
        self,
        mimicdb: Mirror,
        source: EventSource,
        name: str,
        buckets: Callable[[], list[str]],
        prefix: str,
        configuration: Callable[[str], Configuration],
        suspect: Callable[[str, str], None],
    ) -> None:
        self._mimicdb = mimicdb
        self._source = source
        self._buckets = buckets
        self._prefix = prefix
        self._configuration = configuration
        self._suspect = suspect
        self._election = Election(mimicdb, name)
        self._begun = False
        self._gone = self._failing = False
        self._claim = Claim(mimicdb, source)
        self._given_up = _Loss("were lost", _LOST_S)
        self._unread = _Loss("could not be read", _UNREAD_S)
        self._loss_noted = False  # in the store, for whoever comes after us
        self._settled_s = float("-inf")  # when the source gives again what a dead consumer had
        self._until_ns: dict[str, int] = {}
        self._noted_s: dict[str, float] = {}
        self._about: set[str] = set()  # buckets that messages were about since the last silence
        self._looked_s: dict[str, float] = {}
        self._told: dict[str, str] = {}  # by bucket: whether the source is told of it
        self._unseen: set[str] = set()  # told of by a topic or EventBridge, or so it is hoped
        self._seen: set[str] = set()  # messages about them came

    def figures(self) -> dict[str, Any]:
        """Return until when each bucket was told of, whether S3 is to tell the source, and whether
        another store takes messages from it."""
        return {
            "told_until_ns": dict(self._until_ns),
            "configured": {bucket: self._is_told(bucket) for bucket in self._told},
            "another_store": self._claim.another,
        }

    # What the consumer asks and says

    def turn(self) -> bool:
        ours = not self._source.shared or self._election.is_ours()
        if not ours:
            self._begun = False  # whoever has the turn notes; what he missed is looked at later
        return ours

    def begins(self) -> None:
        """Messages are going to be taken: look back, once."""
        if self._begun:
            return
        self._source.resume()
        self._look_back(at_start=True)
        self._loss_noted = False
        if any(self._noted_ns(bucket) for bucket in self._buckets()):  # there was another one
            self._settled_s = time.monotonic() + self._source.unsettled_s
        self._claim.stake()
        self._begun = True

    def taken(self) -> None:
        self._note_loss()

    def heard(self, told: Sequence[Told], until_ns: int) -> None:
        self._election.stand()
        if self._gone:
            self._suspect_all("its queue was missing for some time")
            self._gone = False
        if self._failing:
            self._look_back()
            self._failing = False
        about = {it.bucket for it in told}
        self._seen |= about
        self._about |= self._known(about)
        self._look_at_configurations(about)
        self._given_up.count = self._source.lost
        self._look_for_lost(told)
        self._claim.stake()
        if self._given_up.unsaid or self._unread.unsaid or time.monotonic() < self._settled_s:
            return
        drained = until_ns > 0
        if not drained and self._source.ordered:
            until_ns = _oldest_ns(told)
        for bucket in self._buckets():
            if self._is_told(bucket) != NO and not self._is_unseen(bucket):
                self._note(bucket, self._prefix, until_ns)
        for bucket in self._about - {*self._buckets()}:
            if self._is_told(bucket) == YES:
                self._note(bucket, "", until_ns)
        if drained:
            self._about.clear()

    def unread(self, count: int) -> None:
        self._unread.count += count
        self._note_loss()  # it outlives us: the messages will be acknowledged

    def failed(self, exc: MimicError) -> None:
        if self._source.shared and isinstance(exc, S3Error):
            self._election.stand_back()
        self._failing = True
        before, self._gone = self._gone, self._gone or isinstance(exc, NoSuchQueue)
        self._given_up.count = self._source.lost
        self._note_loss()
        if self._gone and not before:
            self._suspect_all("its queue is gone")

    # Gaps

    def _look_back(self, *, at_start: bool = False) -> None:
        """Look whether the source may have lost messages that nobody took. One that keeps none
        counts those of which it knows, but for those before its start."""
        kept_s = self._source.retention_s()
        if kept_s == 0 and not at_start:
            return
        for bucket in self._buckets():
            if not self._mimicdb.scopes(bucket):
                continue
            if at_start and self._mimicdb.note(bucket, _LOST + self._prefix):
                self._suspect(bucket, "messages were lost, or could not be read")
                self._mimicdb.set_note(bucket, _LOST + self._prefix, None)
            told_ns = self._noted_ns(bucket)
            away_s = (time.time_ns() - told_ns) / 1e9
            if not told_ns:
                self._suspect(bucket, "no message about it came before")
            elif kept_s is not None and away_s > kept_s:
                self._suspect(bucket, f"no message was received for {away_s / _DAY_S:.3g} days")

    def _suspect_all(self, why: str) -> None:
        for bucket in self._buckets():
            self._suspect(bucket, why)

    def _look_for_lost(self, told: Sequence[Told]) -> None:
        """Look for what was lost: a sweep finds it once nothing more gets lost. Where some always
        is, time ends the wait."""
        for loss in (self._given_up, self._unread):
            count = loss.to_be_said(over=not told)
            if count:
                self._suspect_all(f"messages {loss.became}")
                loss.said(count)  # and not before: the store may have failed
                of = number_of(count, "message")
                log.warning("%s: %s %s", self._source.name, of, loss.became)
        self._note_loss()

    def _note_loss(self) -> None:
        """Note in the store whether messages were lost about which no sweep was told, or would be
        if we died now."""
        lost = bool(self._given_up.unsaid or self._unread.unsaid or self._source.at_stake())
        if lost != self._loss_noted:
            for bucket in self._buckets():
                self._mimicdb.set_note(bucket, _LOST + self._prefix, "1" if lost else None)
            self._loss_noted = lost

    def _look_at_configurations(self, about: set[str]) -> None:
        """Look at those of what is shown, and of what else messages are *about* that the mirror
        has: others may show it."""
        now_s, shown = time.monotonic(), self._buckets()
        others = self._known(about - {*shown})
        due = [
            it for it in [*shown, *others] if now_s - self._looked_s.get(it, -_LOOK_S) >= _LOOK_S
        ]
        for bucket in due[:_LOOKS_MAX]:
            self._look_at(bucket, shown=bucket in shown)
            self._looked_s[bucket] = now_s

    def _look_at(self, bucket: str, *, shown: bool) -> None:
        try:
            found = self._configuration(bucket)
            about = (found, self._source.arn(), self._prefix if shown else "")
            why, indirect = shortcoming(*about), is_indirect(*about)
        except (S3Error, AccessDenied, NoSuchBucket) as exc:
            log.debug("s3://%s: its notification configuration cannot be read: %s", bucket, exc)
            self._told[bucket] = UNKNOWN
            return
        self._told[bucket] = NO if why else YES
        self._unseen = self._unseen | {bucket} if indirect else self._unseen - {bucket}
        name = _UNTOLD + self._prefix
        if shown and bool(why) != bool(self._mimicdb.note(bucket, name)):
            self._suspect(bucket, why or "its messages were missing for some time")
            self._mimicdb.set_note(bucket, name, why or None)

    def _is_unseen(self, bucket: str) -> bool:
        """Whether messages about *bucket* can come only by a way on which none came yet."""
        return bucket in self._unseen and bucket not in self._seen

    def _is_told(self, bucket: str) -> str:
        return UNKNOWN if self._is_unseen(bucket) else self._told.get(bucket, UNKNOWN)

    def _noted_ns(self, bucket: str) -> int:
        return told_until_ns(self._mimicdb, bucket, self._prefix)

    def _known(self, buckets: set[str]) -> set[str]:
        """Return those of *buckets* that the mirror has."""
        return {it for it in buckets if self._mimicdb.known_bucket(it) is not None}

    def _note(self, bucket: str, prefix: str, until_ns: int) -> None:
        if until_ns <= self._until_ns.get(bucket, 0) or not self._known({bucket}):
            return
        self._until_ns[bucket] = until_ns
        now_s = time.monotonic()
        if bucket in self._about or now_s - self._noted_s.get(bucket, float("-inf")) >= _NOTE_S:
            self._noted_s[bucket] = now_s
            note_told(self._mimicdb, bucket, prefix, until_ns)


def _oldest_ns(told: Sequence[Told]) -> int:
    """Return until when all that the source was told of is in the mirror, with *told*, where more
    may be waiting: about when the oldest of them happened. A message may lie."""
    oldest_ns = min((it.time_ns for it in told), default=0)
    return min(time.time_ns(), oldest_ns) - int(_ABOUT_S * 1e9)
