"""A replica answers as the store that it is a copy of, and asks it for nothing that it has."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial

import pytest

from mimicfs.backends import copyahead
from mimicfs.backends.lease import LEASE_S, Lease
from mimicfs.backends.memory import Memory
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import KEPT, LISTED, Entry, Scope
from mimicfs.errors import StoreUnavailable, Uncopied
from mimicfs.following import Follower
from mimicfs.mimicdb import Mirror

_WHOLE = Scope("", True, 1)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Counted(Memory):
    """A store that says how often the test's thread asked it (others copy ahead meanwhile), and
    goes away when it is told to."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.away = False

    def _note(self, name):
        if self.away:
            raise StoreUnavailable("away")
        if threading.current_thread() is threading.main_thread():
            self.asked.append(name)

    def close(self):
        """Others go on using it."""

    def lookup(self, *args):
        self._note("lookup")
        return super().lookup(*args)

    def children(self, *args):
        self._note("children")
        return super().children(*args)

    def get(self, *args):
        self._note("get")
        return super().get(*args)

    def note(self, *args):
        self._note("note")
        return super().note(*args)

    def changes(self, *args):
        self._note("changes")
        return super().changes(*args)

    def cover(self, *args):
        self._note("cover")
        return super().cover(*args)


@pytest.fixture
def store():
    return Counted()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def mount(store, clock, tmp_path):
    """Open a replica of the store, as a mount does, in a file if that has a name."""
    opened = []

    def open_(name="", **options):
        copy = SQLite(str(tmp_path / name)) if name else SQLite()
        replica = Replica(store, copy, Lease(clock), **options)
        replica.lease.renew()
        opened.append(replica)
        return replica

    yield open_
    for replica in opened:
        replica.close()


@pytest.fixture
def filled(store):
    store.apply("b", [Entry("a", 1), Entry("d/x", 2), Entry("d/e/y", 3), Entry("k/", kind=KEPT)])
    store.mark("b", _WHOLE)
    return store


def names(replica, directory=""):
    return [entry.key for entry in replica.children("b", directory)]


def test_what_is_copied_is_not_asked_of_the_store(mount, filled):
    replica = mount()
    assert names(replica) == ["a", "d/", "k/"]
    assert names(replica, "d/") == ["d/e/", "d/x"]
    filled.asked.clear()
    assert replica.lookup("b", "", "a") == (Entry("a", 1), None)
    assert replica.lookup("b", "", "missing") == (None, None)
    assert replica.covered("b", "d/")
    assert replica.get("b", "d/x") == Entry("d/x", 2)
    assert filled.asked == []


def test_what_is_noted_of_a_copied_directory_is_not_asked_of_the_store(mount, filled):
    filled.set_note_of("b", "d/", "rich")
    replica = mount()
    replica._ahead.close()
    names(replica, "d/")
    filled.away = True
    with replica.answering():
        assert replica.notes_of("b", ["d/"]) == ["rich"]
        with pytest.raises(Uncopied, check=lambda exc: exc.directory == "d/e/"):
            replica.notes_of("b", ["d/e/"])
    filled.away = False
    replica.set_note_of("b", "d/", "plain 1")
    assert filled.notes_of("b", ["d/"]) == replica.notes_of("b", ["d/"]) == ["plain 1"]


def test_a_note_that_came_after_the_copy_is_asked_of_the_store_a_second_later(
    mount, filled, monkeypatch
):
    replica = mount()
    names(replica, "d/")
    assert replica.notes_of("b", ["d/"]) == [None]
    monkeypatch.setattr("mimicfs.backends.recent._RECENT_S", 0.0)
    filled.set_note_of("b", "d/", "rich")
    with replica.answering(), pytest.raises(Uncopied):
        replica.notes_of("b", ["d/"])
    assert replica.notes_of("b", ["d/"]) == ["rich"]
    filled.away = True
    assert replica.notes_of("b", ["d/"]) == [None]  # it is silent, and nobody has noticed yet
    replica.lease.lose()
    assert replica.notes_of("b", ["d/"]) == [None]


