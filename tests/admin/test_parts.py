"""The parts of status and metrics, without a mount."""

import contextlib
import os
import re
import socket
import stat
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from support.mounts import wait_until

from mimicfs import private
from mimicfs.admin import figures
from mimicfs.admin.metrics import exposition
from mimicfs.admin.site import Site
from mimicfs.admin.sources import Sources
from mimicfs.config.values import S3Options, has_secret, redacted
from mimicfs.entry import NS
from mimicfs.errors import ConfigError, MalformedListing
from mimicfs.files.journal import Journal
from mimicfs.s3.mimicking.shown import entry_of
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.listing import Asked, parse_page
from mimicfs.s3.transport.traffic import Traffic
from mimicfs.vfs.allowance import Allowance


def test_a_slow_request_is_logged_with_the_ids_that_s3_gave_it(caplog):
    headers = {"x-amz-request-id": "4442587FB7D0A2F9", "x-amz-id-2": "vlR7Pn/SC="}
    answer = {"ResponseMetadata": {"HTTPHeaders": headers}}

    def slow(operation, params):
        time.sleep(0.02)
        if operation == "PutObject":
            raise ClientError({"Error": {"Code": "SlowDown"}, **answer}, operation)
        return answer

    traffic = Traffic(0.01)
    traffic.observed(slow)("GetObject", {"Bucket": "b", "Key": "k"})
    with pytest.raises(ClientError):
        traffic.observed(slow)("PutObject", {"Bucket": "b", "Key": "k", "ContentLength": 5})
    Traffic(0.0).observed(slow)("GetObject", {})
    said = [record.getMessage() for record in caplog.records]
    assert [re.sub(r"took \d+\.\d s", "took N s", each) for each in said] == [
        "slow: GetObject s3://b/k took N s (request id 4442587FB7D0A2F9, id 2 vlR7Pn/SC=)",
        (
            "slow: PutObject s3://b/k took N s, SlowDown (request id 4442587FB7D0A2F9,"
            " id 2 vlR7Pn/SC=)"
        ),
    ]
    assert traffic.figures()["errors"] == {"SlowDown": 1}
    assert (traffic.figures()["slow"], traffic.figures()["bytes_out"]) == (2, 0)


