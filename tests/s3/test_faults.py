"""S3 and the network misbehave: what passes is asked again; what stays is an error, in time; and
no byte is ever wrong. At exact points, then by chance."""

from __future__ import annotations

import errno
import itertools
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.clients import plain
from support.faults import Drip, Headers, Refuse, Reset, Stall
from support.mounts import wait_until
from support.proxy import Lose, LoseOne, Proxy, Request

from mimicfs import stragglers
from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.errors import (
    AccessDenied,
    CredentialsError,
    MimicError,
    ObjectChanged,
    S3Error,
    S3Unavailable,
    Throttled,
)
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.borrowed import BorrowedS3
from mimicfs.s3.requests.client import S3

pytestmark = pytest.mark.slow

_buckets = itertools.count()
BODY = random.Random(1).randbytes(300_000)
LIMITS: dict[str, Any] = {"read_timeout_s": 0.4, "connect_timeout_s": 1.0, "request_timeout_s": 1.2}
# These leave a server under load the time to answer, and to take in megabytes.
PATIENT: dict[str, Any] = {name: 5 * limit_s for name, limit_s in LIMITS.items()}


# One server will do, and one of each for all tests: it is the proxy that misbehaves.


@pytest.fixture(scope="module")
def proxy(moto: str) -> Iterator[Proxy]:
    proxy = Proxy(moto)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def client(moto: str) -> Iterator[Any]:
    client = plain(moto)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def no_thread_left() -> None:
    """The client and the mirror are of the whole module, and so are their threads."""


