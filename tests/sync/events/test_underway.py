"""A message may come while the scope that it is about is being listed, by this process or another
one: what the listing shows must not be older than what was told."""

from __future__ import annotations

import pytest
from support.events import message
from support.mounts import wait_until

from mimicfs import underway
from mimicfs.backends.lease import Lease
from mimicfs.backends.memory import Memory
from mimicfs.backends.pending import IntentStep
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import S3Options
from mimicfs.entry import Entry
from mimicfs.errors import Interrupted, S3Unavailable, StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer, cursor
from mimicfs.sync.events.hearing import Hearing
from mimicfs.sync.events.messages import parse

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


class Slow:
    """S3, which lists two keys at a time. *meanwhile* is called between the answer to the second
    page and its way to whoever asked for it."""

    lists = 1

    def __init__(self, s3, meanwhile):
        self._s3, self.meanwhile = s3, meanwhile
        self.pool, self.directories = s3.pool, s3.directories
        self.at, self.pages = 2, 0

    def list_page(self, *where, **how):
        page = self._s3.list_page(*where, **{**how, "limit": 2})
        self.pages += 1
        if self.pages == self.at:
            self.meanwhile()
        return page


@pytest.fixture(params=["sqlite", "redis"])
def stores(request, tmp_path):
    """The store as the process that lists and the one that listens see it."""
    if request.param == "sqlite":
        return SQLite(tmp_path / "db"), SQLite(tmp_path / "db")
    from mimicfs.backends.redis import RedisBackend

    url = request.getfixturevalue("redis_url")
    return tuple(RedisBackend.from_url(url, tmp_path.as_posix()) for _ in range(2))


class World:
    """A bucket, a program that lists it slowly, and one that is told of it, with one store."""

    def __init__(self, stores, proxy, client, bucket):
        self.lister, self.listener = (Mirror(store) for store in stores)
        self.client, self.bucket = client, bucket
        options = S3Options(endpoint_url=proxy.url, attempts=1)
        self.s3s = [S3(options, mirror) for mirror in (self.lister, self.listener)]
        self.slow = Slow(self.s3s[0], self.meanwhile)
        self.syncer = Syncer(self.lister, self.slow)
        listening = Syncer(self.listener, self.s3s[1])
        self.hearing = Hearing(self.listener, self.s3s[1], listening)
        self.changes = []  # told while the second page is on its way
        self.heard = None

    def meanwhile(self):
        told = [record for change in self.changes for record in parse(change()).told]
        self.heard = self.hearing.hear(told)

    def put(self, key, body=b"22"):
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)
        return message(self.bucket, key)

    def delete(self, key):
        self.client.delete_object(Bucket=self.bucket, Key=key)
        return message(self.bucket, key, "ObjectRemoved:Delete")

    def known(self):
        return {entry.key: entry.size for entry in self.lister.listing(self.bucket)}

    def close(self):
        for each in (*self.s3s, self.lister, self.listener):
            each.close()


@pytest.fixture
def world(stores, proxy, client, bucket):
    world = World(stores, proxy, client, bucket)
    for number in range(1, 7):
        world.put(f"a{number}", b"1")
    yield world
    world.close()


# Pages of two keys: a1 and a2 are merged, a3 and a4 on their way, a5 and a6 not asked for.
MADE, CHANGED, DELETED = ["a1+", "a3+", "a5+", "b"], ["a1", "a3", "a5"], ["a2", "a4", "a6"]


def each_of(change, keys):
    return [lambda key=key: change(key) for key in keys]


@pytest.mark.parametrize("listed_before", [False, True])
@pytest.mark.parametrize("deep", [True, False])
def test_what_is_told_of_while_it_is_listed_is_true_afterwards(world, listed_before, deep):
    if listed_before:
        world.hearing._syncer.sync(world.bucket)
        world.delete("a4")
        world.hearing._syncer.sync(world.bucket)
        world.put("a4")  # only the listing shows it
    world.changes = each_of(world.put, MADE + CHANGED) + each_of(world.delete, DELETED)
    if deep:
        world.syncer.sync(world.bucket)
    else:
        world.syncer.list_directory(world.bucket, "")
    assert world.known() == {"a1": 2, "a1+": 2, "a3": 2, "a3+": 2, "a5": 2, "a5+": 2, "b": 2}
    assert (world.heard.heads, world.heard.lists) == (10, 0)
    wait_until(lambda: world.listener.backend.notes("").keys() <= {"epoch"})


def test_a_directory_that_was_emptied_while_it_is_listed_is_not_shown(world):
    for key in ("a7/x", "a8/x/y", "a9/x", "a9/y"):
        world.put(key)
    world.slow.at = 4  # a7/ and a8/ are on their way, a9/ is not asked for
    world.changes = [
        *each_of(world.delete, ["a7/x", "a8/x/y", "a9/x"]),
        *each_of(world.put, ["a0/x"]),
        lambda: world.delete("a0/y"),
    ]
    world.syncer.list_directory(world.bucket, "")
    shown = [entry.key for entry in world.lister.children(world.bucket, "")]
    assert shown == ["a0/", *(f"a{number}" for number in range(1, 7)), "a9/"]
    assert world.lister.lookup(world.bucket, "", "a8") == (None, None)


