"""The thread that reads requests, the one that brings files, and those that close files, work one
at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from support.mounts import wait_until

from mimicfs import baton as turns
from mimicfs.baton import Baton


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(turns, "_READS_S", 20.0)
    monkeypatch.setattr(turns, "_BRINGS_S", 20.0)
    monkeypatch.setattr(turns, "_WORKS_S", 20.0)


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
    monkeypatch.setattr(turns, "_BRINGS_S", 0.0)
    baton = Baton()
    pool.submit(baton.wakes).result(10)
    baton.begins()  # waits no longer
    baton.brings_later = True  # as the other one has seen it a moment before
    pool.submit(baton.sleeps).result(10)
    baton.ends()
    pool.submit(baton.wakes).result(10)
    monkeypatch.setattr(turns, "_BRINGS_S", 20.0)
    slept = pool.submit(lambda: (wait_until(lambda: baton.brings_later), baton.sleeps()))
    baton.begins()
    assert slept.result(10)
    assert baton._brings


@pytest.mark.usefixtures("patient")
def test_a_worker_waits_until_whoever_reads_requests_sleeps(pool):
    baton = Baton()
    baton.wakes()
    joined = pool.submit(baton.joins)
    assert not wait([joined], 0.05).done
    baton.sleeps()
    joined.result(10)
    woken = threading.Thread(target=baton.wakes)
    woken.start()
    wait_until(lambda: baton._read_waits)
    pool.submit(baton.leaves).result(10)
    woken.join(10)
    assert not woken.is_alive()


@pytest.mark.usefixtures("patient")
def test_others_work_while_a_worker_waits_for_s3(pool):
    baton, answered = Baton(), threading.Event()

    def work():
        baton.joins()
        with baton.resting():
            answered.wait(10)
        baton.leaves()

    worked = pool.submit(work)
    wait_until(lambda: baton.comes_soon(1))  # nothing else is at work
    assert not baton.comes_soon(2)
    baton.wakes()
    answered.set()
    assert not wait([worked], 0.05).done
    baton.sleeps()
    worked.result(10)
    assert not baton.comes_soon(1)
    baton.wakes()  # waits for nobody


def test_a_worker_that_waits_for_something_else_than_s3_is_waited_for_once(pool, monkeypatch):
    baton = Baton()
    pool.submit(baton.joins).result(10)
    baton.wakes()  # after a moment
    baton.sleeps()
    monkeypatch.setattr(turns, "_READS_S", 20.0)
    baton.wakes()  # at once
    baton.sleeps()
    pool.submit(baton.leaves).result(10)  # it had lost it
    baton.wakes()
    assert not baton._lock.acquire(blocking=False)


def test_no_worker_takes_the_baton_from_whoever_reads_requests(pool):
    baton = Baton()
    pool.submit(baton.joins).result(10)
    pool.submit(baton.leaves).result(10)
    baton.wakes()
    held = baton._lock
    pool.submit(baton.joins).result(10)  # requests come and come
    assert baton._lock is held
    pool.submit(baton.leaves).result(10)
    assert not held.acquire(blocking=False)


@pytest.mark.usefixtures("patient")
def test_what_is_brought_waits_until_a_worker_waits_for_s3(pool):
    baton = Baton()
    baton.joins()
    begun = pool.submit(baton.begins)
    wait_until(lambda: baton.brings_later)
    with baton.resting():
        begun.result(10)
        pool.submit(baton.ends).result(10)
    baton.leaves()


def test_workers_that_wait_for_a_store_on_a_server_take_no_part(pool):
    baton = Baton(workers=False)
    pool.submit(baton.joins).result(10)
    baton.wakes()
    baton.sleeps()
    pool.submit(baton.leaves).result(10)
    with baton.resting():
        assert not baton.comes_soon(1)
