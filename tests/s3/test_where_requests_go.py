"""Every request of ours goes where boto3's own call of it would, and is signed for the same region;
the addresses that a program has its own client presign are botocore's."""

import re
from http.client import HTTPMessage
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, EndpointConnectionError

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.borrowed import BorrowedS3
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.versions import Marker

OURS = {
    "get_object": lambda s3, name: s3.read_into(name, "k", "e", 0, memoryview(bytearray(3))),
    "head_object": lambda s3, name: s3.head(name, "k"),
    "put_object": lambda s3, name: s3.put(name, "k", b"x", 1),
    "upload_part": lambda s3, name: s3.upload_part(name, "k", "id", 1, b"x", 1),
    "list_objects_v2": lambda s3, name: s3.list_page(name),
    "list_object_versions": lambda s3, name: s3.version_page(name, "", Marker()),
    "delete_object": lambda s3, name: s3.delete(name, "k"),
}
THEIRS = {
    "get_object": {"Key": "k"},
    "head_object": {"Key": "k"},
    "put_object": {"Key": "k", "Body": b"x"},
    "upload_part": {"Key": "k", "Body": b"x", "UploadId": "id", "PartNumber": 1},
    "list_objects_v2": {},
    "list_object_versions": {},
    "delete_object": {"Key": "k"},
}
ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint:name"
NAMES = ["bucket", "with.dots", "Upper", ARN, "name-abc-s3alias", "192.168.1.1"]
OTHERS = ["us-east-1", "cn-north-1", "us-gov-west-1", "aws-global"]
REGIONS = ["eu-west-1", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]
OPTIONS = {
    "auto": {},
    "path": {"addressing": "path"},
    "virtual": {"addressing": "virtual"},
    "dualstack": {"dualstack": True},
    "fips": {"fips": True},
    "accelerate": {"accelerate": True},
}


def address(url, path, said):
    """Return where a request goes, and the region and the service that it is signed for."""
    said = unquote(said.decode() if isinstance(said, bytes) else said)
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", said)
    return urlsplit(url).netloc, path, scope.groups() if scope else None


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch):
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def opened(region, **options):
    """Return ours, and where its requests go: a set. Nobody is there."""
    s3, seen = S3(S3Options(region=region, attempts=1, **options), Mirror(Memory())), set()

    def exchange(_method, url, target, headers, _body):
        seen.add(address(url, target.partition("?")[0], headers.get("Authorization", target)))
        raise EndpointConnectionError(endpoint_url=url)

    s3._transport.exchange = exchange
    return s3, seen


def boto3s(region, *, addressing=None, dualstack=None, fips=None, accelerate=False):
    style = {"addressing_style": addressing} if addressing else {}
    config = Config(
        signature_version="s3v4",
        use_dualstack_endpoint=dualstack,
        use_fips_endpoint=fips,
        s3={"use_accelerate_endpoint": accelerate, **style},
    )
    return boto3.client("s3", region_name=region, config=config)


def asked_by(client, operation, name):
    """Return where *client* would ask; None: it refuses to."""
    seen = []

    def note(request, **_):
        path = urlsplit(request.url).path or "/"
        seen.append(address(request.url, path, request.headers["Authorization"]))
        raise _Noted

    client.meta.events.register("before-send.s3", note)
    try:
        getattr(client, operation)(Bucket=name, **THEIRS[operation])
    except _Noted:
        return seen[0]
    except BotoCoreError:
        return None
    finally:
        client.meta.events.unregister("before-send.s3", note)
    raise AssertionError("unreachable")


class _Noted(Exception):
    pass


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_each_request_goes_where_that_of_boto3_goes(region, options):
    s3, ours = opened(region, **OPTIONS[options])
    client, theirs = boto3s(region, **OPTIONS[options]), set()
    for name in NAMES:
        for operation, ask in OURS.items():
            with pytest.raises(MimicError):
                ask(s3, name)
            theirs.add(asked_by(client, operation, name))
    assert ours == theirs - {None}
    s3.close()
    client.close()


