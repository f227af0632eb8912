"""The consumer knows what a source cannot have told: it starts a sweep, and status says so."""

from __future__ import annotations

import json
import time
from contextlib import closing, suppress
from functools import partial

import pytest
from support.clients import plain

from mimicfs.backends.memory import Memory
from mimicfs.errors import AccessDenied, NoSuchQueue, S3Error, S3Unavailable, StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events import sqs
from mimicfs.sync.events.claim import Claim
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.ledger import Ledger
from mimicfs.sync.events.messages import Told
from mimicfs.sync.events.redisqueue import RedisQueue
from mimicfs.sync.events.sqs import SQS
from mimicfs.sync.freshness import note_gap, note_heard, note_told

ASKED = ("notification", "lifecycle")
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def ledger(s3, mimicdb, syncer, url, bucket, gaps, monkeypatch):
    """A ledger of a bucket that is known, and of which something was told before; by a queue that
    no other store uses, also in times to come (test_certain.py has what another one does)."""
    monkeypatch.setattr(Claim, "alone_until_ns", lambda _, until_ns: until_ns)
    syncer.sync(bucket)
    told_before(mimicdb, s3.queue(url), bucket)
    asks = [partial(s3.call, f"get_bucket_{it}_configuration") for it in ASKED]
    source = SQS(s3.queue(url))
    yield Ledger(
        *(mimicdb, source, f"sqs:{url}", lambda: [bucket], "", *asks),
        lambda _bucket, why: gaps.append(why),
    )
    source.close()


def told_before(mimicdb, queue, bucket, until_ns=None):
    until_ns = time.time_ns() if until_ns is None else until_ns
    note_told(mimicdb, bucket, "", until_ns)
    note_heard(mimicdb, bucket, "", f"sqs:{queue.url}", queue.identity(), until_ns)


def loss_noted(mimicdb, bucket):
    """Whether whoever begins next finds that messages may be lost."""
    return any(name.startswith("unread ") for name in mimicdb.notes(bucket))


def look_again(ledger):
    ledger._looks._looked_s.clear()
    ledger.heard([], time.time_ns())


def test_what_was_told_all_the_time_has_no_gap(ledger, bucket, gaps):
    ledger.begins()
    ledger.heard([], time.time_ns())
    assert gaps == []
    assert ledger.figures() == {
        "told_until_ns": {},
        "configured": {bucket: "yes"},
        "another_store": False,
        "untold": {},
    }
    ledger._settled_s = 0.0  # what a consumer that died had taken has come again
    ledger.heard([], time.time_ns())
    assert time.time_ns() - ledger.figures()["told_until_ns"][bucket] < 60e9


def test_nothing_counts_as_told_while_a_poll_of_the_former_consumer_may_go_on(
    ledger, mimicdb, bucket, monkeypatch
):
    """SQS ends it after 5 s; what it took by then comes again after 6 s more. However long ago the
    former one noted anything."""
    told_before(mimicdb, ledger._source._queue, bucket, time.time_ns() - 3600 * 10**9)
    now_s = time.monotonic()
    for module in ("ledger", "claim"):
        monkeypatch.setattr(f"mimicfs.sync.events.{module}.time.monotonic", lambda: now_s)
    ledger.begins()
    now_s += 10.9
    ledger.heard([], time.time_ns())
    assert ledger.figures()["told_until_ns"] == {}
    now_s += 0.2
    ledger.heard([], time.time_ns())
    assert list(ledger.figures()["told_until_ns"]) == [bucket]


def test_a_bucket_is_told_of_until_the_source_was_empty(ledger, bucket):
    """And not until what it gave was applied, which takes a while."""
    ledger.heard([Told(bucket, "a", time_ns=1_600_000_000 * 10**9)], 1_700_000_000 * 10**9)
    assert ledger.figures()["told_until_ns"] == {bucket: 1_700_000_000 * 10**9}


def test_of_a_source_without_order_a_message_says_nothing_of_others(ledger, bucket):
    ledger._source.ordered = False
    ledger.heard([Told(bucket, "a", time_ns=1_700_000_000 * 10**9)], 0)
    assert ledger.figures()["told_until_ns"] == {}


def test_no_message_makes_the_mirror_true_until_a_time_to_come(ledger, bucket):
    ledger.heard([Told(bucket, "a", time_ns=9 * 10**18)], 0)
    assert ledger.figures()["told_until_ns"][bucket] <= time.time_ns()


