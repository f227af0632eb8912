"""Every request of ours goes where boto3's own call of it would, and is signed for the same region;
the addresses that a program has its own client presign are botocore's."""

import os
import re
from dataclasses import replace
from http.client import HTTPMessage
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, EndpointConnectionError

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.config.settled import settle
from mimicfs.config.values import BucketOptions, Buckets, S3Options
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
OUTPOST = "arn:aws:s3-outposts:eu-west-1:123456789012:outpost:op-01ac5d28a6a232904:accesspoint:name"
ALIAS = "name-o01000ac5d28a6a2329049c8b7e6d5c4b3a2f1e0d1c2b3a4f5e6d7c8b9a0--op-s3"
NAMES = ["bucket", "with.dots", "Upper", ARN, "name-abc-s3alias", "192.168.1.1", OUTPOST, ALIAS]
OTHERS = ["us-east-1", "cn-north-1", "us-gov-west-1", "aws-global", "us-iso-east-1"]
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
    return by_options(S3Options(region=region, **options))


def by_options(options):
    s3, seen = S3(replace(options, attempts=1), Mirror(Memory())), set()

    def exchange(_method, url, target, headers, _body):
        seen.add(address(url, target.partition("?")[0], headers.get("Authorization", target)))
        raise EndpointConnectionError(endpoint_url=url)

    s3._transport.exchange = exchange
    return s3, seen


def close(s3):
    s3.close()
    s3.mimicdb.close()


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
    close(s3)
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
    close(s3)


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


