"""A test for each cell of the table in s3/requests/believing.py: what an answer lacks, and what
follows."""

import gzip
import re

import pytest
from support.faults import Fault
from support.proxy import Fail

from mimicfs.entry import TIME_MAX_NS
from mimicfs.errors import (
    AccessDenied,
    KeyNotFound,
    MalformedListing,
    MimicError,
    S3Unavailable,
    Throttled,
    Unsupported,
)
from mimicfs.s3.requests.content import Content
from mimicfs.s3.requests.examine import Examination

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


class Answer(Fault):
    """The server does what it is asked; its answer is another: *status*, without the headers
    *less*, with *body*."""

    def __init__(
        self, kind, *, status=None, less=(), body=None, times=99, more=(), length=None, edit=None
    ):
        super().__init__(lambda request: kind in (request.kind, "any"), times)
        self.length, self.edit = length, edit
        self.status, self.less, self.body, self.more = status, less, body, more

    def after(self, handler, response):
        gone = {"connection", "transfer-encoding", "content-length", *self.less}
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in gone]
        body = response.read() if self.body is None else self.body
        body = body if self.edit is None else self.edit(body)
        if handler.command == "HEAD":
            length = response.getheader("Content-Length")
            length = length if self.length is None else self.length
            kept += [("Content-Length", length)] if length is not None else []
            body = None
        handler.send(self.status or response.status, [*kept, *self.more], body)
        return True


def not_done(kind, status=200, body=b""):
    """The server says that it is done, and does nothing."""
    rule = Fail(lambda request: request.kind == kind, status, "")
    rule.body, rule.headers = body, []
    return rule


@pytest.mark.parametrize("kind", ["HEAD", "GET"])
def test_an_object_without_a_time_can_be_read(s3, client, bucket, proxy, kind):
    etag = client.put_object(Bucket=bucket, Key="a", Body=b"abc")["ETag"].strip('"')
    with proxy.rule(Answer(kind, less={"last-modified"})):
        assert (s3.head(bucket, "a")[0].size, s3.head(bucket, "a")[0].etag) == (3, etag)
        buffer = bytearray(3)
        s3.read_into(bucket, "a", etag, 0, memoryview(buffer))
    assert buffer == b"abc"


def test_an_object_of_no_version_and_no_time_is_not_s3s(s3, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"abc")
    with proxy.rule(Answer("HEAD", less={"last-modified", "etag"})):
        with pytest.raises(S3Unavailable, match="not from S3"):
            s3.head(bucket, "a")


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_put_that_is_not_confirmed_is_looked_at(s3, bucket, proxy, status):
    with proxy.rule(Answer("PUT", status=status, less={"etag"}, body=b"")):
        entry = s3.put(bucket, "a", b"abc", 3)
    assert (entry.size, entry.etag) == (3, "900150983cd24fb0d6963f7d28e17f72")
    assert s3.mimicdb.entry(bucket, "a").size == 3


@pytest.mark.parametrize(
    ("said", "mtime_ns"),
    [
        ("Mon, 01 Jan 0001 00:00:00 GMT", -TIME_MAX_NS),
        ("Fri, 31 Dec 9999 23:59:59 GMT", TIME_MAX_NS),
        ("0001-01-01T00:00:00Z", -TIME_MAX_NS),
        ("2026-01-02T03:04:05+00:00", 1_767_323_045_000_000_000),
        ("yesterday", 0),
        ("", 0),
    ],
)
def test_a_time_that_nobody_can_have_is_the_nearest_or_none(
    s3, client, bucket, proxy, said, mtime_ns
):
    client.put_object(Bucket=bucket, Key="a", Body=b"abc")
    more = [("Last-Modified", said)]
    with proxy.rule(Answer("HEAD", less={"last-modified"}, more=more)):
        assert s3.head(bucket, "a")[0].mtime_ns == mtime_ns