def test_a_configuration_that_is_removed_is_a_gap_at_both_ends(ledger, client, bucket, gaps):
    ledger.heard([], time.time_ns())
    until_ns = ledger.figures()["told_until_ns"][bucket]
    had = client.get_bucket_notification_configuration(Bucket=bucket)
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    for _ in range(2):
        look_again(ledger)
    assert gaps == ["no notification configuration names its queue"]
    assert ledger.figures() == {
        "configured": {bucket: "no"},
        "told_until_ns": {bucket: until_ns},
        "another_store": False,
        "untold": {bucket: "no notification configuration names its queue"},
    }
    client.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": had["QueueConfigurations"]},
    )
    look_again(ledger)
    assert gaps[1:] == ["its messages were missing for some time"]
    assert ledger.figures()["configured"] == {bucket: "yes"}


def test_a_topic_or_eventbridge_counts_when_a_message_has_come_that_way(ledger, bucket):
    ledger._looks._configuration = lambda _: {"EventBridgeConfiguration": {}}
    ledger.heard([], time.time_ns())
    told = ledger.figures()
    assert (told["configured"], told["told_until_ns"]) == ({bucket: "unknown"}, {})
    ledger.heard([Told(bucket, "a")], time.time_ns())
    told = ledger.figures()
    assert (told["configured"], list(told["told_until_ns"])) == ({bucket: "yes"}, [bucket])


def test_a_queue_that_is_deleted_is_a_gap_at_both_ends(ledger, gaps):
    for _ in range(2):
        ledger.failed(NoSuchQueue("the queue is gone"))
    assert gaps == ["its queue is gone"]
    ledger.heard([], time.time_ns())
    assert gaps[1:] == ["its queue was missing for some time"]


def test_an_absence_that_is_longer_than_the_queue_keeps_is_a_gap(
    ledger, server, url, mimicdb, bucket, gaps
):
    hour_s = 3600
    plain(server, "sqs").set_queue_attributes(
        QueueUrl=url, Attributes={"MessageRetentionPeriod": str(hour_s)}
    )
    told_before(mimicdb, ledger._source._queue, bucket, time.time_ns() - int(0.9 * hour_s * 1e9))
    ledger.begins()
    assert gaps == []
    told_before(mimicdb, ledger._source._queue, bucket, time.time_ns() - 12 * hour_s * 10**9)
    ledger._begun = False
    ledger.begins()
    assert gaps == ["no message was received for 0.5 days"]


def test_what_was_listed_before_anybody_listened_is_a_gap(ledger, mimicdb, bucket, gaps):
    told_before(mimicdb, ledger._source._queue, bucket, 0)
    ledger.begins()
    assert gaps == ["no message about it came before"]


def test_a_bucket_that_no_mount_with_the_source_shows_does_not_count_as_told(
    ledger, client, mimicdb, bucket
):
    """Nobody looks whether S3 tells of it, and a sweep would not list it."""
    other = f"{bucket}-other"
    client.create_bucket(Bucket=other)
    mimicdb.add_bucket(other, 0)
    rule = client.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    client.put_bucket_notification_configuration(
        Bucket=other, NotificationConfiguration={"QueueConfigurations": rule}
    )
    ledger.heard([Told(other, "a", time_ns=time.time_ns())], time.time_ns())
    assert ledger.figures()["configured"] == {bucket: "yes"}
    assert mimicdb.notes(other) == {}


def test_an_absence_of_rights_that_is_longer_than_the_queue_keeps_is_a_gap(
    ledger, mimicdb, bucket, gaps
):
    ledger.begins()
    ledger.failed(AccessDenied("no rights"))
    ledger.heard([], time.time_ns())
    assert gaps == []
    told_before(mimicdb, ledger._source._queue, bucket, time.time_ns() - 30 * 86_400 * 10**9)
    ledger._drained_ns = 0
    ledger.failed(AccessDenied("no rights"))
    ledger.heard([], time.time_ns())
    assert gaps == ["no message was received for 30 days"]


def test_messages_that_the_source_gave_up_are_a_gap_once_that_is_over(ledger, gaps, caplog):
    for lost in (3, 3, 4):  # a sweep costs: nobody can ask for one every moment
        ledger._source.lost = lost
        ledger.heard([], time.time_ns())
    assert gaps == ["messages were lost"]
    assert "messages that were lost: 3" in caplog.text
    ledger._given_up._said_s -= 600
    ledger.heard([], time.time_ns())
    assert gaps == ["messages were lost"] * 2


