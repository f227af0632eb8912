"""The last hour, minute by minute."""

import itertools

from mimicfs.page.hour import Hour, Totals, spent, totals_in

_START_S = 1_000_000 * 60


def totals(gets, seconds=0.0):
    return Totals({"GET": gets}, {"GetObject": gets}, {"GetObject": seconds})


def test_each_minute_has_what_was_done_in_it_and_the_last_one_what_was_done_so_far():
    hour = Hour(_START_S + 30)
    hour.mark(totals(5, 0.5), _START_S + 60)
    hour.mark(totals(6, 0.6), _START_S + 61)  # the same minute: it has begun already
    hour.mark(totals(9, 0.75), _START_S + 120)
    minutes = hour.minutes(totals(10, 1.25), _START_S + 130)
    starts = [each.start_s - _START_S for each in minutes]
    assert [(at, each.did.of("GET")) for at, each in zip(starts, minutes, strict=True)] == [
        *((0, 5), (60, 4), (120, 1)),
    ]
    assert minutes[-1].did.mean_s == 0.5
    assert spent(minutes).calls == {"GetObject": 10}
    assert spent([]).mean_s is None


def test_an_hour_and_no_more_is_kept():
    hour = Hour(_START_S)
    for minute in range(1, 200):
        hour.mark(totals(minute), _START_S + minute * 60)
    minutes = hour.minutes(totals(203), _START_S + 199 * 60 + 59)
    assert len(minutes) == 60
    assert [minutes[0].start_s, minutes[-1].start_s] == [_START_S + at * 60 for at in (140, 199)]
    assert spent(minutes).of("GET") == 203 - 140
    later = hour.minutes(totals(203), _START_S + 230 * 60)  # a machine that slept
    assert all(b.start_s - a.start_s == 60 for a, b in itertools.pairwise(later))
    assert later[0].start_s == _START_S + 171 * 60


def test_a_part_that_does_not_answer_ends_no_minute():
    assert totals_in({"s3": {"error": "does not answer"}, "kernel": {"requests": {}}}) is None
    hour = Hour(_START_S)
    hour.mark(totals(5), _START_S + 60)
    assert [each.did.of("GET") for each in hour.minutes(None, _START_S + 70)] == [5]