@pytest.fixture(autouse=True)
def nobody_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What S3 has not answered is asked about for minutes: in the tests that come next, too."""
    monkeypatch.setattr(stragglers, "FIRST_S", 3600.0)


@pytest.fixture(scope="module")
def shared(proxy: Proxy) -> Iterator[S3]:
    mimicdb = Mirror(Memory())
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=3, **PATIENT), mimicdb)
    yield s3
    s3.close()
    mimicdb.close()


@pytest.fixture
def s3(shared: S3) -> S3:
    return shared


@pytest.fixture
def hasty(proxy: Proxy, shared: S3) -> Iterator[S3]:
    """One that waits for half a second."""
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=3, **LIMITS), shared.mimicdb)
    yield s3
    s3.close()


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"faults-{next(_buckets)}"
    client.create_bucket(Bucket=name)
    return name


def read(s3: S3, bucket: str, key: str = "a") -> bytes:
    entry = s3.mimicdb.entry(bucket, key)
    assert entry is not None
    buffer = bytearray(entry.size)
    s3.read_into(bucket, key, entry.etag, 0, memoryview(buffer))
    return bytes(buffer)


def put(s3: S3, bucket: str) -> bytes:
    s3.put(bucket, "b", BODY, len(BODY))
    return read(s3, bucket, "b")


# By each way to ask: our own of file data, that of listings, botocore's.
ASK = {
    "GET": read,
    "PUT": put,
    "LIST": lambda s3, bucket: [entry.key for entry in s3.list_page(bucket, "a").entries],
    "HEAD": lambda s3, bucket: s3.head(bucket, "a")[0].size,
}
GETS = {"GET": BODY, "PUT": BODY, "LIST": ["a"], "HEAD": 300_000}
FAULTS = {
    "SlowDown": lambda asked, times: Refuse(asked, 503, "SlowDown", times=times),
    "InternalError": lambda asked, times: Refuse(asked, 500, "InternalError", times=times),
    "reset before": lambda asked, times: Reset(asked, None, times=times),
    "answer lost": lambda asked, times: Lose(asked, times=times),
    "stall before": lambda asked, times: Stall(asked, None, times=times),
    "reset within": lambda asked, times: Reset(asked, 100, times=times),
    "stall within": lambda asked, times: Stall(asked, 100, times=times),
}
# The answers to a HEAD and a PUT have no body in which to break off.
MATRIX = [
    (kind, fault) for kind in ASK for fault in FAULTS
    if "within" not in fault or kind in ("GET", "LIST")
]  # fmt: skip


def of(kind: str) -> Any:
    return lambda request: request.kind == kind


@pytest.fixture
def full(s3: S3, bucket: str, proxy: Proxy) -> str:
    """The bucket, with an object that is in the mirror."""
    s3.put(bucket, "a", BODY, len(BODY))
    proxy.counted()
    return bucket


@pytest.mark.parametrize(("kind", "fault"), MATRIX)
def test_what_passes_is_asked_again(s3, hasty, full, proxy, kind, fault):
    with proxy.rule(FAULTS[fault](of(kind), 1)):
        assert ASK[kind](hasty if "stall" in fault else s3, full) == GETS[kind]
    assert proxy.counted()[kind] == 2


@pytest.mark.parametrize(
    ("kind", "fault", "error", "number"),
    [
        ("GET", "SlowDown", Throttled, errno.EAGAIN),
        ("GET", "reset within", S3Unavailable, errno.EIO),
        ("GET", "stall before", S3Unavailable, errno.EIO),
        ("PUT", "InternalError", S3Unavailable, errno.EIO),
        ("PUT", "answer lost", S3Unavailable, errno.EIO),
        ("LIST", "stall within", S3Unavailable, errno.EIO),
        ("LIST", "SlowDown", Throttled, errno.EAGAIN),
    ],
)
def test_what_stays_is_an_error_after_the_last_attempt(
    s3, hasty, full, proxy, kind, fault, error, number
):
    rule = FAULTS[fault](of(kind), 99)
    if fault == "reset within":
        rule = Reset(of(kind), 0, times=99)  # what brings something goes on
    with proxy.rule(rule), pytest.raises(error, match=f"s3://{full}") as raised:
        ASK[kind](hasty if "stall" in fault else s3, full)
    assert proxy.counted()[kind] == 3
    assert raised.value.errno == number


@pytest.mark.parametrize("kind", ["GET", "LIST", "HEAD"])
def test_an_answer_that_comes_a_byte_at_a_time_ends_too(full, shared, proxy, kind):
    """No pause is longer than the limit for one; the whole would take half an hour."""
    once = S3(S3Options(endpoint_url=proxy.url, attempts=1, request_timeout_s=0.6), shared.mimicdb)
    with proxy.rule(Drip(of(kind), 0.01 if kind == "GET" else 0.05)):
        with pytest.raises(S3Unavailable, match=r"timed? ?out|ended early"):
            ASK[kind](once, full)
    once.close()


def test_what_broke_off_is_continued_where_it_did(s3, full, proxy):
    with proxy.rule(Reset(of("GET"), 100_000, times=2)) as rule:
        assert read(s3, full) == BODY
    assert rule.seen == 2
    assert proxy.counted() == {"GET": 3}


def test_what_is_continued_is_of_one_version(hasty, full, proxy, client):
    """Also where no version was asked for."""
    buffer = bytearray(len(BODY))
    replaced = threading.Event()

    def replace() -> None:
        rule.begun.wait(10)
        client.put_object(Bucket=full, Key="a", Body=BODY[::-1])
        replaced.set()

    with proxy.rule(Stall(of("GET"), 100_000)) as rule:
        thread = threading.Thread(target=replace)
        thread.start()
        with pytest.raises(ObjectChanged):
            hasty.read_into(full, "a", "", 0, memoryview(buffer))
        thread.join()
    assert replaced.is_set()


def test_a_refusal_in_the_middle_of_an_upload_is_heard(s3, full, proxy):
    body = bytes(8 << 20)
    with proxy.rule(Refuse(of("PUT"), 503, "SlowDown", early=True)):
        assert s3.put(full, "b", body, len(body)).size == len(body)
    with proxy.rule(Refuse(of("PUT"), 403, "AccessDenied", early=True, times=99)):
        with pytest.raises(S3Error, match="AccessDenied") as raised:
            s3.put(full, "b", body, len(body))
    assert raised.value.errno == errno.EACCES


def test_an_upload_that_nobody_takes_in_is_sent_again(s3, full, proxy):
    body = random.Random(2).randbytes(16 << 20)  # more than fits between the two
    with proxy.rule(Stall(of("PUT"), None, early=True)) as rule:
        s3.put(full, "b", body, len(body))
    assert rule.seen == 1
    assert read(s3, full, "b") == body


def test_an_answer_of_another_version_is_no_data(s3, full, proxy):
    with proxy.rule(Headers(of("GET"), {"ETag": '"0123456789abcdef0123456789abcdef"'})):
        with pytest.raises(ObjectChanged, match="open it again"):
            read(s3, full)
    s3.head(full, "a")  # the mirror believed it; what S3 says now repairs that
    assert read(s3, full) == BODY


def test_an_upload_whose_answer_names_another_version_is_found_out(s3, full, proxy):
    with proxy.rule(Headers(of("PUT"), {"ETag": '"0123456789abcdef0123456789abcdef"'})):
        s3.put(full, "b", BODY, len(BODY))
    with pytest.raises(ObjectChanged, match="open it again"):
        read(s3, full, "b")
    assert read(s3, full, "b") == BODY


@pytest.mark.parametrize("said", ["7-300006/300007", "0-49/5", "0-49/1e9", "0-9/300000"])
def test_an_answer_of_another_range_is_no_data_and_teaches_nothing(s3, full, proxy, said):
    s3.head(full, "a")
    known = s3.mimicdb.entry(full, "a")
    for start, size in ((0, 300_000), (0, 50), (100, 50)):  # all of it, and parts
        with proxy.rule(Headers(of("GET"), {"Content-Range": f"bytes {said}"})):
            with pytest.raises(S3Unavailable, match="asked for"):
                s3.read_into(full, "a", known.etag, start, memoryview(bytearray(size)))
        assert s3.mimicdb.entry(full, "a") == known


# Credentials


def signed_by(key_id: str) -> Any:
    """Requests that are signed with this key, in a header or in their address."""

    def matches(request: Request) -> bool:
        said = [
            request.headers.get("Authorization", ""),
            *request.query.get("X-Amz-Credential", ""),
        ]
        return any(f"{key_id}/" in text for text in said)

    return matches


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the file that the credentials are in."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))

    def write(key_id: str) -> None:
        path.write_text(f"[default]\naws_access_key_id={key_id}\naws_secret_access_key=secret\n")

    write("OLD")
    return write


@pytest.fixture
def signing(keys: Any, proxy: Proxy, shared: S3) -> Iterator[S3]:
    """One that signs with what is in the file."""
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=3, **PATIENT), shared.mimicdb)
    s3.check_credentials()
    yield s3
    s3.close()


@pytest.mark.parametrize("kind", sorted(ASK))
@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "InvalidAccessKeyId")])
def test_credentials_that_expire_are_renewed_in_flight(
    keys, signing, full, proxy, kind, status, code
):
    if (kind, status) == ("HEAD", 403):
        kind = "LIST"  # the answer to a HEAD does not say more than 403
    with proxy.rule(Refuse(signed_by("OLD"), status, code, times=99)) as rule:
        keys("NEW")
        assert ASK[kind](signing, full) == GETS[kind]
        # A HEAD is refused without a code: our wire hands it to botocore, refused as well.
        refused = 2 if kind == "HEAD" else 1
        assert rule.seen == refused
        assert read(signing, full) == BODY
        assert rule.seen == refused


def test_credentials_that_nobody_renews_are_an_error_at_once(keys, signing, full, proxy):
    with proxy.rule(Refuse(signed_by("OLD"), 400, "ExpiredToken", times=99)) as rule:
        for ask in (ASK["GET"], ASK["PUT"], ASK["LIST"]):
            with pytest.raises(CredentialsError, match=r"ExpiredToken.*renew the credentials"):
                ask(signing, full)
        assert rule.seen == 3


def test_threads_renew_credentials_once(keys, signing, full, proxy):
    with proxy.rule(Refuse(signed_by("OLD"), 400, "ExpiredToken", times=99)):
        keys("NEW")
        reads = [signing.pool.submit(read, signing, full) for _ in range(8)]
        assert [future.result() for future in reads] == [BODY] * 8
    assert signing._credentials.get_frozen_credentials().access_key == "NEW"


# Other regions, other hosts


def signed_for_elsewhere(request: Request) -> bool:
    said = [request.headers.get("Authorization", ""), *request.query.get("X-Amz-Credential", "")]
    return any("/us-east-1/" in text for text in said)


@pytest.mark.parametrize("kind", sorted(ASK))
@pytest.mark.parametrize(
    ("status", "code"),
    [(301, "PermanentRedirect"), (307, "TemporaryRedirect"), (400, "AuthorizationHeaderMalformed")],
)
def test_a_bucket_in_another_region_is_asked_there(s3, full, proxy, kind, status, code):
    said = {"headers": {"x-amz-bucket-region": "eu-west-1"}, "more": "<Region>eu-west-1</Region>"}
    with proxy.rule(Refuse(signed_for_elsewhere, status, code, **said, times=99)) as rule:
        assert ASK[kind](s3, full) == GETS[kind]
        seen = rule.seen
        assert seen <= 2
        assert ASK[kind](s3, full) == GETS[kind]
        assert rule.seen == seen  # known from then on


def test_a_client_of_ones_own_stays_at_its_endpoint_in_another_region(full, proxy):
    own = plain(proxy.url)
    lister = BorrowedS3(own)
    said = {"headers": {"x-amz-bucket-region": "eu-west-1"}}
    with proxy.rule(Refuse(signed_for_elsewhere, 301, "PermanentRedirect", **said, times=99)):
        assert [entry.key for entry in lister.list_page(full).entries] == ["a"]
    lister.close()
    own.close()


@pytest.fixture
def stranger() -> Iterator[Any]:
    """A server at another host, which notes what it is asked."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append((self.path, self.headers))
            self.send_error(404)

        do_GET = do_PUT = do_HEAD = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.2:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("kind", sorted(ASK))
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_never_followed(s3, full, proxy, stranger, kind, status):
    url, asked = stranger
    headers = {"Location": f"{url}/{full}/a"}
    refuse = Refuse(lambda request: True, status, "TemporaryRedirect", headers=headers, times=99)
    with proxy.rule(refuse):
        with pytest.raises(S3Error, match=f"s3://{full}"):
            ASK[kind](s3, full)
    assert asked == []