def test_what_is_told_of_while_an_interrupted_sync_waits_is_true_afterwards(world, monkeypatch):
    monkeypatch.setattr(cursor, "WORTH_KEYS", 1)
    interrupted = Cancellation()
    world.slow.meanwhile = interrupted.cancel
    with pytest.raises(Interrupted):
        world.syncer.sync(world.bucket, cancellation=interrupted)
    world.changes = each_of(world.put, ["a1+"]) + each_of(world.delete, ["a2"])
    world.meanwhile()
    report = world.syncer.sync(world.bucket)
    assert report.resumed
    assert world.known() == {"a1": 1, "a1+": 2, "a3": 1, "a4": 1, "a5": 1, "a6": 1}


def test_a_listing_of_which_nothing_was_heard_for_long_does_not_count(world, monkeypatch):
    """Its note is taken away by those who look: its process may be dead."""
    now_s, look = [0.0], world.hearing._lookout.listings
    monkeypatch.setattr(underway, "boot_s", lambda: now_s[0])

    def forgotten():
        assert look() == [(world.bucket, "")]
        now_s[0] += 1000
        assert look() == []

    world.slow.meanwhile = forgotten
    for lists in (world.syncer.sync, lambda bucket: world.syncer.list_directory(bucket, "")):
        world.slow.pages = 0
        with pytest.raises(StoreUnavailable, match="overlooked"):
            lists(world.bucket)
    assert world.lister.scopes(world.bucket) == []


def test_a_note_that_the_store_has_lost_is_not_written_anew(world, monkeypatch):
    """Redis was flushed, or a replica that lags behind took over: what was merged may be lost."""
    monkeypatch.setattr(underway, "_RENEWED_S", 0.0)
    monkeypatch.setattr(cursor, "WORTH_KEYS", 1)
    monkeypatch.setattr(cursor, "_EVERY_S", 0.0)

    def lost():
        for name in world.listener.backend.notes(""):
            if name.startswith("listing"):
                world.listener.backend.set_note("", name, None)

    world.slow.meanwhile = lost
    for lists in (world.syncer.sync, lambda bucket: world.syncer.list_directory(bucket, "")):
        world.slow.pages = 0
        with pytest.raises(StoreUnavailable, match="overlooked"):
            lists(world.bucket)
    assert world.lister.scopes(world.bucket) == []
    assert not world.syncer.sync(world.bucket).resumed  # nor is gone on from


def test_a_listing_is_renewed_while_pages_come_however_long_it_takes(world, monkeypatch):
    now_s, look = [0.0], world.hearing._lookout.listings
    monkeypatch.setattr(underway, "boot_s", lambda: now_s[0])
    answer = world.slow.list_page

    def later(*where, **how):
        now_s[0] += 600
        assert look() == [(world.bucket, "")]
        return answer(*where, **how)

    world.slow.at = 0
    monkeypatch.setattr(world.slow, "list_page", later)
    world.syncer.list_directory(world.bucket, "")
    world.syncer.sync(world.bucket)
    assert [it.deep for it in world.lister.scopes(world.bucket)] == [True]


def test_a_late_answer_to_our_own_write_does_not_bring_back_what_others_deleted(world):
    """S3 has done our PUT and then their deletion, which is told before our PUT is answered."""
    world.syncer.sync(world.bucket)
    world.lister.backend.begin(world.bucket, ["a9"], "session:1", 60_000)
    world.changes = each_of(world.delete, ["a9"])
    world.meanwhile()
    assert world.heard.heads == 1
    answer = Entry("a9", 1, 0, "etag")
    step = IntentStep(token="session:1")
    left = world.lister.backend.apply(world.bucket, [answer], (), None, step)
    assert (left, world.lister.entry(world.bucket, "a9")) == ({"a9"}, None)  # its owner asks S3


def test_what_overtakes_the_answer_about_a_message_is_asked_about_again(world, monkeypatch):
    """A page that is older than the change is merged while S3 is asked."""
    world.syncer.sync(world.bucket)
    world.put("a1")
    old, ask = world.listener.entry(world.bucket, "a1"), world.hearing._s3.call
    overtakes = [True, True]

    def overtaken(*asked):
        answer = ask(*asked)
        if overtakes:
            overtakes.pop()
            world.lister.record(world.bucket, old)
        return answer

    monkeypatch.setattr(world.hearing._s3, "call", overtaken)
    world.changes = [lambda: message(world.bucket, "a1")]
    world.meanwhile()
    assert (overtakes, world.known()["a1"]) == ([], 2)
    overtakes += [True] * 5
    world.changes = each_of(world.put, ["a1"])
    with pytest.raises(S3Unavailable, match="changed faster"):
        world.meanwhile()


def test_a_copy_that_lags_behind_the_store_takes_no_change_for_known(proxy, client, bucket):
    """Another mount makes a key, somebody else deletes it, and both are news to the copy."""
    store, lease = Shared(), Lease()
    lease.renew()
    mirror, other = Mirror(Replica(store, SQLite(), lease)), Mirror(store)
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=1), mirror)
    syncer = Syncer(mirror, s3)
    syncer.sync(bucket)
    assert mirror.children(bucket, "") == []  # copied now
    other.record(bucket, Entry("a", 1, 0, "etag"))
    lease.renew()
    assert mirror.entry(bucket, "a") is None
    told = parse(message(bucket, "a", "ObjectRemoved:Delete")).told
    assert Hearing(mirror, s3, syncer).hear(told).heads == 1
    assert other.entry(bucket, "a") is None
    s3.close()
    mirror.close()


class Shared(Memory):
    """A store that others use, too."""

    quick = False
