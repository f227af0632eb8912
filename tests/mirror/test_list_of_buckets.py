"""The list of buckets counts as listed only where nobody can have changed it otherwise."""

from __future__ import annotations

import os

import pytest

from mimicfs.backends.lease import Lease
from mimicfs.backends.memory import Memory
from mimicfs.backends.open import open_store
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import BucketEntry, Scope
from mimicfs.errors import LogTrimmed, Uncopied, Unlisted
from mimicfs.mimicdb import Mirror


class _Trimmed(Memory):
    """Others change the list of buckets as soon as it is marked, and the log does not hold it."""

    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        super().mark(bucket, scope, since)
        self._buckets[""].seq += 5
        self._buckets[""].log.clear()


def test_a_list_that_others_changed_out_of_the_log_is_asked_for_again() -> None:
    mirror = Mirror(_Trimmed())
    mirror.replace_buckets([BucketEntry("b", 1)], 0)
    with pytest.raises(Unlisted):
        mirror.buckets()


def test_a_list_that_counts_as_listed_no_more_reaches_whoever_asked_before_and_whoever_copied_it(
    redis_url: str,
) -> None:
    store = open_store(redis_url, f"buckets-{os.getpid()}")
    mirror = Mirror(store)
    mirror.replace_buckets([BucketEntry("b", 1)], 0)
    lease = Lease()
    replica = Replica(open_store(redis_url, f"buckets-{os.getpid()}"), SQLite(), lease)
    lease.renew()
    replica.bring("", "")
    with replica.answering():
        assert replica.scope("", "") is not None
    since = mirror.seq("")
    replica.unmark("", "")
    with replica.answering(), pytest.raises(Uncopied):
        replica.scope("", "")
    with pytest.raises(LogTrimmed):
        mirror.replace_buckets([], since)
    assert [bucket.name for bucket in store.buckets()] == ["b"]
    mirror.replace_buckets([BucketEntry("b", 1)], mirror.seq(""))
    assert [bucket.name for bucket in mirror.buckets()] == ["b"]
    replica.close()
    mirror.close()
