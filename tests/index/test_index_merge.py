"""From a mirror to an index and into another: as of one moment, and what is newer stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicfs.backends.memory import Memory
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import KEPT, LISTED, Entry, Scope
from mimicfs.errors import ConfigError, MalformedIndex, NotSynced, StoreUnavailable, Unlisted
from mimicfs.index.exporting import export, header, wanted
from mimicfs.index.importing import import_buckets, import_part
from mimicfs.index.records import Header, IndexPart
from mimicfs.mimicdb import Mirror
from mimicfs.sync.freshness import freshness, note_told

HOUR = 3600 * 1_000_000_000
NOW = 1000 * HOUR


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.parts = []

    def part(self, part):
        self.parts.append((part, []))

    def write(self, entries):
        self.parts[-1][1].extend(entries)

    def finish(self):
        pass


def exported(mimicdb, prefix=""):
    sink = Kept()
    count = export(mimicdb, wanted(mimicdb, "b", prefix), sink, None)
    ((part, entries),) = sink.parts
    assert count == len(entries)
    return part, entries


def imported(mimicdb, entries, synced_ns=NOW, prefix="", batch=2, **how):
    entries = sorted(entries)
    batches = [entries[n : n + batch] for n in range(0, len(entries), batch)]
    return import_part(mimicdb, IndexPart("b", prefix, synced_ns), batches, **how)


def known(mimicdb, prefix=""):
    return mimicdb.backend.scan("b", prefix, "", 10_000)


def keys(mimicdb):
    return [entry.key for entry in known(mimicdb)]


@pytest.fixture
def synced(mimicdb):
    """A mirror that was synced an hour before NOW, of objects that were old then."""
    mimicdb.backend.apply("b", [Entry(key, 1, HOUR, key) for key in ("a", "d/b", "d/c", "e/f")])
    mimicdb.complete("b", Scope("", True, NOW - HOUR))
    return mimicdb


# Export


def test_an_index_has_what_was_synced_and_when(synced):
    synced.backend.apply("b", [Entry("k/", kind=KEPT), Entry("d/", kind=LISTED)])
    synced.add_bucket("b", 7)
    part, entries = exported(synced)
    assert part == IndexPart("b", "", NOW - HOUR, 7, 0, 4, 4)
    assert [entry.key for entry in entries] == ["a", "d/b", "d/c", "e/f", "k/"]
    part, entries = exported(synced, "d/")
    assert (part.prefix, part.objects) == ("d/", 2)
    assert [entry.key for entry in entries] == ["d/b", "d/c"]


def test_what_is_not_known_whole_is_not_exported(mimicdb):
    mimicdb.backend.apply("b", [Entry("d/a"), Entry("e/b")])
    mimicdb.complete("b", Scope("d/", True, 1))
    mimicdb.complete("b", Scope("", False, 2))
    with pytest.raises(NotSynced, match="mimicfs sync 's3://b'"):
        exported(mimicdb)
    assert exported(mimicdb, "d/x/")[0].synced_ns == 1
    with pytest.raises(NotSynced):
        wanted(mimicdb, "none", "")


def test_a_bucket_that_is_dropped_meanwhile_is_not_exported_as_empty(synced):
    what = wanted(synced, "b", "")
    synced.drop_bucket("b")
    with pytest.raises(NotSynced):
        export(synced, what, Kept(), None)


class Moving(Memory):
    """Changes after each page that is read, as long as there are changes to make."""

    moves = ()

    def scan(self, bucket, prefix="", after="", limit=1000):
        page = super().scan(bucket, prefix, after, limit)
        coming, self.moves = self.moves[:1], self.moves[1:]
        for puts, deletes in coming:
            self.apply(bucket, [Entry(key, 9) for key in puts], deletes)
        return page


def test_an_index_is_as_of_one_moment_while_the_mirror_changes():
    mimicdb = Mirror(Moving())
    names = [f"{n:05}" for n in range(3000)]
    mimicdb.backend.apply("b", [Entry(name, 1) for name in names])
    mimicdb.complete("b", Scope("", True, 1))
    mimicdb.backend.moves = [
        (["00000x"], ["02999"]),  # moved from a page to come to one that is gone
        ([f"00001{n:03}" for n in range(200)], ["02998"]),  # so many that the log says a range
        (["02998"], [f"00001{n:03}" for n in range(150)]),
    ]
    _, entries = exported(mimicdb)
    assert entries == mimicdb.backend.scan("b", "", "", 10_000)
    assert len(entries) == 3000 + 1 - 1 + 50


def test_what_changes_for_ever_is_not_exported():
    mimicdb = Mirror(Moving())
    mimicdb.backend.apply("b", [Entry("a", 1)])
    mimicdb.complete("b", Scope("", True, 1))
    mimicdb.backend.moves = [([f"{n:04}{m:03}" for m in range(101)], []) for n in range(200)]
    with pytest.raises(StoreUnavailable, match="changes faster than mimicfs can read it"):
        exported(mimicdb)


# Import into a store that does not know the bucket


@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"])
def test_an_empty_store_knows_then_what_the_first_one_did(store, synced, tmp_path, request):
    meta = {"uid": "7"}
    synced.backend.apply("b", [Entry("a", 2, 2, "a", "GLACIER", meta, head="[]")])
    synced.backend.apply("b", [Entry("k/", kind=KEPT)])
    part, entries = exported(synced)
    if store == "redis":
        backend = RedisBackend.from_url(request.getfixturevalue("redis_url"), f"import-{tmp_path}")
    else:
        backend = Memory() if store == "memory" else SQLite(str(tmp_path / "other.db"))
    other = Mirror(backend)
    report = import_part(other, part, [entries[:3], entries[3:]])
    assert report[3:] == (5, 5, 0, 0, 0, 0)
    assert [e for e in known(other) if e.kind != LISTED] == known(synced)
    assert other.scope("b", "") == Scope("", True, NOW - HOUR, 0, 5, 0, 0, 5)
    assert other.lookup("b", "d/", "missing") == (None, None)
    assert other.entry("b", "a").meta == meta
    again, found = exported(other)
    assert (again.synced_ns, again.objects, found) == (NOW - HOUR, 4, entries)
    other.close()


def test_a_prefix_is_known_by_itself(mimicdb):
    imported(mimicdb, [Entry("d/a", 1)], prefix="d/")
    assert mimicdb.children("b", "d/") == [Entry("d/a", 1)]
    with pytest.raises(Unlisted):
        mimicdb.children("b", "")


def test_a_prefix_within_a_name_makes_whole_directories_known(mimicdb):
    entries = [Entry(key, 1) for key in ("d/log-1/a", "d/log-2/b/c", "d/log-x")]
    imported(mimicdb, entries, prefix="d/log-")
    assert mimicdb.total("b", "d/log-2/") == (1, 1)
    with pytest.raises(Unlisted):
        mimicdb.children("b", "d/")


def test_the_list_of_buckets_is_taken_where_there_is_none(mimicdb):
    one = Header(1, buckets_ns=5, buckets=(("a", 1), ("b", 2)))
    import_buckets(mimicdb, one)
    assert [bucket[:2] for bucket in mimicdb.buckets()] == [("a", 1), ("b", 2)]
    assert mimicdb.scope("", "").listed_ns == 5
    import_buckets(mimicdb, Header(1, buckets_ns=9, buckets=(("c", 1),)))
    assert len(mimicdb.buckets()) == 2
    assert header(mimicdb, 1, "", 0, everything=True) == one._replace(parts=0)


def test_what_is_read_again_changes_nothing(mimicdb):
    entries = [Entry(f"{n:04}", n, n * HOUR, str(n)) for n in range(2500)]
    assert imported(mimicdb, entries, batch=700)[3:] == (2500, 2500, 0, 0, 0, 0)
    assert imported(mimicdb, entries, batch=900)[3:] == (2500, 0, 0, 0, 2500, 0)


# Import over what is known


def test_what_others_changed_since_the_last_sync_is_taken(synced):
    news = []
    synced.subscribe(lambda bucket, difference: news.append(difference))
    later = NOW - HOUR // 2
    entries = [Entry("a", 1, HOUR, "a"), Entry("d/b", 2, later, "new"), Entry("e/new", 1, later)]
    report = imported(synced, entries)
    assert (report.added, report.changed, report.deleted, report.left) == (1, 1, 2, 0)
    assert keys(synced) == ["a", "d/b", "e/new"]
    assert synced.scope("b", "").listed_ns == NOW
    assert [key for each in news for key in each.added] == ["e/new"]


def test_what_was_written_through_the_mirror_later_stays(synced):
    synced.record("b", Entry("a", 9, NOW + 1, "mine"))
    synced.record("b", Entry("d/mine", 9, NOW + 1, "mine"))
    synced.record("b", Entry("d/parts", 9, NOW - HOUR, "mine-2"))  # as of when the upload began
    synced.keep("b", "kept/")
    before = known(synced)
    report = imported(synced, [Entry(key, 1, HOUR, key) for key in ("a", "d/b", "d/c", "e/f")])
    assert known(synced) == before
    assert (report.unchanged, report.deleted, report.left) == (6, 0, 3)


def test_what_was_deleted_through_the_mirror_later_stays_deleted(synced):
    entries = known(synced)
    synced.forget("b", "d/b")
    uploading = Entry("g", 1, HOUR, "x-2")  # begun before the listing: it need not have been there
    report = imported(synced, [*entries, uploading])
    assert keys(synced) == ["a", "d/c", "e/f", "g"]
    assert report.left == 1


def test_a_directory_that_was_listed_later_stays(synced):
    synced.backend.apply("b", [Entry("d/late", 1, HOUR, "x")], ["d/b"])
    synced.complete("b", Scope("d/", False, NOW + HOUR))
    imported(synced, [Entry(key, 1, HOUR, key) for key in ("a", "d/b", "d/c")])
    assert keys(synced) == ["a", "d/c", "d/late"]
    assert synced.cover("b", "d/").listed_ns == NOW + HOUR
    assert synced.cover("b", "e/").listed_ns == NOW


def test_what_a_later_listing_of_the_whole_showed_stays(synced):
    """The newer listing is of the top only; all is known as of the import's time then."""
    synced.backend.apply("b", [Entry("m/", 0, HOUR, "m"), Entry("new/", kind=LISTED)], ["a"])
    synced.complete("b", Scope("", False, NOW + HOUR))
    marker = Entry("d/", 0, HOUR, "marker")  # which a listing of the top does not show
    imported(synced, [Entry("a", 1, HOUR, "a"), marker, Entry("d/b", 1, HOUR, "d/b")])
    assert keys(synced) == ["d/", "d/b", "new/"]
    assert synced.scope("b", "") == Scope("", True, NOW, 0, 1, 0, 3, 3)


