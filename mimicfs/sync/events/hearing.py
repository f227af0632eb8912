"""What the mirror makes of records: which ones it can leave alone, and what it asks S3 for.

A record says that a key changed; what is there now, only S3 says. So

    a key of no directory that is known              nothing: the first visit lists it
    what the mirror has already (an echo, mostly of  nothing
      a change that went through the mirror)
    another one                                      a HEAD, whose answer is merged like any other
    many of one directory                            one LIST of it, where that costs less

A HEAD is merged as of the moment before it was sent (`Mirror.repair` with *since*): a change
that becomes known meanwhile stands. So any number of consumers may hear the same records, in any
order, doubled or late, and come to the same mirror.

Threading: one `hear` at a time; HEADs run in the pool of `S3`.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import NamedTuple

from mimicfs.entry import KEPT, OBJECT, Entry
from mimicfs.errors import AccessDenied, InvalidRequest, KeyNotFound, NoSuchBucket
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync.events.messages import Told, is_newer
from mimicfs.sync.syncer import Syncer

log = logging.getLogger(__name__)

_SAME_TIME_NS = 2_000_000_000  # LastModified has whole seconds, and so has an answer's Date
# A LIST costs 0.005 USD for 1,000, a HEAD 0.0004 (aws.amazon.com/s3/pricing, us-east-1).
_HEADS_OF_A_LIST = 12
_PAGE = 1000  # names of one LIST
_REMEMBERED_MAX = 100_000  # sequencers, about 20 MB


class Heard(NamedTuple):
    """What became of some records."""

    echoes: int = 0  # the mirror had it already
    unknown: int = 0  # about what nobody has looked at
    heads: int = 0
    lists: int = 0
    refused: int = 0  # S3 does not let us ask


class _Change(NamedTuple):
    """All records of one key."""

    bucket: str
    key: str
    told: list[Told]

    @property
    def directory(self) -> str:
        return self.key[: self.key.rfind("/", 0, -1) + 1]


class Hearing:
    def __init__(self, mimicdb: Mirror, s3: S3, syncer: Syncer) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        # By bucket and key: the latest sequencer after which S3 was asked.
        self._asked: OrderedDict[tuple[str, str], str] = OrderedDict()

    def hear(self, told: Iterable[Told], cancellation: Cancellation | None = None) -> Heard:
        """Make the mirror true for what *told* is about. Raises S3Error and StoreError where S3
        or the store cannot be asked now: then all of it is to be heard again."""
        cancellation = cancellation or Cancellation()
        counts: Counter[str] = Counter()
        doubtful: list[_Change] = []
        for change in _by_key(told):
            verdict = self._judged(change)
            counts[verdict] += 1
            if verdict == "heads":
                doubtful.append(change)
        for (bucket, directory), changes in _by_directory(doubtful):
            if self._list_is_cheaper(bucket, directory, len(changes)):
                self._syncer.list_directory(bucket, directory, cancellation)
                counts["lists"] += 1
                counts["heads"] -= len(changes)
            else:
                counts["refused"] += self._ask(changes, cancellation)
            self._remember(changes)
        return Heard(**counts)

    def doubt(self, told: Iterable[Told]) -> None:
        """What *told* is about cannot be found out: nothing there is certain any more."""
        for bucket, directory in {(it.bucket, it.directory) for it in _by_key(told)}:
            self._mimicdb.uncover(bucket, directory)

    # What can be left alone

    def _judged(self, change: _Change) -> str:
        """Return the field of Heard that *change* counts for; "heads": S3 must be asked."""
        if self._was_asked(change):
            return "echoes"
        entry = self._mimicdb.entry(change.bucket, change.key)
        if entry is not None and entry.kind == OBJECT:
            echo = all(_is_echo(each, entry) for each in change.told)
            return "echoes" if echo else "heads"
        if not self._is_looked_at(change):
            return "unknown"
        gone = all(each.removed and not each.version_id for each in change.told)
        return "echoes" if gone and not self._may_be_last(change) else "heads"

    def _was_asked(self, change: _Change) -> bool:
        asked = self._asked.get((change.bucket, change.key), "")
        return bool(asked) and not any(
            not each.sequencer or is_newer(each.sequencer, asked) for each in change.told
        )

    def _is_looked_at(self, change: _Change) -> bool:
        """Whether the mirror says anything that *change* could make wrong: its directory is
        known, or one above it, which shows whether there is anything below."""
        if self._mimicdb.cover(change.bucket, change.directory) is not None:
            return True
        directory = change.directory
        while directory:
            above = directory[: directory.rfind("/", 0, -1) + 1]
            if self._mimicdb.cover(change.bucket, above) is not None:
                shown = self._mimicdb.lookup(change.bucket, above, directory[len(above) : -1])[1]
                return all(each.removed for each in change.told) == (shown is not None)
            directory = above
        return False

    def _may_be_last(self, change: _Change) -> bool:
        """Whether a directory that was never listed is shown, and *change* may have taken the
        last key of it."""
        return self._mimicdb.cover(change.bucket, change.directory) is None

    # Asking

    def _list_is_cheaper(self, bucket: str, directory: str, heads: int) -> bool:
        if heads <= _HEADS_OF_A_LIST or self._mimicdb.cover(bucket, directory) is None:
            return False
        most = heads // _HEADS_OF_A_LIST * _PAGE
        _, names = self._mimicdb.stride(bucket, directory, "", most + 1)
        return names + heads <= most

    def _ask(self, changes: Sequence[_Change], cancellation: Cancellation) -> int:
        """Ask S3 for each of *changes* at once; return how many it refused to tell."""
        asked: list[Future[bool]] = [self._s3.pool.submit(self._learn, each) for each in changes]
        return sum(not cancellation.wait(each) for each in asked)

    def _learn(self, change: _Change) -> bool:
        bucket, key = change.bucket, change.key
        self._forget_head(bucket, key)
        try:
            self._s3.head(bucket, key)
        except KeyNotFound:
            self._forget_empty(change)
        except NoSuchBucket:
            log.debug("s3://%s: no such bucket", bucket)
        except (AccessDenied, InvalidRequest) as exc:
            # Nothing is certain there any more; whoever looks at it asks S3, and gets the error.
            log.warning("s3://%s/%s changed, and cannot be asked for: %s", bucket, key, exc)
            self._mimicdb.uncover(bucket, change.directory)
            return False
        return True

    def _forget_head(self, bucket: str, key: str) -> None:
        """What a HEAD said of *key* may have changed, although its ETag has not."""
        since = self._mimicdb.seq(bucket)
        entry = self._mimicdb.entry(bucket, key)
        if entry is not None and entry.head is not None:
            self._mimicdb.record(bucket, entry._replace(head=None), since)

    def _forget_empty(self, change: _Change) -> None:
        """*change* deleted its key: directories that were seen and never listed may be empty."""
        directory = change.directory
        while directory and self._mimicdb.cover(change.bucket, directory) is None:
            since = self._mimicdb.seq(change.bucket)
            if not _names_nothing(self._mimicdb.listing(change.bucket, directory, "", 1)):
                return
            page = self._s3.list_page(change.bucket, directory, limit=1)
            if page.entries or page.token is not None:
                return
            self._drop(change.bucket, directory, since)
            directory = directory[: directory.rfind("/", 0, -1) + 1]

    def _drop(self, bucket: str, directory: str, since: int) -> None:
        shown = self._mimicdb.entry(bucket, directory)
        if shown is not None and shown.kind != KEPT:
            self._mimicdb.repair(bucket, directory, None, since)

    def _remember(self, changes: Sequence[_Change]) -> None:
        for change in changes:
            latest = change.told[-1].sequencer
            for each in change.told:
                latest = each.sequencer if is_newer(each.sequencer, latest) else latest
            if latest:
                self._asked[change.bucket, change.key] = latest
                self._asked.move_to_end((change.bucket, change.key))
        while len(self._asked) > _REMEMBERED_MAX:
            self._asked.popitem(last=False)


def _is_echo(told: Told, entry: Entry) -> bool:
    """Whether the mirror has *told* already, as *entry*.

    An ETag alone does not say so: a copy onto itself with other metadata has the same one. Its
    time does, but for a multipart upload, whose LastModified is the time when it began.
    """
    if told.head_only or told.removed or not told.etag or told.etag != entry.etag:
        return False
    return "-" in told.etag or told.time_ns <= entry.mtime_ns + _SAME_TIME_NS


def _by_key(told: Iterable[Told]) -> list[_Change]:
    """Return the records by key, of each key only those that the latest sequencer leaves: where
    each has one, the last one alone counts."""
    found: dict[tuple[str, str], list[Told]] = {}
    for each in told:
        found.setdefault((each.bucket, each.key), []).append(each)
    return [_Change(*where, _latest(records)) for where, records in found.items()]


def _latest(records: list[Told]) -> list[Told]:
    if not all(each.sequencer for each in records):
        return records
    return [
        each
        for each in records
        if not any(is_newer(other.sequencer, each.sequencer) for other in records)
    ]


def _by_directory(
    changes: Sequence[_Change],
) -> Iterable[tuple[tuple[str, str], list[_Change]]]:
    ordered = sorted(changes, key=lambda each: (each.bucket, each.directory))
    grouped = groupby(ordered, key=lambda each: (each.bucket, each.directory))
    return [(where, list(group)) for where, group in grouped]


def _names_nothing(entries: Sequence[Entry]) -> bool:
    return not any(entry.kind == OBJECT for entry in entries)
