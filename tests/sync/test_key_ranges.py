"""Where a listing is cut."""

from hypothesis import given
from hypothesis import strategies as st

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry
from mimicfs.mimicdb import Mirror
from mimicfs.sync.flights import Pace
from mimicfs.sync.plan import Known
from mimicfs.sync.ranges import Alphabet, KeyRange, common, guesses, spread
from mimicfs.sync.source import ListingScope


def letters(*keys):
    alphabet = Alphabet()
    alphabet.learn(sorted(keys))
    return alphabet


DIGITS = [f"file-{n:04}.dat" for n in range(0, 10_000, 7)]


def test_only_letters_that_tell_keys_apart_are_learned():
    assert letters(*DIGITS).letters == list("0123456789")
    assert letters("a").letters == []


def test_a_middle_is_half_way():
    alphabet = letters(*DIGITS)
    assert alphabet.middle("file-0999.dat", "file-~") == "file-54"
    assert alphabet.middle("file-5", "file-~") == "file-75"
    assert alphabet.middle("file-51", "file-52") == "file-5150"


@given(st.text(max_size=12), st.text(max_size=12), st.lists(st.text(max_size=8), max_size=9))
def test_a_middle_is_between_or_there_is_none(one, other, keys):
    low, high = sorted((one, other))
    found = letters(*keys).middle(low, high)
    assert not found or low < found < high


def test_what_is_left_is_estimated_from_what_came():
    alphabet = letters(*DIGITS)
    part = KeyRange("file-0", "file-8")
    part.after, part.keys = "file-2", 1000
    assert round(alphabet.left(part)) == 3000
    assert alphabet.left(KeyRange("a")) == float("inf")
    assert alphabet.left(KeyRange("a", "b", expected=500)) == 500


def test_without_an_end_what_all_keys_begin_with_is_tried():
    part = KeyRange("")
    part.after = "logs/2024/b"
    assert guesses(part, "logs/2023/a", Alphabet(), 3) == ["logs/202~"]
    part.after = "é"
    assert guesses(part, "a", Alphabet(), 3) == []


def test_with_an_end_places_between_are_tried():
    part = KeyRange("file-0999.dat", "file-~")
    assert guesses(part, "", letters(*DIGITS), 3) == ["file-32", "file-54", "file-77"]
    assert guesses(part, "", Alphabet(), 3) == []


def test_common_is_what_both_begin_with():
    assert [common("abc", "abd"), common("a", "abc"), common("", "x"), common("a", "a")] == [
        *("ab", "a", "", "a")
    ]


def test_candidates_are_taken_at_even_distances():
    assert spread("bcdefghij", 4) == ["c", "e", "g", "i"]
    assert spread("bc", 6) == ["b", "c"]
    assert spread("b", 1) == ["b"]
    assert spread("", 6) == []


def planned(count, objects=0):
    mimicdb = Mirror(Memory())
    mimicdb.backend.apply("b", [Entry(f"{n:06}") for n in range(count)])
    plan = Known(mimicdb, ListingScope("b", ""), objects)
    parts = []
    while part := plan.next():
        parts.append((part.after, part.upto, part.expected))
        assert plan.rest() == ([] if part.upto is None else [(part.upto, None)])
    return parts


def test_ranges_are_cut_at_every_so_many_known_keys():
    assert planned(0) == [("", None, 0)]
    assert planned(4500) == [("", None, 4500)]
    assert planned(8000) == [("", "003999", 4000), ("003999", None, 4000)]
    assert planned(10_000) == [
        ("", "003999", 4000),
        ("003999", "007999", 4000),
        ("007999", None, 2000),
    ]
    assert planned(10_000, 150_000)[0] == ("", "004999", 5000)


def test_refusals_halve_the_pace_and_success_raises_it():
    pace = Pace(16)
    for _ in range(4):
        pace.answered(False)
    assert pace.limit == 12
    for _ in range(3):  # under way together, refused together
        pace.answered(True)
    assert pace.limit == 6
    for _ in range(7):
        pace.answered(False)
    assert pace.limit == 7
    for _ in range(100):
        pace.answered(True)
    assert pace.limit == 1
