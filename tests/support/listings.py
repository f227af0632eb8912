"""An S3 server that lists as servers do that are not AWS's: its markers and tokens are keys, keys
with something behind them, or hashes. It knows no other call but HEAD."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

# How each server writes the place behind a key.
MARKERS: dict[str, Callable[[str], str]] = {
    "keys": lambda key: key,
    "suffixes": lambda key: f"{key}[cache:v2,id:1,return:]",
    "hashes": lambda key: hashlib.sha256(key.encode()).hexdigest(),
}


class Listings:
    """One bucket, of which *keys* are the objects. *marked* is how a place is written."""

    def __init__(self, marked: Callable[[str], str]) -> None:
        self.keys: set[str] = set()
        self.asked: list[dict[str, str]] = []
        self._marked = marked
        self._places: dict[str, str] = {}  # what was given out stands for these

    def page(self, asked: dict[str, str]) -> str:
        """Return the answer to a listing."""
        self.asked.append(asked)
        first = "list-type" not in asked
        marker = asked.get("marker" if first else "continuation-token", "")
        after = self._places.get(marker, marker) or asked.get("start-after", "")
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        shown = list(dict.fromkeys(self._shown(prefix, delimiter, after)))
        page = shown[: int(asked.get("max-keys", 1000))]
        said = [
            "<Name>b</Name>",
            f"<Prefix>{_url(prefix)}</Prefix><EncodingType>url</EncodingType>",
        ]
        said += [f"<MaxKeys>{asked.get('max-keys', 1000)}</MaxKeys>"]
        said += [f"<IsTruncated>{str(len(shown) > len(page)).lower()}</IsTruncated>"]
        if first:
            said += [f"<Marker>{_url(marker)}</Marker>"]
        else:
            said += [f"<KeyCount>{len(page)}</KeyCount>"]
        if len(shown) > len(page):
            name = "NextMarker" if first else "NextContinuationToken"
            said += [f"<{name}>{self._place(page[-1], url=first)}</{name}>"]
        said += [_item(key, delimiter, prefix) for key in page]
        return f"<ListBucketResult>{''.join(said)}</ListBucketResult>"

    def _shown(self, prefix: str, delimiter: str, after: str) -> Iterator[str]:
        for key in sorted(self.keys):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: cut + 1] if cut >= 0 else key
            inside = cut >= 0 and after.startswith(name)
            if key.startswith(prefix) and name > after and not inside:
                yield name

    def _place(self, key: str, *, url: bool) -> str:
        marker = self._marked(key)
        self._places[marker] = key
        return _url(marker) if url else escape(marker)


def _url(text: str) -> str:
    return quote(text, safe="/")


def _item(name: str, delimiter: str, prefix: str) -> str:
    if delimiter and delimiter in name[len(prefix) :]:
        return f"<CommonPrefixes><Prefix>{_url(name)}</Prefix></CommonPrefixes>"
    etag = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return (
        f"<Contents><Key>{_url(name)}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
        f'<ETag>"{etag}"</ETag><Size>{len(name)}</Size><StorageClass>STANDARD</StorageClass>'
        "</Contents>"
    )


@contextmanager
def serving(marked: Callable[[str], str]) -> Iterator[tuple[str, Listings]]:
    """Yield the address of a server, and what it has."""
    listings = Listings(marked)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else the body waits 40 ms for an ACK of the head

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            query = urlsplit(self.path).query
            asked = parse_qs(query, keep_blank_values=True, encoding="utf-8")
            body = listings.page({name: value[0] for name, value in asked.items()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            key = unquote(urlsplit(self.path).path).removeprefix("/b/")
            there = key in listings.keys
            self.send_response(200 if there else 404)
            self.send_header("x-amz-request-id", "1")
            if there:
                self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
            self.send_header("Content-Length", str(len(key) if there else 0))
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", listings
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
