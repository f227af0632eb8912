"""A webhook's message is applied, and answered when it is; strangers are turned away."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading

import pytest
from support.mounts import wait_until

from mimicfs import listening
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
        serve.endpoint = endpoint
        return endpoint.port

    yield serve
    for consumer, thread in started:
        consumer.close()
        thread.join(20)
        assert not thread.is_alive()


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
BODY = json.dumps({
    "EventName": "s3:ObjectCreated:Put",
    "Key": "photos/a b",
    "Records": [{
        "eventSource": "minio:s3",
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": "photos"}, "object": {"key": "a+b", "eTag": "0123"}},
    }],
})  # fmt: skip
BODY_TAKEN = f"POST / HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


def test_a_message_is_answered_when_it_is_applied(served, hearing):
    assert post(served(), BODY) == 200
    assert [(each.bucket, each.key) for each in hearing.heard] == [("photos", "a b")]


@pytest.mark.parametrize("sent", [b"P", HEAD[:-2], HEAD + b"{"])
def test_nothing_counts_as_told_beyond_a_message_that_is_arriving(sent):
    """A server had sent it, and nobody has been given it."""
    with contextlib.closing(Endpoint("127.0.0.1:0")) as endpoint:
        with socket.create_connection(("127.0.0.1", endpoint.port), 20) as line:
            line.sendall(sent)
            wait_until(lambda: endpoint._arriving)
            assert endpoint.receive(0) == []
            began_ns = endpoint.given_until_ns()
            assert endpoint.receive(0) == []
            assert endpoint.given_until_ns() == began_ns
        wait_until(lambda: not endpoint._arriving)
        assert endpoint.receive(0) == []
        assert endpoint.given_until_ns() > began_ns


@pytest.mark.parametrize("more", [b"P", HEAD[:-2], HEAD + b"{"])
def test_a_message_that_came_with_another_one_has_been_arriving_since_then(more):
    """Both are read from the socket at once, and the second one waits for the first."""
    with contextlib.closing(Endpoint("127.0.0.1:0")) as endpoint:
        with socket.create_connection(("127.0.0.1", endpoint.port), 20) as line:
            line.sendall(BODY_TAKEN + more)
            [first] = endpoint.receive(20)
            [began_ns] = endpoint._arriving.values()
            endpoint.acknowledge([first])
            assert line.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert endpoint.receive(0) == []
            assert endpoint.given_until_ns() == began_ns
        wait_until(lambda: not endpoint._arriving)
    assert endpoint.lost == 1


def test_messages_that_came_at_once_are_each_taken(served, hearing):
    with socket.create_connection(("127.0.0.1", served()), 20) as line:
        line.sendall(BODY_TAKEN * 20)
        line.shutdown(socket.SHUT_WR)
        answers = b"".join(iter(lambda: line.recv(1000), b""))
    assert (answers.count(b"HTTP/1.1 200 "), len(hearing.heard)) == (20, 20)
    assert (served.endpoint.lost, served.endpoint._arriving) == (0, {})


def test_what_cannot_be_applied_now_is_to_come_again(served, hearing, caplog):
    port = served()
    hearing.error = S3Unavailable("no answer")
    assert post(port, BODY) == 503
    hearing.error = None
    assert post(port, BODY) == 200


@pytest.mark.parametrize("token", ["secret", "gehe\u00edm"])
def test_a_token_is_asked_for(served, hearing, token):
    port = served(token)
    assert post(port, BODY) == 401
    assert post(port, BODY, Authorization="Bearer wrong") == 401
    assert post(port, BODY, Authorization=f"Bearer {token}".encode()) == 200
    assert (len(hearing.heard), served.endpoint.lost) == (1, 0)


def test_a_body_without_end_or_beyond_measure_is_refused(served, hearing):
    port = served()
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 411 ")
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413 ")
    assert (hearing.heard, served.endpoint.lost) == ([], 2)  # a sweep looks for what they said


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", b"411"),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 40", b"400"),
        ("POST / HTTP/1.1\r\nContent-Length: -4", b"400"),
        ("POST / HTTP/1.1\r\nContent-Length : 4", b"411"),
        ("HEAD / HTTP/1.1\r\nContent-Length: 4", b"200"),
        ("PUT / HTTP/1.1\r\nContent-Length: 4", b"501"),
    ],
)
def test_no_body_is_taken_for_another_request(served, hearing, head, status):
    """Bytes that a proxy on the way may see as one request are one, or the last of their
    connection."""
    smuggled = f"POST / HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    with socket.create_connection(("127.0.0.1", served()), 20) as line:
        line.sendall(f"{head}\r\n\r\n{smuggled}".encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := line.recv(1000):
                answer += more
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert hearing.heard == []


def send_for_ever(port, begun, more):
    """Send until the other side does not take it."""
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(begun)
        with contextlib.suppress(ConnectionError):
            while True:
                line.sendall(more)


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun",
    [b"", b"POST / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n"],
)
def test_a_client_that_sends_byte_by_byte_is_sent_away(served, hearing, begun, monkeypatch):
    monkeypatch.setattr(listening, "PATIENCE_S", 0.1)
    port = served()
    send_for_ever(port, begun, b"x")
    with socket.create_connection(("127.0.0.1", port), 20) as silent:
        assert silent.recv(1) == b""
    assert post(port, BODY) == 200


def test_a_head_without_end_is_cut_off(served):
    send_for_ever(served(), b"POST / HTTP/1.1\r\n", b"X: " + b"x" * 60_000 + b"\r\n")


def test_no_more_clients_are_served_than_there_is_room_for(served, monkeypatch, caplog):
    monkeypatch.setattr(listening, "_CLIENTS_MAX", 2)
    port = served()
    endpoint = served.endpoint
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        third = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        assert third.recv(100).startswith(b"HTTP/1.1 503 ")
    assert endpoint.lost == 1
    assert "more than 2 clients; some are refused" in caplog.text
    wait_until(lambda: not endpoint._server._clients)
    assert post(port, BODY) == 200


def test_a_message_of_a_client_that_goes_is_lost(served, hearing):
    port = served()
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(b"POST / HTTP/1.1\r\nContent-Length: 999\r\n\r\n" + BODY.encode())
        line.shutdown(socket.SHUT_WR)
        assert line.recv(100).startswith(b"HTTP/1.1 400 ")
    assert (hearing.heard, served.endpoint.lost) == ([], 1)


def test_a_message_that_takes_too_long_is_lost(monkeypatch):
    monkeypatch.setattr(listening, "PATIENCE_S", 0.1)
    endpoint = Endpoint("127.0.0.1:0")
    with socket.create_connection(("127.0.0.1", endpoint.port), 20) as line:
        line.sendall(b"POST / HTTP/1.1\r\nContent-Length: 999\r\n\r\n{")
        assert line.recv(100) == b""
    endpoint.close()
    assert endpoint.lost == 1


@pytest.mark.parametrize("sent", [HEAD[:-2], HEAD[:-4], HEAD[:17], HEAD[:9], HEAD[:2]])
@pytest.mark.parametrize("how", ["takes too long", "ends"])
@pytest.mark.parametrize(("token", "lost", "owed"), [("", 1, 0), ("secret", 0, 1)])
def test_a_message_whose_head_breaks_off_is_lost(token, lost, owed, how, sent, monkeypatch):
    """Where a token is asked for, anybody may have begun it: that costs no sweep."""
    monkeypatch.setattr(listening, "PATIENCE_S", 0.1 if how == "takes too long" else 20)
    endpoint = Endpoint("127.0.0.1:0", token)
    with socket.create_connection(("127.0.0.1", endpoint.port), 20) as line:
        line.sendall(sent)
        if how == "ends":
            line.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: line.recv(1000), b""))
    endpoint.close()
    assert (b"400" in answer) is (how == "ends")
    assert (endpoint.lost, endpoint.owed, endpoint._arriving) == (lost, owed, {})


@pytest.mark.parametrize("sent", [b"", b"HEAD / HTTP/1.1\r\nHost: x\r\n", b"GET", BODY_TAKEN])
def test_nothing_is_lost_of_a_client_that_goes_between_messages(sent, served):
    port = served()
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        while line.recv(1000):
            pass
    assert (served.endpoint.lost, served.endpoint.owed) == (0, 0)


def test_nothing_is_held_for_a_client_that_waits_no_longer(monkeypatch):
    monkeypatch.setattr("mimicfs.sync.events.endpoint.PATIENCE_S", 0.01)
    endpoint = Endpoint("127.0.0.1:0")
    assert post(endpoint.port, BODY) == 503
    assert (endpoint.receive(0), endpoint.lost) == ([], 1)
    endpoint.close()


def test_a_server_that_keeps_messages_loses_none(monkeypatch):
    monkeypatch.setattr("mimicfs.sync.events.endpoint.PATIENCE_S", 0.01)
    endpoint = Endpoint("127.0.0.1:0", kept_s=60)
    assert post(endpoint.port, BODY) == 503
    assert (endpoint.retention_s(), endpoint.lost) == (60, 0)
    endpoint.close()


def test_nothing_listens_for_everybody_unasked():
    with pytest.raises(ConfigError, match="can make us ask S3 about any key"):
        Endpoint("0.0.0.0:0")
    with pytest.raises(ConfigError, match="give a token in MIMICFS_EVENTS_TOKEN"):
        Endpoint("public:0.0.0.0:0")


def test_a_socket_of_the_file_system_is_for_its_owner(tmp_path):
    endpoint = Endpoint(f"unix:{tmp_path}/events.sock")
    assert (tmp_path / "events.sock").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="already in use"):
        Endpoint(f"unix:{tmp_path}/events.sock")
    assert (tmp_path / "events.sock").exists()
    endpoint.close()
    assert not (tmp_path / "events.sock").exists()


def test_the_socket_of_a_successor_stays(tmp_path):
    address = f"unix:{tmp_path}/events.sock"
    first = Endpoint(address)
    first.close()
    second = Endpoint(address)
    first.close()
    assert (tmp_path / "events.sock").exists()
    second.close()
