"""The answers at the address of --metrics, and to whom."""

import contextlib
import http.client

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
