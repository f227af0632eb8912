"""How the mirror treats records: which ones it can leave alone, and about which it asks S3.

A record says that a key changed; what is there now, only S3 says. So

    a key of no directory that is known              nothing: the first visit lists it
    what the mirror has already (an echo, mostly of  nothing
      a change that went through the mirror)
    the deletion of a key that the mirror does not   a line in the log, unless a program has deleted
      have                                             it through the mirror
    another one                                      a HEAD, whose answer is merged like any other
    many of one directory                            one LIST of it, where that costs less
    a key that is being listed, or changed through   a HEAD, and what it says is logged, also if the
      the mirror, while we hear of it                  mirror has it already

Each state of an object in the mirror has one record as its echo. A second record that fits as well
tells of another change, of the metadata only. So a record counts as an echo only if no other one
can have come for that state: to us, before anybody looked at the key; to the consumer before us; or
among the records that are too many to be remembered.

A HEAD is merged as of the moment before it was sent (`Mirror.repair` with *since*): a change that
becomes known meanwhile stands, and if the mirror then differs from the HEAD, S3 is asked again. So
any number of consumers may hear the same records, in any order, doubled or late, and come to the
same mirror.

An answer that S3 was asked for before the change may come, or be merged, after the record was
heard: a page of a listing (underway.py), the answer to a PUT or a DELETE (backends/pending.py). It
must not bring back the old state. The log says what such an answer must leave alone; so the result
of each HEAD meanwhile gets a line there.

Threading: one `hear` at a time; HEADs run in the pool of `S3`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from typing import NamedTuple

from mimicfs.backends.uncovering import prefixes_of
from mimicfs.entry import LIST_MAX, LISTED, OBJECT, Entry
from mimicfs.errors import (
    AccessDenied,
    InvalidRequest,
    KeyNotFound,
    NoSuchBucket,
    NotFromS3,
    S3Unavailable,
)
from mimicfs.merging import SAME_TIME_NS, same_version
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.mimicking.reads import VERSIONS
from mimicfs.s3.mimicking.shown import entry_of
from mimicfs.s3.requests.client import S3
from mimicfs.sync.events.messages import Told
from mimicfs.sync.syncer import Syncer
from mimicfs.underway import Lookout

log = logging.getLogger(__name__)

# A LIST costs 0.005 USD for 1,000, a HEAD 0.0004 (aws.amazon.com/s3/pricing, us-east-1).
_HEADS_OF_A_LIST = 12
_REMEMBERED_MAX = 100_000  # keys, about 30 MB
_UNSEEN = ("", 0)  # the state of a key at which nobody had looked when its record came
_TRIES = 5  # HEADs of one key, each of which was overtaken by another change


class Heard(NamedTuple):
    """The fate of some records."""

    echoes: int = 0  # the mirror had it already
    unknown: int = 0  # about keys at which nobody has looked
    heads: int = 0
    lists: int = 0
    refused: int = 0  # S3 does not let us ask


class _ToldKey(NamedTuple):
    """All records of one key."""

    bucket: str
    key: str
    told: list[Told]
    listed: str | None = None  # the shortest prefix that is being listed and has the key
    intended: bool = False  # it is being changed through the mirror

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come that was asked for before the change."""
        return self.listed is not None or self.intended

    @property
    def directory(self) -> str:
        return _above(self.key)

    @property
    def shown(self) -> str:
        """The directory that is there because of the key: of a marker object, its own."""
        return self.key[: self.key.rfind("/") + 1]


class _Accounted(NamedTuple):
    """The last record of a key that was heard, and the state of the mirror then."""

    record: int  # its hash
    time_ns: int
    state: tuple[str, int] | None  # ETag and time

    def may_have_made(self, entry: Entry) -> bool:
        """Whether the record may have made *entry*."""
        if self.state == _UNSEEN:
            return entry.mtime_ns <= self.time_ns + SAME_TIME_NS
        return self.state == _state(entry)


