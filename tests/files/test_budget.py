"""Memory for what is read ahead is used again, but never while somebody looks at it."""

from __future__ import annotations

import mmap

from mimicfs.files.budget import Budget
from mimicfs.files.chunks import Chunk, joined

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


def test_what_readers_hold_and_what_waits_to_be_used_again_stay_within_the_limit() -> None:
    budget = Budget(8 * MIB)
    budget._huge = True
    for size in (4 * MIB, 2 * MIB, MIB):
        held = [budget.buffer(size) for _ in range(8 * MIB // size) if _took(budget, size)]
        for buffer in held:
            spare = sum(map(len, budget._spare))
            assert budget.used + spare <= 8 * MIB
            budget.give(_READER, size)
            budget.reuse(buffer)
    assert (budget.used, sum(map(len, budget._spare))) == (0, 8 * MIB)


def test_what_a_thread_frees_stays_in_no_arena_of_malloc() -> None:
    budget = Budget()
    budget._huge = True
    assert isinstance(budget.buffer(MIB), mmap.mmap)
    assert [len(budget.buffer(size)) for size in (300 << 10, MIB - 1)] == [512 << 10, MIB]


def test_what_a_buffer_has_behind_its_chunk_is_in_no_answer() -> None:
    chunks = [Chunk(0, 300, bytearray(512)), Chunk(300, 400, bytearray(256))]
    for chunk, filling in zip(chunks, (b"a", b"b"), strict=True):
        chunk.buffer[:] = filling * len(chunk.buffer)
    assert bytes(joined(chunks, 290, 400)) == b"a" * 10 + b"b" * 100
    assert bytes(joined(chunks[:1], 290, 400)) == b"a" * 10


def test_small_buffers_and_those_of_a_system_without_huge_pages_are_plain() -> None:
    budget = Budget()
    budget._huge = True
    assert isinstance(budget.buffer(64 << 10), bytearray)
    budget._huge = False
    assert isinstance(budget.buffer(4 * MIB), bytearray)


class _Idle:
    def shrink(self) -> bool:
        return False


_READER = _Idle()


def _took(budget: Budget, size: int) -> bool:
    return budget.take(_READER, size, needed=False)
