"""Where a bucket is asked, and what each request says of it."""

import base64
import io
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.crt.auth import CRT_AUTH_TYPE_MAPS
from botocore.exceptions import EndpointConnectionError
from support.proxy import Fail

from mimicfs.backends.memory import Memory
from mimicfs.config.values import BucketOptions, Buckets, S3Options, Target, parse_target
from mimicfs.entry import Entry
from mimicfs.errors import AccessDenied, ConfigError, S3Unavailable
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Content

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)
HOST = "s3.servers.test"


@pytest.fixture
def our_domain(monkeypatch):
    """Every name below servers.test is this machine."""
    real = socket.getaddrinfo

    def here(host, *more, **options):
        return real("127.0.0.1" if str(host).endswith(HOST) else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", here)


def opened(url, mimicdb=None, **options):
    return S3(S3Options(endpoint_url=url, attempts=2, **options), mimicdb or Mirror(Memory()))


class Hosts(Fail):
    """Notes the Host of each request; refuses buckets in the path, as OSS does."""

    def __init__(self, code="", status=403):
        super().__init__(self._in_path, status, code)
        self.hosts = []
        self._refuses = bool(code)

    def _in_path(self, request):
        self.hosts.append(request.headers["Host"].partition(":")[0])
        return self._refuses and self.hosts[-1] == HOST


def test_the_style_that_is_said_is_the_one(our_domain, proxy, bucket, client):
    s3 = opened(proxy.url.replace("127.0.0.1", HOST), addressing="virtual")
    with proxy.rule(Hosts("SecondLevelDomainForbidden")) as rule:
        s3.put(bucket, "a", b"abc", 3)
        assert [entry.key for entry in s3.list_page(bucket).entries] == ["a"]
    assert set(rule.hosts) == {f"{bucket}.{HOST}"}
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"abc"
    s3.close()
    path = opened(proxy.url.replace("127.0.0.1", HOST), addressing="path")
    with proxy.rule(Hosts("SecondLevelDomainForbidden")), pytest.raises(AccessDenied):
        path.put(bucket, "a", b"abc", 3)
    path.close()


@pytest.mark.parametrize("code", ["SecondLevelDomainForbidden", "PathStyleDomainForbidden"])
@pytest.mark.parametrize("first", ["head_bucket", "list_page", "put"])
def test_where_none_is_said_it_is_the_one_that_the_server_takes(
    our_domain, proxy, bucket, code, first
):
    url, mimicdb = proxy.url.replace("127.0.0.1", HOST), Mirror(Memory())
    s3 = opened(url, mimicdb)
    with proxy.rule(Hosts(code)) as rule:
        getattr(s3, first)(*(bucket, "a", io.BytesIO(b"ab"), 2) if first == "put" else (bucket,))
        s3.put(bucket, "b", b"abc", 3)
        assert "b" in [entry.key for entry in s3.list_page(bucket).entries]
    assert rule.hosts[-1] == f"{bucket}.{HOST}"
    s3.close()
    again = opened(url, mimicdb)
    with proxy.rule(Hosts(code)) as rule:
        again.list_page(bucket)
    assert rule.hosts == [f"{bucket}.{HOST}"]
    again.close()


class AtOnce(Hosts):
    """Refuses the first two such requests once both have come."""

    def __init__(self, code):
        super().__init__(code)
        self._both = threading.Barrier(2, timeout=10)

    def before(self, handler):
        if self.seen <= 2:
            self._both.wait()
        return False


def test_two_first_requests_at_once_both_find_the_host(our_domain, proxy, bucket):
    s3 = opened(proxy.url.replace("127.0.0.1", HOST))
    with proxy.rule(AtOnce("SecondLevelDomainForbidden")), ThreadPoolExecutor(2) as pool:
        puts = [pool.submit(s3.put, bucket, key, b"abc", 3) for key in ("a", "b")]
        assert [put.result().key for put in puts] == ["a", "b"]
    s3.close()


def test_a_list_of_buckets_does_not_say_that_they_are_named_in_the_path(our_domain, proxy, bucket):
    s3 = opened(proxy.url.replace("127.0.0.1", HOST))
    buckets = Fail(lambda request: True, 200, "")
    buckets.body = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"
    with proxy.rule(buckets):
        assert s3.list_buckets() == []
    with proxy.rule(Hosts("SecondLevelDomainForbidden")):
        s3.head_bucket(bucket)
    s3.close()


def test_a_bucket_of_another_account_is_refused(proxy, bucket):
    mine, other = (opened(proxy.url, bucket_owner=owner) for owner in ("123456789012", "1" * 12))
    seen = []
    rule = Fail(
        lambda request: seen.append(request.headers["x-amz-expected-bucket-owner"]), 500, ""
    )
    with proxy.rule(rule):
        mine.put(bucket, "a", b"a", 1)
        mine.list_page(bucket)
        mine.head(bucket, "a")
    assert set(seen) == {"123456789012"}
    with proxy.rule(Fail(lambda request: True, 403, "AccessDenied")), pytest.raises(AccessDenied):
        other.list_page(bucket)
    mine.close()
    other.close()


OWNER = "x-amz-expected-bucket-owner"
KEY = "x-amz-server-side-encryption-customer-key"
SOURCE = (
    "x-amz-source-expected-bucket-owner",
    "x-amz-copy-source-server-side-encryption-customer-key",
)


def used(s3, bucket):
    """Have *s3* make each kind of request that a mount makes."""
    s3.head_bucket(bucket)
    entry = s3.put(bucket, "a", b"abc", 3)
    s3.head(bucket, "a")
    s3.read_into(bucket, "a", entry.etag, 0, memoryview(bytearray(3)))
    s3.copy((bucket, entry), bucket, "b")
    s3.list_page(bucket)
    upload = s3.start_upload(bucket, "c", Content())
    parts = [s3.upload_part(bucket, "c", upload, 1, b"x" * (5 << 20), 5 << 20)]
    parts.append(s3.copy_part((bucket, entry), bucket, "c", upload, 2, 0, 3))
    s3.finish_upload(bucket, "c", upload, parts, (5 << 20) + 3)
    s3.abort_upload(bucket, "d", s3.start_upload(bucket, "d", Content()))
    s3.delete(bucket, "a")
    s3.delete_many(bucket, ["b", "c"])


def test_each_request_names_the_owner_and_each_for_bytes_the_key_of_sse_c(proxy, bucket):
    key = bytes(range(32))
    said = (base64.b64encode(key).decode(), "tP/LI3N87DFaSk0aoqYgzg==")
    options = {"buckets": Buckets(BucketOptions(sse_c_key=key)), "bucket_owner": "123456789012"}
    s3 = opened(proxy.url, **options)
    seen = {}

    def note(request):
        what = next(
            (name for name in ("uploads", "uploadId", "delete") if name in request.query), ""
        )
        headers = request.headers
        assert headers[OWNER] == "123456789012"
        assert headers[KEY] is None or (headers[KEY], headers[f"{KEY}-MD5"]) == said
        seen[f"{request.kind} {what}".strip()] = (
            KEY in headers,
            tuple(headers[name] for name in SOURCE) == ("123456789012", said[0]),
        )

    with proxy.rule(Fail(note, 500, "")):
        used(s3, bucket)
    assert seen == {
        "HEAD": (True, False),
        "PUT": (True, False),
        "GET": (True, False),
        "COPY": (True, True),
        "LIST": (False, False),
        "POST uploads": (True, False),
        "PUT uploadId": (True, False),
        "COPY uploadId": (True, True),
        "POST uploadId": (True, False),
        "DELETE uploadId": (False, False),
        "DELETE": (False, False),
        "POST delete": (False, False),
    }
    assert "customer" not in repr(s3._options)
    assert repr(key) not in repr(s3._options)
    s3.close()


AP = "arn:aws:s3:eu-west-1:123456789012:accesspoint"
OUTPOST = "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01ac5d28a6a232904/accesspoint/name"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (f"s3://{AP}/name/some/prefix", Target(f"{AP}:name", "some/prefix/")),
        (f"s3://{AP}:name", Target(f"{AP}:name", "")),
        (
            "s3://arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap/p/",
            Target("arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap", "p/"),
        ),
        ("s3://bucket/arn:aws/x", Target("bucket", "arn:aws/x/")),
        (f"s3://{OUTPOST}/p", Target(OUTPOST.replace("/", ":"), "p/")),
    ],
)
def test_an_access_point_is_a_bucket(url, target, server):
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    ["s3://x?sig=xyzzy", "s3://x?sig=xyzzy/a", "s3://x%20xyzzy", "s3://user:xyzzy@x", "s3://x#xyzzy",
     "s3://x xyzzy", "s3://arn:aws:s3:::xyzzy", "s3://" + "xyzzy" * 60],
)  # fmt: skip
def test_what_is_not_the_name_of_a_bucket_is_refused_and_not_repeated(url, server):
    with pytest.raises(ConfigError) as refused:
        parse_target(url)
    assert str(refused.value) == (
        "what follows s3:// is not the name of a bucket (letters, digits, '.', '-' and '_');"
        " write s3://BUCKET or s3://BUCKET/PREFIX, without a query"
    )


