"""What reads teach is told to the mirror in groups."""

from contextlib import closing

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.behind import Behind

KEYS = [f"{number}" for number in range(10)]


def test_a_group_is_one_change_of_the_store_and_close_tells_the_rest():
    backend = Memory()
    mirror = Mirror(backend)
    mirror.record_all("b", [Entry(key, 1, 1, "e") for key in KEYS])
    applied = []
    apply = backend.apply
    backend.apply = lambda bucket, puts=(), *rest: (
        applied.append([entry.key for entry in puts]),
        apply(bucket, puts, *rest),
    )[1]
    with closing(Behind(mirror)) as behind:
        for key in KEYS:
            behind.note("b", Entry(key, 1, 1, "e", meta={}), mirror.seq("b"))
    assert sorted(key for group in applied for key in group) == KEYS
    assert len(applied) < len(KEYS) // 2
    assert [entry.meta for entry in mirror.listing("b")] == [{}] * 10


def test_what_was_changed_since_s3_was_asked_stays():
    mirror = Mirror(Memory())
    mirror.record_all("b", [Entry("changed", 1, 1, "old"), Entry("gone", 1, 1, "old")])
    since = mirror.seq("b")
    with closing(Behind(mirror)) as behind:
        behind.note("b", Entry("changed", 1, 1, "old", meta={}), since)
        behind.note("b", Entry("gone", 1, 1, "old", meta={}), since)
        mirror.record("b", Entry("changed", 2, 2, "new"))
        mirror.forget("b", "gone")
    assert [(entry.key, entry.etag) for entry in mirror.listing("b")] == [("changed", "new")]