def test_a_thread_that_answers_the_kernel_does_not_wait(mount, filled):
    replica = mount()
    with replica.answering():
        with pytest.raises(Uncopied):
            replica.lookup("b", "", "a")
        worker = threading.Thread(target=replica.bring, args=("b", ""))
        worker.start()
        worker.join()
        assert replica.lookup("b", "", "a") == (Entry("a", 1), None)


def test_what_others_change_is_taken_from_the_log(mount, filled):
    replica = mount()
    names(replica), names(replica, "d/"), names(replica, "d/e/")
    filled.apply("b", [Entry("d/new/z", 9)], ["a", "d/e/y"])
    replica.catch_up("b")
    filled.asked.clear()
    assert names(replica) == ["d/", "k/"]
    assert names(replica, "d/") == ["d/new/", "d/x"]
    assert filled.asked == []


def test_what_this_mount_changes_is_seen_when_the_change_returns(mount, filled):
    replica = mount()
    names(replica)
    replica.apply("b", [Entry("new", 1)], ["a"])
    assert names(replica) == ["d/", "k/", "new"]


def test_many_changes_at_once_are_copied_anew(mount, filled):
    replica = mount()
    names(replica), names(replica, "d/")
    filled.apply("b", [Entry(f"d/x{n:03}", 1) for n in range(150)], ["d/x"])
    replica.catch_up("b")
    assert len(names(replica, "d/")) == 151  # d/e/, too


def test_a_log_that_was_cut_means_that_nothing_is_copied(mount, filled):
    replica = mount()
    names(replica)
    filled.drop_bucket("b")
    filled.apply("b", [Entry("other", 1)])
    filled.mark("b", _WHOLE)
    replica.catch_up("b")
    assert names(replica) == ["other"]


def test_a_directory_that_the_store_does_not_have_whole_is_not_copied(mount, store):
    store.apply("b", [Entry("a", 1)])
    replica = mount()
    assert not replica.covered("b", "")
    assert replica.lookup("b", "", "a") == (Entry("a", 1), None)
    replica.mark("b", Scope("", False, 5))
    assert replica.covered("b", "")


def test_a_copy_outlives_its_mount_and_goes_on_from_the_log(mount, filled):
    first = mount("copy.db")
    names(first), names(first, "d/")
    first.close()
    filled.apply("b", [Entry("later", 1)], ["d/x"])
    second = mount("copy.db")
    second.catch_up("b")
    filled.asked.clear()
    assert names(second) == ["a", "d/", "k/", "later"]
    assert names(second, "d/") == ["d/e/"]
    assert filled.asked == []


class Interrupted(SQLite):
    """A copy whose process ends while it notes that a directory is whole."""

    ends = False

    def keep_directories(self, bucket, found):
        with self.together():
            super().keep_directories(bucket, found)
            if self.ends:
                raise StoreUnavailable("killed")


def test_a_large_directory_is_not_copied_with_the_note_of_an_earlier_copy(
    store, clock, mount, tmp_path
):
    store.apply("b", [Entry(f"{n:04}", 1) for n in range(1200)])
    store.mark("b", _WHOLE)
    store.set_note_of("b", "", "plain 1")
    copy = Interrupted(str(tmp_path / "copy.db"))
    first = Replica(store, copy, Lease(clock))
    first.lease.renew()
    assert len(names(first)) == 1000
    assert first.notes_of("b", [""]) == ["plain 1"]
    store.set_note_of("b", "", "rich")
    store.apply("b", [Entry(f"{n:04}", 2) for n in range(150)])  # so many: copied anew
    first.catch_up("b")
    copy.ends = True
    with pytest.raises(StoreUnavailable):
        names(first)
    first._ahead.close()
    copy.close()
    assert mount("copy.db").notes_of("b", [""]) == ["rich"]


