"""A marker or a token is what a server gave out, and no key, whatever it looks like."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clients import CONFIG, plain
from support.listings import MARKERS, serving

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory

KEYS = st.sets(
    st.builds(
        str.__add__,
        st.sampled_from(["", "d/", "d/e/", "x/y/"]),
        st.text("ab0fé%[", min_size=1, max_size=3),
    ),
    max_size=9,
)


@pytest.fixture(params=MARKERS)
def marked(request):
    return MARKERS[request.param]


def shown(answer: Any) -> list[str]:
    keys = [item["Key"] for item in answer.get("Contents", [])]
    return keys + [item["Prefix"] for item in answer.get("CommonPrefixes", [])]


def expected(keys: set[str], prefix: str, delimiter: str) -> list[str]:
    found = set()
    for key in keys:
        if key.startswith(prefix):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            found.add(key[: cut + 1] if cut >= 0 else key)
    return sorted(found)


def walked(client: Any, asked: dict[str, Any], version: int, forced: Any) -> list[str]:
    """Return what all pages show; *forced* says of each page whether S3 is asked."""
    found: list[str] = []
    more: dict[str, str] = {}
    for _ in range(40):
        call = client.list_objects_v2 if version == 2 else client.list_objects
        answer = call(**asked, **more, **({"Force": True} if forced() else {}))
        found += shown(answer)
        if not answer["IsTruncated"]:
            return found
        if version == 2:
            more = {"ContinuationToken": answer["NextContinuationToken"]}
        else:
            more = {"Marker": answer.get("NextMarker") or shown(answer)[-1]}
    raise AssertionError(f"no end: {found}")


@pytest.fixture(scope="module", params=MARKERS)
def served(request):
    """A server, and a client that is made once: that takes longer than all of an example."""
    with serving(MARKERS[request.param]) as (url, listings):
        client = plain(url)
        yield listings, client, client._make_api_call
        client.close()


@settings(max_examples=15, deadline=None)
@given(data=st.data(), keys=KEYS)
@pytest.mark.slow
def test_each_listing_shows_what_there_is_and_the_mirror_loses_nothing(served, data, keys):
    listings, client, client._make_api_call = served
    library = MimicDB(Memory())
    library.mimic(client)
    listings.keys = set(keys)
    for _ in range(4):
        version = data.draw(st.sampled_from([1, 2]))
        prefix = data.draw(st.sampled_from(["", "d", "d/", "x/"]))
        delimiter = data.draw(st.sampled_from(["", "/"]))
        asked = {"Bucket": "b", "Prefix": prefix, "MaxKeys": data.draw(st.integers(1, 4))}
        if delimiter:
            asked["Delimiter"] = delimiter
        found = walked(client, asked, version, lambda: data.draw(st.booleans()))
        assert sorted(found) == expected(keys, prefix, delimiter)
        held = {entry.key for entry in library.listing("b")}
        assert held <= keys
        if not delimiter:
            assert {key for key in keys if key.startswith(prefix)} <= held


@pytest.mark.parametrize("force", [False, True])
def test_a_marker_of_an_earlier_program_deletes_nothing(marked, force):
    keys = {"a", "b", "c", "d", "e"}
    with serving(marked) as (url, listings):
        listings.keys = set(keys)
        library = MimicDB(Memory())
        first = library.client(endpoint_url=url, config=CONFIG)
        library.sync("b", client=first)
        marker = first.list_objects(Bucket="b", MaxKeys=2, Force=True)["NextMarker"]
        later = library.client(endpoint_url=url, config=CONFIG)  # it knows no markers
        asked = {"Force": True} if force else {}
        assert shown(later.list_objects(Bucket="b", Marker=marker, **asked)) == ["c", "d", "e"]
        assert {entry.key for entry in library.listing("b")} == keys
        first.close()
        later.close()


def test_pages_that_follow_each_other_still_delete_what_is_gone(marked):
    with serving(marked) as (url, listings):
        listings.keys = {"a", "b", "c", "d", "e"}
        library = MimicDB(Memory())
        client = library.client(endpoint_url=url, config=CONFIG)
        library.sync("b", client=client)
        listings.keys = {"a", "c", "e"}
        found = walked(client, {"Bucket": "b", "MaxKeys": 2}, 1, lambda: True)
        assert found == ["a", "c", "e"]
        assert [entry.key for entry in library.listing("b")] == ["a", "c", "e"]
        client.close()


# Each of these keeps the mirror from learning a page.
UNLEARNED: list[dict[str, Any]] = [
    {"RequestPayer": "requester"},
    {"OptionalObjectAttributes": ["RestoreStatus"]},
    {"ExpectedBucketOwner": "111122223333"},
    {"EncodingType": "url"},
    {"Delimiter": ""},
]


def test_pages_behind_one_that_was_not_learned_do_not_make_a_bucket_known(served):
    listings, client, ask = served
    listings.keys = {"a+a", "a+b", "é", "z"}
    for (version, known), extra in itertools.product([(1, True), (2, False)], UNLEARNED):
        client._make_api_call = ask
        library = MimicDB(Memory())
        library.mimic(client)
        if known:
            library.sync("b", client=client)
        call = client.list_objects_v2 if version == 2 else client.list_objects
        first = call(Bucket="b", MaxKeys=2, Force=True, **extra)
        if version == 2:
            more = {"ContinuationToken": first["NextContinuationToken"]}
        else:
            quoted = "EncodingType" in extra
            more = {"Marker": (unquote if quoted else str)(first["NextMarker"])}
        assert shown(call(Bucket="b", Force=True, **more)) == ["z", "é"]
        found = set(shown(client.list_objects_v2(Bucket="b")))
        assert found == {"a+a", "a+b", "é", "z"}, (version, known, extra)