@pytest.fixture
def given(server, url, bucket, ledger):
    """Have the queue give each message so many times."""

    def given(times):
        queues = plain(server, "sqs")
        dead = queues.create_queue(QueueName=f"dead-{bucket}")["QueueUrl"].rpartition("/")[2]
        arn = ledger._source.arn().replace(bucket, dead)
        policy = {"maxReceiveCount": times, "deadLetterTargetArn": arn}
        queues.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(policy)})

    return given


def no_answer(*_):
    raise S3Unavailable("no answer")


def test_what_goes_to_the_dead_letter_queue_is_a_gap(
    ledger, given, client, bucket, mimicdb, gaps, monkeypatch, caplog
):
    """S3 cannot be asked, and the queue gives each message twice."""
    monkeypatch.setattr(sqs, "_AGAIN_S", 0)
    source = ledger._source
    given(2)
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    for lost in (0, 2):  # with the test message of the configuration
        source.retry(source.receive(0))
        assert source.lost == lost
    assert source.receive(0) == []
    ledger.failed(S3Unavailable("no answer"))
    assert loss_noted(mimicdb, bucket)  # if we die now, whoever comes next looks
    ledger.heard([], time.time_ns())
    assert gaps == ["messages were lost"]
    assert not loss_noted(mimicdb, bucket)


@pytest.mark.parametrize("fails", ["release", "receive", "delete"])
def test_what_was_given_for_the_last_time_is_lost_unless_it_was_applied(
    ledger, given, fails, monkeypatch
):
    """Every other failure of the queue. It has one message, the test of the configuration."""
    source = ledger._source
    given(1)
    found = source.receive(0)
    assert (len(found), source.lost) == (1, 0)
    monkeypatch.setattr(source._queue, fails, no_answer)
    then = {"release": source.retry, "receive": lambda _: source.receive(0)}
    with pytest.raises(S3Error):
        then.get(fails, source.acknowledge)(found)
    for _ in range(2):
        source.resume()  # as the consumer does after an error
        assert source.lost == (0 if fails == "delete" else 1)


def test_what_other_requests_brought_is_lost_with_the_one_that_failed(
    ledger, given, server, url, monkeypatch
):
    source, receive = ledger._source, ledger._source._queue.receive
    given(1)
    queues = plain(server, "sqs")
    for number in range(24):  # and the test of the configuration
        queues.send_message(QueueUrl=url, MessageBody=f"{number}")
    answers, brought = iter([receive, no_answer] + [receive] * 7), []

    def receive_but_once(wait_s):
        found = next(answers)(wait_s)
        brought.extend(each.receipt for each in found)
        return found

    monkeypatch.setattr(source._queue, "receive", receive_but_once)
    with pytest.raises(S3Error):
        source.receive(0)
    source.resume()
    assert source.lost == len({*brought}) > 10


def test_what_a_consumer_was_given_for_the_last_time_when_it_died_is_a_gap(
    ledger, given, mimicdb, bucket, gaps, tmp_path
):
    source = ledger._source
    given(1)
    ledger.begins()
    consumer = Consumer(source, None, tmp_path / "aside", ledger)
    found, _ = consumer._taken(0)
    assert loss_noted(mimicdb, bucket)
    ledger._begun = False  # as of another one, which begins
    ledger.begins()
    assert gaps == ["messages were lost, or could not be read"]
    assert source.lost == len(found) == 1


@pytest.fixture
def another(s3, mimicdb, bucket):
    """Return another consumer of the store, which takes messages from a queue of its own."""

    def another(queue, gaps):
        asks = [partial(s3.call, f"get_bucket_{it}_configuration") for it in ASKED]
        return Ledger(
            *(mimicdb, SQS(s3.queue(queue)), f"sqs:{queue}", lambda: [bucket], "a/", *asks),
            lambda _bucket, why: gaps.append(why),
        )

    return another