def test_what_was_learned_of_the_same_version_stays(synced):
    head = '[{},{},{"LastModified":3600.0}]'
    synced.record("b", Entry("a", 1, HOUR, "a", "", {"uid": "7"}, head=head))
    imported(synced, [Entry("a", 1, HOUR + 5, "a")])
    assert synced.entry("b", "a") == Entry("a", 1, HOUR, "a", "", {"uid": "7"}, head=head)
    imported(synced, [Entry("a", 1, HOUR + 5, "a", "GLACIER")])
    assert synced.entry("b", "a") == Entry("a", 1, HOUR, "a", "GLACIER", {"uid": "7"})


def test_an_older_index_is_refused_unless_forced(synced):
    with pytest.raises(ConfigError, match=r"s3://b/: .* is older .*--force"):
        imported(synced, [Entry("a", 5, HOUR, "old")], NOW - 2 * HOUR)
    with pytest.raises(ConfigError, match="--force"):
        imported(synced, [], NOW - 2 * HOUR, prefix="d/")
    assert len(known(synced)) == 4
    synced.record("b", Entry("mine", 1, NOW))
    imported(synced, [Entry("a", 5, HOUR, "old")], NOW - 2 * HOUR, force=True)
    assert known(synced) == [Entry("a", 5, HOUR, "old")]
    assert synced.scope("b", "").listed_ns == NOW - 2 * HOUR