@pytest.mark.parametrize("said", ["-3", "many", "3, 3", ""])
def test_a_length_that_is_none_is_asked_for(s3, client, bucket, proxy, said):
    client.put_object(Bucket=bucket, Key="a", Body=b"abc")
    with proxy.rule(Answer("HEAD", length=said)):
        assert s3.head(bucket, "a")[0].size == 3


@pytest.mark.parametrize(("sent", "read"), [(b"\xc3\xbc", "\xfc"), (b"\xfc", "\xfc")])
def test_a_header_that_is_not_ascii_is_read_as_utf8_if_it_is_that(
    s3, client, bucket, proxy, sent, read
):
    client.put_object(Bucket=bucket, Key="a", Body=b"abc")
    with proxy.rule(Answer("HEAD", more=[("x-amz-meta-name", sent.decode("latin-1"))])):
        assert s3.head(bucket, "a")[0].meta == {"name": read}


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("before", [None, b"old", b"older"])
def test_a_put_that_was_not_done_is_no_success(s3, client, bucket, proxy, status, before):
    if before is not None:
        client.put_object(Bucket=bucket, Key="a", Body=before)
    with proxy.rule(not_done("PUT", status)), pytest.raises(S3Unavailable, match="did not confirm"):
        s3.put(bucket, "a", b"abc", 3)


@pytest.mark.parametrize("said", ["noon", "", "0", "99999-01-01T00:00:00Z", "1e400", "\u00b2"])
def test_a_time_in_an_answer_that_nobody_can_read_makes_no_error_of_it(s3, bucket, proxy, said):
    source = s3.put(bucket, "a", b"abc", 3)

    def edit(body):
        return re.sub(rb"<(LastModified|CreationDate)>[^<]*", rb"<\1>%s" % said.encode(), body)

    with proxy.rule(Answer("any", edit=edit)):
        copy = s3.copy((bucket, source), bucket, "b")
        assert (copy.size, copy.etag) == (3, source.etag)
        assert bucket in [it.name for it in s3.list_buckets()]


def test_what_nobody_can_read_in_an_answer_is_an_error_that_names_it(s3, bucket, proxy):
    rule = b"<CORSRule><MaxAgeSeconds>x</MaxAgeSeconds></CORSRule>"
    body = b"<CORSConfiguration>%s</CORSConfiguration>" % rule
    with (
        proxy.rule(not_done("LIST", body=body)),
        pytest.raises(S3Unavailable, match="the answer to GetBucketCors has what nobody can read"),
    ):
        s3.call("get_bucket_cors", bucket)


@pytest.mark.parametrize("body", [b"", b"<CopyObjectResult/>"])
def test_a_copy_that_is_not_confirmed_is_looked_at(s3, bucket, proxy, body):
    source = s3.put(bucket, "a", b"abc", 3)
    with proxy.rule(Answer("COPY", body=body)):
        copy = s3.copy((bucket, source), bucket, "b")
    assert (copy.size, copy.etag) == (3, source.etag)


def test_a_copy_that_was_not_done_is_no_success(s3, client, bucket, proxy):
    source = s3.put(bucket, "a", b"abc", 3)
    client.put_object(Bucket=bucket, Key="b", Body=b"old")
    with proxy.rule(not_done("COPY")), pytest.raises(S3Unavailable, match="did not confirm"):
        s3.copy((bucket, source), bucket, "b")


def test_a_copy_that_does_not_say_when_is_used(s3, bucket, proxy):
    source = s3.put(bucket, "a", b"abc", 3)
    body = f"<CopyObjectResult><ETag>{source.etag}</ETag></CopyObjectResult>".encode()
    with proxy.rule(Answer("COPY", body=body)):
        assert s3.copy((bucket, source), bucket, "b").etag == source.etag


def test_an_upload_without_an_id_is_an_error(s3, bucket, proxy):
    body = b"<InitiateMultipartUploadResult/>"
    with proxy.rule(Answer("POST", body=body)), pytest.raises(S3Unavailable, match="UploadId"):
        s3.start_upload(bucket, "a", Content())


