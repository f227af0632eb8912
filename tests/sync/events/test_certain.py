"""A bucket counts as told only where nothing is open: who may have taken its messages, whether they
come to us, and whether the source is the one that it was."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from functools import partial

import pytest
from support.clients import plain

from mimicfs import member as membership
from mimicfs.backends.memory import Memory
from mimicfs.entry import Scope
from mimicfs.errors import AccessDenied, S3Unavailable, StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events.claim import Claim
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.endpoint import Endpoint
from mimicfs.sync.events.hearing import Heard
from mimicfs.sync.events.ledger import Ledger
from mimicfs.sync.events.messages import RulesPut, Told
from mimicfs.sync.events.redisqueue import RedisQueue
from mimicfs.sync.events.sqs import SQS
from mimicfs.sync.freshness import freshness, note_told

ASKED = ("notification", "lifecycle")
FIRST = "the first message about it has come"
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def ledger_of(s3, mimicdb, syncer, bucket, gaps):
    syncer.sync(bucket)
    asks = [partial(s3.call, f"get_bucket_{it}_configuration") for it in ASKED]

    def ledger_of(source):
        return Ledger(
            *(mimicdb, source, "source", lambda: [bucket], "", *asks),
            lambda _bucket, why: gaps.append(why),
        )

    return ledger_of


def begun(ledger, gaps):
    """Have *ledger* begin, with all that a former consumer had taken given again."""
    ledger.begins()
    ledger._settled_s = 0.0
    gaps.clear()


def told(ledger):
    return list(ledger.figures()["told_until_ns"])


def test_a_queue_that_was_made_anew_while_nobody_listened_is_a_gap(
    ledger_of, s3, server, url, bucket, gaps
):
    first = ledger_of(SQS(s3.queue(url)))
    begun(first, gaps)
    first.heard([], time.time_ns())
    assert told(first) == [bucket]
    second = ledger_of(SQS(s3.queue(url)))
    begun_again = second.begins()
    assert (begun_again, gaps) == (True, [])
    queues = plain(server, "sqs")
    queues.delete_queue(QueueUrl=url)
    made_ns = time.time_ns()
    while time.time_ns() // 10**9 == made_ns // 10**9:
        pass  # CreatedTimestamp has whole seconds
    queues.create_queue(QueueName=bucket)
    ledger_of(SQS(s3.queue(url))).begins()
    assert gaps == ["its source is another one than before"]


@pytest.fixture
def redis_queue(redis_url):
    @contextmanager
    def redis_queue(key):
        source = RedisQueue(f"{redis_url}#{key}")
        try:
            yield source
        finally:
            source._client.delete(source._mark, source._signed)
            source._client.close()
            source.close()

    return redis_queue


@pytest.mark.parametrize("begins_anew", [False, True])
def test_a_redis_that_lost_what_it_had_is_a_gap(
    ledger_of, redis_queue, url, bucket, gaps, begins_anew
):
    with redis_queue(f"lost-{bucket}-{begins_anew}") as source:
        ledger = ledger_of(source)
        begun(ledger, gaps)
        ledger.heard([Told(bucket, "a")], time.time_ns())
        ledger.heard([], time.time_ns())
        assert (gaps, told(ledger)) == ([FIRST], [bucket])
        gaps.clear()
        source._client.delete(source._mark)
        if begins_anew:
            ledger_of(source).begins()
        else:
            ledger.heard([], time.time_ns())
        assert gaps == ["its source is another one than before"]


def test_another_source_has_not_what_this_one_was_told(ledger_of, s3, url, bucket, gaps):
    first = ledger_of(SQS(s3.queue(url)))
    begun(first, gaps)
    first.heard([], time.time_ns())
    other = ledger_of(SQS(s3.queue(url)))
    other._name = "another"
    other.begins()
    assert gaps == ["no message about it came before"]


def test_what_never_counted_as_told_is_one_gap_however_often_s3_fails(
    ledger_of, s3, url, bucket, gaps
):
    """A topic of which no message has come: each sweep costs."""
    ledger = ledger_of(SQS(s3.queue(url)))
    ledger._looks._configuration = lambda _: {"EventBridgeConfiguration": {}}
    ledger.begins()
    for _ in range(3):
        ledger.failed(S3Unavailable("no answer"))
        ledger.heard([], time.time_ns())
    assert gaps == ["no message about it came before"]
    assert told(ledger) == []


def test_what_never_counted_as_told_is_one_gap_however_often_the_turn_changes(
    ledger_of, s3, url, bucket, gaps
):
    ledger = ledger_of(SQS(s3.queue(url)))
    for _ in range(3):
        ledger.begins()
        ledger._begun = False  # another mount had the turn
    assert gaps == ["no message about it came before"]


def test_a_consumer_that_ends_at_once_costs_the_next_one_no_sweep(ledger_of, s3, url, bucket, gaps):
    """`mimicfs watch` for a moment, or a mount that is restarted: the queue keeps what comes."""
    for others in (False, True, True):
        ledger = ledger_of(SQS(s3.queue(url)))
        assert ledger.begins() is others  # who may have taken messages, which come again later
        ledger.heard([], time.time_ns())
        assert told(ledger) == [bucket] * (not others)
    assert gaps == ["no message about it came before"]


def test_a_consumer_that_began_before_anything_was_listed_may_have_taken_what_comes_again(
    ledger_of, s3, mimicdb, url, bucket, gaps
):
    """A mount begins with an empty mirror, and is killed within its first seconds."""
    mimicdb.uncover(bucket, "")
    for others in (False, True):
        assert ledger_of(SQS(s3.queue(url))).begins() is others
        mimicdb.complete(bucket, Scope("", True, time.time_ns()))
    assert gaps == []


def test_the_first_message_by_a_way_that_nobody_sees_is_a_gap_once(
    ledger_of, s3, mimicdb, url, bucket, gaps
):
    """A rule of EventBridge may be a moment old, and there is no message of what changed before."""
    found = {"EventBridgeConfiguration": {}}

    def fresh_after_a_message():
        begun(ledger := ledger_of(SQS(s3.queue(url))), gaps)
        ledger._looks._configuration = lambda _: found
        for _ in range(2):
            ledger._claim._alone_ns = 10**19
            ledger.heard([Told(bucket, "a", time_ns=time.time_ns())], time.time_ns())
        assert told(ledger) == [bucket]
        return freshness(mimicdb, bucket, "").by

    assert (fresh_after_a_message(), gaps) == ("told", [FIRST])  # which nobody has noted here
    assert (fresh_after_a_message(), gaps) == ("told", [])
    found["TopicConfigurations"] = []  # somebody has put another one
    assert (fresh_after_a_message(), gaps) == ("listed", [])
    mimicdb.complete(bucket, Scope("", True, time.time_ns()))
    assert (fresh_after_a_message(), gaps) == ("told", [])


def test_messages_of_before_a_change_of_the_configuration_do_not_show_that_others_come(
    ledger_of, s3, url, bucket, gaps
):
    """They waited in the queue while the topic was taken away."""
    ledger = ledger_of(SQS(s3.queue(url)))
    ledger._looks._configuration = lambda _: {"EventBridgeConfiguration": {}}
    begun(ledger, gaps)
    ledger.heard([Told(bucket, "a", time_ns=(before_ns := time.time_ns()))], time.time_ns())
    assert ledger.figures()["configured"] == {bucket: "yes"}
    ledger._looks._configuration = lambda _: {"EventBridgeConfiguration": {"another": 1}}
    ledger._looks._looked_s.clear()
    ledger.heard([Told(bucket, "b", time_ns=before_ns)], time.time_ns())
    ledger.heard([Told(bucket, "c", time_ns=before_ns)], time.time_ns())
    assert ledger.figures()["configured"] == {bucket: "unknown"}
    ledger.heard([Told(bucket, "d", time_ns=time.time_ns())], time.time_ns())
    assert ledger.figures()["configured"] == {bucket: "yes"}


@pytest.fixture
def clock(monkeypatch):
    """The clock of the members, which is set by hand."""
    now_s = [1000.0]
    monkeypatch.setattr(membership, "boot_s", lambda: now_s[0])
    return now_s


def test_a_consumer_that_was_suspended_begins_anew_and_counts_as_told_again_after_that(
    ledger_of, s3, mimicdb, url, bucket, gaps, clock
):
    """Others may have taken messages meanwhile, and the queue may have dropped some."""
    mimicdb.join()
    ledger = ledger_of(SQS(s3.queue(url)))
    begun(ledger, gaps)
    clock[0] += 5.9
    ledger._claim._alone_ns = 10**19
    ledger.heard([], until_ns := time.time_ns())
    assert ledger.figures()["told_until_ns"] == {bucket: until_ns}
    clock[0] += 0.2
    ledger.heard([], time.time_ns())
    assert ledger.figures()["told_until_ns"] == {bucket: until_ns}
    assert ledger.begins() is True
    assert ledger.begins() is False
    ledger._settled_s = 0.0
    ledger._claim._alone_ns = 10**19
    ledger._looks._looked_s.clear()
    ledger.heard([], later_ns := time.time_ns())
    assert ledger.figures()["told_until_ns"] == {bucket: later_ns}


@pytest.mark.parametrize("suspended", [False, True])
def test_a_webhook_is_swept_after_a_suspension_and_not_because_the_store_was_away(
    ledger_of, mimicdb, url, bucket, gaps, clock, suspended, monkeypatch
):
    """It listened all the time that the store was away."""
    monkeypatch.setattr(membership, "BEAT_S", 600)  # this one waits for its first beat
    mimicdb.join()
    with closing(Endpoint("127.0.0.1:0")) as source:
        ledger = ledger_of(source)
        begun(ledger, gaps)
        ledger.heard([Told(bucket, "a")], time.time_ns())
        assert told(ledger) == [bucket]
        clock[0] += 6.1
        if not suspended:  # the wait was short, and what the store was asked took long
            mimicdb.member._waits_since_s = clock[0]
        assert ledger.begins() is True
    assert [why[:23] for why in gaps] == [FIRST[:23], *["no message was received"] * suspended]


def test_a_member_that_was_silent_for_too_long_is_the_youngest(server, mimicdb, clock):
    member = mimicdb.member
    member.join()
    [before] = member.others()
    clock[0] += 5.9
    member._beat()
    assert (member.lapses, member.others()[0].since_ms) == (0, before.since_ms)
    clock[0] += 6.1
    assert member.lapses == 1
    while mimicdb.backend.now_ms() <= before.since_ms:
        pass
    member._beat()
    assert member.lapses == 1
    assert member.others()[0].since_ms > before.since_ms


def test_a_webhook_counts_after_its_first_message(ledger_of, url, bucket, gaps):
    """The configuration does not show to which address the server sends."""
    with closing(Endpoint("127.0.0.1:0")) as source:
        ledger = ledger_of(source)
        begun(ledger, gaps)
        ledger.heard([], time.time_ns())
        assert (told(ledger), ledger.figures()["configured"]) == ([], {bucket: "unknown"})
        ledger.heard([Told(bucket, "a")], time.time_ns())
        assert (told(ledger), ledger.figures()["configured"]) == ([bucket], {bucket: "yes"})
        ledger._looks._configuration = lambda _: {"EventBridgeConfiguration": {}}
        ledger._looks._looked_s.clear()
        ledger.heard([], time.time_ns())  # it may come by another way now, or not at all
        assert ledger.figures()["configured"] == {bucket: "unknown"}


def test_what_a_server_keeps_may_come_at_any_time(ledger_of, mimicdb, url, bucket, gaps):
    """Nothing was lost, so nothing is listed at once; and nothing says that all has come."""
    with closing(Endpoint("127.0.0.1:0", kept_s=86_400)) as source:
        begun(first := ledger_of(source), gaps)
        first.heard([Told(bucket, "a")], time.time_ns())
        assert freshness(mimicdb, bucket, "").by == "told"
        begun(second := ledger_of(source), gaps)
        second.heard([Told(bucket, "a")], time.time_ns())
        assert (freshness(mimicdb, bucket, "").by, gaps) == ("listed", [])
        mimicdb.complete(bucket, Scope("", True, time.time_ns()))
        second._looks._looked_s.clear()
        second.heard([Told(bucket, "a")], time.time_ns())
        assert freshness(mimicdb, bucket, "").by == "told"


def test_what_a_server_keeps_after_a_refusal_may_come_at_any_time(
    ledger_of, mimicdb, url, bucket, gaps
):
    """A client that had no answer in time, or was one too many: no more is known than of a mount
    that was away."""
    with closing(Endpoint("127.0.0.1:0", kept_s=3600)) as endpoint:
        ledger = ledger_of(endpoint)
        begun(ledger, gaps)

        def fresh_after_a_message():
            ledger._looks._looked_s.clear()
            ledger.heard([Told(bucket, "a", time_ns=time.time_ns())], time.time_ns())
            return freshness(mimicdb, bucket, "").by

        assert fresh_after_a_message() == "told"
        assert endpoint.refused() == 503
        assert [fresh_after_a_message(), fresh_after_a_message()] == ["listed", "listed"]
        mimicdb.complete(bucket, Scope("", True, time.time_ns()))
        assert (fresh_after_a_message(), gaps) == ("told", [FIRST])


def test_a_source_that_another_store_uses_tells_nothing(ledger_of, s3, url, bucket, gaps, caplog):
    """Nor what was told since the last look, when the other one may have begun."""
    source = SQS(s3.queue(url))
    ledger = ledger_of(source)
    begun(ledger, gaps)
    looked_ns = ledger._claim._alone_ns
    ledger.heard([], time.time_ns())
    assert ledger.figures()["told_until_ns"] == {bucket: looked_ns}
    source.sign(f"another {time.time():.0f} {source.signed()}")
    ledger._claim._due_s = 0.0
    for _ in range(2):
        ledger.heard([], time.time_ns())
    assert ledger.figures()["told_until_ns"] == {bucket: looked_ns}
    assert gaps == ["another store takes messages from its source, or did so"]
    source.sign("")
    ledger._claim._due_s = 0.0
    ledger.heard([], time.time_ns())
    assert looked_ns < ledger.figures()["told_until_ns"][bucket] <= ledger._claim._alone_ns
    assert gaps == ["another store takes messages from its source, or did so"] * 2


def test_no_claim_makes_a_consumer_fail(mimicdb, redis_queue, bucket):
    with redis_queue(f"odd-{bucket}") as source:
        for text in ("x " + "9" * 400, "x", "x -1", " ", "x 9 y"):
            source.sign(text)
            claim = Claim(mimicdb, source)
            claim.stake()
            assert claim.another is False


def test_what_a_consumer_of_another_prefix_has_lost_is_a_gap(
    ledger_of, mimicdb, s3, url, bucket, gaps
):
    """It took messages about any key."""
    narrow, wide = (ledger_of(SQS(s3.queue(url))) for _ in range(2))
    begun(wide, gaps)
    wide.heard([], time.time_ns())
    narrow._prefix = "a/"
    begun(narrow, gaps)
    narrow._source._last.add("a receipt")  # given for the last time
    narrow.taken()
    wide._begun = False  # and `narrow` is killed
    wide.begins()
    assert gaps == ["messages were lost, or could not be read"]
    ledger_of(SQS(s3.queue(url))).begins()
    assert len(gaps) == 1


def test_a_consumer_of_another_prefix_may_have_taken_what_comes_again(
    ledger_of, mimicdb, s3, url, bucket
):
    note_told(mimicdb, bucket, "a/", time.time_ns())
    wide = ledger_of(SQS(s3.queue(url)))
    assert wide.begins()
    wide.heard([], time.time_ns())
    assert told(wide) == []


def test_two_stores_that_claim_a_source_at_once_are_both_seen(s3, mimicdb, url, monkeypatch):
    """Each has seen no claim, and writes its own; what the second one writes has only its own. None
    takes a message, for which a poll may wait for long, before it has seen the other."""
    first, second = (SQS(s3.queue(url)) for _ in range(2))
    ours, theirs = Claim(mimicdb, first), Claim(Mirror(Memory()), second)
    monkeypatch.setattr("mimicfs.sync.events.claim.log.warning", lambda *_: None)
    now_s = time.monotonic()
    monkeypatch.setattr("mimicfs.sync.events.claim.time.monotonic", lambda: now_s)
    sign = first.sign

    def sign_late(text):
        theirs.stake()
        sign(text)

    first.sign = sign_late
    ours.stake()
    first.sign = sign
    claimed_ns = time.time_ns()
    for _ in range(8):
        assert [each.another for each in (ours, theirs) if each.may_take and not each.another] == []
        now_s += 1
        theirs.stake()
        ours.stake()
    assert (ours.another, theirs.another) == (True, True)
    assert (ours.may_take, theirs.may_take) == (True, True)
    for claim in (ours, theirs):
        assert claim.alone_until_ns(time.time_ns()) < claimed_ns


@pytest.mark.parametrize(("pause_s", "is_alone"), [(0, True), (2.5, False)])
def test_a_store_that_writes_its_claim_slowly_may_have_overwritten_one_that_is_in_use(
    s3, mimicdb, url, monkeypatch, pause_s, is_alone
):
    now_s = time.monotonic()
    monkeypatch.setattr("mimicfs.sync.events.claim.time.monotonic", lambda: now_s)
    source = SQS(s3.queue(url))
    claim, sign = Claim(mimicdb, source), source.sign

    def sign_late(text):
        nonlocal now_s
        now_s += pause_s
        sign(text)

    source.sign = sign_late
    claim.stake()
    signed_ns = time.time_ns()
    for later_s, certain in ((3, is_alone), (23, is_alone), (20, True)):
        now_s += later_s
        claim.stake()
        assert claim.may_take
        assert (claim.alone_until_ns(time.time_ns()) > signed_ns) is certain


def test_a_store_that_has_claimed_a_source_takes_messages_at_once_after_that(
    s3, mimicdb, url, monkeypatch
):
    """Its first process waits; a mount that takes over need not."""
    first, second = (SQS(s3.queue(url)) for _ in range(2))
    (claim := Claim(mimicdb, first)).stake()
    assert not claim.may_take
    soon = Claim(mimicdb, second)
    soon.stake()
    assert not soon.may_take  # somebody may be about to overwrite it
    [(name, when)] = claim._claims().items()
    first.sign(f"{name} {when - 4}")
    later = Claim(mimicdb, second)
    later.stake()
    assert later.may_take


@pytest.mark.parametrize("answer", ["no rights", "nothing", "no answer"])
def test_a_source_that_keeps_no_claims_has_its_messages_taken(
    s3, mimicdb, url, answer, monkeypatch
):
    now_s = time.monotonic()
    monkeypatch.setattr("mimicfs.sync.events.claim.time.monotonic", lambda: now_s)

    def signed():
        if answer == "nothing":
            return ""
        raise AccessDenied("no") if answer == "no rights" else S3Unavailable("no answer")

    source = SQS(s3.queue(url))
    source.signed, claim = signed, Claim(mimicdb, source)
    began_s = now_s
    while not claim.may_take:
        claim.stake()
        now_s += 1
    assert now_s - began_s < (2 if answer == "no rights" else 7)
    assert (claim.alone_until_ns(10) == 10) is (answer != "no answer")


def test_a_bucket_is_told_of_until_the_last_look_at_its_configuration(
    ledger_of, s3, client, url, bucket, gaps
):
    """A rule that is removed then is seen at the next look."""
    ledger = ledger_of(SQS(s3.queue(url)))
    begun(ledger, gaps)
    ledger._claim._alone_ns = 10**19
    ledger.heard([], time.time_ns())
    looked_ns = ledger._looks._looked_ns[bucket]
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    ledger.heard([], time.time_ns())
    assert ledger.figures()["told_until_ns"][bucket] <= looked_ns
    ledger._looks._looked_s[bucket] -= 20
    ledger.heard([], time.time_ns())
    assert gaps == ["no notification configuration names its queue"]
    assert ledger.figures()["told_until_ns"][bucket] <= looked_ns


def test_a_configuration_that_gives_no_answer_is_told_until_the_look_before(
    ledger_of, s3, url, bucket, gaps
):
    def away(_):
        raise S3Unavailable("no answer")

    ledger = ledger_of(SQS(s3.queue(url)))
    begun(ledger, gaps)
    ledger._claim._alone_ns = 10**19
    ledger.heard([], time.time_ns())
    looked_ns = ledger._looks._looked_ns[bucket]
    ledger._looks._configuration = away
    ledger._looks._looked_s.clear()
    ledger.heard([], time.time_ns())
    assert ledger.figures()["configured"] == {bucket: "yes"}
    assert ledger.figures()["told_until_ns"][bucket] <= looked_ns
    assert gaps == []


def test_no_message_makes_a_bucket_told_whose_configuration_cannot_be_read(
    ledger_of, s3, mimicdb, url, bucket, gaps, caplog
):
    """It may be of a rule for some of the keys."""

    def refused(_):
        raise AccessDenied("no rights")

    ledger = ledger_of(SQS(s3.queue(url)))
    ask, ledger._looks._configuration = ledger._looks._configuration, refused
    begun(ledger, gaps)
    for _ in range(2):
        ledger.heard([Told(bucket, "logs/a", time_ns=time.time_ns())], time.time_ns())
        ledger._looks._looked_s.clear()
    assert (told(ledger), ledger.figures()["configured"]) == ([], {bucket: "unknown"})
    assert caplog.text.count("takes the right s3:GetBucketNotification") == 1
    ledger._looks._configuration = ask
    ledger._claim._alone_ns = 10**19
    ledger.heard([], time.time_ns())
    assert told(ledger) == [bucket]
    assert freshness(mimicdb, bucket, "").by == "listed"  # what was missed meanwhile is not known


def test_a_configuration_that_could_not_be_read_before_a_restart_is_not_forgotten(
    ledger_of, s3, mimicdb, url, bucket, gaps, caplog
):
    """Nobody knows what S3 told meanwhile."""

    def refused(_):
        raise AccessDenied("no rights")

    begun(first := ledger_of(SQS(s3.queue(url))), gaps)
    first.heard([], time.time_ns())
    assert freshness(mimicdb, bucket, "").by == "told"
    first._looks._configuration = refused
    first._looks._looked_s.clear()
    first.heard([], time.time_ns())
    begun(second := ledger_of(SQS(s3.queue(url))), gaps)
    second._claim._alone_ns = 10**19
    second.heard([], time.time_ns())
    assert told(second) == [bucket]
    assert freshness(mimicdb, bucket, "").by == "listed"
    mimicdb.complete(bucket, Scope("", True, time.time_ns()))
    begun(third := ledger_of(SQS(s3.queue(url))), gaps)
    third._claim._alone_ns = 10**19
    third.heard([], time.time_ns())
    assert freshness(mimicdb, bucket, "").by == "told"


def test_a_rule_that_was_removed_and_put_back_between_two_looks_tells_nothing_of_the_time_before(
    url, ledger_of, s3, mimicdb, client, bucket, gaps, tmp_path
):
    """S3 sends a test message when a rule is put."""
    ledger = ledger_of(source := SQS(s3.queue(url)))
    consumer = Consumer(source, None, tmp_path / "aside", ledger)
    consumer._hearing = type("Nobody", (), {"hear": lambda *_: Heard()})()

    def fresh_after_all_was_heard():
        ledger._looks._looked_s.clear()
        ledger._noted_s.clear()
        ledger._claim._alone_ns = 10**19
        for _ in range(2):
            consumer.consume(*consumer.received(0))
        ledger.heard([], time.time_ns())
        return freshness(mimicdb, bucket, "").by

    begun(ledger, gaps)
    assert fresh_after_all_was_heard() == "told"  # the first one was put before the listing
    had = client.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    client.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    client.put_object(Bucket=bucket, Key="missed", Body=b"1")
    client.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": had}
    )
    assert (fresh_after_all_was_heard(), gaps) == ("listed", [])
    mimicdb.complete(bucket, Scope("", True, time.time_ns()))
    assert fresh_after_all_was_heard() == "told"


def test_no_test_message_speaks_of_a_time_to_come_or_of_a_bucket_that_is_not_shown(
    ledger_of, s3, mimicdb, url, bucket, gaps
):
    begun(ledger := ledger_of(SQS(s3.queue(url))), gaps)
    before_ns = time.time_ns()
    ledger.rules_put([RulesPut("another", 5), RulesPut(bucket, before_ns + 10**18)])
    assert before_ns < int(mimicdb.note(bucket, "unproven")) < time.time_ns()
    ledger.rules_put([RulesPut(bucket, 5)])
    assert before_ns < int(mimicdb.note(bucket, "unproven"))
    assert mimicdb.notes("another") == {}


def test_of_many_buckets_each_configuration_is_looked_at_less_often(ledger_of, s3, url, gaps):
    ledger = ledger_of(SQS(s3.queue(url)))
    asked = []
    ledger._looks._configuration = lambda bucket: asked.append(bucket) or {}
    ledger._buckets = lambda: [f"b{number}" for number in range(60)]
    for ago_s, looks in ((0, 60), (21, 60), (121, 120)):
        looked_s = ledger._looks._looked_s
        ledger._looks._looked_s = {name: at_s - ago_s for name, at_s in looked_s.items()}
        ledger._looks.look(ledger._buckets())
        assert len(asked) == looks


def test_a_bucket_does_not_count_as_told_before_the_source_has_said_whether_we_are_alone(
    ledger_of, redis_queue, url, bucket, gaps, monkeypatch
):
    """And it is asked again soon, after it gave no answer."""

    def away():
        raise StoreUnavailable("no answer")

    with redis_queue(f"away-{bucket}") as source:
        ledger = ledger_of(source)
        with monkeypatch.context() as patched:
            patched.setattr(source, "signed", away)
            begun(ledger, gaps)
            ledger.heard([Told(bucket, "a")], time.time_ns())
        assert told(ledger) == []
        ledger._claim._due_s = 0.0
        ledger.heard([Told(bucket, "a")], time.time_ns())
        assert told(ledger) == [bucket]


def without_expiry(client, bucket):
    """Have S3 tell of all but what a lifecycle rule deletes."""
    [rule] = client.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    rule["Events"] = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    client.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]}
    )


@pytest.mark.parametrize(("prefix", "is_told"), [(None, True), ("logs/", False), ("", False)])
def test_a_bucket_whose_expiry_nobody_tells_counts_only_if_no_rule_deletes_objects(
    ledger_of, s3, client, url, bucket, gaps, prefix, is_told
):
    without_expiry(client, bucket)
    if prefix is not None:
        rule = {"ID": "old", "Status": "Enabled", "Expiration": {"Days": 1}}
        rules = {"Rules": [rule | {"Filter": {"Prefix": prefix}}]}
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    ledger = ledger_of(SQS(s3.queue(url)))
    begun(ledger, gaps)
    ledger.heard([Told(bucket, "a")], time.time_ns())
    assert told(ledger) == [bucket] * is_told
    why = ledger.figures()["untold"].get(bucket, "")
    assert ("s3:LifecycleExpiration:*" in why) is not is_told


def test_a_right_that_is_missing_to_see_what_expires_is_named(
    ledger_of, s3, client, url, bucket, gaps, caplog
):
    def refused(_):
        raise AccessDenied("no rights")

    without_expiry(client, bucket)
    ledger = ledger_of(SQS(s3.queue(url)))
    ledger._looks._lifecycle = refused
    begun(ledger, gaps)
    ledger.heard([Told(bucket, "a")], time.time_ns())
    assert (told(ledger), ledger.figures()["configured"]) == ([], {bucket: "unknown"})
    assert "takes the right s3:GetLifecycleConfiguration" in caplog.text
