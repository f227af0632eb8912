"""`mimicfs config`: what is in force, where it was said, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.mounts import run, succeed
from support.proxy import Proxy, Rule

pytestmark = pytest.mark.slow  # each command is a process


@pytest.fixture
def config(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / ".config/mimicfs/config.toml"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return path


def test_show_prints_what_is_in_force_and_where_it_was_said(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        'store = "rediss://:hunter2@redis.example/0"\nstore-password = "hunter3"\n'
        'endpoint-url = "https://file.example"\n[mount]\numask = "027"\n'
        '[buckets.photos]\nread-only = true\n[buckets."*"]\nacl = "private"\n'
    )
    monkeypatch.setenv("MIMICFS_ENDPOINT_URL", "https://environment.example")
    printed = succeed("config", "show", "--region", "eu-west-1")
    assert [" ".join(line.split()) for line in printed.splitlines()] == [
        'endpoint-url = "https://environment.example" # MIMICFS_ENDPOINT_URL',
        'region = "eu-west-1" # --region',
        f'store = "rediss://***@redis.example/0" # {config}',
        f'store-password = "***" # {config}',
        "",
        "[mount]",
        f'umask = "027" # {config} [mount]',
        "",
        '[buckets."*"]',
        f'acl = "private" # {config} [buckets.*]',
        "",
        '[buckets."photos"]',
        f'acl = "private" # {config} [buckets.*]',
        f"read-only = true # {config} [buckets.photos]",
    ]
    told = succeed("config", "show", "--json")
    assert json.loads(told)["mount"]["umask"] == {"value": "027", "origin": f"{config} [mount]"}
    assert "hunter" not in printed + told


def test_what_show_prints_can_be_the_file(config: Path) -> None:
    config.write_text('region = "a\\"b"\n[buckets.photos]\nsse = "AES256"\n')
    printed = succeed("config", "show")
    config.write_text(printed)
    again = succeed("config", "show")
    assert again == printed


def test_a_mistake_in_the_file_is_one_line(config: Path) -> None:
    config.write_text("[buckets.photos]\nstorage-clas = 'X'\n")
    for words in (["config", "show"], ["ls"], ["sync"], ["mount", "/mnt"]):
        result = run(*words)
        assert result.returncode == 2, words
        assert result.stderr == (
            f"mimicfs: {config}: [buckets.photos] storage-clas: no such key;"
            " did you mean storage-class?\n"
        )


def test_a_class_that_is_probably_misspelt_is_warned_of(config: Path) -> None:
    config.write_text("[[buckets.b.rules]]\nkeys = '*'\nstorage-class = 'STANDRAD'\n")
    warning = (
        f"mimicfs: warning: {config} [buckets.b] rule 1: storage-class:"
        " STANDRAD is no storage class of S3; did you mean STANDARD?\n"
    )
    for words in (
        ["config", "show"],
        ["config", "explain", "s3://b/k"],
        ["mount", "s3://b", "/no"],
    ):
        assert run(*words).stderr.startswith(warning), words


def test_path_says_where_the_file_is(config: Path) -> None:
    assert succeed("config", "path") == f"{config}\n"


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_access_keys_may_be_in_a_file_of_their_own(
    config: Path, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text("[work]\naws_access_key_id = AKIDWORK\naws_secret_access_key = s\n")
    config.write_text(f'endpoint-url = "{proxy.url}"\ncredentials-file = "{keys}"\n')
    seen: list[str] = []
    with proxy.rule(Rule(lambda request: bool(seen.append(request.headers["Authorization"])))):
        succeed("ls", "--profile", "work")
    assert ["Credential=AKIDWORK/" in each for each in seen] == [True]