def test_figures_that_fail_or_hang_do_not_hold_up_the_others():
    go, threads = threading.Event(), set()

    def hangs():
        threads.add(threading.current_thread())
        go.wait(10)
        return {"n": 2}

    sources = Sources()
    sources.register("good", lambda: {"n": 1})
    sources.register("fails", lambda: {"n": 1 // 0})
    sources.register("hangs", hangs)
    told = {
        "good": {"n": 1},
        "fails": {"error": "integer division or modulo by zero"},
        "hangs": {"error": "does not answer"},
    }
    for _ in range(3):
        wait_until(lambda: sources.collect(0.05) == told)
    go.set()
    assert sources.collect(10)["hangs"] == {"n": 2}
    assert len(threads) == 1


def test_a_recovered_file_counts_once_whatever_is_told_beside_it(tmp_path):
    recovered = tmp_path / "recovered"
    recovered.mkdir()
    for name in ("a.1", "a.1.json", "a.1.ranges"):
        (recovered / name).touch()
    vfs = SimpleNamespace(figures=dict, queued=list)
    assert figures.files(vfs, Journal(tmp_path))["recovered"] == 1


def test_what_is_new_among_the_figures_is_a_metric_without_more_ado(tmp_path):
    found = {"cache": {"used": 5, "directory": "/c", "of": {"reads": 7}}, "gone": {"error": "x"}}
    exporter = Site("--metrics", f"unix:{tmp_path}/m", {"/metrics": exposition(lambda: found)}, "")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            os.chdir(tmp_path)  # the path may be longer than an address
            connection.connect("m")
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = connection.makefile().read()
    finally:
        exporter.close()
        os.chdir("/")
    lines = [line for line in text.splitlines() if line.startswith("mimicfs")]
    assert lines == [
        'mimicfs_up{part="cache"} 1.0',
        'mimicfs_up{part="gone"} 0.0',
        "mimicfs_cache_used 5.0",
        "mimicfs_cache_of_reads 7.0",
    ]


def test_a_part_that_tells_of_errors_in_its_work_is_up_and_has_metrics(tmp_path):
    found = {
        "events": {"error": "", "messages": 7, "told_until_ns": {"a-b": 5 * NS, "a.b": 6 * NS}},
        "reconcile": {"error": "refused", "swept": 3, "swept_until_ns": {"b": 4 * NS}},
    }
    text = exposition(lambda: found)({}).body.decode()
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'mimicfs_up{part="events"} 1.0',
        'mimicfs_up{part="reconcile"} 1.0',
        "mimicfs_events_messages 7.0",
        'mimicfs_events_told_until_seconds{bucket="a-b"} 5.0',
        'mimicfs_events_told_until_seconds{bucket="a.b"} 6.0',
        "mimicfs_reconcile_swept 3.0",
        'mimicfs_reconcile_swept_until_seconds{bucket="b"} 4.0',
    ]


def test_an_allowance_lets_a_stock_go_at_once_and_then_so_much_a_second():
    now = [0.0]
    allowance = Allowance(10, 100, lambda: now[0])
    for _ in range(100):
        assert allowance.wait_s() == 0
        allowance.spend(1)
    assert allowance.wait_s() == pytest.approx(0.1)
    allowance.spend(50)
    assert allowance.wait_s() == pytest.approx(5.1)
    now[0] = 6.0
    assert allowance.wait_s() == 0
    now[0] = 1e6
    allowance.spend(100)
    assert allowance.wait_s() == pytest.approx(0.1)
    assert Allowance(0, 0).wait_s() == 0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://***@host:6379/0"),
        ("redis://:sec/ret@host/0", "redis://***@host/0"),
        ("rediss://:p@ss@host/0", "rediss://***@host/0"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("unix://:secret@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("redis://host/0?sentinel_password=secret", "redis://host/0?sentinel_password=***"),
        ("http://127.0.0.1:99/hook?token=secret#x", "http://127.0.0.1:99/hook?token=***#x"),
        ("https://h/c?sv=1&sig=secret%3D", "https://h/c?sv=1&sig=***"),
        ("https://h/k?X-Amz-Signature=secret&x=1", "https://h/k?X-Amz-Signature=***&x=1"),
        ("https://u:secret@minio.example:9000/x", "https://***@minio.example:9000/x"),
    ],
)
def test_a_url_is_shown_without_its_secret(url, shown):
    assert redacted(url) == shown
    assert has_secret(url)


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite:///home/a@b/x.db", "memory:", "redis://host:6379/0?db=1", "aws", "http://h:1"),
        *("rediss://h/0?ssl_keyfile=/a.pem", "http://h/?design=5"),
    ],
)
def test_a_url_without_a_secret_is_shown_as_it_is(url):
    assert redacted(url) == url
    assert not has_secret(url)


def test_a_private_directory_is_made_for_us_alone(tmp_path):
    made = private.private_directory(tmp_path / "a/b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert private.private_directory(made) == made


def test_what_others_can_enter_or_a_link_is_no_private_directory(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name, says in [
        ("open", "chmod 700"),
        ("link", "a symbolic link"),
        ("file", "File exists"),
    ]:
        with pytest.raises(ConfigError, match=says):
            private.private_directory(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_others_is_refused(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        private.private_directory(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        private.check_parent(tmp_path / "theirs/store.db")


@pytest.mark.parametrize(
    "size",
    ["99999999999999999999", "-1"],
)
def test_a_size_that_cannot_be_is_no_listing(size):
    body = (
        '<?xml version="1.0"?><ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>'
        f"<Contents><Key>a</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
        f"<Size>{size}</Size></Contents></ListBucketResult>"
    )
    with pytest.raises(MalformedListing, match="not a listing"):
        parse_page(body.encode(), Asked("b", ""))


def test_a_size_that_cannot_be_is_no_answer():
    at = datetime(2026, 1, 2, tzinfo=UTC)
    good = {"LastModified": at, "ContentLength": 5, "ETag": '"e"'}
    assert entry_of("k", good).size == 5
    for bad in ({"ContentLength": -1}, {"ContentRange": "bytes 0-4/99999999999999999999"}):
        assert entry_of("k", good | bad) is None
    late = entry_of("k", good | {"LastModified": at.replace(year=9999)})
    assert late is not None and late.mtime_ns == (1 << 63) - 1  # the latest that a store can hold


def test_an_answer_without_an_end_is_not_waited_for(mimicdb):
    sent = []

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while len(sent) < 1000:
                    self.wfile.write(b" " * (1 << 20))
                    sent.append(1)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    s3 = S3(S3Options(endpoint_url=f"http://127.0.0.1:{server.server_port}"), mimicdb)
    try:
        with pytest.raises(MalformedListing, match="the answer has no end"):
            s3.list_page("b")
    finally:
        s3.close()
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(sent) < 100