def test_a_consumer_that_begins_leaves_no_loss_of_a_living_one_unnoted(
    ledger, another, server, mimicdb, bucket, gaps, monkeypatch
):
    """It takes the note away, since it tells of the gap; what is taken after that is noted again,
    whatever the number."""
    gaps_of_others = []
    queue = plain(server, "sqs").create_queue(QueueName=f"own-{bucket}")["QueueUrl"]
    living = another(queue, gaps_of_others)
    living.begins()
    gaps_of_others.clear()
    monkeypatch.setattr(living._source, "at_stake", lambda: 1)
    living.taken()
    ledger.begins()
    assert gaps == ["messages were lost, or could not be read"]
    assert not loss_noted(mimicdb, bucket)
    living.taken()
    ledger.heard([], time.time_ns())  # has nothing to note of its own
    another(queue, gaps_of_others).begins()
    assert gaps_of_others == ["messages were lost, or could not be read"]
    assert not loss_noted(mimicdb, bucket)


def test_a_loss_is_taken_over_before_the_gap_is_told_of(ledger, mimicdb, bucket, gaps):
    """What a living consumer notes between the two stays; and a death there loses nothing."""
    mimicdb.set_note(bucket, "unread of another", "1")

    def suspect(_bucket, why):
        assert loss_noted(mimicdb, bucket)
        mimicdb.set_note(bucket, "unread of another", "1")
        gaps.append(why)

    ledger._suspect = suspect
    ledger.begins()
    assert gaps == ["messages were lost, or could not be read"]
    assert loss_noted(mimicdb, bucket)


def test_messages_about_any_other_bucket_take_no_memory(ledger, bucket):
    """Anybody who reaches a webhook may name as many as they like."""
    for until_ns in (time.time_ns(), 0):
        told = [Told(name, "a", time_ns=time.time_ns()) for name in (bucket, "b1", "b2")]
        ledger._settled_s = float("inf")  # nothing may be noted yet
        ledger.heard(told, until_ns)
        assert (ledger._about, ledger._looks._seen) == ({bucket}, {bucket})


def test_a_bucket_that_is_not_shown_any_more_is_not_in_the_figures(ledger, client, bucket):
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    ledger.heard([], time.time_ns())
    assert [*ledger.figures()["untold"]] == [bucket]
    ledger._buckets = list
    ledger.heard([], time.time_ns())
    assert (ledger.figures()["configured"], ledger.figures()["untold"]) == ({}, {})


def test_what_was_applied_the_last_time_that_it_was_given_is_no_gap(
    ledger, given, mimicdb, bucket, gaps, tmp_path
):
    given(1)
    consumer = Consumer(ledger._source, None, tmp_path / "aside", ledger)
    consumer.consume(*consumer._taken(0))  # the test of the configuration says nothing
    consumer.consume(*consumer._taken(0))
    assert (gaps, loss_noted(mimicdb, bucket)) == ([], False)


def untold(ledger, client, bucket):
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})


def lost(ledger, *_):
    ledger._source.lost = 3


def gone(ledger, *_):
    with suppress(StoreUnavailable):
        ledger.failed(NoSuchQueue("the queue is gone"))


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (untold, "no notification configuration names its queue"),
        (lost, "messages were lost"),
        (gone, "its queue was missing for some time"),
    ],
)
def test_a_gap_that_the_store_does_not_take_is_told_again(
    ledger, client, bucket, gaps, happens, why, caplog
):
    def away(*_):
        raise StoreUnavailable("no answer")

    told = ledger._suspect
    ledger._suspect = ledger._looks._suspect = away
    happens(ledger, client, bucket)
    with pytest.raises(StoreUnavailable):
        ledger.heard([], time.time_ns())
    ledger.failed(StoreUnavailable("no answer"))
    ledger._suspect = ledger._looks._suspect = told
    for _ in range(2):
        ledger.heard([], time.time_ns())
    assert gaps == [why]


def test_a_loss_that_whoever_comes_next_has_seen_is_noted_again(ledger, mimicdb, bucket, gaps):
    """A note in the store that is taken away is not there any more."""
    for count in (1, 2):
        ledger._source.lost = count
        ledger.failed(S3Unavailable("no answer"))
        assert loss_noted(mimicdb, bucket)
        ledger._begun = False
        ledger.begins()
        assert gaps == ["messages were lost, or could not be read"] * count


def test_messages_that_always_come_put_a_sweep_off_for_ten_minutes(ledger, bucket, gaps, caplog):
    swept_at = []
    for minute in range(36):
        ledger._source.lost += 1
        ledger.heard([Told(bucket, "a", time_ns=time.time_ns())], 0)
        if len(gaps) > len(swept_at):
            swept_at.append(minute)
        ledger._given_up._since_s -= 60
        ledger._given_up._said_s -= 60
    assert swept_at == [10, 21, 32]
    assert "messages that were lost: 11" in caplog.text


