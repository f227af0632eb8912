"""Pages of listings that clients ask for. They are merged into the mirror, and the places where
listings go on are remembered.

A marker or token is a text that a server gives out and takes back: a key, a key with something
behind it, or a hash. It is looked up here and never taken for a key by its looks. The begin of a
page is certain for the first page of a listing, for one that follows a page which was seen, and
behind a StartAfter, which is a key by definition. Any other page does not say what lies before its
first key, and nothing there is deleted.

Threading: any; the places are under a lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from mimicfs.entry import Entry, Scope, clamped_ns, is_directory_bucket, unquoted
from mimicfs.errors import LogTrimmed
from mimicfs.merging import same_version
from mimicfs.mimicdb import Mirror
from mimicfs.s3.transport.calls import Params

log = logging.getLogger(__name__)


# With these, a listing shows keys, each once and as they are.
LEARNED = {
    "ListObjectsV2": {
        "Bucket",
        "Prefix",
        "StartAfter",
        "ContinuationToken",
        "MaxKeys",
        "FetchOwner",
    },
    "ListObjects": {"Bucket", "Prefix", "Marker", "MaxKeys"},
}
_WHOLE = {"Key", "Size", "LastModified"}  # S3 says these of each object; not every server does
_PLACES_MAX = 1000  # that are remembered


class ListingPlace(NamedTuple):
    """The place where a listing goes on."""

    last: str  # the key or common prefix that the page before ended with
    started_ns: int | None = None  # of its first page, if the mirror has learned all so far
    ours: bool = False  # the page before was the mirror's
    names: int = 0  # that the pages before had
    since: int | None = None  # of the log, before the first page was asked for


class Places:
    """The places that the markers and tokens of recent pages stand for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the table below
        self._places: OrderedDict[tuple[str, ...], ListingPlace] = OrderedDict()

    def note(self, asked: Params, marker: str, place: ListingPlace) -> None:
        """Note that the listing of the page *asked* goes on at *place* with *marker*."""
        with self._lock:
            self._places[_listing(asked, marker)] = place
            while len(self._places) > _PLACES_MAX:
                self._places.popitem(last=False)

    def find(self, asked: Params, marker: str) -> ListingPlace | None:
        with self._lock:
            return self._places.get(_listing(asked, marker))


def _listing(asked: Params, marker: str) -> tuple[str, ...]:
    return asked["Bucket"], asked.get("Prefix", ""), asked.get("Delimiter", ""), marker


class Pages:
    """Learns pages of S3 into *mimicdb*."""

    def __init__(self, mimicdb: Mirror, places: Places) -> None:
        self._mimicdb = mimicdb
        self._places = places

    def learn(self, operation: str, asked: Params, answer: Params, since: int, at_ns: int) -> None:
        """Learn *answer*, which S3 gave to *asked*, asked at *at_ns*, after change *since*."""
        if min(asked.get("MaxKeys", 1), answer.get("MaxKeys", 1)) < 1:
            return  # a page of no keys says nothing about what there is
        if "EncodingType" in asked or is_directory_bucket(asked["Bucket"]):
            return  # botocore leaves such keys encoded, and such a bucket lists in no order
        if not all(item.keys() >= _WHOLE for item in answer.get("Contents", ())):
            return
        shown = [item["Key"] for item in answer.get("Contents", ())]
        place = self._begins(asked, since, at_ns)
        in_order = shown == sorted(set(shown))
        if not in_order or (place is not None and shown and shown[0] <= place.last):
            return
        truncated = bool(answer.get("IsTruncated"))
        if asked.keys() <= LEARNED[operation]:
            entries = [entry_of(item) for item in answer.get("Contents", ())]
            merged = self._merge(asked, place, entries, since, truncated=truncated)
            if place is not None and not merged:
                place = place._replace(started_ns=None)
            elif place is not None and not truncated:
                self._complete(asked, place, len(shown))
        elif place is not None:  # the mirror has not seen all pages
            place = place._replace(started_ns=None)
        if truncated:
            groups = [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
            names = (place.names if place is not None else 0) + len(shown) + len(groups)
            self._goes_on(asked, answer, place, max([*shown, *groups], default=""), names)

    def _begins(self, asked: Params, since: int, at_ns: int) -> ListingPlace | None:
        """Return the place behind which a page begins; None: that is not certain."""
        marker = asked.get("ContinuationToken") or asked.get("Marker")
        if marker:
            place = self._places.find(asked, marker)
            return place if place is not None and not place.ours else None
        after = asked.get("StartAfter") or ""
        return ListingPlace(after, None if after else at_ns, since=since)

    def _merge(
        self,
        asked: Params,
        place: ListingPlace | None,
        entries: list[Entry],
        since: int,
        *,
        truncated: bool,
    ) -> bool:
        """Merge the keys of a page; return whether all of it was believed."""
        bucket, prefix = asked["Bucket"], asked.get("Prefix", "")
        if not entries and (truncated or place is None):
            return True  # it says nothing
        if place is None:
            first, entries = entries[0], entries[1:]
            self._show(bucket, first, since)
            after = first.key
        else:
            after = place.last
        upto = ([after] + [entry.key for entry in entries])[-1] if truncated else None
        if upto == after:
            return True
        try:
            self._mimicdb.replace(
                bucket, prefix, entries, after=after, upto=upto, since=since, deep=True
            )
        except LogTrimmed as exc:
            log.debug("a page was not learned: %s", exc)
            return False
        return True

    def _show(self, bucket: str, entry: Entry, since: int) -> None:
        """Learn that S3 has *entry*, and nothing about what is before it."""
        known = self._mimicdb.entry(bucket, entry.key)
        if known is None or not same_version(known, entry):
            self._mimicdb.repair(bucket, entry.key, entry, since)

    def _complete(self, asked: Params, place: ListingPlace, shown: int) -> None:
        prefix = asked.get("Prefix", "")
        if place.started_ns is not None and (not prefix or prefix.endswith("/")):
            duration_ns = time.time_ns() - place.started_ns
            names = place.names + shown
            scope = Scope(prefix, True, place.started_ns, duration_ns, names=names)
            try:
                self._mimicdb.complete(asked["Bucket"], scope, place.since)
            except LogTrimmed as exc:
                log.debug("a listing was not learned: %s", exc)

    def _goes_on(
        self, asked: Params, answer: Params, place: ListingPlace | None, last: str, names: int
    ) -> None:
        """Remember where the next page begins, under each name by which a caller may ask for it."""
        last = last or (place.last if place is not None else "")
        if not last:
            return
        going_on = ListingPlace(last, names=names)
        if place is not None:
            going_on = place._replace(last=last, names=names)
        if "NextContinuationToken" in answer:
            self._places.note(asked, answer["NextContinuationToken"], going_on)
        elif "KeyCount" not in answer:  # a ListObjects may also go on with its last key
            for marker in (answer.get("NextMarker"), last):
                if marker:
                    self._places.note(asked, marker, going_on)


def entry_of(item: Params) -> Entry:
    """Return an item of a listing."""
    storage_class = item.get("StorageClass", "")
    return Entry(
        item["Key"],
        item["Size"],
        clamped_ns(item["LastModified"]),
        unquoted(item.get("ETag")),
        "" if storage_class == "STANDARD" else storage_class,
    )
