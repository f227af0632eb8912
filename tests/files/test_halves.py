"""Appends that the kernel sends in two halves are one to everybody else."""

from __future__ import annotations

import mmap

import pytest

from mimicfs.errors import Interrupted
from mimicfs.files.halves import FileTurn, KernelWrite
from mimicfs.posix import NEVER, Cancellation

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize(
    ("offset", "size", "half"),
    [
        (PAGE - 96, 96, True),
        (PAGE - 96, 95, False),
        (PAGE - 96, 97, False),
        (0, PAGE, False),
        (PAGE, 2 * PAGE, False),
    ],
)
def test_what_begins_within_a_page_and_ends_with_it_may_be_half(offset, size, half):
    assert KernelWrite(2, 7, offset).may_be_half(size) == half


def test_nobody_but_the_writer_has_the_turn_between_two_halves():
    turn, gone = FileTurn(), Cancellation()
    gone.cancel()
    with turn.taken_between(NEVER, 2):
        turn.wrote(KernelWrite(2, 7, PAGE - 96), 96)
    assert not turn.take_alone()
    for ino in (0, 3):
        with pytest.raises(Interrupted), turn.taken_between(gone, ino):
            pass
    with turn.taken_between(NEVER, 2):
        turn.wrote(KernelWrite(2, 7, PAGE), 104)
    assert turn.take_alone()
    turn.give()


def test_whoever_closes_what_was_written_is_not_waited_for():
    turn = FileTurn()
    with turn.taken_between(NEVER, 2):
        turn.wrote(KernelWrite(2, 7, PAGE - 96), 96)
    turn.ended(8)
    assert not turn.take_alone()
    turn.ended(7)
    assert turn.take_alone()
    turn.give()


def test_the_second_half_is_not_waited_for_in_vain_for_long(monkeypatch):
    monkeypatch.setattr("mimicfs.files.halves._REST_S", 0.01)
    turn = FileTurn()
    with turn.taken_between(NEVER, 2):
        turn.wrote(KernelWrite(2, 7, PAGE - 96), 96)
    with turn.taken_between(NEVER):
        assert turn.take_at_once()
        turn.give()
