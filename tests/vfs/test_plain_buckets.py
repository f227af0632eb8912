"""Plain directories stay plain until S3 shows another thing; so many of them make others of the
bucket count as plain, and are counted right."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.config.values import Buckets
from mimicfs.entry import NS, Difference, Entry, Scope
from mimicfs.errors import AccessDenied, Unlearned
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.vfs import firstlook
from mimicfs.vfs.firstlook import FirstLook

COUNT = "look"  # the note of a bucket


class Objects:
    """An S3 in which objects named "rich" have a mode; it refuses the keys in *refused*."""

    def __init__(self):
        self.wide = ThreadPoolExecutor(4)
        self.asked, self.refused, self.replaced = 0, set(), set()

    def look(self, bucket, key):
        self.asked += 1
        if key in self.refused:
            raise AccessDenied(f"s3://{bucket}/{key}")
        meta = {"mode": "33152"} if key.endswith("rich") else {}
        return Entry(key, 1, 1, "new" if key in self.replaced else "e", meta=meta)


class Mount:
    """The first look of one mount of *store*."""

    def __init__(self, store, s3):
        self.mimicdb = Mirror(store)
        self.look = FirstLook(self.mimicdb, s3, Buckets())

    def looks_at(self, *keys):
        for key in keys:
            directory = key[: key.rindex("/") + 1]
            self.look.learn(Unlearned("b", directory, key), Cancellation())


PLAIN = [f"d{number:02}/plain" for number in range(70)]


def filled(store):
    mimicdb = Mirror(store)
    mimicdb.add_bucket("b", 0)
    mimicdb.record_all("b", [Entry(key, 1, 1, "e") for key in [*PLAIN, "r/rich", "s/rich"]])
    mimicdb.complete("b", Scope("", True, 1))
    return store


@pytest.fixture
def s3():
    objects = Objects()
    with objects.wide:
        yield objects


def test_after_64_plain_directories_the_others_count_as_plain(s3):
    mount = Mount(filled(Memory()), s3)
    mount.looks_at(*reversed(PLAIN[:63]))  # no walk
    assert mount.look.needs("b", "d69/")
    mount.mimicdb.record_all("b", [Entry(PLAIN[0], 1, 5, "new")])
    mount.look.changed("b", Difference([], [PLAIN[0]], [], 0))
    mount.looks_at(PLAIN[0])  # again, and counted once
    assert mount.look.needs("b", "d69/")
    mount.looks_at(PLAIN[63])
    assert not mount.look.needs("b", "d68/")
    assert s3.asked == 65


DEEP = [f"t/{key}" for key in PLAIN]


def test_a_walk_waits_a_few_times_until_the_others_count_as_plain(s3):
    store = filled(Memory())
    mount = Mount(store, s3)
    mount.mimicdb.record_all("b", [Entry(key, 1, 1, "e") for key in ["t/a", *DEEP]])
    waits = 0
    for key in ["t/a", *DEEP]:
        if mount.look.needs("b", key[: key.rindex("/") + 1]):
            mount.looks_at(key)
            waits += 1
    assert (waits, s3.asked, store.note("b", COUNT)) == (5, 64, "64")


def test_whoever_asked_before_64_were_plain_is_not_sampled_after(s3):
    mount = Mount(filled(Memory()), s3)
    assert mount.look.needs("b", "d69/")
    mount.looks_at(*PLAIN[:64])
    assert not mount.look.needs("b", "d69/")


def test_a_walk_of_a_tree_that_has_objects_only_in_its_leaves_waits_as_seldom(s3):
    mount = Mount(filled(Memory()), s3)
    keys = [f"t/{above}/{below}/c" for above in "abcdefgh" for below in "abcdefghij"]
    mount.mimicdb.record_all("b", [Entry(key, 1, 1, "e") for key in keys])
    waits = 0
    for key in keys:
        if mount.look.needs("b", key[: key.rindex("/") + 1]):
            mount.looks_at(key)
            waits += 1
    assert (waits, s3.asked) == (5, 64)


def test_what_a_walk_comes_to_is_found_rich_before_it_is_there(s3):
    mount = Mount(filled(Memory()), s3)
    keys = ["t/a", "t/b/c", "t/c/c", "t/d/rich", "t/e/c"]
    mount.mimicdb.record_all("b", [Entry(key, 1, 1, "e") for key in keys])
    mount.looks_at("t/a", "t/b/c", "t/c/c")
    assert not mount.look.needs("b", "t/e/")
    assert mount.look.needs("b", "t/d/")
    assert mount.mimicdb.entry("b", "t/d/rich").meta == {"mode": "33152"}
    assert mount.look.needs("b", "d00/")  # it is not below


def test_a_directory_that_is_sampled_for_a_walk_is_waited_for(s3):
    mount = Mount(filled(Memory()), s3)
    keys = ["t/a", "t/b/c", "t/c/c", "t/d/c"]
    mount.mimicdb.record_all("b", [Entry(key, 1, 1, "e") for key in keys])
    mount.looks_at("t/a", "t/b/c")
    asked, answer = threading.Event(), threading.Event()
    look = s3.look

    def later(bucket, key):
        asked.set()
        assert answer.wait(20)
        return look(bucket, key)

    s3.look = later
    threads = [threading.Thread(target=mount.looks_at, args=[key]) for key in keys[2:]]
    threads[0].start()
    assert asked.wait(20)
    threads[1].start()
    answer.set()
    for thread in threads:
        thread.join(20)
    assert s3.asked == 4
    assert mount.mimicdb.notes("b")[COUNT] == "4"


def test_a_directory_in_which_s3_refuses_a_head_is_not_counted_as_plain(s3, caplog):
    s3.refused = set(PLAIN)
    mount = Mount(filled(Memory()), s3)
    mount.looks_at(*reversed(PLAIN[:64]))  # no walk
    assert not mount.look.needs("b", "d00/")  # it is shown as it is known
    assert mount.look.needs("b", "d68/")
    assert mount.mimicdb.notes("b") == {}
    s3.refused.clear()
    again = Mount(mount.mimicdb.backend, s3)
    assert again.look.needs("b", "d00/")


def test_rich_as_another_mount_has_noted_it_stays(s3):
    store = filled(Memory())
    one, other = Mount(store, s3), Mount(store, s3)
    one.looks_at(PLAIN[0])
    other.looks_at("r/rich")
    one.looks_at(*PLAIN[1:66])
    assert store.note("b", COUNT) == "rich"
    assert one.look.needs("b", "s/")


class Held(Memory):
    """A store whose first caller who asks for the count gets what was noted then, later."""

    def __init__(self):
        super().__init__()
        self.has_read, self.goes_on = threading.Event(), threading.Event()

    def note(self, bucket, name):
        found = super().note(bucket, name)
        if name == COUNT and not self.has_read.is_set():
            self.has_read.set()
            assert self.goes_on.wait(20)
        return found


@contextmanager
def behind(store, call, *args):
    """Run *call* in a thread that waits with what it has read until the block ends."""
    thread = threading.Thread(target=call, args=args)
    thread.start()
    assert store.has_read.wait(20)
    yield
    store.goes_on.set()
    thread.join(20)
    assert not thread.is_alive()


def test_rich_as_another_thread_has_noted_it_stays(s3):
    store = filled(Held())
    mount = Mount(store, s3)
    with behind(store, mount.looks_at, PLAIN[0]):
        mount.looks_at("r/rich")
    mount.looks_at(*PLAIN[1:66])
    assert store.note("b", COUNT) == "rich"
    assert mount.look.needs("b", "s/")


def test_what_another_mount_has_found_a_moment_ago_is_not_noted_as_plain(s3, monkeypatch):
    store = filled(Memory())
    one, two = Mount(store, s3), Mount(store, s3)
    plain = [Entry(f"m/{n}plain", n, 1, "e") for n in range(1, 6)]
    one.mimicdb.record_all("b", [*plain, Entry("m/rich", 9, 1, "e")])
    one.looks_at("m/rich")
    monkeypatch.setattr(two.mimicdb, "note_of", lambda *_: None)  # as its copy of the store has it
    two.looks_at("m/1plain")
    assert store.notes_of("b", ["m/"]) == ["rich"]
    assert two.look.needs("b", "m/")


@pytest.mark.parametrize("told", [Difference(["m/rich"], [], [], 0), None], ids=["key", "any"])
def test_what_comes_while_a_directory_is_sampled_is_asked_about(s3, monkeypatch, told):
    mount = Mount(filled(Memory()), s3)
    mount.mimicdb.record_all("b", [Entry(f"m/{n}plain", n, n * NS, "e") for n in range(1, 10)])
    look = s3.look

    def late(bucket, key):
        if key == "m/5plain":
            mount.mimicdb.record("b", Entry("m/rich", 1, 80 * NS, "r"))  # a LIST showed it
            mount.look.changed("b", told)
        return look(bucket, key)

    monkeypatch.setattr(s3, "look", late)
    mount.looks_at("m/5plain")
    assert mount.look.needs("b", "m/")
    mount.looks_at("m/rich")
    assert (mount.look.needs("b", "m/"), s3.asked) == (True, 5)


MODE = {"mode": "33152"}


@pytest.fixture
def sampled(s3):
    """A mount to which m/ with nine names is plain, by four questions."""
    store = filled(Memory())
    mount = Mount(store, s3)
    mount.mimicdb.record_all("b", [Entry(f"m/{n}plain", n, n * NS, "e") for n in range(1, 10)])
    mount.looks_at("m/5plain")
    assert (mount.look.needs("b", "m/"), s3.asked) == (False, 4)
    return mount


def test_what_others_of_the_store_write_leaves_a_directory_plain(s3, sampled):
    other = Mount(sampled.mimicdb.backend, s3)
    for news in (Difference(["m/written"], [], [], 0), None):
        other.mimicdb.record("b", Entry("m/written", 1, 9 * NS, "w", meta=MODE))
        sampled.look.changed("b", news)
        sampled.looks_at("m/3plain")
        assert (sampled.look.needs("b", "m/"), s3.asked) == (False, 4)
    other.looks_at("m/3plain")
    assert (other.look.needs("b", "m/"), s3.asked) == (False, 4)


def test_whoever_reads_what_others_have_written_finds_nothing_new(s3, sampled):
    written = Entry("m/written", 1, 9 * NS, "w", meta=MODE)
    sampled.mimicdb.record("b", written)
    sampled.mimicdb.subscribe(sampled.look.changed)
    read = written._replace(storage_class="GLACIER")
    sampled.mimicdb.learned("b", [read], sampled.mimicdb.seq("b"))
    assert sampled.mimicdb.entry("b", "m/written") == read
    assert not sampled.look.needs("b", "m/")


def test_of_the_many_keys_of_a_listing_no_more_are_read_than_are_remembered(sampled, monkeypatch):
    read = []
    entry = sampled.mimicdb.entry
    monkeypatch.setattr(sampled.mimicdb, "entry", lambda *at: read.append(at) or entry(*at))
    new = [f"m/n{n}" for n in range(300)]
    sampled.mimicdb.record_all("b", [Entry(key, 1, NS, "n") for key in new])
    sampled.look.changed("b", Difference(new, [], [], 0))
    assert (len(read), sampled.look.needs("b", "m/")) == (100, True)


def test_of_what_comes_beside_what_others_write_s3_is_asked(s3, sampled):
    sampled.mimicdb.record("b", Entry("m/written", 1, 90 * NS, "w", meta=MODE))
    sampled.look.changed("b", Difference(["m/written"], [], [], 0))
    sampled.mimicdb.record("b", Entry("m/rich", 1, 80 * NS, "r"))  # a LIST showed it
    sampled.look.changed("b", None)
    sampled.looks_at("m/rich")
    assert (sampled.look.needs("b", "m/"), s3.asked) == (True, 5)


@pytest.mark.parametrize(("at_s", "asked"), [(2, False), (60, True)], ids=["others", "this mount"])
def test_a_mode_that_s3_shows_by_chance_makes_a_plain_directory_rich(s3, sampled, at_s, asked):
    sampled.mimicdb.record("b", Entry("m/2plain", 2, at_s * NS, "e", meta=MODE))
    sampled.look.changed("b", Difference([], ["m/2plain"], [], 0, asked))
    sampled.looks_at("m/3plain")
    assert sampled.look.needs("b", "m/")
    assert sampled.mimicdb.note_of("b", "m/") == "rich"


def test_a_mode_that_a_read_shows_makes_a_plain_directory_rich(s3, sampled):
    """Of an object of the same second as the newest, too: many are uploaded in one."""
    sampled.mimicdb.subscribe(sampled.look.changed)
    read = Entry("m/9plain", 9, 9 * NS, "e", meta=MODE)
    sampled.mimicdb.repair("b", read.key, read, sampled.mimicdb.seq("b"))
    sampled.looks_at("m/3plain")
    assert sampled.look.needs("b", "m/")
    assert sampled.mimicdb.note_of("b", "m/") == "rich"


def test_news_behind_all_names_that_are_searched_are_asked_about(s3, sampled, monkeypatch):
    monkeypatch.setattr(firstlook, "_SCANNED", 0)
    sampled.mimicdb.record("b", Entry("m/rich", 1, 80 * NS, "r"))
    sampled.look.changed("b", Difference(["m/rich"], [], [], 0))
    sampled.looks_at("m/rich")
    assert sampled.look.needs("b", "m/")


UNASKED = {f"m/{n}plain" for n in (4, 6, 7, 8)}


def told_again(mount):
    """The keys that *mount* announces as changed from now on."""
    found = []
    mount.mimicdb.subscribe(mount.look.changed)
    mount.mimicdb.subscribe(lambda _, difference: found.extend(difference.changed))
    return found


def test_names_that_were_shown_while_a_directory_was_plain_are_looked_at_again(sampled):
    told = told_again(sampled)
    sampled.mimicdb.record("b", Entry("m/rich", 1, 80 * NS, "r"))  # a LIST showed it
    sampled.look.changed("b", Difference(["m/rich"], [], [], 0))
    sampled.looks_at("m/rich")
    assert set(told) > UNASKED


def test_so_are_they_as_soon_as_a_read_shows_what_the_directory_is(sampled):
    told = told_again(sampled)
    read = Entry("m/9plain", 9, 9 * NS, "e", meta=MODE)
    sampled.mimicdb.repair("b", read.key, read, sampled.mimicdb.seq("b"))
    assert set(told) > UNASKED


def test_nobody_is_told_again_of_names_that_were_not_shown(s3):
    mount = Mount(filled(Memory()), s3)
    told = told_again(mount)
    names = [Entry(f"m/{n}plain", n, n * NS, "e") for n in range(1, 10)]
    mount.mimicdb.record_all("b", [*names, Entry("m/rich", 1, 80 * NS, "r")])
    mount.looks_at("m/rich")
    assert UNASKED.isdisjoint(told)


def test_anything_may_have_been_shown_where_the_mirror_does_not_know_all_names(sampled):
    told = []
    sampled.mimicdb.subscribe(sampled.look.changed)
    sampled.mimicdb.subscribe(lambda _, difference: told.append(difference))
    sampled.mimicdb.backend.unmark("b", "")
    read = Entry("m/9plain", 9, 9 * NS, "e", meta=MODE)
    sampled.mimicdb.repair("b", read.key, read, sampled.mimicdb.seq("b"))
    assert None in told
    sampled.looks_at("m/3plain")
    assert sampled.look.needs("b", "m/")


@pytest.fixture
def of_one_second(s3):
    """A store in which m/ with twenty names of one second is plain, by four questions, and n/ with
    three hundred."""
    store = filled(Memory())
    mount = Mount(store, s3)
    names = [f"m/{n}" for n in range(20)] + [f"n/{n}" for n in range(300)]
    mount.mimicdb.record_all("b", [Entry(name, 1, 1, "e") for name in names])
    mount.looks_at("m/3", "n/3")
    s3.asked = 0
    return store


def test_of_many_objects_of_one_second_nobody_else_asks(s3, of_one_second):
    mount = Mount(of_one_second, s3)
    mount.looks_at("m/7", "n/7")
    assert (mount.look.needs("b", "m/"), mount.look.needs("b", "n/"), s3.asked) == (False, False, 0)


@pytest.mark.parametrize("directory", ["m/", "n/"])
@pytest.mark.parametrize("late", ["late", "7"], ids=["new", "replaced"])
def test_what_came_in_the_second_of_the_newest_is_asked_about_by_who_was_not_told(
    s3, of_one_second, directory, late
):
    key, most = directory + late, 1 if directory == "m/" else 4
    s3.replaced.add(key)
    Mirror(of_one_second).record("b", Entry(key, 1, 1, "new"))  # a LIST showed it
    for _ in range(2):
        mount = Mount(of_one_second, s3)
        mount.looks_at(key)
        assert (mount.look.needs("b", directory), s3.asked) == (False, most)
        assert mount.mimicdb.entry("b", key).meta == {}
    Mirror(of_one_second).record("b", Entry(f"{directory}rich", 1, 1, "e"))
    mount = Mount(of_one_second, s3)
    mount.looks_at(f"{directory}rich")
    assert mount.look.needs("b", directory)


@pytest.mark.parametrize(("directory", "most"), [("m/", 0), ("n/", 4)])
def test_what_went_of_the_second_of_the_newest_makes_nobody_ask_again_but_among_very_many(
    s3, of_one_second, directory, most
):
    Mirror(of_one_second).forget("b", f"{directory}9")
    for _ in range(2):
        Mount(of_one_second, s3).looks_at(f"{directory}8")
        assert s3.asked == most