def test_a_part_that_is_not_confirmed_is_an_error(s3, bucket, proxy):
    upload = s3.start_upload(bucket, "a", Content())
    with proxy.rule(Answer("PUT", less={"etag"})), pytest.raises(S3Unavailable, match="ETag"):
        s3.upload_part(bucket, "a", upload, 1, b"abc", 3)


@pytest.mark.parametrize("body", [b"", b"<CopyPartResult/>"])
def test_a_part_whose_copy_is_not_confirmed_is_of_a_server_that_copies_none(
    s3, bucket, proxy, body
):
    source = s3.put(bucket, "a", b"abc", 3)
    upload = s3.start_upload(bucket, "b", Content())
    with proxy.rule(Answer("COPY", body=body)), pytest.raises(Unsupported):
        s3.copy_part((bucket, source), bucket, "b", upload, 1, 0, 3)


def uploaded(s3, bucket):
    """Return what finishes an upload of three bytes as "a"."""
    upload = s3.start_upload(bucket, "a", Content())
    parts = [s3.upload_part(bucket, "a", upload, 1, b"abc", 3)]
    return lambda: s3.finish_upload(bucket, "a", upload, parts, 3)


@pytest.mark.parametrize("body", [b"", b"<CompleteMultipartUploadResult/>"])
def test_an_upload_that_is_not_confirmed_is_looked_at(s3, bucket, proxy, body):
    finish = uploaded(s3, bucket)
    with proxy.rule(Answer("POST", body=body)):
        assert finish().size == 3
    finish = uploaded(s3, bucket)
    s3.put(bucket, "a", b"older", 5)
    with proxy.rule(not_done("POST", 200, body)), pytest.raises(MimicError):
        finish()
    assert s3.mimicdb.entry(bucket, "a").size == 5


@pytest.mark.parametrize("kind", ["PUT", "COPY", "POST", "DELETE", "LIST"])
def test_an_error_in_a_success_is_an_error(s3, client, bucket, proxy, kind):
    source = s3.put(bucket, "a", b"abc", 3)
    finish = uploaded(s3, bucket)
    ask = {
        "PUT": lambda: s3.put(bucket, "a", b"new", 3),
        "COPY": lambda: s3.copy((bucket, source), bucket, "b"),
        "POST": finish,
        "DELETE": lambda: s3.delete(bucket, "a"),
        "LIST": lambda: s3.list_page(bucket),
    }[kind]
    body = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"
    with proxy.rule(not_done(kind, 200, body)), pytest.raises(MimicError):
        ask()
    assert s3.mimicdb.entry(bucket, "a").etag == source.etag
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"abc"


@pytest.mark.parametrize(
    "said",
    [
        "0",
        "noon",
        "2026-11-28T09:00:00Z",
        "Sat, 28 Nov 99999999999999 09:00:00 GMT",
        "Sat, 28 Nov 2026 99:00:00 GMT",
    ],
)
def test_a_date_that_nobody_can_read_makes_no_error_of_what_was_done(s3, bucket, proxy, said):
    with proxy.rule(Answer("any", less={"date"}, more=[("Date", said)])):
        entry = s3.put(bucket, "a", b"abc", 3)
        s3.copy((bucket, entry), bucket, "b")
        uploaded(s3, bucket)()
        s3.create_bucket(f"{bucket}-of-no-date")
        with pytest.raises(KeyNotFound):
            s3.head(bucket, "missing")
        findings = list(Examination(s3, s3._options, bucket).findings(write=False))
    assert [(it.name, it.found) for it in findings if it.result == "fail"] == []
    assert s3.mimicdb.entry(bucket, "a").size == s3.mimicdb.entry(bucket, "b").size == 3


@pytest.mark.parametrize(
    ("code", "error"), [("SlowDown", Throttled), ("InternalError", S3Unavailable)]
)
def test_a_listing_that_was_answered_with_an_error_and_a_success_is_asked_again(
    s3, client, bucket, proxy, code, error
):
    client.put_object(Bucket=bucket, Key="a", Body=b"abc")
    body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code></Error>".encode()
    with proxy.rule(Answer("LIST", body=body, times=1)):
        assert [entry.key for entry in s3.list_page(bucket).entries] == ["a"]
    with proxy.rule(not_done("LIST", 200, body)) as rule, pytest.raises(error, match=code):
        s3.list_page(bucket)
    assert rule.seen == 3


