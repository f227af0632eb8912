"""Sets of byte ranges against sets of bytes, and the plan of an upload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mimicfs.files.layout import Layout
from mimicfs.files.ranges import PlannedPart, Ranges, are_equal, equal_plan, plan

spots = st.integers(0, 60)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), spots, spots), st.tuples(st.just("cut"), spots, st.just(0))
    ),
    max_size=12,
)


def made(steps: list[tuple[str, int, int]]) -> tuple[Ranges, set[int]]:
    ranges, model = Ranges(), set()
    for step, first, second in steps:
        if step == "add":
            ranges.add(first, second)
            model |= set(range(first, second))
        else:
            ranges.cut(first)
            model = {place for place in model if place < first}
    return ranges, model


@given(steps, spots, spots)
def test_ranges_are_a_set_of_bytes(steps: list[tuple[str, int, int]], start: int, end: int) -> None:
    ranges, model = made(steps)
    assert {place for first, last in ranges for place in range(first, last)} == model
    assert ranges.covers(start, end) == (set(range(start, end)) <= model)
    holes = {place for first, last in ranges.holes(start, end) for place in range(first, last)}
    assert holes == set(range(start, end)) - model
    pieces = list(ranges.pieces(start, end))
    assert [place for first, last, _ in pieces for place in range(first, last)] == list(
        range(start, end)
    )
    assert all(inside == (first in model) for first, _, inside in pieces)


@given(steps)
def test_ranges_neither_touch_nor_overlap(steps: list[tuple[str, int, int]]) -> None:
    flat = [place for pair in made(steps)[0] for place in pair]
    assert flat == sorted(set(flat))


@given(steps, spots, st.integers(1, 60), st.integers(8, 20))
def test_a_plan_copies_only_what_is_unchanged_and_makes_no_small_part(
    steps: list[tuple[str, int, int]], base: int, size: int, part: int
) -> None:
    changed, model = made([*steps, ("cut", size, 0)])
    base = min(base, size)
    parts = plan(changed, base, size, part, 4, 16)
    assert [place for start, end, *_ in parts for place in range(start, end)] == list(range(size))
    assert all(end - start >= 4 for start, end, *_ in parts[:-1])
    assert all(end - start <= (16 if copied else part) for start, end, copied, _ in parts)
    for start, end, copied, _ in parts:
        if copied:
            assert end <= base and not model & set(range(start, end))


@given(steps, spots, st.integers(1, 60), st.integers(1, 20))
def test_an_equal_plan_has_parts_of_one_size_and_copies_only_what_is_unchanged(
    steps: list[tuple[str, int, int]], base: int, size: int, part: int
) -> None:
    changed, model = made([*steps, ("cut", size, 0)])
    base = min(base, size)
    parts = equal_plan(changed, base, size, part)
    assert [place for start, end, *_ in parts for place in range(start, end)] == list(range(size))
    assert are_equal(parts)
    copied = {place for start, end, copied, _ in parts if copied for place in range(start, end)}
    assert not copied & model
    assert all(place < base for place in copied)


def test_an_append_copies_the_object_and_sends_what_was_appended() -> None:
    changed = Ranges()
    changed.add(1000, 1010)
    assert plan(changed, 1000, 1010, 16, 5, 5000) == [
        PlannedPart(0, 1000, True),
        PlannedPart(1000, 1010, False),
    ]


def test_a_change_in_the_middle_takes_what_it_lacks_from_behind() -> None:
    changed = Ranges()
    changed.add(500, 501)
    assert plan(changed, 1000, 1000, 16, 5, 5000) == [
        PlannedPart(0, 500, True),
        PlannedPart(500, 505, False),
        PlannedPart(505, 1000, True),
    ]


def test_a_change_at_the_start_of_a_small_rest_sends_all_of_it() -> None:
    changed = Ranges()
    changed.add(990, 991)
    assert plan(changed, 1000, 1000, 16, 5, 5000) == [
        PlannedPart(0, 990, True),
        PlannedPart(990, 995, False),
        PlannedPart(995, 1000, True),
    ]
    changed.add(993, 994)
    assert plan(changed, 1000, 1000, 16, 5, 5000)[1:] == [
        PlannedPart(990, 995, False),
        PlannedPart(995, 1000, True),
    ]


def test_changes_all_over_a_large_object_are_as_many_parts_as_s3_takes() -> None:
    mib = 1 << 20
    layout = Layout(100_000 * mib, 100_000 * mib)
    for start in (*range(0, 75_000, 12), *range(75_000, 100_000, 200)):
        layout.wrote(start * mib, start * mib + 1)
    assert len(layout.plan(20 * mib, 5 * mib, 5120 * mib, 20_000)) > 12_000
    parts = layout.plan(20 * mib, 5 * mib, 5120 * mib, 10_000)
    assert 3_000 < len(parts) <= 10_000
    assert sum(part.end - part.start for part in parts) == 100_000 * mib
    assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert any(part.copied for part in parts)
