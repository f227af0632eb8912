"""Where a bucket is asked, and what each request says of it."""

import base64
import socket

import pytest
from support.proxy import Fail

from mimicfs.backends.memory import Memory
from mimicfs.config.values import BucketOptions, Buckets, S3Options, Target, parse_target
from mimicfs.errors import AccessDenied, ConfigError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3

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
        getattr(s3, first)(*(bucket, "a", b"", 0) if first == "put" else (bucket,))
        s3.put(bucket, "b", b"abc", 3)
        assert "b" in [entry.key for entry in s3.list_page(bucket).entries]
    assert rule.hosts[-1] == f"{bucket}.{HOST}"
    s3.close()
    again = opened(url, mimicdb)
    with proxy.rule(Hosts(code)) as rule:
        again.list_page(bucket)
    assert rule.hosts == [f"{bucket}.{HOST}"]
    again.close()


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


def test_each_request_for_bytes_has_the_key_of_sse_c(proxy, bucket):
    key = bytes(range(32))
    s3 = opened(proxy.url, buckets=Buckets(BucketOptions(sse_c_key=key)))
    seen = []

    def note(request):
        name = "x-amz-server-side-encryption-customer-key"
        seen.append((request.kind, request.headers[name], request.headers[f"{name}-MD5"]))

    with proxy.rule(Fail(note, 500, "")):
        entry = s3.put(bucket, "a", b"abc", 3)
        s3.head(bucket, "a")
        s3.read_into(bucket, "a", entry.etag, 0, memoryview(bytearray(3)))
    said = (base64.b64encode(key).decode(), "tP/LI3N87DFaSk0aoqYgzg==")
    assert {kind for kind, *_ in seen} == {"PUT", "HEAD", "GET"}
    assert {tuple(rest) for _, *rest in seen} == {said}
    assert "customer" not in repr(s3._options)
    assert repr(key) not in repr(s3._options)
    s3.close()


AP = "arn:aws:s3:eu-west-1:123456789012:accesspoint"


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
    ],
)
def test_an_access_point_is_a_bucket(url, target, server):
    assert parse_target(url) == target


def test_an_access_point_is_asked_where_boto3_asks_it(server):
    s3 = S3(S3Options(region="eu-west-1"), Mirror(Memory()))
    assert s3._client is not None
    place = s3._wire._found(f"{AP}:name")
    assert place.host == "name-123456789012.s3-accesspoint.eu-west-1.amazonaws.com"
    s3.close()


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({"dualstack": True}, "bucket.s3.dualstack.us-east-1.amazonaws.com"),
        ({"accelerate": True}, "bucket.s3-accelerate.amazonaws.com"),
        ({"fips": True}, "bucket.s3-fips.us-east-1.amazonaws.com"),
        ({"addressing": "path"}, "s3.amazonaws.com"),
    ],
)
def test_aws_is_asked_at_the_endpoint_that_is_said(options, host, server):
    s3 = S3(S3Options(region="us-east-1", **options), Mirror(Memory()))
    assert s3._client is not None
    assert s3._wire._found("bucket").host == host
    s3.close()


def test_what_a_server_can_is_said_in_known_words(server):
    from mimicfs.config.values import parse_capabilities

    assert parse_capabilities("delete-many=no, checksum=md5") == {
        "delete-many": "no",
        "checksum": "md5",
    }
    with pytest.raises(ConfigError, match="checksum is one of crc32, md5, none"):
        parse_capabilities("checksum=sha9")
