"""How many requests run at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.mounts import wait_until

from mimicfs.baton import Baton
from mimicfs.s3.requests.pool import RequestPool


def test_those_of_other_threads_count_among_those_that_run_at_once():
    lock, two, running, most = threading.Lock(), threading.Barrier(2), [0], [0]

    def request():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        two.wait(10)  # nobody goes on before two are here; three never are
        with lock:
            running[0] -= 1
        two.wait(10)

    with RequestPool(2) as pool:
        futures = [pool.submit(request) for _ in range(4)]
        threads = [threading.Thread(target=pool.here, args=(request,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for future in futures:
            future.result(20)
    assert (most[0], running[0]) == (2, 0)


def test_where_no_more_threads_can_start_those_that_there_are_do_what_was_submitted(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    goes_on = threading.Event()
    with RequestPool(2) as pool:
        first = pool.submit(goes_on.wait, 10)
        monkeypatch.setattr(threading.Thread, "start", start)
        second = pool.submit(str, 2)
        goes_on.set()
        assert (first.result(10), second.result(10)) == (True, "2")


def test_what_was_refused_because_no_thread_can_start_is_not_done_later(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    done = []
    with RequestPool(2) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError):
                pool.submit(done.append, "refused")
        pool.submit(done.append, "taken").result(10)
    assert done == ["taken"]


def test_whoever_waits_to_be_one_of_them_lets_others_work():
    baton, goes_on = Baton(), threading.Event()

    def close():
        baton.joins()
        return pool.here(str, 3)

    with RequestPool(1, baton) as pool, ThreadPoolExecutor(1) as workers:
        first = pool.submit(goes_on.wait, 10)
        closed = workers.submit(close)
        wait_until(lambda: baton.comes_soon(1))
        assert baton._lock.acquire(timeout=10)
        baton._lock.release()
        goes_on.set()
        assert (first.result(10), closed.result(10)) == (True, "3")
        workers.submit(baton.leaves).result(10)