def test_another_error_in_the_answer_to_a_listing_is_none(s3, client, bucket, proxy):
    body = b"<Error><Code>NoSuchBucket</Code></Error>"
    with (
        proxy.rule(not_done("LIST", 200, body)) as rule,
        pytest.raises(MalformedListing, match=r"the answer is a <Error> \(NoSuchBucket\)"),
    ):
        s3.list_page(bucket)
    assert rule.seen == 1


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_deletion_may_be_answered_with_any_success(s3, bucket, proxy, status):
    s3.put(bucket, "a", b"abc", 3)
    with proxy.rule(Answer("DELETE", status=status, body=b"")):
        s3.delete(bucket, "a")
    assert s3.mimicdb.entry(bucket, "a") is None


def test_a_login_page_deletes_nothing(s3, bucket, proxy):
    s3.put(bucket, "a", b"abc", 3)
    page = not_done("DELETE", 200, b"<html><body>log in</body></html>")
    page.headers = [("Content-Type", "text/html")]
    with proxy.rule(page), pytest.raises(S3Unavailable, match="--endpoint-url"):
        s3.delete(bucket, "a")
    assert s3.mimicdb.entry(bucket, "a").size == 3


def test_an_answer_is_what_it_says_and_not_what_its_type_says(s3, client, bucket, proxy):
    """Swift answers DeleteObjects as text/html."""
    s3.put(bucket, "a", b"abc", 3)
    answer = Answer("POST", less={"content-type"}, more=[("Content-Type", "text/html")])
    with proxy.rule(answer):
        assert s3.delete_many(bucket, ["a"]) == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3.mimicdb.entry(bucket, "a") is None


@pytest.mark.parametrize(
    "body",
    [
        b"<html/>",
        b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>",
        b"<Error><Code>InternalError</Code></Error>",
    ],
)
def test_many_deletions_that_are_not_confirmed_delete_nothing(s3, bucket, proxy, body):
    s3.put(bucket, "a", b"abc", 3)
    with proxy.rule(not_done("POST", 200, body)), pytest.raises(MimicError):
        s3.delete_many(bucket, ["a"])
    assert s3.mimicdb.entry(bucket, "a").size == 3


@pytest.mark.parametrize(
    "body",
    [
        b"<a>" * 100_000,
        "<?xml version='1.0' encoding='utf-32'?><Error/>".encode("utf-32"),
        b"<?xml version='1.0' encoding='nobodys'?><Error/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><Error><Code>&b;</Code></Error>",
    ],
)
@pytest.mark.parametrize("kind", ["PUT", "POST", "LIST", "DELETE", "COPY"])
def test_an_error_that_nobody_can_read_is_an_error(s3, bucket, proxy, body, kind):
    source = s3.put(bucket, "a", b"abc", 3)
    ask = {
        "PUT": lambda: s3.put(bucket, "b", b"", 0),
        "POST": lambda: s3.start_upload(bucket, "b", Content()),
        "LIST": lambda: s3.list_page(bucket),
        "DELETE": lambda: s3.delete(bucket, "a"),
        "COPY": lambda: s3.copy((bucket, source), bucket, "b"),
    }[kind]
    with proxy.rule(not_done(kind, 403, body)), pytest.raises(MimicError):
        ask()


def at_once(handler, response, before=b"", after=b""):
    """Write the answer by hand, between *before* and *after*."""
    gone = {"connection", "transfer-encoding"}
    lines = [f"{k}: {v}" for k, v in response.getheaders() if k.lower() not in gone]
    body = response.read()
    if not any(line.lower().startswith("content-length") for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"HTTP/1.1 {response.status} OK", *lines, "", ""]).encode()
    handler.wfile.write(before + head + body + after)
    return True


