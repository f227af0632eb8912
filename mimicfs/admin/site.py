"""The HTTP server at the address of --metrics: a page for people, figures for Prometheus. It only
reads: nobody can change anything there.

A page of somebody else may have its own name resolve to 127.0.0.1 (DNS rebinding). Its requests are
refused by the name that they are for: unless the address is public, that must be a name of this
machine.

Threading: a thread for the server, one for each request.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from mimicfs.listening import Patient, is_loopback, opened

log = logging.getLogger(__name__)

_PUBLIC = "public:"
_READING = ("GET", "HEAD")
_WITHOUT_HOST = ("HTTP/0.9", "HTTP/1.0")  # in later ones, a request names one (RFC 9112, 3.2)
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)  # as to a proxy


class Response(NamedTuple):
    kind: str
    body: bytes
    headers: Mapping[str, str] = {}


Route = Callable[[Mapping[str, str]], Response]  # given what is in the query


class Site:
    """Answers at *address*, the value of *option*, by *routes*, until it is closed. *harm* says
    what anybody who reaches it could do. Raises ConfigError."""

    def __init__(self, option: str, address: str, routes: Mapping[str, Route], harm: str) -> None:
        handler = _handler(routes, anywhere=address.startswith(_PUBLIC))
        self._server = opened(option, address, handler, harm)
        self.url = _url(self._server.server_address)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        log.info("%s at %s", " and ".join(routes), self.url)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _url(address: Any) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _handler(routes: Mapping[str, Route], *, anywhere: bool) -> type[Patient]:
    class ThisSite(SiteHandler):
        pass

    ThisSite.routes, ThisSite.anywhere = routes, anywhere
    return ThisSite


class SiteHandler(Patient):
    routes: Mapping[str, Route]
    anywhere: bool  # False: only requests whose Host is a name of this machine

    def do_GET(self) -> None:  # noqa: N802  http.server's name
        self._answer(whole=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(whole=False)

    def _refuse(self) -> None:
        self._plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(_READING)})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse  # noqa: N815

    def _answer(self, *, whole: bool) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or not (hosts or self.request_version in _WITHOUT_HOST):
            self._plain(HTTPStatus.BAD_REQUEST)
            return
        named, target = _split(self.path)
        if not (self.anywhere or all(map(_is_here, [*hosts, *named]))):
            self._plain(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path, _, query = target.partition("?")
        route = self.routes.get(path)
        if route is None:
            self._plain(HTTPStatus.NOT_FOUND)
            return
        try:
            found = route(dict(parse_qsl(query, keep_blank_values=True)))
        except Exception:
            log.exception("%s failed", path)
            self._plain(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._send(HTTPStatus.OK, found, whole=whole)

    def _plain(self, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> None:
        text = f"{status.value} {status.phrase}\n".encode()
        self._send(status, Response("text/plain; charset=utf-8", text, headers or {}))

    def _send(self, status: HTTPStatus, found: Response, *, whole: bool = True) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": found.kind,
            "Content-Length": str(len(found.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            **found.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if whole and self.command != "HEAD":
            self.wfile.write(found.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        log.debug("site: " + format, *args)


def _split(target: str) -> tuple[list[str], str]:
    """Return the host that *target* of a request names, or none, and its path and query."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return [], target
    return [found[1]], found[2] if found[2].startswith("/") else f"/{found[2]}"


def _is_here(host: str) -> bool:
    """Whether the value of a Host header names this machine by an address that nobody else can
    take: a name of the DNS may be anybody's."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return is_loopback(name.removeprefix("[").removesuffix("]"))