@pytest.mark.parametrize("region", ["127.0.0.2/x", "evil.example#", "a b", "127.0.0.2:80"])
def test_a_region_that_is_none_is_an_error(s3, full, proxy, stranger, region):
    """A region becomes part of an address."""
    _, asked = stranger
    headers = {"x-amz-bucket-region": region}
    for ask in ASK.values():
        refuse = Refuse(lambda request: True, 301, "PermanentRedirect", headers=headers, times=99)
        with proxy.rule(refuse), pytest.raises(MimicError, match="check --region"):
            ask(s3, full)
    assert asked == []


# By chance


@pytest.mark.parametrize("seed", [1, 2])
def test_on_a_bad_day_bytes_are_right_or_not_there(shared, bucket, proxy, client, seed):
    """A third of the requests meet some fault, while writers and readers go on."""
    options = S3Options(endpoint_url=proxy.url, attempts=5, **LIMITS)
    s3 = S3(options, shared.mimicdb)

    def data(request: Request) -> bool:
        return request.kind in ("GET", "PUT")

    faults: list[Any] = [
        Refuse(data, 503, "SlowDown", times=-1, chance=0.08, seed=seed),
        Refuse(data, 500, "InternalError", times=-1, chance=0.05, seed=seed + 10),
        Reset(data, None, times=-1, chance=0.05, seed=seed + 20),
        Reset(of("GET"), 50_000, times=-1, chance=0.1, seed=seed + 30),
        Stall(of("GET"), 1000, times=-1, chance=0.03, seed=seed + 40),
        Refuse(of("PUT"), 503, "SlowDown", early=True, times=-1, chance=0.05, seed=seed + 50),
    ]
    confirmed: dict[str, bytes] = {}

    def work(part: int) -> int:
        chance, failed = random.Random(seed * 100 + part), 0
        for n in range(12):
            key, body = f"{part}/{n % 4}", chance.randbytes(chance.randrange(1, 200_000))
            try:
                s3.put(bucket, key, body, len(body))
            except S3Error:
                confirmed.pop(key, None)
                failed += 1
                continue
            confirmed[key] = body
            try:
                assert read(s3, bucket, key) == body
            except S3Error:
                failed += 1
        return failed

    for fault in faults:
        proxy._rules.append(fault)
    failed = sum(s3.pool.map(work, range(4)))
    for fault in faults:
        proxy._rules.remove(fault)
        fault.end()
    assert failed <= 5  # of 96: the attempts suffice
    for key, body in confirmed.items():
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        assert read(s3, bucket, key) == body
    s3.close()


def test_what_is_refused_after_a_lost_answer_is_asked_of_s3(s3, bucket, proxy, client):
    with proxy.rule(LoseOne(of("PUT"))), pytest.raises(AccessDenied):
        s3.put(bucket, "a", b"aaaaaaaaa", 9)
    wait_until(lambda: not s3.mimicdb.backend.unsettled(bucket))
    entry = s3.mimicdb.entry(bucket, "a")
    assert entry is not None
    assert entry.etag == client.head_object(Bucket=bucket, Key="a")["ETag"].strip('"')