class ByHand(Fault):
    """Each answer is written as *write* writes it."""

    def __init__(self, write):
        super().__init__(lambda request: True, 9999)
        self.after = write


def interim(handler, response):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    return at_once(handler, response, hints)


def late(handler, response):
    """The hints come alone: a client that takes them for the answer asks the next thing before the
    answer comes."""
    handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    return at_once(handler, response)


def with_a_body(handler, response):
    """An answer to a HEAD has a body all the same."""
    body = b"x" * int(response.getheader("Content-Length") or 0)
    return at_once(handler, response, after=body if handler.command == "HEAD" else b"")


def twice(handler, response):
    for name in ("ETag", "Last-Modified"):
        if response.getheader(name):
            response.headers[name] = response.getheader(name)
    return at_once(handler, response)


def on_a_page(handler, response):
    for name in {"ETag"} & {*response.headers}:
        tag = response.getheader(name)
        del response.headers[name]
        response.headers[name] = f"{tag};charset=utf-8"
    return at_once(handler, response)


def with_trailers(handler, response):
    if handler.command == "HEAD" or response.status == 204:
        return at_once(handler, response)
    body, gone = response.read(), {"connection", "transfer-encoding", "content-length"}
    lines = [f"{k}: {v}" for k, v in response.getheaders() if k.lower() not in gone]
    lines += ["Trailer: ETag", "Transfer-Encoding: chunked", "", ""]
    head = "\r\n".join([f"HTTP/1.1 {response.status} OK", *lines]).encode()
    chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    handler.wfile.write(head + chunk + b'0\r\nETag: "nobodys"\r\n\r\n')
    return True


@pytest.mark.parametrize("write", [interim, late, with_a_body, twice, on_a_page, with_trailers])
def test_what_http_admits_is_no_other_answer(s3, client, bucket, proxy, write):
    with proxy.rule(ByHand(write)):
        a = s3.put(bucket, "a", b"abc", 3)
        assert (a.size, a.etag) == (3, "900150983cd24fb0d6963f7d28e17f72")
        assert s3.head(bucket, "a")[0].etag == a.etag
        buffer = bytearray(2)
        s3.read_into(bucket, "a", a.etag, 1, memoryview(buffer))
        assert buffer == b"bc"
        assert s3.copy((bucket, a), bucket, "b").etag == a.etag
        assert uploaded(s3, bucket)().size == 3
        assert [entry.key for entry in s3.list_page(bucket).entries] == ["a", "b"]
        assert s3.delete_many(bucket, ["a"]) == []
        s3.delete(bucket, "b")
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("kind", ["HEAD", "GET", "PUT", "COPY", "POST", "DELETE", "LIST"])
@pytest.mark.parametrize("page", [b"<html><body>no backend</body></html>", b"404 page not found\n"])
def test_a_404_of_a_proxy_says_nothing_of_an_object(s3, client, bucket, proxy, kind, page):
    source = s3.put(bucket, "a", b"abc", 3)
    ask = {
        "HEAD": lambda: s3.head(bucket, "a"),
        "GET": lambda: s3.read_into(bucket, "a", source.etag, 0, memoryview(bytearray(3))),
        "PUT": lambda: s3.put(bucket, "a", b"new", 3),
        "COPY": lambda: s3.copy((bucket, source), bucket, "a"),
        "POST": lambda: s3.delete_many(bucket, ["a"]),
        "DELETE": lambda: s3.delete(bucket, "a"),
        "LIST": lambda: s3.list_page(bucket),
    }[kind]
    gone = not_done(kind, 404, page)
    gone.headers = [("Content-Type", "application/xhtml+xml"), ("X-Amz-Cf-Id", "of CloudFront")]
    with proxy.rule(gone), pytest.raises(MimicError, match="not from S3") as refused:
        ask()
    assert not isinstance(refused.value, KeyNotFound)
    assert s3.mimicdb.entry(bucket, "a").etag == source.etag


