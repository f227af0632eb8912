"""A rule of Ceph that has a filter by metadata or by tags tells of some keys only."""

from __future__ import annotations

import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.sync.events.notification import shortcoming

# As Ceph 16.2.15 answers.
ANSWER = (
    "<NotificationConfiguration><TopicConfiguration><Id>n</Id><Topic>arn:aws:sns:default::t1</Topic>"
    "<Filter><{0}><FilterRule><Name>x-amz-meta-a</Name><Value>b</Value></FilterRule></{0}></Filter>"
    "<Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:*</Event></TopicConfiguration>"
    "</NotificationConfiguration>"
)


class Bucket(BaseHTTPRequestHandler):
    """Answers with the configuration that it was sent last."""

    def do_GET(self):
        self.answer(self.server.configuration)

    def do_PUT(self):
        self.server.configuration = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def ceph():
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("kind", ["S3Metadata", "S3Tags"])
def test_a_filter_that_only_ceph_has_is_read_and_kept(ceph, kind, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    ceph.configuration = ANSWER.format(kind).encode()
    url = f"http://127.0.0.1:{ceph.server_address[1]}"
    with closing(S3(S3Options(endpoint_url=url, attempts=1), Mirror(Memory()))) as s3:
        found = s3.call("get_bucket_notification_configuration", "photos")
        assert shortcoming(found, "", "") == "its notifications cover only some of the keys"
        del found["ResponseMetadata"]
        s3.call("put_bucket_notification_configuration", "photos", NotificationConfiguration=found)
        assert f"<{kind}><FilterRule><Name>x-amz-meta-a</Name>".encode() in ceph.configuration
