"""The answers at the address of --metrics, and to whom."""

import contextlib
import http.client
import socket

import pytest

from mimicfs.admin.site import Response, Site


@pytest.fixture(scope="module")
def site():
    def fails(query):
        raise ValueError("a key of somebody")

    routes = {"/": lambda query: Response("text/html", repr(query).encode()), "/fails": fails}
    with contextlib.closing(Site("--ui", "127.0.0.1:0", routes, "read names")) as made:
        yield made


def answered(site, method, path, **headers):
    port = int(site.url.rpartition(":")[2].strip("/"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers


def status_of(site, head):
    """Return the status line with which the lines of *head* are answered."""
    port = int(site.url.rpartition(":")[2].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_it_can_only_be_read(site):
    assert answered(site, "GET", "/?paused")[:2] == (200, "{'paused': ''}")
    status, body, headers = answered(site, "HEAD", "/")
    assert (status, body, headers["Content-Length"]) == (200, "", "2")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, body, headers = answered(site, method, "/")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert answered(site, "TRACE", "/")[0] == 501
    assert answered(site, "GET", "/../etc/passwd")[0] == 404
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("127.0.0.1", 200), ("localhost:8080", 200), ("[::1]:9", 200), ("127.9.9.9:1", 200)),
        *(("evil.example", 421), ("127.0.0.1.evil.example:80", 421), ("", 421), ("[::2]", 421)),
        *(("localhost.evil.example", 421), ("2130706433", 421), ("192.0.2.1", 421)),
    ],
)
def test_a_name_that_anybody_can_point_here_is_not_answered(site, host, status):
    assert answered(site, "GET", "/", Host=host)[0] == status


def test_what_fails_says_no_more_than_that_and_the_log_has_it(site, caplog):
    assert answered(site, "GET", "/fails")[:2] == (500, "500 Internal Server Error\n")
    assert "/fails failed" in caplog.text


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (["GET / HTTP/1.1", "Host: localhost", "Host: localhost"], 400),
        (["GET / HTTP/1.0", "Host: localhost", "Host: evil.example"], 400),
        (["GET / HTTP/1.1"], 400),
        (["GET / HTTP/1.0"], 200),
        (["GET http://127.0.0.1:9/?a HTTP/1.1", "Host: 127.0.0.1:9"], 200),
        (["GET HTTP://localhost HTTP/1.1", "Host: localhost"], 200),
        (["GET http://localhost?a HTTP/1.0"], 200),
        (["GET http://evil.example/ HTTP/1.1", "Host: localhost"], 421),
        (["GET http://localhost@evil.example/ HTTP/1.1", "Host: localhost"], 421),
        (["GET http://localhost/ HTTP/1.1", "Host: evil.example"], 421),
        (["GET http:///x HTTP/1.0"], 421),
        (["GET http://localhost/none HTTP/1.1", "Host: localhost"], 404),
    ],
)
def test_a_request_names_one_host_by_header_and_the_same_kind_by_its_target(site, head, status):
    assert status_of(site, head) == status