def test_a_404_without_any_mark_of_s3_is_asked_again_with_a_body(s3, client, bucket, proxy):
    s3.put(bucket, "a", b"abc", 3)
    client.delete_object(Bucket=bucket, Key="a")
    with proxy.rule(Answer("HEAD", less={"x-amzn-requestid"})):
        proxy.counted()
        with pytest.raises(KeyNotFound):
            s3.head(bucket, "a")
    assert proxy.counted() == {"HEAD": 1, "GET": 1}
    assert s3.mimicdb.entry(bucket, "a") is None


def test_a_head_that_counts_no_bytes_is_asked_by_get(s3, client, bucket, proxy):
    s3.put(bucket, "a", b"abc", 3)
    s3.put(bucket, "empty", b"", 0)
    with proxy.rule(Answer("HEAD", length="0")):
        proxy.counted()
        assert [s3.head(bucket, key)[0].size for key in ("a", "empty")] == [3, 0]
    assert proxy.counted() == {"HEAD": 2, "GET": 1}


def test_a_part_that_is_sent_as_the_whole_is_no_smaller_object(s3, bucket, proxy):
    a = s3.put(bucket, "a", b"abcdef", 6)
    with proxy.rule(Answer("GET", status=200, less={"content-range"})):
        with pytest.raises(S3Unavailable, match="does not say of which bytes"):
            s3.read_into(bucket, "a", a.etag, 0, memoryview(bytearray(2)))
    assert s3.mimicdb.entry(bucket, "a").size == 6
    s3.mimicdb.forget(bucket, "a")  # else the whole object is asked for
    with proxy.rule(Answer("GET", status=200, less={"content-range"})):
        buffer = bytearray(6)
        s3.read_into(bucket, "a", a.etag, 0, memoryview(buffer))
    assert (buffer, s3.mimicdb.entry(bucket, "a").size) == (b"abcdef", 6)


@pytest.mark.parametrize("said", ["deadbeef", "", "900150983cd24fb0d6963f7d28e17f72", "kkkk"])
def test_what_is_no_checksum_is_not_compared(s3, bucket, proxy, said):
    a = s3.put(bucket, "a", b"abc", 3)
    less, more = {"x-amz-checksum-crc32"}, [("x-amz-checksum-crc32", said)]
    with proxy.rule(Answer("GET", less=less, more=more)):
        buffer = bytearray(3)
        s3.read_into(bucket, "a", a.etag, 0, memoryview(buffer))
    assert buffer == b"abc"


@pytest.mark.parametrize(("status", "error"), [(403, AccessDenied), (501, Unsupported)])
def test_a_refusal_with_the_checksum_of_the_object_is_a_refusal(s3, bucket, proxy, status, error):
    """rclone says so. botocore, which is asked then, takes the refusal for the object's bytes."""
    a = s3.put(bucket, "a", b"abc", 3)
    refused = Fail(lambda request: request.kind == "GET", status, "")
    refused.headers += [("x-amz-checksum-crc32", "NSRBwg==")]
    with proxy.rule(refused), pytest.raises(error):
        s3.read_into(bucket, "a", a.etag, 0, memoryview(bytearray(3)), size=3)


def test_white_space_before_an_answer_keeps_the_connection_and_says_nothing(s3, bucket, proxy):
    """S3 sends it while it puts parts together."""
    for kind in ("POST", "COPY", "LIST", "PUT"):
        with proxy.rule(Answer(kind, edit=lambda body: b" \n \n" + body)):
            source = uploaded(s3, bucket)()
            assert source.size == 3
            assert s3.copy((bucket, source), bucket, "b").size == 3
            assert [entry.key for entry in s3.list_page(bucket).entries] == ["a", "b"]
            s3.put(bucket, "a", b"abc", 3)
            assert s3.delete_many(bucket, ["b"]) == []
    error = b" \n<?xml version='1.0'?>\n \n<Error><Code>InternalError</Code></Error>"
    finish = uploaded(s3, bucket)
    with proxy.rule(Answer("POST", body=error)), pytest.raises(S3Unavailable):
        finish()
    source = s3.put(bucket, "a", b"abc", 3)
    with proxy.rule(Answer("COPY", body=error)), pytest.raises(S3Unavailable):
        s3.copy((bucket, source), bucket, "b")


