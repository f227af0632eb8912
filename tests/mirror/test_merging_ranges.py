"""A listing that is merged in ranges, in any order: what is there before and after is there all
the time, and in the end the mirror is what S3 has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicfs.backends.memory import Memory
from mimicfs.entry import KEPT, LISTED, OBJECT, Entry
from mimicfs.mimicdb import Mirror

KEYS = ["a", "a/", "a/b", "a/c/d", "a/c/e", "a-", "b/x", "b/y/z", "c"]
DIRECTORIES = ["a/", "a/c/", "b/", "b/y/"]
PLACES = ["a", "a/", "a/b", "a/c", "a/c/d", "a/d", "a0", "b/", "b/x", "b/y/", "b0"]

states = st.dictionaries(st.sampled_from(KEYS), st.integers(1, 2))

pytestmark = pytest.mark.slow  # 200 examples


def entry(key, version):
    return Entry(key, version, version * 10**10, f"e{version}")


def seen(mimicdb):
    """Return the objects and the directories that somebody finds who looks everywhere."""
    found, left = set(), [""]
    while left:
        directory = left.pop()
        for child in mimicdb.backend.children("b", directory):
            found.add(child.key)
            left += [child.key] if child.key.endswith("/") else []
    return found


def implied(keys):
    """Return *keys* and the directories above them."""
    above = {key[: n + 1] for key in keys for n in range(len(key) - 1) if key[n] == "/"}
    return {*keys, *above}


@settings(max_examples=200, deadline=None)
@given(
    before=states,
    s3=states,
    listed=st.sets(st.sampled_from(DIRECTORIES)),
    kept=st.sets(st.sampled_from(DIRECTORIES)),
    cuts=st.sets(st.sampled_from(PLACES)),
    hold=st.booleans(),
    dice=st.randoms(use_true_random=False),
)
def test_ranges_in_any_order(before, s3, listed, kept, cuts, hold, dice):
    mimicdb, kept = Mirror(Memory()), kept - before.keys()
    olds = [entry(*item) for item in before.items()]
    olds += [Entry(key, kind=LISTED) for key in listed - before.keys() - kept]
    olds += [Entry(key, kind=KEPT) for key in kept]
    mimicdb.backend.apply("b", olds)
    since = mimicdb.seq("b")
    steady = implied(before.keys() | listed | kept) & (implied(s3.keys()) | kept)
    ends = [*sorted(cuts), None]
    ranges = list(zip(["", *ends[:-1]], ends, strict=True))
    dice.shuffle(ranges)
    held, late = [], []
    for after, upto in ranges:
        keys = [key for key in sorted(s3) if key > after and (upto is None or key <= upto)]
        mimicdb.replace(
            *("b", "", [entry(key, s3[key]) for key in keys]),
            after=after,
            upto=upto,
            since=since,
            deep=True,
            beyond=next((key for key in sorted(s3) if upto is not None and key > upto), ""),
            hold=held.extend if hold else None,
            late=late.extend,
        )
        assert steady <= seen(mimicdb)
    mimicdb.release("b", held)
    assert steady <= seen(mimicdb)
    mimicdb.release("b", late)
    assert steady <= seen(mimicdb)
    objects = {one.key: one.size for one in mimicdb.listing("b") if one.kind == OBJECT}
    assert objects == s3
    assert seen(mimicdb) == implied(s3.keys() | kept)
