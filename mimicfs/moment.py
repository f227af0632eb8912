"""S3 as it was at a moment, for programs: boto3 clients that list and read the objects of then.

    then = MimicDB(SQLite("mimicdb.db")).at("-2h")
    then.client().list_objects_v2(Bucket="photos")

Listings are answered from a mirror of the moment, which lies in memory and is made of one pass over
the versions of a bucket or prefix; objects are read by version id. Nothing can be changed, and the
mirror of the present is neither asked nor told. The list of buckets and what is configured for them
are those of now: S3 keeps no versions of these.

Threading: any method, many threads.
"""

from __future__ import annotations

import inspect
import threading
import time
from datetime import UTC, datetime
from typing import Any

from mimicfs.backends.memory import Memory
from mimicfs.config.moments import parse_moment
from mimicfs.errors import ConfigError
from mimicfs.mimicdb import Mirror
from mimicfs.sync import Syncer


class Moment:
    """S3 at *moment*: a date or time of ISO 8601 (in UTC where it names no zone), how long ago
    ("-2h", "yesterday"), or a datetime. Raises ConfigError, also for one that is to come."""

    def __init__(self, moment: str | datetime) -> None:
        if isinstance(moment, datetime):
            moment = moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()
        if not isinstance(moment, str):
            raise ConfigError(f"{moment!r}: not a moment; pass text or a datetime")
        self.moment_ns = parse_moment(moment, time.time_ns())
        self._past = Mirror(Memory())
        self._looking = threading.Lock()  # held while a bucket is looked at

    def session(self, **kwargs: Any) -> Any:
        """Return a boto3 Session whose S3 clients and resources are those of the moment. The
        parameters are those of boto3.session.Session."""
        from mimicfs.s3.mimicking.session import MimickingSession

        return MimickingSession(self.mimic, **kwargs)

    def client(self, **kwargs: Any) -> Any:
        """Return a boto3 S3 client of the moment, which lists and reads what there was, and changes
        nothing (MethodNotAllowed). The parameters are those of boto3.client."""
        return self.session().client("s3", **kwargs)

    def resource(self, **kwargs: Any) -> Any:
        """Return a boto3 S3 resource of the moment. The parameters are those of boto3.resource."""
        return self.session().resource("s3", **kwargs)

    def mimic(self, client: Any) -> Any:
        """Make *client*, a boto3 S3 client or resource, one of the moment; return it. Raises
        ConfigError for an asynchronous client, and for one that mimics already."""
        from mimicfs.s3.requests.pastclient import PastCalls

        plain = getattr(client.meta, "client", client)
        if inspect.iscoroutinefunction(inspect.unwrap(plain._make_api_call)):
            raise ConfigError("an asynchronous client cannot show a moment; use a boto3 client")
        if hasattr(plain._make_api_call, "mimics"):
            raise ConfigError("this client already mimics the present; pass a plain one")
        PastCalls(plain, self._past, self.moment_ns, self._look)
        return client

    def close(self) -> None:
        """Forget what is known of the moment."""
        self._past.close()

    def _look(self, s3: Any, bucket: str, prefix: str) -> None:
        """Know all keys of *bucket* that begin with *prefix*, as they were. Raises S3Error."""
        directory = prefix[: prefix.rfind("/") + 1]
        with self._looking:
            if not self._past.covered(bucket, directory, deep=True):
                self._past.add_bucket(bucket, 0)
                Syncer(self._past, s3).sync(bucket, directory)
