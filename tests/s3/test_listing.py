"""A page of a LIST is what was asked, or it is no page."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicfs.entry import LISTED, Entry
from mimicfs.errors import MalformedListing
from mimicfs.s3.requests.listing import Asked, OldVersion, parse_page

TIME = "2026-01-02T03:04:05.000Z"
TIME_NS = 1_767_323_045_000_000_000


def contents(key, size=3, etag='"abc"', extra=""):
    return (
        f"<Contents><Key>{key}</Key><LastModified>{TIME}</LastModified>"
        f"<ETag>{etag}</ETag><Size>{size}</Size>{extra}</Contents>"
    )


def prefix(text):
    return f"<CommonPrefixes><Prefix>{text}</Prefix></CommonPrefixes>"


def page(*items, truncated="false", name="photos", token="", encoding="url"):
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    said = f"<EncodingType>{encoding}</EncodingType>" if encoding else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{name}</Name><IsTruncated>{truncated}</IsTruncated>{said}{more}"
        f"{''.join(items)}</ListBucketResult>"
    ).encode()


def parsed(body, prefix="", after="", delimiter=""):
    return parse_page(body, Asked("photos", prefix, after, delimiter))


def test_an_object_is_an_entry():
    extra = "<StorageClass>GLACIER</StorageClass><Owner><ID>x</ID></Owner>"
    found = parsed(page(contents("a.jpg", extra=extra)))
    assert found.entries == [Entry("a.jpg", 3, TIME_NS, "abc", "GLACIER")]
    assert (found.upto, found.token) == (None, None)


def test_an_etag_may_lack_its_quotes_or_be_missing_and_standard_is_nothing_special():
    extra = "<StorageClass>STANDARD</StorageClass>"
    body = page(contents("a", etag="abc", extra=extra))
    assert parsed(body).entries == [Entry("a", 3, TIME_NS, "abc")]
    assert parsed(body.replace(b"<ETag>abc</ETag>", b"")).entries == [Entry("a", 3, TIME_NS, "")]
    found = parsed(page(contents("a", etag='"x"'), contents("b", etag="&quot;y-2&quot;"))).entries
    assert [entry.etag for entry in found] == ["x", "y-2"]
    found = parsed(page(contents("a", etag='"x"'), contents("b", etag='W/"y"'))).entries
    assert [entry.etag for entry in found] == ["x", "y"]


def test_keys_are_decoded():
    found = parsed(page(contents("a+b%2Bc%01%0A%C3%A9")))
    assert found.entries[0].key == "a b+c\x01\n\xe9"


def test_keys_of_a_server_that_does_not_encode_are_taken_as_they_are():
    assert parsed(page(contents("a%2Bb"), encoding="")).entries[0].key == "a%2Bb"


def test_prefixes_and_objects_come_in_one_order():
    found = parsed(page(contents("a-"), contents("b"), prefix("a/")), delimiter="/")
    assert found.entries == [
        Entry("a-", 3, TIME_NS, "abc"),
        Entry("a/", kind=LISTED),
        Entry("b", 3, TIME_NS, "abc"),
    ]


def test_a_truncated_page_says_how_far_it_speaks():
    found = parsed(page(contents("a"), contents("b"), truncated="true", token="go on"))
    assert (found.upto, found.token) == ("b", "go on")


@pytest.mark.parametrize(
    "body",
    [
        page(contents("a"), truncated="true"),
        page(contents("a"), name="other"),
        page(contents("")),
        page(contents("a", size="many")),
        page("<Contents><Key>a</Key></Contents>"),
        page("<CommonPrefixes><Prefix></Prefix></CommonPrefixes>"),
        page(prefix("a/")),
        page("<Prefix>a/</Prefix>"),
        b"<ListBucketResult></ListBucketResult>",
        page(contents("a"))[:-20],
        page(contents("%FF")),
        b"<html><body>Welcome</body></html>",
        b"<Error><Code>InternalError</Code></Error>",
        b"{}",
        b"",
    ],
)
def test_what_was_not_asked_is_refused(body):
    with pytest.raises(MalformedListing):
        parsed(body)


def test_keys_must_be_below_the_prefix_and_behind_the_start():
    with pytest.raises(MalformedListing):
        parsed(page(contents("b/x")), prefix="a/")
    with pytest.raises(MalformedListing):
        parsed(page(contents("a/x")), after="a/y")


def test_a_page_about_another_prefix_is_refused():
    with pytest.raises(MalformedListing, match="about prefix 'b/'"):
        parsed(page("<Prefix>b/</Prefix>"), prefix="a/")
    for said in ("a+b/", "a%20b/", "a b/"):
        assert parsed(page(f"<Prefix>{said}</Prefix>"), prefix="a b/").entries == []


@pytest.mark.parametrize("item", [contents("d/a/b"), prefix("d/a/b/"), prefix("d/a")])
def test_only_direct_children_are_in_a_directory(item):
    assert parsed(page(contents("d/"), prefix("d/a/")), prefix="d/", delimiter="/").upto is None
    with pytest.raises(MalformedListing, match="not a direct child"):
        parsed(page(item), prefix="d/", delimiter="/")


# Two ways of reading: an expression where the objects are written as usual, else expat. A line
# feed between two elements is enough for expat.

TEXTS = st.sampled_from(
    [
        "a",
        "a+b",
        "%C3%A9",
        "%FF",
        "a b",
        "é",
        "&amp;",
        "",
        "x]]>y",
        "<b/>",
        "\x01",
        "a'b",
        "a/b",
    ]
)
VALUES = st.sampled_from(["3", "0", "-1", "many", "", "999999999999999", " 7", "1e3"])
TIMES = st.sampled_from(
    [TIME, "2026-01-02T03:04:05Z", "2024-02-29T23:59:59.123456Z", "2025-02-29T00:00:00Z",
     "2026-01-02T24:00:00Z", "2026-01-02T03:04:05+01:00", "yesterday"]
)  # fmt: skip
ETAGS = st.sampled_from(['"abc"', "&quot;abc-2&quot;", "abc", "", '"a"b"', "a b", "&#34;x&#34;"])
EXTRAS = st.sampled_from(
    ["", "<StorageClass>STANDARD</StorageClass>", "<StorageClass>GLACIER</StorageClass>",
     "<Owner><ID>x</ID></Owner>", "<StorageClass></StorageClass>"]
)  # fmt: skip
CHECKSUMS = st.sampled_from(
    [
        "",
        "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>",
    ]
)


@st.composite
def objects(draw):
    return (
        f"<Contents><Key>{draw(TEXTS)}</Key><LastModified>{draw(TIMES)}</LastModified>"
        f"<ETag>{draw(ETAGS)}</ETag>{draw(CHECKSUMS)}<Size>{draw(VALUES)}</Size>{draw(EXTRAS)}"
        "</Contents>"
    )


def outcome(body):
    try:
        return parsed(body)
    except MalformedListing:
        return None


@pytest.mark.slow
@given(st.lists(objects(), min_size=1, max_size=3), st.sampled_from(["url", ""]))
def test_both_ways_of_reading_see_the_same(items, encoding):
    spaced = [item.replace("</Key>", "</Key>\n") for item in items]
    assert outcome(page(*items, encoding=encoding)) == outcome(page(*spaced, encoding=encoding))


@pytest.mark.parametrize(
    ("before", "behind"), [("<!--", "-->"), ("<Other>", "</Other>"), ("<![CDATA[", "]]>")]
)
def test_what_only_looks_like_an_object_is_none(before, behind):
    assert parsed(page(before, contents("a"), behind)).entries == []


def test_a_page_in_another_encoding_is_read_as_such():
    body = page(contents("é"), encoding="").replace(
        b'<?xml version="1.0"?>', b'<?xml version="1.0" encoding="ISO-8859-1"?>'
    )
    assert parsed(body).entries[0].key == "Ã©"


# What boto3 reads, and what follows here: used where that is safe, refused where a deletion in
# the mirror would stand on it.


def test_a_prefix_that_looks_encoded_is_compared_as_it_is():
    body = page(contents("50%25cash/a")).replace(b"<IsTr", b"<Prefix>50%cash/</Prefix><IsTr")
    assert parsed(body, prefix="50%cash/").entries[0].key == "50%cash/a"


def test_an_empty_page_with_a_token_speaks_for_nothing_and_is_followed():
    found = parsed(page(truncated="true", token="more"), after="k")
    assert (found.entries, found.upto, found.token) == ([], "k", "more")


def test_a_token_on_the_last_page_is_not_followed():
    found = parsed(page(contents("a"), token="more"))
    assert (found.upto, found.token) == (None, None)


@pytest.mark.parametrize("said", ["True", "TRUE", "true", " true\n", "True "])
def test_truth_may_be_written_in_any_case(said):
    assert parsed(page(contents("a"), truncated=said, token="more")).token == "more"


@pytest.mark.parametrize(
    ("time", "mtime_ns"),
    [
        ("0001-01-01T00:00:00.000Z", -((1 << 63) - 1)),
        ("9999-12-31T23:59:59Z", (1 << 63) - 1),
        ("", 0),
        ("2026-01-02T03:04:05+00:00", TIME_NS),
        ("2026-01-02T03:04:05", TIME_NS),
        (" 2026-01-02t03:04:05z ", TIME_NS),
        ("Fri, 02 Jan 2026 03:04:05 GMT", TIME_NS),
        ("1767323045", TIME_NS),
        ("1767323045.5", TIME_NS),
        ("99999999999", (1 << 63) - 1),
        ("0000-00-00T00:00:00.000Z", 0),
        ("10000-01-01T00:00:00Z", 0),
        ("null", 0),
    ],
)
def test_a_time_beyond_measure_is_the_nearest_one(time, mtime_ns):
    body = page(contents("a"), contents("b")).replace(TIME.encode(), time.encode(), 1)
    assert [entry.mtime_ns for entry in parsed(body).entries] == [mtime_ns, TIME_NS]


def test_an_object_without_a_time_is_an_object():
    body = page(contents("a")).replace(f"<LastModified>{TIME}</LastModified>".encode(), b"")
    assert parsed(body).entries == [Entry("a", 3, 0, "abc")]


def test_a_last_page_in_another_order_is_sorted_and_doubles_are_dropped():
    body = page(contents("b"), contents("a"), contents("b", size=9))
    assert [(entry.key, entry.size) for entry in parsed(body).entries] == [("a", 3), ("b", 9)]


def test_a_name_that_comes_twice_in_a_row_is_one_name():
    """Also on the page behind the one that it ended."""
    items = contents("a"), contents("b", size=9), contents("b"), prefix("c/"), prefix("c/")
    found = parsed(page(*items, truncated="true", token="more"), after="a", delimiter="/")
    assert [(entry.key, entry.size) for entry in found.entries] == [("b", 9), ("c/", 0)]
    assert (found.upto, found.doubtful) == ("c/", True)
    assert parsed(page(contents("a")), after="a").entries == []


def test_a_truncated_page_in_another_order_is_refused():
    with pytest.raises(MalformedListing, match="'a' comes after 'b'"):
        parsed(page(contents("b"), contents("a"), truncated="true", token="more"))


def test_a_page_that_does_not_say_whether_it_is_the_last_is_refused():
    body = page(contents("a")).replace(b"<IsTruncated>false</IsTruncated>", b"")
    with pytest.raises(MalformedListing):
        parsed(body)


def test_a_page_with_a_token_that_does_not_say_that_it_is_the_last_is_not():
    body = page(contents("a"), token="more").replace(b"<IsTruncated>false</IsTruncated>", b"")
    assert (parsed(body).token, parsed(body).upto) == ("more", "a")


@pytest.mark.parametrize(("counted", "doubtful"), [(0, False), (2, False), (3, True), ("", False)])
def test_of_a_page_with_fewer_names_than_it_counts_others_may_be_there(counted, doubtful):
    count = f"<KeyCount>{counted}</KeyCount>"
    found = parsed(page(contents("a"), prefix("b/"), count), delimiter="/")
    assert ([entry.key for entry in found.entries], found.doubtful) == (["a", "b/"], doubtful)


def test_a_page_without_a_token_is_led_on_by_its_last_name_only_of_listobjects():
    items = contents("a"), prefix("b/")
    with pytest.raises(MalformedListing, match="without a token"):
        parsed(page(*items, truncated="true"), delimiter="/")
    body = page(*items, "<Marker/>", truncated="true")
    assert parsed(body, delimiter="/").token == "b/"
    with pytest.raises(OldVersion):  # it may have begun anywhere
        parsed(body, delimiter="/", after="0")


def test_a_page_that_ends_with_an_error_is_refused():
    with pytest.raises(MalformedListing, match="ends with an error"):
        parsed(page(contents("a"), "<Error><Code>InternalError</Code></Error>"))


def test_names_of_elements_may_have_the_prefix_of_their_namespace():
    body = page(contents("a"), prefix("b/")).decode().replace("xmlns=", "xmlns:s3=")
    body = body.replace("</", "\0").replace("<", "<s3:").replace("\0", "</s3:")
    found = parsed(body.replace("<s3:?", "<?").encode(), delimiter="/")
    assert [entry.key for entry in found.entries] == ["a", "b/"]


@pytest.mark.parametrize("char", ["&#x1b;", "&#27;", "\x1b"])
def test_a_prefix_that_xml_cannot_have_is_compared_all_the_same(char):
    """Ceph repeats it as it was asked."""
    items = contents("a%1Bb/c"), prefix("a%1Bb/%01/")
    body = page(*items).replace(b"</Name>", f"</Name><Prefix>a{char}b/</Prefix>".encode())
    found = parsed(body, prefix="a\x1bb/", delimiter="/")
    assert [entry.key for entry in found.entries] == ["a\x1bb/\x01/", "a\x1bb/c"]
    with pytest.raises(MalformedListing):
        parsed(body, prefix="a\x1bb/c", delimiter="/")
    with pytest.raises(MalformedListing):
        parsed(page(contents("a%1Bb/c") + "<Key>\x1b</Key>"), prefix="a\x1bb/")


@pytest.mark.parametrize("said", ["<Name/>", "<Name> photos\n</Name>"])
def test_white_space_around_what_a_page_says_is_none_of_it(said):
    body = page(contents("a ", etag='\n "abc" '), truncated=" 1 ", token="more").decode()
    body = re.sub("<Name>.*?</Name>", f"{said}<Prefix>\\n  </Prefix>", body, count=1)
    found = parsed(body.replace("<EncodingType>url", "<EncodingType> url ").encode())
    assert [(entry.key, entry.etag) for entry in found.entries] == [("a ", "abc")]
    assert (found.token, found.upto) == ("more", "a ")


def test_one_element_may_have_several_common_prefixes_and_an_empty_one_has_none():
    several = prefix("b/").replace("</Common", "<Prefix>c/</Prefix></Common")
    found = parsed(page(several, "<CommonPrefixes/><Contents/>"), delimiter="/")
    assert [entry.key for entry in found.entries] == ["b/", "c/"]


def test_an_object_with_two_keys_is_refused():
    body = page(contents("a").replace("<Size>", "<Key>b</Key><Size>"))
    with pytest.raises(MalformedListing, match="two of Key"):
        parsed(body)


@pytest.mark.parametrize("shown", [(), ("c/", "e/")])
def test_a_marker_that_is_shown_as_an_object_of_the_directory_above_is_a_directory(shown):
    items = [contents(key) for key in ("a", "c/", "d")] + [prefix(key) for key in shown]
    found = parsed(page(*items), delimiter="/")
    assert [entry.key for entry in found.entries] == sorted({"a", "c/", "d", *shown})
    assert [entry.key for entry in found.entries if entry.kind == LISTED] == ["c/", *shown[1:]]
    assert not found.doubtful


@pytest.mark.parametrize(
    ("bucket", "said"),
    [
        ("photos", "s3/account/photos"),
        ("photos", "tenant:photos"),
        ("point-abc123-s3alias", "photos"),
        ("lambda-abc123--ol-s3", "photos"),
    ],
)
def test_a_bucket_may_be_called_by_a_longer_name_and_an_access_point_by_another(bucket, said):
    body = page(contents("a"), name=said)
    assert parse_page(body, Asked(bucket, "")).entries[0].key == "a"
    with pytest.raises(MalformedListing, match="about bucket"):
        parse_page(body, Asked("pho", ""))
