"""The thread that reads requests and the one that brings files work one at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.mounts import wait_until

from mimicfs import posix
from mimicfs.posix import Baton


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(posix, "_READS_S", 20.0)
    monkeypatch.setattr(posix, "_BRINGS_S", 20.0)


@pytest.mark.usefixtures("patient")
def test_what_is_brought_waits_until_whoever_reads_requests_sleeps(pool):
    baton = Baton()
    baton.wakes()
    begun = pool.submit(baton.begins)
    wait_until(lambda: baton.brings_later)
    assert not begun.done()
    baton.sleeps()
    begun.result(10)
    assert not baton.brings_later
    pool.submit(baton.ends).result(10)
    baton.wakes()  # waits for nobody


@pytest.mark.usefixtures("patient")
def test_a_request_that_comes_has_its_turn_at_the_next_pause_until_there_are_no_more(pool):
    baton = Baton()
    baton.begins()
    woken = pool.submit(baton.wakes)
    wait_until(lambda: baton._read_waits)
    assert not woken.done()
    slept = pool.submit(baton.sleeps)
    baton.pauses()  # until the other one sleeps
    assert woken.done()
    slept.result(10)
    baton.pauses()  # for nobody
    baton.ends()
    baton.ends()


def test_neither_waits_for_long_for_the_other_one(pool):
    baton = Baton()
    pool.submit(baton.wakes).result(10)
    for _ in range(3):  # requests come and come
        baton.begins()
        baton.pauses()
        baton.ends()
    pool.submit(baton.sleeps).result(10)
    baton.begins()
    pool.submit(baton.wakes).result(10)  # what is brought takes long
    pool.submit(baton.sleeps).result(10)
    baton.pauses()
    baton.ends()
    pool.submit(baton.wakes).result(10)
    assert not baton._lock.acquire(blocking=False)


def test_a_call_that_came_too_late_is_not_taken_for_the_next_one(pool, monkeypatch):
    monkeypatch.setattr(posix, "_BRINGS_S", 0.0)
    baton = Baton()
    pool.submit(baton.wakes).result(10)
    baton.begins()  # waits no longer
    baton.brings_later = True  # as the other one has seen it a moment before
    pool.submit(baton.sleeps).result(10)
    baton.ends()
    pool.submit(baton.wakes).result(10)
    monkeypatch.setattr(posix, "_BRINGS_S", 20.0)
    slept = pool.submit(lambda: (wait_until(lambda: baton.brings_later), baton.sleeps()))
    baton.begins()
    assert slept.result(10)
    assert baton._brings