@pytest.mark.parametrize(
    "url",
    [
        "s3://arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/name/prefix",
        "s3://name-abc--ol-s3",
    ],
)
def test_what_changes_objects_while_they_are_read_is_refused(url, server):
    with pytest.raises(
        ConfigError, match=r"Object Lambda changes what is read, so that .* the bucket$"
    ):
        parse_target(url)


MRAP = "arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap"
ASKS = {
    "head": lambda s3, bucket: s3.head(bucket, "k"),
    "put": lambda s3, bucket: s3.put(bucket, "k", b"x", 1),
    "list": lambda s3, bucket: s3.list_page(bucket),
    "delete": lambda s3, bucket: s3.delete(bucket, "k"),
    "copy": lambda s3, bucket: s3.copy((bucket, Entry("k", 1, etag="e")), bucket, "l"),
    "part": lambda s3, bucket: s3.upload_part(bucket, "k", "id", 1, b"x", 1),
}


@pytest.fixture
def asked(monkeypatch):
    """The hosts that requests go to, and how they are signed. Nobody is there."""
    seen = []

    def exchange(_transport, _method, url, target, headers, _body):
        said = headers.get("Authorization", target)
        said = said.decode() if isinstance(said, bytes) else said
        found = re.search(r"AWS4-[A-Z0-9-]+", said)
        seen.append((urlsplit(url).hostname, found[0] if found else said))
        raise EndpointConnectionError(endpoint_url=url)

    monkeypatch.setattr("mimicfs.s3.transport.http.Transport.exchange", exchange)
    return seen


