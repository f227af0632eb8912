"""Every moment of a bucket's life against a model, by AWS' rules of versions; and ways back.

The model is a list of what was written and is still kept, in that order. The server is a stand-in
in this process (support/versioned.py): moto forgets versions while they are suspended. Many things
happen within one second, which is all that S3 says of times.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from hashlib import md5
from itertools import cycle
from typing import Any, NamedTuple

import pytest
from botocore.session import get_session
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.versioned import NULL, Versioned, VersioningServer, versioning_server

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options, Target
from mimicfs.entry import NS, Entry
from mimicfs.history.changes import changed
from mimicfs.history.restoring import Done, Restoring, Step, journalled, plan, undeleted
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.past import Past, PastPages, versioning, versions_below, versions_in

KEYS = ["a", "a!", "a/", "a/b", "a/b/c", "é 50%+&<g>", "null", "x\ny", "\U0001f600"]
keys = st.sampled_from(KEYS)
picks = st.integers(0, 99)
_numbers = itertools.count()


class Written(NamedTuple):
    key: str
    version: str
    at_s: int
    body: bytes | None  # None: a delete marker


class AnyPast(Past):
    """One that is shown moment after moment: to make one takes longer than an example."""

    def at(self, moment_s: int) -> PastPages:
        self._pages = PastPages(self, moment_s * NS)
        return self._pages


class Life(RuleBasedStateMachine):
    """Each example has a bucket of its own."""

    server: VersioningServer
    s3: S3
    past: AnyPast

    def __init__(self) -> None:
        super().__init__()
        self.bucket: Versioned = self.server.create(f"life-{next(_numbers)}")
        self.name = self.bucket.name
        self.history: list[Written] = []
        self.moments = [self.bucket.now_s - 1, self.bucket.now_s]
        self.status = ""

    # What happens

    @rule(key=keys, body=st.binary(max_size=2))
    def put(self, key: str, body: bytes) -> None:
        self.write(Written(key, self.bucket.put(key, body), self.bucket.now_s, body))

    @rule(pick=picks, body=st.binary(max_size=2))
    def overwrite(self, pick: int, body: bytes) -> None:
        if self.history:
            self.put(self.history[pick % len(self.history)].key, body)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        version = self.bucket.delete(key)
        if self.status:
            self.write(Written(key, version, self.bucket.now_s, None))
        else:
            self.history = [each for each in self.history if each.key != key]

    @rule(pick=picks)
    def delete_a_version(self, pick: int) -> None:
        if self.history:
            gone = self.history.pop(pick % len(self.history))
            self.bucket.delete_version(gone.key, gone.version)

    @rule()
    def suspend(self) -> None:
        self.status = self.bucket.status = "Suspended"

    @rule()
    def resume(self) -> None:
        self.status = self.bucket.status = "Enabled"

    @rule(seconds=st.sampled_from([1, 1, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.bucket.now_s += seconds
        self.moments.append(self.bucket.now_s)

    @rule(most=st.sampled_from([1, 2, 3, 1000]))
    def pages_are_small(self, most: int) -> None:
        self.bucket.page_max = most

    def write(self, made: Written) -> None:
        assert (made.version == NULL) == (self.status != "Enabled")
        self.history = [
            each for each in self.history if (each.key, each.version) != (made.key, made.version)
        ]
        self.history.append(made)

    # Ways back

    @rule()
    def undelete_all(self) -> None:
        expected = {each.key: each.body for each in self.history if each.body is not None}
        self.make(undeleted(self.s3, self.name, ""))
        assert self.bucket.present() == expected
        by_key: dict[str, list[Written]] = {}
        for each in self.history:
            by_key.setdefault(each.key, []).append(each)
        self.history = [each for own in by_key.values() for each in self.after_undelete(own)]

    def after_undelete(self, own: list[Written]) -> list[Written]:
        """Return the versions that a key which had *own* has then, the oldest first."""
        objects = [place for place, each in enumerate(own) if each.body is not None]
        if not objects:
            return own
        back, markers = own[objects[-1]], own[objects[-1] + 1 :]
        if self.status == "Enabled" or all(each.version != NULL for each in markers):
            return own[: objects[-1] + 1]
        copy = Written(back.key, NULL, self.bucket.now_s, back.body)  # replaces the marker
        return [each for each in own if each.version != NULL] + [copy]

    @precondition(lambda self: self.status == "Enabled")
    @rule(pick=picks)
    def restore_all(self, pick: int) -> None:
        moment_s = self.moments[pick % len(self.moments)]
        before, expected = set(self.history), self.at(moment_s)
        Restoring(self.s3, self.name).check_versions()
        self.make(plan(self.s3, self.name, "", moment_s * NS))
        assert self.bucket.present() == {key: each.body for key, each in expected.items()}
        self.history = [
            Written(key, *each) for key, kept in self.bucket.keys.items() for each in kept[::-1]
        ]
        assert before <= set(self.history)  # each moment stays what it was

    def make(self, steps: Iterator[Step]) -> None:
        done: list[Done] = []
        Restoring(self.s3, self.name).run(steps, done.append)
        assert [each for each in done if each.error] == []

    # What is shown

    def at(self, moment_s: int) -> dict[str, Written]:
        """Return what there must have been."""
        newest = {each.key: each for each in self.history if each.at_s <= moment_s}
        return {key: each for key, each in newest.items() if each.body is not None}

    def teardown(self) -> None:
        assert versioning(self.s3, self.name) == self.status
        assert {key: each.body for key, each in self.at(self.bucket.now_s).items()} == (
            self.bucket.present()
        )
        self.every_version_is_listed()
        for moment_s, limit in zip(self.moments, cycle([1000, 1, 2, 3]), strict=False):
            self.moment_is_shown(self.past.at(moment_s), self.at(moment_s), limit)
        for one, other in itertools.pairwise(self.moments):
            self.difference_is_told(one, other)

    def every_version_is_listed(self) -> None:
        newest_first = reversed(self.history)
        ordered = sorted(newest_first, key=lambda each: each.key)  # of one key, the order stays
        expected = [(each.key, each.version, each.body is None) for each in ordered]
        found = versions_below(self.s3, self.name, "")
        shown = [(each.key, each.version, each.deleted) for each in found]
        assert shown == expected, (shown, expected)
        for directory in ("", "a/"):
            inside = versions_in(self.s3, self.name, directory)
            assert [(each.key, each.version, each.deleted) for each in inside] == [
                each
                for each in expected
                if each[0].startswith(directory) and "/" not in each[0][len(directory) :]
            ]

    def moment_is_shown(self, pages: PastPages, was: dict[str, Written], limit: int) -> None:
        entries = {entry.key: entry for entry in listed(pages, self.name, limit)}
        assert {key: (entry.size, entry.etag) for key, entry in entries.items()} == {
            key: (len(each.body or b""), md5(each.body or b"").hexdigest())
            for key, each in was.items()
        }
        children = pages.list_page(self.name, "", "/", "", None, limit).entries
        assert [entry.key for entry in children] == sorted(
            {key if "/" not in key else key[: key.index("/") + 1] for key in was}
        )
        for key, each in was.items():
            buffer = bytearray(len(each.body or b""))
            if buffer:
                self.past.read_into(self.name, key, "", 0, memoryview(buffer))
            assert bytes(buffer) == each.body
            assert pages.version_of(self.name, key) == each.version

    def difference_is_told(self, one: int, other: int) -> None:
        before, after = self.at(one), self.at(other)
        expected = {}
        for key in {*before, *after}:
            was, became = before.get(key), after.get(key)
            if was is None or became is None:
                expected[key] = "added" if was is None else "deleted"
            elif was != became:
                expected[key] = "rewritten" if was.body == became.body else "changed"
        found = changed(self.s3, self.name, "", one * NS, other * NS)
        assert {each.key: each.kind for each in found} == expected


def listed(pages: PastPages, bucket: str, limit: int) -> Iterator[Entry]:
    after, token = "", None
    while True:
        page = pages.list_page(bucket, "", "", after, token, limit)
        assert all(after < entry.key <= (page.upto or entry.key) for entry in page.entries)
        yield from page.entries
        if page.upto is None:
            return
        after, token = page.upto, page.token


@pytest.fixture(scope="module")
def server() -> Iterator[VersioningServer]:
    with versioning_server() as server:
        yield server


@pytest.fixture(autouse=True)
def no_thread_left() -> None:
    """The clients are of the whole module, and so are their threads."""


@pytest.fixture(scope="module")
def s3(server: VersioningServer) -> Iterator[S3]:
    s3 = S3(S3Options(endpoint_url=server.url), Mirror(Memory()))
    yield s3
    s3.close()


@pytest.fixture(scope="module")
def past(server: VersioningServer) -> Iterator[AnyPast]:
    past = AnyPast(S3Options(endpoint_url=server.url), Mirror(Memory()), 0)
    yield past
    past.close()


@pytest.mark.slow
@pytest.mark.timeout(2400)  # a failure is made smaller for minutes
def test_every_moment_is_shown_as_it_was_and_can_be_brought_back(
    request: Any, server: VersioningServer, s3: S3, past: AnyPast
) -> None:
    machine = type("Machine", (Life,), {"server": server, "s3": s3, "past": past})
    exploring = request.config.getoption("--explore")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=300 if exploring else 12,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# What is true, by example


@pytest.fixture
def suspended(server: VersioningServer) -> Versioned:
    """A bucket in which k has a version, "old"; no more are kept."""
    bucket = server.create(f"suspended-{next(_numbers)}")
    bucket.status = "Enabled"
    bucket.put("k", b"old")
    bucket.status = "Suspended"
    return bucket


_COPY = get_session().get_service_model("s3").operation_model("CopyObject")
needs_conditional_copies = pytest.mark.skipif(
    "IfNoneMatch" not in getattr(_COPY.input_shape, "members", {}),
    reason="this botocore knows no condition of a copy's target",
)


def undelete(s3: S3, bucket: Versioned) -> None:
    done: list[Done] = []
    Restoring(s3, bucket.name).run(undeleted(s3, bucket.name, "k"), done.append)
    assert [each.error for each in done] == [""]


@needs_conditional_copies
def test_undelete_brings_back_the_newest_that_a_suspended_bucket_still_has(suspended, s3):
    suspended.put("k", b"unversioned")
    suspended.delete("k")  # its marker takes the place of "unversioned"
    assert [each.body for each in suspended.keys["k"]] == [None, b"old"]
    undelete(s3, suspended)
    assert suspended.present() == {"k": b"old"}


def test_undelete_removes_the_markers_of_all_that_a_bucket_went_through(suspended, s3):
    suspended.put("k", b"unversioned")
    suspended.status = "Enabled"
    suspended.delete("k")
    suspended.delete("k")
    undelete(s3, suspended)
    assert suspended.present() == {"k": b"unversioned"}


def others_write(bucket: Versioned, steps: Iterator[Step]) -> Iterator[Step]:
    """Yield *steps*; meanwhile somebody writes k."""
    planned = list(steps)
    bucket.put("k", b"new, of somebody else")
    yield from planned


@needs_conditional_copies
@pytest.mark.parametrize("looks", [True, False], ids=["aws", "ceph"])
@pytest.mark.parametrize("late", [True, False])
def test_undelete_destroys_nothing_that_others_write_meanwhile(suspended, s3, looks, late):
    """A marker `null` is replaced by the next write, under the same id."""
    suspended.delete("k")
    suspended.looks_at_copies = looks
    steps = undeleted(s3, suspended.name, "k")
    if late:
        suspended.before_copies = lambda: suspended.put("k", b"new, of somebody else")
    else:
        steps = others_write(suspended, steps)
    done: list[Done] = []
    Restoring(s3, suspended.name).run(steps, done.append)
    assert suspended.present() == {"k": b"new, of somebody else"}
    assert list(suspended.keys) == ["k"]  # what was tried has left nothing
    [error] = [each.error for each in done]
    assert error.startswith(f"s3://{suspended.name}/k: ")
    said = "there is an object by now, which stays" if looks else "not undeleted: while versioning"
    assert said in error


def test_a_marker_of_a_suspended_time_is_looked_at_again_before_it_is_removed(suspended, s3):
    suspended.delete("k")
    steps = others_write(suspended, undeleted(s3, suspended.name, "k"))
    done: list[Done] = []
    planned = list(steps)
    suspended.status = "Enabled"
    Restoring(s3, suspended.name).run(planned, done.append)
    assert suspended.present() == {"k": b"new, of somebody else"}
    assert [each.error for each in done] == [
        f"s3://{suspended.name}/k: was written again meanwhile"
    ]
    suspended.delete_version("k", NULL)
    suspended.status = "Suspended"
    suspended.delete("k")
    suspended.status = "Enabled"
    undelete(s3, suspended)
    assert [each.body for each in suspended.keys["k"]] == [b"old"]


def test_a_restore_can_be_undone_by_another_one(suspended, s3):
    suspended.status = "Enabled"
    first_s, second_s = suspended.now_s, suspended.now_s + 1
    suspended.now_s = second_s
    suspended.delete("k")
    suspended.now_s += 1
    for moment_s, there in ((first_s, {"k": b"old"}), (second_s, {}), (first_s, {"k": b"old"})):
        steps = plan(s3, suspended.name, "", moment_s * NS)
        Restoring(s3, suspended.name).run(steps, print)
        assert suspended.present() == there
        suspended.now_s += 1


@pytest.mark.parametrize("names_copies", [True, False], ids=["aws", "ceph"])
def test_a_restore_that_is_repeated_copies_nothing_again(suspended, s3, tmp_path, names_copies):
    suspended.status, suspended.names_copies = "Enabled", names_copies
    then_s = suspended.now_s
    suspended.now_s += 1
    suspended.put("k", b"encrypted")
    for made in ({"restore": 1}, {}):
        with journalled(tmp_path, Target(suspended.name), then_s * NS) as journal:
            steps = plan(s3, suspended.name, "", then_s * NS)
            assert Restoring(s3, suspended.name, journal).run(steps, print) == made
    assert [each.body for each in suspended.keys["k"]] == [b"old", b"encrypted", b"old"]


def test_within_one_second_the_order_of_s3_tells_what_was_the_newest(suspended, s3):
    suspended.status = "Enabled"
    for body in (b"1", b"2"):
        suspended.put("k", body)
        suspended.delete("k")
    then = PastPages(s3, suspended.now_s * NS)
    assert then.list_page(suspended.name, "", "", "", None, 1000).entries == []
    undelete(s3, suspended)
    assert suspended.present() == {"k": b"2"}
    [entry] = then.list_page(suspended.name, "", "", "", None, 1000).entries
    assert entry.etag == md5(b"2").hexdigest()
