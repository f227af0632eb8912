"""Whether S3 tells a source of each bucket, as far as its configuration shows.

    yes      of all keys below the prefix, and of expiry if there may be any. Where a topic,
               EventBridge or a webhook may lead to somebody else: once a message has come
    no       it does not, and why
    unknown  the configuration cannot be read, or no message has come yet

Such a message says nothing of the time before it: a way that leads to us by now may have led
nowhere, and there is no message of what changed then. So the first one that ever comes is a gap,
and what was listed before the first one that comes by another configuration does not count.

Between two looks, which are 20 s or more apart, S3 may not have told for some time. S3 sends a test
message to a queue when a rule for it is put: then nobody can say what changed before. Other servers
do not; there nobody notices a rule that is removed and put back between two looks.

Threading: the consumer's thread; the figures may be read by any.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mimicfs.errors import (
    NOTHING_SAID,
    AccessDenied,
    NoSuchBucket,
    S3Error,
    Unsupported,
)
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events.messages import RulesPut, Told
from mimicfs.sync.events.notification import (
    Configuration,
    expires,
    is_indirect,
    shortcoming,
    unexpired,
)
from mimicfs.sync.events.source import EventSource
from mimicfs.sync.freshness import note_unproven

log = logging.getLogger(__name__)

# Notes beside a bucket, each before a prefix
_UNTOLD = "untold "  # why the source is not told of the bucket
_UNSEEN = "unseen "  # nobody can see whether it is told
_CAME = "came "  # before a source and a prefix: by which configuration a message came last
_LOOK_S = 20.0  # between two looks at a configuration; at AWS 0.05 USD a month
_LOOK_OF_EACH_S = 2.0  # the same, for each bucket where they are many
_LOOK_MAX_S = 300.0
_LOOKS_MAX = 100  # configurations that are looked at in one go
_RIGHT = "to look takes the right {}: {}"

YES, NO, UNKNOWN = "yes", "no", "unknown"


class NotificationLooks:
    """What *configuration* and *lifecycle* show, which ask S3 for the notifications and the
    lifecycle rules of a bucket. *suspect*: told of a gap, with the bucket and the reason."""

    def __init__(
        self,
        mimicdb: Mirror,
        source: EventSource,
        prefix: str,
        configuration: Callable[[str], Configuration],
        lifecycle: Callable[[str], Configuration],
        suspect: Callable[[str, str], None],
    ) -> None:
        self._mimicdb = mimicdb
        self._source = source
        self._prefix = prefix
        self._configuration = configuration
        self._lifecycle = lifecycle
        self._suspect = suspect
        self._looked_s: dict[str, float] = {}
        self._looked_ns: dict[str, int] = {}  # by bucket: when the last answered look began
        self._told: dict[str, str] = {}  # by bucket: whether the source is told of it
        self._why: dict[str, str] = {}  # if not, or if that is unknown: why
        self._unseen: set[str] = set()  # buckets told of by a topic or EventBridge, as we hope
        self._seen: set[str] = set()  # buckets about which messages came
        self._noted: set[str] = set()  # that they did is noted, for whoever comes after us
        self._found: dict[str, Configuration] = {}  # by bucket: its configuration
        # by bucket: when its configuration was seen to have changed
        self._changed_ns: dict[str, int] = {}

    def figures(self) -> dict[str, Any]:
        told, why = self._told, self._why  # these are replaced in one step, or only grow
        return {"configured": {it: self._is_told(it) for it in [*told]}, "untold": dict(why)}

    def look(self, buckets: Sequence[str]) -> None:
        """Look at those of *buckets* whose time has come."""
        now_s = time.monotonic()
        pause_s = min(_LOOK_MAX_S, max(_LOOK_S, _LOOK_OF_EACH_S * len(buckets)))
        never_s = float("-inf")
        due = [it for it in buckets if now_s - self._looked_s.get(it, never_s) >= pause_s]
        for bucket in due[:_LOOKS_MAX]:
            self._look_at(bucket)
            self._looked_s[bucket] = now_s
        shown = {*buckets}  # the others are gone from S3, or the mount does not show them any more
        self._told = {name: told for name, told in self._told.items() if name in shown}
        self._why = {name: why for name, why in self._why.items() if name in shown}

    def heard(self, about: Iterable[Told]) -> None:
        """Note that messages *about* buckets that are looked at have come."""
        self._seen |= {
            it.bucket for it in about if it.time_ns >= self._changed_ns.get(it.bucket, 0)
        }
        for bucket in self._seen & self._unseen - self._noted:
            self._note_first(bucket)

    def put(self, rules: Iterable[RulesPut]) -> None:
        """Note that *rules* of buckets that are looked at were put: nobody can say what S3 told
        before."""
        for each in rules:
            note_unproven(self._mimicdb, each.bucket, each.time_ns)

    def counts_as_told(self, bucket: str) -> bool:
        """Whether S3 tells the source of *bucket*, as far as can be seen."""
        if self._told.get(bucket) != YES:
            return False
        return bucket in self._seen or bucket not in self._unseen

    def looked_ns(self, bucket: str) -> int:
        """Return when the last answered look at *bucket* began; 0: there was none."""
        return self._looked_ns.get(bucket, 0)

    def _look_at(self, bucket: str) -> None:
        looked_ns = time.time_ns()
        try:
            found = self._asked(bucket)
            about = (found, self._source.arn(), self._prefix)
            why = shortcoming(*about) or self._unexpired(bucket, unexpired(*about))
            indirect = not why and is_indirect(*about)
        except NOTHING_SAID as exc:  # the bucket is told until the look before
            log.debug("s3://%s: its notification configuration: %s", bucket, exc)
            return
        except S3Error as exc:
            self._cannot_see(bucket, exc)
            return
        notes, unseen = self._mimicdb.notes(bucket), _UNSEEN + self._prefix
        if unseen in notes:  # nobody saw whether it told us meanwhile
            note_unproven(self._mimicdb, bucket)
            self._mimicdb.set_note(bucket, unseen, None)
        self._told[bucket], self._looked_ns[bucket] = NO if why else YES, looked_ns
        self._why = self._why | {bucket: why} if why else _without(self._why, bucket)
        found = {name: value for name, value in found.items() if name != "ResponseMetadata"}
        if self._found.get(bucket, found) != found:
            self._seen.discard(bucket)  # the message came by a way that may be no more
            self._noted.discard(bucket)
            self._changed_ns[bucket] = time.time_ns()
        self._found[bucket] = found
        self._unseen = self._unseen | {bucket} if indirect else self._unseen - {bucket}
        untold = _UNTOLD + self._prefix
        if bool(why) != (untold in notes):
            self._suspect(bucket, why or "its messages were missing for some time")
            self._mimicdb.set_note(bucket, untold, why or None)

    def _note_first(self, bucket: str) -> None:
        """A message about *bucket* has come by a way that its configuration does not show."""
        if self._mimicdb.known_bucket(bucket) is None:
            return
        found = json.dumps(self._found[bucket], sort_keys=True)
        name, now = f"{_CAME}{self._source.name} {self._prefix}", _digest(found)
        before = self._mimicdb.note(bucket, name)
        if before is None:
            self._suspect(bucket, "the first message about it has come")
        elif before != now:
            note_unproven(self._mimicdb, bucket)
        self._mimicdb.set_note(bucket, name, now)
        self._noted.add(bucket)

    def _asked(self, bucket: str) -> Configuration:
        try:
            return self._configuration(bucket)
        except AccessDenied as exc:
            right = _RIGHT.format("s3:GetBucketNotification", exc)
            raise AccessDenied(f"its notification configuration cannot be read; {right}") from exc

    def _unexpired(self, bucket: str, why: str) -> str:
        """Return *why* no expiry in *bucket* is told, if there may be any. Raises S3Error."""
        if not why:
            return ""
        try:
            return why if expires(self._lifecycle(bucket), self._prefix) else ""
        except Unsupported:
            return ""
        except AccessDenied as exc:
            raise AccessDenied(
                f"{why} ({_RIGHT.format('s3:GetLifecycleConfiguration', exc)})"
            ) from exc
        except S3Error as exc:
            if exc.code == "NoSuchLifecycleConfiguration":
                return ""
            raise

    def _cannot_see(self, bucket: str, exc: S3Error) -> None:
        """Note that nobody knows whether S3 tells the source of all keys of *bucket*. The note
        outlives the process: another one may see it again."""
        unseen = _UNSEEN + self._prefix
        is_known = self._mimicdb.known_bucket(bucket) is not None
        if is_known and self._mimicdb.note(bucket, unseen) is None:
            self._mimicdb.set_note(bucket, unseen, "1")
        before, self._told[bucket] = self._told.get(bucket), UNKNOWN
        self._why = self._why | {bucket: str(exc)}
        if before != UNKNOWN and not isinstance(exc, NoSuchBucket):
            log.warning("s3://%s does not count as told: %s", bucket, exc)

    def _is_told(self, bucket: str) -> str:
        told = self._told.get(bucket, UNKNOWN)
        return told if told != YES or self.counts_as_told(bucket) else UNKNOWN


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(reasons: dict[str, str], bucket: str) -> dict[str, str]:
    return {name: why for name, why in reasons.items() if name != bucket}
