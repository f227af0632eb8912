"""A listing whose pages lead in a circle is an error, and deletes nothing; one whose empty pages
lead on comes to its end."""

from itertools import chain, cycle

import pytest
from support.proxy import Rule

from mimicfs.errors import MalformedListing
from mimicfs.index.verify import verify
from mimicfs.s3.requests.past import PastPages, versions_below

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


class Pages(Rule):
    """Each LIST is answered with the next of *pages*."""

    def __init__(self, pages):
        super().__init__(lambda request: request.kind == "LIST")
        self._pages = iter(pages)

    def before(self, handler):
        handler.send(200, [("Content-Type", "application/xml")], next(self._pages))
        return True


def page(*keys, token=""):
    """A page of *keys* that leads on by *token*; "": the last."""
    rows = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
        f"<ETag>e</ETag><Size>1</Size></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    said = f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>{more}"
    return f"<ListBucketResult>{rows}{said}</ListBucketResult>".encode()


CIRCLES = {
    "of one": ([], "a"),
    "of two": ([], "ab"),
    "behind a key": ([page("k", token="0")], "abc"),
}


@pytest.mark.parametrize(("first", "tokens"), CIRCLES.values(), ids=CIRCLES)
@pytest.mark.parametrize("keys", [[], ["k"]], ids=["empty", "with the last key"])
@pytest.mark.parametrize("how", ["sync", "directory", "verify"])
def test_a_circle_is_an_error_and_deletes_nothing(
    s3, syncer, client, bucket, proxy, first, tokens, keys, how
):
    client.put_object(Bucket=bucket, Key="k", Body=b"k")
    client.put_object(Bucket=bucket, Key="known", Body=b"k")
    syncer.sync(bucket)
    ask = {
        "sync": lambda: syncer.sync(bucket),
        "directory": lambda: syncer.list_directory(bucket, ""),
        "verify": lambda: verify(s3.mimicdb, s3, bucket),
    }[how]
    pages = chain(first, cycle([page(*keys, token=each) for each in tokens]))
    with proxy.rule(Pages(pages)) as rule, pytest.raises(MalformedListing, match="in a circle"):
        ask()
    assert rule.seen < 10
    assert s3.mimicdb.entry(bucket, "known") is not None


def test_empty_pages_lead_on(s3, syncer, bucket, proxy):
    pages = [*(page(token=str(n)) for n in range(50)), page("k", token="1"), page(token="2")]
    pages += [page(token="1"), page("l")]
    with proxy.rule(Pages(pages)) as rule:
        syncer.sync(bucket)
    assert (rule.seen, [entry.key for entry in s3.mimicdb.listing(bucket)]) == (54, ["k", "l"])


@pytest.mark.parametrize("said", ["", "<KeyCount>2</KeyCount>"], ids=["twice", "counted"])
def test_a_page_with_a_name_in_the_place_of_another_deletes_nothing(
    s3, syncer, client, bucket, proxy, said
):
    for key in ("k", "known"):
        client.put_object(Bucket=bucket, Key=key, Body=b"k")
    syncer.sync(bucket)
    shown = page("k") if said else page("k", "k")
    shown = shown.replace(b"</ListBucketResult>", f"{said}</ListBucketResult>".encode())
    with proxy.rule(Pages(cycle([shown]))), pytest.raises(MalformedListing, match="not whole"):
        syncer.sync(bucket)
    assert s3.mimicdb.entry(bucket, "known") is not None


def test_a_server_that_answers_as_if_listobjects_were_asked_is_asked_that(
    s3, syncer, bucket, proxy
):
    """It knows of no place to begin but a Marker, and begins anew."""
    first = page("k", token="0").replace(b"<NextContinuationToken>0</NextContinuationToken>", b"")
    pages = [first, first, page("l")]
    pages = [each.replace(b"<IsTr", b"<Marker/><IsTr") for each in pages]
    with proxy.rule(Pages(pages)) as rule:
        syncer.sync(bucket)
    assert (rule.seen, [entry.key for entry in s3.mimicdb.listing(bucket)]) == (3, ["k", "l"])
    assert s3.capabilities.known()["list-v2"] == ("no", "learned")


def versions_page(version, following):
    row = (
        f"<Version><Key>k</Key><VersionId>{version}</VersionId><IsLatest>false</IsLatest>"
        "<LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>e</ETag><Size>1</Size></Version>"
    )
    said = f"<NextKeyMarker>k</NextKeyMarker><NextVersionIdMarker>{following}</NextVersionIdMarker>"
    whole = f"{row}<IsTruncated>true</IsTruncated>{said}"
    return f"<ListVersionsResult>{whole}</ListVersionsResult>".encode()


@pytest.mark.parametrize(
    "ask",
    [
        lambda s3, bucket: list(versions_below(s3, bucket, "")),
        lambda s3, bucket: PastPages(s3, 0).list_page(bucket, "", "/", "", None, 1000),
        lambda s3, bucket: PastPages(s3, 0).version_of(bucket, "k"),
    ],
    ids=["versions", "directory", "version"],
)
def test_versions_that_lead_in_a_circle_are_an_error(s3, bucket, proxy, ask):
    pages = cycle([versions_page("1", "1"), versions_page("2", "2")])
    with proxy.rule(Pages(pages)) as rule, pytest.raises(MalformedListing, match="in a circle"):
        ask(s3, bucket)
    assert rule.seen < 8
