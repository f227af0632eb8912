"""Directory buckets: pages in no order, no beginning but the first. Listed by a stand-in for S3,
since no server that we have knows them."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import EPOCH, LISTED, Entry
from mimicfs.errors import MalformedListing, Throttled, Unsupported
from mimicfs.index.verify import verify
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.pages import Pages, Places
from mimicfs.s3.requests.listing import Asked, Page, parse_page
from mimicfs.sync import Syncer

BUCKET = "bucket--use1-az4--x-s3"
KEYS = ["a", "b-", "b/c", "b/d/e", "b/d/f", "b0", "g/h/i/j", *(f"many/{n}" for n in range(9))]


class Express:
    """Directory listings in pages of three names, which come in no order."""

    lists = 4

    def __init__(self):
        self.pool = ThreadPoolExecutor(4)
        self.keys = list(KEYS)
        self.asked = []
        self.refusals = 0

    def list_buckets(self):
        raise NotImplementedError

    def list_page(self, bucket, prefix="", *, delimiter="", after="", token=None, limit=1000):
        assert (bucket, delimiter, after) == (BUCKET, "/", "")
        if self.refusals:
            self.refusals -= 1
            raise Throttled("SlowDown")
        self.asked.append(prefix)
        below = [key for key in self.keys if key.startswith(prefix)]
        names = {prefix + key[len(prefix) :].split("/")[0] for key in below if key != prefix}
        entries = [
            Entry(name, 1, etag="e") if name in self.keys else Entry(f"{name}/", kind=LISTED)
            for name in names
        ]
        random.Random(prefix).shuffle(entries)
        at = int(token or 0)
        more = at + 3 < len(entries)
        page = sorted(entries[at : at + 3])
        return Page(page, page[-1].key if more else None, str(at + 3) if more else None)


@pytest.fixture
def express():
    express = Express()
    yield express
    express.pool.shutdown()


@pytest.fixture
def mirror(express):
    mimicdb = Mirror(Memory())
    return mimicdb, Syncer(mimicdb, express)


def known(mimicdb):
    return [entry.key for entry in mimicdb.listing(BUCKET)]


def test_a_directory_bucket_is_listed_a_directory_at_a_time(express, mirror):
    mimicdb, syncer = mirror
    report = syncer.sync(BUCKET)
    assert known(mimicdb) == sorted(KEYS)
    assert (report.keys, report.added) == (len(KEYS), len(KEYS))
    assert sorted({*express.asked}) == ["", "b/", "b/d/", "g/", "g/h/", "g/h/i/", "many/"]
    assert mimicdb.scope(BUCKET, "").deep
    assert mimicdb.lookup(BUCKET, "b/", "missing") == (None, None)


def test_what_is_gone_there_goes_with_all_below(express, mirror):
    mimicdb, syncer = mirror
    syncer.sync(BUCKET)
    express.keys = [key for key in KEYS if not key.startswith(("b/", "g/"))] + ["new/x"]
    syncer.sync(BUCKET)
    assert known(mimicdb) == sorted(express.keys)


def test_one_directory_of_it_can_be_listed(express, mirror):
    mimicdb, syncer = mirror
    syncer.list_directory(BUCKET, "b/")
    assert [entry.key for entry in mimicdb.children(BUCKET, "b/")] == ["b/c", "b/d/"]
    assert express.asked == ["b/"]


def test_it_waits_when_it_is_asked_for_patience(express, mirror):
    express.refusals = 1
    mirror[1].sync(BUCKET)
    assert known(mirror[0]) == sorted(KEYS)
    express.refusals = 99
    with pytest.raises(Throttled):
        mirror[1].sync(BUCKET)


def test_a_name_twice_is_no_listing(express, mirror):
    express.keys = KEYS
    page = express.list_page
    express.list_page = lambda *args, **kwargs: page(*args, **kwargs | {"token": None})._replace(
        token="3" if kwargs["token"] is None else None
    )
    with pytest.raises(MalformedListing, match="comes twice"):
        mirror[1].sync(BUCKET, "many/")


@pytest.mark.parametrize("tokens", [["1"], ["1", "2", "3"]])
@pytest.mark.parametrize("names", [[], ["a"]])
def test_pages_that_lead_in_a_circle_are_no_listing(express, mirror, tokens, names):
    mirror[1].sync(BUCKET)
    following, entries = itertools.cycle(tokens), [Entry(name, 1, etag="e") for name in names]
    asked = []

    def list_page(*_, token=None, **__):
        asked.append(token)
        return Page(
            [entry._replace() for entry in entries], names[-1] if names else "", next(following)
        )

    express.list_page = list_page
    with pytest.raises(MalformedListing, match="comes twice" if names else "in a circle"):
        mirror[1].sync(BUCKET)
    assert len(asked) < 6
    assert known(mirror[0]) == sorted(KEYS)


def test_a_page_of_a_client_deletes_nothing_of_a_directory_bucket(mirror):
    """What its pages do not show may be on others, also where they are in order by chance."""
    mimicdb, syncer = mirror
    syncer.sync(BUCKET)
    shown = [
        {"Key": key, "Size": 1, "ETag": "e", "LastModified": EPOCH} for key in ("a", "g/h/i/j")
    ]
    answer = {"Contents": shown, "IsTruncated": True, "NextContinuationToken": "t"}
    Pages(mimicdb, Places()).learn(
        "ListObjectsV2", {"Bucket": BUCKET}, answer, mimicdb.seq(BUCKET), 1
    )
    assert known(mimicdb) == sorted(KEYS)


def test_a_directory_bucket_is_not_verified_page_by_page(express, mirror):
    mirror[1].sync(BUCKET)
    with pytest.raises(
        Unsupported, match="a directory bucket lists in no order, and is not verified"
    ):
        verify(mirror[0], express, BUCKET)


def test_a_page_in_no_order_is_one_of_a_directory_bucket():
    body = (
        b"<ListBucketResult><Name>x</Name><IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>"
        + b"".join(
            b"<Contents><Key>%c</Key><LastModified>2026-01-02T03:04:05Z</LastModified>"
            b"<ETag>e</ETag><Size>1</Size></Contents>" % key
            for key in b"ba"
        )
        + b"</ListBucketResult>"
    )
    assert [entry.key for entry in parse_page(body, Asked("x", "", ordered=False)).entries] == [
        "a",
        "b",
    ]
    # Where there is an order, only a page with nothing behind it may be in another.
    assert [entry.key for entry in parse_page(body, Asked("x", "")).entries] == ["a", "b"]
    more = body.replace(b">false<", b">true<")
    with pytest.raises(MalformedListing):
        parse_page(more, Asked("x", ""))
