"""What a source cannot have told is known: it starts a sweep, and status says so."""

from __future__ import annotations

import time
from functools import partial

import pytest
from support.clients import plain, queue_of

from mimicfs.errors import NoSuchQueue
from mimicfs.sync.events.ledger import Ledger
from mimicfs.sync.events.messages import Told
from mimicfs.sync.events.sqs import SQS
from mimicfs.sync.freshness import TOLD

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def url(server, bucket):
    return queue_of(server, bucket)


@pytest.fixture
def gaps():
    return []


@pytest.fixture
def ledger(s3, mimicdb, syncer, url, bucket, gaps):
    """A ledger of a bucket that is known, and of which something was told before."""
    syncer.sync(bucket)
    mimicdb.set_note(bucket, TOLD, str(time.time_ns()))
    ask = partial(s3.call, "get_bucket_notification_configuration")
    return Ledger(
        *(mimicdb, SQS(s3.queue(url)), f"sqs:{url}", lambda: [bucket], "", ask),
        lambda _bucket, why: gaps.append(why),
    )


def look_again(ledger):
    ledger._looked_s.clear()
    ledger.heard([], True)


def test_what_was_told_all_the_time_has_no_gap(ledger, bucket, gaps):
    ledger.begins()
    ledger.heard([], True)
    assert gaps == []
    assert ledger.figures()["configured"] == {bucket: "yes"}
    assert time.time_ns() - ledger.figures()["told_until_ns"][bucket] < 60e9


def test_no_message_makes_the_mirror_true_until_a_time_to_come(ledger, bucket):
    ledger.heard([Told(bucket, "a", time_ns=9 * 10**18)], False)
    assert ledger.figures()["told_until_ns"][bucket] <= time.time_ns()


def test_a_configuration_that_is_removed_is_a_gap_at_both_ends(ledger, client, bucket, gaps):
    ledger.heard([], True)
    until_ns = ledger.figures()["told_until_ns"][bucket]
    had = client.get_bucket_notification_configuration(Bucket=bucket)
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    for _ in range(2):
        look_again(ledger)
    assert gaps == ["no notification configuration names its queue"]
    assert ledger.figures() == {
        "configured": {bucket: "no"},
        "told_until_ns": {bucket: until_ns},
    }
    client.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": had["QueueConfigurations"]},
    )
    look_again(ledger)
    assert gaps[1:] == ["it was not told of for a while"]
    assert ledger.figures()["configured"] == {bucket: "yes"}


def test_a_queue_that_is_deleted_is_a_gap_at_both_ends(ledger, gaps):
    for _ in range(2):
        ledger.failed(NoSuchQueue("the queue is gone"))
    assert gaps == ["its queue is gone"]
    ledger.heard([], True)
    assert gaps[1:] == ["its queue was gone for a while"]


def test_an_absence_that_is_longer_than_the_queue_keeps_is_a_gap(
    ledger, server, url, mimicdb, bucket, gaps
):
    hour_s = 3600
    plain(server, "sqs").set_queue_attributes(
        QueueUrl=url, Attributes={"MessageRetentionPeriod": str(hour_s)}
    )
    mimicdb.set_note(bucket, TOLD, str(time.time_ns() - int(0.9 * hour_s * 1e9)))
    ledger.begins()
    assert gaps == []
    mimicdb.set_note(bucket, TOLD, str(time.time_ns() - 12 * hour_s * 10**9))
    ledger._begun = False
    ledger.begins()
    assert gaps == ["nothing was heard of it for 0.5 days"]


def test_what_was_listed_before_anybody_listened_is_a_gap(ledger, mimicdb, bucket, gaps):
    mimicdb.set_note(bucket, TOLD, None)
    ledger.begins()
    assert gaps == ["nothing was told of it before"]


def test_messages_that_the_source_gave_up_are_a_gap_once_that_is_over(ledger, gaps, caplog):
    ledger._source.lost = 3
    for _ in range(2):
        ledger.heard([], True)
    assert gaps == ["messages were given up"]
    assert "3 messages were given up" in caplog.text
