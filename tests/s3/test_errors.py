"""Every failure is one of our errors, in one line, that names the object, says what to do, and has
no secret in it."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import botocore.exceptions
import botocore.session
import pytest
from botocore.parsers import create_parser
from support.clients import plain
from support.proxy import Fail

from mimicfs import errors
from mimicfs.config.values import S3Options
from mimicfs.entry import Entry
from mimicfs.errors import (
    AccessDenied,
    ConfigError,
    CredentialsError,
    InvalidRequest,
    MalformedListing,
    MimicError,
    NoSuchBucket,
    S3Error,
    S3Unavailable,
)
from mimicfs.s3.requests.client import S3, Content
from mimicfs.s3.transport.errors import from_code, ours, translated

SECRETS = ["very-secret-key", "secret-session-token", "X-Amz-"]

CALLS = {
    "list_buckets": lambda s3, bucket: s3.list_buckets(),
    "create_bucket": lambda s3, bucket: s3.create_bucket(bucket),
    "delete_bucket": lambda s3, bucket: s3.delete_bucket(bucket),
    "list_page": lambda s3, bucket: s3.list_page(bucket, "d/", delimiter="/"),
    "head": lambda s3, bucket: s3.head(bucket, "a"),
    "read_into": lambda s3, bucket: s3.read_into(bucket, "a", "e", 0, memoryview(bytearray(9))),
    "put": lambda s3, bucket: s3.put(bucket, "a", b"x", 1),
    "copy": lambda s3, bucket: s3.copy((bucket, Entry("b", 1, etag="e")), bucket, "a"),
    "delete": lambda s3, bucket: s3.delete(bucket, "a"),
    "delete_many": lambda s3, bucket: s3.delete_many(bucket, ["a"]),
    "start_upload": lambda s3, bucket: s3.start_upload(bucket, "a", Content()),
    "upload_part": lambda s3, bucket: s3.upload_part(bucket, "a", "id", 1, b"x", 1),
    "finish_upload": lambda s3, bucket: s3.finish_upload(bucket, "a", "id", ["e"], 1),
    "abort_upload": lambda s3, bucket: s3.abort_upload(bucket, "a", "id"),
}


@pytest.fixture(params=sorted(CALLS))
def call(request):
    return CALLS[request.param]


@pytest.fixture
def ask(mimicdb, call, monkeypatch):
    """Make the request to an endpoint; return the error, which has no secret in it."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret-session-token")

    def ask(url, secrets=SECRETS, **options):
        s3 = S3(S3Options(endpoint_url=url, attempts=1, **options), mimicdb)
        with pytest.raises(MimicError) as raised:
            call(s3, "photos")
        s3.close()
        text = str(raised.value)
        assert "\n" not in text
        shown = "".join(traceback.format_exception(raised.value))
        assert [secret for secret in secrets if secret in text or secret in shown] == []
        return raised.value

    return ask


def test_nobody_is_there(ask):
    with pytest.raises(S3Unavailable, match=r"127\.0\.0\.1:9.*check --endpoint-url"):
        raise ask("http://127.0.0.1:9")


def test_an_address_that_is_none(ask):
    with pytest.raises(ConfigError, match="--endpoint-url localhost:9000: not a URL; write http"):
        raise ask("localhost:9000")
    address = "https://h/path?X-Amz-Signature=very-secret-key"
    with pytest.raises(ConfigError, match=r"an endpoint has no query; write https://h/path$"):
        raise ask(address)


# Calls that are answered with nothing cannot be told from the answer of a web site.
@pytest.mark.parametrize(
    "call",
    sorted(CALLS.keys() - {"create_bucket", "delete_bucket", "delete", "abort_upload"}),
    indirect=True,
)
def test_somebody_else_is_there(ask, website):
    error = ask(website)
    assert isinstance(error, S3Unavailable | MalformedListing)
    assert "check --endpoint-url" in str(error)


@pytest.fixture
def website():
    """A server that answers everything with a page of HTML."""
    with serving(lambda headers: (200, b"<html><body><br><h1>Welcome!</h1></body></html>")) as url:
        yield url


def repeating(headers):
    """Refuse, and repeat the headers of the request, as some servers and proxies do."""
    said = "; ".join(f"{name}: {value}" for name, value in headers.items())
    text = f"<Error><Code>InvalidToken</Code><Message>No good: {said}</Message></Error>"
    return 400, text.encode()


def test_a_server_that_repeats_what_a_request_was_signed_with_is_not_repeated(ask):
    with serving(repeating) as url:
        error = ask(url, SECRETS[:2])  # the names of headers may be there
    assert isinstance(error, CredentialsError | S3Error)


