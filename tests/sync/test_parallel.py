"""A listing by ranges at once finds what one page after the other finds, and takes hardly more
requests."""

import random
import threading
from urllib.request import urlopen

import pytest
from support.big import Big
from support.proxy import Fail, Replace

from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import LISTED
from mimicfs.errors import Interrupted, MalformedListing, Throttled, TooManyDeletions
from mimicfs.posix import Cancellation
from mimicfs.sync import Wish, refuse
from mimicfs.sync.freshness import gap_ns
from mimicfs.sync.sweep import Sweep

pytestmark = pytest.mark.slow

DICE = random.Random(6)
WORDS = ["archive", "data", "été", "images", "logs", "\U0001f4be", "tmp", "~end", "a b", "x"]


def is_list(request):
    return request.kind == "LIST"


def flat(count):
    return [f"file-{n:07}.dat" for n in range(count)]


SHAPES = {
    "flat": flat(21_500),
    "deep": [f"all/of/it/{a}/{b}/{c:03}" for a in range(5) for b in range(9) for c in range(400)],
    "hex": [f"{DICE.getrandbits(64):016x}" for _ in range(16_000)],
    "words": [
        "/".join(DICE.choices(WORDS, k=3)) + f"/{DICE.randrange(99)}.txt" for _ in range(16_000)
    ],
    "one long directory among small ones": [
        *(f"{word}/x" for word in WORDS),
        *(f"logs/{n:06}" for n in range(15_000)),
        *(f"logs/{n:06}/" for n in range(0, 15_000, 100)),
    ],
    "not ascii": ["é" + chr(0x4E00 + n) for n in range(9_000)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_first_sync_finds_all_and_the_next_asks_for_whole_pages(big, shape):
    keys = sorted({*SHAPES[shape]})
    pages = -(-len(keys) // 1000)
    big.fill(keys)
    report = big.syncer.sync(big.bucket)
    assert (report.keys, report.added, report.deleted) == (len(keys), len(keys), 0)
    assert [key for key, *_ in big.known()] == keys
    # One in twenty may be a guess, and each range may end within a page.
    assert big.proxy.counted()["LIST"] <= 18 + pages * 1.1
    report = big.syncer.sync(big.bucket)
    assert report[6:10] == (0, 0, 0, len(keys))
    assert big.proxy.counted()["LIST"] == pages


@pytest.mark.parametrize(("every", "wish"), [(40, Wish()), (6, Wish(refuse))])
def test_what_changed_is_found_exactly(big, every, wish):
    big.fill(SHAPES["words"])
    big.syncer.sync(big.bucket)
    before = {key: rest for key, *rest in big.known()}
    news = []
    big.mimicdb.subscribe(lambda _, difference: news.append(difference))
    big.lists.control("change", bucket=big.bucket, every=every)
    report = big.syncer.sync(big.bucket, wish=wish)
    after = {key: rest for key, *rest in big.known()}
    assert big.known() == big.true()
    told = [sorted(key for each in news for key in each[n]) for n in range(3)]
    assert told == [
        sorted(after.keys() - before.keys()),
        sorted(key for key in after.keys() & before.keys() if after[key] != before[key]),
        sorted(before.keys() - after.keys()),
    ]
    assert [len(keys) for keys in told] == [report.added, report.changed, report.deleted]
    assert all(told)


def test_a_directory_in_parallel_is_its_children(big):
    keys = [*flat(14_000), *(f"dir-{n:04}/{m}" for n in range(900) for m in range(3))]
    big.fill(keys)
    big.syncer.list_directory(big.bucket, "")
    children = big.mimicdb.children(big.bucket, "", limit=1 << 20)
    assert [entry.key for entry in children] == sorted(
        [
            *flat(14_000),
            *(f"dir-{n:04}/" for n in range(900)),
        ]
    )
    assert [entry.kind for entry in children[:900]] == [LISTED] * 900
    assert big.proxy.counted()["LIST"] <= 22


def test_a_scope_is_complete_when_all_ranges_are(big):
    big.fill(flat(12_000))
    big.syncer.sync(big.bucket)
    scope = big.mimicdb.scope(big.bucket, "")
    late = Fail(lambda request: "file-0007999.dat" in str(request.query), 403, "AccessDenied")
    with big.proxy.rule(late), pytest.raises(Exception, match="AccessDenied"):
        big.syncer.sync(big.bucket)
    assert big.mimicdb.scope(big.bucket, "") == scope


def test_it_goes_on_with_fewer_requests_when_s3_asks_for_patience(big):
    big.fill(flat(30_000))
    big.syncer.sync(big.bucket)

    class Some(Fail):
        def matches(self, request):
            return is_list(request) and self.seen < 6

        def __init__(self):
            super().__init__(self.matches, 503, "SlowDown")
            del self.matches

    with big.proxy.rule(Some()):
        assert big.syncer.sync(big.bucket).unchanged == 30_000
    with big.proxy.rule(Fail(is_list, 503, "SlowDown")), pytest.raises(Throttled):
        big.syncer.sync(big.bucket)


def test_a_server_without_version_2_is_asked_in_version_1(big):
    big.fill(SHAPES["deep"])
    big.lists.control("version", list=1)
    try:
        assert big.syncer.sync(big.bucket).added == 18_000
        big.syncer.list_directory(big.bucket, "all/of/it/3/")
        assert big.known() == big.true()
    finally:
        big.lists.control("version", list=2)


def test_a_server_that_refuses_version_2_is_asked_in_version_1(big):
    big.fill(flat(2500))
    refused = Fail(lambda request: "list-type" in request.query, 501, "NotImplemented")
    with big.proxy.rule(refused):
        assert big.syncer.sync(big.bucket).added == 2500
    assert refused.seen == 2  # such a refusal counts when it comes again


# Pages that are not what was asked

AFTER = "file-0003999.dat"  # of the second range of a bucket that is known


def swapped(page):
    start, *items = page.split("<Contents>")
    return "<Contents>".join([start, items[1], items[0], *items[2:]])


SPOILED = {
    "another bucket": lambda page: page.replace("<Name>big", "<Name>other"),
    "another prefix": lambda page: page.replace("<Prefix></Prefix>", "<Prefix>x/</Prefix>"),
    "out of order": swapped,
    "keys from before the range": lambda page: page.replace("file-0004500", "file-0000000"),
    "a key twice": lambda page: page.replace("file-0004500", "file-0004501"),
    "cut off": lambda page: page[: len(page) // 2],
    "cut off between two keys": lambda page: page[: page.rindex("<Contents>")],
    "truncated, but without a token to continue": lambda page: page.replace(
        "NextContinuationToken", "Next"
    ),
    "no XML": lambda page: "<html>Welcome</html>",
    "nothing": lambda page: "",
}


def test_a_page_that_is_not_what_was_asked_deletes_nothing_and_completes_nothing(big):
    big.fill(flat(16_000))
    big.syncer.sync(big.bucket)
    scope, before = big.mimicdb.scope(big.bucket, ""), big.known()
    url = f"{big.lists.endpoint}/{big.bucket}?list-type=2&encoding-type=url&start-after={AFTER}"
    with urlopen(url) as answer:
        page = answer.read().decode()
    for what, spoil in SPOILED.items():
        assert spoil(page) != page, what
        rule = Replace(lambda request: AFTER in str(request.query), spoil(page).encode())
        with big.proxy.rule(rule), pytest.raises(MalformedListing):
            big.syncer.sync(big.bucket)
        assert rule.seen == 1, what
        assert big.mimicdb.scope(big.bucket, "") == scope, what
        assert big.known() == before, what
    # The other ranges were listed to their ends: only that one is left.
    big.proxy.counted()
    report = big.syncer.sync(big.bucket)
    assert (report.resumed, report.keys) == (True, 4000)
    assert big.proxy.counted() == {"LIST": 4}


def test_a_server_that_cannot_begin_anywhere_is_listed_from_page_to_page(big):
    big.fill(flat(9_000))
    with urlopen(f"{big.lists.endpoint}/{big.bucket}?list-type=2&encoding-type=url") as answer:
        first = answer.read()
    with big.proxy.rule(Replace(lambda request: "start-after" in request.query, first)):
        assert big.syncer.sync(big.bucket).added == 9_000


# Changes by us meanwhile


def test_writers_during_a_sync_lose_nothing(big):
    big.fill(flat(12_000))
    big.lists.control("change", bucket=big.bucket, every=50)
    ended = threading.Event()

    def write(part):
        dice = random.Random(part)
        while not ended.is_set():
            key = f"file-{dice.randrange(part, 12_000, 4):07}.dat"
            if dice.random() < 0.5:
                big.s3.put(big.bucket, key, b"ours", 4)
            else:
                big.s3.delete(big.bucket, key)

    writers = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            big.syncer.sync(big.bucket)
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert big.known() == big.true()


# The guard


@pytest.fixture
def emptied(big):
    """A bucket with 400 of the 3,000 keys that are known, and 10 new ones."""
    big.fill(flat(3_000))
    big.syncer.sync(big.bucket)
    big.lists.control("clear", bucket=big.bucket)
    big.fill([*flat(400), *(f"new-{n}" for n in range(10))])
    return big


def test_most_of_a_scope_is_not_deleted_unless_somebody_says_so(emptied):
    asked = []
    with pytest.raises(TooManyDeletions, match=r"2,600 of the 3,000 .* mimicfs sync --yes s3://"):
        emptied.syncer.sync(emptied.bucket, wish=Wish(lambda it: asked.append(it) or False))
    assert asked == [(emptied.bucket, "", 2_600, 3_000)]
    assert len(emptied.known()) == 3_010
    assert "nothing was deleted" in emptied.syncer.status(emptied.bucket, "").error
    report = emptied.syncer.sync(emptied.bucket, wish=Wish(lambda _: True))
    assert (report.deleted, report.unchanged) == (2_600, 410)
    assert emptied.known() == emptied.true()


def test_without_a_guard_it_is_deleted(emptied):
    assert emptied.syncer.sync(emptied.bucket).deleted == 2_600


def test_less_than_half_is_deleted_and_a_small_scope_is_not_guarded(big):
    big.fill([*flat(3_000), *(f"small/{n:04}" for n in range(1_000))])
    big.syncer.sync(big.bucket)
    big.lists.control("clear", bucket=big.bucket, prefix="file-0001")
    big.lists.control("clear", bucket=big.bucket, prefix="small/")
    assert big.syncer.sync(big.bucket, "small/", wish=Wish(refuse)).deleted == 1_000
    assert big.syncer.sync(big.bucket, wish=Wish(refuse)).deleted == 1_000
    assert big.known() == big.true()


def test_what_is_written_while_a_deletion_is_held_back_stays(emptied):
    def confirm(_):
        emptied.s3.put(emptied.bucket, "file-0000999.dat", b"again", 5)
        return True

    assert emptied.syncer.sync(emptied.bucket, wish=Wish(confirm)).deleted == 2_599
    assert emptied.known() == emptied.true()


# Interruptions


def interrupted(big, keys, wish=Wish()):  # noqa: B008  a value
    cancellation = Cancellation()

    def stop(progress):
        if progress.keys >= keys:
            cancellation.cancel()

    with pytest.raises(Interrupted):
        big.syncer.sync(big.bucket, "", stop, cancellation, wish)


def test_a_sync_goes_on_where_it_was_interrupted(big):
    big.fill(flat(30_000))
    interrupted(big, 15_000)
    assert len(big.known()) >= 15_000
    assert big.mimicdb.scope(big.bucket, "") is None
    big.proxy.counted()
    report = big.syncer.sync(big.bucket)
    assert report.resumed
    assert report.keys <= 15_000
    assert big.proxy.counted()["LIST"] <= 24
    assert big.known() == big.true()
    assert not big.syncer.sync(big.bucket).resumed


def test_a_sync_that_began_before_a_gap_does_not_close_it_when_it_is_continued(big, caplog):
    """What the sweep continues had merged some pages before the gap."""
    big.fill(flat(30_000))
    big.syncer.sync(big.bucket)
    interrupted(big, 15_000)
    sweep = Sweep(big.mimicdb, big.syncer, lambda: [big.bucket], 86_400)
    sweep.suspect(big.bucket, "the queue was deleted")
    while sweep.step():
        pass
    assert big.proxy.counted()["LIST"] >= 90
    assert big.mimicdb.scope(big.bucket, "").listed_ns > gap_ns(big.mimicdb, big.bucket)


def test_a_sync_begins_again_if_it_is_asked_to_or_little_was_done(big):
    big.fill(flat(30_000))
    interrupted(big, 15_000)
    report = big.syncer.sync(big.bucket, wish=Wish(fresh=True))
    assert (report.resumed, report.keys) == (False, 30_000)
    interrupted(big, 3_000)
    assert not big.syncer.sync(big.bucket).resumed


def test_deletions_are_neither_lost_nor_made_by_an_interruption(big):
    big.fill(flat(30_000))
    big.syncer.sync(big.bucket)
    big.lists.control("change", bucket=big.bucket, every=20)
    interrupted(big, 14_000, Wish(refuse))
    report = big.syncer.sync(big.bucket, wish=Wish(refuse))
    assert report.resumed
    assert big.known() == big.true()


def test_progress_tells_how_far_it_is(big):
    big.fill(flat(12_000))
    big.syncer.sync(big.bucket)
    seen = []
    big.syncer.sync(big.bucket, "", lambda it: seen.append((it, big.syncer.progress())))
    last, running = seen[-1]
    assert running == [last]
    assert (last.keys, last.pages, last.expected, last.unchanged) == (12_000, 12, 12_000, 12_000)
    assert (last.left_s, last.held, last.resumed) == (0, 0, False)
    assert last.keys_per_s > 0
    assert {"bucket", "prefix", "keys", "keys_per_s", "left_s", "ranges"} <= last.as_dict().keys()
    assert max(so_far.ranges for so_far, _ in seen) > 1
    assert big.syncer.progress() == []


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_it_is_the_same_over_other_stores(lists, tmp_path, kind, request):
    if kind == "sqlite":
        backend = SQLite(str(tmp_path / "store.db"))
    else:
        backend = RedisBackend.from_url(request.getfixturevalue("redis_url"), "parallel")
    big = Big(lists, backend)
    try:
        big.fill(SHAPES["words"])
        big.syncer.sync(big.bucket)
        big.lists.control("change", bucket=big.bucket, every=30)
        interrupted(big, 10_500, Wish(refuse))
        assert big.syncer.sync(big.bucket, wish=Wish(refuse)).resumed
        assert big.known() == big.true()
        assert big.syncer.sync(big.bucket)[6:9] == (0, 0, 0)
    finally:
        big.close()
