"""Pages of ListObjectVersions: what they say, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicfs.errors import MalformedListing
from mimicfs.s3.requests import versions as module
from mimicfs.s3.requests.listing import OF_VERSIONS, Asked, Found, read_xml
from mimicfs.s3.requests.versions import Marker, Version, VersionPage, parse_versions

ASKED = Asked("b", "", version=OF_VERSIONS)
HEAD = "<ListVersionsResult><Name>b</Name><Prefix></Prefix><EncodingType>url</EncodingType>"


def version(key: str, id_: str, at: str, *, latest: bool = False, size: int = 1) -> str:
    return (
        f"<Version><Key>{key}</Key><VersionId>{id_}</VersionId><IsLatest>{str(latest).lower()}"
        f"</IsLatest><LastModified>2026-11-01T00:00:{at}Z</LastModified><ETag>&quot;e{id_}&quot;"
        f"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass><Owner><ID>o</ID></Owner>"
        "</Version>"
    )


def marker(key: str, id_: str, at: str, *, latest: bool = False) -> str:
    return (
        f"<DeleteMarker><Key>{key}</Key><VersionId>{id_}</VersionId><IsLatest>"
        f"{str(latest).lower()}</IsLatest><LastModified>2026-11-01T00:00:{at}Z</LastModified>"
        "</DeleteMarker>"
    )


def parsed(inner: str, after: Marker = Marker(), asked: Asked = ASKED) -> VersionPage:  # noqa: B008
    return parse_versions(f"{HEAD}{inner}</ListVersionsResult>".encode(), asked, after)


END = "<IsTruncated>false</IsTruncated>"


def test_a_version_has_what_s3_says_of_it():
    page = parsed(version("a%20b", "v1", "02", latest=True, size=5) + END)
    at_ns = 1_793_491_202_000_000_000
    assert page == VersionPage([Version("a b", "v1", True, False, at_ns, 5, "ev1", "")], None)


def test_the_newest_comes_first_also_where_markers_stand_behind_all_else():
    page = parsed(
        version("k", "v2", "02")
        + version("k", "v1", "01")
        + marker("k", "d3", "03", latest=True)
        + marker("k", "d1", "01")
        + END
    )
    assert [each.version for each in page.versions] == ["d3", "v2", "d1", "v1"]


def test_the_order_of_s3_holds_against_the_clock():
    page = parsed(
        version("k", "multipart", "01", latest=True)
        + marker("k", "d", "02")
        + version("k", "v", "00")
        + END
    )
    assert [each.version for each in page.versions] == ["multipart", "d", "v"]


def test_a_page_leads_to_the_next():
    following = (
        "<IsTruncated>true</IsTruncated><NextKeyMarker>a%2Fb</NextKeyMarker>"
        "<NextVersionIdMarker>v1</NextVersionIdMarker>"
    )
    assert parsed(version("a%2Fb", "v1", "01") + following).next == Marker("a/b", "v1")


@pytest.mark.parametrize(("said", "following"), [("null", "v1"), ("v2", "v2"), ("", "v1")])
def test_a_page_that_ends_among_the_versions_of_a_key_leads_to_the_rest_of_them(said, following):
    """Swift says `null`, and answers to that with what is behind the key."""
    more = (
        "<IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker>"
        f"<NextVersionIdMarker>{said}</NextVersionIdMarker>"
    )
    page = parsed(version("a", "v2", "02") + version("a", "v1", "01") + more)
    assert page.next == Marker("a", following)


def test_a_server_whose_pages_begin_with_the_version_that_is_named_shows_each_once():
    named = ["v3", "v2", "v1"]

    def answered(after: Marker) -> str:
        place = named.index(after.version) if after.version else 0
        following = (
            "<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
            f"<NextVersionIdMarker>{named[place - 2]}</NextVersionIdMarker>"
        )
        return version("k", named[place], "01") + (following if place < 2 else END)

    pages, after = [], Marker()
    while len(pages) < 9:
        pages.append(parsed(answered(after), after))
        if pages[-1].next is None:
            break
        after = pages[-1].next
    assert [each.version for page in pages for each in page.versions] == named


@pytest.mark.parametrize("time", ["", "null", "yesterday"])
def test_a_version_of_no_known_time_is_refused(time):
    body = version("a", "v1", "01").replace("2026-11-01T00:00:01Z", time) + END
    with pytest.raises(MalformedListing, match="of the time"):
        parsed(body)


@pytest.mark.parametrize(
    "inner",
    [
        version("b", "v", "01") + version("a", "v", "01") + END,
        version("k", "v", "01"),
        version("k", "v", "01") + "<IsTruncated>true</IsTruncated>",
        version("k", "v", "01").replace("<Size>1", "<Size>-1") + END,
        version("k", "v", "01").replace("<VersionId>v</VersionId>", "") + END,
    ],
    ids=["no order", "no end", "no way to go on", "no size", "no version id"],
)
def test_what_is_no_page_is_believed_in_nothing(inner):
    with pytest.raises(MalformedListing):
        parsed(inner)


def test_a_page_that_begins_before_what_was_asked_is_none():
    with pytest.raises(MalformedListing, match="'a' comes after 'b'"):
        parsed(version("a", "v", "01") + END, Marker("b"), ASKED._replace(after="b"))
    both = version("b", "v", "01") + version("c", "v", "01") + END
    assert [each.key for each in parsed(both, Marker("b"), ASKED).versions] == ["c"]
    assert parsed(version("b", "v", "01") + END, Marker("b", "w")).versions[0].key == "b"


def test_a_version_of_the_second_in_which_the_one_before_was_deleted_is_the_newer():
    page = parsed(
        version("k", "v3", "02", latest=True) + version("k", "v2", "01") + marker("k", "d", "01")
        + END
    )  # fmt: skip
    assert [each.version for each in page.versions] == ["v3", "v2", "d"]


# Two readers of the same


def usually(*usual: str, odd: list[str]) -> st.SearchStrategy[str]:
    """Mostly what S3 writes, so that pages with nothing odd are among them."""
    return st.sampled_from([*usual] * 6 + odd)


CHECKSUM = "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"
OWNER = "<Owner><ID>o1</ID><DisplayName>a b</DisplayName></Owner>"
names = usually("k", "k%20l", "k+l", "%C3%A9", odd=["k&amp;l", "\xe9", "k&#98;", "", "%FF", "k\nl"])
ids = usually("v1", "null", "3/L4kq.-_", odd=["v&amp;", "\xe9", ""])
latest = usually("true", "false", odd=["TRUE", " true ", "1", ""])
times = usually(
    *("2026-11-01T00:00:01.000Z", "2026-11-01T00:00:02Z"),
    odd=[
        "2026-11-01T00:00:01+00:00",
        "2026-11-01",
        "0001-01-01T00:00:00Z",
        "",
        "2026-11-31T00:00:00Z",
    ],
)
etags = usually("&quot;e&quot;", '"e"', odd=["e", "", "&lt;", "W/&quot;e&quot;"])
sizes = usually("0", "5", "123456789012345", odd=["-1", " 7", "9" * 20, "1_0", ""])
classes = usually("STANDARD", "GLACIER", odd=["a", "", "A&amp;B"])
owners = usually("", OWNER, "<Owner><ID>o1</ID></Owner>", odd=["<Owner><ID>\xe9</ID></Owner>"])
checksums = usually("", CHECKSUM, odd=["<Checksum>x</Checksum>"])
between = usually(
    "",
    odd=[
        *(
            "\n",
            "x",
            "<!-- x -->",
            "<![CDATA[<Version>]]>",
            "<Version></Version>",
            END,
            "<Version>",
        ),
        *("<CommonPrefixes><Prefix>d</Prefix></CommonPrefixes>", "<Other><Key>k</Key></Other>"),
    ],
)


@st.composite
def rows(draw: st.DrawFn) -> str:
    said = f"<Key>{draw(names)}</Key><VersionId>{draw(ids)}</VersionId>"
    said += f"<IsLatest>{draw(latest)}</IsLatest><LastModified>{draw(times)}</LastModified>"
    if draw(st.booleans()):
        name = draw(usually("DeleteMarker", odd=["Version"]))
        return f"<{name}>{said}{draw(owners)}</{name}>{draw(between)}"
    said += f"<ETag>{draw(etags)}</ETag>{draw(checksums)}<Size>{draw(sizes)}</Size>"
    storage_class = f"<StorageClass>{draw(classes)}</StorageClass>"
    said += "".join(draw(st.permutations([storage_class, draw(owners)])))
    name = draw(usually("Version", odd=["DeleteMarker"]))
    return f"<{name}>{said}</{name}>{draw(between)}"


def outcome(body: str) -> VersionPage | None:
    try:
        return parse_versions(body.encode(), ASKED, Marker())
    except MalformedListing:
        return None


@pytest.mark.slow
@given(st.lists(rows(), min_size=1, max_size=4), st.booleans())
def test_both_readers_of_a_page_find_the_same_in_it(listed, end_first):
    inner = "".join([END, *listed] if end_first else [*listed, END])
    page = f"{HEAD}{inner}</ListVersionsResult>"
    # Expat reads a page that has a comment before the first version.
    assert outcome(page) == outcome(page.replace("<Name>", "<!-- --><Name>", 1))


@pytest.mark.parametrize("owner", ["", OWNER])
def test_what_s3_writes_is_not_read_by_expat(monkeypatch, owner):
    read: list[bytes] = []

    def observed(found: Found, body: bytes) -> None:
        read.append(body)
        read_xml(found, body)

    monkeypatch.setattr(module, "read_xml", observed)
    said = version("k", "v1", "02").replace("<Owner><ID>o</ID></Owner>", owner)
    gone = marker("k", "d", "01").replace("</DeleteMarker>", f"{owner}</DeleteMarker>")
    assert len(parsed(said + gone + END).versions) == 2
    [rest] = read
    assert b"<Key>" not in rest