@contextlib.contextmanager
def serving(answer):
    """Yield the URL of a server that gives one *answer* to each request, by its headers."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, page = answer(self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", AccessDenied),
        (403, "InvalidAccessKeyId", CredentialsError),
        (403, "SignatureDoesNotMatch", CredentialsError),
        (400, "ExpiredToken", CredentialsError),
        (404, "NoSuchBucket", NoSuchBucket),
        (503, "SlowDown", errors.Throttled),
        (500, "InternalError", S3Unavailable),
    ],
)
def test_what_s3_refuses(mimicdb, proxy, status, code, error):
    """By each way to ask: botocore's, and the own one of listings."""
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=1), mimicdb)
    with proxy.rule(Fail(lambda request: True, status, code)):
        for name in ("put", "list_page"):
            with pytest.raises(error, match=r"s3://photos/\S*: .*" + code) as raised:
                CALLS[name](s3, "photos")
            assert type(raised.value) is error
            assert (raised.value.status, raised.value.code) == (status, code)
            if error is CredentialsError:
                assert "; " in str(raised.value)
    s3.close()


def test_no_credentials_says_where_to_give_them(mimicdb, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3 = S3(S3Options(endpoint_url="http://127.0.0.1:9", attempts=1), mimicdb)
    for ask in (s3.check_credentials, s3.list_buckets, lambda: s3.list_page("photos")):
        with pytest.raises(CredentialsError, match=r"aws configure.*AWS_ACCESS_KEY_ID.*--no-sign"):
            ask()
    s3.close()


def test_without_signing_no_credentials_are_needed(mimicdb, client, bucket, server, monkeypatch):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3 = S3(S3Options(endpoint_url=server, sign=False), mimicdb)
    s3.check_credentials()
    assert [entry.key for entry in s3.list_page(bucket).entries] == ["a"]
    assert s3.head(bucket, "a")[0].size == 1
    s3.close()


def test_a_profile_that_is_not_there(mimicdb):
    s3 = S3(S3Options(profile="nobody"), mimicdb)
    with pytest.raises(CredentialsError, match=r"nobody.*--profile"):
        s3.list_buckets()
    s3.close()


def test_a_bucket_that_is_not_there(s3, server):
    for name in ("list_page", "put"):
        with pytest.raises(NoSuchBucket, match="s3://not-there/"):
            CALLS[name](s3, "not-there")


@pytest.mark.parametrize("key", ["", "\udcff"])
def test_what_is_no_key(s3, bucket, key):
    with pytest.raises(InvalidRequest, match="s3://"):
        s3.put(bucket, key, b"x", 1)


def test_what_is_no_bucket(s3):
    with pytest.raises(InvalidRequest, match="s3://a b/"):
        s3.list_page("a b")


def test_what_a_body_raises_comes_out(s3, bucket):
    class Broken:
        def tell(self):
            return 0

        def seek(self, *_):
            return 5

        def read(self, *_):
            raise errors.Interrupted("given up")

    with pytest.raises(errors.Interrupted, match="given up"):
        s3.put(bucket, "a", Broken(), 5)


def elsewhere(code, region):
    """A server that wants to be asked in another region than us-east-1."""

    def matches(request):
        return request.kind == "LIST" and "us-east-1" in request.query["X-Amz-Credential"][0]

    rule = Fail(matches, 400 if region else 301, code)
    rule.body = f"<Error><Code>{code}</Code><Region>{region}</Region></Error>".encode()
    return rule


@pytest.mark.parametrize(
    "code", ["AuthorizationHeaderMalformed", "AuthorizationQueryParametersError"]
)
def test_a_bucket_in_another_region_is_listed_there(s3, client, bucket, proxy, code):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    with proxy.rule(elsewhere(code, "eu-west-1")) as rule:
        assert [entry.key for entry in s3.list_page(bucket).entries] == ["a"]
        assert [entry.key for entry in s3.list_page(bucket).entries] == ["a"]
        assert rule.seen == 1
    assert s3.requests["LIST"] == 3


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_redirect_that_does_not_say_where_is_asked_for(s3, bucket, proxy):
    with proxy.rule(elsewhere("PermanentRedirect", "")):
        with pytest.raises(S3Unavailable, match="region to region"):
            s3.list_page(bucket)
    assert s3.requests == {"LIST": 2, "HEAD": 1}


def test_every_error_of_botocore_is_one_of_ours():
    made = 0
    for name, found in vars(botocore.exceptions).items():
        if isinstance(found, type) and issubclass(found, botocore.exceptions.BotoCoreError):
            exc = found.__new__(found)
            Exception.__init__(exc, f"{name} http://u:pw@host/?X-Amz-Security-Token=s")
            exc.kwargs = {}
            ours = translated(exc, "s3://photos/a")
            assert isinstance(ours, S3Error | ConfigError)
            assert "pw@" not in str(ours) and "Token=s" not in str(ours)
            made += 1
    assert made > 50


def test_codes_that_are_not_known_have_the_class_of_their_status():
    for status, found in ((403, AccessDenied), (404, errors.KeyNotFound), (418, S3Error)):
        assert type(from_code("Other", status, "text", "s3://photos/a")) is found
    assert type(from_code("Other", 502, "text", "s3://photos/a")) is S3Unavailable
    assert str(from_code("Other", 418, "text", "s3://a")) == "s3://a: text (Other)"


def test_an_account_is_told_from_others_without_its_secret(mimicdb, moto, monkeypatch):
    def account(**options):
        s3 = S3(S3Options(**options), mimicdb)
        found = s3.account()
        s3.close()
        return found

    first = account(endpoint_url=moto)
    assert first == account(endpoint_url=moto)
    assert len(first) == 16 and "AKID" not in first
    others = [account(endpoint_url="http://other"), account(), account(sign=False)]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    others.append(account(endpoint_url=moto))
    assert len({first, *others}) == 5
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "changed")
    assert account(endpoint_url=moto) == others[-1]


