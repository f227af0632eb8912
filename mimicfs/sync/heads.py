"""`mimicfs sync --metadata`: what a listing does not say of objects, asked for one by one.

Threading: the thread that calls `learn_metadata` reads the mirror; the requests are made, and
learned, in the threads of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mimicfs.errors import KeyNotFound, Throttled
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync.flights import Flights, Pace

_PAGE = 1000


def learn_metadata(
    mimicdb: Mirror,
    s3: S3,
    bucket: str,
    prefix: str,
    show: Callable[[int], None],
    cancellation: Cancellation,
) -> int:
    """HEAD every object below *prefix* whose user metadata is not known; return how many.

    What is learned stays with the version (ETag) of each object, so the next time only what is
    new is asked about. *show* is called with the number so far. Raises S3Error, Interrupted.
    """
    unknown = _unknown(mimicdb, bucket, prefix)
    flights: Flights[str] = Flights(s3.pool, cancellation)
    pace, again, count = Pace(s3.lists), list[str](), 0
    try:
        while True:
            while len(flights) < pace.limit:
                key = again.pop() if again else next(unknown, None)
                if key is None:
                    break
                flights.send(key, s3.head, bucket, key)
            if not len(flights):
                return count
            key, answer = flights.take()
            try:
                answer.result()
            except KeyNotFound:
                pass  # deleted since it was listed, which the mirror knows by now
            except Throttled:
                if pace.limit == 1:
                    raise
                pace.answered(True)
                again.append(key)
                continue
            pace.answered(False)
            count += 1
            show(count)
    finally:
        flights.give_up()


def _unknown(mimicdb: Mirror, bucket: str, prefix: str) -> Iterator[str]:
    after = ""
    while page := mimicdb.listing(bucket, prefix, after, _PAGE):
        yield from (entry.key for entry in page if entry.meta is None)
        after = page[-1].key