def test_a_report_may_lack_what_was_written_shortly_before(synced):
    synced.record("b", Entry("g", 1, NOW - HOUR, "mine"))
    imported(synced, [Entry("a", 1, HOUR, "a")], uncertain_ns=2 * HOUR)
    assert keys(synced) == ["a", "g"]


CHANGES = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("pd"), st.booleans()), max_size=8
)


@pytest.mark.slow
@settings(deadline=None)
@given(CHANGES, CHANGES, CHANGES)
def test_an_import_hides_nothing_that_is_there(before, between, after):
    """Others and we change S3, an hour each: before we sync, until somebody else's index, and
    after that. An object that is there then is shown, and as it is; one that is not is shown only
    if it was written after our sync, was in the index, and was deleted since."""
    mimicdb = Mirror(Memory())
    s3, written, now = {}, {}, 0

    def happen(changes, others=True):
        nonlocal now
        for key, what, ours in changes:
            now += HOUR
            known = ours and (what == "p" or mimicdb.entry("b", key) is not None)
            if what == "p" and (ours or others):
                s3[key] = written[key] = Entry(key, 1, now, str(now))
            elif what == "d" and (known or (not ours and others)):
                s3.pop(key, None)
            if known:
                mimicdb.repair("b", key, s3.get(key))
        now += HOUR

    happen(before)
    synced_ns, listed = now, sorted(s3.values())
    since = mimicdb.seq("b")
    mimicdb.replace("b", "", listed, after="", upto=None, since=since, deep=True)
    mimicdb.complete("b", Scope("", True, synced_ns))
    happen(between)
    index_ns, index = now, list(s3.values())
    happen(after, others=False)
    imported(mimicdb, index, index_ns)
    shown = {entry.key: entry for entry in known(mimicdb)}
    assert {key: shown.get(key) for key in s3} == s3
    assert all(shown[key] in index and shown[key].mtime_ns > synced_ns for key in shown.keys() - s3)


