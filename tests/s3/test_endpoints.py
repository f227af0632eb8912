"""An endpoint may be written in every form that boto3 takes: each request is asked once, at the
place that was meant, and signed for the name that it says."""

import socket
import threading
from contextlib import closing, contextmanager
from hashlib import sha256
from hmac import digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3

LIST = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>"
    b"<LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>e</ETag><Size>3</Size></Contents>"
    b"</ListBucketResult>"
)


def signed(method, target, headers):
    """Return the signature that a request should have, and the one that it has.

    By docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and
    sigv4-query-string-auth.html."""
    path, _, query = target.partition("?")
    said = dict(parse_qsl(query, keep_blank_values=True))
    if "Authorization" in headers:
        words = headers["Authorization"].partition(" ")[2].split(", ")
        found = dict(word.split("=", 1) for word in words)
        scope, names, has = found["Credential"], found["SignedHeaders"], found["Signature"]
        at, hashed = headers["x-amz-date"], headers["x-amz-content-sha256"]
    else:
        scope, names, has = (
            said[f"X-Amz-{name}"] for name in ("Credential", "SignedHeaders", "Signature")
        )
        at, hashed = said["X-Amz-Date"], "UNSIGNED-PAYLOAD"
    pairs = sorted(
        tuple(quote(unquote(part), safe="-._~") for part in word.partition("=")[::2])
        for word in query.split("&")
        if word and not word.startswith("X-Amz-Signature=")
    )
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names.split(";"))
    asked = "&".join(f"{name}={value}" for name, value in pairs)
    request = f"{method}\n{path}\n{asked}\n{lines}\n{names}\n{hashed}"
    _, day, region, service, end = scope.split("/")
    hashed = sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{at}\n{day}/{region}/{service}/{end}\n{hashed}"
    key = b"AWS4secret"
    for word in (day, region, service, end):
        key = digest(key, word.encode(), "sha256")
    return digest(key, text.encode(), "sha256").hex(), has


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for an ACK of the head

    def log_message(self, *_):
        pass

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        should, has = signed(self.command, self.path, self.headers)
        self.server.seen.append((self.command, self.path.partition("?")[0], should == has))
        body = b"abc" if self.command == "GET" and "list-type" not in self.path else b""
        body = LIST if "list-type" in self.path else body
        self.send_response_only(200 if should == has else 403)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        length = 3 if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815


FOUND = {"ETag": '"e"', "Last-Modified": "Sat, 28 Nov 2026 09:00:00 GMT", "x-amz-request-id": "1"}


@contextmanager
def serving(host="127.0.0.1"):
    """A server that looks at signatures; `seen` are the requests, and whether theirs is right."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    with Server((host, 0), _Handler) as server:
        server.seen, server.headers = [], FOUND
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def used(s3):
    """Ask for each thing once."""
    s3.head("bucket", "a b")
    s3.read_into("bucket", "a b", "e", 0, memoryview(bytearray(3)))
    s3.put("bucket", "a b", b"abc", 3)
    s3.list_page("bucket")
    s3.delete("bucket", "a b")


@pytest.mark.parametrize(
    ("listens", "url", "base"),
    [
        ("127.0.0.1", "http://127.0.0.1:{}", ""),
        ("127.0.0.1", "http://127.0.0.1:{}/", ""),
        ("127.0.0.1", "HTTP://127.0.0.1:{}", ""),
        ("127.0.0.1", "http://user:word@127.0.0.1:{}", ""),
        ("127.0.0.1", "http://LocalHost:{}", ""),
        ("127.0.0.1", "http://localhost.:{}", ""),
        ("127.0.0.1", "http://127.0.0.1:{}/base", "/base"),
        ("127.0.0.1", "http://user@127.0.0.1:{}/base/of%20it/", "/base/of%2520it"),  # as boto3
        ("::1", "http://[::1]:{}", ""),
        ("::1", "http://user:word@[::1]:{}/base", "/base"),
    ],
)
def test_each_request_is_signed_for_what_it_says_and_asked_once(listens, url, base, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    real = socket.getaddrinfo  # does not know localhost with a dot everywhere
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real(host.rstrip("."), *a, **k)
    )
    with serving(listens) as server:
        options = S3Options(endpoint_url=url.format(server.server_port), attempts=1)
        with closing(Mirror(Memory())) as mirror, closing(S3(options, mirror)) as s3:
            used(s3)
    assert server.seen == [
        ("HEAD", f"{base}/bucket/a%20b", True),
        ("GET", f"{base}/bucket/a%20b", True),
        ("PUT", f"{base}/bucket/a%20b", True),
        ("GET", f"{base}/bucket", True),
        ("DELETE", f"{base}/bucket/a%20b", True),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "region"),
    [
        *((status, "") for status in (300, 301, 302, 303, 305, 307, 308)),
        *((301, region) for region in ("eu-west-1", "eu-west-1.no.test/", "-", "x" * 300)),
        (307, "eu-west-1"),
    ],
)
def test_no_answer_leads_to_another_server(status, region, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serving() as server, serving() as elsewhere:
        where = f"http://127.0.0.1:{elsewhere.server_port}/bucket/a"
        server.RequestHandlerClass = type(
            "Moved",
            (_Handler,),
            {
                "send_response_only": lambda self, _: BaseHTTPRequestHandler.send_response_only(
                    self, status
                )
            },
        )
        server.headers = {"Location": where} | ({"x-amz-bucket-region": region} if region else {})
        options = S3Options(endpoint_url=f"http://127.0.0.1:{server.server_port}", attempts=1)
        with closing(Mirror(Memory())) as mirror, closing(S3(options, mirror)) as s3:
            for ask in (
                lambda: s3.head("bucket", "a"),
                lambda: s3.put("bucket", "a", b"abc", 3),
                lambda: s3.read_into("bucket", "a", "e", 0, memoryview(bytearray(3))),
                lambda: s3.list_page("bucket"),
                lambda: s3.delete("bucket", "a"),
                lambda: s3.delete_many("bucket", ["a"]),
            ):
                with pytest.raises(MimicError):
                    ask()
    assert elsewhere.seen == []
    assert len(server.seen) < 60
