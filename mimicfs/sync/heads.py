"""The attributes of objects that no listing has, asked for one by one, for `mimicfs sync
--metadata` and for the first look at a directory (vfs/firstlook.py).

Threading: the thread that calls reads and tells the mirror; requests are made in the threads of
the S3 object, 64 at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mimicfs.entry import LISTED, Entry, pages
from mimicfs.errors import NOTHING_SAID, KeyNotFound, S3Error, Throttled
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.clients import AT_ONCE
from mimicfs.sync.flights import Flights, Pace


def learn_metadata(
    mimicdb: Mirror,
    s3: S3,
    bucket: str,
    prefix: str,
    show: Callable[[int], None],
    cancellation: Cancellation,
) -> int:
    """HEAD every object below *prefix* whose user metadata is not known; return how many.

    The answer stays with the version (ETag) of each object, so the next time only what is new is
    asked about. *show* is called with the number so far. Raises S3Error, Interrupted.
    """
    count = 0
    for page in pages(lambda after: mimicdb.listing(bucket, prefix, after)):
        unknown = [entry.key for entry in page if entry.meta is None]
        refused = learn(mimicdb, s3, bucket, unknown, cancellation)
        for error in refused.values():
            raise error
        count += len(unknown)
        if unknown:
            show(count)
    return count


def learn(
    mimicdb: Mirror,
    s3: S3,
    bucket: str,
    keys: Sequence[str],
    cancellation: Cancellation,
    since: int | None = None,
) -> dict[str, S3Error]:
    """HEAD *keys* and tell the mirror of all at once. Return the keys that S3 does not let us know,
    and why. A directory ("d/") that has no marker object is known as one without metadata from then
    on. *since*: the number of the log from before, if known. Raises NOTHING_SAID, Interrupted; what
    was answered before stays."""
    since = mimicdb.seq(bucket) if since is None else since
    seen, gone, refused = list[Entry](), list[str](), dict[str, S3Error]()
    try:
        for key, answer in _answers(s3, bucket, keys, cancellation):
            if isinstance(answer, Entry):
                seen.append(answer)
            elif not isinstance(answer, KeyNotFound):
                refused[key] = answer
            elif key.endswith("/"):
                seen.append(Entry(key, kind=LISTED, meta={}))
            else:
                gone.append(key)
    finally:
        mimicdb.learned(bucket, seen, since)
    for key in gone:  # deleted since the listing
        mimicdb.repair(bucket, key, None, since)
    return refused


def _answers(
    s3: S3, bucket: str, keys: Sequence[str], cancellation: Cancellation
) -> Iterator[tuple[str, Entry | S3Error]]:
    """Yield the answer of S3 about each of *keys*, as it comes."""
    flights: Flights[str] = Flights(s3.wide, cancellation)
    pace, left = Pace(AT_ONCE), list(reversed(keys))
    try:
        while left or len(flights):
            while left and len(flights) < pace.limit:
                key = left.pop()
                flights.send(key, s3.look, bucket, key)
            key, answer = flights.take()
            try:
                found: Entry | S3Error = answer.result()
            except Throttled:
                if pace.limit == 1:
                    raise
                pace.answered(True)
                left.append(key)
                continue
            except NOTHING_SAID:
                raise
            except S3Error as exc:
                found = exc
            pace.answered(False)
            yield key, found
    finally:
        flights.give_up()