class Hearing:
    def __init__(self, mimicdb: Mirror, s3: S3, syncer: Syncer) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._lookout = Lookout(mimicdb.backend)
        self._heard: OrderedDict[tuple[str, str], _Accounted] = OrderedDict()  # by bucket and key
        # Records may have been heard until then that are not remembered here.
        self._unknown_until_ns = 0

    def succeed(self) -> None:
        """Note that another consumer may have heard records until now."""
        self._heard.clear()
        self._unknown_until_ns = max(self._unknown_until_ns, time.time_ns())

    def hear(self, told: Iterable[Told], cancellation: Cancellation | None = None) -> Heard:
        """Make the mirror true for the keys of *told*. Raises S3Error and StoreError if S3 or the
        store cannot be asked now: then all of it must be heard again."""
        cancellation = cancellation or Cancellation()
        heard_of = _by_key(told)
        self._note_versions(heard_of)
        judged: dict[str, list[_ToldKey]] = {"echoes": [], "gone": [], "unknown": [], "heads": []}
        for change in self._seen_against_others(heard_of):
            judged[self._judged(change)].append(change)
        for change in judged["unknown"]:
            self._account(change, _UNSEEN)
        self._log_gone(judged["gone"])
        counts = Counter({verdict: len(changes) for verdict, changes in judged.items()})
        counts["echoes"] += counts.pop("gone")
        for (bucket, directory), changes in _by_directory(judged["heads"]):
            if self._list_is_cheaper(bucket, directory, changes):
                for change in changes:
                    self._forget_head(change, meta=True)  # a LIST does not show it
                self._syncer.list_directory(bucket, directory, cancellation)
                self._forget_empty(bucket, directory)
                counts["lists"] += 1
                counts["heads"] -= len(changes)
            else:
                counts["refused"] += self._ask(changes, cancellation)
            for change in changes:
                self._account(change, _state(self._mimicdb.entry(bucket, change.key)))
        return Heard(**counts)

    def doubt(self, told: Iterable[Told]) -> None:
        """Make the keys of *told* uncertain: S3 does not say what is there."""
        for bucket, directory in {(it.bucket, it.directory) for it in _by_key(told)}:
            self._mimicdb.uncover(bucket, directory)

    # What can be left alone

    def _seen_against_others(self, changes: list[_ToldKey]) -> Iterator[_ToldKey]:
        """Yield *changes*, with the listings and intents under way that concern them. Those are
        looked up first: anything that ends meanwhile is in the mirror, or in the log."""
        listings = self._lookout.listings() if changes else []
        buckets = {change.bucket for change in changes}
        intended = {(name, key) for name in buckets for key in self._lookout.intended(name)}
        for change in changes:
            bucket, key = change.bucket, change.key
            about = [prefix for where, prefix in listings if where == bucket]
            met = min((prefix for prefix in about if key.startswith(prefix)), default=None)
            yield change._replace(listed=met, intended=(bucket, key) in intended)

    def _judged(self, change: _ToldKey) -> str:
        """Return the field of Heard that *change* counts for; "heads": S3 must be asked; "gone": an
        echo, of which the log may have no line."""
        if self._is_again(change):
            return "echoes"
        entry = self._mimicdb.entry(change.bucket, change.key)
        if entry is not None and entry.kind == OBJECT:
            return "echoes" if self._is_echo(change, entry) else "heads"
        if change.is_open:
            return "heads"
        if not self._is_looked_at(change):
            return "unknown"
        gone = all(each.removed and not each.version_id for each in change.told)
        return "gone" if gone and not self._may_be_last(change) else "heads"

    def _is_again(self, change: _ToldKey) -> bool:
        """Whether the last record of the key has come once more."""
        last = self._heard.get((change.bucket, change.key))
        return last is not None and all(
            hash(each) == last.record and (each.sequencer or each.time_ns) for each in change.told
        )

    def _is_echo(self, change: _ToldKey, entry: Entry) -> bool:
        """Whether the mirror has all of *change* already, as *entry*."""
        last = self._heard.get((change.bucket, change.key))
        if last is None and entry.mtime_ns <= self._unknown_until_ns + SAME_TIME_NS:
            return False
        if last is not None and not last.may_have_made(entry):
            last = None
        records = {hash(each) for each in change.told} | ({last.record} if last else set())
        if len(records) > 1 or not all(_may_be_echo(each, entry) for each in change.told):
            return False
        self._account(change, _state(entry))
        return True

    def _account(self, change: _ToldKey, state: tuple[str, int] | None) -> None:
        """Remember the last record of *change* as the one that made *state*."""
        where, told = (change.bucket, change.key), change.told[-1]
        self._heard[where] = _Accounted(hash(told), told.time_ns, state)
        self._heard.move_to_end(where)
        while len(self._heard) > _REMEMBERED_MAX:
            _, last = self._heard.popitem(last=False)
            # A message may lie about its time.
            until_ns = min(last.time_ns, time.time_ns())
            self._unknown_until_ns = max(self._unknown_until_ns, until_ns)

    def _is_looked_at(self, change: _ToldKey) -> bool:
        """Whether *change* could make the mirror wrong: its directory is known, or one above it,
        which shows whether there is anything below."""
        if self._mimicdb.cover(change.bucket, change.directory) is not None:
            return True
        directory = change.directory
        while directory:
            above = _above(directory)
            if self._mimicdb.cover(change.bucket, above) is not None:
                name = directory[len(above) : -1]
                _, shown = self._mimicdb.lookup(change.bucket, above, name)
                return any(_may_leave(each, shown is None) for each in change.told)
            directory = above
        return False

    def _may_be_last(self, change: _ToldKey) -> bool:
        """Whether a directory is shown though no key of it is known any more, and *change* may have
        taken the last one."""
        return self._shown_empty(change.bucket, change.shown) is not None

    def _shown_empty(self, bucket: str, directory: str) -> Entry | None:
        """Return the entry that alone shows *directory* or one above it: the mirror knows no key
        below it. None: no entry does. The entry of a marker object, or of a directory that was
        emptied through the mount, shows those above it for good."""
        while directory:
            shown = self._mimicdb.entry(bucket, directory)
            if shown is not None:
                known = self._mimicdb.scan(bucket, directory, directory, 1)
                return None if known or shown.kind != LISTED else shown
            directory = _above(directory)
        return None

    # What is said although S3 is not asked

    def _note_versions(self, changes: Sequence[_ToldKey]) -> None:
        """Note which buckets have versions: no change through the mirror may have shown it."""
        for bucket in {it.bucket for it in changes if any(each.versioned for each in it.told)}:
            known = self._mimicdb.known_bucket(bucket) is not None
            if known and self._mimicdb.note(bucket, VERSIONS) is None:
                self._mimicdb.set_note(bucket, VERSIONS, "seen")

    def _log_gone(self, changes: Sequence[_ToldKey]) -> None:
        """Keys are gone that the mirror does not have: the answer to a read that was asked for
        before may still be on its way."""
        for bucket in {change.bucket for change in changes}:
            keys = [change.key for change in changes if change.bucket == bucket]
            self._mimicdb.confirm_gone(bucket, keys)

    # Asking

    def _list_is_cheaper(self, bucket: str, directory: str, changes: Sequence[_ToldKey]) -> bool:
        heads = len(changes)
        if heads <= _HEADS_OF_A_LIST or self._mimicdb.cover(bucket, directory) is None:
            return False
        if any(change.is_open for change in changes):  # a LIST logs only changes
            return False
        most = heads // _HEADS_OF_A_LIST * LIST_MAX
        _, names = self._mimicdb.stride(bucket, directory, "", most + 1)
        return names + heads <= most

    def _ask(self, changes: Sequence[_ToldKey], cancellation: Cancellation) -> int:
        """Ask S3 for each of *changes* at once; return how many it refused to tell."""
        asked: list[Future[bool]] = [self._s3.pool.submit(self._learn, each) for each in changes]
        return sum(not cancellation.wait(each) for each in asked)

    def _learn(self, change: _ToldKey) -> bool:
        """Have the mirror learn the state of *change* in S3; return whether S3 tells it."""
        try:
            for _ in range(_TRIES):
                if self._learned(change):
                    return True
        except NoSuchBucket:
            log.debug("s3://%s: no such bucket", change.bucket)
            return True
        except (AccessDenied, InvalidRequest, NotFromS3) as exc:
            # Nothing is certain there any more; a caller that looks at it asks S3, and gets the
            # error.
            where = f"s3://{change.bucket}/{change.key}"
            log.warning("%s changed, but S3 does not answer about it: %s", where, exc)
            self._mimicdb.uncover(change.bucket, change.directory)
            return False
        where = f"s3://{change.bucket}/{change.key}"
        raise S3Unavailable(f"{where} is changed faster than S3 can be asked about it")

    def _learned(self, change: _ToldKey) -> bool:
        """Ask S3 once; return whether the mirror has taken the answer. It has not if something else
        became known of the key meanwhile, which may be older."""
        bucket, key = change.bucket, change.key
        before = self._mimicdb.entry(bucket, key)
        with self._mimicdb.finding():  # even a line without a change is not by a writer of ours
            self._forget_head(change)
            since, shown = self._mimicdb.seq(bucket), self._shown(bucket, key)
        if change.is_open and (shown is not None or self._exists(bucket)):
            self._mimicdb.confirm(bucket, [key], since)
        if not _is_shown(self._mimicdb.entry(bucket, key), shown):
            return False
        if shown is None:
            if key.endswith("/") and before is not None and before.kind == OBJECT:
                self._show_unlisted(bucket, key)
            self._forget_empty(bucket, change.shown)
            if change.listed is not None:
                self._settle_directories(change, change.listed)
        return True

    def _shown(self, bucket: str, key: str) -> Entry | None:
        """Return the entry of *key* in S3, after the mirror has learned it. Raises NoSuchBucket."""
        try:
            answer = self._s3.call("head_object", bucket, key)
        except KeyNotFound:
            return None
        shown = entry_of(key, answer)
        if shown is None:
            raise NotFromS3(f"s3://{bucket}/{key}: the answer is not from S3")
        return shown

    def _exists(self, bucket: str) -> bool:
        """Whether the bucket exists, which a HEAD of a key does not say. Raises NoSuchBucket."""
        if self._mimicdb.known_bucket(bucket) is None:
            self._s3.head_bucket(bucket)
        return True

    def _settle_directories(self, change: _ToldKey, prefix: str) -> None:
        """Correct the directories of the key, which is gone, while everything in *prefix* is
        listed: pages that are still to be merged may show directories that are empty by now. Those
        of which the mirror knows no key are looked at."""
        bucket = change.bucket
        below = [each for each in prefixes_of(change.shown) if len(each) > len(prefix)]
        for number, directory in enumerate(below):
            if self._mimicdb.scan(bucket, directory, directory, 1):
                continue
            since = self._mimicdb.seq(bucket)
            page = self._s3.list_page(bucket, directory, limit=1)
            if not page.entries and page.token is None:
                self._mimicdb.confirm(bucket, below[number:], since)
                return
            if self._mimicdb.entry(bucket, directory) is None:
                self._mimicdb.repair(bucket, directory, Entry(directory, kind=LISTED), since)

    def _forget_head(self, change: _ToldKey, *, meta: bool = False) -> None:
        """Forget what a HEAD said of a key: the key may have changed, although its ETag has not.
        *meta*: forget its metadata, too. A certain change is logged even if no HEAD is known: the
        answer to an earlier one may still be on its way."""
        logged = not any(each.head_only for each in change.told)
        while True:  # news of that time is left alone
            since = self._mimicdb.seq(change.bucket)
            entry = self._mimicdb.entry(change.bucket, change.key)
            if entry is None or entry.kind != OBJECT:
                return
            left = entry._replace(head=None, meta=None if meta else entry.meta)
            if left == entry and logged:
                return
            self._mimicdb.record(change.bucket, left, since)
            logged = True

    def _show_unlisted(self, bucket: str, directory: str) -> None:
        """Show *directory*, whose marker object is gone, if it was never listed: it may have other
        keys, until `_forget_empty` knows that it has none."""
        since = self._mimicdb.seq(bucket)
        known = self._mimicdb.scan(bucket, directory, directory, 1)
        if not known and self._mimicdb.cover(bucket, directory) is None:
            self._mimicdb.repair(bucket, directory, Entry(directory, kind=LISTED), since)

    def _forget_empty(self, bucket: str, directory: str) -> None:
        """Forget *directory*, which has lost a key, and those above it, as far as they are shown
        and nothing is left in them. S3 is not asked about directories that are not shown, however
        deep the key is said to be."""
        while True:
            since = self._mimicdb.seq(bucket)
            shown = self._shown_empty(bucket, directory)
            if shown is None or not self._is_empty(bucket, shown.key):
                return
            self._mimicdb.repair(bucket, shown.key, None, since)
            directory = _above(shown.key)

    def _is_empty(self, bucket: str, directory: str) -> bool:
        """Whether nothing is left in *directory*, of which the mirror knows no key. S3 is asked if
        it was never listed."""
        if self._mimicdb.cover(bucket, directory) is not None:
            return True
        page = self._s3.list_page(bucket, directory, limit=1)
        return not page.entries and page.token is None