class Meanwhile(Counted):
    """A store that calls `meanwhile` in another thread between two pages of a directory: after it
    has read the second one, and before that is returned."""

    meanwhile = None

    def children(self, bucket, directory, after="", limit=1000):
        rows = super().children(bucket, directory, after, limit)
        if after and self.meanwhile is not None:
            thread = threading.Thread(target=self.meanwhile, daemon=True)
            self.meanwhile = None
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
        return rows


def test_the_log_is_taken_in_while_a_large_directory_is_copied(clock):
    store = Meanwhile()
    store.apply("b", [Entry(f"{n:04}", 1) for n in range(2500)])
    store.mark("b", _WHOLE)
    replica = Replica(store, SQLite(), Lease(clock))
    replica.lease.renew()
    followed = []

    def others_write():  # in the first page, in the one that was just read, and behind both
        store.apply("b", [Entry(name, 2) for name in ("0001", "1001", "1001a", "2400")], ["1002"])
        replica.catch_up("b")
        followed.append(replica.shared.seq("b"))

    store.meanwhile = others_write
    replica.bring("b", "")
    assert followed == [replica.shared.seq("b")]
    store.asked.clear()
    found = {name: replica.get("b", name) for name in ("0001", "1001", "1001a", "1002", "2400")}
    assert found == {
        "0001": Entry("0001", 2),
        "1001": Entry("1001", 2),
        "1001a": Entry("1001a", 2),
        "1002": None,
        "2400": Entry("2400", 2),
    }
    assert len(replica.children("b", "", "", 5000)) == 2500
    assert store.asked == []
    replica.close()


def test_whoever_asks_whether_a_large_directory_is_listed_does_not_wait_for_its_copy(mount, store):
    store.apply("b", [Entry(f"{n:04}", 1) for n in range(1200)])
    store.mark("b", _WHOLE)
    replica = mount()
    replica._ahead.close()
    assert replica.covered("b", "")
    assert not replica._copies.of("b")
    assert len(replica.children("b", "", "", 5000)) == 1200
    store.asked.clear()
    assert replica.covered("b", "")
    assert store.asked == []


def test_whoever_walks_a_tree_has_the_next_directories_copied_together(mount, store, monkeypatch):
    store.apply("b", [Entry(f"d{n:02}/f", 1) for n in range(64)])
    store.mark("b", _WHOLE)
    asked, directories = [], store.directories
    monkeypatch.setattr(
        store, "directories", lambda *about: asked.append(len(about[1])) or directories(*about)
    )
    monkeypatch.setattr(copyahead, "_WALK_S", 60.0)
    replica = mount()
    replica._ahead.close()
    found = [names(replica, each) for each in names(replica)]
    assert found == [[f"d{n:02}/f"] for n in range(64)]
    assert asked == [1, 2, 4, 8, 16, 32, 2]


def test_whoever_walks_a_tree_asks_what_is_noted_of_the_next_directories_together(
    mount, store, monkeypatch
):
    directories = [f"d{n:03}/" for n in range(200)]
    store.apply("b", [Entry(each + "f", 1) for each in directories])
    store.mark("b", _WHOLE)
    replica = mount()
    replica._ahead.close()
    asked, notes_of = [], store.notes_of
    replica._copies.bring_all("b", ["", *directories])
    monkeypatch.setattr(
        store, "notes_of", lambda *about: asked.append(len(about[1])) or notes_of(*about)
    )
    monkeypatch.setattr("mimicfs.backends.recent._RECENT_S", 60.0)
    assert [replica.notes_of("b", [each]) for each in directories] == [[None]] * 200
    assert asked == []  # it came with the copy
    replica._copies.notes._said.clear()  # a second later
    store.set_note_of("b", "d100/", "rich")
    found = {each: replica.notes_of("b", [each]) for each in directories}
    assert [each for each in directories if found[each] != [None]] == ["d100/"]
    assert found["d100/"] == ["rich"]
    assert asked == [1, 2, 4, 8, 16, 32, 64, 73]


