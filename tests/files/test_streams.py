"""Which reads go on from each other."""

from __future__ import annotations

from itertools import pairwise

from mimicfs.files.streams import Stream, Stride

KIB = 1 << 10
MIB = 1 << 20


def read(stream: Stream, *places: int, size: int = 128 * KIB) -> None:
    for place in places:
        stream.go_on(place, place + size)


def test_whoever_begins_at_the_start_goes_on_and_whoever_begins_elsewhere_after_two_reads() -> None:
    assert Stream(0, 128 * KIB).proven
    elsewhere = Stream(MIB, MIB + 128 * KIB)
    assert not elsewhere.proven
    read(elsewhere, MIB + 128 * KIB)
    assert elsewhere.proven
    assert elsewhere.at == MIB + 256 * KIB


def test_reads_out_of_order_are_one_stream() -> None:
    stream = Stream(256 * KIB, 384 * KIB)
    read(stream, 0, 512 * KIB, 128 * KIB, 384 * KIB)
    assert (stream.at, stream.downwards) == (640 * KIB, False)


def test_four_pieces_below_each_other_go_downwards_and_two_do_not() -> None:
    stream = Stream(10 * MIB, 10 * MIB + 128 * KIB)
    read(stream, 10 * MIB - 128 * KIB, 10 * MIB - 256 * KIB)
    assert not stream.proven  # nothing is asked ahead meanwhile
    read(stream, 10 * MIB - 384 * KIB)
    assert (stream.downwards, stream.at) == (True, 10 * MIB - 384 * KIB)
    assert stream.proven
    assert stream.near(10 * MIB - 512 * KIB, 10 * MIB - 384 * KIB)
    read(stream, 10 * MIB - 512 * KIB)
    assert stream.run == 640 * KIB


def test_large_pieces_below_each_other_are_one_stream() -> None:
    stream = Stream(10 * MIB, 11 * MIB)
    for place in (9 * MIB, 8 * MIB, 7 * MIB, 6 * MIB):
        assert stream.near(place, place + MIB)
        read(stream, place, size=MIB)
    assert stream.downwards


def test_whoever_turns_up_again_has_to_prove_it() -> None:
    stream = Stream(MIB, MIB + 4 * KIB)
    read(stream, *(MIB - n * 4 * KIB for n in range(1, 5)), size=4 * KIB)
    assert stream.downwards
    read(stream, MIB, size=4 * KIB)
    assert (stream.downwards, stream.at, stream.proven) == (False, MIB + 4 * KIB, False)


def begun(stride: Stride, *places: int) -> None:
    for place in places:
        stride.begin(Stream(place, place + 4 * KIB))


def test_the_third_of_equal_distances_makes_a_stride_that_is_foreseen_ever_further() -> None:
    stride, size = Stride(), 1000 * MIB
    begun(stride, MIB, 3 * MIB)
    assert stride.foreseen(size) == []
    begun(stride, 5 * MIB)
    assert [start for start, _ in stride.foreseen(size)] == [n * MIB for n in (7, 9, 11, 13)]
    begun(stride, 7 * MIB)
    assert len(stride.foreseen(size)) == 8
    begun(stride, *range(9 * MIB, 101 * MIB, 2 * MIB))
    assert len(stride.foreseen(size)) == 16
    begun(stride, 500 * MIB)
    assert stride.foreseen(size) == []


def test_a_stride_ends_with_the_object_and_may_go_down() -> None:
    stride = Stride()
    begun(stride, 90 * MIB, 60 * MIB, 30 * MIB)
    assert stride.foreseen(100 * MIB) == [(0, 4 * KIB)]
    up = Stride()
    begun(up, 0, 40 * MIB, 80 * MIB)
    assert up.foreseen(100 * MIB) == []


def test_random_places_are_no_stride() -> None:
    stride, places = Stride(), [(n * n * 7919) % 1000 * MIB for n in range(100)]
    same = sum(b - a == c - b for (a, b), c in zip(pairwise(places), places[2:], strict=False))
    assert same == 0
    begun(stride, *places)
    assert stride.foreseen(1000 * MIB) == []
