"""The page, from figures: what a stranger has named harms nobody."""

import os
from html.parser import HTMLParser

import pytest

from mimicfs.admin.sources import Sources
from mimicfs.config.values import S3Options, Settings
from mimicfs.errors import ConfigError
from mimicfs.mount.showing import shown
from mimicfs.page.document import MountPage, View, rendered
from mimicfs.page.hour import Hour, Minute, Totals
from mimicfs.page.warned import RecentWarnings, Warned

_HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u202e\udcff\x00\n"
_MOUNT = {
    "mountpoint": f"/mnt/{_HOSTILE}", "target": f"s3://b/{_HOSTILE}", "endpoint": _HOSTILE,
    "store": _HOSTILE, "pid": os.getpid(), "started_ns": 10**18, "alive": True, "page": "",
    "read_only": False,
}  # fmt: skip


def figures(text):
    """Figures in which everything that can be named is *text*."""
    bucket = {"name": text, "objects": 3, "bytes": 5, "synced_ns": 10**18, "complete": True}
    sync = {"bucket": text, "prefix": text, "keys": 5, "pages": 1, "expected": 10, "left_s": 3.0}
    return {
        "process": {"version": "1", "pid": 7, "uptime_s": 5.0},
        "mirror": {"store": text, "buckets": [bucket], "buckets_known": 1},
        "s3": {"requests": {"GET": 1}, "errors": {text: 3}, "calls": {text: 1}, "slow": 0,
               "seconds": {text: 0.5}, "bytes_in": 1, "bytes_out": 1, "limits": {}},
        "kernel": {"requests": {"read": 1}, "answered_by_mirror": 1, "asked_s3_first": 0,
                   "errors": {text: 1}},
        "costs": {"currency": text, "spared": 1.0},
        "files": {"write_back": {"files": 1, "bytes": 1, "oldest_s": 1.0, "error": text},
                  "recovered": 1},
        "cache": {"error": text},
        "sync": {"running": [sync], "failed": [{"bucket": text, "error": text}]},
        "events": {"error": text, "configured": {text: "no"}, "told_until_ns": {text: 10**18}},
        "reconcile": {"error": text, "swept_until_ns": {text: 10**18}},
    }  # fmt: skip


class Elements(HTMLParser):
    """The names of all elements, the attributes they have, and the texts."""

    def __init__(self, document):
        super().__init__()
        self.elements, self.attributes, self.texts = set(), set(), []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


def seen(text=_HOSTILE):
    did = Totals({"GET": 5}, {text: 5}, {text: 0.5})
    dead = {**_MOUNT, "pid": 1, "alive": False, "page": f"javascript:{text}"}
    return View(figures(text), [Minute(1_200_000_000, did)], [_MOUNT, dead],
                [Warned(1_200_000_001.0, "error", text)], 1_200_000_002.0)  # fmt: skip


def test_no_name_and_no_error_becomes_an_element_or_a_link():
    document = rendered(seen())
    document.encode()  # a lone surrogate would not be UTF-8
    found = Elements(document)
    assert found.elements & {"script", "img", "iframe", "object", "embed", "form", "base"} == set()
    assert [each for each in found.attributes if each.startswith("on") or each == "style"] == []
    assert 'href="javascript' not in document
    assert "\u202e" not in document and "\x00" not in document
    assert sum("<script>alert(1)</script>" in text for text in found.texts) > 12
    plain = Elements(rendered(seen("harmless")))
    assert (found.elements, found.attributes) == (plain.elements, plain.attributes)


def test_the_page_is_of_the_mount_that_lives():
    """In a container, the process of each mount is number 1, also of one that died."""
    dead = {**_MOUNT, "target": "s3://dead/", "mountpoint": "/mnt/dead", "alive": False}
    ours = {**_MOUNT, "target": "s3://ours/", "mountpoint": "/mnt/ours"}
    text = rendered(seen("harmless")._replace(mounts=[dead, ours]))
    assert "<title>s3://ours/ at /mnt/ours - mimicfs</title>" in text
    assert "The process that served /mnt/dead has died." in text


def test_the_page_comes_anew_until_it_is_paused():
    assert 'http-equiv="refresh"' in rendered(seen())
    paused = rendered(seen(), paused=True)
    assert 'http-equiv="refresh"' not in paused and '<a href="/">Go on</a>' in paused


def test_what_looks_secret_is_not_on_the_page():
    sources = Sources()
    url = "http://me:pass-word-1@s3.example/?X-Amz-Signature=feedbeef"
    sources.register(
        "cache", lambda: {"error": f"{url} secret-of-ours {{'password': 'two-three'}}"}
    )
    mounts = [{**_MOUNT, "endpoint": url}]
    page = MountPage(
        sources, Hour(0), RecentWarnings(), lambda: mounts, lambda: ["secret-of-ours", "me"],
        metrics=True,
    )  # fmt: skip
    text = page.answer({}).body.decode()
    assert "mimicfs" in text and ">mounted " in text  # a secret of a test server may be a word
    for secret in ("pass-word-1", "feedbeef", "secret-of-ours", "two-three"):
        assert secret not in text
    assert "***@s3.example/?X-Amz-Signature=***" in text


def test_a_page_for_everybody_is_refused(tmp_path):
    settings = Settings(S3Options(), tmp_path, metrics="public:127.0.0.1:0", ui=True)
    with pytest.raises(ConfigError, match=r"public:127.0.0.1:0; write 127\.0\.0\.1:PORT or unix:"):
        with shown(settings, Sources(), None):
            pass