def test_temporary_credentials_have_the_same_mirror_when_they_are_renewed(
    mimicdb, moto, monkeypatch
):
    def account():
        s3 = S3(S3Options(endpoint_url=moto), mimicdb)
        found = s3.account()
        s3.close()
        return found

    monkeypatch.setenv("AWS_SESSION_TOKEN", "first")
    first = account()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAOTHER")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "second")
    assert account() == first


@pytest.mark.slow
def test_boto3_is_not_imported_before_it_is_needed():
    program = (
        "import sys, mimicfs.s3.requests.client, mimicfs.sync;"
        "print([name for name in ('boto3', 'botocore', 'urllib3') if name in sys.modules])"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    words = [sys.executable, "-c", program]
    found = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout == "[]\n"


def test_signing_uses_the_credentials_of_boto3(mimicdb, moto):
    plain(moto).create_bucket(Bucket="signed")
    s3 = S3(S3Options(endpoint_url=moto), mimicdb)
    assert s3.list_page("signed").entries == []
    s3.close()


def test_every_error_of_the_service_model_is_one_of_ours():
    model = botocore.session.get_session().get_service_model("s3")
    shapes = [model.shape_for(name) for name in model.shape_names]
    names = [shape.metadata.get("error", {}).get("code", shape.name)
             for shape in shapes if getattr(shape, "metadata", {}).get("exception")]  # fmt: skip
    assert len(names) >= 12
    plain = [name for name in names if type(from_code(name, 400, "", "x")) is S3Error]
    assert plain == []


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        ("AccessDenied", 403, "EACCES"),
        ("NoSuchKey", 404, "ENOENT"),
        ("NoSuchBucket", 404, "ENODEV"),
        ("PreconditionFailed", 412, "ESTALE"),
        ("SlowDown", 503, "EAGAIN"),
        ("InvalidObjectState", 403, "EACCES"),
        ("EntityTooLarge", 400, "EFBIG"),
        ("KeyTooLongError", 400, "ENAMETOOLONG"),
        ("MetadataTooLarge", 400, "ENOSPC"),
        ("BucketNotEmpty", 409, "ENOTEMPTY"),
        ("BucketAlreadyExists", 409, "EEXIST"),
        ("NotImplemented", 501, "ENOTSUP"),
        ("ExpiredToken", 400, "EACCES"),
        ("InternalError", 500, "EIO"),
        ("SomethingNew", 409, "EIO"),  # the documented default
        ("SomethingNew", 403, "EACCES"),  # the status says more than the code
    ],
)
def test_what_s3_says_is_an_errno(code, status, name):
    assert errno.errorcode[from_code(code, status, "", "x").errno] == name


