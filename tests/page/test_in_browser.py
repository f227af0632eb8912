"""The page of a real mount, in a real browser: Chromium without a window."""

import html
import http.client
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from support.clients import plain
from support.mounts import succeed
from support.proxy import Fail

pytestmark = pytest.mark.slow
moto = pytest.mark.parametrize("server", ["moto"], indirect=True)

_ATTACK = "<img src=x onerror=document.title='taken'>"


@pytest.fixture
def browse(tmp_path):
    """Return the document that a browser has made of a URL, its scripts run."""
    program = shutil.which("chromium")
    if program is None:
        message = "no chromium (apt install chromium)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)

    def browse(url, *more):
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        words += [f"--user-data-dir={tmp_path}/chromium", *more, url]
        done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=True)
        return done.stdout

    return browse


class Shown(HTMLParser):
    """What a document says: its title, the rows of its tables, and the titles in its drawings."""

    def __init__(self, document):
        super().__init__()
        self.rows, self.drawn, self.title, self._in = [], [], "", []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br"):
            self._in.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._in.pop()

    def handle_data(self, data):
        if {"th", "td"} & set(self._in):
            self.rows[-1][-1] += data
        elif "title" in self._in:
            self.drawn.append(data) if "svg" in self._in else setattr(self, "title", data)


@moto
def test_the_page_shows_what_a_mount_did(mount_at, bucket, server, proxy, browse, tmp_path):
    plain(server).put_object(Bucket=bucket, Key="a", Body=b"x" * 5000)
    mount = mount_at(f"s3://{bucket}", "--ui", "--metrics", "127.0.0.1:0")
    (page,) = re.findall(r"page +(http://127.0.0.1:\d+/)", succeed("status"))
    (mount.path / ".sync").touch()
    assert len((mount.path / "a").read_bytes()) == 5000
    (mount.path / "b").write_bytes(b"y" * 3000)
    refused = Fail(lambda each: each.kind == "PUT" and "onerror" in each.key, 403, "AccessDenied")
    with proxy.rule(refused):
        with pytest.raises(PermissionError):
            (mount.path / _ATTACK).write_bytes(b"no")
    picture = tmp_path / "page.png"
    shown = Shown(browse(f"{page}?paused", f"--screenshot={picture}"))
    assert shown.title == f"s3://{bucket}/ at {mount.path} - mimicfs"
    rows = {row[0]: row[1:] for row in shown.rows}
    assert rows[bucket][1:3] == ["2", "7.8 KiB"]
    assert rows[bucket][0].endswith("ago, listed")
    assert rows["GetObject"][0] == "1"
    assert rows["AccessDenied"][0] == "1" and "--write s3://BUCKET" in rows["AccessDenied"][1]
    bars = [it for it in shown.drawn if re.fullmatch(r"\d\d:\d\d: \d+ GET, .* changes", it)]
    drawn = {kind: sum(number(kind, it) for it in bars) for kind in ("GET", "LIST")}
    assert drawn == {"GET": 1, "LIST": 1}  # in one minute, or in two
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert answered(page, "/metrics")[0] == 200
    status, body, headers = answered(page, "/")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert b"very-secret-key" not in body and html.escape(_ATTACK).encode() in body
    assert "script-src" not in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    mount.close()
    assert succeed("status") == "nothing is mounted\n"


def number(kind, text):
    return int(re.search(rf"([\d,]+) {kind}", text)[1])


def answered(page, path):
    connection = http.client.HTTPConnection(urlsplit(page).netloc, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers
