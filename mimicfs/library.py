"""MimicDB for programs: the mirror, and boto3 clients that mimic into it.

    from mimicfs import MimicDB
    s3 = MimicDB(SQLite("mimicdb.db")).client()      # a boto3 client like any other

Threading: any method, many threads.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from mimicfs import mimicdb, process
from mimicfs.backends import Backend
from mimicfs.config.values import parse_target
from mimicfs.errors import ConfigError
from mimicfs.feed import Feed, News, changes
from mimicfs.moment import Moment
from mimicfs.sync import Report, Syncer


class MimicDB(mimicdb.Mirror):
    """The mirror in *backend* (mimicfs.backends); without one, in Redis on localhost. *namespace*
    keeps several mirrors apart in one store.

    The MimicDB that was made last is that of the process: `mimicfs.mimic` and the boto-shaped
    classes use it where they are given no other. Many threads may use one MimicDB. Raises
    StoreError if the store cannot be opened.
    """

    def __init__(self, backend: Backend | None = None, namespace: str = "") -> None:
        from mimicfs.s3.mimicking.mimic import Forcing

        if backend is None:
            from mimicfs.backends.default import Redis

            backend = Redis(namespace=namespace)
        elif namespace:
            backend.enter(namespace)
        super().__init__(backend)
        self._forcing = Forcing()
        self._making = threading.Lock()  # protects the client below
        self._client: Any = None
        process.use(self)
        os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))

    # Clients

    def session(self, **kwargs: Any) -> Any:
        """Return a boto3 Session whose S3 clients and resources mimic. The parameters are those of
        boto3.session.Session."""
        from mimicfs.s3.mimicking.session import MimickingSession

        return MimickingSession(self.mimic, **kwargs)

    def client(self, *, at: str | datetime | None = None, **kwargs: Any) -> Any:
        """Return a mimicking boto3 S3 client; with *at*, one of that moment (see `at`). The other
        parameters are those of boto3.client, but for the service. Each call takes `Force=True`,
        too."""
        if at is not None:
            return self.at(at).client(**kwargs)
        return self.session().client("s3", **kwargs)

    def resource(self, **kwargs: Any) -> Any:
        """Return a mimicking boto3 S3 resource. The parameters are those of boto3.resource."""
        return self.session().resource("s3", **kwargs)

    def mimic(self, client: Any) -> Any:
        """Make *client*, a boto3 S3 client or resource, or an S3 client of aiobotocore, a mimicking
        one; return it."""
        from mimicfs.s3.mimicking.mimic import mimic

        mimic(getattr(client.meta, "client", client), self, self._forcing)
        return client

    def at(self, moment: str | datetime) -> Moment:
        """Return S3 as it was at *moment*: a date or time of ISO 8601 (in UTC where it names no
        zone), how long ago ("-2h", "yesterday"), or a datetime. Its clients list and read the
        versions of then. Raises ConfigError for what is no moment, and for one that is to come."""
        return Moment(moment)

    def forced(self) -> AbstractContextManager[None]:
        """Return a context within which all calls of all threads go to S3, and correct the
        mirror."""
        return self._forcing()

    # Syncing

    def sync(self, *where: str, client: Any = None) -> list[Report]:
        """Make the mirror equal to S3: of *where*, names of buckets or s3://BUCKET/PREFIX; without
        any, of everything. *client* is the boto3 client that asks; without it, one with boto3's
        defaults.

        Return a Report for each. Raises S3Error, MalformedListing or StoreError as soon as one of
        *where* cannot be listed, TooManyDeletions if most of a large one would be gone; of
        everything, a bucket that cannot be listed has its error in its Report. ConfigError if
        *client* is an asynchronous one.
        """
        from mimicfs.s3.requests.borrowed import BorrowedS3

        if inspect.iscoroutinefunction(getattr(client, "_make_api_call", None)):
            raise ConfigError("an asynchronous client cannot sync; use a boto3 client")
        s3 = BorrowedS3(self.mimic(client) if client is not None else self._own_client())
        try:
            syncer = Syncer(self, s3)
            if not where:
                return syncer.sync_all()
            targets = [parse_target(it if "://" in it else f"s3://{it}") for it in where]
            return [syncer.sync(target.bucket, target.prefix) for target in targets]
        finally:
            s3.close()

    # The feed

    def changes(
        self,
        where: str,
        since: int | None = None,
        state: str | Path | None = None,
        *,
        follow: bool = True,
    ) -> Iterator[News]:
        """Yield what changes in the mirror of *where*, a bucket or s3://BUCKET/PREFIX, in order
        (feed.py): what is new after number *since*, or from now on; and, with *follow*, what is
        going to change.

        *state*: the file in which the feed is kept, so that a later call goes on with it; without
        one, it begins anew, and its numbers with it. Raises LogTrimmed if what is asked for is not
        kept any more, StoreError.
        """
        from mimicfs.backends.sqlite import SQLite

        target = parse_target(where if "://" in where else f"s3://{where}")
        path = Path(state) if state is not None else None
        store = SQLite(str(path)) if path is not None else None
        feed = Feed(self, target.bucket, target.prefix, store, path)
        feed.look()  # from now on, not from when the first is asked for
        return _each(feed, feed.last() if since is None else since, follow=follow)

    def _own_client(self) -> Any:
        with self._making:
            if self._client is None:
                self._client = self.client()
            return self._client


def _forked(mimicdb: weakref.ref[MimicDB]) -> None:
    found = mimicdb()
    if found is not None:
        found.forked()


def _each(feed: Feed, since: int, *, follow: bool) -> Iterator[News]:
    with closing(feed):
        for page in changes(feed, since, follow=follow):
            yield from page


def mimic(client: Any, mimicdb: MimicDB | None = None) -> Any:
    """Make *client*, a boto3 S3 client or resource, or an S3 client of aiobotocore, mimic into
    *mimicdb* (without one: into that of the process); return it. Raises ConfigError if no MimicDB
    was made."""
    return (mimicdb or process.current()).mimic(client)