# The error codes that S3's API reference lists, with their statuses, by what they mean here.
DOCUMENTED = {
    "EACCES": """403 AccessDenied AccountProblem AllAccessDisabled InvalidAccessKeyId
        InvalidObjectState InvalidPayer InvalidSecurity NotSignedUp RequestTimeTooSkewed
        SignatureDoesNotMatch
        UnauthorizedAccessError NotDeviceOwnerError AccessPointAlreadyOwnedByYou
        400 ExpiredToken InvalidToken TokenRefreshRequired CredentialsNotSupported
        AuthorizationHeaderMalformed AuthorizationQueryParametersError MissingSecurityHeader
        KMS.DisabledException KMS.InvalidKeyUsageException KMS.KMSInvalidStateException
        KMS.NotFoundException
        401 UnauthorizedAccess MissingAuthenticationToken
        409 RestoreAlreadyInProgress""",
    "ENODEV": "404 NoSuchBucket",
    "ENOENT": """404 NoSuchKey NoSuchVersion NoSuchUpload NoSuchBucketPolicy
        NoSuchLifecycleConfiguration NoSuchTagSet NoSuchCORSConfiguration
        NoSuchWebsiteConfiguration NoSuchAccessPoint NoSuchMultiRegionAccessPoint
        NoSuchObjectLockConfiguration OwnershipControlsNotFoundError EndpointNotFound
        ServerSideEncryptionConfigurationNotFoundError""",
    "ESTALE": "412 PreconditionFailed 409 ConditionalRequestConflict",
    "EEXIST": "409 BucketAlreadyExists BucketAlreadyOwnedByYou",
    "ENOTEMPTY": "409 BucketNotEmpty",
    "EFBIG": "400 EntityTooLarge",
    "ENAMETOOLONG": "400 KeyTooLongError",
    "ENOSPC": "400 MetadataTooLarge TooManyBuckets",
    "ENOTSUP": "501 NotImplemented",
    "EAGAIN": "503 SlowDown ServiceUnavailable 409 OperationAborted",
    "EINVAL": """400 AccessControlListNotSupported AmbiguousGrantByEmailAddress
        CrossLocationLoggingProhibited EntityTooSmall
        IllegalVersioningConfigurationException IncorrectNumberOfFilesInPostRequest
        InlineDataTooLarge InvalidAccessPoint InvalidAddressingHeader InvalidArgument
        InvalidBucketAclWithObjectOwnership InvalidBucketName InvalidBucketOwnerAWSAccountID
        InvalidDigest InvalidEncryptionAlgorithmError InvalidHostHeader InvalidHttpMethod
        InvalidLocationConstraint InvalidPolicyDocument InvalidRegion InvalidRequest
        InvalidSessionException InvalidSignature InvalidSOAPRequest InvalidStorageClass
        InvalidTag InvalidTargetBucketForLogging InvalidURI MalformedACLError
        MalformedPOSTRequest MalformedPolicy MalformedXML MaxMessageLengthExceeded
        MaxPostPreDataLengthExceededError MissingAttachment MissingRequestBodyError
        MissingSecurityElement NoLoggingStatusForKey RequestHeaderSectionTooLarge
        RequestIsNotMultiPartContent RequestTorrentOfBucketError TokenCodeInvalidError
        UnexpectedContent UnsupportedArgument UnsupportedSignature UserKeyMustBeSpecified
        405 MethodNotAllowed 416 InvalidRange""",
    "EIO": """500 InternalError 400 BadDigest IncompleteBody InvalidPart InvalidPartOrder
        RequestTimeout IllegalLocationConstraintException IncorrectEndpoint
        XAmzContentSHA256Mismatch 301 PermanentRedirect 307 TemporaryRedirect Redirect
        409 InvalidBucketState BucketHasAccessPointsAttached ClientTokenConflict
        411 MissingContentLength""",
}


def documented():
    for name, text in DOCUMENTED.items():
        status = 0
        for word in text.split():
            if word.isdecimal():
                status = int(word)
            else:
                yield word, status, name


def test_every_code_that_s3_documents_is_an_errno():
    codes = list(documented())
    assert len(codes) > 110
    differ = [
        (code, errno.errorcode[from_code(code, status, "", "x").errno], name)
        for code, status, name in codes
    ]
    assert [each for each in differ if each[1] != each[2]] == []


def test_an_answer_of_sts_that_is_no_xml_is_told_without_the_token_in_it():
    body = b"<Credentials><SessionToken>FwoGZXIvYXdzEBYaDsecret1</SessionToken></Oops>"
    answer = {"status_code": 200, "headers": {}, "body": body}
    with pytest.raises(S3Unavailable) as refused, ours("sts"):
        create_parser("query").parse(answer, None)
    assert str(refused.value).startswith("sts: the answer is not from S3; check --endpoint-url")
    assert "FwoGZXIv" not in "".join(traceback.format_exception(refused.value))
