"""A follower loses nothing, whatever interrupts or outruns it."""

import threading
import time
from contextlib import ExitStack

import pytest
from support import servers

from mimicfs import following
from mimicfs.backends import lease
from mimicfs.backends.lease import LEASE_S
from mimicfs.backends.open import open_store
from mimicfs.entry import LISTED, Entry
from mimicfs.errors import StoreUnavailable
from mimicfs.following import Follower, followed
from mimicfs.mimicdb import Mirror


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with servers.redis(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture(params=["sqlite", "redis"])
def opened(request, tmp_path):
    """Open the same store once more, as another process does."""
    url = f"sqlite://{tmp_path}/store.db"
    if request.param == "redis":
        url = request.getfixturevalue("redis")
    with ExitStack() as stack:

        def open_() -> Mirror:
            mimicdb = Mirror(open_store(url, tmp_path.name))
            stack.callback(mimicdb.close)
            return mimicdb

        yield open_


@pytest.fixture
def other(opened):
    mimicdb = opened()
    mimicdb.add_bucket("b", 1)
    mimicdb.record("b", Entry("old", 1))
    return mimicdb


class Heard(list):
    """The changes that a listener was told: (bucket, keys that are there, keys that are gone), or
    bucket."""

    def __init__(self, mimicdb, failing=()):
        super().__init__()
        self.failing = list(failing)
        self.came = threading.Event()
        mimicdb.subscribe(self.take)

    def take(self, bucket, difference):
        if self.failing:
            raise self.failing.pop()
        told = (bucket, difference.added, difference.deleted) if difference else bucket
        self.append(told)
        self.came.set()


@pytest.fixture
def ours(opened, other):
    return opened()


def begun(mimicdb, bucket="b"):
    follower = Follower(mimicdb, bucket)
    follower.begin()
    return follower


def test_what_another_process_changes_is_told_by_key(ours, other):
    heard, follower = Heard(ours), begun(ours)
    other.record("b", Entry("new", 1))
    other.forget("b", "old")
    follower.look()
    follower.look()
    assert heard == [("b", ["new"], ["old"])]


def test_own_changes_are_not_told(ours, other):
    heard, follower = Heard(ours), begun(ours)
    ours.record("b", Entry("new", 1))
    follower.look()
    assert heard == []


def test_an_error_while_it_is_told_does_not_lose_it(ours, other):
    heard, follower = Heard(ours, [StoreUnavailable("away")]), begun(ours)
    other.record("b", Entry("new", 1))
    with pytest.raises(StoreUnavailable):
        follower.look()
    follower.look()
    assert heard == [("b", ["new"], [])]


def test_it_reads_page_after_page_to_the_end(ours, other, monkeypatch):
    monkeypatch.setattr("mimicfs.following._PAGE", 7)
    heard, follower = Heard(ours), begun(ours)
    for n in range(20):
        other.record("b", Entry(f"k{n:02}", 1))
    follower.look()
    assert [key for _, added, _ in heard for key in added] == [f"k{n:02}" for n in range(20)]


@pytest.mark.slow
def test_a_log_that_grows_while_it_is_told_is_read_to_where_it_was(ours, other):
    heard, follower = Heard(ours), begun(ours)
    ours.subscribe(lambda *_: other.record("b", Entry(f"more{len(heard)}", 1)))
    other.record("b", Entry("new", 1))
    follower.look()
    assert heard == [("b", ["new"], [])]
    follower.look()
    assert heard[1:] == [("b", ["more1"], [])]


def test_many_changes_at_once_are_told_as_everything(ours, other):
    heard, follower = Heard(ours), begun(ours)
    for start in range(0, 10_500, 100):
        other.backend.apply("b", [Entry(f"k{n}", 1) for n in range(start, start + 100)])
    follower.look()
    other.record("b", Entry("last", 1))
    follower.look()
    assert heard[0] == "b"
    assert heard[-1] == ("b", ["last"], [])


def test_a_log_that_was_begun_anew_is_told_as_everything(ours, other):
    heard, follower = Heard(ours), begun(ours)
    other.drop_bucket("b")
    other.record("b", Entry("new", 1))
    follower.look()
    assert heard[0] == "b"


def test_a_mount_of_one_bucket_does_not_hear_of_others(ours, other):
    other.add_bucket("c", 1)
    heard, follower = Heard(ours), begun(ours)
    other.record("c", Entry("new", 1))
    follower.look()
    assert heard == []


def test_a_bucket_that_is_new_is_told_whole_and_followed(ours, other):
    heard, follower = Heard(ours), begun(ours, "")
    other.record("new", Entry("first", 1))
    follower.look()
    other.record("new", Entry("second", 1))
    follower.look()
    assert heard == [("", ["new"], []), "new", ("new", ["second"], [])]


def test_whoever_waits_for_one_bucket_asks_for_no_other(ours, other, monkeypatch):
    other.add_bucket("c", 1)
    heard, follower = Heard(ours), begun(ours, "")
    other.record("b", Entry("new", 1))
    other.record("c", Entry("new", 1))
    asked, seq = [], ours.backend.exact.seq
    monkeypatch.setattr(ours.backend.exact, "seq", lambda name: asked.append(name) or seq(name))
    assert not follower.reach("b", 0)
    follower.look(["b"])
    assert follower.reach("b", 0)
    assert set(asked) == {"", "b"}
    assert heard == [("b", ["new"], [])]
    assert not follower.reach("c", 0)


def test_a_follower_is_woken_by_a_change_and_not_by_a_look(ours, other, monkeypatch):
    """It takes 1 ms on a quiet machine."""
    monkeypatch.setattr(following, "_LOOK_S", 600.0)
    heard = Heard(ours)
    with followed(Follower(ours, "b")):
        for n in range(20):
            heard.came.clear()
            other.record("b", Entry(f"k{n}", 1))
            assert heard.came.wait(60)


def test_the_end_does_not_wait_for_a_look(ours, other, monkeypatch):
    monkeypatch.setattr(following, "_LOOK_S", 600.0)
    heard = Heard(ours)
    with followed(Follower(ours, "b")):
        other.record("b", Entry("new", 1))
        assert heard.came.wait(60)
    assert "follow" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
def test_a_silent_store_costs_the_lease_and_its_return_gives_it_back(tmp_path, caplog):
    with servers.redis(tmp_path) as port:
        ours, other = (Mirror(open_store(f"redis://127.0.0.1:{port}")) for _ in range(2))
        other.record("b", Entry("old", 1))
        said, heard = [], Heard(ours)
        lost, back = threading.Event(), threading.Event()

        def leased(held):
            said.append(held)
            (back if held else lost).set()

        with followed(Follower(ours, "b", leased)):
            other.backend._client.execute_command("CLIENT", "PAUSE", 4500, "ALL")
            assert lost.wait(LEASE_S + 5)
            assert back.wait(20)
            other.record("b", Entry("new", 1))
            assert heard.came.wait(10)
        assert said == [False, True]
        for mimicdb in (ours, other):
            mimicdb.close()


def test_a_machine_that_has_slept_knows_that_its_lease_is_over(ours, monkeypatch):
    follower, clock = Follower(ours, "b"), time.clock_gettime
    follower.lease.renew()
    assert follower.lease.held
    slept_s = {time.CLOCK_BOOTTIME: 60.0}
    monkeypatch.setattr(time, "clock_gettime", lambda it: clock(it) + slept_s.get(it, 0.0))
    assert not follower.lease.held


@pytest.mark.slow
@pytest.mark.usefixtures("caplog")  # it is said that the changes are not known
def test_whoever_tells_for_long_does_not_take_the_store_for_away(ours, other, monkeypatch):
    for module in (following, lease):
        monkeypatch.setattr(module, "LEASE_S", 0.2)
    monkeypatch.setattr(following, "_TICK_S", 0.05)
    away, told, never = [], threading.Event(), threading.Event()

    def tell(*_):
        never.wait(0.5)
        away.append(follower.lease.away)
        told.set()

    ours.subscribe(tell)
    follower = Follower(ours, "b")
    with followed(follower):
        other.record("b", Entry("new", 1))
        assert told.wait(30)
    assert away == [False]


def test_a_directory_that_was_removed_before_s3_was_asked_does_not_come_back(
    mimicdb: Mirror,
) -> None:
    mimicdb.record("b", Entry("implied/x", 1))
    seen = [Entry("gone/", kind=LISTED, meta={}), Entry("implied/", kind=LISTED, meta={})]
    mimicdb.learned("b", seen, mimicdb.seq("b"))
    assert [entry.key for entry in mimicdb.backend.scan("b")] == ["implied/", "implied/x"]
