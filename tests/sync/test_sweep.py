"""Each part of the mirror is listed again in time, the oldest first, at the price that is said."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import pytest
from support.proxy import Fail

from mimicfs.entry import Scope
from mimicfs.errors import S3Error, StoreUnavailable, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.mount import telling
from mimicfs.sync.freshness import freshness, note_told
from mimicfs.sync.sweep import Sweep

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

DAY_S = 86_400.0
DAY_NS = 86_400_000_000_000


@pytest.fixture
def sweep(mimicdb, syncer, bucket):
    return Sweep(mimicdb, syncer, lambda: [bucket], DAY_S)


def aged(mimicdb, bucket, prefix, days, *, deep=False):
    mimicdb.complete(bucket, Scope(prefix, deep, time.time_ns() - int(days * DAY_NS)))


def test_the_oldest_scope_is_due_first_and_none_before_its_time(sweep, mimicdb, bucket):
    aged(mimicdb, bucket, "a/", 0.5)
    assert sweep.due() is None
    aged(mimicdb, bucket, "b/", 1.5)
    aged(mimicdb, bucket, "c/", 3)
    assert sweep.due().scope.prefix == "c/"


def test_what_is_due_is_looked_for_once_in_half_a_minute(sweep, mimicdb, bucket, monkeypatch):
    """To look at 100,000 scopes takes longer than to list one of them."""
    looks, scopes = [], mimicdb.scopes
    monkeypatch.setattr(mimicdb, "scopes", lambda name: looks.append(name) or scopes(name))
    for number in range(9):
        aged(mimicdb, bucket, f"{number}/", 2)
    assert [sweep.step() for _ in range(4)] == [True] * 4
    aged(mimicdb, bucket, "8/", 0)  # by a visit
    mimicdb.uncover(bucket, "7/")
    assert ([sweep.step() for _ in range(4)], len(looks)) == ([True, True, True, False], 2)
    assert sweep.figures()["swept"] == 7


def test_what_comes_due_soon_is_looked_for_as_seldom_and_waits_for_s3_to_be_idle(
    mimicdb, syncer, bucket, monkeypatch, caplog
):
    looks, scopes, idle = [], mimicdb.scopes, [True]
    monkeypatch.setattr(mimicdb, "scopes", lambda name: looks.append(name) or scopes(name))
    sweep = Sweep(mimicdb, syncer, lambda: [bucket], DAY_S, idle=lambda: idle[0])
    for number in range(9):
        aged(mimicdb, bucket, f"{number}/", 0.9)
    assert [sweep.step() for _ in range(4)] == [True] * 4
    idle[:] = [False]
    assert ([sweep.step() for _ in range(4)], len(looks)) == ([False] * 4, 1)
    sweep.suspect(bucket, "a test")  # which does not wait for anything
    assert [sweep.step() for _ in range(10)] == [True] * 9 + [False]
    assert "a test" in caplog.text


def test_neither_the_sweep_nor_a_look_at_a_configuration_keeps_a_mount_busy(
    mimicdb, syncer, s3, bucket, monkeypatch
):
    clock = count(0.0, 20.0)
    monkeypatch.setattr(telling, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    idle = telling.Idleness(s3)
    sweep = Sweep(mimicdb, syncer, lambda: [bucket], DAY_S, idle, idle.asked)
    for number in range(9):
        aged(mimicdb, bucket, f"{number}/", 0.9)
    assert not idle()  # nobody knows yet
    assert [sweep.step() for _ in range(4)] == [True] * 4
    idle.looks("get_bucket_notification_configuration")(bucket)
    assert sweep.step()
    s3.head_bucket(bucket)
    assert [sweep.step() for _ in range(3)] == [False, True, True]


def test_two_mounts_of_a_store_divide_what_is_due_after_a_gap(
    sweep, mimicdb, syncer, bucket, proxy, monkeypatch
):
    """Each would list what the other one is just listing."""
    monkeypatch.setattr("mimicfs.sync.sweep.random.shuffle", list.reverse)
    other = Mirror(mimicdb.backend)
    second = Sweep(other, syncer, lambda: [bucket], DAY_S)
    for number in range(12):
        aged(mimicdb, bucket, f"{number:02}/", 3 - number / 10)
    for mirror in (mimicdb, other):
        mirror.join()
    assert [it.scope.prefix for it in sweep._divided(sweep._all_due())[:2]] == ["11/", "10/"]
    proxy.counted()
    while sum(each.step() for each in (sweep, second)):
        pass
    assert proxy.counted() == {"LIST": 12}
    other.member.leave()
    other.intents.close()  # a beat of the session begins its thread
    aged(mimicdb, bucket, "", 4)
    assert sweep._divided(sweep._all_due())[0].scope.prefix == ""


def test_an_idle_mount_lists_a_little_early(mimicdb, syncer, bucket):
    aged(mimicdb, bucket, "a/", 0.9)
    idle = Sweep(mimicdb, syncer, lambda: [bucket], DAY_S, idle=lambda: True)
    assert idle.due().scope.prefix == "a/"


def test_a_known_gap_makes_all_that_was_listed_before_it_due(
    sweep, mimicdb, syncer, client, bucket, caplog
):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    syncer.sync(bucket)
    client.put_object(Bucket=bucket, Key="b", Body=b"1")  # of which nobody is told
    assert sweep.due() is None
    sweep.suspect(bucket, "the queue was deleted")
    assert sweep.due().scope.prefix == ""
    sweep._list(sweep.due())
    assert [entry.key for entry in mimicdb.listing(bucket)] == ["a", "b"]
    assert sweep.due() is None
    assert "the queue was deleted; its known directories are listed again" in caplog.text


def test_the_price_is_said_and_kept(sweep, mimicdb, syncer, client, bucket, proxy):
    for directory in ("a/", "b/"):
        client.put_object(Bucket=bucket, Key=f"{directory}x", Body=b"1")
        syncer.list_directory(bucket, directory)
        aged(mimicdb, bucket, directory, 2)
    proxy.counted()
    assert sweep.price()[0] == 2
    while due := sweep.due():
        sweep._list(due)
    assert proxy.counted() == {"LIST": 2}


def test_it_runs_until_it_is_closed(sweep, mimicdb, client, bucket):
    aged(mimicdb, bucket, "a/", 2)
    thread = threading.Thread(target=sweep.run)
    thread.start()
    while not sweep.figures()["swept"]:
        assert thread.is_alive()
    sweep.close()
    thread.join(20)
    assert not thread.is_alive()


def test_what_s3_does_not_list_holds_up_nothing_else(
    sweep, mimicdb, syncer, client, bucket, proxy, caplog
):
    for days, directory in ((3, "bad/"), (2, "good/")):
        client.put_object(Bucket=bucket, Key=f"{directory}x", Body=b"1")
        syncer.list_directory(bucket, directory)
        aged(mimicdb, bucket, directory, days)
    with proxy.rule(
        Fail(lambda it: it.query.get("prefix") == ["bad/"], 403, "AccessDenied")
    ) as bad:
        while sweep.step():
            pass
        figures = sweep.figures()
    assert (figures["swept"], bad.seen) == (1, 1)
    assert figures["error"].startswith(f"s3://{bucket}/bad/ cannot be listed: ")
    assert caplog.text.count(f"reconcile: s3://{bucket}/bad/: ") == 1
    assert sweep.due() is None  # it is left alone for a minute
    sweep._failures = {it: one._replace(until_s=0) for it, one in sweep._failures.items()}
    assert sweep.due().scope.prefix == "bad/"
    assert sweep.step()
    assert sweep.figures()["error"] == ""


def test_an_answer_that_fails_for_one_directory_only_holds_up_nothing_else(
    sweep, mimicdb, syncer, client, bucket, proxy
):
    for days, directory in ((3, "bad/"), (2, "good/")):
        client.put_object(Bucket=bucket, Key=f"{directory}x", Body=b"1")
        syncer.list_directory(bucket, directory)
        aged(mimicdb, bucket, directory, days)
    with proxy.rule(Fail(lambda it: it.query.get("prefix") == ["bad/"], 503, "SlowDown")):
        with pytest.raises(S3Error):
            sweep.step()
        assert sweep.due().scope.prefix == "good/"


def test_a_directory_of_many_names_costs_a_page_for_each_thousand(sweep, mimicdb, bucket):
    """Its last listing says so, also if nothing was new in it."""
    for prefix, deep, added, names in (("d/", False, 0, 2001), ("e/", True, 1001, 1001)):
        listed = Scope(prefix, deep, time.time_ns(), added=added, names=names)
        mimicdb.complete(bucket, listed)
    assert sweep.price() == (5, 0.000025)


def test_the_price_after_a_second_listing_is_what_the_third_one_takes(
    sweep, mimicdb, syncer, client, bucket, proxy
):
    keys = [f"{n:04}" for n in range(1001)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=f"d/{key}"), keys))
    for listed in (lambda: syncer.sync(bucket), lambda: syncer.list_directory(bucket, "d/")):
        for _ in range(2):
            listed()
            [scope] = [it for it in mimicdb.scopes(bucket) if it.names > 1]
            assert scope.names == 1001
            assert sweep.price()[0] == 2
        proxy.counted()
        listed()
        assert proxy.counted() == {"LIST": 2}
        mimicdb.uncover(bucket, "")


@pytest.mark.parametrize("names", [0, 1])
def test_a_listing_that_nobody_counted_costs_at_least_what_was_new_in_it(
    sweep, mimicdb, bucket, names
):
    listed = Scope("d/", True, time.time_ns(), added=2500, names=2400 * names)
    mimicdb.complete(bucket, listed)
    assert sweep.price()[0] == 3


def test_the_price_reads_no_directory(sweep, mimicdb, bucket, monkeypatch):
    """Of 100,000 scopes on Redis, each would cost a round at the start of a mount."""

    def reads(*_args, **_kwargs):
        raise AssertionError("a directory is read")

    for prefix, deep in (("d/", False), ("e/", True)):
        aged(mimicdb, bucket, prefix, 0, deep=deep)
    for name in ("children", "total", "scan", "stride"):
        monkeypatch.setattr(mimicdb, name, reads)
    assert sweep.price()[0] == 2


@pytest.mark.parametrize(
    "error", [StoreUnavailable("no answer"), Unlisted("b", "gone/")], ids=["store", "unlisted"]
)
def test_a_price_that_is_not_known_does_not_end_the_sweep(
    sweep, mimicdb, bucket, error, monkeypatch, caplog
):
    def price():
        raise error

    monkeypatch.setattr(sweep, "price", price)
    caplog.set_level("INFO")
    aged(mimicdb, bucket, "a/", 2)
    thread = threading.Thread(target=sweep.run)
    thread.start()
    while not sweep.figures()["swept"] and thread.is_alive():
        pass
    swept = sweep.figures()["swept"]
    sweep.close()
    thread.join(20)
    assert (swept, thread.is_alive()) == (1, False)
    assert "how many LISTs a day it takes is not known" in caplog.text


def test_what_somebody_else_has_listed_fails_no_more(sweep, mimicdb, bucket, proxy, caplog):
    aged(mimicdb, bucket, "a/", 2)
    with proxy.rule(Fail(lambda _: True, 403, "AccessDenied")):
        assert (sweep.step(), sweep.due()) == (True, None)
    assert "a/ cannot be listed" in sweep.figures()["error"]
    aged(mimicdb, bucket, "a/", 0)  # by a visit
    assert (sweep.due(), sweep.figures()["error"]) == (None, "")


def test_a_failure_of_s3_as_a_whole_raises_no_back_off_of_a_directory(
    sweep, mimicdb, bucket, proxy
):
    aged(mimicdb, bucket, "a/", 2)
    with proxy.rule(Fail(lambda _: True, 503, "SlowDown")):
        for _ in range(3):
            with pytest.raises(S3Error):
                sweep.step()
            [failure] = sweep._failures.values()
            assert 100 < failure.until_s - time.monotonic() <= 120
            sweep._failures = {it: one._replace(until_s=0) for it, one in sweep._failures.items()}


def test_a_known_gap_makes_due_what_could_not_be_listed_before(
    sweep, mimicdb, bucket, proxy, caplog
):
    aged(mimicdb, bucket, "bad/", 2)
    with proxy.rule(Fail(lambda _: True, 403, "AccessDenied")):
        assert sweep.step()
    assert sweep.due() is None
    sweep.suspect(bucket, "its rights are back")
    assert sweep.due().scope.prefix == "bad/"
    assert caplog.text.count("AccessDenied") == 1


def test_a_gap_that_a_clock_ahead_of_ours_has_noted_is_swept_once(
    sweep, mimicdb, syncer, client, bucket, proxy
):
    """And does not count as told until our clock has reached it."""
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    syncer.sync(bucket)
    mimicdb.set_note(bucket, "gap", str(time.time_ns() + DAY_NS // 24))
    proxy.counted()
    assert [sweep.step(), sweep.step(), sweep.step()] == [True, False, False]
    assert proxy.counted() == {"LIST": 1}
    assert freshness(mimicdb, bucket, "").by == "swept"
    note_told(mimicdb, bucket, "", time.time_ns())
    assert freshness(mimicdb, bucket, "").by == "swept"


def test_what_a_clock_ahead_of_ours_has_listed_and_s3_lists_no_more_is_left_alone(
    sweep, mimicdb, bucket, proxy, caplog
):
    aged(mimicdb, bucket, "bad/", -1 / 24)
    sweep.suspect(bucket, "the queue was deleted")
    with proxy.rule(Fail(lambda _: True, 403, "AccessDenied")) as bad:
        assert (sweep.step(), sweep.step()) == (True, False)
    assert bad.seen == 1
    sweep.suspect(bucket, "and again")
    assert sweep.due().scope.prefix == "bad/"


def test_a_gap_is_after_what_a_clock_ahead_of_ours_has_listed(sweep, mimicdb, bucket, caplog):
    """Of it nothing is known since then, and it does not count as told."""
    aged(mimicdb, bucket, "a/", -1 / 24)
    sweep.suspect(bucket, "the queue was deleted")
    note_told(mimicdb, bucket, "", time.time_ns() + DAY_NS)
    assert freshness(mimicdb, bucket, "a/").by == "listed"
    assert (sweep.step(), sweep.step()) == (True, False)
    assert freshness(mimicdb, bucket, "a/").until_ns < time.time_ns()