def test_an_import_that_ends_early_deletes_nothing_behind_and_marks_nothing(synced):
    def batches():
        yield [Entry("d/a", 1, HOUR)]
        raise MalformedIndex("x:7: ends early")

    with pytest.raises(MalformedIndex, match=r"x:7: ends early .*s3://b/ is not marked as synced"):
        import_part(synced, IndexPart("b", "", NOW), batches())
    assert keys(synced)[-3:] == ["d/b", "d/c", "e/f"]
    assert synced.scope("b", "").listed_ns == NOW - HOUR
    with pytest.raises(MalformedIndex):
        import_part(synced, IndexPart("b", "", 1), batches(), force=True)
    assert synced.scope("b", "") is None


def test_what_another_process_does_meanwhile_stays(tmp_path):
    mimicdb, other = (Mirror(SQLite(str(tmp_path / "s.db"))) for _ in range(2))
    entries = [Entry(f"{n:05}", 1, HOUR) for n in range(5000)]

    def batches():
        for n in range(0, 5000, 1000):
            yield entries[n : n + 1000]
            if n == 0:
                other.record("b", Entry("00001", 7, HOUR))
                other.record("b", Entry("04000", 7, HOUR))
                other.record("b", Entry("04000x", 7, HOUR))
                # The log says "03000x to 04001": what is missing there may never have been known.
                other.forget_all("b", ["04001", *(f"03{m:03}x" for m in range(200))])
                other.forget("b", "00002")
                other.forget("b", "9")

    import_part(mimicdb, IndexPart("b", "", NOW), batches())
    found = {entry.key: entry.size for entry in known(mimicdb)}
    assert [found.get(key) for key in ("00001", "04000", "04000x", "04001")] == [7, 7, 7, 1]
    assert len(found) == 5000
    assert "00002" not in found
    mimicdb.close()
    other.close()


def test_what_was_told_before_an_import_does_not_count_for_it(mimicdb):
    """It was about nothing that was known then."""
    note_told(mimicdb, "b", "", NOW * 2)
    imported(mimicdb, [Entry("d/a", 1)])
    assert freshness(mimicdb, "b", "d/") == (NOW, "listed")