def _above(key: str) -> str:
    """Return the directory that *key* is in."""
    return key[: key.rfind("/", 0, -1) + 1]


def _state(entry: Entry | None) -> tuple[str, int] | None:
    return None if entry is None else (entry.etag, entry.mtime_ns)


def _is_shown(entry: Entry | None, shown: Entry | None) -> bool:
    """Whether *entry* is the version that S3 has *shown* (None: it showed nothing)."""
    if entry is None or entry.kind != OBJECT:
        return shown is None
    return shown is not None and same_version(entry, shown) and entry.meta == shown.meta


def _may_be_echo(told: Told, entry: Entry) -> bool:
    """Whether *entry* may be the version that *told* is about.

    An ETag alone does not say so: a copy onto itself with other metadata has the same one. Its
    time does. (That of a multipart upload may be when it began: then a HEAD is wasted.)
    """
    if told.head_only or told.removed or not told.etag or told.etag != entry.etag:
        return False
    return told.time_ns <= entry.mtime_ns + SAME_TIME_NS


def _may_leave(told: Told, there: bool) -> bool:
    """Whether the key may be in S3 after *told*; or, unless *there*, whether it may be gone. The
    deletion of a version may leave either."""
    return told.removed != there or bool(told.removed and told.version_id)


def _by_key(told: Iterable[Told]) -> list[_ToldKey]:
    found: dict[tuple[str, str], list[Told]] = {}
    for each in told:
        found.setdefault((each.bucket, each.key), []).append(each)
    return [_ToldKey(*where, records) for where, records in found.items()]


def _by_directory(
    changes: Sequence[_ToldKey],
) -> Iterable[tuple[tuple[str, str], list[_ToldKey]]]:
    ordered = sorted(changes, key=lambda each: (each.bucket, each.directory))
    grouped = groupby(ordered, key=lambda each: (each.bucket, each.directory))
    return [(where, list(group)) for where, group in grouped]
