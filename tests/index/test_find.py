"""The answers of find and du, over a store in memory."""

import pytest

from mimicfs.config.values import parse_target
from mimicfs.entry import KEPT, Entry, Scope
from mimicfs.errors import ConfigError, KeyNotFound, NotSynced
from mimicfs.index.find import Interval, Start, Wanted, age_range, size_range, starts, usage, walk

KEYS = ["a", "d/b.jpg", "d/e/C.JPG", "d/e/f/g", "d0", "x//y"]
NS = 1_000_000_000


@pytest.fixture
def filled(mimicdb):
    mimicdb.backend.apply("b", [Entry(key, 10 * n, n * NS) for n, key in enumerate(KEYS, 1)])
    mimicdb.backend.apply("b", [Entry("k/", kind=KEPT), Entry("m/"), Entry("m/c/", 7)])
    mimicdb.complete("b", Scope("", True, 1))
    return mimicdb


def at(mimicdb, url):
    return starts(mimicdb, parse_target(url), url)


def found(mimicdb, wanted, prefix=""):
    start = Start("b", prefix)
    return [entry.key for entry in walk(mimicdb, start) if wanted.passed(entry, start)]


def test_directories_come_before_what_is_in_them(filled):
    assert found(filled, Wanted()) == [
        "", "a", "d/", "d/b.jpg", "d/e/", "d/e/C.JPG", "d/e/f/", "d/e/f/g", "d0",
        "k/", "m/", "m/c/", "m/c/", "x/", "x//", "x//y",
    ]  # fmt: skip
    assert found(filled, Wanted(kind="f"), "m/") == ["m/c/"]  # the content of a marker
    assert found(filled, Wanted(kind="d"), "d/") == ["d/", "d/e/", "d/e/f/"]


def test_tests_choose(filled):
    assert found(filled, Wanted(names=("*.jpg", "g"))) == ["d/b.jpg", "d/e/f/g"]
    assert found(filled, Wanted(inames=("*.jpg",))) == ["d/b.jpg", "d/e/C.JPG"]
    assert found(filled, Wanted(paths=("d/*/g",))) == ["d/e/f/g"]
    assert found(filled, Wanted(names=("e",))) == ["d/e/"]
    assert found(filled, Wanted(sizes=(size_range("+20"), size_range("-50")))) == [
        "d/e/C.JPG",
        "d/e/f/g",
    ]
    assert found(filled, Wanted(times_ns=(Interval(2 * NS, 3 * NS),))) == ["d/b.jpg", "d/e/C.JPG"]
    assert found(filled, Wanted(kind="f", depth=2), "d/") == ["d/b.jpg", "d/e/C.JPG"]
    filled.backend.apply("b", [Entry("z", 1, 1, "e1", "GLACIER")])
    assert found(filled, Wanted(storage_classes=frozenset({"GLACIER"}))) == ["z"]
    assert found(filled, Wanted(etags=frozenset({"e1"}))) == ["z"]
    assert "a" in found(filled, Wanted(storage_classes=frozenset({"STANDARD"})))


def test_sizes_and_ages_are_those_of_find():
    assert size_range("+1k") == Interval(least=1025)
    assert size_range("-2MiB") == Interval(most=(2 << 20) - 1)
    assert size_range("5") == Interval(5, 5)
    now = 100 * 86_400 * NS
    assert age_range("+1", now) == Interval(most=99 * 86_400 * NS - 1)
    assert age_range("-90s", now) == Interval(least=now - 90 * NS + 1)
    assert age_range("1h", now) == Interval(now - 7200 * NS + 1, now - 3600 * NS)
    for wrong in ("", "1x", "++1", "-"):
        with pytest.raises(ConfigError):
            size_range(wrong)
        with pytest.raises(ConfigError):
            age_range(wrong, now)


def test_usage_of_each_level(filled):
    told = {each.directory: each.total for each in usage(filled, Start("b", ""), -1)}
    assert told["d/e/f/"] == (1, 40)
    assert told["d/e/"] == (2, 70)
    assert told["d/"] == (3, 90)
    assert told["m/"] == told["m/c/"] == (1, 7)
    assert told["k/"] == (0, 0)
    assert told[""] == (7, 217) == filled.total("b")
    levels = [each.directory for each in usage(filled, Start("b", ""), 1)]
    assert levels == ["d/", "k/", "m/", "x/", ""]
    assert [each.total for each in usage(filled, Start("b", ""), 0)] == [(7, 217)]


def test_what_is_only_partly_known_is_no_answer(mimicdb):
    mimicdb.backend.apply("b", [Entry("d/a", 1), Entry("e/a", 1)])
    with pytest.raises(NotSynced, match="mimicfs sync 's3://b'"):
        at(mimicdb, "s3://b")
    with pytest.raises(NotSynced, match="mimicfs sync"):
        at(mimicdb, "s3://")
    mimicdb.complete("b", Scope("d/", True, 1))
    assert at(mimicdb, "s3://b/d") == [Start("b", "d/")]
    assert starts(mimicdb, parse_target("s3://b"), "s3://b", partial=True) == [Start("b", "")]
    with pytest.raises(NotSynced):
        at(mimicdb, "s3://b/e/")


def test_a_url_may_name_an_object(filled):
    (start,) = at(filled, "s3://b/d/b.jpg")
    assert [entry.key for entry in walk(filled, start)] == ["d/b.jpg"]
    assert [each.total for each in usage(filled, start, 1)] == [(1, 20)]
    with pytest.raises(KeyNotFound, match="s3://b/nothing/: no such"):
        at(filled, "s3://b/nothing")
