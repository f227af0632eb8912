"""`mimicfs config` with --json: programs get each value itself, and no secret."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mimicfs.cli import configuring

_FILE = """
store = "redis://:hunter2@h/0"
store-password = "hunter3"
region = "a\\"b\\\\c\\u007f"
read-timeout = 60
sign-request = false
download-limit = "08:00=1M"
[mount]
umask = "027"
part-size = "8M"
[buckets.photos]
read-only = false
storage-class = "STANDARD"
[[buckets.photos.rules]]
keys = ["*.jpg", 'a"b']
cache-control = 'say "x"'
tags = { a = "1" }
"""


@pytest.fixture
def ask(state, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(_FILE)
    path.chmod(0o600)

    def ask(*words: str) -> str:
        words = (*words, "--config", str(path))
        return CliRunner().invoke(configuring.config, words, catch_exceptions=False).output

    return ask


def test_show_tells_programs_the_values_themselves(ask):
    told = json.loads(ask("show", "--json"))
    values = {name: {key: it["value"] for key, it in told[name].items()} for name in ("", "mount")}
    assert values == {
        "": {
            "store": "redis://***@h/0", "store-password": "***", "region": 'a"b\\c\x7f',
            "read-timeout": 60.0, "sign-request": False, "download-limit": "08:00=1048576",
        },
        "mount": {"umask": "027", "part-size": 8388608},
    }  # fmt: skip
    (rule,) = told['buckets."photos".rules']
    del rule["origin"]
    assert rule == {
        "keys": ["*.jpg", 'a"b'], "cache-control": 'say "x"', "tags": {"a": "1"},
    }  # fmt: skip


def test_explain_tells_programs_the_values_themselves(ask):
    told = json.loads(ask("explain", "--json", "s3://photos/x.jpg"))
    assert {name: it["value"] for name, it in told.items()} == {
        "content-type": "image/jpeg", "read-only": False, "storage-class": "STANDARD",
        "cache-control": 'say "x"', "tags": {"a": "1"},
    }  # fmt: skip


def test_show_prints_toml_that_says_the_same(ask):
    assert r'region = "a\"b\\c\u007f"' in ask("show")
    assert "sign-request = false" in ask("show")