@pytest.fixture
def at_aws(mimicdb):
    """Ours, which asks AWS."""
    made = []

    def make(**options):
        made.append(S3(S3Options(region="us-east-1", attempts=1, **options), mimicdb))
        return made[-1]

    yield make
    mimicdb.close()
    made[0].close()


@pytest.mark.parametrize(
    ("options", "bucket", "host"),
    [
        ({}, f"{AP}:name", "name-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"),
        (
            {"dualstack": True},
            f"{AP}:name",
            "name-123456789012.s3-accesspoint.dualstack.eu-west-1.amazonaws.com",
        ),
        ({"dualstack": True}, "bucket", "bucket.s3.dualstack.us-east-1.amazonaws.com"),
        ({"accelerate": True}, "bucket", "bucket.s3-accelerate.amazonaws.com"),
        (
            {"accelerate": True, "dualstack": True},
            "bucket",
            "bucket.s3-accelerate.dualstack.amazonaws.com",
        ),
        ({"fips": True}, "bucket", "bucket.s3-fips.us-east-1.amazonaws.com"),
        (
            {"fips": True, "dualstack": True},
            "bucket",
            "bucket.s3-fips.dualstack.us-east-1.amazonaws.com",
        ),
        ({"addressing": "path"}, "bucket", "s3.amazonaws.com"),
        ({}, "with.dots", "s3.amazonaws.com"),
    ],
)
def test_every_request_goes_to_the_endpoint_that_is_said(
    options, bucket, host, asked, at_aws, server
):
    s3 = at_aws(**options)
    for ask in ASKS.values():
        with pytest.raises(S3Unavailable):
            ask(s3, bucket)
    assert set(asked) == {(host, "AWS4-HMAC-SHA256")}
    assert len(asked) >= len(ASKS)


def test_a_multi_region_access_point_is_asked_with_a_signature_for_all_regions(
    asked, at_aws, monkeypatch, server
):
    monkeypatch.setattr("mimicfs.s3.transport.everywhere.HAS_CRT", True)
    for name in ("s3v4a", "s3v4a-query"):  # conftest.py leaves them out of botocore
        monkeypatch.setitem(botocore.auth.AUTH_TYPE_MAPS, name, CRT_AUTH_TYPE_MAPS[name])
    s3 = at_aws()
    for ask in ASKS.values():
        with pytest.raises(S3Unavailable):
            ask(s3, MRAP)
    assert set(asked) == {
        ("mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com", "AWS4-ECDSA-P256-SHA256")
    }


@pytest.mark.parametrize("ask", ["head", "list"])
def test_without_awscrt_a_multi_region_access_point_says_what_it_needs(ask, asked, at_aws, server):
    with pytest.raises(ConfigError, match=r"needs awscrt: pip install 'mimicfs\[crt\]'"):
        ASKS[ask](at_aws(), MRAP)
    assert asked == []


def test_what_a_server_can_is_said_in_known_words(server):
    from mimicfs.config.values import parse_capabilities

    assert parse_capabilities("delete-many=no, checksum=md5") == {
        "delete-many": "no",
        "checksum": "md5",
    }
    with pytest.raises(ConfigError, match="checksum is one of crc32, md5, none"):
        parse_capabilities("checksum=sha9")