def test_messages_that_nobody_could_read_are_a_gap_once_in_an_hour(
    ledger, mimicdb, bucket, gaps, caplog
):
    """They may have been the only news of a change."""
    ledger.unread(1)
    ledger.heard([], 1_700_000_000 * 10**9)
    ledger.unread(1)  # anybody may write such: a sweep of all that is known is not to be had by it
    ledger.heard([], 1_700_000_100 * 10**9)
    assert gaps == ["messages could not be read"]
    assert loss_noted(mimicdb, bucket)  # if we die now, whoever comes next looks
    assert "messages that could not be read: 1" in caplog.text
    assert ledger.figures()["told_until_ns"] == {bucket: 1_700_000_000 * 10**9}
    ledger._unread._said_s -= 3600
    ledger.heard([], 1_700_000_200 * 10**9)
    assert gaps == ["messages could not be read"] * 2
    assert not loss_noted(mimicdb, bucket)
    mimicdb.set_note(bucket, "unread ", "1")
    ledger.begins()
    assert gaps[2:] == ["messages were lost, or could not be read"]
    assert ledger.figures()["told_until_ns"] == {bucket: 1_700_000_200 * 10**9}


@pytest.mark.parametrize("kind", ["sqs", "redis"])
def test_two_stores_on_one_source_are_warned_of(request, s3, url, kind, caplog):
    """A message is given to one of them, and no gap shows that the other one missed it."""

    def source():
        if kind == "sqs":
            return SQS(s3.queue(url))
        return RedisQueue(f"{request.getfixturevalue('redis_url')}#news")

    first, second = Mirror(Memory()), Mirror(Memory())
    for mirror, another in ((first, False), (first, False), (second, True), (first, True)):
        with closing(source()) as taken:
            claim = Claim(mirror, taken)
            claim.stake()
            assert claim.another is another
    with closing(source()) as taken:
        taken.sign(f"another {time.time() - 1900:.0f}")  # has not taken any for half an hour
        claim = Claim(second, taken)
        claim.stake()
        assert claim.another is False
        assert taken.signed().partition(" ")[0] == second.note("", "store id")
    assert caplog.text.count("it needs a source of its own") == 2


def test_a_bucket_that_was_told_of_long_ago_is_no_gap_at_each_failure(
    ledger, mimicdb, bucket, gaps
):
    """By a topic: no message since then, and the queue was empty all the time."""
    ledger.begins()
    ledger.heard([], time.time_ns())
    told_before(mimicdb, ledger._source._queue, bucket, time.time_ns() - 30 * 86_400 * 10**9)
    for _ in range(3):
        ledger.failed(S3Unavailable("no answer"))
        ledger.heard([], time.time_ns())
    assert gaps == []


def test_an_absence_is_one_gap_until_it_is_as_long_again(ledger, mimicdb, bucket, gaps):
    ledger._suspect = lambda name, why: (note_gap(mimicdb, name), gaps.append(why))
    told_before(mimicdb, ledger._source._queue, bucket, time.time_ns() - 30 * 86_400 * 10**9)
    ledger.begins()
    for _ in range(3):
        ledger.failed(S3Unavailable("no answer"))
        ledger.heard([], 0)  # more is waiting
    assert gaps == ["no message was received for 30 days"]


def test_a_start_after_an_upgrade_counts_what_any_source_had_told(ledger, mimicdb, bucket, gaps):
    """Before, there was one note for all sources, without an identity."""
    note_heard_name = f"heard {ledger._name} "
    mimicdb.set_note(bucket, note_heard_name, None)
    ledger.begins()
    assert gaps == []
    mimicdb.set_note(bucket, "heard another ", "1 x")  # not the first start any more
    ledger._looked_back.clear()
    ledger._begun = False
    ledger.begins()
    assert gaps == ["no message about it came before"]


def test_a_begin_that_the_store_interrupts_begins_again(ledger, monkeypatch):
    ledger.begins()
    ledger._lapses -= 1  # the store was away

    def away():
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(ledger._source, "identity", away)
        with pytest.raises(StoreUnavailable):
            ledger.begins()
    assert ledger.begins() is True
    assert ledger.begins() is False