OF_S3 = "[default]\nregion = {}\ns3 =\n  {}\n".format
IRELAND = "[default]\nregion = eu-west-1\n"
AT_MINIO = f"{IRELAND}endpoint_url = http://minio.test:9000\n"
CONFIGURATIONS = {
    "no region": ("", {}),
    "path": (OF_S3("eu-west-1", "addressing_style = path"), {}),
    "virtual": (OF_S3("eu-west-1", "addressing_style = virtual"), {}),
    "virtual in China": (OF_S3("cn-northwest-1", "addressing_style = virtual"), {}),
    "dualstack of S3": (OF_S3("eu-west-1", "use_dualstack_endpoint = true"), {}),
    "accelerate": (OF_S3("eu-west-1", "use_accelerate_endpoint = true"), {}),
    "accelerate and dualstack": (
        OF_S3("eu-west-1", "use_accelerate_endpoint = true\n  use_dualstack_endpoint = true"),
        {},
    ),
    "path and accelerate": (
        OF_S3("eu-west-1", "use_accelerate_endpoint = true\n  addressing_style = path"),
        {},
    ),
    "dualstack": ("[default]\nregion = eu-west-1\nuse_dualstack_endpoint = true\n", {}),
    "fips": ("[default]\nregion = us-gov-east-1\nuse_fips_endpoint = true\n", {}),
    "fips where there is none": ("[default]\nregion = eu-west-1\nuse_fips_endpoint = true\n", {}),
    "by variables": (
        "[default]\nregion = us-west-2\n",
        {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
    ),
    "regional": (OF_S3("us-east-1", "us_east_1_regional_endpoint = regional"), {}),
    "legacy": (OF_S3("us-east-1", "us_east_1_regional_endpoint = legacy"), {}),
    "regional by a variable": (
        "[default]\nregion = us-east-1\n",
        {"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"},
    ),
    "defaults mode": ("[default]\nregion = us-east-1\ndefaults_mode = standard\n", {}),
    "ARNs of this region alone": (OF_S3("us-east-1", "use_arn_region = false"), {}),
    "ARNs by a variable": ("[default]\nregion = us-east-1\n", {"AWS_S3_USE_ARN_REGION": "false"}),
    "bodies unsigned": (OF_S3("eu-west-1", "payload_signing_enabled = false"), {}),
    "at a server": (AT_MINIO, {}),
    "at a server, virtual": (f"{AT_MINIO}s3 =\n  addressing_style = virtual\n", {}),
    "at a server, auto": (f"{AT_MINIO}s3 =\n  addressing_style = auto\n", {}),
    "at a server, dualstack": (f"{AT_MINIO}use_dualstack_endpoint = true\n", {}),
    "at a server, accelerate": (f"{AT_MINIO}s3 =\n  use_accelerate_endpoint = true\n", {}),
    "at a server over TLS": (AT_MINIO.replace("http:", "https:"), {}),
    "at a server below a path": (AT_MINIO.replace("9000", "9000/base/path/"), {}),
    "at an address": (AT_MINIO.replace("minio.test", "10.0.0.1"), {}),
    "at an address of IPv6": (AT_MINIO.replace("minio.test", "[fd00::1]"), {}),
    "at the server of a service": (
        f"{IRELAND}services = own\n[services own]\ns3 =\n  endpoint_url = http://own.test\n",
        {},
    ),
    "at the server of a variable": (
        AT_MINIO, {"AWS_ENDPOINT_URL_S3": "http://env.test", "AWS_ENDPOINT_URL": "http://no.test"}
    ),
    "at no server": (AT_MINIO, {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}),
    "at no server of a variable": (
        "[default]\nregion = eu-west-1\nignore_configured_endpoint_urls = true\n",
        {"AWS_ENDPOINT_URL_S3": "http://env.test"},
    ),
    "within a VPC": (
        AT_MINIO.replace("http://minio.test:9000", "https://bucket.vpce-1a2b3c4d-5e6f.s3.eu-west-1.vpce.amazonaws.com"),
        {},
    ),
    "of a profile": (
        f"{IRELAND}[profile other]\nregion = us-gov-west-1\nuse_fips_endpoint = true\n",
        {"AWS_PROFILE": "other"},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("text", "environ"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_each_request_goes_where_the_aws_configuration_leads(tmp_path, monkeypatch, text, environ):
    (tmp_path / "config").write_text(text)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **environ}.items():
        monkeypatch.setenv(name, value)
    s3, ours = by_options(settle({}, os.environ).settings().s3)
    session, config = boto3.session.Session(), Config(signature_version="s3v4")
    client, theirs = session.client("s3", config=config), set()
    for name in NAMES:
        for operation, ask in OURS.items():
            with pytest.raises(MimicError):
                ask(s3, name)
            theirs.add(asked_by(client, operation, name))
    assert ours == theirs - {None}
    close(s3)
    client.close()


EXPRESS = "name--use1-az4--x-s3"
SESSION = b"""<CreateSessionResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Credentials>
<SessionToken>token</SessionToken><SecretAccessKey>secret</SecretAccessKey>
<AccessKeyId>ASIA</AccessKeyId><Expiration>2099-01-01T00:00:00Z</Expiration>
</Credentials></CreateSessionResult>"""


def signed_by(url, said):
    """Return the host of a request, and the key, region and service that it is signed with."""
    said = unquote(said.decode() if isinstance(said, bytes) else said)
    found = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", said)
    return urlsplit(url).netloc, *found.groups()


ZONE = "s3express-use1-az4.us-east-1.amazonaws.com"


@pytest.mark.parametrize("operation", [each for each in OURS if each != "get_object"])
def test_a_directory_bucket_is_asked_in_a_session_of_its_own(operation):
    """(The body of a GET is read by botocore itself, past what is looked at here.)"""
    s3, seen = opened("us-east-1")[0], []

    def exchange(_method, url, target, headers, _body):
        said = headers.get("Authorization", target)
        token = headers.get("x-amz-s3session-token", "")
        token = token.decode() if isinstance(token, bytes) else token
        seen.append((*signed_by(url, said), token or "X-Amz-S3session-Token=token" in target))
        if "session" in target.partition("?")[2].split("&"):
            return Answer(200, {"content-type": "application/xml"}, SESSION)
        raise EndpointConnectionError(endpoint_url=url)

    s3._transport.exchange = exchange
    for _ in range(2):
        with pytest.raises(MimicError):
            OURS[operation](s3, EXPRESS)
    host, listed = f"{EXPRESS}.{ZONE}", operation.startswith("list")
    assert seen[0] == (host, "AKID", "us-east-1", "s3express", False)  # for both, and a look after
    assert {*seen[1:]} == {(host, "ASIA", "us-east-1", "s3express", True if listed else "token")}
    assert s3.figures()["requests"]["GET"] >= 1
    close(s3)


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
    close(s3)


THERE = ("bucket.s3.eu-west-1.amazonaws.com", "/k", ("eu-west-1", "s3"))


@pytest.mark.parametrize(
    "said",
    [
        {"NO_PROXY": "example.com"},
        {"HTTP_PROXY": "http://127.0.0.1:9"},
        {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ".amazonaws.com"},
    ],
    ids=["none", "of http", "not here"],
)
def test_who_has_no_proxy_for_s3_goes_to_it_himself(monkeypatch, said):
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    s3, seen = opened("eu-west-1")
    with pytest.raises(MimicError):
        s3.look("bucket", "k")
    assert seen == {THERE}
    close(s3)


def test_the_proxies_are_those_that_the_environment_had_at_the_beginning(monkeypatch):
    s3, seen = opened("eu-west-1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(MimicError):
        s3.look("bucket", "k")
    assert seen == {THERE}
    close(s3)


@pytest.mark.parametrize("status", [301, 307])
def test_who_pays_who_owns_and_the_key_of_sse_c_go_along_to_another_region(status):
    options = BucketOptions(requester_pays=True, sse_c_key=bytes(32))
    s3 = opened("eu-west-1", buckets=Buckets(options), bucket_owner="123456789012")[0]
    seen = []

    def exchange(method, url, target, headers, _body):
        said = {name.lower(): value for name, value in headers.items()}
        said = {n: v.decode() if isinstance(v, bytes) else v for n, v in said.items()}
        region = address(url, target, said.get("authorization", target))[2][0]
        kind = "LIST" if "list-type=2" in target else method if "/k" in target else "bucket"
        more = said.get("x-amz-server-side-encryption-customer-key", "")
        seen.append((kind, region, said.get("x-amz-request-payer"), bool(more)))
        assert said["x-amz-expected-bucket-owner"] == "123456789012"
        if region != "ap-south-1":
            return Answer(
                status, {"x-amz-bucket-region": "ap-south-1", "location": "http://no.test"}
            )
        return Answer(200, {**FOUND, "x-amz-request-id": "1"}, LISTED if kind == "LIST" else b"")

    s3._transport.exchange = exchange
    assert s3.look("bucket", "k").size == 3
    s3.put("bucket", "k", b"abc", 3)
    assert [entry.key for entry in s3.list_page("bucket").entries] == ["k"]
    s3.delete("bucket", "k")
    close(s3)
    there = [each for each in seen if each[1] == "ap-south-1"]
    assert [each for each in there if each[0] != "bucket"] == [
        ("HEAD", "ap-south-1", "requester", True),
        ("PUT", "ap-south-1", "requester", True),
        ("LIST", "ap-south-1", "requester", False),
        ("DELETE", "ap-south-1", "requester", False),
    ]
    assert len(seen) - len(there) < 4  # once it is known, nobody is asked here


LISTED = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>"
    b"<LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>e</ETag><Size>3</Size></Contents>"
    b"</ListBucketResult>"
)
FOUND = {
    "etag": '"e"',
    "content-length": "3",
    "last-modified": "Sat, 28 Nov 2026 09:00:00 GMT",
}


class Answer:
    """An answer that is here."""

    def __init__(self, status, headers, body=b""):
        self.status, self.headers = status, headers
        self.msg = HTTPMessage()
        self._body = body

    def rest(self, _limit=None):
        return self._body

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
