"""Memory for what is read ahead is used again, but never while somebody looks at it."""

from __future__ import annotations

import mmap

from mimicfs.files.budget import Budget

MIB = 1 << 20


def test_a_large_buffer_is_used_again_once_nobody_has_a_view_of_it() -> None:
    budget = Budget()
    budget._huge = True
    first = budget.buffer(4 * MIB)
    assert isinstance(first, mmap.mmap)
    view = memoryview(first)[MIB : 2 * MIB]
    budget.reuse(first)
    assert budget.buffer(4 * MIB) is not first
    view.release()
    budget.reuse(first)
    assert budget.buffer(2 * MIB) is not first
    assert budget.buffer(4 * MIB) is first
    assert budget.buffer(4 * MIB) is not first


def test_only_a_few_buffers_wait_to_be_used_again() -> None:
    budget = Budget()
    budget._huge = True
    made = [budget.buffer(2 * MIB) for _ in range(10)]
    for buffer in made:
        budget.reuse(buffer)
    again = [budget.buffer(2 * MIB) for _ in range(10)]
    assert sum(any(buffer is old for old in made) for buffer in again) == 4


def test_small_buffers_and_those_of_a_system_without_huge_pages_are_plain() -> None:
    budget = Budget()
    assert isinstance(budget.buffer(MIB), bytearray)
    budget._huge = False
    assert isinstance(budget.buffer(4 * MIB), bytearray)
