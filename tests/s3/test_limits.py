"""Limits: bytes a second each way, requests a second and a day; and what requests cost."""

import re
import threading
import time
from types import SimpleNamespace

import pytest

from mimicfs.config.limits import Prices, by_class, limit_at, limit_text, parse_limit, parse_prices
from mimicfs.config.options import BY_NAME, parsed
from mimicfs.config.values import BucketOptions, Buckets, S3Options
from mimicfs.entry import DAY_S
from mimicfs.errors import ConfigError, TooManyRequests
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.content import Content
from mimicfs.s3.transport import limits, traffic

MIB = 1 << 20


@pytest.fixture
def slept(monkeypatch):
    """The clock stands still; what would be slept is noted."""
    waits = []
    clock = SimpleNamespace(monotonic=lambda: 100.0, time=lambda: 1e9, localtime=time.localtime)
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(
        limits.RatePace, "_pause", lambda pace, waits_s, changes: waits.append(waits_s)
    )
    return waits


def test_a_limit_is_a_rate_or_one_for_each_time_of_the_day():
    assert [limit_at(parse_limit("10M"), minute) for minute in (0, 700)] == [10 * MIB, 10 * MIB]
    by_time = parse_limit("18:00=off 8:00=1M")
    assert [limit_at(by_time, hour * 60) for hour in (0, 8, 17, 18, 23)] == [0, MIB, MIB, 0, 0]
    assert limit_text(by_time) == "08:00=1048576 18:00=off"
    assert [parse_limit(text) for text in ("off", "0", "")] == [(), (), ()]
    for wrong in ("fast", "25:00=1M", "8:00=fast", "1M 2M"):
        with pytest.raises(ConfigError, match="not a limit; write 10M, off, or 08:00=1M"):
            parse_limit(wrong)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "download-limit",
            "1",
            "1: too slow; the minimum is 4K (bytes per second); off is no limit",
        ),
        ("upload-limit", "8:00=4095 18:00=off", "8:00=4095 18:00=off: too slow; the minimum is 4K"),
        (
            "request-rate",
            "0.001",
            "0.001: too slow; the minimum is 0.1 (a request in 10 s); 0 is no",
        ),
        ("request-rate", "nan", "nan: not a number; 0 or off is no limit"),
        (
            "max-requests-per-day",
            "0.5",
            "0.5: not a whole number of requests; 0 or off is no limit",
        ),
        ("max-requests-per-day", "-1", "-1: not a number; 0 or off is no limit"),
    ],
)
def test_a_limit_that_nobody_can_mean_is_refused_in_the_file_and_while_it_runs(name, text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        limits.Limits(S3Options()).set(name, text)
    with pytest.raises(ConfigError, match=re.escape(f"here: {says}")):
        parsed(BY_NAME[name], text, "here")


def lift(own):
    own.set("request-rate", "off")
    own.set("upload-limit", "off")


@pytest.mark.parametrize("end", [lift, lambda own: own.close()], ids=["off", "close"])
def test_all_that_wait_for_a_limit_go_when_it_ends(end):
    own = limits.Limits(S3Options(buckets=Buckets(BucketOptions(request_rate=0.1), {})))
    own.upload.set(parse_limit("4K"))
    own.ask("b")
    own.upload.wait(64 << 10)  # goes at once; what follows waits for 16 s
    waiting = [threading.Thread(target=own.ask, args=("b",), daemon=True) for _ in range(5)]
    waiting += [threading.Thread(target=own.upload.wait, args=(1,), daemon=True)]
    for thread in waiting:
        thread.start()
    end(own)
    for thread in waiting:
        thread.join(5)
    assert [thread.is_alive() for thread in waiting] == [False] * 6


def test_whoever_waits_when_the_limit_changes_waits_by_the_new_one(slept, monkeypatch):
    own = limits.Limits(S3Options(buckets=Buckets(BucketOptions(request_rate=0.5), {})))

    def change(pace, waits_s, changes):
        slept.append(waits_s)
        if len(slept) == 1:
            own.set("request-rate", "8")
            own.ask("b")  # somebody else is quicker
        return pace._changes != changes

    monkeypatch.setattr(limits.RatePace, "_pause", change)
    own.ask("b")
    own.ask("b")
    assert slept == [2.0, 0.125]


def test_requests_have_classes_and_prices():
    asked = {"PUT": 1000, "LIST": 1000, "GET": 500, "HEAD": 500, "DELETE": 7}
    assert by_class(asked) == {"put": 2000, "get": 1000, "free": 7}
    prices = parse_prices("put=0.005 get=0.0004 out=0.09 currency=EUR")
    assert prices == Prices(0.005, 0.0004, 0.09, "EUR")
    assert prices.of(asked, bytes_in=10 << 30) == pytest.approx(0.01 + 0.0004 + 0.9)
    for wrong in ("put=cheap", "gte=1", "put=-1"):
        with pytest.raises(ConfigError, match="price"):
            parse_prices(wrong)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_bytes_go_no_faster_than_the_limit_each_way(client, bucket, proxy, mimicdb, slept):
    options = S3Options(endpoint_url=proxy.url)
    s3 = S3(options, mimicdb)
    s3.limits.set("upload-limit", "1M")
    s3.put(bucket, "up", bytes(2 * MIB), 2 * MIB)
    # The last piece, a sixteenth of a second's worth, waited for all that went before it.
    assert max(slept) == 2 - 1 / 16
    slept.clear()
    s3.limits.set("upload-limit", "off")
    s3.limits.set("download-limit", "1M")
    buffer = bytearray(2 * MIB)
    s3.read_into(bucket, "up", "", 0, memoryview(buffer))
    assert 1.5 <= max(slept) <= 2.1  # and the headers
    s3.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_is_too_much_for_the_day_is_not_sent(client, bucket, proxy, mimicdb, caplog):
    s3 = S3(S3Options(endpoint_url=proxy.url, requests_per_day=2), mimicdb)
    proxy.counted()
    s3.list_page(bucket, "")
    s3.head_bucket(bucket)
    for refused in (lambda: s3.list_page(bucket, ""), lambda: s3.head_bucket(bucket)):
        with pytest.raises(TooManyRequests, match="2 requests were sent today"):
            refused()
    assert sum(proxy.counted().values()) == 2
    s3.limits.set("max-requests-per-day", "0")
    s3.head_bucket(bucket)
    s3.close()


def test_at_midnight_of_utc_as_many_requests_may_be_sent_again(monkeypatch, caplog):
    now = [20_000 * DAY_S - 1.0]
    monkeypatch.setattr(limits, "time", SimpleNamespace(time=lambda: now[0]))
    mine = limits.Limits(S3Options(requests_per_day=1))
    mine.count()
    with pytest.raises(TooManyRequests, match=r"wait 0\.0 h, or raise the limit"):
        mine.count()
    assert mine.figures()["requests_today"] == 1
    now[0] += 1.0
    assert mine.figures()["requests_today"] == 0
    mine.count()
    with pytest.raises(TooManyRequests, match=r"wait 24\.0 h, or raise the limit"):
        mine.count()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_waits_for_its_turn_holds_up_nobody_and_is_not_s3s_time(
    s3, mimicdb, bucket, proxy, monkeypatch
):
    """The clock goes on by what is waited for, and by nothing else."""
    clock = SimpleNamespace(
        monotonic=lambda: 100.0 + sum(waits), time=time.time, localtime=time.localtime
    )
    waits, open_keys = [], []

    def pause(pace, waits_s, changes):
        open_keys.append(mimicdb.backend.unsettled(bucket))
        waits.append(waits_s)

    monkeypatch.setattr(limits.RatePace, "_pause", pause)
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(traffic, "time", clock)
    upload = s3.start_upload(bucket, "big", Content())
    proxy.counted()
    s3.limits.set("request-rate", "1")
    s3.put(bucket, "a", b"x", 1)
    etag = s3.upload_part(bucket, "big", upload, 1, b"12345", 5)
    s3.finish_upload(bucket, "big", upload, [etag], 5)
    s3.delete(bucket, "a")
    assert proxy.counted() == {"PUT": 2, "POST": 1, "HEAD": 1, "DELETE": 1}
    assert waits == [1.0] * 4  # each but the first
    assert open_keys == [[]] * 4
    assert set(s3.figures()["seconds"].values()) == {0.0}


def test_each_bucket_has_its_own_rate_of_requests(slept):
    buckets = Buckets(BucketOptions(request_rate=10), {"slow": BucketOptions(request_rate=2)})
    own = limits.Limits(S3Options(buckets=buckets))
    for _ in range(3):
        own.ask("slow")
    own.ask("other")
    assert slept == [0.5, 1.0]
    own.set("request-rate", "0")
    own.ask("slow")
    assert slept == [0.5, 1.0]
    with pytest.raises(ConfigError, match="parts: cannot be changed while the mount runs"):
        own.set("parts", "1")


def test_a_limit_without_a_value_is_off_and_the_log_says_so(s3, caplog):
    with caplog.at_level("INFO"):
        s3.limits.set_all({"download-limit": "", "upload-limit": "1M"})
    assert caplog.messages == ["download-limit is off now", "upload-limit is 1M now"]


def test_of_several_limits_all_are_changed_or_none(s3):
    with pytest.raises(ConfigError, match="fast: not a number"):
        s3.limits.set_all({"upload-limit": "1M", "request-rate": "fast"})
    assert s3.limits.figures()["upload_limit"] == "off"
    s3.limits.set_all({"upload-limit": "1M", "request-rate": "5"})
    found = s3.limits.figures()
    assert (found["upload_limit"], found["request_rate"]) == ("1048576", 5.0)