def test_what_a_proxy_compresses_unasked_is_read(s3, bucket, proxy):
    more = [("Content-Encoding", "gzip")]
    for kind in ("POST", "COPY", "LIST"):
        with proxy.rule(Answer(kind, edit=gzip.compress, more=more)):
            source = s3.put(bucket, "a", b"abc", 3)
            assert s3.copy((bucket, source), bucket, "b").size == 3
            assert [entry.key for entry in s3.list_page(bucket).entries] == ["a", "b"]
            assert s3.delete_many(bucket, ["b"]) == []
            assert uploaded(s3, bucket)().size == 3
    refusal = gzip.compress(b"<Error><Code>NoSuchKey</Code></Error>")
    with proxy.rule(Answer("GET", status=404, body=refusal, more=more, less={"x-amzn-requestid"})):
        with pytest.raises(KeyNotFound):
            s3.read_into(bucket, "a", source.etag, 0, memoryview(bytearray(3)))


class Deletes(Fault):
    """DeleteObjects is done, and answered with *quiet* or *aloud*, as it is asked for; None: as S3
    answers."""

    def __init__(self, client, bucket, quiet, aloud=None):
        super().__init__(lambda request: "delete" in request.query, 99)
        self.client, self.bucket, self.quiet, self.aloud = client, bucket, quiet, aloud

    def before(self, handler):
        asked = handler.body()
        keys = re.findall(rb"<Key>(.*?)</Key>", asked)
        for key in keys:
            self.client.delete_object(Bucket=self.bucket, Key=key.decode())
        named = b"".join(b"<Deleted><Key>%s</Key></Deleted>" % key for key in keys)
        aloud = self.aloud if self.aloud is not None else b"<DeleteResult>%s</DeleteResult>" % named
        handler.send(200, [], self.quiet if b"<Quiet>true" in asked else aloud)
        return True


def test_a_server_that_says_nothing_quietly_is_asked_aloud(s3, client, bucket, proxy):
    for key in ("a", "b", "c"):
        s3.put(bucket, key, b"abc", 3)
    with proxy.rule(Deletes(client, bucket, b"")):
        proxy.counted()
        assert s3.delete_many(bucket, ["a"]) == []
        assert s3.delete_many(bucket, ["b", "c"]) == []
    assert proxy.counted() == {"POST": 3}
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert [s3.mimicdb.entry(bucket, key) for key in "abc"] == [None, None, None]


@pytest.mark.parametrize(
    "aloud", [b"", b"<DeleteResult><Deleted><Key>z</Key></Deleted></DeleteResult>"]
)
def test_a_server_that_never_says_what_it_has_deleted_is_asked_one_by_one(
    s3, client, bucket, proxy, aloud
):
    for key in ("a", "b"):
        s3.put(bucket, key, b"abc", 3)
    with proxy.rule(Deletes(client, bucket, b"", aloud)):
        proxy.counted()
        assert s3.delete_many(bucket, ["a", "b"]) == []
    counted = proxy.counted()
    assert (counted["POST"], counted["DELETE"]) == (2, 2)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3.capabilities.known()["delete-many"] == ("no", "learned")


def test_of_many_what_is_named_as_deleted_and_as_refused_is_refused(s3, client, bucket, proxy):
    for key in ("a", "b"):
        s3.put(bucket, key, b"abc", 3)
    said = b"<Deleted><Key>a</Key></Deleted><Error><Key>a</Key><Code>AccessDenied</Code></Error>"
    answer = not_done("POST", 200, b"<DeleteResult>" + said * 2 + b"</DeleteResult>")
    with proxy.rule(answer):
        assert {key for key, _ in s3.delete_many(bucket, ["a"])} == {"a"}
    assert s3.mimicdb.entry(bucket, "a").size == 3
