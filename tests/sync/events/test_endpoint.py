"""What webhooks post is applied, and answered when it is; strangers are turned away."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import pytest

from mimicfs.errors import ConfigError, S3Unavailable
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.endpoint import Endpoint
from mimicfs.sync.events.hearing import Heard


def post(port, body, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/any/path", body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


class Nobody:
    """Hears nothing, or fails as it is told to."""

    def __init__(self):
        self.heard, self.error = [], None

    def hear(self, told, _cancellation):
        if self.error:
            raise self.error
        self.heard += told
        return Heard(echoes=len(told))


@pytest.fixture
def hearing():
    return Nobody()


@pytest.fixture
def served(hearing, tmp_path):
    """Return the port of an endpoint with a consumer."""
    started = []

    def serve(token=""):
        endpoint = Endpoint("127.0.0.1:0", token)
        consumer = Consumer(endpoint, hearing, tmp_path / "aside")
        thread = threading.Thread(target=consumer.run)
        thread.start()
        started.append((consumer, thread))
        return endpoint.port

    yield serve
    for consumer, thread in started:
        consumer.close()
        thread.join(20)
        assert not thread.is_alive()


BODY = json.dumps({
    "EventName": "s3:ObjectCreated:Put",
    "Key": "photos/a b",
    "Records": [{
        "eventSource": "minio:s3",
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "a+b", "eTag": "0123"}},
    }],
})  # fmt: skip


def test_a_message_is_answered_when_it_is_applied(served, hearing):
    assert post(served(), BODY) == 200
    assert [(each.bucket, each.key) for each in hearing.heard] == [("photos", "a b")]


def test_what_cannot_be_applied_now_is_to_come_again(served, hearing, caplog):
    port = served()
    hearing.error = S3Unavailable("no answer")
    assert post(port, BODY) == 503
    hearing.error = None
    assert post(port, BODY) == 200


def test_a_token_is_asked_for(served, hearing):
    port = served("secret")
    assert post(port, BODY) == 401
    assert post(port, BODY, Authorization="Bearer wrong") == 401
    assert post(port, BODY, Authorization="Bearer secret") == 200
    assert len(hearing.heard) == 1


def test_a_body_without_end_or_beyond_measure_is_refused(served, hearing):
    port = served()
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 411 ")
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413 ")
    assert hearing.heard == []


def test_nothing_listens_for_everybody_unasked():
    with pytest.raises(ConfigError, match="could make us ask S3 about any key"):
        Endpoint("0.0.0.0:0")
    with pytest.raises(ConfigError, match="give a token in MIMICFS_EVENTS_TOKEN"):
        Endpoint("public:0.0.0.0:0")


def test_a_socket_of_the_file_system_is_for_its_owner(tmp_path):
    endpoint = Endpoint(f"unix:{tmp_path}/events.sock")
    assert (tmp_path / "events.sock").stat().st_mode & 0o777 == 0o600
    endpoint.close()
    assert not (tmp_path / "events.sock").exists()