def test_what_lies_below_a_copied_directory_is_not_copied_ahead_once_more(mount, filled):
    replica = mount()
    assert replica._copies.bring_all("b", [""]) == (["d/", "k/"], 3)
    assert replica._copies.bring_all("b", ["", "d/"]) == (["d/e/"], 2)
    assert replica._copies.bring_all("b", ["", "d/"]) == ([], 0)


def test_what_is_copied_for_the_first_time_is_compared_with_nothing(mount, filled, monkeypatch):
    replica = mount()
    replica._ahead.close()
    read, children = [], replica._copy.children
    monkeypatch.setattr(
        replica._copy, "children", lambda *about: read.append(about[1]) or children(*about)
    )
    replica._copies.bring_all("b", ["", "d/", "d/e/"])
    assert read == []
    filled.apply("b", (), ["d/x"])
    replica._copies.drop("b", "d/", "d/z")
    replica._copies.bring_all("b", ["d/", "d/e/"])
    assert read == ["d/", "d/e/"]
    assert names(replica, "d/") == ["d/e/"]


def test_a_mount_of_a_prefix_copies_nothing_beside_it(mount, filled):
    filled.apply("b", [Entry(f"{n:04}", 1) for n in range(1500)])
    replica = mount(prefix="d/e/")
    with replica.answering():
        with pytest.raises(Uncopied) as missing:
            replica.get("b", "d/e/")
        assert missing.value.directory == "d/"
        workers = [
            threading.Thread(target=replica.bring, args=("b", each)) for each in ("d/", "d/e/")
        ]
        for worker in workers:
            worker.start()
            worker.join()
        filled.away = True
        assert replica.has_below("b", "d/e/")
        assert replica.get("b", "d/e/") == Entry("d/e/", kind=LISTED)
        assert names(replica, "d/e/") == ["d/e/y"]
        filled.away = False
    assert replica.figures()["directories"] == 1
    filled.apply("b", [Entry("d/e/", 0, 7)])
    replica.catch_up("b")
    filled.asked.clear()
    assert replica.get("b", "d/e/") == Entry("d/e/", 0, 7)
    assert filled.asked == []
    assert replica.get("b", "d/x") == Entry("d/x", 2)
    assert filled.asked == ["get"]


class Watched(SQLite):
    """A copy that calls `watch` before each commit of what is copied."""

    watch = None

    @contextmanager
    def together(self):
        with super().together() as db:
            yield db
            if self.watch is not None:
                self.watch()


def test_a_directory_is_answered_from_the_copy_when_all_of_it_is_there(filled, clock, tmp_path):
    copy = Watched(str(tmp_path / "copy.db"))
    replica = Replica(filled, copy, Lease(clock))
    replica.lease.renew()
    seen = []
    with ThreadPoolExecutor(1) as reader:
        reader.submit(copy.get, "b", "d/x").result()  # it has its connection
        look = partial(reader.submit, replica.get, "b", "d/x")
        copy.watch = lambda: seen.append(look().result(20))
        replica.bring("b", "d/")
        copy.watch = None
    assert [each for each in seen if each != Entry("d/x", 2)] == []
    assert seen
    replica.close()


def test_another_epoch_means_that_nothing_is_copied(mount, filled):
    first = mount("copy.db")
    names(first)
    first.close()
    filled.set_note("", "epoch", None)
    filled.asked.clear()
    names(mount("copy.db"))
    assert "children" in filled.asked


def test_while_the_store_is_away_it_reads_on_and_refuses_changes_at_once(mount, filled):
    replica = mount()
    replica._ahead.close()
    names(replica)
    filled.away = True
    replica.lease.lose()
    assert replica.lookup("b", "", "a") == (Entry("a", 1), None)
    with pytest.raises(StoreUnavailable):
        replica.apply("b", [Entry("new", 1)])
    with pytest.raises(StoreUnavailable):
        replica.begin("b", ["new"], "one:1", 60_000)
    with pytest.raises(StoreUnavailable):
        replica.children("b", "d/")  # not copied