@pytest.mark.parametrize(
    ("region", "name", "host"),
    [
        ("us-east-1", "bucket", "bucket.s3.amazonaws.com"),
        ("eu-west-1", "bucket", "bucket.s3.eu-west-1.amazonaws.com"),
        ("eu-west-1", "with.dots", "s3.eu-west-1.amazonaws.com"),
        ("cn-north-1", "bucket", "bucket.s3.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "bucket", "bucket.s3.us-gov-west-1.amazonaws.com"),
        ("aws-global", "bucket", "bucket.s3.amazonaws.com"),
    ],
)
def test_a_bucket_of_a_region_is_asked_at_the_host_of_the_region(region, name, host):
    s3, asked = opened(region)
    for ask in OURS.values():
        with pytest.raises(MimicError):
            ask(s3, name)
    assert {where for where, _, _ in asked} == {host}
    assert urlsplit(s3.link(name, "k", "", 60)).netloc == host
    s3.close()


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_sync_by_a_borrowed_client_asks_where_the_client_asks(region, options):
    client = boto3s(region, **OPTIONS[options])
    s3 = BorrowedS3(client)
    for name in NAMES:
        seen = []

        def sent(request, seen=seen):
            seen.append(address(request.url, urlsplit(request.url).path or "/", request.url))
            raise EndpointConnectionError(endpoint_url="")

        s3._lister._transport.sent = sent
        s3._lister._options = S3Options(attempts=1)
        with pytest.raises(MimicError):
            s3.list_page(name)
        there = asked_by(client, "list_objects_v2", name)
        assert seen == ([there] if there else [])
    s3.close()
    client.close()


CONFIGURATION = """
[default]
endpoint_url = http://minio.test:9000
use_fips_endpoint = true
s3 =
  addressing_style = path
[profile aws]
region = eu-west-1
[profile dual]
region = eu-west-1
use_dualstack_endpoint = true
"""


@pytest.mark.parametrize(
    ("profile", "use_ssl", "url"),
    [
        ("aws", True, "https://bucket.s3.eu-west-1.amazonaws.com/"),
        ("aws", False, "http://bucket.s3.eu-west-1.amazonaws.com/"),
        ("dual", True, "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/"),
    ],
)
def test_a_borrowed_client_of_another_profile_asks_where_that_says(
    tmp_path, monkeypatch, profile, use_ssl, url
):
    (tmp_path / "config").write_text(CONFIGURATION)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret"}
    client = boto3.session.Session(profile_name=profile).client("s3", use_ssl=use_ssl, **keys)
    signer = BorrowedS3(client)._signer(None)
    presigned = signer.generate_presigned_url("list_objects_v2", {"Bucket": "bucket"})
    assert presigned.partition("?")[0] == url
    seen = []

    def note(request, **_):
        seen.append(request.url.partition("?")[0])
        raise _Noted

    client.meta.events.register("before-send.s3", note)
    with pytest.raises(_Noted):
        client.list_objects_v2(Bucket="bucket")
    assert seen == [url]
    signer.close()
    client.close()


def test_a_bucket_that_has_been_found_elsewhere_is_asked_there():
    s3, seen = opened("eu-west-1")[0], []

    def exchange(_method, url, target, headers, _body):
        seen.append(address(url, target, headers["Authorization"]))
        moved = seen[-1][2][0] != "ap-south-1"
        return Answer(301, {"x-amz-bucket-region": "ap-south-1"}) if moved else Answer(200, FOUND)

    s3._transport.exchange = exchange
    here = ("bucket.s3.eu-west-1.amazonaws.com", "/k", ("eu-west-1", "s3"))
    there = ("bucket.s3.ap-south-1.amazonaws.com", "/k", ("ap-south-1", "s3"))
    assert s3.look("bucket", "k").size == 3
    assert seen == [here, here, there]  # ours, botocore's, and botocore's where S3 has said
    assert s3.look("bucket", "k").size == 3
    assert seen[3:] == [there]
    place = s3._wire._places["bucket"]
    assert (place.host, place.region) == ("bucket.s3.ap-south-1.amazonaws.com", "ap-south-1")
    s3.close()


FOUND = {
    "etag": '"e"',
    "content-length": "3",
    "last-modified": "Sat, 28 Nov 2026 09:00:00 GMT",
}


class Answer:
    """An answer without a body."""

    def __init__(self, status, headers):
        self.status, self.headers = status, headers
        self.msg = HTTPMessage()

    def rest(self, _limit=None):
        return b""

    def close(self):
        pass


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("name", ["bucket", "with.dots"])
def test_what_a_program_has_its_own_client_presign_is_botocores(region, name):
    mirror = MimicDB(Memory())
    mimicked, plain = mirror.client(region_name=region), boto3.client("s3", region_name=region)
    s3 = BorrowedS3(mimicked)
    s3._lister  # noqa: B018  which makes a signer of its own
    ours, theirs = (
        client.generate_presigned_url("get_object", {"Bucket": name, "Key": "k"}).partition("?")[0]
        for client in (mimicked, plain)
    )
    assert ours == theirs
    if (region, name) == ("eu-west-1", "bucket"):
        assert ours == "https://bucket.s3.amazonaws.com/k"
    s3.close()
    mirror.close()
    plain.close()
