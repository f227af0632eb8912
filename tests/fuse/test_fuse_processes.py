"""A process chooses its name, of any bytes: that says nothing of it, and stops nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicfs.fuse.groups import _supplementary, is_member
from mimicfs.fuse.killed import Signal, _signal
from mimicfs.posix import Caller, Cancellation

GROUP = 424242  # not ours


@pytest.fixture
def named(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Give this thread the name *param*, as seen by whoever it asks."""
    thread = threading.get_native_id()
    comm = Path(f"/proc/self/task/{thread}/comm")
    before = comm.read_bytes()
    comm.write_bytes(request.param)
    yield Caller(1, 1, thread, Cancellation())
    comm.write_bytes(before)


@pytest.mark.parametrize(
    "named",
    ["prüfungsprogr".encode() + b"\xc3", b"\x0bGroups:\t%d" % GROUP, b"\rGroups:\t%d" % GROUP],
    indirect=True,
    ids=["cut", "vertical tab", "carriage return"],
)
def test_the_name_of_a_program_is_no_field_and_no_obstacle(named: Caller) -> None:
    assert _signal(named.pid) is Signal.OTHER
    assert not is_member(named, GROUP)
    assert _supplementary(named.pid) == os.getgroups()