def test_a_strict_replica_reads_nothing_while_the_store_is_away(mount, filled):
    replica = mount(strict=True)
    names(replica)
    replica.lease.lose()
    with pytest.raises(StoreUnavailable):
        replica.lookup("b", "", "a")
    replica.lease.renew()
    assert replica.lookup("b", "", "a") == (Entry("a", 1), None)


def test_a_mount_that_was_stopped_answers_nothing_before_its_next_look(mount, filled, clock):
    replica = mount()
    names(replica)
    clock.now_s += LEASE_S + 60
    with replica.answering(), pytest.raises(Uncopied):
        replica.lookup("b", "", "a")
    answers = []
    reader = threading.Thread(target=lambda: answers.append(replica.lookup("b", "", "a")))
    reader.start()
    filled.apply("b", [Entry("a", 2)])
    replica.catch_up("b")
    replica.lease.renew()
    reader.join()
    assert answers == [(Entry("a", 2), None)]


class Slow(Counted):
    """A store that takes a second to answer what is in its log, once it has `meanwhile` to call
    then."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.meanwhile = None

    def changes(self, *args):
        found = super().changes(*args)
        if self.meanwhile is not None:
            self.clock.now_s += 1
            self.meanwhile()
        return found


@pytest.mark.parametrize("was_away", [False, True])
def test_a_store_that_answers_with_a_long_log_is_not_away(clock, monkeypatch, was_away):
    monkeypatch.setattr("mimicfs.backends.copying._PAGE", 2)
    store = Slow(clock)
    store.apply("b", [Entry("a", 1)])
    store.mark("b", _WHOLE)
    replica = Replica(store, SQLite(), Lease(clock))
    follower = Follower(Mirror(replica), "b", lease=replica.lease)
    follower.begin()
    names(replica)
    for n in range(20):
        store.apply("b", [Entry("a", n)])
    if was_away:
        replica.lease.lose()
    lease, seen = replica.lease, []
    store.meanwhile = lambda: seen.append((lease.away, lease.unheard_s < LEASE_S))
    follower.look()
    assert seen[0] == (was_away, True)
    assert set(seen[1:]) == {(False, True)}
    assert len(seen) > 2 * LEASE_S
    follower.lease.renew()
    assert replica.get("b", "a") == Entry("a", 19)
    replica.close()


def test_whoever_tells_what_a_look_has_found_does_not_wait_for_the_end_of_it(clock):
    store = Slow(clock)
    store.apply("b", [Entry("a", 1)])
    store.mark("b", _WHOLE)
    replica, told = Replica(store, SQLite(), Lease(clock)), []
    mimicdb = Mirror(replica)
    follower = Follower(mimicdb, "b", lease=replica.lease)
    follower.begin()
    names(replica)
    store.apply("b", [Entry("a", 2)])
    store._origin += 2  # it was written by another process
    clock.now_s += 150  # this one was stopped
    mimicdb.subscribe(lambda *_: told.append(mimicdb.entry("b", "a")))
    began_s = time.monotonic()
    follower.look()
    assert told == [Entry("a", 2)]
    assert time.monotonic() - began_s < 4 * LEASE_S  # for so long all others wait
    replica.close()


def test_while_a_long_log_is_read_the_store_is_asked_and_not_an_old_copy(clock, monkeypatch):
    store = Slow(clock)
    store.apply("b", [Entry("a", 1)])
    store.mark("b", _WHOLE)
    replica = Replica(store, SQLite(), Lease(clock))
    replica.lease.renew()
    names(replica)
    store.apply("b", [Entry("a", 2)])
    clock.now_s += LEASE_S
    replica.lease.heard()
    monkeypatch.setattr(replica.lease, "settle", lambda: False)  # that takes 12 s
    assert replica.get("b", "a") == Entry("a", 2)
    assert replica.lookup("b", "", "a") == (Entry("a", 2), None)
    replica.close()


class Overtaken(Counted):
    """A store that calls `meanwhile` in another thread when it has read directories."""

    meanwhile = None

    def directories(self, *args):
        found = super().directories(*args)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            thread = threading.Thread(target=meanwhile, daemon=True)
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
        return found


def test_rows_that_another_thread_has_copied_meanwhile_are_not_replaced_by_older_ones(clock):
    store = Overtaken()
    store.apply("b", [Entry("a", 1)])
    store.mark("b", _WHOLE)
    replica = Replica(store, SQLite(), Lease(clock))
    replica.lease.renew()

    def copied_by_another():  # as if the directory had more than a page
        store.apply("b", [Entry("a", 2)])
        replica._copies._copy_large("b", "")

    store.meanwhile = copied_by_another
    replica.bring("b", "")
    assert replica.get("b", "a") == Entry("a", 2)
    replica.close()


def test_a_directory_whose_bucket_is_forgotten_while_it_is_copied_is_answered_by_the_store(clock):
    store = Overtaken()
    store.apply("b", [Entry("a", 1)])
    store.mark("b", _WHOLE)
    replica = Replica(store, SQLite(), Lease(clock))
    replica.lease.renew()
    store.meanwhile = lambda: replica._copies.forget("b")
    assert replica.children("b", "") == [Entry("a", 1)]
    replica.close()


def test_what_a_thread_has_copied_does_not_go_back_to_what_another_was_told_before(clock):
    store = Overtaken()
    store.apply("b", [Entry("a", 1)])
    store.mark("b", _WHOLE)
    rows = SQLite()
    replica = Replica(store, rows, Lease(clock))
    replica.lease.renew()
    sizes = []

    def seen():
        found = rows.get("b", "a")
        sizes.append(0 if found is None else found.size)

    with ThreadPoolExecutor() as threads:

        def another_comes():
            store.apply("b", [Entry("a", 2)])
            # It has stored its answer by then, or waits for its turn.
            wait([threads.submit(replica.bring, "b", "")], timeout=0.2)
            seen()

        store.meanwhile = another_comes
        replica.bring("b", "")
        seen()
    replica.catch_up("b")
    seen()
    assert sizes == sorted(sizes)
    assert sizes[-1] == 2
    replica.close()


def _random_change(random_, store):
    keys = [f"{d}{n}" for d in ("", "d/", "d/e/", "d/e/f/", "g/") for n in ("x", "y", "e", "e/")]
    puts, deletes = random_.sample(keys, 2), random_.sample(keys, 3)
    if random_.random() < 0.1:
        puts += [f"g/{n:03}" for n in range(150)]
    if random_.random() < 0.1:
        deletes += [f"g/{n:03}" for n in range(150)]
    kinds = {key: random_.choice((0, LISTED, KEPT)) if key.endswith("/") else 0 for key in puts}
    entries = [Entry(key, random_.randrange(9), kind=kinds[key]) for key in puts]
    store.apply("b", entries, deletes)


def _shown(backend, directory):
    rows = backend.children("b", directory)
    return [(row.key, row.size, row.kind) for row in rows]


@pytest.mark.parametrize("seed", range(8))
def test_after_any_changes_a_replica_shows_what_the_store_has(mount, filled, seed):
    random_ = random.Random(seed)
    one, two = mount(), mount()
    for _ in range(60):
        _random_change(random_, random_.choice((one, two, filled)))
        directory = random_.choice(("", "d/", "d/e/", "d/e/f/", "g/"))
        reader = random_.choice((one, two))
        reader.catch_up("b")
        assert _shown(reader, directory) == _shown(filled, directory)
        name = random_.choice("xye")
        wanted = filled.lookup("b", directory, name)
        assert reader.lookup("b", directory, name) == wanted
