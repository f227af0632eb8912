"""How long the mirror keeps what a HEAD said."""

from datetime import UTC, datetime

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import NS, Entry
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.answers import head_text

SECOND = 1_795_862_400
HEAD = head_text({"LastModified": datetime.fromtimestamp(SECOND, UTC), "ContentType": "a/b"})
KNOWN = Entry("a", 1, SECOND * NS, "e", "", {}, head=HEAD)


@pytest.mark.parametrize(
    ("listed", "kept"),
    [
        (Entry("a", 1, SECOND * NS, "e"), HEAD),
        (Entry("a", 1, SECOND * NS + NS - 1, "e"), HEAD),
        (Entry("a", 1, SECOND * NS + NS, "e"), None),
        (Entry("a", 1, SECOND * NS - 1, "e"), None),
        (Entry("a", 1, SECOND * NS, "e", "GLACIER"), None),
        (Entry("a", 1, SECOND * NS, "other"), None),
    ],
)
def test_a_listing_of_another_second_class_or_version_ends_what_a_head_said(listed, kept):
    """A copy onto itself leaves the etag, and a lifecycle the time."""
    mimicdb = Mirror(Memory())
    mimicdb.record("b", KNOWN)
    since = mimicdb.seq("b")
    mimicdb.replace("b", "", [listed], after="", upto=None, since=since, deep=True)
    assert mimicdb.entry("b", "a").head == kept
    mimicdb.close()


@pytest.mark.parametrize(("meta", "kept"), [({}, HEAD), ({"mode": "33188"}, None)])
def test_other_metadata_ends_what_a_head_said(meta, kept):
    mimicdb = Mirror(Memory())
    mimicdb.record("b", KNOWN)
    mimicdb.learned("b", [Entry("a", 1, SECOND * NS, "e", "", meta)], mimicdb.seq("b"))
    assert mimicdb.entry("b", "a").head == kept
    mimicdb.close()
